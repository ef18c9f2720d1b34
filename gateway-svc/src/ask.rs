//! What a caller asks for, whichever door it came through: checked once, here.

use std::collections::BTreeMap;

use postern_proto::completion::v1::{
    ContentPart, Message, Parameters, Role, SourceFile, TokenIds, content_part, tool_choice,
};
use postern_proto::model::v1::ChatPrompt;
use postern_proto::{Failure, Feature, Reason};
use semver::Version;

/// A request for a completion.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The model that is named; `None` for the feature's first.
    pub model: Option<String>,
    /// What to do.
    pub task: Task,
    /// How to sample.
    pub parameters: Parameters,
    /// The editing session in which a newer request replaces this one.
    pub session: Option<String>,
    /// What the door left out of the request.
    pub warnings: Vec<String>,
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Task {
    /// Answer a conversation.
    Chat(ChatPrompt),
    /// Complete code at a cursor.
    Code {
        /// Before the cursor.
        prefix: String,
        /// After the cursor; `None` at the end of the file.
        suffix: Option<String>,
        /// The file's path within its project; empty when nobody said.
        file_path: String,
        /// Related files, the nearest last.
        files: Vec<SourceFile>,
    },
    /// Complete text that is sent as it is.
    Raw(String),
    /// Run a feature of the prompt registry.
    Run {
        /// Which.
        feature: Feature,
        /// What its prompt is given.
        variables: BTreeMap<String, String>,
        /// The version that the caller wants.
        version: Option<Version>,
    },
}

/// Texts to embed.
#[derive(Debug, Clone)]
pub struct Texts {
    /// The model that is named; `None` for the feature's first.
    pub model: Option<String>,
    /// The texts.
    pub inputs: Vec<String>,
    /// Instead of texts, their tokens.
    pub tokens: Vec<TokenIds>,
    /// How many numbers a vector shall have.
    pub dimensions: Option<u32>,
    /// Further members for servers that may know them, as a JSON object.
    pub extra_json: String,
}

/// Largest further members of what is embedded, in bytes: they go with each part of it.
const MAX_EXTRA_BYTES: usize = 64 * 1024;

impl Texts {
    /// Checks sizes.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field; REQUEST_TOO_LARGE.
    pub fn check(self) -> Result<Self, Failure> {
        let (texts, tokens) = (self.inputs.len(), self.tokens.len());
        if (texts == 0) == (tokens == 0) || texts.max(tokens) > MAX_INPUTS {
            return Err(Failure::field("inputs", format!("must be 1 to {MAX_INPUTS} texts, or lists of tokens")));
        }
        if self.inputs.iter().any(String::is_empty) || self.tokens.iter().any(|tokens| tokens.ids.is_empty()) {
            return Err(Failure::field("inputs", "one of them is empty"));
        }
        if self.dimensions == Some(0) {
            return Err(Failure::field("dimensions", "must be at least 1"));
        }
        if self.extra_json.len() > MAX_EXTRA_BYTES {
            return Err(Failure::field("extra_json", format!("is larger than {} KiB", MAX_EXTRA_BYTES >> 10)));
        }
        let tokens = self.tokens.iter().map(|tokens| tokens.ids.len() * BYTES_PER_TOKEN).sum::<usize>();
        if self.inputs.iter().map(String::len).sum::<usize>() + tokens > MAX_PROMPT_BYTES {
            let message = format!("the texts are larger than {} MiB", MAX_PROMPT_BYTES >> 20);
            return Err(Failure::new(Reason::RequestTooLarge, message));
        }
        Ok(self)
    }
}

const MAX_INPUTS: usize = 2048;
/// For a guess at tokens: bytes of prose for one, what a message costs beside its text, and a picture of usual size.
const BYTES_PER_TOKEN: usize = 4;
const TOKENS_PER_MESSAGE: usize = 4;
const TOKENS_PER_PICTURE: usize = 1600;

