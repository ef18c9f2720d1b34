//! Ollama's own API (<https://docs.ollama.com/api>): chat, and raw completion, as lines of JSON or in one piece.

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
pub struct Ollama;

impl Provider for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::OllamaChat, Api::OllamaGenerate, Api::Embeddings]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (api, body, warnings) = request::body(target.identifier, generation, stream)?;
        let path = if api == Api::OllamaGenerate { "/api/generate" } else { "/api/chat" };
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path: path.to_owned(), headers, body, warnings, api })
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        let (body, warnings) = embeddings::body(Shape::Ollama, target.identifier, asked)?;
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path: "/api/embed".to_owned(), headers, body, warnings, api: Api::Embeddings })
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        let path = "/api/tags".to_owned();
        Ok(Some(Call { path, headers, body: Bytes::new(), warnings: Vec::new(), api: Api::OllamaChat }))
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(answer::Lines::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}
