//! Fill-in-the-middle: the raw layout that a family was trained on, sent to a completions endpoint as it is. Control tokens
//! in the user's own code are neutralised, so that no file can forge a border between prefix and suffix.

use std::borrow::Cow;

/// A family's layout.
#[derive(Debug)]
pub(super) struct Layout {
    prefix: &'static str,
    suffix: &'static str,
    middle: &'static str,
    /// Every control token of the family, those of the layout among them.
    control: &'static [&'static str],
}

/// Qwen2.5-Coder, from its model card and technical report (arXiv 2409.12186, §3.1).
const QWEN_CODER: Layout = Layout {
    prefix: "<|fim_prefix|>",
    suffix: "<|fim_suffix|>",
    middle: "<|fim_middle|>",
    control: &[
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ],
};

/// The layout of a family; `None` when it has none.
pub(super) fn layout(family: &str) -> Option<&'static Layout> {
    match family {
        "qwen2.5-coder" | "qwen-coder" => Some(&QWEN_CODER),
        _ => None,
    }
}

impl Layout {
    /// The prompt.
    pub(super) fn render(&self, prefix: &str, suffix: &str) -> String {
        let (prefix, suffix) = (self.neutralised(prefix), self.neutralised(suffix));
        [self.prefix, &prefix, self.suffix, &suffix, self.middle].concat()
    }

    /// A model that writes a control token has finished.
    pub(super) fn stops(&self) -> impl Iterator<Item = String> {
        self.control.iter().map(|token| (*token).to_owned())
    }

    /// The text without control tokens: each is broken by a space after its first character, which the tokenizer then reads
    /// as ordinary text.
    fn neutralised<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for token in self.control {
            if text.contains(token) {
                let (first, rest) = token.split_at(1);
                text = Cow::Owned(text.replace(token, &format!("{first} {rest}")));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_user_text_forges_a_control_token(parts in proptest::collection::vec("<|\\||>|fim_prefix|<\\|fim_(prefix|suffix|middle)\\|>|<\\|im_(start|end)\\|>|x", 0..12), at in 0_usize..12) {
            let at = at.min(parts.len());
            let (prefix, suffix) = (parts[..at].concat(), parts[at..].concat());
            let rendered = QWEN_CODER.render(&prefix, &suffix);
            for token in QWEN_CODER.control {
                let expected = usize::from([QWEN_CODER.prefix, QWEN_CODER.suffix, QWEN_CODER.middle].contains(token));
                prop_assert_eq!(rendered.matches(token).count(), expected, "{} in {}", token, rendered);
            }
        }

        #[test]
        fn ordinary_code_is_left_alone(text in "[a-z <>|_\n(){}]{0,80}") {
            prop_assume!(!QWEN_CODER.control.iter().any(|token| text.contains(token)));
            prop_assert_eq!(QWEN_CODER.neutralised(&text), text.as_str());
        }
    }
}
