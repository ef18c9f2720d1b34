//! What a server says when it refuses, and whom that blames.

use http::StatusCode;
use postern_proto::{Blame, Failure, Reason};
use serde_json::Value;

/// Longest part of a server's own words that is kept until they have been scrubbed, in characters. What is passed on is shorter.
const MAX_WORDS: usize = 8 * 1024;

/// A failure of a status and a body.
pub fn from_status(status: StatusCode, body: &[u8]) -> Failure {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    // Google's servers may put it into a list.
    let parsed = parsed.map(|value| match value {
        Value::Array(all) => all.into_iter().next().unwrap_or_default(),
        value => value,
    });
    let error = parsed.as_ref().map(|value| value.get("error").unwrap_or(value));
    from_parts(status.as_u16(), error)
}

/// A failure of an error object that came under status 200 or inside a stream, where it says itself what it is: by a status as its code,
/// or in words.
pub fn from_object(error: &Value) -> Failure {
    let code = error.get("code").unwrap_or(&Value::Null);
    let number = code.as_u64().or_else(|| code.as_str()?.parse().ok());
    let status = number.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    let words = [code.as_str(), error.get("type").and_then(Value::as_str)];
    let status = status.or_else(|| words.into_iter().flatten().find_map(status_of_words)).unwrap_or(500);
    from_parts(status, Some(error))
}

fn status_of_words(words: &str) -> Option<u16> {
    Some(match words {
        "overloaded_error" | "server_is_overloaded" => 503,
        "invalid_prompt" | "invalid_image" | "image_too_large" | "unsupported_image" => 400,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" => 429,
        "invalid_request_error" | "context_length_exceeded" | "exceed_context_size_error" => 400,
        "billing_error" => 402,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "authentication_error" | "permission_error" | "invalid_api_key" => 401,
        _ => return None,
    })
}

fn from_parts(status: u16, error: Option<&Value>) -> Failure {
    let member = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str).unwrap_or_default();
    let said = match error {
        Some(Value::String(text)) => text.as_str(),
        _ => member("message"),
    };
    let said = words(said);
    let (kind, code) = (member("type"), member("code"));
    let says = said.to_ascii_lowercase();
    let in_words = [
        "maximum context length",
        "prompt is too long",
        "input is too long",
        "exceeds the context",
        "exceeds the available context",
        "exceed context",
        "context window",
        // Cohere; Gemini.
        "too many tokens",
        "exceeds the maximum number of tokens",
    ];
    let too_long = code == "context_length_exceeded"
        || kind == "exceed_context_size_error"
        || in_words.iter().any(|words| says.contains(words));
    let (reason, blame, message) = match status {
        400 | 413 | 422 if too_long => {
            (Reason::ContextLengthExceeded, Blame::Client, "the prompt is longer than the model's context")
        }
        // Google says so under status 400.
        _ if matches!(status, 401 | 403) || status == 400 && is_bad_key(error) => {
            // The server's words may hold a part of the key, so they stay in the log.
            let message = "the model's server does not accept the configured credential; an administrator can renew it";
            return Failure::new(Reason::ModelCredentialRejected, message)
                .with_blame(Blame::Adapter)
                .with_detail(format_args!("status {status}"));
        }
        // Anthropic says so under status 400 too.
        _ if status == 402
            || kind == "billing_error"
            || status == 400 && says.starts_with("your credit balance is too low to access the anthropic api") =>
        {
            let message = "the account of the configured credential has no credit at the model's server; an administrator can see to it";
            return Failure::new(Reason::ModelCredentialRejected, message)
                .with_blame(Blame::Adapter)
                .with_detail(format_args!("status {status}"));
        }
        // Bedrock says so under status 400.
        _ if status == 404
            || status == 400
                && (code == "model_not_found" || says.contains("the provided model identifier is invalid")) =>
        {
            (Reason::ModelMissingUpstream, Blame::Adapter, "the model's server does not have the model or the path")
        }
        // The model's own failure, at Bedrock.
        424 => (Reason::ModelFailed, Blame::Upstream, "the model failed"),
        // The one before the last is Groq's.
        408 | 503 | 498 | 529 => {
            (Reason::ModelUnavailable, Blame::Upstream, "the model's server cannot serve at the moment")
        }
        429 => (Reason::ModelRateLimited, Blame::Upstream, "the model's server is at its limit"),
        400..=499 | 501 => (Reason::ModelRefusedRequest, Blame::Client, "the model's server refused the request"),
        300..=399 => {
            (Reason::ModelAnswerInvalid, Blame::Adapter, "the model's server redirects, and redirects are not followed")
        }
        _ => (Reason::ModelFailed, Blame::Upstream, "the model's server failed"),
    };
    let message = if said.is_empty() { message.to_owned() } else { format!("{message}: {said}") };
    Failure::new(reason, message).with_blame(blame).with_detail(format_args!("status {status}"))
}

