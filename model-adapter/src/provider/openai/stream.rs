//! A streamed answer: server-sent events whose data is a chunk each, then `[DONE]`.
//!
//! The answer is complete when every choice that began has a finish reason and `[DONE]` has come. Anything else at the end
//! of the body is a truncated answer: what stands before a server may write `[DONE]` after a break.

use std::borrow::Cow;

use postern_proto::Failure;
use postern_proto::completion::v1::{CompletionEvent, FinishReason, ToolCallFragment, Usage};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::response::{
    Content, NO_ARGUMENTS, WireFunction, WireToolCall, WireUsage, choice_failure, content, details, finish_reason,
    is_error, tool_calls,
};
use crate::decode::sse;
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, MAX_PARTS, broken_off, fault, invalid, truncated};
use crate::provider::{error, logprobs};

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<ChunkChoice<'a>>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
    x_groq: Option<Groq>,
    #[serde(borrow)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow)]
    delta: Option<ChunkDelta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
    finish_reason: Option<String>,
    error: Option<Value>,
    /// Moonshot's place for it.
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct ChunkDelta<'a> {
    #[serde(default, deserialize_with = "content")]
    content: Content,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "details")]
    reasoning_details: String,
    #[serde(default, deserialize_with = "tool_calls")]
    tool_calls: Vec<WireToolCall>,
    function_call: Option<WireFunction>,
}

/// What Groq puts beside the API's members.
#[derive(Deserialize, Default)]
struct Groq {
    usage: Option<WireUsage>,
    error: Option<Value>,
}

/// A choice that has begun.
#[derive(Default)]
struct Begun {
    finished: Option<FinishReason>,
    calls: Vec<Call>,
}

/// A tool call that has begun.
struct Call {
    /// What the server calls its place. Some use one for every call, and only the identifier tells them apart.
    place: u32,
    id: String,
    /// Whether one has been told, the server's or one of ours.
    has_id: bool,
    name: String,
    has_arguments: bool,
}

#[derive(Default)]
pub(super) struct Decoder {
    events: sse::Decoder,
    choices: Vec<Begun>,
    usage: Option<Usage>,
    done: bool,
}

impl StreamDecoder for Decoder {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let mut events = Vec::new();
        let fed = self.events.feed(bytes, |event| events.push(event));
        for event in events {
            self.take(&event, out)?;
        }
        // What follows the end is nobody's concern.
        if self.is_done() { Ok(()) } else { fed.map_err(fault) }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        if let Some(event) = self.events.finish().map_err(fault)? {
            self.take(&event, out).map_err(|failure| broken_off(&event.data, failure))?;
        }
        if self.done { Ok(()) } else { Err(truncated()) }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

impl Decoder {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let data = event.data.as_str();
        if self.done || data.trim().is_empty() {
            return Ok(());
        }
        if data.trim() == "[DONE]" {
            return self.end(out);
        }
        let chunk: Chunk<'_> =
            serde_json::from_str(data).map_err(|error| invalid(format_args!("an event is no chunk: {error}")))?;
        let groq = chunk.x_groq.unwrap_or_default();
        if let Some(error) = chunk.error.or(groq.error).filter(is_error) {
            return Err(error::from_object(&error));
        }
        let usage = chunk.usage.or(groq.usage).filter(WireUsage::says_something);
        if chunk.choices.is_none() && usage.is_none() {
            let said: Value = serde_json::from_str(data).unwrap_or_default();
            // An error may stand there without a member of its own.
            if event.name == "error" || chunk.r#type.as_deref().is_some_and(|kind| kind.contains("error")) {
                return Err(error::from_object(&said));
            }
            // An event that says what it is, such as a ping, and says nothing; Azure's begin with none.
            let is_chunk = chunk.object.as_deref() == Some("chat.completion.chunk") || said.get("choices").is_some();
            if chunk.r#type.is_some() || is_chunk {
                return Ok(());
            }
            return Err(invalid("an event has neither choices nor an error"));
        }
        for choice in chunk.choices.into_iter().flatten() {
            self.take_choice(choice, out)?;
        }
        if let Some(usage) = usage {
            self.usage = Some(usage.into());
        }
        // Perplexity ends so, without `[DONE]`.
        if chunk.object.as_deref() == Some("chat.completion.done") { self.end(out) } else { Ok(()) }
    }

    fn take_choice(&mut self, choice: ChunkChoice<'_>, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let index = choice.index;
        if index >= MAX_PARTS {
            return Err(invalid("a choice's index is out of bounds"));
        }
        if let Some(failure) = choice_failure(choice.error.as_ref(), choice.finish_reason.as_deref()) {
            return Err(failure);
        }
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Begun::default);
        }
        let begun = &mut self.choices[index];
        let filled = |text: Option<Cow<'_, str>>| text.filter(|text| !text.is_empty()).map(Cow::into_owned);
        // Together writes a chat's text in both places.
        let beside = filled(choice.text).unwrap_or_default();
        let likely = logprobs::of_choice(choice.logprobs);
        if choice.delta.is_none() {
            emit::likely_text(out, index, beside, likely);
        } else if let Some(delta) = choice.delta {
            let Content { text, reasoning } = delta.content;
            let told = filled(delta.reasoning_content).or(filled(delta.reasoning));
            let listed = if reasoning.is_empty() { delta.reasoning_details } else { reasoning };
            let thought = told.unwrap_or(listed);
            emit::reasoning(out, index, thought);
            let text = if text.is_empty() { filled(delta.refusal).unwrap_or(beside) } else { text };
            emit::likely_text(out, index, text, likely);
            // The older form may mirror the newer.
            let legacy = delta.function_call.map(WireToolCall::from).filter(|_| delta.tool_calls.is_empty());
            let calls = delta.tool_calls.into_iter().chain(legacy).filter(WireToolCall::says_something);
            for (position, call) in calls.enumerate() {
                emit::tool_call(out, index, begun.fragment(position, call)?);
            }
        }
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            begun.finished = Some(finish_reason(&reason));
        }
        if let Some(usage) = choice.usage {
            self.usage = Some(usage.into());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let reasons: Option<Vec<FinishReason>> = self.choices.iter().map(|choice| choice.finished).collect();
        let reasons = reasons.filter(|reasons| !reasons.is_empty()).ok_or_else(truncated)?;
        self.done = true;
        for (index, choice) in self.choices.iter().enumerate() {
            choice.say_no_arguments(index, out);
        }
        emit::end(out, self.usage.take(), &reasons);
        Ok(())
    }
}

