//! A failure on its way to the caller: a reason, two messages, and what the caller may do about it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::Reason;

/// The `domain` of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "postern.dev";

/// Who is to blame for a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The request; another endpoint would refuse it too.
    Client,
    /// The model's server; another endpoint may do better.
    Upstream,
    /// The adapter or its configuration.
    Adapter,
}

impl Blame {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Adapter => "adapter",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Client, Self::Upstream, Self::Adapter].into_iter().find(|blame| blame.name() == name)
    }
}

/// Why a request did not succeed, on its way to the caller. Travels as a gRPC status with `google.rpc` details and reads
/// back from one unchanged, but for `detail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// For the caller: what happened and what to do.
    pub message: String,
    /// For the log only; never leaves the process.
    pub detail: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Who is to blame for a failed attempt at a model.
    pub blame: Option<Blame>,
    /// The fields that are wrong and why, for REQUEST_INVALID.
    pub fields: Vec<(String, String)>,
    /// What had come of an answer that broke off.
    pub so_far: Option<Box<SoFar>>,
}

/// What had come of an answer when it broke off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SoFar {
    /// Pieces of text, reasoning and calls that were passed on.
    pub pieces: u64,
    /// Tokens that the model had read, as far as its server had said.
    pub input_tokens: Option<u64>,
    /// Tokens that the model had written, as far as its server had said.
    pub output_tokens: Option<u64>,
}

impl SoFar {
    /// Its numbers by their names.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { pieces, input_tokens, output_tokens } = *self;
        let all = [("pieces", Some(pieces)), ("input_tokens", input_tokens), ("output_tokens", output_tokens)];
        all.into_iter().filter_map(|(name, number)| Some((name, number?)))
    }

    fn from_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |name: &str| metadata.get(name)?.parse().ok();
        let (input_tokens, output_tokens) = (number("input_tokens"), number("output_tokens"));
        Some(Self { pieces: number("pieces")?, input_tokens, output_tokens })
    }
}

impl Failure {
    /// A failure with a message for the caller.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            detail: None,
            retry_after: None,
            blame: None,
            fields: Vec::new(),
            so_far: None,
        }
    }

    /// A fault of ours: the caller learns that there was one, the log what it was.
    #[must_use]
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(Reason::Internal, "an internal error; the log of the request id says more").with_detail(detail)
    }

    /// A request with a wrong field.
    #[must_use]
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let mut failure = Self::new(Reason::RequestInvalid, format!("{field}: {message}"));
        failure.fields.push((field, message));
        failure
    }

    /// Adds what only the log may know.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: impl Into<Option<Duration>>) -> Self {
        self.retry_after = retry_after.into();
        self
    }

    /// Adds who is to blame.
    #[must_use]
    pub fn with_blame(mut self, blame: Blame) -> Self {
        self.blame = Some(blame);
        self
    }

    /// Reads a failure back from a status that this crate made; a status of anybody else's becomes `otherwise`.
    #[must_use]
    pub fn from_status(status: &Status, otherwise: Reason) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|info| Reason::from_name(&info.reason));
        let Some(reason) = reason else {
            return Self::foreign(status, otherwise);
        };
        Self {
            reason,
            message: status.message().to_owned(),
            detail: None,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            blame: info.and_then(|info| info.metadata.get("blame")).and_then(|name| Blame::from_name(name)),
            fields: details
                .bad_request()
                .map(|bad| bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect())
                .unwrap_or_default(),
            so_far: info.and_then(|info| SoFar::from_metadata(&info.metadata)).map(Box::new),
        }
    }

    /// A status from the transport or a proxy. Only what its code says for certain is kept.
    fn foreign(status: &Status, otherwise: Reason) -> Self {
        let reason = match status.code() {
            tonic::Code::Cancelled => Reason::Cancelled,
            tonic::Code::DeadlineExceeded => Reason::DeadlineExceeded,
            tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => Reason::RequestTooLarge,
            tonic::Code::Unimplemented => Reason::Unimplemented,
            _ => otherwise,
        };
        let message = match reason {
            Reason::Cancelled => "the call was cancelled",
            Reason::DeadlineExceeded => "the deadline of the call has passed",
            Reason::RequestTooLarge => "the message is larger than is allowed",
            Reason::Unimplemented => "the peer does not offer this call",
            _ => "the peer could not be reached or did not answer",
        };
        Self::new(reason, message).with_detail(format_args!("{:?}: {}", status.code(), status.message()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let numbers = failure.so_far.iter().flat_map(|so_far| so_far.numbers());
        let mut metadata: HashMap<_, _> = numbers.map(|(name, number)| (name.to_owned(), number.to_string())).collect();
        if let Some(blame) = failure.blame {
            metadata.insert("blame".to_owned(), blame.name().to_owned());
        }
        let mut details = ErrorDetails::with_error_info(failure.reason.name(), DOMAIN, metadata);
        if let Some(delay) = failure.retry_after {
            details.set_retry_info(Some(delay));
        }
        for (field, description) in failure.fields {
            details.add_bad_request_violation(field, description);
        }
        Self::with_error_details(failure.reason.code(), failure.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_way_through_a_status() {
        let mut sent = Failure::field("model", "is empty")
            .with_blame(Blame::Upstream)
            .with_retry_after(Duration::from_millis(1500));
        sent.reason = Reason::ModelRateLimited;
        sent.so_far = Some(Box::new(SoFar { pieces: 7, input_tokens: None, output_tokens: Some(5) }));
        let status = Status::from(sent.clone().with_detail("not for the caller"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(!format!("{status:?}").contains("not for the caller"));
        assert_eq!(Failure::from_status(&status, Reason::Internal), sent);
    }

    #[test]
    fn a_foreign_status_keeps_only_what_its_code_says() {
        let read = |code| Failure::from_status(&Status::new(code, "x"), Reason::AdapterUnavailable).reason;
        assert_eq!(read(tonic::Code::Unavailable), Reason::AdapterUnavailable);
        assert_eq!(read(tonic::Code::DeadlineExceeded), Reason::DeadlineExceeded);
        assert_eq!(read(tonic::Code::Unauthenticated), Reason::AdapterUnavailable);
    }
}
