//! Fill-in-the-middle: the raw layout that a family was trained on, sent to a completions endpoint as it is.

use postern_proto::completion::v1::SourceFile;

/// A family's layout.
#[derive(Debug)]
pub(super) struct Layout {
    /// Beginnings of the names of the families that have it.
    families: &'static [&'static str],
    /// What stands before, between and after the two sides.
    borders: [&'static str; 3],
    /// Whether the suffix comes first.
    suffix_first: bool,
    /// What begins a file of the project, where related files have a place.
    file: Option<&'static str>,
    /// Every control token of the family, those of the layout among them.
    pub(super) control: &'static [&'static str],
}

/// The layouts, each from its model's card or the repository that published it. The first whose beginning fits is taken.
const LAYOUTS: &[Layout] = &[
    // Qwen2.5-Coder (arXiv 2409.12186, §3.1) and Qwen3-Coder.
    Layout {
        families: &["qwen2.5-coder", "qwen3-coder", "qwen-coder"],
        borders: ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        suffix_first: false,
        file: Some("<|file_sep|>"),
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
    },
    // CodeGemma (model card of google/codegemma-7b).
    Layout {
        families: &["codegemma"],
        borders: ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        suffix_first: false,
        file: Some("<|file_separator|>"),
        control: &[
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|file_separator|>",
            "<start_of_turn>",
            "<end_of_turn>",
            "<bos>",
            "<eos>",
        ],
    },
    // StarCoder and StarCoder2 (arXiv 2305.06161, 2402.19173), and Granite Code, which has their tokenizer (arXiv 2405.04324).
    Layout {
        families: &["starcoder", "granite-code", "granite-3b-code", "granite-8b-code"],
        borders: ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
        suffix_first: false,
        file: Some("<file_sep>"),
        control: &[
            "<fim_prefix>",
            "<fim_suffix>",
            "<fim_middle>",
            "<fim_pad>",
            "<repo_name>",
            "<reponame>",
            "<file_sep>",
            "<filename>",
            "<gh_stars>",
            "<issue_start>",
            "<issue_comment>",
            "<issue_closed>",
            "<jupyter_start>",
            "<jupyter_code>",
            "<jupyter_output>",
            "<jupyter_text>",
            "<empty_output>",
            "<commit_before>",
            "<commit_msg>",
            "<commit_after>",
            "<|endoftext|>",
        ],
    },
    // Granite 3.3 and later (model card of ibm-granite/granite-3.3-8b-base).
    Layout {
        families: &["granite"],
        borders: ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        suffix_first: false,
        file: None,
        control: &[
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|fim_pad|>",
            "<|start_of_role|>",
            "<|end_of_role|>",
            "<|end_of_text|>",
        ],
    },
    // Code Llama (github.com/meta-llama/codellama, infilling format).
    Layout {
        families: &["codellama", "code-llama"],
        borders: ["<PRE> ", " <SUF>", " <MID>"],
        suffix_first: false,
        file: None,
        control: &["<PRE>", "<SUF>", "<MID>", "<EOT>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"],
    },
    // DeepSeek-Coder and DeepSeek-Coder-V2 (github.com/deepseek-ai/DeepSeek-Coder). The bars are full-width.
    Layout {
        families: &["deepseek-coder", "deepseekcoder"],
        borders: ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
        suffix_first: false,
        file: None,
        control: &[
            "<｜fim▁begin｜>",
            "<｜fim▁hole｜>",
            "<｜fim▁end｜>",
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<|EOT|>",
            "<｜User｜>",
            "<｜Assistant｜>",
        ],
    },
    // Codestral (github.com/mistralai/mistral-common, FIM tokenizer): the suffix comes first.
    Layout {
        families: &["codestral"],
        borders: ["[SUFFIX]", "[PREFIX]", ""],
        suffix_first: true,
        file: None,
        control: &["[SUFFIX]", "[PREFIX]", "[MIDDLE]", "[INST]", "[/INST]", "<s>", "</s>"],
    },
];

/// The layout of a family; `None` when it has none.
pub(super) fn layout(family: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.families.iter().any(|known| family.starts_with(known)))
}

/// The control tokens of all layouts.
pub(super) fn all_tokens() -> impl Iterator<Item = &'static &'static str> {
    LAYOUTS.iter().flat_map(|layout| layout.control)
}

impl Layout {
    /// Whether related files have a place.
    pub(super) const fn takes_files(&self) -> bool {
        self.file.is_some()
    }

