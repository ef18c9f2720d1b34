//! What is answered: whole, or as server-sent events. An answer that fails after its head ends in an error event, without
//! `[DONE]`, so that nobody takes it for complete.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion as Whole, Delta, End, FinishReason, ToolCall, Usage, completion_event::Event, delta,
};
use serde_json::{Map, Value, json};

use super::error::envelope;
use super::logprobs;
use crate::doors::http::{self, Told};
use crate::doors::sse::Frames;

/// How an answer looks.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Of `/v1/chat/completions`.
    Chat,
    /// Of `/v1/completions`.
    Text,
}

/// Writes an answer.
pub(super) struct Writer {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    /// Choices that have begun, after the first.
    begun: Vec<u32>,
    /// Characters of each choice's text that have gone.
    written: BTreeMap<u32, usize>,
    /// The usage chunk, until the finish chunks have gone.
    usage: Option<Value>,
}

impl Writer {
    pub(super) fn new(shape: Shape, told: Told, include_usage: bool) -> Self {
        let prefix = match shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        let Told { id, created } = told;
        let id = format!("{prefix}-{id}");
        let (model, begun, written) = (String::new(), Vec::new(), BTreeMap::new());
        Self { shape, id, created, model, include_usage, begun, written, usage: None }
    }

    /// The whole answer.
    fn completion(&self, answer: Whole) -> Value {
        let choice = |(index, choice): (usize, Choice)| {
            let finish_reason = finish(choice.finish_reason);
            match self.shape {
                Shape::Chat => {
                    let likely = logprobs::of_chat(&choice.logprobs);
                    let message = message(choice);
                    json!({ "index": index, "message": message, "logprobs": likely, "finish_reason": finish_reason })
                }
                Shape::Text => {
                    let likely = logprobs::of_text(&choice.logprobs, 0);
                    json!({ "index": index, "text": choice.text, "logprobs": likely, "finish_reason": finish_reason })
                }
            }
        };
        let choices: Vec<_> = answer.choices.into_iter().enumerate().map(choice).collect();
        let object = match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        let mut value = json!({
            "id": self.id, "object": object, "created": self.created, "model": answer.model, "choices": choices,
        });
        if let Some(usage) = answer.usage.as_ref().and_then(usage) {
            value["usage"] = usage;
        }
        if !answer.warnings.is_empty() {
            value["postern_warnings"] = answer.warnings.into();
        }
        value
    }

    fn chunk(&self, choices: Value) -> Value {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        let mut chunk = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The chunks of an event.
    fn chunks(&mut self, event: Event) -> Vec<Value> {
        match event {
            Event::Start(start) => {
                self.model = start.model;
                let choices = match self.shape {
                    Shape::Chat => {
                        json!([{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null }])
                    }
                    Shape::Text if start.warnings.is_empty() => return Vec::new(),
                    // The clients look for a choice in each chunk.
                    Shape::Text => json!([{ "index": 0, "text": "", "logprobs": null, "finish_reason": null }]),
                };
                let mut chunk = self.chunk(choices);
                if !start.warnings.is_empty() {
                    chunk["postern_warnings"] = start.warnings.into();
                }
                vec![chunk]
            }
            Event::Delta(Delta { choice_index, delta: Some(delta), logprobs: likely }) => {
                let choice = match self.shape {
                    Shape::Chat => {
                        let Some(mut piece) = piece(delta) else { return Vec::new() };
                        if choice_index > 0 && !self.begun.contains(&choice_index) {
                            self.begun.push(choice_index);
                            piece["role"] = "assistant".into();
                        }
                        let mut choice = json!({ "index": choice_index, "delta": piece, "finish_reason": null });
                        if !likely.is_empty() {
                            choice["logprobs"] = logprobs::of_chat(&likely);
                        }
                        choice
                    }
                    Shape::Text => match delta {
                        delta::Delta::Text(text) => {
                            let written = self.written.entry(choice_index).or_default();
                            let likely = logprobs::of_text(&likely, *written);
                            *written += text.chars().count();
                            json!({ "index": choice_index, "text": text, "logprobs": likely, "finish_reason": null })
                        }
                        delta::Delta::Reasoning(_)
                        | delta::Delta::ReasoningSignature(_)
                        | delta::Delta::ToolCall(_) => return Vec::new(),
                    },
                };
                vec![self.chunk(json!([choice]))]
            }
            Event::Delta(Delta { delta: None, .. }) => Vec::new(),
            Event::Usage(counted) => {
                // It comes before the end here and after it in this API, so it waits.
                let mut chunk = self.chunk(json!([]));
                chunk["usage"] = usage(&counted).unwrap_or(Value::Null);
                vec![chunk]
            }
            Event::End(End { finish_reason, choices }) => {
                let reasons = if choices.is_empty() { vec![finish_reason] } else { choices };
                reasons.into_iter().enumerate().map(|(index, reason)| self.finish_chunk(index, reason)).collect()
            }
        }
    }

    fn finish_chunk(&self, index: usize, reason: i32) -> Value {
        let choice = match self.shape {
            Shape::Chat => json!({ "index": index, "delta": {}, "finish_reason": finish(reason) }),
            Shape::Text => json!({ "index": index, "text": "", "logprobs": null, "finish_reason": finish(reason) }),
        };
        self.chunk(json!([choice]))
    }
}

fn finish(reason: i32) -> &'static str {
    match FinishReason::try_from(reason).unwrap_or(FinishReason::Other) {
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::Stop | FinishReason::Other | FinishReason::Unspecified => "stop",
    }
}

