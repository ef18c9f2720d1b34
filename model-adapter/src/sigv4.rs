//! Signatures of requests to AWS, version 4
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>), by AWS's own signer.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

/// The name that Bedrock's runtime signs under.
const SERVICE: &str = "bedrock";

/// Adds the signature's headers, at `now` in seconds of Unix time.
///
/// # Errors
/// When the request is one that cannot be signed.
pub fn sign(
    credentials: Credentials,
    region: &str,
    request: &mut Request<Full<Bytes>>,
    now: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    use http_body::Body as _;
    let identity: Identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(UNIX_EPOCH + Duration::from_secs(now))
        .settings(SigningSettings::default())
        .build()?;
    let body = peek(request.body().clone());
    debug_assert_eq!(request.body().size_hint().exact(), Some(body.len() as u64));
    let (method, uri) = (request.method().as_str(), request.uri().to_string());
    // What a proxy on the way may change is left out: the host is signed by itself.
    let signed = SignableRequest::new(method, uri, std::iter::empty(), SignableBody::Bytes(&body))?;
    let (instructions, _) = aws_sigv4::http_request::sign(signed, &SigningParams::V4(parameters))?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}

/// The bytes of a body that is in memory.
fn peek(body: Full<Bytes>) -> Bytes {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    match body.collect().now_or_never() {
        Some(Ok(whole)) => whole.to_bytes(),
        None | Some(Err(_)) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(session_token: &str) -> Credentials {
        let session_token = Some(session_token.to_owned()).filter(|token| !token.is_empty());
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        Credentials::new("AKIDEXAMPLE", secret, session_token, None, "test")
    }

    fn signed(key: Credentials, body: &'static str) -> Request<Full<Bytes>> {
        let uri = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude%3A0/converse";
        let mut request = Request::post(uri).body(Full::from(body)).unwrap();
        sign(key, "us-east-1", &mut request, 1_440_938_160).unwrap();
        request
    }

    #[test]
    fn a_request_is_signed_by_key_time_region_and_body() {
        let request = signed(key(""), "{}");
        let authorization = request.headers()["authorization"].to_str().unwrap();
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, ";
        assert!(authorization.starts_with(scope), "{authorization}");
        assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
        let signature = |request: &Request<_>| request.headers()["authorization"].clone();
        assert_ne!(signature(&signed(key(""), "{ }")), signature(&request));
        assert_eq!(signature(&signed(key(""), "{}")), signature(&request));
        assert!(!request.headers().contains_key("x-amz-security-token"));
    }

    #[test]
    fn a_temporary_key_shows_its_session() {
        let request = signed(key("session"), "{}");
        assert_eq!(request.headers()["x-amz-security-token"], "session");
    }
}
