//! What comes back: lines of JSON, of which the last says `done`; or that one alone.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, TokenLogprob, ToolCall, ToolCallFragment, Usage, UsageProvenance,
};
use serde_json::Value;

use crate::decode::lines;
use crate::provider::StreamDecoder;
use crate::provider::emit::{self, fault, invalid, truncated};
use crate::provider::{error, logprobs};

fn finish_reason(line: &Value, has_calls: bool) -> FinishReason {
    match line["done_reason"].as_str() {
        // Versions before 0.1.33 say no reason.
        Some("stop") | None if has_calls => FinishReason::ToolCalls,
        Some("stop") | None => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some(_) => FinishReason::Other,
    }
}

fn usage(line: &Value) -> Option<Usage> {
    let (input_tokens, output_tokens) = (line["prompt_eval_count"].as_u64(), line["eval_count"].as_u64());
    (input_tokens.is_some() || output_tokens.is_some()).then(|| Usage {
        input_tokens,
        output_tokens,
        provenance: UsageProvenance::Reported as i32,
        ..Usage::default()
    })
}

fn parsed(line: &[u8]) -> Result<Value, Failure> {
    let line: Value = serde_json::from_slice(line).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    match line.get("error").filter(|error| !error.is_null()) {
        Some(error) => Err(error::from_object(error)),
        None => Ok(line),
    }
}

/// Text, thoughts and calls of one line.
fn content(line: &Value) -> (&str, &str, Vec<ToolCall>) {
    let message = &line["message"];
    let text = |value: &'static str| message[value].as_str().or_else(|| line[value].as_str()).unwrap_or_default();
    let said = message["content"].as_str().or_else(|| line["response"].as_str()).unwrap_or_default();
    let call = |call: &Value| {
        let function = &call["function"];
        let arguments_json = match &function["arguments"] {
            Value::Null => "{}".to_owned(),
            Value::String(text) => text.clone(),
            object => object.to_string(),
        };
        let id = call["id"].as_str().unwrap_or_default().to_owned();
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        ToolCall { id, name, arguments_json, signature: String::new() }
    };
    let calls = message["tool_calls"].as_array().into_iter().flatten().map(call).collect();
    (said, text("thinking"), calls)
}

/// How likely the tokens of a line were.
fn likely(line: &Value) -> Vec<TokenLogprob> {
    line["logprobs"].as_array().map(|tokens| logprobs::listed(tokens)).unwrap_or_default()
}

/// Gives a call an id where the server gave none: results find their call by it.
fn named(mut call: ToolCall) -> ToolCall {
    if call.id.is_empty() {
        call.id = emit::call_id();
    }
    call
}

#[derive(Default)]
pub(super) struct Lines {
    lines: lines::Decoder,
    calls: u32,
    done: bool,
}

impl StreamDecoder for Lines {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let mut whole = Vec::new();
        let fed = self.lines.feed(bytes, |line| whole.push(line));
        for line in whole {
            self.take(&line, out)?;
        }
        // What follows the end is nobody's concern.
        if self.is_done() { Ok(()) } else { fed.map_err(fault) }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if let Some(line) = self.lines.finish() {
            // A line that broke off is no line.
            if let Err(failure) = self.take(&line, out) {
                return Err(if serde_json::from_slice::<Value>(&line).is_ok() { failure } else { truncated() });
            }
        }
        if self.done { Ok(()) } else { Err(truncated()) }
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

impl Lines {
    fn take(&mut self, line: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        let line = parsed(line)?;
        let (text, thought, calls) = content(&line);
        emit::reasoning(out, 0, thought);
        emit::likely_text(out, 0, text, likely(&line));
        for call in calls {
            let index = self.calls;
            self.calls += 1;
            let ToolCall { id, name, arguments_json, signature: _ } = named(call);
            emit::tool_call(
                out,
                0,
                ToolCallFragment { index, id, name, arguments_json, ..ToolCallFragment::default() },
            );
        }
        if line["done"] == true {
            emit::end(out, usage(&line), &[finish_reason(&line, self.calls > 0)]);
            self.done = true;
        }
        Ok(())
    }
}

pub(super) fn read(body: &[u8]) -> Result<Completion, Failure> {
    let line = parsed(body)?;
    if line["done"] != true {
        return Err(if line["done"].is_null() { invalid("no answer") } else { truncated() });
    }
    let (text, thought, calls) = content(&line);
    let calls: Vec<_> = calls.into_iter().map(named).collect();
    let reason = finish_reason(&line, !calls.is_empty());
    let mut whole = emit::whole((text.to_owned(), thought.to_owned()), calls, reason, usage(&line));
    whole.choices.iter_mut().for_each(|choice| choice.logprobs = likely(&line));
    Ok(whole)
}
