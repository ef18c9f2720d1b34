//! What a model wrote at a cursor, without what does not belong there: the fence around it, and the code after the cursor said once more.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _};
use postern_proto::completion::v1::completion_event::Event;
use postern_proto::completion::v1::{CompletionEvent, Delta, delta};

use crate::adapters::Events;

/// A line of the suffix that is shorter than this, such as a bracket, may well be meant twice.
const LEAST_LINE: usize = 4;
const FENCE: &str = "```";

/// Cleans one answer, however it is cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaner {
    /// The first line after the cursor.
    next_line: Option<String>,
    fenced: Fenced,
    /// What may yet turn out not to belong to the answer.
    held: String,
    /// Whether some of the line that is coming has been given out, so that it is no such line.
    mid_line: bool,
    is_over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fenced {
    /// It may begin with one.
    Unknown,
    Yes,
    No,
}

impl Cleaner {
    /// For an answer that is followed by this; `None` when there is nothing to look for.
    #[must_use]
    pub fn new(suffix: &str, may_be_fenced: bool) -> Option<Self> {
        let line = suffix.lines().map(str::trim).find(|line| !line.is_empty());
        let next_line = line.filter(|line| line.len() >= LEAST_LINE).map(str::to_owned);
        let fenced = if may_be_fenced { Fenced::Unknown } else { Fenced::No };
        (may_be_fenced || next_line.is_some()).then_some(Self {
            next_line,
            fenced,
            held: String::new(),
            mid_line: false,
            is_over: false,
        })
    }

    /// Takes a piece; gives out what surely belongs to the answer.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_over {
            return String::new();
        }
        self.held.push_str(piece);
        if self.fenced == Fenced::Unknown && !self.find_fence() {
            return String::new();
        }
        let mut out = String::new();
        if self.mid_line {
            let end = self.held.find('\n').unwrap_or(self.held.len());
            out.extend(self.held.drain(..end));
            self.mid_line = self.held.is_empty();
        }
        // Line by line; a line's end is given out with the line after it.
        while let Some(end) = self.line_end() {
            let line = self.held[..end].to_owned();
            if self.is_end(line.trim()) {
                self.is_over = true;
                self.held.clear();
                return out;
            }
            self.held.drain(..end);
            out.push_str(&line);
        }
        if !self.may_become_end(self.held.trim()) {
            out.push_str(&std::mem::take(&mut self.held));
            self.mid_line = true;
        }
        out
    }

    /// Takes the end; gives out what was held back.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        let lone_fence = self.fenced == Fenced::Unknown && held.trim_start().starts_with(FENCE);
        if self.is_over || (!self.mid_line && (lone_fence || self.is_end(held.trim()))) {
            return String::new();
        }
        held
    }

    /// Whether the answer begins with a fence, as far as can be said; its line is taken away.
    fn find_fence(&mut self) -> bool {
        let begins = self.held.trim_start();
        if begins.starts_with(FENCE) {
            let Some((_, rest)) = begins.split_once('\n') else { return false };
            // A line end before each line, as within the answer.
            self.held = rest.to_owned();
            self.fenced = Fenced::Yes;
            return true;
        }
        if FENCE.starts_with(begins) {
            return false;
        }
        self.fenced = Fenced::No;
        true
    }

    /// Where the first whole line ends, which another follows; its own beginning may be a line end.
    fn line_end(&self) -> Option<usize> {
        let from = usize::from(self.held.starts_with('\n'));
        self.held[from..].find('\n').map(|at| at + from)
    }

    fn is_end(&self, line: &str) -> bool {
        (self.fenced == Fenced::Yes && line == FENCE) || self.next_line.as_deref() == Some(line)
    }

    fn may_become_end(&self, line: &str) -> bool {
        (self.fenced == Fenced::Yes && FENCE.starts_with(line))
            || self.next_line.as_ref().is_some_and(|next| next.starts_with(line))
    }
}

/// The same events, each choice's text cleaned.
pub fn cleaned(events: Events, cleaner: Cleaner) -> Events {
    let state = (cleaner, HashMap::<u32, Cleaner>::new());
    let clean = events.scan(state, |(fresh, choices), event| {
        let out = match event {
            Ok(CompletionEvent { event: Some(event) }) => clean_event(event, fresh, choices),
            other => vec![other],
        };
        std::future::ready(Some(stream::iter(out)))
    });
    Box::pin(clean.flatten())
}

