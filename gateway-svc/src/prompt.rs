//! Prompts: what a model of a family is shown for a task.

mod fim;

use postern_proto::completion::v1::Parameters;
use postern_proto::model::v1::{RawPrompt, generation};

use crate::ask::Task;

/// What is sent to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The conversation or text.
    pub prompt: generation::Prompt,
    /// How to sample, with the family's own stop texts.
    pub parameters: Parameters,
    /// What was left out of the request.
    pub warnings: Vec<String>,
}

/// Builds the prompt of a task for a family.
#[must_use]
pub fn build(task: &Task, family: &str, parameters: &Parameters) -> Prompt {
    let mut parameters = parameters.clone();
    let mut warnings = Vec::new();
    let prompt = match task {
        // The server applies the model's own chat template.
        Task::Chat(chat) => generation::Prompt::Chat(chat.clone()),
        Task::Raw(text) => generation::Prompt::Raw(RawPrompt { text: text.clone() }),
        Task::Code { prefix, suffix } => {
            let text = match fim::layout(family) {
                Some(layout) => {
                    parameters.stop.extend(layout.stops());
                    layout.render(prefix, suffix.as_deref().unwrap_or_default())
                }
                None => {
                    if suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
                        warnings.push(format!(
                            "models of the family `{family}` have no fill-in-the-middle: the suffix was not used"
                        ));
                    }
                    prefix.clone()
                }
            };
            generation::Prompt::Raw(RawPrompt { text })
        }
    };
    Prompt { prompt, parameters, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(family: &str, prefix: &str, suffix: Option<&str>) -> (String, Prompt) {
        let task = Task::Code { prefix: prefix.to_owned(), suffix: suffix.map(str::to_owned) };
        let built = build(&task, family, &Parameters::default());
        let generation::Prompt::Raw(raw) = &built.prompt else { panic!("code is completed raw") };
        (raw.text.clone(), built)
    }

    #[test]
    fn a_family_with_fill_in_the_middle_sees_both_sides() {
        let (text, built) = code("qwen2.5-coder", "a = ", Some("\nb"));
        assert_eq!(text, "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>");
        assert!(built.parameters.stop.contains(&"<|fim_middle|>".to_owned()));
        assert!(built.warnings.is_empty());
    }

    #[test]
    fn a_missing_suffix_is_an_empty_one() {
        assert_eq!(code("qwen2.5-coder", "a = ", None).0, "<|fim_prefix|>a = <|fim_suffix|><|fim_middle|>");
    }

    #[test]
    fn a_family_without_it_sees_the_prefix_and_the_caller_is_told() {
        let (text, built) = code("general", "a = ", Some("\nb"));
        assert_eq!(text, "a = ");
        assert_eq!(built.warnings.len(), 1);
        assert!(code("general", "a = ", None).1.warnings.is_empty());
    }
}
