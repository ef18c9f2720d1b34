//! What comes back: one message, or events that make one up. A streamed answer is complete with `message_stop` after a stop reason.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Thought, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::{Map, Value};

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
}

impl Counts {
    fn take(&mut self, said: &Value) {
        let count = |name: &str| said[name].as_u64();
        self.input = count("input_tokens").or(self.input);
        self.output = count("output_tokens").or(self.output);
        self.cache_read = count("cache_read_input_tokens").or(self.cache_read);
        self.cache_written = count("cache_creation_input_tokens").or(self.cache_written);
    }

    fn usage(&self) -> Usage {
        let cached = self.cache_read.unwrap_or(0).saturating_add(self.cache_written.unwrap_or(0));
        Usage {
            input_tokens: self.input.map(|input| input.saturating_add(cached)),
            output_tokens: self.output,
            cached_input_tokens: self.cache_read,
            provenance: UsageProvenance::Reported as i32,
            ..Usage::default()
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
    let content = message["content"].as_array().ok_or_else(|| invalid("no content"))?;
    let reason = message["stop_reason"].as_str().ok_or_else(truncated)?;
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    let mut thoughts = Vec::new();
    for block in content {
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
    Tool { index: u32, input: Map<String, Value>, has_more: bool },
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Events {
    blocks: Vec<Option<Block>>,
    calls: u32,
    counts: Counts,
    reason: Option<FinishReason>,
    done: bool,
}

impl TakeEvent for Events {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let said: Value = serde_json::from_str(&event.data)
            .map_err(|error| invalid(format_args!("an event is not JSON: {error}")))?;
        match text(&said, "type") {
            "message_start" => self.counts.take(&said["message"]["usage"]),
            "content_block_start" => self.begin(&said, out)?,
            "content_block_delta" => self.more(&said, out)?,
            "content_block_stop" => self.stop(&said, out)?,
            "message_delta" => {
                self.counts.take(&said["usage"]);
                if let Some(reason) = said["delta"]["stop_reason"].as_str() {
                    self.reason = Some(finish_reason(reason));
                }
            }
            "message_stop" => {
                let reason = self.reason.ok_or_else(truncated)?;
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
}

impl Events {
    fn block(&mut self, said: &Value) -> Result<&mut Option<Block>, Failure> {
        let index = said["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        let index =
            index.filter(|index| *index < MAX_PARTS).ok_or_else(|| invalid("a block's index is out of bounds"))?;
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        self.blocks.get_mut(index).ok_or_else(|| invalid("a block's index is out of bounds"))
    }

    fn begin(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let block = &said["content_block"];
        let begun = match text(block, "type") {
            "tool_use" => {
                let index = self.calls;
                self.calls += 1;
                let (id, name) = (text(block, "id").to_owned(), text(block, "name").to_owned());
                emit::tool_call(
                    out,
                    0,
                    ToolCallFragment { index, id, name, arguments_json: String::new(), ..ToolCallFragment::default() },
                );
                let input = block["input"].as_object().cloned().unwrap_or_default();
                Block::Tool { index, input, has_more: false }
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
        *self.block(said)? = Some(begun);
        Ok(())
    }

    fn more(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let delta = &said["delta"];
        match text(delta, "type") {
            "text_delta" => emit::text(out, 0, text(delta, "text")),
            "thinking_delta" => emit::reasoning(out, 0, text(delta, "thinking")),
            "input_json_delta" => {
                let json = text(delta, "partial_json");
                if let Some(Block::Tool { index, has_more, .. }) = self.block(said)?
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
                if let Some(Block::Thinking { signature }) = self.block(said)? {
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

    /// A call whose arguments came whole with its begin, or that has none, gets them now; a thought its signature.
    fn stop(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        match self.block(said)?.take() {
            Some(Block::Tool { index, input, has_more: false }) => {
                let arguments_json = Value::Object(input).to_string();
                emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
            }
            Some(Block::Thinking { signature }) if !signature.is_empty() => {
                emit::signature(out, 0, say::signed_by(SIGNER, &signature));
            }
            _ => {}
        }
        Ok(())
    }
}
