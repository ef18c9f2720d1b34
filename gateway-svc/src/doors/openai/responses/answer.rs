//! What is answered: a response of items, whole or as its events. An answer that fails after its head ends in an `error` event and a
//! failed response, never in a completed one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion as Whole, Delta, FinishReason, ToolCall, ToolCallFragment, Usage, completion_event::Event, delta,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::collect::{MAX_ANSWER_BYTES, too_large};

use crate::doors::http::{self, Told};
use crate::doors::openai::error::envelope;
use crate::doors::sse::Frames;

/// What a response repeats of its request.
pub(super) struct Echo(Map<String, Value>);

/// Members that are repeated, with what they say where the request is silent.
fn repeated() -> Value {
    json!({
        "background": false, "instructions": null, "max_output_tokens": null, "parallel_tool_calls": true,
        "previous_response_id": null, "reasoning": { "effort": null, "summary": null }, "temperature": null,
        "text": { "format": { "type": "text" } }, "tool_choice": "auto", "tools": [], "top_p": null,
        "truncation": "disabled", "user": null, "metadata": {},
    })
}

/// What is repeated, in bytes of JSON all together; what goes beyond is not.
const MAX_ECHO: usize = 64 * 1024;

impl Echo {
    pub(super) fn of(request: &BTreeMap<Cow<'_, str>, &RawValue>) -> Self {
        let Value::Object(mut echo) = repeated() else { return Self(Map::new()) };
        let mut left = MAX_ECHO;
        for (name, value) in &mut echo {
            let said = request.get(name.as_str()).map(|said| said.get()).filter(|said| said.len() <= left);
            if let Some(said) = said.filter(|said| *said != "null") {
                left -= said.len();
                *value = serde_json::from_str(said).unwrap_or(Value::Null);
            }
        }
        // Nothing is kept, whatever was asked.
        echo.insert("store".to_owned(), false.into());
        Self(echo)
    }
}

/// Writes an answer.
pub(super) struct Writer {
    id: String,
    created: u64,
    echo: Echo,
    model: String,
    /// Events so far.
    sequence: u64,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
    /// Bytes of the answer so far, which stands whole in its last event.
    size: usize,
    usage: Value,
    finish: FinishReason,
}

/// Items of an answer.
const MAX_ITEMS: usize = 128;

/// The item that is being written.
struct Open {
    kind: Kind,
    text: String,
    call_id: String,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
    /// The call of this index.
    Call(u32),
}

impl Writer {
    pub(super) fn new(told: Told, echo: Echo) -> Self {
        Self {
            id: told.id,
            created: told.created,
            echo,
            model: String::new(),
            sequence: 0,
            output: Vec::new(),
            open: None,
            size: 0,
            usage: Value::Null,
            finish: FinishReason::Stop,
        }
    }

    fn response(&self, status: &str, error: Value) -> Value {
        let incomplete = match self.finish {
            _ if status != "incomplete" => Value::Null,
            FinishReason::ContentFilter => json!({ "reason": "content_filter" }),
            _ => json!({ "reason": "max_output_tokens" }),
        };
        let mut response = self.echo.0.clone();
        for (name, value) in [
            ("id", format!("resp_{}", self.id).into()),
            ("object", "response".into()),
            ("created_at", self.created.into()),
            ("status", status.into()),
            ("error", error),
            ("incomplete_details", incomplete),
            ("model", self.model.as_str().into()),
            ("output", self.output.clone().into()),
            ("usage", self.usage.clone()),
        ] {
            response.insert(name.to_owned(), value);
        }
        response.into()
    }

    const fn status(&self) -> &'static str {
        match self.finish {
            FinishReason::Length | FinishReason::ContentFilter => "incomplete",
            _ => "completed",
        }
    }

    fn frame(&mut self, name: &str, mut event: Value, frames: &mut Frames) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        frames.named(name, &event);
    }

    fn item_id(&self, kind: Kind) -> String {
        let prefix = match kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call(_) => "fc",
        };
        format!("{prefix}_{}_{}", self.id, self.output.len())
    }

    /// Opens an item of this kind, unless it is open.
    fn item(&mut self, kind: Kind, call: (&str, &str), frames: &mut Frames) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close(frames);
        let (call_id, name) = (call.0.to_owned(), call.1.to_owned());
        self.open = Some(Open { kind, text: String::new(), call_id, name });
        let (at, id) = (self.output.len(), self.item_id(kind));
        let item = shown(kind, &id, "in_progress", None, call, "");
        self.frame("response.output_item.added", json!({ "output_index": at, "item": item }), frames);
        if let Some(part) = part(kind, "") {
            let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": part });
            self.frame("response.content_part.added", event, frames);
        }
    }

    fn grow(&mut self, piece: &str, frames: &mut Frames) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(piece);
        self.size += piece.len();
        let kind = open.kind;
        let mut event = json!({ "item_id": self.item_id(kind), "output_index": self.output.len(), "delta": piece });
        let name = match kind {
            Kind::Message => {
                event["logprobs"] = json!([]);
                "response.output_text.delta"
            }
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Call(_) => "response.function_call_arguments.delta",
        };
        if !matches!(kind, Kind::Call(_)) {
            event["content_index"] = 0.into();
        }
        self.frame(name, event, frames);
    }

    /// Closes the item that is open.
    fn close(&mut self, frames: &mut Frames) {
        let Some(Open { kind, text, call_id, name }) = self.open.take() else { return };
        let (at, id) = (self.output.len(), self.item_id(kind));
        match kind {
            Kind::Call(_) => {
                let event = json!({ "item_id": id, "output_index": at, "name": name, "arguments": text });
                self.frame("response.function_call_arguments.done", event, frames);
            }
            Kind::Message | Kind::Reasoning => {
                let mut event = json!({ "item_id": id, "output_index": at, "content_index": 0, "text": text });
                let name = match kind {
                    Kind::Message => {
                        event["logprobs"] = json!([]);
                        "response.output_text.done"
                    }
                    _ => "response.reasoning_text.done",
                };
                self.frame(name, event, frames);
                let part = part(kind, &text);
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": part });
                self.frame("response.content_part.done", event, frames);
            }
        }
        let item = shown(kind, &id, "completed", Some(&text), (&call_id, &name), &text);
        self.frame("response.output_item.done", json!({ "output_index": at, "item": item }), frames);
        self.output.push(item);
    }
}

