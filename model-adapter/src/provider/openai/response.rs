//! An answer in one piece, and the members that streamed answers share with it.

use postern_proto::completion::v1::{Choice, Completion, FinishReason, ToolCall, Usage, UsageProvenance};
use postern_proto::{Blame, Failure, Reason};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::SIGNER;
use crate::provider::emit::{self, MAX_PARTS, absent_usage, invalid};
use crate::provider::{error, logprobs, say};

/// Where Gemini's signatures stand, behind its own door of this API and behind Vertex AI's.
const PLACES: [&str; 2] = ["google", "vertex"];

/// The arguments of a call that has none, which some servers leave empty.
pub(super) const NO_ARGUMENTS: &str = "{}";

#[derive(Deserialize)]
struct Answer {
    choices: Option<Vec<AnswerChoice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct AnswerChoice {
    message: Option<AnswerMessage>,
    text: Option<String>,
    logprobs: Option<Box<RawValue>>,
    finish_reason: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default, deserialize_with = "content")]
    content: Content,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    #[serde(default, deserialize_with = "details")]
    reasoning_details: String,
    #[serde(default, deserialize_with = "tool_calls")]
    tool_calls: Vec<WireToolCall>,
    function_call: Option<WireFunction>,
}

/// The text of OpenRouter's `reasoning_details`, of those that have one.
pub(super) fn details<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = |one: &Value| one["text"].as_str().or_else(|| one["summary"].as_str()).map(str::to_owned);
    Ok(Value::deserialize(deserializer)?.as_array().into_iter().flatten().filter_map(text).collect())
}

/// What a message says, which some servers write as a list of parts (Mistral's reasoning models, for one).
#[derive(Default)]
pub(super) struct Content {
    pub(super) text: String,
    pub(super) reasoning: String,
}

pub(super) fn content<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
    let mut content = Content::default();
    match Value::deserialize(deserializer)? {
        Value::Null => {}
        Value::String(text) => content.text = text,
        Value::Array(parts) => {
            for part in &parts {
                let text = |of: &Value| of["text"].as_str().or(of.as_str()).unwrap_or_default().to_owned();
                match part["type"].as_str() {
                    Some("thinking") => match &part["thinking"] {
                        Value::String(thought) => content.reasoning.push_str(thought),
                        thoughts => {
                            thoughts
                                .as_array()
                                .into_iter()
                                .flatten()
                                .for_each(|one| content.reasoning.push_str(&text(one)));
                        }
                    },
                    // Databricks.
                    Some("reasoning") => {
                        let summaries = part["summary"].as_array().into_iter().flatten();
                        summaries.for_each(|one| content.reasoning.push_str(&text(one)));
                    }
                    _ => content.text.push_str(&text(part)),
                }
            }
        }
        other => return Err(serde::de::Error::custom(format!("content is {other}"))),
    }
    Ok(content)
}

/// A call, or a fragment of one.
#[derive(Deserialize)]
pub(super) struct WireToolCall {
    #[serde(default, deserialize_with = "number")]
    pub(super) index: Option<u32>,
    #[serde(default, deserialize_with = "json_text")]
    pub(super) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) function: WireFunction,
    #[serde(default)]
    extra_content: Value,
}

/// A number, also one in quotes.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let said = Value::deserialize(deserializer)?;
    Ok(said.as_u64().and_then(|number| u32::try_from(number).ok()).or_else(|| said.as_str()?.parse().ok()))
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl WireToolCall {
    /// Whether anything is said of a call: some servers write the member whatever they say.
    pub(super) fn says_something(&self) -> bool {
        let WireFunction { name, arguments } = &self.function;
        !(self.id.is_empty() && name.is_empty() && arguments.is_empty())
    }

    /// What the server signed, of Gemini's, with the name of the member that it stands in.
    pub(super) fn signature(&self) -> String {
        let found =
            PLACES.iter().find_map(|place| Some((place, self.extra_content[*place]["thought_signature"].as_str()?)));
        found.map(|(place, signature)| say::signed_by(SIGNER, &format!("{place}:{signature}"))).unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
pub(super) struct WireFunction {
    #[serde(default, deserialize_with = "json_text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "json_text", alias = "parameters")]
    pub(super) arguments: String,
}

impl From<WireFunction> for WireToolCall {
    /// The call of an API from before tools (`function_call`), which there can be one of.
    fn from(function: WireFunction) -> Self {
        Self { index: Some(0), id: String::new(), function, extra_content: Value::Null }
    }
}

/// A text; what is no text counts as its JSON: some servers write arguments as an object and identifiers as numbers.
fn json_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    })
}

