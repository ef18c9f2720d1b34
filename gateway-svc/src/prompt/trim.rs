//! How much of the code around a cursor fits a model: what is near the cursor stays.

use postern_proto::completion::v1::SourceFile;

/// Bytes of code for one token, guessed low, so that what is kept fits.
const BYTES_PER_TOKEN: usize = 3;
/// Tokens that are kept free for the layout.
const OVERHEAD: usize = 64;
/// Tokens of the answer where the caller gives no bound.
const ANSWER: usize = 256;

/// The code that is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown<'a> {
    pub(super) prefix: &'a str,
    pub(super) suffix: &'a str,
    pub(super) files: &'a [SourceFile],
    /// Whether anything was left out.
    pub(super) was_trimmed: bool,
}

/// Fits code into a window of `context` tokens, of which the answer takes `answer`; 0 for a window that nobody knows. The two sides come
/// first, three parts before the cursor to one after it; related files take what is left, the nearest first.
pub(super) fn trim<'a>(
    (prefix, suffix): (&'a str, &'a str),
    files: &'a [SourceFile],
    context: u32,
    answer: Option<u32>,
) -> Shown<'a> {
    if context == 0 {
        return Shown { prefix, suffix, files, was_trimmed: false };
    }
    let context = context as usize;
    let answer = answer.map_or(ANSWER, |tokens| tokens as usize).min(context / 2);
    let room = context.saturating_sub(answer + OVERHEAD).max(context / 8) * BYTES_PER_TOKEN;
    // What one side does not need the other may have.
    let suffix_room = (room / 4).max(room.saturating_sub(prefix.len()));
    let kept_suffix = head(suffix, suffix_room);
    let kept_prefix = tail(prefix, room - kept_suffix.len());
    let mut left = room - kept_suffix.len() - kept_prefix.len();
    let mut kept_files = 0;
    for file in files.iter().rev() {
        let size = file.path.len() + file.text.len() + BYTES_PER_TOKEN;
        if size > left {
            break;
        }
        left -= size;
        kept_files += 1;
    }
    Shown {
        prefix: kept_prefix,
        suffix: kept_suffix,
        files: &files[files.len() - kept_files..],
        was_trimmed: kept_prefix.len() < prefix.len() || kept_suffix.len() < suffix.len() || kept_files < files.len(),
    }
}

/// The end of a text, from the beginning of a line where there is one.
fn tail(text: &str, room: usize) -> &str {
    if text.len() <= room {
        return text;
    }
    let mut from = text.len() - room;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let kept = &text[from..];
    kept.split_once('\n').map_or(kept, |(_, lines)| if lines.is_empty() { kept } else { lines })
}

/// The beginning of a text, to the end of a line where there is one.
fn head(text: &str, room: usize) -> &str {
    if text.len() <= room {
        return text;
    }
    let mut to = room;
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    let kept = &text[..to];
    kept.rfind('\n').filter(|at| *at > 0).map_or(kept, |at| &kept[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_near_the_cursor_stays() {
        let prefix = "line one\n".repeat(200) + "here";
        let suffix = "there\n".to_owned() + &"last line\n".repeat(200);
        let shown = trim((&prefix, &suffix), &[], 200, Some(50));
        assert!(shown.was_trimmed);
        assert!(shown.prefix.ends_with("line one\nhere") && shown.prefix.starts_with("line one\n"));
        assert!(shown.suffix.starts_with("there\n") && shown.suffix.ends_with("last line"));
        assert!(shown.prefix.len() > shown.suffix.len());
        // A window that nobody knows trims nothing.
        assert!(!trim((&prefix, &suffix), &[], 0, None).was_trimmed);
    }

    #[test]
    fn a_side_that_is_short_leaves_its_room_to_the_other() {
        let long = "x\n".repeat(400);
        let room = (400 - 100 - OVERHEAD) * BYTES_PER_TOKEN;
        let shown = trim((&long, ""), &[], 400, Some(100));
        assert!(shown.prefix.len() > room - 4);
        let shown = trim(("", &long), &[], 400, Some(100));
        assert!(shown.suffix.len() > room - 4);
    }

    #[test]
    fn related_files_take_what_is_left_the_nearest_first() {
        let file = |path: &str, size: usize| SourceFile { path: path.to_owned(), text: "x".repeat(size) };
        let files = [file("far", 600), file("near", 300), file("nearest", 300)];
        let shown = trim(("a", "b"), &files, 400, Some(100));
        let paths: Vec<_> = shown.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["near", "nearest"]);
        assert!(shown.was_trimmed);
    }

    proptest! {
        #[test]
        fn what_is_shown_fits_and_borders_on_the_cursor(
            prefix in "[a-zä\n ]{0,400}", suffix in "[a-zö\n ]{0,400}", context in 1_u32..400, answer in 1_u32..400,
        ) {
            let shown = trim((&prefix, &suffix), &[], context, Some(answer));
            prop_assert!(prefix.ends_with(shown.prefix) && suffix.starts_with(shown.suffix));
            prop_assert!(shown.prefix.len() + shown.suffix.len() <= context as usize * BYTES_PER_TOKEN);
            let whole = shown.prefix == prefix && shown.suffix == suffix;
            prop_assert_eq!(shown.was_trimmed, !whole);
        }
    }
}
