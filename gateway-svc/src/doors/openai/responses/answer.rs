//! What is answered: a response of items, whole or as its events. An answer that fails after its head ends in an `error` event and a
//! failed response, never in a completed one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion as Whole, Delta, FinishReason, Thought, TokenLogprob, ToolCall, ToolCallFragment, Usage,
    completion_event::Event, delta,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::collect::{MAX_ANSWER_BYTES, count_likely, too_large};

use super::tools::Tools;
use crate::doors::http::{self, Told};
use crate::doors::openai::error::envelope;
use crate::doors::openai::logprobs;
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
    /// The answer, which stands whole in its last event.
    items: Vec<Item>,
    /// The item of a text or a thought that is being written.
    open: Option<usize>,
    /// The items of calls by index; servers may write several at once.
    calls: BTreeMap<u32, usize>,
    /// The tools that are no plain functions, by the name that the model knows.
    tools: Tools,
    /// Bytes of the answer so far, and of how likely its tokens were.
    size: usize,
    likely: usize,
    usage: Value,
    finish: FinishReason,
}

/// Items of an answer.
const MAX_ITEMS: usize = 128;

/// A piece of the answer.
struct Item {
    kind: Kind,
    text: String,
    /// How likely the tokens of a text were.
    likely: Vec<TokenLogprob>,
    /// What the server wants back with a thought.
    signature: String,
    call_id: String,
    name: String,
    /// `in_progress`, `completed`, or `incomplete` for one that was cut off.
    status: &'static str,
}

impl Item {
    fn of(kind: Kind, text: String, status: &'static str) -> Self {
        let (likely, signature, call_id, name) = Default::default();
        Self { kind, text, likely, signature, call_id, name, status }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
    Call,
    /// Of a tool that takes a text and not JSON.
    CustomCall,
}

impl Writer {
    pub(super) fn new(told: Told, echo: Echo, tools: Tools) -> Self {
        Self {
            id: told.id,
            created: told.created,
            echo,
            model: String::new(),
            sequence: 0,
            items: Vec::new(),
            open: None,
            calls: BTreeMap::new(),
            tools,
            size: 0,
            likely: 0,
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
        let done = self.items.iter().enumerate().filter(|(_, item)| item.status != "in_progress");
        let output: Vec<Value> = done.map(|(at, item)| self.shown(at, item)).collect();
        let mut response = self.echo.0.clone();
        for (name, value) in [
            ("id", format!("resp_{}", self.id).into()),
            ("object", "response".into()),
            ("created_at", self.created.into()),
            ("status", status.into()),
            ("error", error),
            ("incomplete_details", incomplete),
            ("model", self.model.as_str().into()),
            ("output", output.into()),
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

    /// How a call ended: one of which the arguments are no JSON was cut off with the answer.
    fn call_status(&self, at: usize) -> &'static str {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&self.items[at].text).is_ok();
        if is_json { "completed" } else { self.status() }
    }

    fn frame(&mut self, name: &str, mut event: Value, frames: &mut Frames) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        frames.named(name, &event);
    }

    fn item_id(&self, at: usize, kind: Kind) -> String {
        let prefix = match kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call => "fc",
            Kind::CustomCall => "ctc",
        };
        format!("{prefix}_{}_{at}", self.id)
    }