/// Largest prompt, in bytes of text and pictures together.
pub const MAX_PROMPT_BYTES: usize = 8 * 1024 * 1024;
const MAX_MESSAGES: usize = 4096;
const MAX_TOOLS: usize = 128;
const MAX_STOPS: usize = 16;
const MAX_FILES: usize = 64;
const MAX_PATH_BYTES: usize = 1024;
const MAX_CHOICES: u32 = 16;
const MAX_TOP_LOGPROBS: u32 = 20;
const MAX_SESSION_BYTES: usize = 128;

impl Ask {
    /// The feature that this is.
    #[must_use]
    pub const fn feature(&self) -> Feature {
        match self.task {
            Task::Chat(_) => Feature::Chat,
            Task::Code { .. } | Task::Raw(_) => Feature::CodeCompletion,
            Task::Run { feature, .. } => feature,
        }
    }

    /// The tokens of the prompt, guessed from its bytes.
    #[must_use]
    pub fn estimated_tokens(&self) -> usize {
        let Task::Chat(chat) = &self.task else { return 0 };
        let part = |part: &ContentPart| match &part.part {
            Some(content_part::Part::Text(text)) => text.len().div_ceil(BYTES_PER_TOKEN),
            Some(content_part::Part::Image(_)) => TOKENS_PER_PICTURE,
            None => 0,
        };
        let message = |message: &Message| {
            let calls =
                message.tool_calls.iter().map(|call| call.name.len() + call.arguments_json.len()).sum::<usize>();
            let calls = calls + message.reasoning.len();
            TOKENS_PER_MESSAGE + message.content.iter().map(part).sum::<usize>() + calls.div_ceil(BYTES_PER_TOKEN)
        };
        let tools = chat.tools.iter().map(|tool| tool.name.len() + tool.description.len() + tool.parameters_json.len());
        chat.messages.iter().map(message).sum::<usize>() + tools.sum::<usize>().div_ceil(BYTES_PER_TOKEN)
    }

    /// Checks sizes and ranges.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field; REQUEST_TOO_LARGE.
    pub fn check(self) -> Result<Self, Failure> {
        let size = match &self.task {
            Task::Chat(chat) => check_chat(chat)?,
            Task::Code { prefix, suffix, file_path, files } => {
                if file_path.len() > MAX_PATH_BYTES {
                    return Err(Failure::field("file_path", format!("is longer than {MAX_PATH_BYTES} bytes")));
                }
                let size = prefix.len() + suffix.as_ref().map_or(0, String::len);
                if size == 0 {
                    return Err(Failure::field("prefix", "prefix and suffix are both empty"));
                }
                if files.len() > MAX_FILES || files.iter().any(|file| file.path.is_empty() || file.text.is_empty()) {
                    let problem = format!("at most {MAX_FILES}, each with a path and a text");
                    return Err(Failure::field("related_files", problem));
                }
                size + files.iter().map(|file| file.path.len() + file.text.len()).sum::<usize>()
            }
            Task::Raw(prompt) if prompt.is_empty() => return Err(Failure::field("prompt", "is empty")),
            Task::Raw(prompt) => prompt.len(),
            Task::Run { variables, .. } => variables.iter().map(|(name, value)| name.len() + value.len()).sum(),
        };
        if size > MAX_PROMPT_BYTES {
            let message = format!("the prompt is larger than {} MiB", MAX_PROMPT_BYTES >> 20);
            return Err(Failure::new(Reason::RequestTooLarge, message));
        }
        check_parameters(&self.parameters)?;
        if self.session.as_ref().is_some_and(|session| session.len() > MAX_SESSION_BYTES) {
            return Err(Failure::field("editing_session_id", format!("is longer than {MAX_SESSION_BYTES} bytes")));
        }
        Ok(self)
    }
}

