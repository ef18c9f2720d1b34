//! The members that chat and completions share. What is not known here is passed on to servers that may know it.

use postern_proto::Failure;
use postern_proto::completion::v1::Parameters;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::doors::wire::extra_json;

/// Sampling parameters and everything else that is neither the prompt nor the form of the answer.
#[derive(Deserialize)]
pub(super) struct Common {
    #[serde(default)]
    pub(super) model: String,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<i64>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    stop: Option<OneOrMany>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Common {
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub(super) fn model(&self) -> Option<String> {
        Some(self.model.clone()).filter(|model| !model.is_empty())
    }

    /// The parameters, with what nobody here knows as extra members. Null is the same as absent.
    pub(super) fn parameters(self, extra: Map<String, Value>) -> Result<Parameters, Failure> {
        let extra_json = extra_json(extra)?;
        Ok(Parameters {
            max_tokens: count("max_tokens", self.max_tokens)?,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: count("top_k", self.top_k)?,
            stop: match self.stop {
                None => Vec::new(),
                Some(OneOrMany::One(text)) => vec![text],
                Some(OneOrMany::Many(texts)) => texts,
            },
            seed: self.seed,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            choices: self.n,
            user: self.user,
            extra_json,
            ..Default::default()
        })
    }
}

/// A count, of which -1 says that there is none, as vLLM and llama.cpp have it.
fn count(name: &str, given: Option<i64>) -> Result<Option<u32>, Failure> {
    match given {
        None | Some(-1) => Ok(None),
        Some(given) => u32::try_from(given).map(Some).map_err(|_| Failure::field(name, "is out of range")),
    }
}
