//! `/v1/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::Texts;
use crate::doors::wire::{TextOr, read};
use crate::pipeline::Embedded;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    /// Tokens are not offered.
    input: TextOr<String>,
    #[serde(default)]
    dimensions: Option<u32>,
    #[serde(default)]
    encoding_format: Option<String>,
}

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    /// As JSON.
    Float,
    /// As 32-bit floats in base64, little end first.
    Base64,
}

/// What is asked for.
pub(super) struct Parsed {
    pub ask: Texts,
    pub encoding: Encoding,
}

/// Members that may be as large as the body.
const LARGE: &[&str] = &["input"];

pub(super) fn parse(body: &[u8]) -> Result<Parsed, Failure> {
    let Body { model, input, dimensions, encoding_format } = read(body, LARGE)?;
    let inputs = match input {
        TextOr::Text(text) => vec![text],
        TextOr::Many(texts) => texts,
    };
    let encoding = match encoding_format.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(Failure::field("encoding_format", "must be float or base64")),
    };
    let model = Some(model).filter(|model| !model.is_empty());
    Ok(Parsed { ask: Texts { model, inputs, dimensions }, encoding })
}

pub(super) fn answer(embedded: Embedded, encoding: Encoding) -> Value {
    let Embedded { model, vectors, usage } = embedded;
    let shown = |vector: Vec<f32>| -> Value {
        match encoding {
            Encoding::Float => vector.into(),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                STANDARD.encode(bytes).into()
            }
        }
    };
    let one = |(index, vector)| json!({ "object": "embedding", "index": index, "embedding": shown(vector) });
    let data: Vec<_> = vectors.into_iter().enumerate().map(one).collect();
    let tokens = usage.input_tokens.unwrap_or(0);
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    json!({ "object": "list", "data": data, "model": model, "usage": usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_or_many() {
        let inputs =
            |body: &str| parse(body.as_bytes()).map(|parsed| parsed.ask.inputs).map_err(|failure| failure.message);
        assert_eq!(inputs(r#"{"input":"a"}"#).unwrap(), ["a"]);
        assert_eq!(inputs(r#"{"input":["a","b"]}"#).unwrap(), ["a", "b"]);
        for bad in [r#"{"input":[1,2]}"#, r#"{"input":[["a"]]}"#, "{}", r#"{"input":"a","encoding_format":"hex"}"#] {
            assert!(inputs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn vectors_are_numbers_or_base64() {
        let embedded = || Embedded { model: "m".to_owned(), vectors: vec![vec![1.0, -0.5]], usage: Default::default() };
        assert_eq!(answer(embedded(), Encoding::Float)["data"][0]["embedding"], json!([1.0, -0.5]));
        assert_eq!(answer(embedded(), Encoding::Base64)["data"][0]["embedding"], "AACAPwAAAL8=");
    }
}