/// The conversation's size in bytes.
fn check_chat(chat: &ChatPrompt) -> Result<usize, Failure> {
    if chat.messages.is_empty() || chat.messages.len() > MAX_MESSAGES {
        return Err(Failure::field("messages", format!("must be 1 to {MAX_MESSAGES}")));
    }
    let demanded = match chat.tool_choice.as_ref().and_then(|choice| choice.choice.as_ref()) {
        Some(tool_choice::Choice::Name(_)) => true,
        Some(tool_choice::Choice::Mode(mode)) => *mode == tool_choice::Mode::Required as i32,
        None => false,
    };
    if demanded && chat.tools.is_empty() {
        return Err(Failure::field("tool_choice", "demands a tool, and none is offered"));
    }
    if chat.tools.len() > MAX_TOOLS {
        return Err(Failure::field("tools", format!("at most {MAX_TOOLS}")));
    }
    let tools: usize = chat.tools.iter().map(|tool| tool.description.len() + tool.parameters_json.len()).sum();
    chat.messages.iter().enumerate().try_fold(tools, |size, (at, message)| Ok(size + check_message(at, message)?))
}

fn check_message(at: usize, message: &Message) -> Result<usize, Failure> {
    let wrong = |member: &str, problem: &str| Failure::field(format!("messages[{at}].{member}"), problem);
    let role = Role::try_from(message.role).unwrap_or(Role::Unspecified);
    if role == Role::Unspecified {
        return Err(wrong("role", "must be system, user, assistant or tool"));
    }
    if role == Role::Tool && message.tool_call_id.is_empty() {
        return Err(wrong("tool_call_id", "is missing"));
    }
    if !message.tool_calls.is_empty() && role != Role::Assistant {
        return Err(wrong("tool_calls", "only the assistant asks for tool calls"));
    }
    let part = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Ok(text.len()),
        Some(content_part::Part::Image(picture)) => match &picture.source {
            Some(postern_proto::completion::v1::image::Source::Url(url)) if is_picture_url(url) => Ok(url.len()),
            Some(postern_proto::completion::v1::image::Source::Url(_)) => {
                Err(wrong("content", "a picture's url must be a data: URL, or https with a public host name"))
            }
            Some(postern_proto::completion::v1::image::Source::Data(data)) if !picture.media_type.is_empty() => {
                Ok(data.len())
            }
            _ => Err(wrong("content", "a picture needs a url, or data and media_type")),
        },
        None => Err(wrong("content", "has an empty part")),
    };
    let size = message.content.iter().try_fold(0, |size, one| Ok::<_, Failure>(size + part(one)?))?;
    // An assistant may have said nothing, and instructions may be empty; a question may not.
    if size == 0 && role == Role::User {
        return Err(wrong("content", "is empty"));
    }
    let calls = message.tool_calls.iter().map(|call| call.arguments_json.len() + call.signature.len()).sum::<usize>();
    let thoughts = message.thoughts.iter().map(|thought| thought.text.len() + thought.signature.len()).sum::<usize>();
    Ok(size + calls + message.reasoning.len() + thoughts)
}

/// Whether a picture's URL may be passed on. The model's server loads it, from inside the network: a caller must not be able to
/// aim it at an address there.
fn is_picture_url(url: &str) -> bool {
    if url.starts_with("data:") {
        return true;
    }
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_end_matches('.');
    // The last label of a host name has a letter; that of any spelling of an address has not, but for hexadecimal.
    let last = host.rsplit('.').next().unwrap_or_default();
    let named = host.contains('.') && last.starts_with(|c: char| c.is_ascii_alphabetic());
    let inside = ["localhost", "local", "internal", "lan", "home", "corp", "intranet", "svc", "cluster"];
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    uri.scheme_str() == Some("https") && plain && named && !inside.contains(&last.to_ascii_lowercase().as_str())
}

