//! The members that chat and completions share. What is not known here is passed on to servers that may know it.

use postern_proto::Failure;
use postern_proto::completion::v1::Parameters;
use serde::Deserialize;
use serde_json::{Map, Value};

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
    max_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<u32>,
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
    pub(super) fn parameters(self, mut extra: Map<String, Value>) -> Result<Parameters, Failure> {
        extra.retain(|_, value| !value.is_null());
        let extra_json = match extra.is_empty() {
            true => String::new(),
            false => serde_json::to_string(&extra).map_err(Failure::internal)?,
        };
        Ok(Parameters {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
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

/// Members that would change the answer's form in a way that this door cannot give back: refused, not lost.
pub(super) fn refuse_unoffered(extra: &Map<String, Value>, names: &[&str]) -> Result<(), Failure> {
    let asks = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_u64() != Some(0);
    match names.iter().find(|name| extra.get(**name).is_some_and(asks)) {
        Some(name) => Err(Failure::field(*name, "is not offered by this gateway")),
        None => Ok(()),
    }
}

/// Reads the body, and says what of it cannot be read.
pub(super) fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        // The error's own text quotes what it could not read, which is the caller's prompt as often as not.
        let what = match error.classify() {
            serde_json::error::Category::Data => "has a member of the wrong type or lacks one",
            serde_json::error::Category::Eof => "ends too early",
            _ => "is not JSON",
        };
        let place = format!("at line {}, column {}", error.line(), error.column());
        Failure::new(postern_proto::Reason::RequestInvalid, format!("the request's body {what}, {place}"))
    })
}
