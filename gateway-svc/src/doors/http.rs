//! The HTTP door: what the APIs that it serves have in common. A request's head is judged before its body is taken in.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use postern_proto::completion::v1::Completion as Whole;
use postern_proto::completion::v1::completion_event::Event;
use postern_proto::{Failure, Reason};
use postern_runtime::Clock;
use postern_runtime::grpc::MAX_MESSAGE_BYTES;
use postern_runtime::peer::Peer;
use postern_runtime::request_id::{RequestId, RequestIdLayer};
use postern_token::Verified;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::sse::{self, Frames};
use super::{anthropic, openai};
use crate::ask::Ask;
use crate::collect::collect;
use crate::pipeline::{Bearer, Caller, Credentials, Pipeline};

/// The door.
pub struct HttpDoor {
    /// What is behind it.
    pub pipeline: Pipeline,
    /// Exchanges credentials, where the listener takes them.
    pub credentials: Option<Credentials>,
    /// For times in answers.
    pub clock: Arc<dyn Clock>,
    /// KiB of request bodies that may still be taken in.
    pub bodies: Semaphore,
}

/// KiB of request bodies in memory at once.
pub const MAX_BODIES_KIB: usize = 256 * 1024;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The routes of all APIs.
pub fn router(door: HttpDoor) -> Router {
    let door = Arc::new(door);
    Router::new()
        .merge(anthropic::routes())
        .merge(openai::routes())
        .fallback(openai::unknown)
        .method_not_allowed_fallback(openai::unknown)
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .layer(RequestIdLayer)
        .with_state(door)
}

/// What an answer says of its request.
pub(super) struct Told {
    /// The request's id.
    pub id: String,
    /// Seconds of Unix time.
    pub created: u64,
}

/// What a request asks for and how the answer is to be said.
pub(super) struct Parsed {
    pub ask: Ask,
    pub stream: bool,
    pub writer: Box<dyn Writer>,
}

/// Says an answer in an API's own words.
pub(super) trait Writer: Send {
    /// A whole answer.
    fn whole(&mut self, answer: Whole) -> Value;
    /// An event of a stream.
    ///
    /// # Errors
    /// When the answer is more than can be said.
    fn event(&mut self, event: Event, frames: &mut Frames) -> Result<(), Failure>;
    /// The stream's good end.
    fn ended(&mut self, frames: &mut Frames);
    /// A failure after the head, so that nobody takes the answer for complete.
    fn failed(&mut self, failure: &Failure, frames: &mut Frames);
    /// What keeps a silent connection open.
    fn heartbeat(&mut self, frames: &mut Frames) {
        frames.comment();
    }
}

impl HttpDoor {
    pub(super) fn caller<'a>(&'a self, head: &'a Head) -> Caller<'a> {
        Caller {
            headers: &head.headers,
            peer: head.peer.clone(),
            request_id: head.request_id.clone(),
            timeout: None,
            bearer: self.credentials.as_ref().map_or(Bearer::AccessToken, Bearer::Credential),
        }
    }

    /// Who calls, and the request's body; nothing of it is taken in before that.
    pub(super) async fn take_in(
        &self,
        head: &Head,
        request: Request,
    ) -> Result<(Arc<Verified>, HeldBody<'_>), Failure> {
        let verified = self.pipeline.identify(&self.caller(head)).await?;
        Ok((verified, self.body(request).await?))
    }

    /// Answers a completion of an API.
    pub(super) async fn complete(
        &self,
        head: &Head,
        request: Request,
        parse: fn(&[u8], Told) -> Result<Parsed, Failure>,
    ) -> Result<Response, Failure> {
        let (verified, body) = self.take_in(head, request).await?;
        let told = Told { id: head.request_id.as_str().to_owned(), created: self.clock.now() };
        let Parsed { ask, stream, mut writer } = parse(&body.bytes, told)?;
        drop(body);
        let completion = self.pipeline.complete(verified, self.caller(head), ask).await?;
        if stream {
            return Ok(sse::stream(writer, completion));
        }
        Ok(Json(writer.whole(collect(completion).await?)).into_response())
    }

    /// A request's body, whole: bounded in size and time, and counted among all that are in memory at once.
    async fn body(&self, request: Request) -> Result<HeldBody<'_>, Failure> {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let length = usize::min(length.unwrap_or(MAX_MESSAGE_BYTES), MAX_MESSAGE_BYTES);
        let kib = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
        let place = self.bodies.try_acquire_many(kib).map_err(|_| {
            let message = "the gateway holds as many request bodies as it may; try again";
            Failure::new(Reason::ConcurrencyLimited, message).with_retry_after(Duration::from_secs(1))
        })?;
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
        let read = read.map_err(|_| Failure::new(Reason::RequestInvalid, "the request's body did not come in time"))?;
        let bytes = read.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let message = format!("the request is larger than {} MiB", MAX_MESSAGE_BYTES >> 20);
                return Failure::new(Reason::RequestTooLarge, message);
            }
            Failure::new(Reason::RequestInvalid, "the request's body could not be read")
        })?;
        Ok(HeldBody { bytes, _place: place })
    }
}

/// A body in memory, with its place among all of them.
pub(super) struct HeldBody<'a> {
    pub bytes: Bytes,
    _place: SemaphorePermit<'a>,
}

/// A request's head, kept while its body is read.
pub(super) struct Head {
    pub headers: HeaderMap,
    pub peer: Option<Peer>,
    pub request_id: RequestId,
}

impl Head {
    pub(super) fn of(request: &Request<Body>) -> Self {
        let extensions = request.extensions();
        Self {
            headers: request.headers().clone(),
            peer: extensions.get::<Peer>().cloned(),
            request_id: extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate),
        }
    }
}

/// By which a server tells these APIs' clients whether another try is of use; without it they try again on every 5xx.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Whether the same request may do better in a moment: what an administrator must mend does not mend itself.
pub(super) const fn is_worth_a_retry(failure: &Failure) -> bool {
    !matches!(failure.reason, Reason::ModelCredentialRejected | Reason::ModelMissingUpstream | Reason::EgressDenied)
}

/// The `Retry-After` of a failure: whole seconds, and never too early.
pub(super) fn retry_after(failure: &Failure) -> Option<u64> {
    failure.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}