fn check_parameters(parameters: &Parameters) -> Result<(), Failure> {
    let range = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
        Some(value) if !(low..=high).contains(&value) => Err(Failure::field(name, format!("must be {low} to {high}"))),
        _ => Ok(()),
    };
    range("temperature", parameters.temperature, 0.0, 2.0)?;
    range("top_p", parameters.top_p, 0.0, 1.0)?;
    range("presence_penalty", parameters.presence_penalty, -2.0, 2.0)?;
    range("frequency_penalty", parameters.frequency_penalty, -2.0, 2.0)?;
    if parameters.max_tokens == Some(0) {
        return Err(Failure::field("max_tokens", "must be at least 1"));
    }
    if parameters.stop.len() > MAX_STOPS || parameters.stop.iter().any(String::is_empty) {
        return Err(Failure::field("stop", format!("at most {MAX_STOPS} texts, none of them empty")));
    }
    if parameters.top_logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(Failure::field("top_logprobs", format!("must be 0 to {MAX_TOP_LOGPROBS}")));
    }
    if parameters.choices.is_some_and(|choices| !(1..=MAX_CHOICES).contains(&choices)) {
        return Err(Failure::field("choices", format!("must be 1 to {MAX_CHOICES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, text: &str) -> Message {
        let part = ContentPart { part: Some(content_part::Part::Text(text.to_owned())), cache: None };
        Message { role: role as i32, content: vec![part], ..Default::default() }
    }

    fn ask(task: Task, parameters: Parameters) -> Ask {
        Ask { model: None, task, parameters, session: None, warnings: Vec::new() }
    }

    fn chat(messages: Vec<Message>) -> Task {
        Task::Chat(ChatPrompt { messages, ..Default::default() })
    }

    #[test]
    fn a_picture_is_given_by_value_or_by_a_public_name() {
        for good in ["data:image/png;base64,AA==", "https://example.org/a.png", "https://a.b.example:8443/x"] {
            assert!(is_picture_url(good), "{good}");
        }
        for bad in [
            "",
            "http://example.org/a.png",
            "https://169.254.169.254/latest",
            "https://0x7f.0.0.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://localhost/",
            "https://metadata.google.internal/",
            "https://db.svc.cluster.local/",
            "https://user@example.org/",
            "file:///etc/passwd",
            "ftp://example.org/x",
        ] {
            assert!(!is_picture_url(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = || chat(vec![message(Role::User, "hi")]);
        let with = |parameters| ask(good(), parameters);
        let cases = [
            (ask(chat(vec![]), Parameters::default()), "messages"),
            (ask(chat(vec![message(Role::User, "")]), Parameters::default()), "messages[0].content"),
            (ask(chat(vec![message(Role::Unspecified, "x")]), Parameters::default()), "messages[0].role"),
            (
                ask(chat(vec![message(Role::User, "x"), message(Role::Tool, "x")]), Parameters::default()),
                "messages[1].tool_call_id",
            ),
            (ask(Task::Raw(String::new()), Parameters::default()), "prompt"),
            (
                ask(
                    Task::Code {
                        prefix: String::new(),
                        suffix: Some(String::new()),
                        file_path: String::new(),
                        files: Vec::new(),
                    },
                    Parameters::default(),
                ),
                "prefix",
            ),
            (with(Parameters { temperature: Some(2.1), ..Default::default() }), "temperature"),
            (with(Parameters { temperature: Some(f64::NAN), ..Default::default() }), "temperature"),
            (with(Parameters { top_p: Some(-0.1), ..Default::default() }), "top_p"),
            (with(Parameters { max_tokens: Some(0), ..Default::default() }), "max_tokens"),
            (with(Parameters { choices: Some(17), ..Default::default() }), "choices"),
            (with(Parameters { stop: vec![String::new()], ..Default::default() }), "stop"),
        ];
        for (ask, field) in cases {
            let failure = ask.check().unwrap_err();
            assert_eq!(failure.fields.first().map(|(name, _)| name.as_str()), Some(field), "{failure}");
        }
        assert!(with(Parameters::default()).check().is_ok());
        let huge = ask(Task::Raw("x".repeat(MAX_PROMPT_BYTES + 1)), Parameters::default());
        assert_eq!(huge.check().unwrap_err().reason, Reason::RequestTooLarge);
    }
}