/// A list of calls, one call, or none.
pub(super) fn tool_calls<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<WireToolCall>, D::Error> {
    let calls = match Value::deserialize(deserializer)? {
        Value::Null => Vec::new(),
        Value::Array(calls) => calls,
        one => vec![one],
    };
    calls.into_iter().map(WireToolCall::deserialize).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// What is said of usage. A count that is none is not told, and costs nobody the answer.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct WireUsage(Value);

impl WireUsage {
    /// Whether anything is counted.
    pub(super) fn says_something(&self) -> bool {
        self.0.as_object().is_some_and(|members| !members.is_empty())
    }
}

impl From<WireUsage> for Usage {
    fn from(WireUsage(said): WireUsage) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        let whole = |count: f64| (0.0..9e15).contains(&count).then_some(count as u64);
        let count = |place: &str| said.pointer(place).and_then(|said| said.as_u64().or_else(|| whole(said.as_f64()?)));
        // The later names are those of newer APIs.
        Self {
            input_tokens: count("/prompt_tokens").or_else(|| count("/input_tokens")),
            output_tokens: count("/completion_tokens").or_else(|| count("/output_tokens")),
            // The second is Moonshot's.
            cached_input_tokens: count("/prompt_tokens_details/cached_tokens").or_else(|| count("/cached_tokens")),
            reasoning_tokens: count("/completion_tokens_details/reasoning_tokens"),
            provenance: UsageProvenance::Reported as i32,
        }
    }
}

/// Why an answer ended, in the words of whichever server it came through.
pub(super) fn finish_reason(text: &str) -> FinishReason {
    match text.to_ascii_lowercase().as_str() {
        "stop" | "eos_token" | "stop_sequence" | "eos" | "end_turn" => FinishReason::Stop,
        "length" | "model_length" | "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_call" | "tool_use" => FinishReason::ToolCalls,
        "sensitive" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "spii" => {
            FinishReason::ContentFilter
        }
        filtered if filtered.starts_with("content_filter") => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// Reasons that are failures: of a proxy's own server, DeepSeek's, Z.ai's and vLLM's.
const FAILURES: [&str; 4] = ["error", "insufficient_system_resource", "network_error", "abort"];

/// The failure of a choice: some servers pass on so that the model's own server failed.
pub(super) fn choice_failure(error: Option<&Value>, finish_reason: Option<&str>) -> Option<Failure> {
    match error.filter(|error| is_error(error)) {
        None if !finish_reason.is_some_and(|reason| FAILURES.contains(&reason)) => None,
        error => Some(error::from_object(error.unwrap_or(&Value::Null))),
    }
}

/// Whether a member that is for errors holds one.
pub(super) fn is_error(member: &Value) -> bool {
    match member {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    }
}

/// The text of the first of these that has one.
pub(super) fn first_text<const N: usize>(texts: [Option<String>; N]) -> String {
    texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
}

pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| invalid(format_args!("no completion: {error}")))?;
    if let Some(error) = answer.error.filter(is_error) {
        return Err(error::from_object(&error));
    }
    let choices = answer.choices.unwrap_or_default();
    if choices.is_empty() || choices.len() > MAX_PARTS {
        return Err(invalid("no choices, or too many"));
    }
    let choices = choices.into_iter().map(choice).collect::<Result<_, _>>()?;
    let usage = answer.usage.map_or_else(absent_usage, Usage::from);
    Ok(Completion { choices, usage: Some(usage), ..Completion::default() })
}

fn choice(choice: AnswerChoice) -> Result<Choice, Failure> {
    if let Some(failure) = choice_failure(choice.error.as_ref(), choice.finish_reason.as_deref()) {
        return Err(failure);
    }
    let reason = choice.finish_reason.filter(|reason| !reason.is_empty());
    let logprobs = logprobs::of_choice(choice.logprobs.as_deref());
    let mut answer = Choice { logprobs, ..Choice::default() };
    match choice.message {
        // Azure leaves the message out where its filter took it.
        None if reason.as_deref() == Some("content_filter") => {}
        None => answer.text = choice.text.ok_or_else(|| invalid("a choice without a message or text"))?,
        Some(message) => {
            answer.text = first_text([Some(message.content.text), message.refusal]);
            let thought = Some(message.content.reasoning);
            let details = Some(message.reasoning_details);
            answer.reasoning = first_text([message.reasoning_content, message.reasoning, thought, details]);
            let mut calls = message.tool_calls;
            // The older form may mirror the newer.
            if calls.is_empty() {
                calls.extend(message.function_call.map(WireToolCall::from));
            }
            calls.retain(WireToolCall::says_something);
            if calls.len() > MAX_PARTS {
                return Err(invalid("too many tool calls"));
            }
            answer.tool_calls = calls.into_iter().map(tool_call).collect::<Result<_, _>>()?;
        }
    }
    let says = !answer.text.is_empty() || !answer.reasoning.is_empty();
    let reason = match reason {
        Some(reason) => finish_reason(&reason),
        // What came whole has ended, also where the server does not say why.
        None if !answer.tool_calls.is_empty() => FinishReason::ToolCalls,
        None if says => FinishReason::Stop,
        None => {
            let failure = Failure::new(Reason::ModelStreamTruncated, "the model's answer has no end");
            return Err(failure.with_blame(Blame::Upstream));
        }
    };
    answer.finish_reason = reason as i32;
    Ok(answer)
}

fn tool_call(call: WireToolCall) -> Result<ToolCall, Failure> {
    let signature = call.signature();
    let WireFunction { name, arguments } = call.function;
    if name.is_empty() {
        return Err(invalid("a tool call without a name"));
    }
    let arguments_json = if arguments.is_empty() { NO_ARGUMENTS.to_owned() } else { arguments };
    let id = if call.id.is_empty() { emit::call_id() } else { call.id };
    Ok(ToolCall { id, name, arguments_json, signature })
}
