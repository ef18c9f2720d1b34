//! Relay: tries the attempts until one brings content, then passes its events on as they are asked for.
//!
//! Four timers run: first content (over all attempts), idle, total, and the caller's own; heartbeats do not reset them, contents
//! do. What flows after the first content is in `relay/flow.rs`, what is told of it in `relay/record.rs`.

mod flow;
mod record;

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use postern_proto::completion::v1::completion_event::Event;
use postern_proto::model::v1::Generation;
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::Standing;
use postern_runtime::ending::draining;
use postern_runtime::request_id::RequestId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admit::Place;
use super::authorise::Permit;
use super::route::Attempt;
use super::session::Turn;
use super::{Caller, Pipeline};
use crate::adapters::{Adapters, Events};
use crate::prompt::clean::{Cleaner, cleaned};
use crate::routes::Timers;
pub use flow::Completion;
use flow::Flow;
pub(super) use record::Record;

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
    /// When it is ended with the process.
    pub ending: CancellationToken,
}

/// The end of the whole answer, and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    message: &'static str,
}

impl Deadline {
    pub(super) fn of(begun: Instant, total: Duration, caller: Option<Duration>) -> Self {
        match caller {
            Some(timeout) if timeout < total => {
                Self { at: begun + timeout, message: "the deadline that the caller set has passed" }
            }
            _ => Self { at: begun + total, message: "the answer took longer than the model may take in all" },
        }
    }

    pub(super) fn failure(self) -> Failure {
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
            Ok(started) => return Ok(Flow::of(started, held, record).start()),
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
    record.fail(&failure);
    Err(failure)
}

/// Whether another endpoint may do better. The caller's own faults and passed deadlines end the search.
pub(super) fn goes_on(failure: &Failure) -> bool {
    let over = matches!(
        failure.reason,
        Reason::FirstContentTimeout | Reason::DeadlineExceeded | Reason::Cancelled | Reason::TokenRevoked
    );
    let elsewhere =
        matches!(failure.reason, Reason::AdapterUnavailable | Reason::ConcurrencyLimited | Reason::Draining);
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
    let choices = prompt.parameters.choices.map_or(1, |choices| choices as usize);
    let cleaner = prompt.cleaner.map(|cleaner| (cleaner, choices));
    let generation =
        Generation { endpoint_id: endpoint, prompt: Some(prompt.prompt), parameters: Some(prompt.parameters) };
    let opening = open(&pipeline.adapters, &model.adapter_group, generation, cleaner, &caller.request_id);
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
        () = held.ending.cancelled() => return Err(draining()),
        opened = opening => opened?,
    };
    if let Some(Event::Start(start)) = before.front_mut() {
        start.warnings.extend(prompt.warnings);
        start.prompt = prompt.template;
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
    cleaner: Option<(Cleaner, usize)>,
    request_id: &RequestId,
) -> Result<(VecDeque<Event>, Events), Failure> {
    let mut events = adapters.of(group)?.generate(generation, request_id).await?;
    if let Some((cleaner, choices)) = cleaner {
        events = cleaned(events, cleaner, choices);
    }
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

#[cfg(test)]
#[path = "relay/tests.rs"]
mod tests;
