//! Cohere's chat, version 2 (<https://docs.cohere.com/reference/chat>), streamed and not.

mod answer;
mod request;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::{EmbedRequest, Generation};

use super::embeddings::{self, Shape};
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// The provider.
pub struct Cohere;

impl Provider for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::CohereChat, Api::Embeddings]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (body, warnings) = request::body(target.identifier, generation, stream)?;
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path: "/v2/chat".to_owned(), headers, body, warnings, api: Api::CohereChat })
    }

    fn most_texts(&self, target: &Target<'_>) -> usize {
        Shape::Cohere.most_texts(target.identifier)
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        let (body, warnings) = embeddings::body(Shape::Cohere, target.identifier, asked)?;
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path: "/v2/embed".to_owned(), headers, body, warnings, api: Api::Embeddings })
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        let path = "/v1/models".to_owned();
        Ok(Some(Call { path, headers, body: Bytes::new(), warnings: Vec::new(), api: Api::CohereChat }))
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(answer::Stream::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}