type Cleaned = Vec<Result<CompletionEvent, postern_proto::Failure>>;

fn clean_event(event: Event, fresh: &Cleaner, choices: &mut HashMap<u32, Cleaner>) -> Cleaned {
    let text = |choice_index: u32, text: String| {
        let delta = Some(delta::Delta::Text(text));
        Ok(CompletionEvent { event: Some(Event::Delta(Delta { choice_index, delta })) })
    };
    match event {
        Event::Delta(Delta { choice_index, delta: Some(delta::Delta::Text(piece)) }) => {
            let cleaner = choices.entry(choice_index).or_insert_with(|| fresh.clone());
            Some(cleaner.push(&piece))
                .filter(|piece| !piece.is_empty())
                .map(|piece| text(choice_index, piece))
                .into_iter()
                .collect()
        }
        // It comes once, when all text has come.
        Event::Usage(usage) => {
            let mut choices: Vec<_> = choices.drain().collect();
            choices.sort_by_key(|(choice, _)| *choice);
            let rest = choices.into_iter().map(|(choice, mut cleaner)| (choice, cleaner.finish()));
            let rest = rest.filter(|(_, piece)| !piece.is_empty()).map(|(choice, piece)| text(choice, piece));
            rest.chain([Ok(CompletionEvent { event: Some(Event::Usage(usage)) })]).collect()
        }
        other => vec![Ok(CompletionEvent { event: Some(other) })],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(suffix: &str, may_be_fenced: bool, pieces: &[&str]) -> String {
        let Some(mut cleaner) = Cleaner::new(suffix, may_be_fenced) else { return pieces.concat() };
        let mut out: String = pieces.iter().map(|piece| cleaner.push(piece)).collect();
        out += &cleaner.finish();
        out
    }

    #[test]
    fn fences_and_what_follows_the_cursor_are_taken_away() {
        for (suffix, answer, expected) in [
            ("", "```rust\nlet a = 1;\n```", "let a = 1;"),
            ("", "```\nlet a = 1;\nlet b;\n```\nThis sets a.", "let a = 1;\nlet b;"),
            ("", "let a = 1;", "let a = 1;"),
            ("", "  indented\n\nnext", "  indented\n\nnext"),
            ("\nprint(x)\n", "x = 1\nprint(x)\n", "x = 1"),
            ("\nprint(x)\n", "```py\nx = 1\nprint(x)\n```", "x = 1"),
            // A bracket may well be meant twice.
            ("\n}\n", "a();\n}", "a();\n}"),
            ("\nprint(x)\n", "print(xy)", "print(xy)"),
            ("", "``` is a fence", ""),
            ("", "``", "``"),
            ("\nprint(x)", "print(x)", ""),
        ] {
            assert_eq!(clean(suffix, true, &[answer]), expected, "{answer:?}");
        }
        // What is not asked for in a chat has no fences.
        assert_eq!(clean("\nprint(x)", false, &["```\nx"]), "```\nx");
        assert_eq!(Cleaner::new("\n}\n", false), None);
    }

    #[test]
    fn what_surely_belongs_comes_at_once() {
        let mut cleaner = Cleaner::new("\nreturn total", true).unwrap();
        assert_eq!(cleaner.push("let "), "let ");
        assert_eq!(cleaner.push("a = 1;"), "a = 1;");
        assert_eq!(cleaner.push("\nret"), "");
        assert_eq!(cleaner.push("ry();"), "\nretry();");
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_how_it_is_cut(
            answer in "(```[a-z]{0,3}\n)?[ab`\n]{0,12}(next line)?[a\n]{0,3}(```)?",
            at in proptest::collection::vec(0_usize..40, 0..4),
        ) {
            let whole = clean("\nnext line\n", true, &[&answer]);
            let mut cuts: Vec<usize> = at.into_iter().map(|at| at.min(answer.len())).chain([0, answer.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
            prop_assert_eq!(clean("\nnext line\n", true, &pieces), whole);
        }
    }
}
