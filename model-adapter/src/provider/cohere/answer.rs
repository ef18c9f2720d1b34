//! What comes back: one answer, or events that make one up. A streamed answer is complete with `message-end`.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use crate::decode::{lines, sse};
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, EventStream, MAX_PARTS, TakeEvent, broken_off, fault, invalid, truncated};
use crate::provider::error;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Why an answer ended; an error is a failure, and no end.
fn finish_reason(text: &str) -> Result<FinishReason, Failure> {
    Ok(match text {
        "COMPLETE" | "STOP_SEQUENCE" => FinishReason::Stop,
        "MAX_TOKENS" | "ERROR_LIMIT" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        "ERROR" => return Err(error::from_object(&Value::Null)),
        _ => FinishReason::Other,
    })
}

/// The tokens that the model saw, or else those that are billed.
fn usage(said: &Value) -> Option<Usage> {
    let counts = [&said["tokens"], &said["billed_units"]].into_iter().find(|counts| counts.is_object())?;
    // They are numbers of any kind by the API's own types.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked; beyond 2^53 nothing is counted"
    )]
    let count = |value: &Value| value.as_f64().filter(|count| (0.0..9e15).contains(count)).map(|count| count as u64);
    Some(Usage {
        input_tokens: count(&counts["input_tokens"]),
        output_tokens: count(&counts["output_tokens"]),
        cached_input_tokens: count(&said["cached_tokens"]),
        provenance: UsageProvenance::Reported as i32,
        ..Usage::default()
    })
}

/// An answer in one piece; also of the first version of the API, which is the text at the top.
pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    let message = &answer["message"];
    if !message.is_object() {
        let said = answer["text"].as_str().ok_or_else(|| invalid("neither a message nor a text"))?;
        let call = |call: &Value| ToolCall {
            id: emit::call_id(),
            name: text(call, "name").to_owned(),
            arguments_json: parameters(call),
            signature: String::new(),
        };
        let calls: Vec<_> = answer["tool_calls"].as_array().into_iter().flatten().map(call).collect();
        let reason = answer["finish_reason"].as_str().map(finish_reason).unwrap_or(Ok(FinishReason::Stop))?;
        let reason = ended(reason, !calls.is_empty());
        return Ok(emit::whole((said.to_owned(), String::new()), calls, reason, usage(&answer["meta"])));
    }
    let reason = answer["finish_reason"].as_str().ok_or_else(truncated)?;
    let (mut said, mut thought) = (String::new(), text(message, "tool_plan").to_owned());
    for part in message["content"].as_array().into_iter().flatten() {
        match text(part, "type") {
            "text" => said.push_str(text(part, "text")),
            "thinking" => thought.push_str(text(part, "thinking")),
            _ => {}
        }
    }
    let call = |call: &Value| ToolCall {
        id: text(call, "id").to_owned(),
        name: text(&call["function"], "name").to_owned(),
        arguments_json: arguments(text(&call["function"], "arguments")).to_owned(),
        signature: String::new(),
    };
    let calls: Vec<_> = message["tool_calls"].as_array().into_iter().flatten().map(call).collect();
    let reason = ended(finish_reason(reason)?, !calls.is_empty());
    Ok(emit::whole((said, thought), calls, reason, usage(&answer["usage"])))
}

/// An answer with calls that says no more than that it ended is one of calls.
fn ended(reason: FinishReason, has_calls: bool) -> FinishReason {
    if reason == FinishReason::Stop && has_calls { FinishReason::ToolCalls } else { reason }
}

/// The arguments of a call in the first version of the API.
fn parameters(call: &Value) -> String {
    let object = &call["parameters"];
    if object.is_null() { "{}".to_owned() } else { object.to_string() }
}

