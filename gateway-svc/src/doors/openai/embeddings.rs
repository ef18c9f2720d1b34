//! `/v1/embeddings`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::Failure;
use postern_proto::completion::v1::TokenIds;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::ask::Texts;
use crate::doors::wire::{TextOr, extra_json, read};
use crate::pipeline::Embedded;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    input: TextOr<Input>,
    #[serde(default)]
    dimensions: Option<u32>,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A text, the tokens of one, or one token of the only one.
enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Token(u32),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOf;
        impl<'de> Visitor<'de> for OneOf {
            type Value = Input;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a text, a token, or a list of tokens")
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, token: u64) -> Result<Input, E> {
                u32::try_from(token).map(Input::Token).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Input, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Input::Tokens)
            }
        }
        from.deserialize_any(OneOf)
    }
}

/// Texts, or the tokens of texts: one kind of them.
fn inputs(given: TextOr<Input>) -> Result<(Vec<String>, Vec<TokenIds>), Failure> {
    let given = match given {
        TextOr::Text(text) => return Ok((vec![text], Vec::new())),
        TextOr::Many(given) => given,
    };
    let (mut texts, mut tokens, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for one in given {
        match one {
            Input::Text(text) => texts.push(text),
            Input::Tokens(ids) => tokens.push(TokenIds { ids }),
            Input::Token(id) => alone.push(id),
        }
    }
    match (texts.is_empty(), tokens.is_empty(), alone.is_empty()) {
        (_, true, true) | (true, false, true) => Ok((texts, tokens)),
        (true, true, false) => Ok((texts, vec![TokenIds { ids: alone }])),
        _ => Err(Failure::field("input", "must be texts, or tokens, and not both")),
    }
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
    let Body { model, input, dimensions, encoding_format, extra } = read(body, LARGE)?;
    let (inputs, tokens) = inputs(input)?;
    let encoding = match encoding_format.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(Failure::field("encoding_format", "must be float or base64")),
    };
    let model = Some(model).filter(|model| !model.is_empty());
    Ok(Parsed { ask: Texts { model, inputs, tokens, dimensions, extra_json: extra_json(extra)? }, encoding })
}

pub(super) fn answer(embedded: Embedded, encoding: Encoding) -> Value {
    let Embedded { model, vectors, usage, warnings } = embedded;
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
    let mut answer = json!({ "object": "list", "data": data, "model": model, "usage": usage });
    if !warnings.is_empty() {
        answer["postern_warnings"] = warnings.into();
    }
    answer
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
        let tokens = |body: &str| parse(body.as_bytes()).map(|parsed| parsed.ask.tokens).unwrap_or_default();
        assert_eq!(tokens(r#"{"input":[1,2]}"#), [TokenIds { ids: vec![1, 2] }]);
        assert_eq!(tokens(r#"{"input":[[1],[2]]}"#).len(), 2);
        for bad in [
            r#"{"input":[1,"a"]}"#,
            r#"{"input":[-1]}"#,
            r#"{"input":[["a"]]}"#,
            "{}",
            r#"{"input":"a","encoding_format":"hex"}"#,
        ] {
            assert!(inputs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn vectors_are_numbers_or_base64() {
        let embedded = || Embedded {
            model: "m".to_owned(),
            vectors: vec![vec![1.0, -0.5]],
            usage: Default::default(),
            warnings: Vec::new(),
        };
        assert_eq!(answer(embedded(), Encoding::Float)["data"][0]["embedding"], json!([1.0, -0.5]));
        assert_eq!(answer(embedded(), Encoding::Base64)["data"][0]["embedding"], "AACAPwAAAL8=");
    }
}
