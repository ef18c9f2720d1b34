//! What is answered: a message of blocks, whole or as its events. An answer that fails after its head ends in an `error` event, without
//! `message_stop`.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion as Whole, Delta, FinishReason, Thought, ToolCall, ToolCallFragment, Usage,
    completion_event::Event, delta,
};
use serde_json::{Value, json};

use super::error::envelope;
use crate::collect::{MAX_ANSWER_BYTES, too_large};
use crate::doors::http::{self, Told};
use crate::doors::sse::Frames;

/// Writes an answer.
pub(super) struct Writer {
    request_id: String,
    id: String,
    blocks: usize,
    /// The block that is being written, and what it holds.
    open: Option<(usize, Kind)>,
    /// The calls by index.
    calls: BTreeMap<u32, Call>,
    /// Bytes of their arguments.
    size: usize,
    usage: Value,
    stop_reason: &'static str,
}

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    /// The call of this index.
    Call(u32),
}

impl Writer {
    pub(super) fn new(told: Told) -> Self {
        let id = format!("msg_{}", told.id);
        let usage = usage(&Usage::default());
        Self {
            request_id: told.id,
            id,
            blocks: 0,
            open: None,
            calls: BTreeMap::new(),
            size: 0,
            usage,
            stop_reason: "end_turn",
        }
    }

    fn message(&self, model: &str, content: Vec<Value>, stop_reason: Value, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": stop_reason, "stop_sequence": null, "usage": usage,
        })
    }

    /// Opens a block of this kind, unless it is open.
    fn block(&mut self, kind: Kind, empty: &Value, frames: &mut Frames) -> usize {
        match self.open {
            Some((index, open)) if open == kind => index,
            _ => {
                self.close(frames);
                let index = self.begin(empty, frames);
                self.open = Some((index, kind));
                index
            }
        }
    }

    fn begin(&mut self, empty: &Value, frames: &mut Frames) -> usize {
        let index = self.blocks;
        self.blocks += 1;
        let start = json!({ "type": "content_block_start", "index": index, "content_block": empty });
        frames.named("content_block_start", &start);
        index
    }

    fn close(&mut self, frames: &mut Frames) {
        if let Some((index, kind)) = self.open.take() {
            if let Kind::Call(place) = kind
                && let Some(call) = self.calls.get_mut(&place)
            {
                call.state = State::Over;
            }
            if kind == Kind::Thinking {
                // The clients wait for one. It is not the vendor's, and nobody takes it for one.
                let signature = json!({ "type": "signature_delta", "signature": "" });
                delta_frame(index, &signature, frames);
            }
            stop_frame(index, frames);
        }
    }

    fn piece(&mut self, piece: delta::Delta, frames: &mut Frames) {
        match piece {
            delta::Delta::Text(text) => {
                let index = self.block(Kind::Text, &json!({ "type": "text", "text": "" }), frames);
                delta_frame(index, &json!({ "type": "text_delta", "text": text }), frames);
            }
            delta::Delta::Reasoning(thought) => {
                let empty = json!({ "type": "thinking", "thinking": "", "signature": "" });
                let index = self.block(Kind::Thinking, &empty, frames);
                delta_frame(index, &json!({ "type": "thinking_delta", "thinking": thought }), frames);
            }
            delta::Delta::ReasoningSignature(signature) => {
                let whole = thought(Thought { text: String::new(), signature: signature.clone() });
                match self.open {
                    Some((index, Kind::Thinking)) if !is_redacted(&signature) => {
                        self.open = None;
                        delta_frame(index, &json!({ "type": "signature_delta", "signature": signature }), frames);
                        stop_frame(index, frames);
                    }
                    _ => {
                        self.close(frames);
                        let index = self.begin(&whole, frames);
                        stop_frame(index, frames);
                    }
                }
            }
            delta::Delta::ToolCall(fragment) => self.fragment(fragment, frames),
        }
    }

    /// A piece of a call. Blocks come one after the other: where a server writes of several calls at once, the pieces of the others wait
    /// until the one that is being written is whole.
    fn fragment(&mut self, fragment: ToolCallFragment, frames: &mut Frames) {
        let ToolCallFragment { index: place, id, name, arguments_json, signature: _ } = fragment;
        let call = self.calls.entry(place).or_default();
        if call.id.is_empty() && call.name.is_empty() {
            (call.id, call.name) = (id, name);
        }
        // A call that has ended without arguments says so late, and its block has said it already.
        if call.state == State::Over {
            return;
        }
        call.arguments.push_str(&arguments_json);
        self.size += arguments_json.len();
        match self.open {
            Some((index, Kind::Call(open))) if open == place => write_arguments(index, &arguments_json, frames),
            Some((_, Kind::Call(open))) if !self.calls[&open].is_whole() => {}
            _ => self.begin_call(place, frames),
        }
        // What waited follows as soon as it may.
        while let Some((_, Kind::Call(open))) = self.open {
            let next = self.calls.iter().find(|(_, call)| call.state == State::Waiting).map(|(place, _)| *place);
            match next.filter(|_| self.calls[&open].is_whole()) {
                Some(next) => self.begin_call(next, frames),
                None => break,
            }
        }
    }

    /// Begins the block of a call with what has come of it.
    fn begin_call(&mut self, place: u32, frames: &mut Frames) {
        self.close(frames);
        let Some(call) = self.calls.get_mut(&place) else { return };
        call.state = State::Written;
        let empty = json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} });
        let arguments = call.arguments.clone();
        let index = self.begin(&empty, frames);
        self.open = Some((index, Kind::Call(place)));
        write_arguments(index, &arguments, frames);
    }
}