    /// The prompt, of texts that have no control tokens.
    pub(super) fn render(&self, files: &[SourceFile], prefix: &str, suffix: &str) -> String {
        let mut text = String::new();
        for file in self.file.iter().flat_map(|border| files.iter().map(move |file| (border, file))) {
            let (border, SourceFile { path, text: shown }) = file;
            text.extend([*border, path, "\n", shown, "\n"]);
        }
        let [first, second, last] = self.borders;
        let (one, two) = if self.suffix_first { (suffix, prefix) } else { (prefix, suffix) };
        text.extend([first, one, second, two, last]);
        text
    }

    /// A model that writes a control token has finished.
    pub(super) fn stops(&self) -> impl Iterator<Item = String> {
        self.control.iter().map(|token| (*token).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::neutralised;
    use super::*;
    use proptest::prelude::*;

    fn file(text: &str) -> SourceFile {
        SourceFile { path: "src/lib.rs".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn each_family_has_the_layout_of_its_card() {
        let shown = |family: &str| layout(family).unwrap().render(&[], "a = ", "\nb");
        for (family, expected) in [
            ("qwen2.5-coder", "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>"),
            ("codegemma", "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>"),
            ("starcoder2", "<fim_prefix>a = <fim_suffix>\nb<fim_middle>"),
            ("granite-code", "<fim_prefix>a = <fim_suffix>\nb<fim_middle>"),
            ("granite3.3", "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>"),
            ("codellama", "<PRE> a =  <SUF>\nb <MID>"),
            ("deepseek-coder", "<｜fim▁begin｜>a = <｜fim▁hole｜>\nb<｜fim▁end｜>"),
            ("codestral", "[SUFFIX]\nb[PREFIX]a = "),
        ] {
            assert_eq!(shown(family), expected, "{family}");
        }
        for family in ["general", "llama3", "gpt", "mistral"] {
            assert!(layout(family).is_none(), "{family}");
        }
    }

    #[test]
    fn related_files_stand_before_where_they_have_a_place() {
        let text = layout("qwen2.5-coder").unwrap().render(&[file("fn x() {}")], "a", "b");
        let expected = "<|file_sep|>src/lib.rs\nfn x() {}\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>";
        assert_eq!(text, expected);
        assert_eq!(layout("codellama").unwrap().render(&[file("x")], "a", "b"), "<PRE> a <SUF>b <MID>");
    }

    #[test]
    fn the_borders_are_among_the_control_tokens() {
        for layout in LAYOUTS {
            for border in layout.borders.iter().chain(&layout.file).map(|border| border.trim()) {
                assert!(border.is_empty() || layout.control.contains(&border), "{border}");
            }
        }
    }

    /// Pieces of control tokens, whole ones, and what is neither.
    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let tokens: Vec<&str> = LAYOUTS.iter().flat_map(|layout| layout.control.iter().copied()).collect();
        let token = (0..tokens.len(), 0_usize..24).prop_map(move |(at, cut)| {
            let token = tokens[at];
            let cut = token.char_indices().map(|(at, _)| at).chain([token.len()]).nth(cut).unwrap_or(token.len());
            [&token[..cut], &token[cut..]].map(str::to_owned).to_vec()
        });
        let other = "[<>|_ \\[\\]a-z]{0,4}".prop_map(|text| vec![text]);
        proptest::collection::vec(prop_oneof![token, other], 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn no_user_text_forges_a_control_token(prefix in pieces(), suffix in pieces(), shown in pieces()) {
            let (prefix, suffix, shown) = (prefix.concat(), suffix.concat(), shown.concat());
            for layout in LAYOUTS {
                let plain = layout.render(&[file("")], "", "");
                let family = layout.families[0];
                let [prefix, suffix, shown] = [&prefix, &suffix, &shown].map(|text| neutralised(family, text));
                let rendered = layout.render(&[file(&shown)], &prefix, &suffix);
                for token in layout.control {
                    let (found, own) = (rendered.matches(token).count(), plain.matches(token).count());
                    prop_assert_eq!(found, own, "{} in {}", token, rendered);
                }
            }
        }

        #[test]
        fn ordinary_code_is_left_alone(text in "[a-z <>|_\n(){}]{0,80}") {
            for layout in LAYOUTS {
                prop_assume!(!layout.control.iter().any(|token| text.contains(token)));
                prop_assume!(!text.contains("<s>"));
                prop_assert_eq!(neutralised(layout.families[0], &text), text.as_str());
            }
        }
    }
}