impl Begun {
    /// Says of the calls of which no argument has come that they have none.
    fn say_no_arguments(&self, choice: usize, out: &mut Vec<CompletionEvent>) {
        for (index, _) in (0..).zip(&self.calls).filter(|(_, call)| !call.has_arguments) {
            let fragment =
                ToolCallFragment { index, arguments_json: NO_ARGUMENTS.to_owned(), ..ToolCallFragment::default() };
            emit::tool_call(out, choice, fragment);
        }
    }

    /// The next fragment of a call: its identifier and name are told once, however often the server repeats them.
    fn fragment(&mut self, position: usize, wire: WireToolCall) -> Result<ToolCallFragment, Failure> {
        let place = wire.index.unwrap_or_else(|| u32::try_from(position).unwrap_or(u32::MAX));
        let signature = wire.signature();
        let WireFunction { mut name, arguments } = wire.function;
        let mut id = wire.id;
        // A second name in one place is another call where the identifiers differ, or where there are none and the names do, or no index.
        let is_other = |call: &Call| {
            let differs = match id.is_empty() || call.id.is_empty() {
                true => wire.index.is_none() || call.has_arguments && name != call.name,
                false => id != call.id,
            };
            !call.name.is_empty() && !name.is_empty() && differs
        };
        let latest = self.calls.iter().rposition(|call| call.place == place).filter(|at| !is_other(&self.calls[*at]));
        let at = match latest {
            Some(at) => at,
            None if self.calls.len() >= MAX_PARTS => return Err(invalid("too many tool calls")),
            None => {
                self.calls.push(Call {
                    place,
                    id: String::new(),
                    has_id: false,
                    name: String::new(),
                    has_arguments: false,
                });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id.clone_from(&id);
        } else {
            id.clear();
        }
        if call.has_id {
            id.clear();
        } else if id.is_empty() && !name.is_empty() {
            id = emit::call_id();
        }
        call.has_id |= !id.is_empty();
        if call.name.is_empty() {
            call.name.clone_from(&name);
        } else {
            name.clear();
        }
        call.has_arguments |= !arguments.is_empty();
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        Ok(ToolCallFragment { index, id, name, arguments_json: arguments, signature })
    }
}

#[cfg(test)]
#[path = "stream/tests.rs"]
mod tests;
