//! Signatures of requests to AWS, version 4
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>), by AWS's own signer.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use postern_proto::instance::v1::AwsAccessKey;
use secrecy::SecretString;

/// An access key, and where it is used.
pub struct AwsKey {
    identity: Identity,
    secret: SecretString,
    session_token: Option<SecretString>,
    region: String,
}

/// The name that Bedrock's runtime signs under.
const SERVICE: &str = "bedrock";

impl From<AwsAccessKey> for AwsKey {
    fn from(key: AwsAccessKey) -> Self {
        let AwsAccessKey { access_key_id, secret_access_key, session_token, region } = key;
        let session_token = Some(session_token).filter(|token| !token.is_empty());
        let credentials =
            Credentials::new(access_key_id, secret_access_key.clone(), session_token.clone(), None, "registered");
        Self {
            identity: credentials.into(),
            secret: secret_access_key.into(),
            session_token: session_token.map(Into::into),
            region,
        }
    }
}

impl AwsKey {
    /// What must not be shown.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        std::iter::once(&self.secret).chain(&self.session_token)
    }

    /// Adds the signature's headers, at `now` in seconds of Unix time.
    ///
    /// # Errors
    /// When the request is one that cannot be signed.
    pub fn sign(&self, request: &mut Request<Full<Bytes>>, now: u64) -> Result<(), Box<dyn std::error::Error>> {
        use http_body::Body as _;
        let parameters = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name(SERVICE)
            .time(UNIX_EPOCH + Duration::from_secs(now))
            .settings(SigningSettings::default())
            .build()?;
        let body = peek(request.body().clone());
        debug_assert_eq!(request.body().size_hint().exact(), Some(body.len() as u64));
        let (method, uri) = (request.method().as_str(), request.uri().to_string());
        // What a proxy on the way may change is left out: the host is signed by itself.
        let signed = SignableRequest::new(method, uri, std::iter::empty(), SignableBody::Bytes(&body))?;
        let (instructions, _) = sign(signed, &SigningParams::V4(parameters))?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
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
    use aws_sigv4 as _;

    fn key(session_token: &str) -> AwsKey {
        AwsKey::from(AwsAccessKey {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: session_token.to_owned(),
            region: "us-east-1".to_owned(),
        })
    }

    fn signed(key: &AwsKey, body: &'static str) -> Request<Full<Bytes>> {
        let uri = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude%3A0/converse";
        let mut request = Request::post(uri).body(Full::from(body)).unwrap();
        key.sign(&mut request, 1_440_938_160).unwrap();
        request
    }

    #[test]
    fn a_request_is_signed_by_key_time_region_and_body() {
        let request = signed(&key(""), "{}");
        let authorization = request.headers()["authorization"].to_str().unwrap();
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, ";
        assert!(authorization.starts_with(scope), "{authorization}");
        assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
        let signature = |request: &Request<_>| request.headers()["authorization"].clone();
        assert_ne!(signature(&signed(&key(""), "{ }")), signature(&request));
        assert_eq!(signature(&signed(&key(""), "{}")), signature(&request));
        assert!(!request.headers().contains_key("x-amz-security-token"));
    }

    #[test]
    fn a_temporary_key_shows_its_session() {
        let request = signed(&key("session"), "{}");
        assert_eq!(request.headers()["x-amz-security-token"], "session");
        assert_eq!(key("session").secrets().count(), 2);
    }
}
