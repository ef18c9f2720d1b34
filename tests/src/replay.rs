//! Replays recorded exchanges: a vendor's own bytes through a provider's own reader, whole, in pieces and cut short. What comes out must
//! be what was expected however the bytes come, and never a success when some of them do not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use model_adapter::provider::{self, Api, Provider, embeddings};
use postern_proto::Failure;
use postern_proto::completion::v1::{Completion, CompletionEvent, FinishReason, Usage, completion_event, delta};
use serde::Deserialize;
use serde_json::Value;

/// A recorded exchange.
#[derive(Debug, Deserialize)]
pub struct Exchange {
    /// What it is called.
    pub name: String,
    provider: String,
    api: String,
    #[serde(default)]
    stream: bool,
    response: Recorded,
    expect: Value,
}

#[derive(Debug, Deserialize)]
struct Recorded {
    status: u16,
    body_base64: String,
}

/// What became of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected in every way of cutting.
    Passed,
    /// What was expected and what came.
    Failed(String),
    /// Why it was not run.
    Skipped(String),
}

/// What an answer comes to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    text: String,
    reasoning: String,
    /// By name and arguments.
    tool_calls: Vec<(String, Value)>,
    finish: String,
    usage: Usage,
}

/// Two-part cuts at every boundary up to here; beyond, at so many.
const EVERY_CUT_UP_TO: usize = 4096;
const CUTS_BEYOND: usize = 500;

/// The exchanges below a folder, by path.
///
/// # Errors
/// A file that cannot be read, or is no exchange.
pub fn exchanges(dir: &Path) -> Result<Vec<Exchange>, String> {
    let mut files = Vec::new();
    find(dir, &mut files).map_err(|error| format!("{}: {error}", dir.display()))?;
    files.sort();
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    };
    files.iter().map(read).collect()
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(())
}

impl Exchange {
    /// Provider and API, as a table names them.
    #[must_use]
    pub fn row(&self) -> (String, String) {
        (self.provider.clone(), self.api.clone())
    }

    /// The body that came.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        STANDARD.decode(&self.response.body_base64).unwrap_or_default()
    }

    /// Replays it in every way.
    #[must_use]
    pub fn replay(&self) -> Outcome {
        let Some(provider) = provider::by_name(&self.provider) else {
            return Outcome::Skipped(format!("the provider `{}` is not offered", self.provider));
        };
        let Some(api) = Api::from_name(&self.api).filter(|api| provider.apis().contains(api)) else {
            return Outcome::Skipped(format!("the API `{}` is not offered", self.api));
        };
        let Ok(body) = STANDARD.decode(&self.response.body_base64) else {
            return Outcome::Failed("the body is not base64".to_owned());
        };
        match self.judge(provider, api, &body) {
            Ok(()) => Outcome::Passed,
            Err(problem) => Outcome::Failed(problem),
        }
    }

    fn judge(&self, provider: &dyn Provider, api: Api, body: &[u8]) -> Result<(), String> {
        let status = StatusCode::from_u16(self.response.status).map_err(|error| error.to_string())?;
        if !status.is_success() {
            // A failure is what it is, whatever its body says.
            let _ = provider.read_error(status, body);
            let expected = &self.expect["error"]["status"];
            return if *expected == self.response.status {
                Ok(())
            } else {
                Err(format!("expected {}, came status {status}", self.expect))
            };
        }
        if api == Api::Embeddings {
            let read = embeddings::read(body).map_err(|failure| format!("a failure came: {}", failure.message))?;
            let dim = read.vectors.first().map_or(0, |vector| vector.values.len());
            let came = serde_json::json!({ "count": read.vectors.len(), "dim": dim });
            let expected = &self.expect["embeddings"];
            return if fits(&came, expected) { Ok(()) } else { Err(format!("expected {expected}, came {came}")) };
        }
        if !self.stream {
            let answer = provider.read(api, body).map(whole);
            return self.compare(&answer).map_err(|problem| format!("in one piece: {problem}"));
        }
        let run = |parts: &[&[u8]]| stream(provider, api, parts);
        let at_once = run(&[body]);
        self.compare(&at_once).map_err(|problem| format!("whole: {problem}"))?;
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        same(&run(&bytes), &at_once).map_err(|problem| format!("byte by byte: {problem}"))?;
        for cut in cuts(body.len()) {
            let (head, tail) = body.split_at(cut);
            same(&run(&[head, tail]), &at_once).map_err(|problem| format!("cut at {cut}: {problem}"))?;
        }
        for end in frames(body) {
            // A part of an answer may be the whole of it, where only what nobody reads was cut off; else it is no success.
            if let Ok(answer) = run(&[&body[..end]]) {
                let short = Answer { usage: Usage::default(), ..answer };
                let long = at_once.as_ref().ok().map(|answer| Answer { usage: Usage::default(), ..answer.clone() });
                if long != Some(short) {
                    return Err(format!("cut off after {end} of {} bytes, and taken for a whole answer", body.len()));
                }
            }
        }
        Ok(())
    }

    fn compare(&self, came: &Result<Answer, Failure>) -> Result<(), String> {
        let expects_error = self.expect.get("error").is_some_and(|error| !error.is_null());
        let answer = match came {
            Err(_) if expects_error => return Ok(()),
            Err(failure) => return Err(format!("a failure came: {} ({:?})", failure.message, failure.detail)),
            Ok(_) if expects_error => return Err(format!("expected {}, and an answer came", self.expect["error"])),
            Ok(answer) => answer,
        };
        for (member, expected) in self.expect.as_object().into_iter().flatten() {
            let found = answer.member(member);
            let Some(found) = found else { continue };
            // Only an expected usage may leave something out; a call's arguments are all of them.
            if !(if member == "usage" { fits(&found, expected) } else { equal(&found, expected) }) {
                return Err(format!("{member}: expected {expected}, came {found}"));
            }
        }
        Ok(())
    }
}

