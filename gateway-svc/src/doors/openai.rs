//! The OpenAI-compatible API (<https://platform.openai.com/docs/api-reference>): `/v1/chat/completions`, `/v1/completions`,
//! `/v1/embeddings`, `/v1/responses` and `/v1/models`, for clients that have only a base URL and a key.

mod answer;
mod chat;
mod completions;
mod embeddings;
mod error;
mod logprobs;
mod parameters;
mod responses;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use postern_proto::{Failure, Reason};
use serde_json::{Value, json};

use super::anthropic;
use super::http::{Head, HttpDoor, Parsed, Told};

type Door = State<Arc<HttpDoor>>;

pub(super) fn routes() -> Router<Arc<HttpDoor>> {
    Router::new()
        .route("/v1/chat/completions", post(|door: Door, request: Request| answer(door, request, chat::parse)))
        .route("/v1/completions", post(|door: Door, request: Request| answer(door, request, completions::parse)))
        .route("/v1/responses", post(|door: Door, request: Request| answer(door, request, responses::parse)))
        .route("/v1/embeddings", post(embed))
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
}

pub(super) async fn unknown(method: Method, request: Request) -> Response {
    let message = format!("{method} {} is not offered here", request.uri().path());
    error::response(Failure::new(Reason::Unimplemented, message))
}

async fn answer(State(door): Door, request: Request, parse: fn(&[u8], Told) -> Result<Parsed, Failure>) -> Response {
    let head = Head::of(&request);
    door.complete(&head, request, parse).await.unwrap_or_else(error::response)
}

async fn embed(State(door): Door, request: Request) -> Response {
    let head = Head::of(&request);
    let answered = async {
        let (verified, body) = door.take_in(&head, request).await?;
        let embeddings::Parsed { ask, encoding } = embeddings::parse(&body.bytes)?;
        drop(body);
        let embedded = door.pipeline.embed(verified, door.caller(&head), ask).await?;
        Ok(Json(embeddings::answer(embedded, encoding)).into_response())
    };
    answered.await.unwrap_or_else(error::response)
}

async fn models(State(door): Door, request: Request) -> Response {
    match list(&door, &anthropic::head_of(&request)).await {
        Ok(models) => {
            // Anthropic's clients ask here too, and look for pages.
            let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
            let (first, last) = (id(models.first()), id(models.last()));
            let pages = json!({
                "object": "list", "data": models, "has_more": false, "first_id": first, "last_id": last,
            });
            Json(pages).into_response()
        }
        Err(failure) => error::response(failure),
    }
}

async fn model(State(door): Door, Path(name): Path<String>, request: Request) -> Response {
    let named = |models: Vec<Value>| models.into_iter().find(|model| model["id"] == name.as_str());
    match list(&door, &anthropic::head_of(&request)).await.map(named) {
        Ok(Some(model)) => Json(model).into_response(),
        Ok(None) => error::response(Failure::new(Reason::ModelNotFound, "there is no model of that name for this key")),
        Err(failure) => error::response(failure),
    }
}

async fn list(door: &HttpDoor, head: &Head) -> Result<Vec<Value>, Failure> {
    let models = door.pipeline.models(door.caller(head)).await?;
    // The API wants a time of creation; the gateway knows none.
    let shown = |name: &str| {
        json!({
            "id": name, "object": "model", "created": 0, "owned_by": "postern",
            "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z",
        })
    };
    Ok(models.iter().map(|(model, _)| shown(&model.name)).collect())
}
