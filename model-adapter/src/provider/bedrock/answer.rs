//! What comes back: one message, or messages of an event stream that make one up. A streamed answer is complete when `messageStop` has
//! come and its `metadata`, or the end of the body.

use std::collections::BTreeMap;

use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Thought, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use postern_proto::{Blame, Failure, Reason};
use serde_json::Value;

use super::{REDACTED, SIGNER};
use crate::decode::event_stream::{self, Message};
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, MAX_PARTS, invalid, truncated};
use crate::provider::{error, say};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn finish_reason(text: &str) -> FinishReason {
    match text {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "guardrail_intervened" | "content_filtered" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// Some models say that their turn ends where they call a tool.
fn ended(reason: FinishReason, has_calls: bool) -> FinishReason {
    if reason == FinishReason::Stop && has_calls { FinishReason::ToolCalls } else { reason }
}

/// Whether this is a call for the caller: some tools the server runs itself.
fn is_callers(call: &Value) -> bool {
    call.is_object() && call["type"] != "server_tool_use"
}

fn usage(said: &Value) -> Option<Usage> {
    // What came from a cache or went into one is counted apart.
    let cached = said["cacheReadInputTokens"].as_u64().unwrap_or(0);
    let cached = cached.saturating_add(said["cacheWriteInputTokens"].as_u64().unwrap_or(0));
    said.is_object().then(|| Usage {
        input_tokens: said["inputTokens"].as_u64().map(|input| input.saturating_add(cached)),
        output_tokens: said["outputTokens"].as_u64(),
        cached_input_tokens: said["cacheReadInputTokens"].as_u64(),
        provenance: UsageProvenance::Reported as i32,
        ..Usage::default()
    })
}

pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    let content = answer["output"]["message"]["content"].as_array().ok_or_else(|| invalid("no message"))?;
    let reason = answer["stopReason"].as_str().ok_or_else(truncated)?;
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    let mut thoughts = Vec::new();
    for block in content {
        said.push_str(text(block, "text"));
        // What is said with its sources.
        for piece in block["citationsContent"]["content"].as_array().into_iter().flatten() {
            said.push_str(text(piece, "text"));
        }
        let (reasoning, hidden) =
            (&block["reasoningContent"]["reasoningText"], text(&block["reasoningContent"], "redactedContent"));
        thought.push_str(text(reasoning, "text"));
        if !hidden.is_empty() {
            thoughts.push(Thought { text: String::new(), signature: say::signed_by(REDACTED, hidden) });
        } else if !text(reasoning, "signature").is_empty() {
            let signature = say::signed_by(SIGNER, text(reasoning, "signature"));
            thoughts.push(Thought { text: text(reasoning, "text").to_owned(), signature });
        }
        let call = &block["toolUse"];
        if is_callers(call) {
            let arguments_json = if call["input"].is_null() { "{}".to_owned() } else { call["input"].to_string() };
            let (id, name) = (text(call, "toolUseId").to_owned(), text(call, "name").to_owned());
            calls.push(ToolCall { id, name, arguments_json, signature: String::new() });
        }
    }
    let reason = ended(finish_reason(reason), !calls.is_empty());
    Ok(emit::with_thoughts(emit::whole((said, thought), calls, reason, usage(&answer["usage"])), thoughts))
}

/// Largest signature of a thought, in bytes.
const MAX_SIGNATURE_BYTES: usize = 1024 * 1024;

/// What has come so far.
#[derive(Default)]
pub(super) struct Messages {
    frames: event_stream::Decoder,
    /// The tool calls by their block: their place among the calls, and whether any arguments have come.
    blocks: BTreeMap<u64, (u32, bool)>,
    calls: u32,
    /// What has come of the signature of the thought that is coming, and who signs so.
    signature: Option<(&'static str, String)>,
    reason: Option<FinishReason>,
    /// The metadata, once it has come, with the usage if that is in it.
    usage: Option<Option<Usage>>,
    done: bool,
}

impl StreamDecoder for Messages {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let mut messages = Vec::new();
        let fed = self.frames.feed(bytes, |message| messages.push(message));
        for message in messages {
            if !self.done {
                self.take(&message, out)?;
            }
        }
        // What follows the end is nobody's concern.
        if self.done { Ok(()) } else { fed.map_err(invalid) }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        match self.reason.filter(|_| self.frames.is_empty()) {
            Some(reason) => {
                self.end(reason, out);
                Ok(())
            }
            None => Err(truncated()),
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.flatten()
    }
}

/// What an exception in the stream means.
fn exception(kind: &str, said: &Value) -> Failure {
    let status = match kind {
        "throttlingException" => 429,
        "validationException" => 400,
        "serviceUnavailableException" | "modelNotReadyException" => 503,
        _ => 500,
    };
    let mut error = said.clone();
    if error.is_object() {
        error["code"] = status.into();
    }
    match kind {
        "modelTimeoutException" => {
            Failure::new(Reason::ModelFailed, "the model's server gave the model up").with_blame(Blame::Upstream)
        }
        _ => error::from_object(&error),
    }
}

fn no_arguments(index: u32, out: &mut Vec<CompletionEvent>) {
    let arguments_json = "{}".to_owned();
    emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
}

impl Messages {
    fn take(&mut self, message: &Message, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let said: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let header = |name: &str| message.header(name).unwrap_or_default();
        match header(":message-type") {
            "event" => {}
            "exception" => return Err(exception(header(":exception-type"), &said)),
            "error" => {
                let said = serde_json::json!({ "message": header(":error-message") });
                return Err(exception(header(":error-code"), &said));
            }
            other => return Err(invalid(format_args!("a message of the type `{other}`"))),
        }
        match header(":event-type") {
            "contentBlockStart" => self.begin(&said, out)?,
            "contentBlockDelta" => self.more(&said, out)?,
            "contentBlockStop" => self.stop(&said, out),
            "messageStop" => {
                self.end_calls(out);
                self.reason = Some(finish_reason(text(&said, "stopReason")));
            }
            "metadata" => self.usage = Some(usage(&said["usage"]).or(self.usage.flatten())),
            // `messageStart`, and events of later versions.
            _ => {}
        }
        // Some models tell their usage before they stop.
        if let (Some(reason), true) = (self.reason, self.usage.is_some()) {
            self.end(reason, out);
        }
        Ok(())
    }

    fn end(&mut self, reason: FinishReason, out: &mut Vec<CompletionEvent>) {
        emit::end(out, self.usage.take().flatten(), &[ended(reason, self.calls > 0)]);
        self.done = true;
    }

    /// The call that is in a block.
    fn block(&mut self, said: &Value) -> Option<&mut (u32, bool)> {
        self.blocks.get_mut(&said["contentBlockIndex"].as_u64().unwrap_or(0))
    }

    fn begin(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let call = &said["start"]["toolUse"];
        if is_callers(call) {
            let index = self.calls;
            if index as usize >= MAX_PARTS {
                return Err(invalid("too many tool calls"));
            }
            self.calls += 1;
            self.blocks.insert(said["contentBlockIndex"].as_u64().unwrap_or(0), (index, false));
            let (id, name) = (text(call, "toolUseId").to_owned(), text(call, "name").to_owned());
            emit::tool_call(
                out,
                0,
                ToolCallFragment { index, id, name, arguments_json: String::new(), ..ToolCallFragment::default() },
            );
        }
        Ok(())
    }

    fn more(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let delta = &said["delta"];
        emit::text(out, 0, text(delta, "text"));
        let thought = &delta["reasoningContent"];
        emit::reasoning(out, 0, text(thought, "text"));
        for (signer, piece) in [(SIGNER, text(thought, "signature")), (REDACTED, text(thought, "redactedContent"))] {
            if !piece.is_empty() {
                let (_, signature) = self.signature.get_or_insert_with(|| (signer, String::new()));
                signature.push_str(piece);
                if signature.len() > MAX_SIGNATURE_BYTES {
                    return Err(invalid("a signature is too large"));
                }
            }
        }
        let input = text(&delta["toolUse"], "input");
        if !input.is_empty()
            && let Some((index, has_more)) = self.block(said)
        {
            *has_more = true;
            let fragment =
                ToolCallFragment { index: *index, arguments_json: input.to_owned(), ..ToolCallFragment::default() };
            emit::tool_call(out, 0, fragment);
        }
        Ok(())
    }

    /// A call without arguments gets none, and a thought its signature.
    fn stop(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) {
        if let Some((signer, signature)) = self.signature.take() {
            emit::signature(out, 0, say::signed_by(signer, &signature));
        }
        if let Some((index, false)) = self.blocks.remove(&said["contentBlockIndex"].as_u64().unwrap_or(0)) {
            no_arguments(index, out);
        }
    }

    /// The calls whose blocks were not stopped end with the message.
    fn end_calls(&mut self, out: &mut Vec<CompletionEvent>) {
        for (_, (index, has_more)) in std::mem::take(&mut self.blocks) {
            if !has_more {
                no_arguments(index, out);
            }
        }
    }
}