/// No arguments are an empty object, however they are written.
fn arguments(text: &str) -> &str {
    match text.trim() {
        "" | "null" => "{}",
        _ => text,
    }
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Events {
    calls: u32,
    /// A call is coming.
    in_call: bool,
    /// What has come of the arguments of the call that is coming; they are given out as they come, but for a lone `null`.
    arguments: String,
    done: bool,
}

impl Events {
    fn fragment(&self, id: &str, name: &str, arguments: &str) -> ToolCallFragment {
        ToolCallFragment {
            index: self.calls,
            id: id.to_owned(),
            name: name.to_owned(),
            arguments_json: arguments.to_owned(),
            signature: String::new(),
        }
    }
}

impl Events {
    /// The call that is coming, if one is, has come whole.
    fn end_call(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if std::mem::take(&mut self.in_call) {
            let whole = std::mem::take(&mut self.arguments);
            let fragment = self.fragment("", "", arguments(&whole));
            emit::tool_call(out, 0, fragment);
            self.calls += 1;
        }
        if self.calls as usize > MAX_PARTS { Err(invalid("too many tool calls")) } else { Ok(()) }
    }

    /// An event of the first version of the API (<https://docs.cohere.com/v1/reference/chat-stream>), which tells a call whole.
    fn take_first(&mut self, kind: &str, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        match kind {
            "text-generation" => emit::text(out, 0, text(said, "text")),
            "tool-calls-generation" => {
                emit::reasoning(out, 0, text(said, "text"));
                for call in said["tool_calls"].as_array().into_iter().flatten() {
                    let fragment = self.fragment(&emit::call_id(), text(call, "name"), &parameters(call));
                    emit::tool_call(out, 0, fragment);
                    self.calls += 1;
                    if self.calls as usize > MAX_PARTS {
                        return Err(invalid("too many tool calls"));
                    }
                }
            }
            "stream-end" => {
                let reason = ended(finish_reason(text(said, "finish_reason"))?, self.calls > 0);
                emit::end(out, usage(&said["response"]["meta"]), &[reason]);
                self.done = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A stream: server-sent events, or lines of JSON, which the first version of the API sends where nobody asks for events.
#[derive(Default)]
pub(super) struct Stream {
    events: EventStream<Events>,
    /// The lines, where it is no event stream.
    lines: Option<lines::Decoder>,
    begun: bool,
}

impl StreamDecoder for Stream {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if !self.begun
            && let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace())
        {
            self.begun = true;
            self.lines = (*first == b'{').then(lines::Decoder::default);
        }
        let Some(lines) = &mut self.lines else { return self.events.feed(bytes, out) };
        let mut whole = Vec::new();
        let fed = lines.feed(bytes, |line| whole.push(line));
        whole.into_iter().try_for_each(|line| self.take_line(&line, out))?;
        // What follows the end is nobody's concern.
        if self.is_done() { Ok(()) } else { fed.map_err(fault) }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let Some(lines) = &mut self.lines else { return self.events.finish(out) };
        if let Some(line) = lines.finish() {
            self.take_line(&line, out).map_err(|failure| broken_off(&String::from_utf8_lossy(&line), failure))?;
        }
        if self.is_done() { Ok(()) } else { Err(truncated()) }
    }

    fn is_done(&self) -> bool {
        self.events.is_done()
    }
}

impl Stream {
    fn take_line(&mut self, line: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if self.is_done() {
            return Ok(());
        }
        let data = String::from_utf8(line.to_vec()).map_err(|_| invalid("a line is not UTF-8"))?;
        self.events.inner.take(&sse::Event { name: String::new(), data }, out)
    }
}

impl TakeEvent for Events {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let said: Value = serde_json::from_str(&event.data)
            .map_err(|error| invalid(format_args!("an event is not JSON: {error}")))?;
        if let Some(kind) = said["event_type"].as_str() {
            return self.take_first(kind, &said, out);
        }
        let (delta, message) = (&said["delta"], &said["delta"]["message"]);
        match text(&said, "type") {
            "content-start" | "content-delta" => {
                emit::reasoning(out, 0, text(&message["content"], "thinking"));
                emit::text(out, 0, text(&message["content"], "text"));
            }
            "tool-plan-delta" => emit::reasoning(out, 0, text(message, "tool_plan")),
            "tool-call-start" => {
                self.end_call(out)?;
                self.in_call = true;
                let call = &message["tool_calls"];
                let fragment = self.fragment(text(call, "id"), text(&call["function"], "name"), "");
                emit::tool_call(out, 0, fragment);
                self.arguments = text(&call["function"], "arguments").to_owned();
            }
            "tool-call-delta" => self.arguments.push_str(text(&message["tool_calls"]["function"], "arguments")),
            "tool-call-end" => self.end_call(out)?,
            "message-end" => {
                self.end_call(out)?;
                if delta["error"].is_string() {
                    return Err(error::from_object(&delta["error"]));
                }
                let reason = ended(finish_reason(text(delta, "finish_reason"))?, self.calls > 0);
                emit::end(out, usage(&delta["usage"]), &[reason]);
                self.done = true;
            }
            // Begins and ends of parts, citations, and events of later versions.
            _ => {}
        }
        // Arguments of a length that no tool has are no arguments.
        if self.arguments.len() > sse::MAX_EVENT_BYTES {
            return Err(invalid("a tool call's arguments are too large"));
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
