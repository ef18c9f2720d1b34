//! The flow of an answer that has begun: reads the adapter's events and passes them on, one at a time.
//!
//! It runs as a task of its own so that its timers run and its places are given back also when nobody reads: a reader that has
//! stopped is given up after the idle time. Between it and the reader is one place for one event, so a slow reader slows the
//! model. The task ends when the reader is dropped, which stops the model.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use postern_proto::completion::v1::{CompletionEvent, completion_event::Event};
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::ending::draining;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::record::Record;
use super::{Deadline, Held, Place, Started, broke_off, replaced};
use crate::adapters::Events;
use crate::routes::Timers;

/// An answer that has begun, to be read. Dropping it stops the model.
pub struct Completion {
    events: mpsc::Receiver<Event>,
    failure: Arc<Mutex<Option<Failure>>>,
    _flow: AbortOnDropHandle<()>,
}

impl Completion {
    /// The next event. After an end event or a failure there is none.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        match self.events.recv().await {
            Some(event) => Some(Ok(event)),
            // The flow is over, and has said why unless it ended well.
            None => self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        }
    }
}

pub(super) struct Flow {
    begun: VecDeque<Event>,
    events: Events,
    timers: Timers,
    ends: Deadline,
    held: Held,
    _places: (Place, Place),
    record: Record,
}

impl Flow {
    pub(super) fn of(started: Started, held: Held, mut record: Record) -> Self {
        let Started { begun, events, timers, ends, model_place, endpoint_place, model } = started;
        record.model = model;
        record.first_content = Some(record.begun.elapsed());
        Self { begun, events, timers, ends, held, _places: (model_place, endpoint_place), record }
    }

    /// Lets it flow.
    pub(super) fn start(self) -> Completion {
        let (to, events) = mpsc::channel(1);
        let failure = Arc::new(Mutex::new(None));
        let span = self.record.span();
        let flow = tokio::spawn(self.flow_out(to, failure.clone()).instrument(span));
        Completion { events, failure, _flow: AbortOnDropHandle::new(flow) }
    }

    async fn flow_out(mut self, to: mpsc::Sender<Event>, slot: Arc<Mutex<Option<Failure>>>) {
        if let Err(failure) = self.run(&to).await {
            self.record.fail(&failure);
            let failure = Failure { so_far: Some(Box::new(self.record.so_far())), ..failure };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        }
    }

    /// Passes events on until the end event, or until nobody wants them.
    async fn run(&mut self, to: &mpsc::Sender<Event>) -> Result<(), Failure> {
        loop {
            let event = match self.begun.pop_front() {
                Some(event) => event,
                None => self.read().await?,
            };
            self.record.note(&event);
            let is_end = matches!(event, Event::End(_));
            if is_end {
                // The way to the model closes now, not when the caller has read the end.
                self.events = Box::pin(futures_util::stream::empty());
            }
            if !self.pass(to, event).await? || is_end {
                return Ok(());
            }
        }
    }

    async fn read(&mut self) -> Result<Event, Failure> {
        let idle = Instant::now() + self.timers.idle;
        let next = tokio::select! {
            // In this order: where two have come at once, the caller's own wish counts first.
            biased;
            () = self.held.session.replaced().cancelled() => return Err(replaced()),
            revoked = self.held.standing.revoked() => return Err(revoked),
            () = tokio::time::sleep_until(self.ends.at) => return Err(self.ends.failure()),
            () = self.held.ending.cancelled() => return Err(draining()),
            () = tokio::time::sleep_until(idle) => {
                let waited = self.timers.idle.as_secs_f64();
                let message = format!("the model sent no content for {waited} s");
                return Err(Failure::new(Reason::IdleTimeout, message).with_blame(Blame::Upstream));
            }
            next = self.events.next() => next,
        };
        match next {
            Some(Ok(CompletionEvent { event: Some(event) })) => Ok(event),
            Some(Err(failure)) => Err(failure),
            Some(Ok(CompletionEvent { event: None })) | None => Err(broke_off()),
        }
    }

    /// Hands an event to the reader; false when there is none any more.
    async fn pass(&mut self, to: &mpsc::Sender<Event>, event: Event) -> Result<bool, Failure> {
        tokio::select! {
            biased;
            sent = to.send(event) => Ok(sent.is_ok()),
            () = self.held.session.replaced().cancelled() => Err(replaced()),
            revoked = self.held.standing.revoked() => Err(revoked),
            () = tokio::time::sleep_until(self.ends.at) => Err(self.ends.failure()),
            () = self.held.ending.cancelled() => Err(draining()),
            () = tokio::time::sleep(self.timers.idle) => {
                let waited = self.timers.idle.as_secs_f64();
                Err(Failure::new(Reason::CallerStalled, format!("the caller read nothing for {waited} s")))
            }
        }
    }
}