/// The part that a text is in; a call has none.
fn part(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Message => Some(json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })),
        Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": text })),
        Kind::Call(_) => None,
    }
}

/// An item; without a text it has no part yet.
fn shown(kind: Kind, id: &str, status: &str, text: Option<&str>, call: (&str, &str), arguments: &str) -> Value {
    let content: Vec<Value> = text.and_then(|text| part(kind, text)).into_iter().collect();
    match kind {
        Kind::Message => {
            json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content })
        }
        Kind::Reasoning => json!({ "id": id, "type": "reasoning", "summary": [], "content": content }),
        Kind::Call(_) => json!({
            "id": id, "type": "function_call", "status": status, "call_id": call.0, "name": call.1, "arguments": arguments,
        }),
    }
}

impl http::Writer for Writer {
    fn whole(&mut self, answer: Whole) -> Value {
        let choice = answer.choices.into_iter().next().unwrap_or_default();
        let Choice { text, reasoning, tool_calls, finish_reason } = choice;
        let mut add = |kind: Kind, text: &str, call: (&str, &str)| {
            let item = shown(kind, &self.item_id(kind), "completed", Some(text), call, text);
            self.output.push(item);
        };
        if !reasoning.is_empty() {
            add(Kind::Reasoning, &reasoning, ("", ""));
        }
        if !text.is_empty() || tool_calls.is_empty() {
            add(Kind::Message, &text, ("", ""));
        }
        for (ToolCall { id, name, arguments_json }, index) in tool_calls.iter().zip(0..) {
            add(Kind::Call(index), arguments_json, (id, name));
        }
        self.model = answer.model;
        self.usage = usage(&answer.usage.unwrap_or_default());
        self.finish = FinishReason::try_from(finish_reason).unwrap_or(FinishReason::Other);
        let mut response = self.response(self.status(), Value::Null);
        if !answer.warnings.is_empty() {
            response["postern_warnings"] = answer.warnings.into();
        }
        response
    }

    fn event(&mut self, event: Event, frames: &mut Frames) -> Result<(), Failure> {
        match event {
            Event::Start(start) => {
                self.model = start.model;
                for name in ["response.created", "response.in_progress"] {
                    let mut response = self.response("in_progress", Value::Null);
                    if !start.warnings.is_empty() {
                        response["postern_warnings"] = start.warnings.clone().into();
                    }
                    self.frame(name, json!({ "response": response }), frames);
                }
            }
            // The API has one answer.
            Event::Delta(Delta { choice_index: 0, delta: Some(delta) }) => match delta {
                delta::Delta::Text(text) => {
                    self.item(Kind::Message, ("", ""), frames);
                    self.grow(&text, frames);
                }
                delta::Delta::Reasoning(thought) => {
                    self.item(Kind::Reasoning, ("", ""), frames);
                    self.grow(&thought, frames);
                }
                delta::Delta::ToolCall(ToolCallFragment { index, id, name, arguments_json }) => {
                    self.item(Kind::Call(index), (&id, &name), frames);
                    if !arguments_json.is_empty() {
                        self.grow(&arguments_json, frames);
                    }
                }
            },
            Event::Delta(_) => {}
            Event::Usage(counted) => self.usage = usage(&counted),
            Event::End(end) => self.finish = FinishReason::try_from(end.finish_reason).unwrap_or(FinishReason::Other),
        }
        if self.size > MAX_ANSWER_BYTES || self.output.len() > MAX_ITEMS {
            return Err(too_large());
        }
        Ok(())
    }

    fn ended(&mut self, frames: &mut Frames) {
        self.close(frames);
        let status = self.status();
        let response = self.response(status, Value::Null);
        self.frame(&format!("response.{status}"), json!({ "response": response }), frames);
    }

    fn failed(&mut self, failure: &Failure, frames: &mut Frames) {
        let told = envelope(failure)["error"].take();
        let (code, message) = (told["code"].clone(), told["message"].clone());
        // The clients raise what has an `error`, and show what has a code and a message of its own.
        let event = json!({ "code": code, "message": message, "param": told["param"], "error": told });
        self.frame("error", event, frames);
        let response = self.response("failed", json!({ "code": code, "message": message }));
        self.frame("response.failed", json!({ "response": response }), frames);
    }
}

/// The clients demand numbers: unknown ones are 0.
fn usage(usage: &Usage) -> Value {
    let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
    json!({
        "input_tokens": input, "input_tokens_details": { "cached_tokens": usage.cached_input_tokens.unwrap_or(0) },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens.unwrap_or(0) },
        "total_tokens": input.saturating_add(output),
    })
}
