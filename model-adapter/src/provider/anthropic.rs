//! Anthropic's messages (<https://docs.anthropic.com/en/api/messages>), streamed and not.

mod answer;
mod request;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::Generation;

use super::emit::EventStream;
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// The provider.
pub struct Anthropic;

/// Whose signatures they are: of thoughts, and of thoughts that nobody else can read.
const SIGNER: &str = "anthropic";
const REDACTED: &str = "anthropic-redacted";

fn headers(target: &Target<'_>) -> Result<HeaderMap, Failure> {
    let mut headers = say::headers(HeaderName::from_static("x-api-key"), "", target.api_key)?;
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    Ok(headers)
}

impl Provider for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Messages]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (body, warnings) = request::body(target, generation, stream)?;
        Ok(Call { path: "/messages".to_owned(), headers: headers(target)?, body, warnings, api: Api::Messages })
    }

    fn count(&self, target: &Target<'_>, generation: &Generation) -> Result<Option<Call>, Failure> {
        let body = request::body_to_count(target, generation)?;
        let (path, headers) = ("/messages/count_tokens".to_owned(), headers(target)?);
        Ok(Some(Call { path, headers, body, warnings: Vec::new(), api: Api::Messages }))
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        let (path, headers) = ("/models".to_owned(), headers(target)?);
        Ok(Some(Call { path, headers, body: Bytes::new(), warnings: Vec::new(), api: Api::Messages }))
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(EventStream::<answer::Events>::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}
