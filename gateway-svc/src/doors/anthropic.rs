//! The Anthropic-compatible API (<https://docs.anthropic.com/en/api/messages>): `/v1/messages` and `/v1/messages/count_tokens`, with the
//! key as bearer or in `x-api-key`.

mod answer;
mod error;
mod request;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use postern_proto::Failure;
use postern_proto::completion::v1::UsageProvenance;
use serde_json::json;

use super::http::{Head, HttpDoor};
use crate::pipeline::Counted;

type Door = State<Arc<HttpDoor>>;

const KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Under which the clients of this API look for the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

pub(super) fn routes() -> Router<Arc<HttpDoor>> {
    Router::new().route("/v1/messages", post(messages)).route("/v1/messages/count_tokens", post(count_tokens))
}

/// The head, with the key where the pipeline looks for it. A bearer that is there already is the one that counts.
pub(super) fn head_of(request: &Request) -> Head {
    let mut head = Head::of(request);
    if !head.headers.contains_key(AUTHORIZATION)
        && let Some(key) = head.headers.remove(KEY)
        && let Ok(mut bearer) = HeaderValue::from_bytes(&[b"Bearer ", key.as_bytes()].concat())
    {
        bearer.set_sensitive(true);
        head.headers.insert(AUTHORIZATION, bearer);
    }
    head
}

/// An answer or a failure, as the clients of this API expect it.
fn told(head: &Head, answered: Result<Response, Failure>) -> Response {
    let mut response = answered.unwrap_or_else(|failure| error::response(failure, head.request_id.as_str()));
    response.headers_mut().insert(REQUEST_ID, head.request_id.header_value());
    response
}

async fn messages(State(door): Door, request: Request) -> Response {
    let head = head_of(&request);
    told(&head, door.complete(&head, request, request::parse).await)
}

/// How many tokens a request would take, as the model's server counts, else guessed.
async fn count_tokens(State(door): Door, request: Request) -> Response {
    let head = head_of(&request);
    let counted = async {
        let (verified, body) = door.take_in(&head, request).await?;
        let ask = request::parse_to_count(&body.bytes)?;
        drop(body);
        let Counted { tokens, provenance } = door.pipeline.count(verified, door.caller(&head), ask).await?;
        let provenance = if provenance == UsageProvenance::Reported { "reported" } else { "estimated" };
        Ok(Json(json!({ "input_tokens": tokens, "postern_provenance": provenance })).into_response())
    };
    told(&head, counted.await)
}
