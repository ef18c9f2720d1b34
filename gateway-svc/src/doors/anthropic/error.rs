//! Failures in the API's own envelope (<https://docs.anthropic.com/en/api/errors>).

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use postern_proto::{Failure, Reason};
use postern_runtime::grpc::refuse;
use serde_json::{Value, json};

use crate::doors::http::{SHOULD_RETRY, is_worth_a_retry, retry_after};

/// The envelope.
pub(super) fn envelope(failure: &Failure, request_id: &str) -> Value {
    let kind = match failure.reason.http_status() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    };
    let message = match failure.fields.first() {
        Some((field, _)) if !failure.message.contains(field.as_str()) => format!("{field}: {}", failure.message),
        _ => failure.message.clone(),
    };
    // By these words the clients know that they have to shorten the conversation.
    let message = match failure.reason {
        Reason::ContextLengthExceeded => format!("prompt is too long: {message}"),
        _ => message,
    };
    let code = failure.reason.name().to_ascii_lowercase();
    let mut error = json!({ "type": kind, "message": message, "code": code });
    if let Some(so_far) = &failure.so_far {
        error["so_far"] = so_far.numbers().map(|(name, number)| (name.to_owned(), json!(number))).collect();
    }
    if failure.fields.iter().any(|(field, _)| field == "thread") {
        // The client sends the whole conversation then.
        error["details"] = json!({ "error_code": "thread_unsupported_request", "unsupported": ["thread"] });
    }
    json!({ "type": "error", "error": error, "request_id": request_id })
}

/// The response of a request that did not succeed; it is logged here.
pub(super) fn response(failure: Failure, request_id: &str) -> Response {
    let status = StatusCode::from_u16(failure.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(envelope(&failure, request_id))).into_response();
    if !is_worth_a_retry(&failure) {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(seconds) = retry_after(&failure) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let _ = refuse(failure);
    response
}