/// A call of which something has come.
#[derive(Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    Written,
    Over,
}

impl Call {
    /// Whether its arguments are all there, as far as they show it. None at all may be yet to come.
    fn is_whole(&self) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok()
    }
}

fn write_arguments(index: usize, piece: &str, frames: &mut Frames) {
    if !piece.is_empty() {
        delta_frame(index, &json!({ "type": "input_json_delta", "partial_json": piece }), frames);
    }
}

fn stop_frame(index: usize, frames: &mut Frames) {
    frames.named("content_block_stop", &json!({ "type": "content_block_stop", "index": index }));
}

fn delta_frame(index: usize, delta: &Value, frames: &mut Frames) {
    let event = json!({ "type": "content_block_delta", "index": index, "delta": delta });
    frames.named("content_block_delta", &event);
}

impl http::Writer for Writer {
    fn whole(&mut self, answer: Whole) -> Value {
        let choice = answer.choices.into_iter().next().unwrap_or_default();
        let Choice { text, reasoning, tool_calls, finish_reason, thoughts, logprobs: _ } = choice;
        let (mut content, has_calls) = (Vec::new(), !tool_calls.is_empty());
        if !thoughts.is_empty() {
            content.extend(thoughts.into_iter().map(thought));
        } else if !reasoning.is_empty() {
            content.push(json!({ "type": "thinking", "thinking": reasoning, "signature": "" }));
        }
        if !text.is_empty() {
            content.push(json!({ "type": "text", "text": text }));
        }
        for ToolCall { id, name, arguments_json, signature: _ } in tool_calls {
            content.push(json!({ "type": "tool_use", "id": id, "name": name, "input": input(&arguments_json) }));
        }
        let usage = usage(&answer.usage.unwrap_or_default());
        let reason = stop_reason(finish_reason, has_calls);
        let mut message = self.message(&answer.model, content, reason.into(), usage);
        if !answer.warnings.is_empty() {
            message["postern_warnings"] = answer.warnings.into();
        }
        message
    }

    fn event(&mut self, event: Event, frames: &mut Frames) -> Result<(), Failure> {
        match event {
            Event::Start(start) => {
                let mut message = self.message(&start.model, Vec::new(), Value::Null, self.usage.clone());
                if !start.warnings.is_empty() {
                    message["postern_warnings"] = start.warnings.into();
                }
                frames.named("message_start", &json!({ "type": "message_start", "message": message }));
                self.heartbeat(frames);
            }
            // The API has one answer.
            Event::Delta(Delta { choice_index: 0, delta: Some(delta), .. }) => self.piece(delta, frames),
            Event::Delta(_) => {}
            Event::Usage(counted) => self.usage = usage(&counted),
            Event::End(end) => self.stop_reason = stop_reason(end.finish_reason, !self.calls.is_empty()),
        }
        if self.size > MAX_ANSWER_BYTES { Err(too_large()) } else { Ok(()) }
    }

    fn ended(&mut self, frames: &mut Frames) {
        self.close(frames);
        let waiting = self.calls.iter().filter(|(_, call)| call.state == State::Waiting);
        for place in waiting.map(|(place, _)| *place).collect::<Vec<_>>() {
            self.begin_call(place, frames);
        }
        self.close(frames);
        let delta = json!({ "stop_reason": self.stop_reason, "stop_sequence": null });
        frames.named("message_delta", &json!({ "type": "message_delta", "delta": delta, "usage": self.usage }));
        frames.named("message_stop", &json!({ "type": "message_stop" }));
    }

    fn failed(&mut self, failure: &Failure, frames: &mut Frames) {
        frames.named("error", &envelope(failure, &self.request_id));
    }

    fn heartbeat(&mut self, frames: &mut Frames) {
        frames.named("ping", &json!({ "type": "ping" }));
    }
}

/// Whether a signature is all that is told of a thought, which the model's server keeps to itself. The adapter marks it so.
fn is_redacted(signature: &str) -> bool {
    signature.contains("-redacted:")
}

/// A thought that the model's server signed.
fn thought(Thought { text, signature }: Thought) -> Value {
    match is_redacted(&signature) {
        true => json!({ "type": "redacted_thinking", "data": signature }),
        false => json!({ "type": "thinking", "thinking": text, "signature": signature }),
    }
}

/// What the model wrote, which may be no object.
fn input(arguments_json: &str) -> Value {
    match serde_json::from_str(arguments_json) {
        Ok(Value::Object(object)) => object.into(),
        Ok(other) => json!({ "value": other }),
        Err(_) => json!({ "value": arguments_json }),
    }
}

/// Some servers say that they stopped where they call a tool; the clients of this API run tools only where it says so.
fn stop_reason(reason: i32, has_calls: bool) -> &'static str {
    match FinishReason::try_from(reason).unwrap_or(FinishReason::Other) {
        FinishReason::Stop | FinishReason::Other if has_calls => "tool_use",
        FinishReason::Length => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::ContentFilter => "refusal",
        FinishReason::Stop | FinishReason::Other | FinishReason::Unspecified => "end_turn",
    }
}

/// In this API what came from a cache is not among the input's tokens. The clients demand numbers: unknown ones are 0.
fn usage(usage: &Usage) -> Value {
    let cached = usage.cached_input_tokens.unwrap_or(0);
    let input = usage.input_tokens.unwrap_or(0).saturating_sub(cached);
    json!({
        "input_tokens": input, "output_tokens": usage.output_tokens.unwrap_or(0),
        "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0,
    })
}
