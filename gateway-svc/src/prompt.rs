//! Prompts: what a model of a family is shown for a task.

pub mod clean;
mod control;
mod fim;
mod store;
mod trim;

use std::collections::BTreeMap;

use postern_prompt::{Registry, Sampling, Template, Wrong, fenced};
use postern_proto::completion::v1::{ContentPart, Message, Parameters, Role, SourceFile, content_part};
use postern_proto::instance::v1::CodeMode;
use postern_proto::model::v1::{ChatPrompt, RawPrompt, generation};
use postern_proto::{Failure, Feature, Reason};

use semver::Version;
pub use store::{Prompts, PromptsConfig};

use crate::ask::Task;
use crate::routes::Model;
use clean::Cleaner;

/// What is sent to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The conversation or text.
    pub prompt: generation::Prompt,
    /// How to sample, with the family's own stop texts.
    pub parameters: Parameters,
    /// What was left out of the request.
    pub warnings: Vec<String>,
    /// The template of the registry, where one was used.
    pub template: String,
    /// Takes out of the answer what does not belong at a cursor.
    pub cleaner: Option<Cleaner>,
}

impl Prompt {
    fn of(prompt: generation::Prompt, parameters: &Parameters) -> Self {
        let parameters = parameters.clone();
        Self { prompt, parameters, warnings: Vec::new(), template: String::new(), cleaner: None }
    }

    /// Has the answer cleaned.
    fn clean(&mut self, suffix: &str, may_be_fenced: bool) {
        self.cleaner = Cleaner::new(suffix, may_be_fenced);
        if self.parameters.top_logprobs.take().is_some() {
            // What is cleaned is not what the model wrote token by token.
            self.warnings.push("`logprobs` was dropped: code is cleaned of what does not belong in a file".to_owned());
        }
    }
}

/// Families of models that think before they answer, by the beginnings of their names, and those that do not although they are called so.
const THINKING: [&str; 9] = ["gpt-oss", "gpt-5", "o1", "o3", "o4", "deepseek-r1", "qwq", "qwen3", "magistral"];
const NOT_THINKING: [&str; 1] = ["qwen3-coder"];
/// What their thoughts may take beside the answer that a template has a bound for, in tokens.
const THOUGHTS: u32 = 4096;

fn thinks(family: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|name| family.starts_with(name));
    begins(&THINKING) && !begins(&NOT_THINKING)
}

/// Builds the prompt of a task for a model. `pinned`: the version of the feature's prompt where the caller has no wish.
///
/// # Errors
/// PROMPT_NOT_FOUND; REQUEST_INVALID names the variable that is wrong.
pub fn build(
    task: &Task,
    model: &Model,
    parameters: &Parameters,
    registry: &Registry,
    pinned: Option<&Version>,
) -> Result<Prompt, Failure> {
    match task {
        // The server applies the model's own chat template.
        Task::Chat(chat) => Ok(Prompt::of(generation::Prompt::Chat(chat.clone()), parameters)),
        Task::Raw(text) => Ok(Prompt::of(raw(text.clone()), parameters)),
        Task::Code { prefix, suffix, file_path, files } => {
            let suffix = suffix.as_deref().unwrap_or_default();
            // No file forges a border, whichever way its code goes.
            let plain = |text: &str| control::neutralised(&model.family, text).into_owned();
            let (prefix, suffix) = (plain(prefix), plain(suffix));
            let plain_file = |file: &SourceFile| SourceFile { path: plain(&file.path), text: plain(&file.text) };
            let files: Vec<_> = files.iter().map(plain_file).collect();
            let code = trim::trim((&prefix, &suffix), &files, model.context_length, parameters.max_tokens);
            let template = registry.pick(Feature::CodeCompletion, &model.family, pinned);
            let mut prompt = code_prompt(&code, &plain(file_path), model, parameters, template)?;
            if code.was_trimmed {
                prompt.warnings.push("the code was trimmed to what the model has room for".to_owned());
            }
            Ok(prompt)
        }
        Task::Run { feature, variables, version } => {
            let version = version.as_ref().or(pinned);
            let template = registry.pick(*feature, &model.family, version).ok_or_else(|| {
                let wanted = version.map(|version| format!(" of version {version}")).unwrap_or_default();
                let message = format!("there is no prompt of the feature `{feature}`{wanted} for this model's family");
                Failure::new(Reason::PromptNotFound, message)
            })?;
            let plain = |text: &String| control::neutralised(&model.family, text).into_owned();
            let given = variables.iter().map(|(name, text)| (name.clone(), plain(text))).collect();
            let mut prompt = run(template, &given, &model.family, parameters)?;
            if *feature == Feature::CodeGeneration {
                // It is to stand in a file: without a fence, and without what stands after it already.
                prompt.clean(variables.get("after").map_or("", String::as_str), true);
            }
            Ok(prompt)
        }
    }
}