/// `None` when nobody knows: absent is not zero.
fn usage(usage: &Usage) -> Option<Value> {
    let (input, output) = (usage.input_tokens?, usage.output_tokens?);
    let mut value =
        json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input.saturating_add(output) });
    if let Some(cached) = usage.cached_input_tokens {
        value["prompt_tokens_details"] = json!({ "cached_tokens": cached });
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        value["completion_tokens_details"] = json!({ "reasoning_tokens": reasoning });
    }
    Some(value)
}

fn message(choice: Choice) -> Value {
    let empty_with_calls = choice.text.is_empty() && !choice.tool_calls.is_empty();
    let content = if empty_with_calls { Value::Null } else { choice.text.into() };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !choice.reasoning.is_empty() {
        message["reasoning_content"] = choice.reasoning.into();
    }
    if !choice.tool_calls.is_empty() {
        let call = |ToolCall { id, name, arguments_json, signature }| {
            let function = json!({ "name": name, "arguments": arguments_json });
            signed(json!({ "id": id, "type": "function", "function": function }), signature)
        };
        message["tool_calls"] = choice.tool_calls.into_iter().map(call).collect::<Vec<_>>().into();
    }
    message
}

/// A call with what the server wants back with it, where Gemini's own door of this API has it.
fn signed(mut call: Value, signature: String) -> Value {
    if !signature.is_empty() {
        call["extra_content"] = json!({ "google": { "thought_signature": signature } });
    }
    call
}

/// A piece of an answer; `None` for what this API has no place for.
fn piece(delta: delta::Delta) -> Option<Value> {
    Some(match delta {
        delta::Delta::ReasoningSignature(_) => return None,
        delta::Delta::Text(text) => json!({ "content": text }),
        delta::Delta::Reasoning(text) => json!({ "reasoning_content": text }),
        delta::Delta::ToolCall(fragment) => {
            let mut function = Map::new();
            if !fragment.name.is_empty() {
                function.insert("name".to_owned(), fragment.name.into());
            }
            function.insert("arguments".to_owned(), fragment.arguments_json.into());
            let mut call = json!({ "index": fragment.index, "function": function });
            if !fragment.id.is_empty() {
                call["id"] = fragment.id.into();
                call["type"] = "function".into();
            }
            json!({ "tool_calls": [signed(call, fragment.signature)] })
        }
    })
}

impl http::Writer for Writer {
    fn whole(&mut self, answer: Whole) -> Value {
        self.completion(answer)
    }

    fn event(&mut self, event: Event, frames: &mut Frames) -> Result<(), Failure> {
        let is_usage = matches!(event, Event::Usage(_));
        let chunks = self.chunks(event);
        if is_usage {
            self.usage = chunks.into_iter().next();
        } else {
            chunks.iter().for_each(|chunk| frames.data(chunk));
        }
        Ok(())
    }

    fn ended(&mut self, frames: &mut Frames) {
        if let Some(usage) = self.usage.take().filter(|_| self.include_usage) {
            frames.data(&usage);
        }
        frames.done();
    }

    fn failed(&mut self, failure: &Failure, frames: &mut Frames) {
        frames.data(&envelope(failure));
    }
}
