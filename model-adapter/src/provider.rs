//! The wire formats. A provider turns a generation into an HTTP request and the answer's bytes into events; it does no I/O.

mod anthropic;
mod bedrock;
mod claude;
mod cohere;
pub mod embeddings;
pub(crate) mod emit;
mod error;
mod gemini;
mod llamacpp;
mod logprobs;
mod ollama;
mod openai;
mod say;

use bytes::Bytes;
use http::HeaderMap;
use postern_proto::Failure;
use postern_proto::completion::v1::{Completion, CompletionEvent, Usage};
use postern_proto::instance::v1::Capabilities;
use postern_proto::model::v1::{EmbedRequest, Generation};
use secrecy::SecretString;

/// What a provider must know of an endpoint.
pub struct Target<'a> {
    /// The registered model.
    pub model: &'a str,
    /// The model's name at its server.
    pub identifier: &'a str,
    /// The API key, if the server asks for one.
    pub api_key: Option<&'a SecretString>,
    /// What the model and its server can do.
    pub capabilities: &'a Capabilities,
}

/// An HTTP request to an endpoint.
pub struct Call {
    /// After the endpoint's base URL, with a leading slash.
    pub path: String,
    /// Beside content type and accept.
    pub headers: HeaderMap,
    /// The JSON body; empty for GET.
    pub body: Bytes,
    /// What was dropped or translated.
    pub warnings: Vec<String>,
    /// What the answer will look like.
    pub api: Api,
}

/// An API, which is the shape of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's completions.
    Completions,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Gemini's content.
    GenerateContent,
    /// Mistral's code at a cursor.
    Fim,
    /// llama.cpp's own completions, code at a cursor among them.
    Infill,
    /// Ollama's chat.
    OllamaChat,
    /// Ollama's raw completion.
    OllamaGenerate,
    /// Cohere's chat.
    CohereChat,
    /// Bedrock's Converse.
    Converse,
    /// Embeddings, of whatever shape.
    Embeddings,
}

impl Api {
    /// The API of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "chat" => Self::Chat,
            "completions" => Self::Completions,
            "responses" => Self::Responses,
            "messages" => Self::Messages,
            "generate_content" => Self::GenerateContent,
            "fim" => Self::Fim,
            "infill" => Self::Infill,
            "ollama_chat" => Self::OllamaChat,
            "ollama_generate" => Self::OllamaGenerate,
            "cohere_chat" => Self::CohereChat,
            "converse" => Self::Converse,
            "embeddings" => Self::Embeddings,
            _ => return None,
        })
    }
}

/// Turns the body of a streamed answer into events.
pub trait StreamDecoder: Send {
    /// Takes more bytes.
    ///
    /// # Errors
    /// When the bytes are no answer, or an error that the server sent in the stream.
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<CompletionEvent>) -> Result<(), Failure>;

    /// Takes the end of the body. Anything but a complete answer is an error.
    ///
    /// # Errors
    /// MODEL_STREAM_TRUNCATED.
    fn finish(&mut self, out: &mut Vec<CompletionEvent>) -> Result<(), Failure>;

    /// Whether the end event has been given out; what follows is not read.
    fn is_done(&self) -> bool;

    /// What the server has said so far of what the answer costs, before its end.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

/// A wire format.
pub trait Provider: Send + Sync {
    /// The name in a model's settings.
    fn name(&self) -> &'static str;

    /// The APIs whose answers it reads.
    fn apis(&self) -> &'static [Api];

    /// The request for a generation.
    ///
    /// # Errors
    /// REQUEST_INVALID for what the format cannot say.
    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure>;

    /// Texts that the server embeds in one request.
    fn most_texts(&self, _: &Target<'_>) -> usize {
        embeddings::MOST_INPUTS
    }

    /// The request for embeddings of at most [`Provider::most_texts`].
    ///
    /// # Errors
    /// REQUEST_INVALID where the API has none.
    fn embed(&self, _: &Target<'_>, _: &EmbedRequest) -> Result<Call, Failure> {
        Err(Failure::field("inputs", format!("the provider {} has no embeddings", self.name())))
    }

    /// The request that counts the tokens of a prompt; `None` where the API has none.
    ///
    /// # Errors
    /// As [`Provider::call`].
    fn count(&self, _: &Target<'_>, _: &Generation) -> Result<Option<Call>, Failure> {
        Ok(None)
    }

    /// Reads the answer to that.
    ///
    /// # Errors
    /// MODEL_ANSWER_INVALID when there is no count in it.
    fn read_count(&self, body: &[u8]) -> Result<u64, Failure> {
        /// By Anthropic, Bedrock and Gemini.
        #[derive(serde::Deserialize)]
        struct Counted {
            #[serde(alias = "inputTokens", alias = "totalTokens")]
            input_tokens: u64,
        }
        let counted = serde_json::from_slice::<Counted>(body);
        counted.map(|counted| counted.input_tokens).map_err(|_| emit::invalid("no count of tokens"))
    }

    /// The request that lists models, to try a credential with; `None` where the API has no such list.
    ///
    /// # Errors
    /// INTERNAL when the credential is no header's value.
    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure>;

    /// Reads a streamed answer.
    fn stream_decoder(&self, api: Api) -> Box<dyn StreamDecoder>;

    /// Reads an answer that came in one piece.
    ///
    /// # Errors
    /// MODEL_ANSWER_INVALID, or the error that the body holds.
    fn read(&self, api: Api, body: &[u8]) -> Result<Completion, Failure>;

    /// Reads an answer whose status says that it failed.
    fn read_error(&self, status: http::StatusCode, body: &[u8]) -> Failure {
        error::from_status(status, body)
    }
}

/// All providers. Adding one is its folder and a line here.
#[must_use]
pub fn all() -> &'static [&'static dyn Provider] {
    &[
        &openai::OPENAI,
        &openai::AZURE_OPENAI,
        &openai::MISTRAL,
        &openai::POSTERN,
        &llamacpp::LlamaCpp,
        &anthropic::Anthropic,
        &gemini::GEMINI,
        &gemini::VERTEX,
        &ollama::Ollama,
        &cohere::Cohere,
        &bedrock::Bedrock,
    ]
}

/// The provider of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Provider> {
    all().iter().copied().find(|provider| provider.name() == name)
}

#[cfg(test)]
mod tests;
