//! Relay: tries the attempts until one brings content, then passes its events on as they are asked for.
//!
//! Nothing is buffered beyond the events before the first content, so a slow reader slows the model. There is no task: the
//! stream owns the way to the model, and dropping it at any point stops the model. Four timers run: first content (over all
//! attempts), idle, total, and the caller's own; heartbeats do not reset them, contents do.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use postern_proto::completion::v1::{CompletionEvent, FinishReason, Start, Usage, completion_event::Event};
use postern_proto::model::v1::Generation;
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::Standing;
use postern_runtime::request_id::RequestId;
use tokio::time::Instant;

use super::admit::Place;
use super::authorise::Permit;
use super::route::Attempt;
use super::session::Turn;
use super::{Caller, Pipeline};
use crate::adapters::{Adapters, Events};
use crate::metrics;
use crate::routes::Timers;

/// What a request holds until it is over.
pub struct Held {
    /// Its place in the gateway.
    pub _place: Place,
    /// Its turn in its editing session.
    pub session: Turn,
    /// Its permit.
    pub permit: Permit,
    /// Its token's standing.
    pub standing: Standing,
}

/// An answer that has begun.
pub struct Completion {
    begun: VecDeque<Event>,
    events: Option<Events>,
    timers: Timers,
    ends: Deadline,
    held: Held,
    _model_place: Place,
    _endpoint_place: Place,
    record: Record,
}

/// The end of the whole answer, and whose it is.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    message: &'static str,
}

impl Deadline {
    fn of(begun: Instant, total: Duration, caller: Option<Duration>) -> Self {
        match caller {
            Some(timeout) if timeout < total => {
                Self { at: begun + timeout, message: "the deadline that the caller set has passed" }
            }
            _ => Self { at: begun + total, message: "the answer took longer than the model may take in all" },
        }
    }

    fn failure(self) -> Failure {
        Failure::new(Reason::DeadlineExceeded, self.message)
    }
}

/// Tries the attempts in turn.
pub(super) async fn begin(
    pipeline: &Pipeline,
    mut attempts: VecDeque<Attempt>,
    mut held: Held,
    caller: &Caller<'_>,
) -> Result<Completion, Failure> {
    let begun = Instant::now();
    let mut record = Record::new(&held.permit, begun);
    let mut refusal = None;
    while let Some(attempt) = attempts.pop_front() {
        match one(pipeline, attempt, &mut held, caller, begun).await {
            Ok(started) => return Ok(started.into_completion(held, record)),
            Err(failure) if goes_on(&failure) => {
                tracing::info!(reason = failure.reason.name(), attempts.left = attempts.len(), "attempt failed");
                // The first choice's failure is what the caller is told.
                refusal.get_or_insert(failure);
            }
            Err(failure) => {
                refusal = Some(failure);
                break;
            }
        }
    }
    let failure = refusal.unwrap_or_else(|| Failure::new(Reason::ModelUnreachable, "the model has no endpoint"));
    record.outcome = Outcome::Failed(failure.reason);
    Err(failure)
}

/// Whether another endpoint may do better. The caller's own faults and passed deadlines end the search.
fn goes_on(failure: &Failure) -> bool {
    let over = matches!(
        failure.reason,
        Reason::FirstContentTimeout | Reason::DeadlineExceeded | Reason::Cancelled | Reason::TokenRevoked
    );
    let elsewhere = matches!(failure.reason, Reason::AdapterUnavailable | Reason::ConcurrencyLimited);
    !over && (elsewhere || matches!(failure.blame, Some(Blame::Upstream | Blame::Adapter)))
}

/// An attempt that brought content.
struct Started {
    begun: VecDeque<Event>,
    events: Events,
    timers: Timers,
    ends: Deadline,
    model_place: Place,
    endpoint_place: Place,
    model: String,
}

impl Started {
    fn into_completion(self, held: Held, mut record: Record) -> Completion {
        record.model = self.model;
        record.first_content = Some(record.begun.elapsed());
        Completion {
            begun: self.begun,
            events: Some(self.events),
            timers: self.timers,
            ends: self.ends,
            held,
            _model_place: self.model_place,
            _endpoint_place: self.endpoint_place,
            record,
        }
    }
}

async fn one(
    pipeline: &Pipeline,
    attempt: Attempt,
    held: &mut Held,
    caller: &Caller<'_>,
    begun: Instant,
) -> Result<Started, Failure> {
    let Attempt { model, endpoint, prompt } = attempt;
    let model_place = pipeline.admission.at_model(&model)?;
    let endpoint_place = pipeline.admission.at_endpoint(&endpoint)?;
    let ends = Deadline::of(begun, model.timers.total, caller.timeout);
    let first_content = begun + model.timers.first_content;
    let generation =
        Generation { endpoint_id: endpoint, prompt: Some(prompt.prompt), parameters: Some(prompt.parameters) };
    let opening = open(&pipeline.adapters, &model.adapter_group, generation, &caller.request_id);
    let (mut before, events) = tokio::select! {
        // In this order: where two have come at once, the caller's own wish counts first.
        biased;
        () = held.session.replaced().cancelled() => return Err(replaced()),
        revoked = held.standing.revoked() => return Err(revoked),
        () = tokio::time::sleep_until(ends.at) => return Err(ends.failure()),
        () = tokio::time::sleep_until(first_content) => {
            let waited = model.timers.first_content.as_secs_f64();
            return Err(Failure::new(Reason::FirstContentTimeout, format!("the model sent no content within {waited} s")));
        }
        opened = opening => opened?,
    };
    if let Some(Event::Start(start)) = before.front_mut() {
        start.warnings.extend(prompt.warnings);
    }
    Ok(Started {
        begun: before,
        events,
        timers: model.timers,
        ends,
        model_place,
        endpoint_place,
        model: model.name.clone(),
    })
}

