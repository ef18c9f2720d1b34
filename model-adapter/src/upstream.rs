//! One HTTP call to a model server: exactly one attempt, bounded, and aborted by dropping it.

use std::error::Error as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use postern_egress::{Body, ConnectError, chain};
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::request_id::{self, RequestId};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::endpoints::Endpoint;
use crate::provider::Call;
use crate::sigv4;

/// Largest answer in one piece, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Most that is read of an error's body, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Longest wait that a server may ask for and be quoted.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Sends the call and reads the answer's head. A status other than 2xx is a failure.
///
/// # Errors
/// EGRESS_DENIED, MODEL_UNREACHABLE, and what the server's status says.
pub async fn send(endpoint: &Endpoint, call: Call, id: &RequestId, now: u64) -> Result<Response<Body>, Failure> {
    let method = if call.body.is_empty() { Method::GET } else { Method::POST };
    let mut request = Request::builder()
        .method(method)
        .uri(endpoint.url(&call.path)?)
        .body(Full::new(call.body))
        .map_err(Failure::internal)?;
    *request.headers_mut() = endpoint.headers.clone();
    request.headers_mut().extend(call.headers);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.headers_mut().insert(
        ACCEPT,
        HeaderValue::from_static(
            "application/json, text/event-stream, application/x-ndjson, application/vnd.amazon.eventstream",
        ),
    );
    request.headers_mut().insert(request_id::HEADER, id.header_value());
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(concat!("postern/", env!("CARGO_PKG_VERSION"))));
    if let Some(aws) = &endpoint.aws {
        sigv4::sign(aws.get(now).await?, &aws.region, &mut request, now).map_err(Failure::internal)?;
    }
    if let Some(google) = &endpoint.google {
        let fresh = google.token(now).await?;
        let value = HeaderValue::from_str(&format!("Bearer {}", fresh.expose_secret()));
        let mut value = value.map_err(|_| Failure::internal("the access token is not a header's value"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let response = endpoint.client.request(request).await.map_err(|error| unreachable(&error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refusal(endpoint, response, now).await)
}

/// Reads a whole answer.
///
/// # Errors
/// MODEL_STREAM_TRUNCATED when it breaks off, MODEL_ANSWER_INVALID when it is too large.
pub async fn read_all(body: Body) -> Result<Bytes, Failure> {
    read_up_to(body, MAX_ANSWER_BYTES).await
}

/// Reads a whole answer of at most this many bytes.
///
/// # Errors
/// As [`read_all`].
pub async fn read_up_to(body: Body, most: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, most).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Failure::new(Reason::ModelAnswerInvalid, "the model's answer is too large").with_blame(Blame::Upstream))
        }
        Err(error) => Err(broken(&*error)),
    }
}

/// The connection broke while the answer was coming.
pub(crate) fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Reason::ModelStreamTruncated, "the connection to the model's server broke before the answer's end")
        .with_blame(Blame::Upstream)
        .with_detail(chain(error))
}

/// What a server said when it refused.
async fn refusal(endpoint: &Endpoint, response: Response<Body>, now: u64) -> Failure {
    let (status, retry_after) = (response.status(), retry_after(response.headers(), now));
    // An error whose body breaks off or is endless is still that error.
    let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let failure = endpoint.provider.read_error(status, &body);
    let retry_after = retry_after.or_else(|| retry_delay(&body));
    let retry_after = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => retry_after,
        _ => None,
    };
    scrubbed(endpoint, failure).with_retry_after(retry_after)
}

/// Longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 600;

/// Takes the endpoint's secrets out of a server's words, and cuts them only then: a key that lies across the cut must go whole.
pub(crate) fn scrubbed(endpoint: &Endpoint, mut failure: Failure) -> Failure {
    let clean =
        |text: String| endpoint.secrets().fold(text, |text, secret| text.replace(secret.expose_secret(), "[redacted]"));
    failure.message = cut(clean(failure.message));
    failure.detail = failure.detail.map(|detail| cut(clean(detail)));
    failure
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_MESSAGE) {
        text.truncate(at);
        text.push('\u{2026}');
    }
    text
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date: SystemTime = httpdate::parse_http_date(text).ok()?;
            let date = date.duration_since(UNIX_EPOCH).ok()?;
            date.saturating_sub(Duration::from_secs(now))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Google's servers say in the body how long to wait, as `RetryInfo` (<https://cloud.google.com/apis/design/errors>).
fn retry_delay(body: &[u8]) -> Option<Duration> {
    let said: Value = serde_json::from_slice(body).ok()?;
    let said = said.get(0).unwrap_or(&said);
    let details = said["error"]["details"].as_array()?;
    let delay = details.iter().find_map(|detail| detail["retryDelay"].as_str())?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().map(|wait| wait.min(MAX_RETRY_AFTER))
}

fn unreachable(error: &hyper_util::client::legacy::Error) -> Failure {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(connect) = inner.downcast_ref::<ConnectError>() {
            return not_connected(connect);
        }
        cause = inner.source();
    }
    let message = if error.is_connect() {
        "no connection to the model's server could be made"
    } else {
        "the connection to the model's server broke before the answer began"
    };
    Failure::new(Reason::ModelUnreachable, message).with_blame(Blame::Upstream).with_detail(chain(error))
}

/// What a caller may know of a connection that did not come to be: no address.
pub(crate) fn not_connected(error: &ConnectError) -> Failure {
    let failure = match error {
        ConnectError::Denied { .. } => {
            let message =
                "the endpoint's address is outside the model's endpoint networks; an administrator can list it";
            Failure::new(Reason::EgressDenied, message).with_blame(Blame::Adapter)
        }
        ConnectError::NoHost => {
            Failure::new(Reason::EgressDenied, "the endpoint's URL cannot be called").with_blame(Blame::Adapter)
        }
        ConnectError::Resolve { .. }
        | ConnectError::Dial { .. }
        | ConnectError::Proxy { .. }
        | ConnectError::Timeout { .. } => {
            Failure::new(Reason::ModelUnreachable, "the model's server cannot be reached").with_blame(Blame::Upstream)
        }
    };
    failure.with_detail(chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_read_in_googles_body() {
        let body = |delay: &str| {
            let kind = "type.googleapis.com/google.rpc.RetryInfo";
            serde_json::json!({ "error": { "code": 429, "details": [
                { "@type": "other" }, { "@type": kind, "retryDelay": delay },
            ] } })
        };
        let read = |body: Value| retry_delay(body.to_string().as_bytes()).map(|wait| wait.as_millis());
        assert_eq!(read(body("47s")), Some(47_000));
        assert_eq!(read(body("3.5s")), Some(3500));
        assert_eq!(read(Value::Array(vec![body("1s")])), Some(1000));
        assert_eq!(read(body("99999999s")), Some(3_600_000));
        for bad in ["", "s", "-1s", "NaNs", "infs", "soon"] {
            assert_eq!(read(body(bad)), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers, 784_111_770).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read(" 7 "), Some(7));
        assert_eq!(read("999999999"), Some(3600));
        // Sun, 06 Nov 1994 08:49:37 GMT is 784111777.
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0));
        for bad in ["", "-1", "soon", "7.5"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
