//! OpenAI's responses (<https://platform.openai.com/docs/api-reference/responses>), streamed and not. A streamed answer is complete with
//! `response.completed` or `response.incomplete`; there is no `[DONE]`.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Thought, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use super::SIGNER;
use super::response::NO_ARGUMENTS;
use crate::decode::sse;
use crate::provider::emit::{self, EventStream, MAX_PARTS, TakeEvent, invalid, truncated};
use crate::provider::{error, logprobs, say};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn usage(response: &Value) -> Option<Usage> {
    let said = response.get("usage").filter(|usage| usage.is_object())?;
    Some(Usage {
        input_tokens: said["input_tokens"].as_u64(),
        output_tokens: said["output_tokens"].as_u64(),
        cached_input_tokens: said["input_tokens_details"]["cached_tokens"].as_u64(),
        reasoning_tokens: said["output_tokens_details"]["reasoning_tokens"].as_u64(),
        provenance: UsageProvenance::Reported as i32,
    })
}

/// Why a response that has ended did; `None` for one that has not.
fn finish_reason(response: &Value, has_calls: bool) -> Option<FinishReason> {
    match (text(response, "status"), text(&response["incomplete_details"], "reason")) {
        ("incomplete", "max_output_tokens") => Some(FinishReason::Length),
        ("incomplete", "content_filter") => Some(FinishReason::ContentFilter),
        ("incomplete", _) => Some(FinishReason::Other),
        ("completed", _) if has_calls => Some(FinishReason::ToolCalls),
        ("completed", _) => Some(FinishReason::Stop),
        _ => None,
    }
}

/// The error of a response that failed.
fn failed(response: &Value) -> Option<Failure> {
    let error = response.get("error").filter(|error| !error.is_null());
    match text(response, "status") {
        "failed" | "cancelled" => Some(error::from_object(error.unwrap_or(&Value::Null))),
        _ => error.map(error::from_object),
    }
}

/// Text or reasoning in the parts of an item.
fn parts(item: &Value, list: &str) -> String {
    let part = |part: &Value| part["text"].as_str().or_else(|| part["refusal"].as_str()).map(str::to_owned);
    item[list].as_array().into_iter().flatten().filter_map(part).collect()
}

/// What a message says.
fn words(item: &Value) -> String {
    parts(item, "content")
}

/// The parts of a reasoning item: the reasoning itself where it is told, else its summary.
fn thoughts(item: &Value) -> String {
    match parts(item, "content") {
        told if !told.is_empty() => told,
        _ => parts(item, "summary"),
    }
}

/// The arguments of a call; none are an empty object.
fn arguments_of(item: &Value) -> String {
    match &item["arguments"] {
        Value::String(text) if !text.trim().is_empty() => text.clone(),
        Value::Object(object) => Value::Object(object.clone()).to_string(),
        _ => NO_ARGUMENTS.to_owned(),
    }
}

/// What the server alone can read of a reasoning item.
fn signature(item: &Value) -> Option<String> {
    item["encrypted_content"].as_str().filter(|text| !text.is_empty()).map(|text| say::signed_by(SIGNER, text))
}

/// A response in one piece.
pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let response: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    if let Some(failure) = failed(&response) {
        return Err(failure);
    }
    let output = response["output"].as_array().ok_or_else(|| invalid("no output"))?;
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    let (mut signed, mut likely) = (Vec::new(), Vec::new());
    for item in output {
        match text(item, "type") {
            "message" => {
                said.push_str(&words(item));
                let parts = item["content"].as_array().into_iter().flatten();
                parts
                    .filter_map(|part| part["logprobs"].as_array())
                    .for_each(|list| likely.extend(logprobs::listed(list)));
            }
            "reasoning" => {
                let told = thoughts(item);
                thought.push_str(&told);
                signed.extend(signature(item).map(|signature| Thought { text: told, signature }));
            }
            "function_call" => calls.push(ToolCall {
                signature: String::new(),
                id: text(item, "call_id").to_owned(),
                name: text(item, "name").to_owned(),
                arguments_json: arguments_of(item),
            }),
            // Tools that the vendor runs itself, and items of later versions.
            _ => {}
        }
    }
    let reason = finish_reason(&response, !calls.is_empty()).ok_or_else(truncated)?;
    let mut whole = emit::with_thoughts(emit::whole((said, thought), calls, reason, usage(&response)), signed);
    whole.choices.iter_mut().for_each(|choice| choice.logprobs = std::mem::take(&mut likely));
    Ok(whole)
}

/// Items of one answer; more is a fault.
const MAX_ITEMS: usize = 4096;

/// An item that is coming, and how much of it has been told.
#[derive(Debug, Default)]
struct Item {
    /// Its own name and that of its call, by which events find it that do not say its place.
    names: [String; 2],
    /// The place of a function call among the calls.
    call: Option<u32>,
    /// The arguments that it came with.
    arguments: String,
    has_text: bool,
    has_reasoning: bool,
    has_arguments: bool,
}

