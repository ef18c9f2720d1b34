//! Gemini's content (<https://ai.google.dev/api/generate-content>), streamed and not.

mod answer;
mod request;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::Generation;

use super::emit::EventStream;
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// The provider.
pub struct Gemini;

fn headers(target: &Target<'_>) -> Result<HeaderMap, Failure> {
    say::headers(HeaderName::from_static("x-goog-api-key"), "", target.api_key)
}

impl Provider for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::GenerateContent]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (body, warnings) = request::body(generation)?;
        let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        let path = format!("/models/{}:{method}", say::segment(target.identifier));
        Ok(Call { path, headers: headers(target)?, body, warnings, api: Api::GenerateContent })
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Call, Failure> {
        let (path, headers) = ("/models".to_owned(), headers(target)?);
        Ok(Call { path, headers, body: Bytes::new(), warnings: Vec::new(), api: Api::GenerateContent })
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(EventStream::<answer::Responses>::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}
