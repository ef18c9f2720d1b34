//! What comes back: one message, or events that make one up. A streamed answer is complete with `message_stop` after a stop reason.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Thought, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use super::{REDACTED, SIGNER};
use crate::decode::sse;
use crate::provider::emit::{self, MAX_PARTS, TakeEvent, invalid, truncated};
use crate::provider::{error, say};

fn finish_reason(text: &str) -> FinishReason {
    match text {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// What was said of usage; counts in a stream are of all that came so far.
#[derive(Default)]
struct Counts {
    /// Without what came from a cache or went into one.
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    /// Of the output, what was thought.
    thought: Option<u64>,
}

impl Counts {
    fn take(&mut self, said: &Value) {
        let count = |name: &str| said[name].as_u64();
        self.input = count("input_tokens").or(self.input);
        self.output = count("output_tokens").or(self.output);
        self.cache_read = count("cache_read_input_tokens").or(self.cache_read);
        self.cache_written = count("cache_creation_input_tokens").or(self.cache_written);
        self.thought = said["output_tokens_details"]["thinking_tokens"].as_u64().or(self.thought);
    }

    fn usage(&self) -> Usage {
        let cached = self.cache_read.unwrap_or(0).saturating_add(self.cache_written.unwrap_or(0));
        Usage {
            input_tokens: self.input.map(|input| input.saturating_add(cached)),
            output_tokens: self.output,
            cached_input_tokens: self.cache_read,
            reasoning_tokens: self.thought,
            provenance: UsageProvenance::Reported as i32,
        }
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A message in one piece.
pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let message: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    if text(&message, "type") == "error" || message["error"].is_object() {
        return Err(error::from_object(&message["error"]));
    }
    let blocks = match &message["content"] {
        Value::Array(blocks) => blocks.as_slice(),
        // Of servers of this API that are not its maker's.
        Value::String(_) | Value::Null if message["stop_reason"].is_string() => &[],
        _ => return Err(invalid("no content")),
    };
    let reason = message["stop_reason"].as_str().ok_or_else(truncated)?;
    let (mut said, mut thought, mut calls) = (text(&message, "content").to_owned(), String::new(), Vec::new());
    let mut thoughts = Vec::new();
    for block in blocks {
        match text(block, "type") {
            "text" => said.push_str(text(block, "text")),
            "thinking" => {
                thought.push_str(text(block, "thinking"));
                let signature = text(block, "signature");
                if !signature.is_empty() {
                    let signature = say::signed_by(SIGNER, signature);
                    thoughts.push(Thought { text: text(block, "thinking").to_owned(), signature });
                }
            }
            "redacted_thinking" => {
                let signature = say::signed_by(REDACTED, text(block, "data"));
                thoughts.push(Thought { text: String::new(), signature });
            }
            "tool_use" => calls.push(ToolCall {
                signature: String::new(),
                id: text(block, "id").to_owned(),
                name: text(block, "name").to_owned(),
                arguments_json: arguments(&block["input"]),
            }),
            // Tools that the vendor runs itself, and blocks of later versions.
            _ => {}
        }
    }
    let mut counts = Counts::default();
    counts.take(&message["usage"]);
    let whole = emit::whole((said, thought), calls, finish_reason(reason), Some(counts.usage()));
    Ok(emit::with_thoughts(whole, thoughts))
}

fn arguments(input: &Value) -> String {
    match input {
        Value::Null => "{}".to_owned(),
        Value::String(json) if json.trim().is_empty() => "{}".to_owned(),
        Value::String(json) => json.clone(),
        input => input.to_string(),
    }
}

/// A block that is coming.
enum Block {
    /// Text, and what is passed over.
    Plain,
    /// Thinking, and what has come of its signature.
    Thinking { signature: String },
    /// A tool call: its place among the calls, what it began with, and whether more has come.
    Tool { index: u32, input: String, has_more: bool },
}

impl Block {
    /// A call whose arguments came whole with its begin, or that has none, gets them now; a thought its signature.
    fn end(self, out: &mut Vec<CompletionEvent>) {
        match self {
            Self::Tool { index, input: arguments_json, has_more: false } => {
                emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
            }
            Self::Thinking { signature } if !signature.is_empty() => {
                emit::signature(out, 0, say::signed_by(SIGNER, &signature));
            }
            _ => {}
        }
    }
}

/// The place of an event's block in the answer.
fn place(said: &Value) -> Result<u64, Failure> {
    said["index"].as_u64().ok_or_else(|| invalid("a block has no index"))
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Events {
    /// By their place in the answer.
    blocks: BTreeMap<u64, Block>,
    calls: u32,
    counts: Counts,
    reason: Option<FinishReason>,
    done: bool,
}

impl TakeEvent for Events {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if event.name == "ping" || event.data.trim().is_empty() {
            return Ok(());
        }
        let said: Result<Value, _> = serde_json::from_str(&event.data);
        if event.name == "error" {
            // Servers that stand before it may say it in words alone.
            let said = said.unwrap_or_else(|_| event.data.as_str().into());
            return Err(error::from_object(said.get("error").unwrap_or(&said)));
        }
        let is_known =
            event.name.is_empty() || event.name.starts_with("message_") || event.name.starts_with("content_");
        if said.is_err() && !is_known {
            return Ok(());
        }
        let said = said.map_err(|error| invalid(format_args!("an event is not JSON: {error}")))?;
        let kind = match text(&said, "type") {
            "" if said["error"].is_object() => "error",
            "" => event.name.as_str(),
            kind => kind,
        };
        match kind {
            "message_start" => self.counts.take(&said["message"]["usage"]),
            "content_block_start" => self.begin(&said, out)?,
            "content_block_delta" => self.more(&said, out)?,
            "content_block_stop" => {
                if let Some(block) = self.blocks.remove(&place(&said)?) {
                    block.end(out);
                }
            }
            "message_delta" => {
                self.counts.take(&said["usage"]);
                if let Some(reason) = said["delta"]["stop_reason"].as_str() {
                    self.reason = Some(finish_reason(reason));
                }
            }
            "message_stop" => {
                let reason = self.reason.ok_or_else(truncated)?;
                // Those that nobody stopped.
                std::mem::take(&mut self.blocks).into_values().for_each(|block| block.end(out));
                emit::end(out, Some(self.counts.usage()), &[reason]);
                self.done = true;
            }
            "error" => return Err(error::from_object(&said["error"])),
            // `ping`, and events of later versions.
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

    fn usage(&self) -> Option<Usage> {
        self.counts.input.map(|_| self.counts.usage())
    }
}

impl Events {
    fn begin(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let block = &said["content_block"];
        let begun = match text(block, "type") {
            "tool_use" => {
                let index = self.calls;
                if index as usize >= MAX_PARTS {
                    return Err(invalid("too many tool calls"));
                }
                self.calls += 1;
                let (id, name) = (text(block, "id").to_owned(), text(block, "name").to_owned());
                emit::tool_call(
                    out,
                    0,
                    ToolCallFragment { index, id, name, arguments_json: String::new(), ..ToolCallFragment::default() },
                );
                Block::Tool { index, input: arguments(&block["input"]), has_more: false }
            }
            "thinking" => {
                emit::reasoning(out, 0, text(block, "thinking"));
                Block::Thinking { signature: text(block, "signature").to_owned() }
            }
            "redacted_thinking" => {
                emit::signature(out, 0, say::signed_by(REDACTED, text(block, "data")));
                Block::Plain
            }
            kind => {
                if kind == "text" {
                    emit::text(out, 0, text(block, "text"));
                }
                Block::Plain
            }
        };
        // What is passed over needs no place.
        if !matches!(begun, Block::Plain) {
            if self.blocks.len() >= MAX_PARTS {
                return Err(invalid("too many blocks at once"));
            }
            if let Some(before) = self.blocks.insert(place(said)?, begun) {
                before.end(out);
            }
        }
        Ok(())
    }

    fn more(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let delta = &said["delta"];
        match text(delta, "type") {
            "text_delta" => emit::text(out, 0, text(delta, "text")),
            "thinking_delta" => emit::reasoning(out, 0, text(delta, "thinking")),
            "input_json_delta" => {
                let json = text(delta, "partial_json");
                if let Some(Block::Tool { index, has_more, .. }) = self.blocks.get_mut(&place(said)?)
                    && !json.is_empty()
                {
                    *has_more = true;
                    let fragment = ToolCallFragment {
                        index: *index,
                        arguments_json: json.to_owned(),
                        ..ToolCallFragment::default()
                    };
                    emit::tool_call(out, 0, fragment);
                }
            }
            "signature_delta" => {
                if let Some(Block::Thinking { signature }) = self.blocks.get_mut(&place(said)?) {
                    signature.push_str(text(delta, "signature"));
                    if signature.len() > sse::MAX_EVENT_BYTES {
                        return Err(invalid("a signature is too large"));
                    }
                }
            }
            // Citations, and deltas of later versions.
            _ => {}
        }
        Ok(())
    }
}
