//! The doors: gRPC and HTTP over one domain. Wire types stop here.

pub mod audit;
pub mod config;
pub mod explain;
pub mod features;
pub mod fleet;
pub mod guard;
pub mod http;
pub mod keys;
pub mod models;
pub mod oauth;
pub mod principals;
pub mod prompts;
pub mod relay;
pub mod token;
pub mod trust;

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tonic::Status;

use crate::store::Millis;

/// A server's stream.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How often an idle stream says that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// An answer, with what was acted on for the audit log.
pub(crate) fn acted<T>(on: impl Into<String>, answer: T) -> tonic::Response<T> {
    let mut response = tonic::Response::new(answer);
    response.extensions_mut().insert(crate::audit::Target(on.into()));
    response
}

/// An answer to an act that changed nothing, which is not told to the audit log.
pub(crate) fn nothing_done<T>(answer: T) -> tonic::Response<T> {
    let mut response = tonic::Response::new(answer);
    response.extensions_mut().insert(crate::audit::NothingDone);
    response
}

pub(crate) fn timestamp(millis: Millis) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    Some(prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos })
}

pub(crate) fn millis(time: prost_types::Timestamp) -> Millis {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}
