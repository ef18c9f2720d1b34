//! A streamed answer: server-sent events whose data is a chunk each, then `[DONE]`.
//!
//! The answer is complete when every choice that began has a finish reason and `[DONE]` has come. Anything else at the end
//! of the body is a truncated answer.

use std::borrow::Cow;

use postern_proto::Failure;
use postern_proto::completion::v1::{CompletionEvent, FinishReason, ToolCallFragment, Usage};
use serde::Deserialize;
use serde_json::Value;

use super::response::{Content, WireUsage, content, finish_reason};
use crate::decode::sse;
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, MAX_PARTS, fault, invalid, truncated};
use crate::provider::error;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<ChunkChoice<'a>>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow)]
    delta: Option<ChunkDelta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    finish_reason: Option<String>,
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
    #[serde(borrow)]
    tool_calls: Option<Vec<ChunkToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ChunkToolCall<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Option<ChunkFunction<'a>>,
}

#[derive(Deserialize)]
struct ChunkFunction<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}

#[derive(Default)]
pub(super) struct Decoder {
    events: sse::Decoder,
    /// Why each choice that began has ended.
    finished: Vec<Option<FinishReason>>,
    usage: Option<Usage>,
    done: bool,
}

impl StreamDecoder for Decoder {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let mut events = Vec::new();
        let fed = self.events.feed(bytes, |event| events.push(event));
        for event in events {
            self.take(&event.data, out)?;
        }
        fed.map_err(fault)
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if let Some(event) = self.events.finish().map_err(fault)? {
            self.take(&event.data, out)?;
        }
        if self.done { Ok(()) } else { Err(truncated()) }
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

impl Decoder {
    fn take(&mut self, data: &str, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        if data.trim() == "[DONE]" {
            return self.end(out);
        }
        let chunk: Chunk<'_> =
            serde_json::from_str(data).map_err(|error| invalid(format_args!("an event is no chunk: {error}")))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(error::from_object(&error));
        }
        let Some(choices) = chunk.choices else {
            return Err(invalid("an event has neither choices nor an error"));
        };
        for choice in choices {
            self.take_choice(choice, out)?;
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
        }
        Ok(())
    }

    fn take_choice(&mut self, choice: ChunkChoice<'_>, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let index = choice.index;
        if index >= MAX_PARTS {
            return Err(invalid("a choice's index is out of bounds"));
        }
        if self.finished.len() <= index {
            self.finished.resize(index + 1, None);
        }
        let filled = |text: Option<Cow<'_, str>>| text.filter(|text| !text.is_empty()).map(Cow::into_owned);
        emit::text(out, index, filled(choice.text).unwrap_or_default());
        if let Some(delta) = choice.delta {
            let Content { text, reasoning } = delta.content;
            let thought = filled(delta.reasoning_content).or(filled(delta.reasoning)).unwrap_or(reasoning);
            emit::reasoning(out, index, thought);
            emit::text(out, index, if text.is_empty() { filled(delta.refusal).unwrap_or_default() } else { text });
            for (position, call) in delta.tool_calls.unwrap_or_default().into_iter().enumerate() {
                emit::tool_call(out, index, fragment(position, call));
            }
        }
        if let Some(reason) = choice.finish_reason {
            self.finished[index] = Some(finish_reason(&reason));
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let reasons: Option<Vec<FinishReason>> = self.finished.iter().copied().collect();
        let reasons = reasons.filter(|reasons| !reasons.is_empty()).ok_or_else(truncated)?;
        self.done = true;
        emit::end(out, self.usage.take(), &reasons);
        Ok(())
    }
}

fn fragment(position: usize, call: ChunkToolCall<'_>) -> ToolCallFragment {
    let function = call.function.unwrap_or(ChunkFunction { name: None, arguments: None });
    let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
    ToolCallFragment {
        index: call.index.unwrap_or_else(|| u32::try_from(position).unwrap_or(u32::MAX)),
        id: text(call.id),
        name: text(function.name),
        arguments_json: text(function.arguments),
    }
}

#[cfg(test)]
#[path = "stream/tests.rs"]
mod tests;
