//! What is told of a request when it is over: one log line and its metrics, however it ended.

use std::time::Duration;

use postern_proto::completion::v1::{FinishReason, Usage, completion_event::Event};
use postern_proto::{Failure, Reason, SoFar};
use tokio::time::Instant;

use crate::metrics;
use crate::pipeline::authorise::Permit;

/// How a request ended.
enum Outcome {
    /// It is under way; when the record is dropped so, the caller has gone away.
    Open,
    Finished(FinishReason),
    Failed(Failure),
}

/// What is told of a request when it is over.
pub(in crate::pipeline) struct Record {
    feature: &'static str,
    subject: String,
    pub(in crate::pipeline) model: String,
    pub(in crate::pipeline) begun: Instant,
    pub(in crate::pipeline) first_content: Option<Duration>,
    deltas: u64,
    usage: Option<Usage>,
    outcome: Outcome,
    span: tracing::Span,
}

impl Record {
    pub(in crate::pipeline) fn new(permit: &Permit, begun: Instant) -> Self {
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

    /// Takes note of an event that is passed on.
    pub(in crate::pipeline) fn note(&mut self, event: &Event) {
        match event {
            Event::Start(_) => {}
            Event::Delta(_) => self.deltas += 1,
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End(end) => {
                let reason = FinishReason::try_from(end.finish_reason).unwrap_or(FinishReason::Other);
                self.outcome = Outcome::Finished(reason);
            }
        }
    }

    /// Takes note that an answer in one piece has been given.
    pub(in crate::pipeline) fn finish(&mut self, usage: Usage) {
        self.usage = Some(usage);
        self.outcome = Outcome::Finished(FinishReason::Stop);
    }

    /// Takes note of the failure that it ended in.
    pub(in crate::pipeline) fn fail(&mut self, failure: &Failure) {
        self.outcome = Outcome::Failed(failure.clone());
    }

    /// What has come of the answer.
    pub(in crate::pipeline) fn so_far(&self) -> SoFar {
        let (input_tokens, output_tokens) =
            self.usage.map_or((None, None), |usage| (usage.input_tokens, usage.output_tokens));
        SoFar { pieces: self.deltas, input_tokens, output_tokens }
    }

    /// The span of the request, for what is done on its behalf after its head was answered.
    pub(in crate::pipeline) fn span(&self) -> tracing::Span {
        self.span.clone()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (outcome, finish, detail) = match &self.outcome {
            Outcome::Open => (Reason::Cancelled.name(), None, None),
            Outcome::Finished(reason) => ("OK", Some(reason.as_str_name()), None),
            Outcome::Failed(failure) => (failure.reason.name(), None, failure.detail.as_deref()),
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
            detail,
            first_content_ms = self.first_content.map(ms),
            elapsed_ms = ms(self.begun.elapsed()),
            deltas = self.deltas,
            input_tokens = self.usage.and_then(|usage| usage.input_tokens),
            output_tokens = self.usage.and_then(|usage| usage.output_tokens),
            "completion over"
        );
    }
}
