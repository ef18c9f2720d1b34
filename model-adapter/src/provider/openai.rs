//! The OpenAI API (<https://platform.openai.com/docs/api-reference>) and those that speak it, each with its own ways: chat completions
//! and completions, streamed and not.

mod request;
mod response;
mod responses;
mod responses_request;
mod stream;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName};
use postern_proto::Failure;
use postern_proto::completion::v1::Completion;
use postern_proto::model::v1::{EmbedRequest, Generation, generation};

use super::embeddings::{self, Shape};
use super::{Api, Call, Provider, StreamDecoder, Target, say};

/// A provider of this API.
pub struct OpenAi {
    name: &'static str,
    dialect: Dialect,
}

/// Whose ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// OpenAI's, and those of the servers that follow it closely.
    OpenAi,
    /// Azure OpenAI (<https://learn.microsoft.com/azure/ai-foundry/openai/reference>): the model is a deployment in the path.
    Azure,
    /// Mistral (<https://docs.mistral.ai/api>), which refuses members that it does not know.
    Mistral,
    /// llama.cpp, whose base URL is above that of this API.
    LlamaCpp,
}

/// OpenAI, llama.cpp, vLLM, Ollama and the many others.
pub const OPENAI: OpenAi = OpenAi { name: "openai", dialect: Dialect::OpenAi };
/// Azure OpenAI.
pub const AZURE_OPENAI: OpenAi = OpenAi { name: "azure_openai", dialect: Dialect::Azure };
/// Mistral.
pub const MISTRAL: OpenAi = OpenAi { name: "mistral", dialect: Dialect::Mistral };
/// Another gateway, at its HTTP door, with the secret of a service account as the key.
pub const POSTERN: OpenAi = OpenAi { name: "postern", dialect: Dialect::OpenAi };
/// llama.cpp, but for what is its own.
pub(super) const LLAMACPP: OpenAi = OpenAi { name: "llamacpp", dialect: Dialect::LlamaCpp };

/// Whose signatures they are: whichever server's it is.
const SIGNER: &str = "openai";
/// The version of Azure's API that is spoken.
const AZURE_VERSION: &str = "2024-10-21";

impl OpenAi {
    fn path(&self, target: &Target<'_>, path: &str) -> String {
        match self.dialect {
            Dialect::OpenAi | Dialect::Mistral => path.to_owned(),
            Dialect::LlamaCpp => format!("/v1{path}"),
            Dialect::Azure => {
                let deployment = say::segment(target.identifier);
                format!("/openai/deployments/{deployment}{path}?api-version={AZURE_VERSION}")
            }
        }
    }

    fn headers(&self, target: &Target<'_>) -> Result<http::HeaderMap, Failure> {
        match self.dialect {
            Dialect::OpenAi | Dialect::Mistral | Dialect::LlamaCpp => {
                say::headers(AUTHORIZATION, "Bearer ", target.api_key)
            }
            Dialect::Azure => say::headers(HeaderName::from_static("api-key"), "", target.api_key),
        }
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &'static str {
        self.name
    }

    fn apis(&self) -> &'static [Api] {
        match self.dialect {
            Dialect::OpenAi | Dialect::Azure => &[Api::Chat, Api::Completions, Api::Responses, Api::Embeddings],
            Dialect::Mistral => &[Api::Chat, Api::Fim, Api::Completions, Api::Embeddings],
            Dialect::LlamaCpp => &[Api::Chat, Api::Completions, Api::Embeddings],
        }
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let choices = generation.parameters.as_ref().and_then(|parameters| parameters.choices);
        let wants_one = choices.is_none_or(|choices| choices <= 1);
        let (api, body, warnings) = match &generation.prompt {
            // Which gives one answer.
            Some(generation::Prompt::Chat(chat)) if target.capabilities.chat_api() == "responses" && wants_one => {
                responses_request::body(target, chat, generation.parameters.as_ref(), stream)?
            }
            _ => request::body(target, generation, stream, self.dialect)?,
        };
        let path = match api {
            Api::Completions => "/completions",
            Api::Fim => "/fim/completions",
            // Azure's is the same for all deployments, and wants the newer version.
            Api::Responses if self.dialect == Dialect::Azure => {
                let path = "/openai/v1/responses".to_owned();
                return Ok(Call { path, headers: self.headers(target)?, body, warnings, api });
            }
            // So do chats with models that think.
            Api::Chat if self.dialect == Dialect::Azure && target.capabilities.sampling == Some(false) => {
                let path = "/openai/v1/chat/completions".to_owned();
                return Ok(Call { path, headers: self.headers(target)?, body, warnings, api });
            }
            Api::Responses => "/responses",
            _ => "/chat/completions",
        };
        Ok(Call { path: self.path(target, path), headers: self.headers(target)?, body, warnings, api })
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        let shape = if self.dialect == Dialect::Mistral { Shape::Mistral } else { Shape::OpenAi };
        let (body, warnings) = embeddings::body(shape, target.identifier, asked)?;
        let (path, headers) = (self.path(target, "/embeddings"), self.headers(target)?);
        Ok(Call { path, headers, body, warnings, api: Api::Embeddings })
    }

    /// Another gateway counts as Anthropic's API does; others of this API do not.
    fn count(&self, target: &Target<'_>, generation: &Generation) -> Result<Option<Call>, Failure> {
        if self.name != POSTERN.name {
            return Ok(None);
        }
        let Some(counting) = super::anthropic::Anthropic.count(target, generation)? else { return Ok(None) };
        Ok(Some(Call { headers: self.headers(target)?, ..counting }))
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        let path = match self.dialect {
            Dialect::OpenAi | Dialect::Mistral | Dialect::LlamaCpp => self.path(target, "/models"),
            Dialect::Azure => format!("/openai/models?api-version={AZURE_VERSION}"),
        };
        Ok(Some(Call {
            path,
            headers: self.headers(target)?,
            body: Bytes::new(),
            warnings: Vec::new(),
            api: Api::Completions,
        }))
    }

    fn stream_decoder(&self, api: Api) -> Box<dyn StreamDecoder> {
        match api {
            Api::Responses => Box::new(responses::stream()),
            _ => Box::new(stream::Decoder::default()),
        }
    }

    fn read(&self, api: Api, body: &[u8]) -> Result<Completion, Failure> {
        match api {
            Api::Responses => responses::read(body),
            _ => response::read(body),
        }
    }
}
