//! The wire formats. A provider turns a generation into an HTTP request and the answer's bytes into events; it does no I/O.

pub mod openai;

use bytes::Bytes;
use http::HeaderMap;
use postern_proto::Failure;
use postern_proto::completion::v1::{Completion, CompletionEvent};
use postern_proto::model::v1::Generation;
use secrecy::SecretString;

/// What a provider must know of an endpoint.
pub struct Target<'a> {
    /// The registered model.
    pub model: &'a str,
    /// The model's name at its server.
    pub identifier: &'a str,
    /// The API key, if the server asks for one.
    pub api_key: Option<&'a SecretString>,
}

/// An HTTP request to an endpoint.
pub struct Call {
    /// After the endpoint's base URL, with a leading slash.
    pub path: &'static str,
    /// Beside content type and accept.
    pub headers: HeaderMap,
    /// The JSON body; empty for GET.
    pub body: Bytes,
    /// What was dropped or translated.
    pub warnings: Vec<String>,
    /// What the answer will look like.
    pub kind: AnswerKind,
}

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// A conversation's.
    Chat,
    /// A raw completion's.
    Raw,
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
}

/// A wire format.
pub trait Provider: Send + Sync {
    /// The name in a model's settings.
    fn name(&self) -> &'static str;

    /// The request for a generation.
    ///
    /// # Errors
    /// REQUEST_INVALID for what the format cannot say.
    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure>;

    /// The request that lists models, to try a credential with.
    ///
    /// # Errors
    /// INTERNAL when the credential is no header's value.
    fn list_models(&self, target: &Target<'_>) -> Result<Call, Failure>;

    /// Reads a streamed answer.
    fn stream_decoder(&self, kind: AnswerKind) -> Box<dyn StreamDecoder>;

    /// Reads an answer that came in one piece.
    ///
    /// # Errors
    /// MODEL_ANSWER_INVALID, or the error that the body holds.
    fn read(&self, kind: AnswerKind, body: &[u8]) -> Result<Completion, Failure>;

    /// Reads an answer whose status says that it failed.
    fn read_error(&self, status: http::StatusCode, body: &[u8]) -> Failure;
}

/// The provider of this name. Adding one is its folder and a line here.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Provider> {
    const ALL: &[&dyn Provider] = &[&openai::OpenAi];
    ALL.iter().copied().find(|provider| provider.name() == name)
}
