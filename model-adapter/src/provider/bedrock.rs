//! Amazon Bedrock's Converse (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>), streamed as an AWS
//! event stream and not, with an API key as bearer.

mod answer;
mod request;

use http::header::AUTHORIZATION;
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::{EmbedRequest, Generation};

use super::embeddings::{self, Shape};
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// The provider.
pub struct Bedrock;

/// Whose signatures they are: of thoughts, and of thoughts that nobody else can read.
const SIGNER: &str = "bedrock";
const REDACTED: &str = "bedrock-redacted";

impl Provider for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Converse, Api::Embeddings]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let (body, warnings) = request::body(target, generation)?;
        let method = if stream { "converse-stream" } else { "converse" };
        let path = format!("/model/{}/{method}", say::segment(target.identifier));
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path, headers, body, warnings, api: Api::Converse })
    }

    fn most_texts(&self, target: &Target<'_>) -> usize {
        shape(target.identifier).map_or(1, |shape| shape.most_texts(target.identifier))
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        let unknown = || Failure::field("inputs", "the model embeds nothing, or in a form that is not known here");
        let shape = shape(target.identifier).ok_or_else(unknown)?;
        let (body, warnings) = embeddings::body(shape, target.identifier, asked)?;
        let path = format!("/model/{}/invoke", say::segment(target.identifier));
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path, headers, body, warnings, api: Api::Embeddings })
    }

    /// (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CountTokens.html>)
    fn count(&self, target: &Target<'_>, generation: &Generation) -> Result<Option<Call>, Failure> {
        let body = request::body_to_count(target, generation)?;
        let path = format!("/model/{}/count-tokens", say::segment(target.identifier));
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Some(Call { path, headers, body, warnings: Vec::new(), api: Api::Converse }))
    }

    /// The runtime has no list; another service has.
    fn list_models(&self, _: &Target<'_>) -> Result<Option<Call>, Failure> {
        Ok(None)
    }

    fn stream_decoder(&self, _: Api) -> Box<dyn StreamDecoder> {
        Box::new(answer::Messages::default())
    }

    fn read(&self, _: Api, body: &[u8]) -> Result<Completion, Failure> {
        answer::read(body)
    }
}

/// How a model that embeds is asked.
fn shape(identifier: &str) -> Option<Shape> {
    match identifier {
        id if id.contains("titan-embed") => Some(Shape::Titan),
        id if id.contains("cohere.embed") => Some(Shape::CohereOnBedrock),
        id if id.contains("nova") && id.contains("embed") => Some(Shape::Nova),
        _ => None,
    }
}
