//! Failures in the API's own envelope.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use postern_proto::Failure;
use postern_runtime::grpc::refuse;
use serde_json::{Value, json};

use crate::doors::http::{SHOULD_RETRY, is_worth_a_retry, retry_after};

/// The envelope.
pub(super) fn envelope(failure: &Failure) -> Value {
    let kind = match failure.reason.http_status() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let param = failure.fields.first().map(|(field, _)| match field.as_str() {
        // The contract's names for what this API calls otherwise.
        "choices" => "n",
        "inputs" => "input",
        field => field,
    });
    let code = failure.reason.name().to_ascii_lowercase();
    let mut error = json!({ "message": failure.message, "type": kind, "param": param, "code": code });
    if let Some(so_far) = &failure.so_far {
        error["so_far"] = so_far.numbers().map(|(name, number)| (name.to_owned(), json!(number))).collect();
    }
    json!({ "error": error })
}

/// The response of a request that did not succeed; it is logged here.
pub(super) fn response(failure: Failure) -> Response {
    let status = StatusCode::from_u16(failure.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(envelope(&failure))).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if !is_worth_a_retry(&failure) {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(seconds) = retry_after(&failure) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let _ = refuse(failure);
    response
}
