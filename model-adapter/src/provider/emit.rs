//! What all formats come to: events, the end of an answer, and answers that are none.

use postern_proto::completion::v1::{
    Choice, Completion, CompletionEvent, Delta, End, FinishReason, Thought, TokenLogprob, ToolCall, ToolCallFragment,
    Usage, UsageProvenance, completion_event, delta,
};
use postern_proto::{Blame, Failure, Reason};

use crate::decode::sse;

/// Choices, tool calls or blocks in one answer; more is a fault.
pub const MAX_PARTS: usize = 128;

fn push(out: &mut Vec<CompletionEvent>, event: completion_event::Event) {
    out.push(CompletionEvent { event: Some(event) });
}

fn push_delta(out: &mut Vec<CompletionEvent>, choice: usize, delta: delta::Delta) {
    push_likely(out, choice, delta, Vec::new());
}

fn push_likely(out: &mut Vec<CompletionEvent>, choice: usize, delta: delta::Delta, logprobs: Vec<TokenLogprob>) {
    let choice_index = u32::try_from(choice).unwrap_or(u32::MAX);
    push(out, completion_event::Event::Delta(Delta { choice_index, delta: Some(delta), logprobs }));
}

/// A piece of the answer's text, unless it is empty.
pub fn text(out: &mut Vec<CompletionEvent>, choice: usize, text: impl Into<String>) {
    let text = text.into();
    if !text.is_empty() {
        push_delta(out, choice, delta::Delta::Text(text));
    }
}

/// A piece of the answer's text with how likely its tokens were, unless there is neither.
pub fn likely_text(
    out: &mut Vec<CompletionEvent>,
    choice: usize,
    text: impl Into<String>,
    logprobs: Vec<TokenLogprob>,
) {
    let text = text.into();
    if !text.is_empty() || !logprobs.is_empty() {
        push_likely(out, choice, delta::Delta::Text(text), logprobs);
    }
}

/// The end of a thought that the server signed.
pub fn signature(out: &mut Vec<CompletionEvent>, choice: usize, signature: String) {
    push_delta(out, choice, delta::Delta::ReasoningSignature(signature));
}

/// A piece of the model's reasoning, unless it is empty.
pub fn reasoning(out: &mut Vec<CompletionEvent>, choice: usize, text: impl Into<String>) {
    let text = text.into();
    if !text.is_empty() {
        push_delta(out, choice, delta::Delta::Reasoning(text));
    }
}

/// A piece of a tool call.
pub fn tool_call(out: &mut Vec<CompletionEvent>, choice: usize, fragment: ToolCallFragment) {
    push_delta(out, choice, delta::Delta::ToolCall(fragment));
}

/// An identifier for a call that the server gave none: results find their call by it, so it is like no other.
pub fn call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}

/// The end of an answer: its usage, and why each choice ended.
pub fn end(out: &mut Vec<CompletionEvent>, usage: Option<Usage>, reasons: &[FinishReason]) {
    push(out, completion_event::Event::Usage(usage.unwrap_or_else(absent_usage)));
    let all: Vec<i32> = reasons.iter().map(|reason| *reason as i32).collect();
    let finish_reason = all.first().copied().unwrap_or(FinishReason::Other as i32);
    let choices = if all.len() > 1 { all } else { Vec::new() };
    push(out, completion_event::Event::End(End { finish_reason, choices }));
}

/// An answer of one choice, in one piece.
pub fn whole(
    (text, reasoning): (String, String),
    tool_calls: Vec<ToolCall>,
    reason: FinishReason,
    usage: Option<Usage>,
) -> Completion {
    let choice = Choice { text, reasoning, tool_calls, finish_reason: reason as i32, ..Choice::default() };
    Completion { choices: vec![choice], usage: Some(usage.unwrap_or_else(absent_usage)), ..Completion::default() }
}

/// The same, with the thoughts that the server signed.
pub fn with_thoughts(mut whole: Completion, thoughts: Vec<Thought>) -> Completion {
    if let Some(choice) = whole.choices.first_mut() {
        choice.thoughts = thoughts;
    }
    whole
}

/// Nobody said what it cost.
pub fn absent_usage() -> Usage {
    Usage { provenance: UsageProvenance::Absent as i32, ..Usage::default() }
}

/// What came is no answer.
pub fn invalid(detail: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::ModelAnswerInvalid, "the model's server sent something that is not an answer")
        .with_blame(Blame::Upstream)
        .with_detail(detail)
}

/// The answer has no end.
pub fn truncated() -> Failure {
    Failure::new(Reason::ModelStreamTruncated, "the model's answer broke off before its end")
        .with_blame(Blame::Upstream)
}

/// Why the last event of a body, which no blank line ended, could not be taken: where it is no JSON, it broke off.
pub fn broken_off(data: &str, failure: Failure) -> Failure {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(data).is_ok();
    if failure.reason == Reason::ModelAnswerInvalid && !is_json { truncated() } else { failure }
}

/// What is wrong with the frames of a stream.
pub fn fault(fault: sse::Fault) -> Failure {
    match fault {
        sse::Fault::TooLarge => invalid("an event is too large"),
        sse::Fault::NotText => invalid("an event is not UTF-8"),
    }
}

/// A decoder of server-sent events over one that takes what is in them.
#[derive(Default)]
pub struct EventStream<T> {
    events: sse::Decoder,
    pub inner: T,
}

impl<T: Default> EventStream<T> {
    /// A decoder of events that are at most so large, in bytes.
    pub fn with_events_of(most: usize) -> Self {
        Self { events: sse::Decoder::with_events_of(most), inner: T::default() }
    }
}

/// Takes the data of events.
pub trait TakeEvent: Send {
    /// One event.
    ///
    /// # Errors
    /// When it is no part of an answer, or an error that the server sent.
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure>;
    /// The end of the body.
    ///
    /// # Errors
    /// MODEL_STREAM_TRUNCATED when the answer is not whole.
    fn close(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure>;
    /// Whether the end event has been given out.
    fn is_done(&self) -> bool;
    /// What has been said so far of what the answer costs.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

impl<T: TakeEvent> crate::provider::StreamDecoder for EventStream<T> {
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let mut events = Vec::new();
        let fed = self.events.feed(bytes, |event| events.push(event));
        for event in events {
            if !self.inner.is_done() {
                self.inner.take(&event, out)?;
            }
        }
        // What follows the end is nobody's concern.
        if self.is_done() { Ok(()) } else { fed.map_err(fault) }
    }

    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        let last = self.events.finish().map_err(fault)?;
        if let Some(event) = last.filter(|_| !self.inner.is_done()) {
            self.inner.take(&event, out).map_err(|failure| broken_off(&event.data, failure))?;
        }
        if self.inner.is_done() { Ok(()) } else { self.inner.close(out) }
    }

    fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    fn usage(&self) -> Option<Usage> {
        self.inner.usage()
    }
}
