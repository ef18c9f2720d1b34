//! What comes back: one response, or a stream of them, each with some more parts. There is no terminator: an answer is complete when a
//! finish reason, or the reason why the prompt was blocked, has come and the body ends.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use super::SIGNER;
use super::arguments::Arguments;
use crate::decode::sse;
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, EventStream, TakeEvent, invalid, truncated};
use crate::provider::{error, logprobs, say};

fn finish_reason(text: &str) -> FinishReason {
    match text {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "MODEL_ARMOR"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

fn usage(said: &Value) -> Usage {
    let count = |name: &str| said[name].as_u64();
    let thoughts = count("thoughtsTokenCount");
    Usage {
        // What tools of the server's own brought is read like the prompt.
        input_tokens: count("promptTokenCount")
            .map(|asked| asked.saturating_add(count("toolUsePromptTokenCount").unwrap_or(0))),
        // Thoughts are paid for like the rest of the answer.
        // A count of nothing is left out.
        output_tokens: Some(count("candidatesTokenCount").unwrap_or(0).saturating_add(thoughts.unwrap_or(0))),
        cached_input_tokens: count("cachedContentTokenCount"),
        reasoning_tokens: thoughts,
        provenance: UsageProvenance::Reported as i32,
    }
}

/// A call whose arguments come value by value.
struct Open {
    index: u32,
    id: Option<String>,
    arguments: Arguments,
}

/// What has come so far.
#[derive(Default)]
pub(super) struct Responses {
    calls: u32,
    /// The call whose arguments are still coming.
    open: Option<Open>,
    usage: Option<Usage>,
    /// Why it ended, as the server says it.
    reason: Option<FinishReason>,
    done: bool,
}

impl Responses {
    /// Why it ended, once all has come: a call may come after the reason.
    fn ended(&self) -> Option<FinishReason> {
        match self.reason {
            Some(FinishReason::Stop) if self.calls > 0 => Some(FinishReason::ToolCalls),
            reason => reason,
        }
    }

    fn response(&mut self, said: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if let Some(error) = said.get("error").filter(|error| !error.is_null()) {
            return Err(error::from_object(error));
        }
        if said["usageMetadata"].is_object() {
            self.usage = Some(usage(&said["usageMetadata"]));
        }
        if said["promptFeedback"]["blockReason"].is_string() {
            self.reason = Some(FinishReason::ContentFilter);
        }
        // One candidate is asked for.
        let mut candidates = said["candidates"].as_array().into_iter().flatten();
        let Some(candidate) = candidates.find(|one| one["index"].as_u64().unwrap_or(0) == 0) else { return Ok(()) };
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part, out)?;
        }
        // They are of all the text that came with them.
        emit::likely_text(out, 0, "", logprobs::of_gemini(&candidate["logprobsResult"]));
        if let Some(reason) = candidate["finishReason"].as_str() {
            self.end_call(out);
            self.reason = Some(finish_reason(reason));
        }
        Ok(())
    }

    fn part(&mut self, part: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if let Some(text) = part["text"].as_str() {
            match part["thought"].as_bool() {
                Some(true) => emit::reasoning(out, 0, text),
                _ => emit::text(out, 0, text),
            }
        }
        if part["functionCall"].is_object() { self.call(part, out) } else { Ok(()) }
    }

    /// A call, or more of the one that is coming.
    fn call(&mut self, part: &Value, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let call = &part["functionCall"];
        let given = call["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        let is_named_again = self.open.as_ref().is_some_and(|open| open.id.is_some() && open.id == given);
        if let Some(name) = call["name"].as_str().filter(|name| !name.is_empty() && !is_named_again) {
            self.end_call(out);
            let index = self.calls;
            self.calls += 1;
            // Calls have ids in some versions only; results find their call by it.
            let id = given.clone().unwrap_or_else(emit::call_id);
            let signature = part["thoughtSignature"].as_str().map(|signature| say::signed_by(SIGNER, signature));
            let (name, signature) = (name.to_owned(), signature.unwrap_or_default());
            let comes_whole = call["willContinue"] != true && call.get("partialArgs").is_none();
            let arguments_json = match &call["args"] {
                _ if !comes_whole => String::new(),
                Value::Null => "{}".to_owned(),
                whole => whole.to_string(),
            };
            emit::tool_call(out, 0, ToolCallFragment { index, id, name, arguments_json, signature });
            if comes_whole {
                return Ok(());
            }
            self.open = Some(Open { index, id: given, arguments: Arguments::default() });
        }
        if let Some(open) = &mut self.open {
            open.arguments.take(&call["partialArgs"])?;
            if call["willContinue"] != true {
                self.end_call(out);
            }
        }
        Ok(())
    }

    /// The call that was coming has come.
    fn end_call(&mut self, out: &mut Vec<CompletionEvent>) {
        if let Some(Open { index, id: _, arguments }) = self.open.take() {
            let arguments_json = arguments.into_json();
            emit::tool_call(out, 0, ToolCallFragment { index, arguments_json, ..ToolCallFragment::default() });
        }
    }
}

impl TakeEvent for Responses {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        // Servers that stand before it may say it as OpenAI's do.
        if event.data.trim() == "[DONE]" {
            return Ok(());
        }
        let said = serde_json::from_str(&event.data)
            .map_err(|error| invalid(format_args!("an event is not JSON: {error}")))?;
        self.response(&said, out)
    }

    fn close(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let reason = self.ended().ok_or_else(truncated)?;
        self.end_call(out);
        emit::end(out, self.usage.take(), &[reason]);
        self.done = true;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

/// A stream: server-sent events, or without `alt=sse` a list of responses as one JSON array, which is read at its end.
#[derive(Default)]
pub(super) struct Stream {
    events: EventStream<Responses>,
    /// The body so far, where it is no event stream.
    json: Option<Vec<u8>>,
    begun: bool,
}

impl StreamDecoder for Stream {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if !self.begun
            && let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace())
        {
            self.begun = true;
            self.json = matches!(first, b'[' | b'{').then(Vec::new);
        }
        match &mut self.json {
            None => self.events.feed(bytes, out),
            Some(json) if json.len() + bytes.len() > MAX_JSON_BYTES => Err(invalid("the answer is too large")),
            Some(json) => {
                json.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let Some(json) = self.json.take() else { return self.events.finish(out) };
        let value: Value = serde_json::from_slice(&json).map_err(|_| truncated())?;
        let responses = &mut self.events.inner;
        match &value {
            Value::Array(all) => all.iter().try_for_each(|one| responses.response(one, out))?,
            one => responses.response(one, out)?,
        }
        responses.close(out)
    }

    fn is_done(&self) -> bool {
        self.events.is_done()
    }

    fn usage(&self) -> Option<Usage> {
        self.events.usage()
    }
}

/// Largest answer that is no event stream, in bytes.
const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;

/// A response in one piece, or the list of those that a stream would have been.
pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    let (mut responses, mut out) = (Responses::default(), Vec::new());
    match &value {
        Value::Array(all) => all.iter().try_for_each(|one| responses.response(one, &mut out))?,
        one => responses.response(one, &mut out)?,
    }
    responses.end_call(&mut out);
    // A response that came whole may leave out why it ended.
    let has_content = value["candidates"][0]["content"]["parts"].is_array();
    let reason = responses.ended().or(has_content.then_some(FinishReason::Other));
    let reason = reason.ok_or_else(|| invalid("neither a candidate that ended nor a blocked prompt"))?;
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    let mut logprobs = Vec::new();
    for event in out {
        use postern_proto::completion::v1::{completion_event::Event, delta};
        let Some(Event::Delta(delta)) = event.event else { continue };
        logprobs.extend(delta.logprobs);
        match delta.delta {
            Some(delta::Delta::Text(piece)) => text.push_str(&piece),
            Some(delta::Delta::Reasoning(piece)) => reasoning.push_str(&piece),
            Some(delta::Delta::ToolCall(ToolCallFragment { index: _, id, name, arguments_json, signature })) => {
                match calls.last_mut() {
                    Some(ToolCall { arguments_json: before, .. }) if id.is_empty() => before.push_str(&arguments_json),
                    _ => calls.push(ToolCall { id, name, arguments_json, signature }),
                }
            }
            Some(delta::Delta::ReasoningSignature(_)) | None => {}
        }
    }
    let mut whole = emit::whole((text, reasoning), calls, reason, responses.usage);
    whole.choices.iter_mut().for_each(|choice| choice.logprobs = std::mem::take(&mut logprobs));
    Ok(whole)
}