fn raw(text: String) -> generation::Prompt {
    generation::Prompt::Raw(RawPrompt { text, suffix: None, files: Vec::new() })
}

/// A template of the registry with its variables.
fn run(
    template: &Template,
    variables: &BTreeMap<String, String>,
    family: &str,
    parameters: &Parameters,
) -> Result<Prompt, Failure> {
    let rendered = template.render(variables).map_err(|wrong| match wrong.variable() {
        Some(name) => Failure::field(format!("variables.{name}"), wrong.to_string()),
        None => match &wrong {
            Wrong::Template(_) => Failure::internal(format!("{}: {wrong}", template.name())),
            _ => Failure::field("variables", wrong.to_string()),
        },
    })?;
    let message = |role: Role, text: String| Message {
        role: role as i32,
        content: vec![ContentPart { part: Some(content_part::Part::Text(text)), cache: None }],
        ..Message::default()
    };
    let system = Some(rendered.system).filter(|system| !system.is_empty());
    let messages = system.map(|system| message(Role::System, system)).into_iter();
    let messages = messages.chain([message(Role::User, rendered.user)]).collect();
    let chat = ChatPrompt { messages, ..ChatPrompt::default() };
    let mut prompt = Prompt::of(generation::Prompt::Chat(chat), parameters);
    let Sampling { max_tokens, temperature, top_p, stop } = &template.parameters;
    let asked = &mut prompt.parameters;
    let thoughts = if thinks(family) { THOUGHTS } else { 0 };
    asked.max_tokens = asked.max_tokens.or(max_tokens.map(|most| most.saturating_add(thoughts)));
    asked.temperature = asked.temperature.or(*temperature);
    asked.top_p = asked.top_p.or(*top_p);
    if asked.stop.is_empty() {
        asked.stop.clone_from(stop);
    }
    prompt.template = template.name();
    Ok(prompt)
}

fn code_prompt(
    code: &trim::Shown<'_>,
    file_path: &str,
    model: &Model,
    parameters: &Parameters,
    template: Option<&Template>,
) -> Result<Prompt, Failure> {
    let trim::Shown { prefix, suffix, files, was_trimmed: _ } = *code;
    let (mut prompt, is_fenced) = match model.code {
        CodeMode::Chat => {
            let template = template.ok_or_else(|| {
                Failure::new(Reason::PromptNotFound, "there is no prompt for code in a chat for this model's family")
            })?;
            let given = [
                ("prefix", prefix.to_owned()),
                ("suffix", suffix.to_owned()),
                ("file_path", one_line(file_path)),
                ("files", listed(files)),
            ];
            // A template need not want them all.
            let wanted = given.into_iter().filter(|(name, _)| template.variables.contains_key(*name));
            let given = wanted.map(|(name, value)| (name.to_owned(), value)).collect();
            (run(template, &given, &model.family, parameters)?, true)
        }
        CodeMode::Server => {
            let (text, suffix) = (prefix.to_owned(), Some(suffix.to_owned()));
            let prompt = generation::Prompt::Raw(RawPrompt { text, suffix, files: files.to_vec() });
            (Prompt::of(prompt, parameters), false)
        }
        CodeMode::Layout | CodeMode::Unspecified => {
            (in_layout(prefix, suffix, files, &model.family, parameters), false)
        }
    };
    prompt.clean(suffix, is_fenced);
    Ok(prompt)
}

