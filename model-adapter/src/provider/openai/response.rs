//! An answer in one piece, and the members that streamed answers share with it.

use postern_proto::completion::v1::{Choice, Completion, FinishReason, ToolCall, Usage, UsageProvenance};
use postern_proto::{Blame, Failure, Reason};
use serde::Deserialize;
use serde_json::Value;

use crate::provider::emit::{MAX_PARTS, absent_usage, invalid};
use crate::provider::error;

#[derive(Deserialize)]
struct Answer {
    choices: Vec<AnswerChoice>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct AnswerChoice {
    message: Option<AnswerMessage>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default, deserialize_with = "content")]
    content: Content,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<AnswerToolCall>>,
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
                let text = |of: &Value| of["text"].as_str().unwrap_or_default().to_owned();
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
                    _ => content.text.push_str(&text(part)),
                }
            }
        }
        other => return Err(serde::de::Error::custom(format!("content is {other}"))),
    }
    Ok(content)
}

#[derive(Deserialize)]
struct AnswerToolCall {
    #[serde(default)]
    id: String,
    function: AnswerFunction,
}

#[derive(Deserialize)]
struct AnswerFunction {
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Deserialize)]
pub(super) struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self {
            input_tokens: wire.prompt_tokens,
            output_tokens: wire.completion_tokens,
            cached_input_tokens: wire.prompt_tokens_details.and_then(|details| details.cached_tokens),
            reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
            provenance: UsageProvenance::Reported as i32,
        }
    }
}

pub(super) fn finish_reason(text: &str) -> FinishReason {
    match text {
        "stop" | "eos_token" | "stop_sequence" => FinishReason::Stop,
        "length" | "model_length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// The text of the first of these that has one.
pub(super) fn first_text<const N: usize>(texts: [Option<String>; N]) -> String {
    texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
}

pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        return Err(error::from_object(error));
    }
    let answer = Answer::deserialize(value).map_err(|error| invalid(format_args!("no completion: {error}")))?;
    if answer.choices.is_empty() || answer.choices.len() > MAX_PARTS {
        return Err(invalid("no choices, or too many"));
    }
    let choices = answer.choices.into_iter().map(choice).collect::<Result<_, _>>()?;
    let usage = answer.usage.map_or_else(absent_usage, Usage::from);
    Ok(Completion { model: String::new(), choices, usage: Some(usage), warnings: Vec::new() })
}

fn choice(choice: AnswerChoice) -> Result<Choice, Failure> {
    let Some(reason) = choice.finish_reason else {
        return Err(
            Failure::new(Reason::ModelStreamTruncated, "the model's answer has no end").with_blame(Blame::Upstream)
        );
    };
    let mut answer = Choice { finish_reason: finish_reason(&reason) as i32, ..Choice::default() };
    match choice.message {
        None => answer.text = choice.text.ok_or_else(|| invalid("a choice without a message or text"))?,
        Some(message) => {
            answer.text = first_text([Some(message.content.text), message.refusal]);
            let thought = Some(message.content.reasoning);
            answer.reasoning = first_text([message.reasoning_content, message.reasoning, thought]);
            let calls = message.tool_calls.unwrap_or_default();
            if calls.len() > MAX_PARTS {
                return Err(invalid("too many tool calls"));
            }
            let call = |call: AnswerToolCall| ToolCall {
                id: call.id,
                name: call.function.name,
                arguments_json: call.function.arguments,
            };
            answer.tool_calls = calls.into_iter().map(call).collect();
        }
    }
    Ok(answer)
}