    /// An item as it stands: one that has just begun has no part yet.
    fn shown(&self, at: usize, item: &Item) -> Value {
        let Item { kind, text, likely, signature, call_id, name, status } = item;
        let id = self.item_id(at, *kind);
        let text_now = Some(text).filter(|_| *status != "in_progress");
        let content: Vec<Value> = text_now.and_then(|text| part(*kind, text, likely)).into_iter().collect();
        match kind {
            Kind::Message => {
                json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content })
            }
            Kind::Reasoning => {
                let mut item = json!({ "id": id, "type": "reasoning", "summary": [], "content": content });
                if !signature.is_empty() {
                    item["encrypted_content"] = signature.as_str().into();
                }
                item
            }
            Kind::Call => {
                let mut call = json!({
                    "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": text,
                });
                if let Some((namespace, name)) = self.tools.namespaced(name) {
                    call["namespace"] = namespace.into();
                    call["name"] = name.into();
                }
                call
            }
            Kind::CustomCall => json!({
                "id": id, "type": "custom_tool_call", "status": status, "call_id": call_id, "name": name,
                "input": custom_input(text),
            }),
        }
    }

    fn begin(&mut self, kind: Kind, (call_id, name): (String, String), frames: &mut Frames) -> usize {
        let at = self.items.len();
        let item = Item { call_id, name, ..Item::of(kind, String::new(), "in_progress") };
        let (added, id) = (self.shown(at, &item), self.item_id(at, kind));
        self.items.push(item);
        self.frame("response.output_item.added", json!({ "output_index": at, "item": added }), frames);
        if let Some(part) = part(kind, "", &[]) {
            let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": part });
            self.frame("response.content_part.added", event, frames);
        }
        at
    }

    /// Begins an item of a text or a thought, unless one of the kind is being written.
    fn item(&mut self, kind: Kind, frames: &mut Frames) -> usize {
        match self.open {
            Some(at) if self.items[at].kind == kind => at,
            _ => {
                self.close_open(frames);
                let at = self.begin(kind, (String::new(), String::new()), frames);
                self.open = Some(at);
                at
            }
        }
    }

    fn call(&mut self, fragment: ToolCallFragment, frames: &mut Frames) {
        let ToolCallFragment { index, id, name, arguments_json, signature: _ } = fragment;
        let at = match self.calls.get(&index) {
            Some(at) => *at,
            None => {
                self.close_open(frames);
                let kind = if self.tools.is_custom(&name) { Kind::CustomCall } else { Kind::Call };
                let at = self.begin(kind, (id, name), frames);
                self.calls.insert(index, at);
                at
            }
        };
        if !arguments_json.is_empty() {
            self.grow(at, &arguments_json, &[], frames);
        }
    }

    fn grow(&mut self, at: usize, piece: &str, likely: &[TokenLogprob], frames: &mut Frames) {
        self.items[at].text.push_str(piece);
        self.size += piece.len();
        self.items[at].likely.extend_from_slice(likely);
        let kind = self.items[at].kind;
        let mut event = json!({ "item_id": self.item_id(at, kind), "output_index": at, "delta": piece });
        let name = match kind {
            Kind::Message => {
                event["logprobs"] = logprobs::listed(likely);
                event["content_index"] = 0.into();
                "response.output_text.delta"
            }
            Kind::Reasoning => {
                event["content_index"] = 0.into();
                "response.reasoning_text.delta"
            }
            Kind::Call => "response.function_call_arguments.delta",
            // What the text is shows when all of the JSON around it has come.
            Kind::CustomCall => return,
        };
        self.frame(name, event, frames);
    }

    fn close_open(&mut self, frames: &mut Frames) {
        if let Some(at) = self.open.take() {
            self.close(at, "completed", frames);
        }
    }

    /// Closes an item. A call that was cut off is not said to be done: somebody would run it.
    fn close(&mut self, at: usize, status: &'static str, frames: &mut Frames) {
        self.items[at].status = status;
        let (kind, text, name) = (self.items[at].kind, self.items[at].text.clone(), self.items[at].name.clone());
        let mut event = json!({ "item_id": self.item_id(at, kind), "output_index": at });
        match kind {
            Kind::Call | Kind::CustomCall if status == "incomplete" => {}
            Kind::Call => {
                event["name"] = name.into();
                event["arguments"] = text.into();
                self.frame("response.function_call_arguments.done", event, frames);
            }
            Kind::CustomCall => {
                let input = custom_input(&text);
                event["delta"] = input.as_str().into();
                self.frame("response.custom_tool_call_input.delta", event.clone(), frames);
                if let Some(event) = event.as_object_mut() {
                    event.remove("delta");
                }
                event["input"] = input.into();
                self.frame("response.custom_tool_call_input.done", event, frames);
            }
            Kind::Message | Kind::Reasoning => {
                event["content_index"] = 0.into();
                let part = part(kind, &text, &self.items[at].likely);
                let mut done = event.clone();
                done["text"] = text.into();
                let name = match kind {
                    Kind::Message => {
                        done["logprobs"] = logprobs::listed(&self.items[at].likely);
                        "response.output_text.done"
                    }
                    _ => "response.reasoning_text.done",
                };
                self.frame(name, done, frames);
                event["part"] = part.into();
                self.frame("response.content_part.done", event, frames);
            }
        }
        let item = self.shown(at, &self.items[at]);
        self.frame("response.output_item.done", json!({ "output_index": at, "item": item }), frames);
    }
}

