//! Gemini's content (<https://ai.google.dev/api/generate-content>), streamed and not, and the same on Vertex AI
//! (<https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest>), whose base URL ends in `/publishers/google`.

mod answer;
mod arguments;
mod request;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::{EmbedRequest, Generation};

use super::embeddings::{self, Shape};
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// A provider of this API.
pub struct Gemini {
    name: &'static str,
    on_vertex: bool,
}

/// The Gemini API.
pub const GEMINI: Gemini = Gemini { name: "gemini", on_vertex: false };
/// Whose signatures they are, on Vertex AI too.
const SIGNER: &str = "gemini";
/// Vertex AI, with an access token as the key.
pub const VERTEX: Gemini = Gemini { name: "vertex", on_vertex: true };

impl Gemini {
    /// How a model that embeds is asked. On Vertex AI the newer are asked as models that talk are.
    fn shape(&self, identifier: &str) -> Shape {
        let is_newer = identifier.contains("gemini") && !identifier.starts_with("gemini-embedding-001");
        match self.on_vertex {
            false => Shape::Gemini,
            true if is_newer || identifier.contains("maas") => Shape::VertexContent,
            true => Shape::Vertex,
        }
    }

    fn headers(&self, target: &Target<'_>) -> Result<HeaderMap, Failure> {
        match self.on_vertex {
            true => say::headers(AUTHORIZATION, "Bearer ", target.api_key),
            false => say::headers(HeaderName::from_static("x-goog-api-key"), "", target.api_key),
        }
    }
}

impl Provider for Gemini {
    fn name(&self) -> &'static str {
        self.name
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::GenerateContent, Api::Embeddings]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (body, warnings) = request::body(target.identifier, generation, self.on_vertex)?;
        let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        let path = format!("/models/{}:{method}", say::segment(target.identifier));
        Ok(Call { path, headers: self.headers(target)?, body, warnings, api: Api::GenerateContent })
    }

    fn most_texts(&self, target: &Target<'_>) -> usize {
        self.shape(target.identifier).most_texts(target.identifier)
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        let shape = self.shape(target.identifier);
        let method = match shape {
            Shape::Vertex => "predict",
            Shape::VertexContent => "embedContent",
            _ => "batchEmbedContents",
        };
        let (body, warnings) = embeddings::body(shape, target.identifier, asked)?;
        let path = format!("/models/{}:{method}", say::segment(target.identifier));
        Ok(Call { path, headers: self.headers(target)?, body, warnings, api: Api::Embeddings })
    }

    fn count(&self, target: &Target<'_>, generation: &Generation) -> Result<Option<Call>, Failure> {
        let body = request::body_to_count(target.identifier, generation, self.on_vertex)?;
        let path = format!("/models/{}:countTokens", say::segment(target.identifier));
        Ok(Some(Call { path, headers: self.headers(target)?, body, warnings: Vec::new(), api: Api::GenerateContent }))
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        if self.on_vertex {
            return Ok(None);
        }
        let (path, headers) = ("/models".to_owned(), self.headers(target)?);
        Ok(Some(Call { path, headers, body: Bytes::new(), warnings: Vec::new(), api: Api::GenerateContent }))
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(answer::Stream::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}
