//! OpenAI's responses (<https://platform.openai.com/docs/api-reference/responses>), streamed and not. A streamed answer is complete with
//! `response.completed` or `response.incomplete`; there is no `[DONE]`.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Thought, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use super::SIGNER;
use crate::decode::sse;
use crate::provider::emit::{self, MAX_PARTS, TakeEvent, invalid, truncated};
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

/// The parts of a reasoning item: the reasoning itself where it is told, else its summary.
fn thoughts(item: &Value) -> String {
    match parts(item, "content") {
        told if !told.is_empty() => told,
        _ => parts(item, "summary"),
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
                said.push_str(&parts(item, "content"));
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
                arguments_json: text(item, "arguments").to_owned(),
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

/// An item that is coming, and how much of it has been told.
#[derive(Debug, Clone, Default)]
struct Item {
    /// The place of a function call among the calls.
    call: Option<u32>,
    has_text: bool,
    has_reasoning: bool,
    has_arguments: bool,
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Events {
    items: Vec<Item>,
    calls: u32,
    done: bool,
}

impl Events {
    fn item(&mut self, event: &Value) -> Result<&mut Item, Failure> {
        let index = event["output_index"].as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(0);
        if index >= MAX_PARTS {
            return Err(invalid("an item's index is out of bounds"));
        }
        if self.items.len() <= index {
            self.items.resize(index + 1, Item::default());
        }
        self.items.get_mut(index).ok_or_else(|| invalid("an item's index is out of bounds"))
    }

    fn begin(&mut self, event: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let item = &event["item"];
        let mut begun = Item::default();
        if text(item, "type") == "function_call" {
            let index = self.calls;
            self.calls += 1;
            begun.call = Some(index);
            let (id, name) = (text(item, "call_id").to_owned(), text(item, "name").to_owned());
            emit::tool_call(
                out,
                0,
                ToolCallFragment { index, id, name, arguments_json: String::new(), ..ToolCallFragment::default() },
            );
        }
        *self.item(event)? = begun;
        Ok(())
    }

    fn arguments(&mut self, event: &Value, more: &str, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let item = self.item(event)?;
        if let Some(index) = item.call.filter(|_| !more.is_empty()) {
            item.has_arguments = true;
            let arguments_json = more.to_owned();
            emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
        }
        Ok(())
    }

    /// An item is whole: what servers did not tell piece by piece comes now.
    fn whole(&mut self, event: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let whole = &event["item"];
        let item = self.item(event)?.clone();
        match text(whole, "type") {
            "message" if !item.has_text => emit::text(out, 0, parts(whole, "content")),
            "reasoning" => {
                if !item.has_reasoning {
                    emit::reasoning(out, 0, thoughts(whole));
                }
                if let Some(signature) = signature(whole) {
                    emit::signature(out, 0, signature);
                }
            }
            "function_call" if item.call.is_none() => {
                self.begin(event, out)?;
                self.arguments(event, text(whole, "arguments"), out)?;
            }
            "function_call" if !item.has_arguments => self.arguments(event, text(whole, "arguments"), out)?,
            _ => {}
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
        match text(&said, "type") {
            "response.output_item.added" => self.begin(&said, out)?,
            "response.output_text.delta" | "response.refusal.delta" => {
                self.item(&said)?.has_text = true;
                let likely = said["logprobs"].as_array().map(|list| logprobs::listed(list)).unwrap_or_default();
                emit::likely_text(out, 0, text(&said, "delta"), likely);
            }
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                self.item(&said)?.has_reasoning = true;
                emit::reasoning(out, 0, text(&said, "delta"));
            }
            "response.function_call_arguments.delta" => self.arguments(&said, text(&said, "delta"), out)?,
            "response.output_item.done" => self.whole(&said, out)?,
            // The last is OpenRouter's.
            "response.completed" | "response.incomplete" | "response.done" => {
                let response = &said["response"];
                if let Some(failure) = failed(response) {
                    return Err(failure);
                }
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