/// Asks the adapter and reads until the first content: a start, and the event after it.
async fn open(
    adapters: &Adapters,
    group: &str,
    generation: Generation,
    request_id: &RequestId,
) -> Result<(VecDeque<Event>, Events), Failure> {
    let mut events = adapters.of(group)?.generate(generation, request_id).await?;
    let mut before = VecDeque::new();
    loop {
        let event = events.next().await.ok_or_else(broke_off)??;
        let event = event.event.ok_or_else(broke_off)?;
        let is_start = matches!(event, Event::Start(_));
        before.push_back(event);
        // An answer without any content begins with its usage.
        if !is_start {
            return Ok((before, events));
        }
    }
}

/// The adapter's stream ended without an end event and without a status.
fn broke_off() -> Failure {
    Failure::new(Reason::ModelStreamTruncated, "the adapter's stream broke off before the answer's end")
        .with_blame(Blame::Adapter)
}

fn replaced() -> Failure {
    Failure::new(Reason::Cancelled, "a newer request of the same editing session took this one's place")
}

impl Completion {
    /// The next event. After an end event or a failure there is none.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        if let Some(event) = self.begun.pop_front() {
            return Some(Ok(self.passed(event)));
        }
        let item = self.read().await?;
        if item.is_err() || matches!(item, Ok(Event::End(_))) {
            // The way to the model closes now, not when the caller gets round to dropping us.
            self.events = None;
        }
        if let Err(failure) = &item {
            self.record.outcome = Outcome::Failed(failure.reason);
        }
        Some(item.map(|event| self.passed(event)))
    }

    async fn read(&mut self) -> Option<Result<Event, Failure>> {
        let events = self.events.as_mut()?;
        let idle = Instant::now() + self.timers.idle;
        let next = tokio::select! {
            biased;
            () = self.held.session.replaced().cancelled() => return Some(Err(replaced())),
            revoked = self.held.standing.revoked() => return Some(Err(revoked)),
            () = tokio::time::sleep_until(self.ends.at) => return Some(Err(self.ends.failure())),
            () = tokio::time::sleep_until(idle) => {
                let waited = self.timers.idle.as_secs_f64();
                let message = format!("the model sent no content for {waited} s");
                return Some(Err(Failure::new(Reason::IdleTimeout, message).with_blame(Blame::Upstream)));
            }
            next = events.next() => next,
        };
        match next {
            None => Some(Err(broke_off())),
            Some(Err(failure)) => Some(Err(failure)),
            Some(Ok(CompletionEvent { event: Some(event) })) => Some(Ok(event)),
            Some(Ok(CompletionEvent { event: None })) => Some(Err(broke_off())),
        }
    }

    fn passed(&mut self, event: Event) -> Event {
        match &event {
            Event::Start(Start { .. }) => {}
            Event::Delta(_) => self.record.deltas += 1,
            Event::Usage(usage) => self.record.usage = Some(*usage),
            Event::End(end) => {
                let reason = FinishReason::try_from(end.finish_reason).unwrap_or(FinishReason::Other);
                self.record.outcome = Outcome::Finished(reason);
            }
        }
        event
    }
}

/// How a request ended.
#[derive(Clone, Copy)]
enum Outcome {
    /// It is under way; when the record is dropped so, the caller has gone away.
    Open,
    Finished(FinishReason),
    Failed(Reason),
}

/// What is told of a request when it is over: one log line and its metrics, however it ended.
struct Record {
    feature: &'static str,
    subject: String,
    model: String,
    begun: Instant,
    first_content: Option<Duration>,
    deltas: u64,
    usage: Option<Usage>,
    outcome: Outcome,
    span: tracing::Span,
}

impl Record {
    fn new(permit: &Permit, begun: Instant) -> Self {
        Self {
            feature: permit.feature().name(),
            subject: permit.subject().to_owned(),
            model: permit.models().first().map(|model| model.name.clone()).unwrap_or_default(),
            begun,
            first_content: None,
            deltas: 0,
            usage: None,
            outcome: Outcome::Open,
            span: tracing::Span::current(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = match self.outcome {
            Outcome::Open => Reason::Cancelled.name(),
            Outcome::Finished(_) => "OK",
            Outcome::Failed(reason) => reason.name(),
        };
        let finish = match self.outcome {
            Outcome::Finished(reason) => Some(reason.as_str_name()),
            _ => None,
        };
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        metrics::completion(self.feature, outcome, self.begun.elapsed(), self.first_content);
        let _entered = self.span.enter();
        tracing::info!(
            feature = self.feature,
            subject.id = self.subject,
            model.name = self.model,
            outcome,
            finish,
            first_content_ms = self.first_content.map(ms),
            elapsed_ms = ms(self.begun.elapsed()),
            deltas = self.deltas,
            input_tokens = self.usage.and_then(|usage| usage.input_tokens),
            output_tokens = self.usage.and_then(|usage| usage.output_tokens),
            "completion over"
        );
    }
}

#[cfg(test)]
#[path = "relay/tests.rs"]
mod tests;
