//! The OpenAI-compatible door (<https://platform.openai.com/docs/api-reference>): `/v1/chat/completions`, `/v1/completions`
//! and `/v1/models`, for clients that have only a base URL and a key.

mod answer;
mod chat;
mod completions;
mod error;
mod parameters;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use postern_proto::{Failure, Reason};
use postern_runtime::Clock;
use postern_runtime::grpc::MAX_MESSAGE_BYTES;
use postern_runtime::peer::Peer;
use postern_runtime::request_id::{RequestId, RequestIdLayer};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ask::Ask;
use crate::collect::collect;
use crate::pipeline::{Bearer, Caller, Completion, Credentials, Pipeline};
use answer::Shape;

/// The door.
pub struct OpenAiDoor {
    /// What is behind it.
    pub pipeline: Pipeline,
    /// Exchanges credentials, where the listener takes them.
    pub credentials: Option<Credentials>,
    /// For `created`.
    pub clock: Arc<dyn Clock>,
    /// KiB of request bodies that may still be taken in.
    pub bodies: Semaphore,
}

/// KiB of request bodies in memory at once.
pub const MAX_BODIES_KIB: usize = 256 * 1024;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a request asks for and how the answer is to look.
struct Parsed {
    ask: Ask,
    shape: Shape,
    stream: bool,
    include_usage: bool,
}

/// The routes.
pub fn router(door: OpenAiDoor) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions_door))
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .layer(RequestIdLayer)
        .with_state(Arc::new(door))
}

async fn unknown(method: Method, request: Request) -> Response {
    let message = format!("{method} {} is not offered here", request.uri().path());
    error::response(Failure::new(Reason::Unimplemented, message))
}

async fn chat_completions(State(door): State<Arc<OpenAiDoor>>, request: Request) -> Response {
    door.answer(request, chat::parse).await.unwrap_or_else(error::response)
}

async fn completions_door(State(door): State<Arc<OpenAiDoor>>, request: Request) -> Response {
    door.answer(request, completions::parse).await.unwrap_or_else(error::response)
}

async fn models(State(door): State<Arc<OpenAiDoor>>, request: Request) -> Response {
    match door.list(Head::of(&request)).await {
        Ok(models) => Json(json!({ "object": "list", "data": models })).into_response(),
        Err(failure) => error::response(failure),
    }
}

async fn model(State(door): State<Arc<OpenAiDoor>>, Path(name): Path<String>, request: Request) -> Response {
    let named = |models: Vec<Value>| models.into_iter().find(|model| model["id"] == name.as_str());
    match door.list(Head::of(&request)).await.map(named) {
        Ok(Some(model)) => Json(model).into_response(),
        Ok(None) => error::response(Failure::new(Reason::ModelNotFound, "there is no model of that name for this key")),
        Err(failure) => error::response(failure),
    }
}

impl OpenAiDoor {
    fn caller<'a>(&'a self, head: &'a Head) -> Caller<'a> {
        Caller {
            headers: &head.headers,
            peer: head.peer.clone(),
            request_id: head.request_id.clone(),
            timeout: None,
            bearer: self.credentials.as_ref().map_or(Bearer::AccessToken, Bearer::Credential),
        }
    }

    async fn answer(&self, request: Request, parse: fn(&[u8]) -> Result<Parsed, Failure>) -> Result<Response, Failure> {
        let head = Head::of(&request);
        let verified = self.pipeline.identify(&self.caller(&head)).await?;
        let body = self.body(request).await?;
        let Parsed { ask, shape, stream, include_usage } = parse(&body.bytes)?;
        drop(body);
        let completion = self.pipeline.complete(verified, self.caller(&head), ask).await?;
        let writer = answer::Writer::new(shape, &head.request_id, self.clock.now());
        if stream {
            return Ok(answer::stream(writer, include_usage, completion));
        }
        Ok(whole(&writer, completion).await?.into_response())
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
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                let message = format!("the request is larger than {} MiB", MAX_MESSAGE_BYTES >> 20);
                return Failure::new(Reason::RequestTooLarge, message);
            }
            Failure::new(Reason::RequestInvalid, "the request's body could not be read")
        })?;
        Ok(HeldBody { bytes, _place: place })
    }

    async fn list(&self, head: Head) -> Result<Vec<Value>, Failure> {
        let models = self.pipeline.models(self.caller(&head)).await?;
        // The API wants a time of creation; the gateway knows none.
        let shown = |name: &str| json!({ "id": name, "object": "model", "created": 0, "owned_by": "postern" });
        Ok(models.iter().map(|(model, _)| shown(&model.name)).collect())
    }
}

async fn whole(writer: &answer::Writer, completion: Completion) -> Result<Json<Value>, Failure> {
    Ok(Json(writer.whole(collect(completion).await?)))
}

/// A body in memory, with its place among all of them.
struct HeldBody<'a> {
    bytes: Bytes,
    _place: SemaphorePermit<'a>,
}

/// A request's head, kept while its body is read.
struct Head {
    headers: HeaderMap,
    peer: Option<Peer>,
    request_id: RequestId,
}

impl Head {
    fn of(request: &Request<Body>) -> Self {
        let extensions = request.extensions();
        Self {
            headers: request.headers().clone(),
            peer: extensions.get::<Peer>().cloned(),
            request_id: extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate),
        }
    }
}
