//! An answer in one piece, and the members that streamed answers share with it.

use postern_proto::completion::v1::{Choice, Completion, FinishReason, ToolCall, Usage, UsageProvenance};
use postern_proto::{Blame, Failure, Reason};
use serde::Deserialize;
use serde_json::Value;

use super::error;

/// Choices or tool calls in one answer; more is a fault.
pub(super) const MAX_PARTS: usize = 128;

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
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<AnswerToolCall>>,
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

/// Nobody said what it cost.
pub(super) fn absent_usage() -> Usage {
    Usage { provenance: UsageProvenance::Absent as i32, ..Usage::default() }
}

pub(super) fn finish_reason(text: &str) -> FinishReason {
    match text {
        "stop" | "eos_token" | "stop_sequence" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// What came is no answer.
pub(super) fn invalid(detail: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::ModelAnswerInvalid, "the model's server sent something that is not an answer")
        .with_blame(Blame::Upstream)
        .with_detail(detail)
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
            answer.text = first_text([message.content, message.refusal]);
            answer.reasoning = first_text([message.reasoning_content, message.reasoning]);
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