/// The text within the arguments of a call of a tool that takes a text.
/// What was cut off is none.
fn custom_input(arguments: &str) -> String {
    match serde_json::from_str::<Value>(arguments) {
        Ok(value) => value["input"].as_str().map_or_else(|| arguments.to_owned(), str::to_owned),
        Err(_) => String::new(),
    }
}

/// The part that a text is in; a call has none.
fn part(kind: Kind, text: &str, likely: &[TokenLogprob]) -> Option<Value> {
    match kind {
        Kind::Message => {
            let likely = logprobs::listed(likely);
            Some(json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": likely }))
        }
        Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": text })),
        Kind::Call | Kind::CustomCall => None,
    }
}

impl http::Writer for Writer {
    fn whole(&mut self, answer: Whole) -> Value {
        let choice = answer.choices.into_iter().next().unwrap_or_default();
        let Choice { text, reasoning, tool_calls, finish_reason, thoughts, logprobs: likely } = choice;
        let done = |kind: Kind, text: String| Item::of(kind, text, "completed");
        if !reasoning.is_empty() && thoughts.is_empty() {
            self.items.push(done(Kind::Reasoning, reasoning));
        }
        for Thought { text, signature } in thoughts {
            self.items.push(Item { signature, ..done(Kind::Reasoning, text) });
        }
        if !text.is_empty() || tool_calls.is_empty() {
            self.items.push(Item { likely, ..done(Kind::Message, text) });
        }
        for ToolCall { id, name, arguments_json, signature: _ } in tool_calls {
            let kind = if self.tools.is_custom(&name) { Kind::CustomCall } else { Kind::Call };
            self.items.push(Item { call_id: id, name, ..done(kind, arguments_json) });
        }
        self.model = answer.model;
        self.usage = usage(&answer.usage.unwrap_or_default());
        self.finish = FinishReason::try_from(finish_reason).unwrap_or(FinishReason::Other);
        for at in 0..self.items.len() {
            self.items[at].status = match self.items[at].kind {
                Kind::Call | Kind::CustomCall => self.call_status(at),
                Kind::Message if at + 1 == self.items.len() => self.status(),
                _ => "completed",
            };
        }
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
            Event::Delta(Delta { choice_index: 0, delta: Some(delta), logprobs: likely }) => match delta {
                delta::Delta::Text(text) => {
                    count_likely(&mut self.likely, &likely)?;
                    let at = self.item(Kind::Message, frames);
                    self.grow(at, &text, &likely, frames);
                }
                delta::Delta::Reasoning(thought) => {
                    let at = self.item(Kind::Reasoning, frames);
                    self.grow(at, &thought, &[], frames);
                }
                delta::Delta::ReasoningSignature(signature) => {
                    let at = self.item(Kind::Reasoning, frames);
                    self.size += signature.len();
                    self.items[at].signature = signature;
                    // The next thought is another.
                    self.close_open(frames);
                }
                delta::Delta::ToolCall(fragment) => self.call(fragment, frames),
            },
            Event::Delta(_) => {}
            Event::Usage(counted) => self.usage = usage(&counted),
            Event::End(end) => self.finish = FinishReason::try_from(end.finish_reason).unwrap_or(FinishReason::Other),
        }
        if self.size > MAX_ANSWER_BYTES || self.items.len() > MAX_ITEMS {
            return Err(too_large());
        }
        Ok(())
    }

    fn ended(&mut self, frames: &mut Frames) {
        let status = self.status();
        if let Some(at) = self.open.take() {
            self.close(at, status, frames);
        }
        for at in std::mem::take(&mut self.calls).into_values() {
            self.close(at, self.call_status(at), frames);
        }
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
        "input_tokens": input, "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens.unwrap_or(0), "cache_write_tokens": 0,
        },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens.unwrap_or(0) },
        "total_tokens": input.saturating_add(output),
    })
}
