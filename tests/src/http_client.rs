//! A plain HTTP client for the doors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::soon;

/// A whole answer.
pub struct HttpAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

impl HttpAnswer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The `code` of an error in the OpenAI API's envelope.
    #[must_use]
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn request(method: &str, url: &str, bearer: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    if !bearer.is_empty() {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    request.body(Full::new(body.into())).unwrap()
}

async fn send(request: Request<Full<Bytes>>) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    soon("an HTTP answer", client.request(request)).await.unwrap()
}

async fn whole(response: Response<Incoming>) -> HttpAnswer {
    let (head, body) = response.into_parts();
    let bytes = soon("the end of an HTTP answer", body.collect()).await.unwrap().to_bytes();
    HttpAnswer { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// Posts JSON.
pub async fn post(url: &str, bearer: &str, body: &Value) -> HttpAnswer {
    whole(send(request("POST", url, bearer, body.to_string().into_bytes())).await).await
}

/// Posts JSON from this address of the loopback network.
pub async fn post_from(from: [u8; 4], url: &str, bearer: &str, body: &Value) -> HttpAnswer {
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some(from.into()));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = request("POST", url, bearer, body.to_string().into_bytes());
    whole(soon("an HTTP answer", client.request(request)).await.unwrap()).await
}

/// Posts a form, with Basic credentials where given.
pub async fn post_form(url: &str, basic: Option<(&str, &str)>, form: &[(&str, &str)]) -> HttpAnswer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = request("POST", url, "", body.into_bytes());
    let headers = request.headers_mut();
    headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    if let Some((id, secret)) = basic {
        let encoded = STANDARD.encode(format!("{id}:{secret}"));
        headers.insert("authorization", format!("Basic {encoded}").parse().unwrap());
    }
    whole(send(request).await).await
}

/// Posts JSON and leaves the body to the caller.
pub async fn post_stream(url: &str, bearer: &str, body: &Value) -> Response<Incoming> {
    send(request("POST", url, bearer, body.to_string().into_bytes())).await
}

/// Gets.
pub async fn get(url: &str, bearer: &str) -> HttpAnswer {
    whole(send(request("GET", url, bearer, Vec::new())).await).await
}