/// The detail that Google gives for a key it does not know.
fn is_bad_key(error: Option<&Value>) -> bool {
    let details = error.and_then(|error| error.get("details")).and_then(Value::as_array);
    details.into_iter().flatten().any(|detail| detail["reason"] == "API_KEY_INVALID")
}

/// The server's words, bounded and on one line.
fn words(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_status_has_its_reason_and_its_blame() {
        let cases = [
            (400, r#"{"error":{"message":"bad n"}}"#, Reason::ModelRefusedRequest, Blame::Client),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, Reason::ContextLengthExceeded, Blame::Client),
            (
                400,
                r#"{"error":{"type":"exceed_context_size_error","code":400}}"#,
                Reason::ContextLengthExceeded,
                Blame::Client,
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 4096 tokens","type":"BadRequestError"}}"#,
                Reason::ContextLengthExceeded,
                Blame::Client,
            ),
            (401, r#"{"error":{"message":"bad key sk-123"}}"#, Reason::ModelCredentialRejected, Blame::Adapter),
            (403, "", Reason::ModelCredentialRejected, Blame::Adapter),
            (404, "<html>", Reason::ModelMissingUpstream, Blame::Adapter),
            (
                400,
                r#"{"message":"The provided model identifier is invalid."}"#,
                Reason::ModelMissingUpstream,
                Blame::Adapter,
            ),
            (402, r#"{"error":{"type":"billing_error"}}"#, Reason::ModelCredentialRejected, Blame::Adapter),
            (
                400,
                r#"{"error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
                Reason::ModelCredentialRejected,
                Blame::Adapter,
            ),
            (424, r#"{"message":"Model produced invalid sequence"}"#, Reason::ModelFailed, Blame::Upstream),
            (
                400,
                r#"{"message":"Input is too long for requested model."}"#,
                Reason::ContextLengthExceeded,
                Blame::Client,
            ),
            (
                400,
                r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 4081"}"#,
                Reason::ContextLengthExceeded,
                Blame::Client,
            ),
            (429, r#"{"message":"Too many tokens, please wait"}"#, Reason::ModelRateLimited, Blame::Upstream),
            (
                400,
                r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8)."}}]"#,
                Reason::ContextLengthExceeded,
                Blame::Client,
            ),
            (422, r#"{"message":"x"}"#, Reason::ModelRefusedRequest, Blame::Client),
            (429, "{}", Reason::ModelRateLimited, Blame::Upstream),
            (500, "oops", Reason::ModelFailed, Blame::Upstream),
            (501, "{}", Reason::ModelRefusedRequest, Blame::Client),
            (502, "", Reason::ModelFailed, Blame::Upstream),
            (503, r#"{"error":{"message":"Loading model"}}"#, Reason::ModelUnavailable, Blame::Upstream),
            (302, "", Reason::ModelAnswerInvalid, Blame::Adapter),
            (529, r#"{"error":{"type":"overloaded_error"}}"#, Reason::ModelUnavailable, Blame::Upstream),
            (
                400,
                r#"{"error":{"code":400,"details":[{"reason":"API_KEY_INVALID"}]}}"#,
                Reason::ModelCredentialRejected,
                Blame::Adapter,
            ),
        ];
        for (status, body, reason, blame) in cases {
            let failure = from_status(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!((failure.reason, failure.blame), (reason, Some(blame)), "{status} {body}");
            assert!(!format!("{failure:?}").contains("sk-123"));
        }
    }

    #[test]
    fn an_error_inside_an_answer_says_itself_what_it_is() {
        let cases = [
            (json!({ "code": 429 }), Reason::ModelRateLimited),
            (json!({ "code": "429" }), Reason::ModelRateLimited),
            (json!({ "code": "rate_limit_exceeded", "type": "tokens" }), Reason::ModelRateLimited),
            (json!({ "code": null, "type": "overloaded_error" }), Reason::ModelUnavailable),
            (
                json!({ "code": "context_length_exceeded", "type": "invalid_request_error" }),
                Reason::ContextLengthExceeded,
            ),
            (json!({ "type": "exceed_context_size_error" }), Reason::ContextLengthExceeded),
            (json!({ "code": "invalid_api_key", "type": "invalid_request_error" }), Reason::ModelCredentialRejected),
            (json!({ "type": "invalid_request_error" }), Reason::ModelRefusedRequest),
            (json!({ "code": 200 }), Reason::ModelFailed),
            (json!({ "code": "else", "type": 5 }), Reason::ModelFailed),
            (json!("words"), Reason::ModelFailed),
            (Value::Null, Reason::ModelFailed),
        ];
        for (error, reason) in cases {
            assert_eq!(from_object(&error).reason, reason, "{error}");
        }
    }

    #[test]
    fn the_servers_words_are_bounded_and_on_one_line() {
        let body = format!(r#"{{"error":{{"message":"a\nb{}"}}}}"#, "x".repeat(20_000));
        let failure = from_status(StatusCode::BAD_REQUEST, body.as_bytes());
        assert!(failure.message.contains("a b"), "{}", failure.message);
        assert!(failure.message.chars().count() < MAX_WORDS + 100);
    }
}