/// Largest event, in bytes: the last tells the whole answer again, with how likely each token was.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// The decoder of a streamed response.
pub(super) fn stream() -> EventStream<Events> {
    EventStream::with_events_of(MAX_EVENT_BYTES)
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Events {
    /// By their place in the answer.
    items: BTreeMap<u64, Item>,
    calls: u32,
    has_text: bool,
    has_reasoning: bool,
    done: bool,
}

impl Events {
    /// The place of an event's item: some servers do not say it.
    fn place(&self, event: &Value) -> u64 {
        let names = [&event["item_id"], &event["item"]["id"], &event["item"]["call_id"]];
        let names: Vec<_> = names.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect();
        let is_named = |item: &Item| item.names.iter().any(|name| names.contains(&name.as_str()));
        let newest = || self.items.keys().next_back().copied();
        let by_name = || self.items.iter().rev().find(|(_, item)| is_named(item)).map(|(place, _)| *place);
        event["output_index"].as_u64().or_else(by_name).or_else(newest).unwrap_or(0)
    }

    fn item(&mut self, place: u64) -> Result<&mut Item, Failure> {
        if self.items.len() >= MAX_ITEMS && !self.items.contains_key(&place) {
            return Err(invalid("too many items"));
        }
        Ok(self.items.entry(place).or_default())
    }

    fn begin(&mut self, event: &Value, out: &mut Vec<CompletionEvent>) -> Result<u64, Failure> {
        let next = || self.items.keys().next_back().map_or(0, |newest| newest.saturating_add(1));
        let place = event["output_index"].as_u64().unwrap_or_else(next);
        let item = &event["item"];
        let names = ["id", "call_id"].map(|name| text(item, name).to_owned());
        let mut begun = Item { names, ..Item::default() };
        if text(item, "type") == "function_call" {
            begun.call = Some(self.begin_call(item, out)?);
            text(item, "arguments").clone_into(&mut begun.arguments);
        }
        *self.item(place)? = begun;
        Ok(place)
    }

    fn begin_call(&mut self, item: &Value, out: &mut Vec<CompletionEvent>) -> Result<u32, Failure> {
        let index = self.calls;
        if index as usize >= MAX_PARTS {
            return Err(invalid("too many tool calls"));
        }
        self.calls += 1;
        let (id, name) = (text(item, "call_id").to_owned(), text(item, "name").to_owned());
        emit::tool_call(out, 0, ToolCallFragment { index, id, name, ..ToolCallFragment::default() });
        Ok(index)
    }

    fn text(&mut self, event: &Value, said: &str, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let place = self.place(event);
        self.item(place)?.has_text = true;
        self.has_text = true;
        let likely = event["logprobs"].as_array().map(|list| logprobs::listed(list)).unwrap_or_default();
        emit::likely_text(out, 0, said, likely);
        Ok(())
    }

    fn reasoning(&mut self, place: u64, said: &str, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        self.item(place)?.has_reasoning = true;
        self.has_reasoning = true;
        emit::reasoning(out, 0, said);
        Ok(())
    }

    fn arguments(&mut self, place: u64, more: &str, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let item = self.item(place)?;
        if let Some(index) = item.call.filter(|_| !more.is_empty()) {
            item.has_arguments = true;
            let arguments_json = more.to_owned();
            emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
        }
        Ok(())
    }

    /// A part of an item is whole, or all of it: what servers did not tell piece by piece comes now.
    fn part_is_whole(&mut self, event: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let place = self.place(event);
        let Item { has_text, has_arguments, .. } = *self.item(place)?;
        match text(event, "type") {
            "response.output_text.done" if !has_text => self.text(event, text(event, "text"), out),
            "response.refusal.done" if !has_text => self.text(event, text(event, "refusal"), out),
            "response.function_call_arguments.done" if !has_arguments => {
                self.arguments(place, text(event, "arguments"), out)
            }
            _ => Ok(()),
        }
    }

    fn is_whole(&mut self, event: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let (whole, mut place) = (&event["item"], self.place(event));
        let Item { call, has_text, has_reasoning, has_arguments, .. } = *self.item(place)?;
        match text(whole, "type") {
            "message" if !has_text => self.text(event, &words(whole), out)?,
            "reasoning" => {
                if !has_reasoning {
                    self.reasoning(place, &thoughts(whole), out)?;
                }
                if let Some(signature) = signature(whole) {
                    emit::signature(out, 0, signature);
                }
            }
            "function_call" if !has_arguments => {
                if call.is_none() {
                    place = self.begin(event, out)?;
                }
                self.arguments(place, &arguments_of(whole), out)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The response has ended: kinds of what is in it that nobody has told yet come now.
    fn is_over(&mut self, response: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let (has_text, has_reasoning, has_calls) = (self.has_text, self.has_reasoning, self.calls > 0);
        for (item, place) in response["output"].as_array().into_iter().flatten().zip(u64::MAX / 2..) {
            match text(item, "type") {
                "reasoning" if !has_reasoning => self.reasoning(place, &thoughts(item), out)?,
                "message" if !has_text => emit::text(out, 0, words(item)),
                "function_call" if !has_calls => {
                    let index = self.begin_call(item, out)?;
                    let arguments_json = arguments_of(item);
                    emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
                }
                "function_call" => {
                    let named = self.items.iter().find(|(_, one)| one.names[1] == text(item, "call_id"));
                    if let Some((place, false)) = named.map(|(place, one)| (*place, one.has_arguments)) {
                        self.arguments(place, &arguments_of(item), out)?;
                    }
                }
                _ => {}
            }
        }
        let untold: Vec<_> = self.items.iter().filter(|(_, item)| item.call.is_some() && !item.has_arguments).collect();
        let untold: Vec<_> = untold.into_iter().map(|(place, item)| (*place, item.arguments.clone())).collect();
        for (place, came_with) in untold {
            let arguments = if came_with.is_empty() { NO_ARGUMENTS.to_owned() } else { came_with };
            self.arguments(place, &arguments, out)?;
        }
        Ok(())
    }
}

impl TakeEvent for Events {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        // Some servers end as the older APIs do.
        if event.data.trim() == "[DONE]" {
            return Err(truncated());
        }
        let said: Value = serde_json::from_str(&event.data)
            .map_err(|error| invalid(format_args!("an event is not JSON: {error}")))?;
        let kind = match text(&said, "type") {
            "" if event.name == "error" || said["error"].is_object() => "error",
            kind => kind,
        };
        match kind {
            "response.output_item.added" => drop(self.begin(&said, out)?),
            "response.output_text.delta" | "response.refusal.delta" => self.text(&said, text(&said, "delta"), out)?,
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                self.reasoning(self.place(&said), text(&said, "delta"), out)?;
            }
            "response.function_call_arguments.delta" => {
                self.arguments(self.place(&said), text(&said, "delta"), out)?;
            }
            "response.output_text.done" | "response.refusal.done" | "response.function_call_arguments.done" => {
                self.part_is_whole(&said, out)?;
            }
            "response.output_item.done" => self.is_whole(&said, out)?,
            // The last is OpenRouter's.
            "response.completed" | "response.incomplete" | "response.done" => {
                let response = &said["response"];
                if let Some(failure) = failed(response) {
                    return Err(failure);
                }
                self.is_over(response, out)?;
                let reason = finish_reason(response, self.calls > 0).ok_or_else(truncated)?;
                emit::end(out, usage(response), &[reason]);
                self.done = true;
            }
            "response.failed" => {
                return Err(failed(&said["response"]).unwrap_or_else(|| error::from_object(&Value::Null)));
            }
            // Its members stand in the event itself, or in one of their own.
            "error" => {
                return Err(error::from_object(said.get("error").filter(|error| error.is_object()).unwrap_or(&said)));
            }
            // Tools that the vendor runs itself, annotations, and events of later versions.
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, _: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        Err(truncated())
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::StreamDecoder as _;

    /// The last event tells all of it again, with how likely each token was.
    #[test]
    fn a_last_event_larger_than_any_other_is_no_fault() {
        let likely = json!({ "token": "x".repeat(40), "logprob": -0.5, "bytes": vec![120; 40], "top_logprobs": [] });
        let part = json!({ "type": "output_text", "text": "ok", "logprobs": vec![likely; 5000] });
        let response = json!({ "status": "completed", "output": [{ "type": "message", "content": [part] }] });
        let last = json!({ "type": "response.completed", "response": response }).to_string();
        assert!(last.len() > sse::MAX_EVENT_BYTES && last.len() < MAX_EVENT_BYTES);
        let (mut decoder, mut out) = (stream(), Vec::new());
        decoder.feed(format!("data: {last}\n\n").as_bytes(), &mut out).unwrap();
        assert!(decoder.is_done() && out.len() == 3, "{out:?}");
    }

    #[test]
    fn endless_items_and_calls_are_refused() {
        let begun = |kind: &str, from: usize, to: usize| {
            let (mut events, mut out) = (Events::default(), Vec::new());
            (from..to).try_for_each(|at| {
                let data =
                    json!({ "type": "response.output_item.added", "output_index": at, "item": { "type": kind } });
                events.take(&sse::Event { name: String::new(), data: data.to_string() }, &mut out)
            })
        };
        assert!(begun("web_search_call", 0, MAX_ITEMS).is_ok() && begun("web_search_call", 0, MAX_ITEMS + 1).is_err());
        assert!(begun("function_call", 7, 7 + MAX_PARTS).is_ok() && begun("function_call", 0, MAX_PARTS + 1).is_err());
    }
}