impl Answer {
    /// A member of an expectation; `None` for one that is not compared.
    fn member(&self, name: &str) -> Option<Value> {
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        Some(match name {
            "text" => text(&self.text),
            "reasoning" => text(&self.reasoning),
            "finish" => text(&self.finish),
            "tool_calls" if self.tool_calls.is_empty() => Value::Null,
            "tool_calls" => {
                let call =
                    |(name, arguments): &(String, Value)| serde_json::json!({ "name": name, "arguments": arguments });
                self.tool_calls.iter().map(call).collect()
            }
            "usage" => serde_json::json!({
                "input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens,
            }),
            _ => return None,
        })
    }
}

/// Whether what came is what was expected, of which objects need not say everything.
fn fits(came: &Value, expected: &Value) -> bool {
    match (came, expected) {
        (Value::Object(came), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| fits(came.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(came), Value::Array(expected)) => {
            came.len() == expected.len() && came.iter().zip(expected).all(|(came, expected)| fits(came, expected))
        }
        (Value::Number(came), Value::Number(expected)) => came.as_f64() == expected.as_f64(),
        _ => came == expected,
    }
}

/// Whether two values are the same, however their numbers are written.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|o| equal(value, o)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn same(came: &Result<Answer, Failure>, at_once: &Result<Answer, Failure>) -> Result<(), String> {
    match (came, at_once) {
        (Ok(came), Ok(at_once)) if came == at_once => Ok(()),
        (Err(came), Err(at_once)) if came.reason == at_once.reason => Ok(()),
        _ => Err(format!("expected as whole {at_once:?}, came {came:?}")),
    }
}

/// Reads any bytes as a streamed answer, at once and byte by byte.
///
/// # Errors
/// When the two differ.
pub fn cut_anywhere(provider: &dyn Provider, api: Api, body: &[u8]) -> Result<(), String> {
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    same(&stream(provider, api, &bytes), &stream(provider, api, &[body]))
}

fn stream(provider: &dyn Provider, api: Api, parts: &[&[u8]]) -> Result<Answer, Failure> {
    let mut decoder = provider.stream_decoder(api);
    let mut events = Vec::new();
    for part in parts {
        decoder.feed(part, &mut events)?;
        if decoder.is_done() {
            return Ok(gathered(events));
        }
    }
    decoder.finish(&mut events)?;
    Ok(gathered(events))
}

fn gathered(events: Vec<CompletionEvent>) -> Answer {
    let mut answer = Answer::default();
    let mut calls: BTreeMap<u32, (String, String)> = BTreeMap::new();
    for event in events.into_iter().filter_map(|event| event.event) {
        match event {
            completion_event::Event::Delta(delta) if delta.choice_index == 0 => match delta.delta {
                Some(delta::Delta::Text(text)) => answer.text.push_str(&text),
                Some(delta::Delta::Reasoning(text)) => answer.reasoning.push_str(&text),
                Some(delta::Delta::ToolCall(fragment)) => {
                    let call = calls.entry(fragment.index).or_default();
                    call.0.push_str(&fragment.name);
                    call.1.push_str(&fragment.arguments_json);
                }
                Some(delta::Delta::ReasoningSignature(_)) | None => {}
            },
            completion_event::Event::Usage(usage) => answer.usage = usage,
            completion_event::Event::End(end) => answer.finish = finish(end.finish_reason()).to_owned(),
            completion_event::Event::Delta(_) | completion_event::Event::Start(_) => {}
        }
    }
    answer.tool_calls = calls.into_values().map(|(name, arguments)| (name, arguments_value(&arguments))).collect();
    answer
}

fn whole(completion: Completion) -> Answer {
    let usage = completion.usage.unwrap_or_default();
    let choice = completion.choices.into_iter().next().unwrap_or_default();
    Answer {
        finish: finish(choice.finish_reason()).to_owned(),
        text: choice.text,
        reasoning: choice.reasoning,
        tool_calls: choice
            .tool_calls
            .into_iter()
            .map(|call| (call.name, arguments_value(&call.arguments_json)))
            .collect(),
        usage,
    }
}

fn arguments_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

const fn finish(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::Other | FinishReason::Unspecified => "other",
    }
}

/// Where a body is cut in two: everywhere at its beginning, and at places that are the same in each run further on.
fn cuts(length: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..length.min(EVERY_CUT_UP_TO)).collect();
    if length > EVERY_CUT_UP_TO {
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
        for _ in 0..CUTS_BEYOND {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let span = length - EVERY_CUT_UP_TO;
            cuts.push(EVERY_CUT_UP_TO + usize::try_from(state >> 33).unwrap_or(0) % span);
        }
    }
    cuts
}

/// The ends of the frames before the last: blank lines of server-sent events, lines of NDJSON.
fn frames(body: &[u8]) -> Vec<usize> {
    if body.first() == Some(&0) {
        // An AWS event stream: each message begins with its length.
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some(length) = body.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes) {
            at += usize::try_from(length).unwrap_or(usize::MAX).max(1);
            ends.push(at);
        }
        return ends.into_iter().filter(|end| *end < body.len()).collect();
    }
    let text = String::from_utf8_lossy(body);
    let events = text.contains("data:");
    let ends: Vec<usize> = match events {
        true => body.windows(2).enumerate().filter(|(_, two)| *two == b"\n\n").map(|(at, _)| at + 2).collect(),
        false => body.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect(),
    };
    ends.into_iter().filter(|end| *end < body.len()).collect()
}