fn in_layout(prefix: &str, suffix: &str, files: &[SourceFile], family: &str, parameters: &Parameters) -> Prompt {
    let Some(layout) = fim::layout(family) else {
        let mut prompt = Prompt::of(raw(prefix.to_owned()), parameters);
        if !suffix.is_empty() {
            let warning =
                format!("models of the family `{family}` have no fill-in-the-middle: the suffix was not used");
            prompt.warnings.push(warning);
        }
        return prompt;
    };
    let mut prompt = Prompt::of(raw(layout.render(files, prefix, suffix)), parameters);
    prompt.parameters.stop.extend(layout.stops());
    if !files.is_empty() && !layout.takes_files() {
        prompt
            .warnings
            .push(format!("models of the family `{family}` have no place for related files: they were not used"));
    }
    prompt
}

/// Related files as one text.
fn listed(files: &[SourceFile]) -> String {
    let one = |SourceFile { path, text }: &SourceFile| format!("{}:\n{}", one_line(path), fenced(text, None));
    files.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// A path cannot end the line that it stands in.
fn one_line(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::model;

    fn build_for(code: CodeMode, family: &str, task: &Task) -> Result<Prompt, Failure> {
        let model = Model { family: family.to_owned(), code, ..model("m", &[]) };
        build(task, &model, &Parameters::default(), &Registry::shipped().unwrap(), None)
    }

    fn task(prefix: &str, suffix: Option<&str>) -> Task {
        Task::Code {
            prefix: prefix.to_owned(),
            suffix: suffix.map(str::to_owned),
            file_path: "src/a.rs".to_owned(),
            files: vec![SourceFile { path: "src/b.rs".to_owned(), text: "fn b() {}".to_owned() }],
        }
    }

    fn code(family: &str, prefix: &str, suffix: Option<&str>) -> (String, Prompt) {
        let mut task = task(prefix, suffix);
        if let Task::Code { files, .. } = &mut task {
            files.clear();
        }
        let built = build_for(CodeMode::Layout, family, &task).unwrap();
        let generation::Prompt::Raw(raw) = &built.prompt else { panic!("code is completed raw") };
        assert_eq!(raw.suffix, None);
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

    #[test]
    fn a_server_that_fills_in_itself_is_given_both_sides_and_the_files() {
        let built = build_for(CodeMode::Server, "codestral", &task("a", Some("b"))).unwrap();
        let generation::Prompt::Raw(raw) = built.prompt else { panic!("raw") };
        assert_eq!((raw.text.as_str(), raw.suffix.as_deref(), raw.files.len()), ("a", Some("b"), 1));
        let built = build_for(CodeMode::Server, "codestral", &task("a", None)).unwrap();
        assert!(matches!(built.prompt, generation::Prompt::Raw(raw) if raw.suffix.as_deref() == Some("")));
    }

    #[test]
    fn a_model_that_only_chats_is_asked() {
        let built = build_for(CodeMode::Chat, "llama3", &task("let a = ", Some(";"))).unwrap();
        let generation::Prompt::Chat(chat) = &built.prompt else { panic!("a chat") };
        let shown = format!("{:?}", chat.messages);
        for part in ["let a = ", "src/a.rs", "fn b() {}"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(built.template, "code_completion/base/1.0.0");
        assert!(built.cleaner.is_some() && built.parameters.max_tokens.is_some());
    }

    /// Whichever way the code goes to the model.
    #[test]
    fn no_code_forges_a_control_token_of_its_models_family() {
        const TOKEN: &str = "<|im_end|>";
        let forged = || format!("x{TOKEN}");
        for code in [CodeMode::Layout, CodeMode::Server, CodeMode::Chat] {
            for family in ["qwen3", "qwen2.5-coder", "general"] {
                let file = SourceFile { path: forged(), text: forged() };
                let task =
                    Task::Code { prefix: forged(), suffix: Some(forged()), file_path: forged(), files: vec![file] };
                let shown = format!("{:?}", build_for(code, family, &task).unwrap().prompt);
                assert!(!shown.contains(TOKEN) && shown.contains("x< |im_end|>"), "{family}: {shown}");
            }
        }
        let variables = [("code".to_owned(), forged())].into();
        let task = Task::Run { feature: Feature::ExplainCode, variables, version: None };
        let shown = format!("{:?}", build_for(CodeMode::Chat, "qwen3", &task).unwrap().prompt);
        assert!(!shown.contains(TOKEN) && shown.contains("x< |im_end|>"), "{shown}");
    }

    #[test]
    fn a_feature_is_run_by_its_variables_and_what_is_wrong_with_them_is_named() {
        let task = |variables: &[(&str, &str)], version: Option<&str>| Task::Run {
            feature: Feature::ExplainCode,
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            version: version.map(|version| version.parse().unwrap()),
        };
        let built = build_for(CodeMode::Chat, "general", &task(&[("code", "x")], None)).unwrap();
        assert_eq!(built.template, "explain_code/base/1.0.0");
        assert!(built.parameters.temperature.is_some());
        let failure = build_for(CodeMode::Chat, "general", &task(&[], None)).unwrap_err();
        assert_eq!(failure.fields[0].0, "variables.code");
        let failure = build_for(CodeMode::Chat, "general", &task(&[("code", "x")], Some("99.0.0"))).unwrap_err();
        assert_eq!(failure.reason, Reason::PromptNotFound);
    }

    /// Families as people name what they host.
    const FAMILIES: [&str; 21] = [
        "general",
        "mistral",
        "mixtral",
        "codestral",
        "llama3",
        "llama-3.3",
        "qwen2.5",
        "qwen2.5-coder",
        "qwen3",
        "qwen3-coder",
        "deepseek-coder",
        "deepseek-r1",
        "gemma",
        "codegemma",
        "codellama",
        "starcoder2",
        "granite",
        "gpt",
        "gpt-oss",
        "claude",
        "gemini",
    ];

    fn sample(template: &Template) -> BTreeMap<String, String> {
        template.variables.keys().map(|name| (name.clone(), format!("<{name}>"))).collect()
    }

    /// What each template shows; the sample gives every variable.
    #[test]
    fn what_each_feature_shows_is_as_it_was_agreed() {
        let registry = Registry::shipped().unwrap();
        let mut shown = String::new();
        for (template, _) in registry.all() {
            let rendered = template.render(&sample(template)).unwrap();
            let (name, system, user) = (template.name(), rendered.system, rendered.user);
            shown += &format!("== {name}\n-- system\n{system}\n-- user\n{user}\n");
        }
        insta::assert_snapshot!(shown);
    }

    /// Which template each family is shown where it is not the base, how much it may write, and how it completes code.
    #[test]
    fn each_family_has_its_prompt_for_each_feature() {
        let (registry, mut shown) = (Registry::shipped().unwrap(), String::new());
        let parameters = Parameters::default();
        for family in FAMILIES {
            shown += &format!("== {family}\n");
            let model = Model { family: family.to_owned(), ..model("m", &[]) };
            for feature in Feature::ALL.into_iter().filter(|feature| feature.is_run_by_prompt()) {
                let variables = sample(registry.pick(feature, family, None).unwrap());
                let built =
                    build(&Task::Run { feature, variables, version: None }, &model, &parameters, &registry, None);
                let built = built.unwrap();
                let plain = format!("{feature}/base/1.0.0");
                let most = built.parameters.max_tokens.unwrap();
                if feature == Feature::ExplainCode || built.template != plain {
                    shown += &format!("{}: {most} tokens\n", built.template);
                }
            }
            for code in [CodeMode::Layout, CodeMode::Chat] {
                let model = Model { family: family.to_owned(), code, ..model.clone() };
                let built = build(&task("<before>", Some("<after>")), &model, &parameters, &registry, None).unwrap();
                shown += &match &built.prompt {
                    generation::Prompt::Raw(raw) => format!("layout: {:?}\n", raw.text),
                    _ => format!("{}: {} tokens\n", built.template, built.parameters.max_tokens.unwrap()),
                };
            }
        }
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn code_that_is_written_comes_without_its_fence() {
        let variables = [("instruction", "add"), ("after", "fn next() {}\n")];
        let variables = variables.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let task = Task::Run { feature: Feature::CodeGeneration, variables, version: None };
        let built = build_for(CodeMode::Chat, "general", &task).unwrap();
        let mut cleaner = built.cleaner.unwrap();
        let said = "```rust\nfn add() {}\nfn next() {}\n```";
        assert_eq!(cleaner.push(said) + &cleaner.finish(), "fn add() {}");
    }
}
