//! The OpenAI API (<https://platform.openai.com/docs/api-reference>) and the many servers that speak it: chat completions
//! and completions, streamed and not.

mod error;
mod request;
mod response;
mod stream;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::Generation;
use secrecy::ExposeSecret as _;

use super::{AnswerKind, Call, Provider, StreamDecoder, Target};

/// The provider.
pub struct OpenAi;

impl Provider for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (kind, body) = request::body(target.identifier, generation, stream)?;
        let path = match kind {
            AnswerKind::Chat => "/chat/completions",
            AnswerKind::Raw => "/completions",
        };
        Ok(Call { path, headers: headers(target)?, body, warnings: Vec::new(), kind })
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Call, Failure> {
        Ok(Call {
            path: "/models",
            headers: headers(target)?,
            body: Bytes::new(),
            warnings: Vec::new(),
            kind: AnswerKind::Raw,
        })
    }

    fn stream_decoder(&self, _: AnswerKind) -> Box<dyn StreamDecoder> {
        Box::new(stream::Decoder::default())
    }

    fn read(&self, _: AnswerKind, body: &[u8]) -> Result<Completion, Failure> {
        response::read(body)
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Failure {
        error::from_status(status, body)
    }
}

fn headers(target: &Target<'_>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = target.api_key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
            .map_err(|_| Failure::internal("the API key is not a header's value"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}
