//! Embeddings: what is asked for and what comes back, in the shapes that the providers have.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{TokenIds, Usage, UsageProvenance};
use postern_proto::model::v1::{EmbedRequest, Embedding};
use serde_json::{Value, json};

use super::emit::invalid;
use super::{error, say};

/// Texts in one request of a caller's, and numbers in one vector; more is a fault.
pub const MOST_INPUTS: usize = 2048;
const MOST_DIMENSIONS: usize = 65_536;

/// Vectors, in the order of the texts, and what they cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One for each text.
    pub vectors: Vec<Embedding>,
    /// What was said of usage.
    pub usage: Option<Usage>,
    /// What was left out of the request.
    pub warnings: Vec<String>,
}

/// How a provider asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// OpenAI's `/embeddings`.
    OpenAi,
    /// The same, with Mistral's name for the dimensions.
    Mistral,
    /// Cohere's `/v2/embed`.
    Cohere,
    /// Gemini's `batchEmbedContents`.
    Gemini,
    /// Vertex AI's `predict`.
    Vertex,
    /// Vertex AI's `embedContent`.
    VertexContent,
    /// Ollama's `/api/embed`.
    Ollama,
    /// Amazon's Titan on Bedrock (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html>).
    Titan,
    /// Amazon's Nova on Bedrock (<https://docs.aws.amazon.com/nova/latest/userguide/embeddings-schema.html>).
    Nova,
    /// Cohere's on Bedrock, where the path names the model
    /// (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html>).
    CohereOnBedrock,
}

impl Shape {
    /// Texts that a server takes in one request.
    #[must_use]
    pub fn most_texts(self, identifier: &str) -> usize {
        match self {
            Self::OpenAi | Self::Mistral | Self::Ollama => MOST_INPUTS,
            // (<https://docs.cohere.com/reference/embed>)
            Self::Cohere | Self::CohereOnBedrock => 96,
            // «at most 100 requests can be in one batch»
            Self::Gemini => 100,
            // One of Gemini's; of the others 20,000 tokens, at most 2,048 of each text
            // (<https://cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings>).
            Self::Vertex if identifier.contains("gemini") => 1,
            Self::Vertex => 9,
            Self::VertexContent | Self::Titan | Self::Nova => 1,
        }
    }
}

/// The requests to a server that takes so many texts in one, each made when it is its turn.
///
/// # Errors
/// REQUEST_INVALID for no texts, or too many.
pub fn batches(asked: EmbedRequest, most: usize) -> Result<impl ExactSizeIterator<Item = EmbedRequest>, Failure> {
    let (texts, tokens) = (asked.inputs.len(), asked.tokens.len());
    if (texts == 0) == (tokens == 0) || texts.max(tokens) > MOST_INPUTS {
        return Err(Failure::field("inputs", format!("must be 1 to {MOST_INPUTS} texts")));
    }
    let batch = move |nth: usize| {
        let EmbedRequest { endpoint_id, inputs, dimensions, tokens, extra_json } = &asked;
        EmbedRequest {
            endpoint_id: endpoint_id.clone(),
            inputs: inputs.iter().skip(nth * most).take(most).cloned().collect(),
            dimensions: *dimensions,
            tokens: tokens.iter().skip(nth * most).take(most).cloned().collect(),
            extra_json: extra_json.clone(),
        }
    };
    Ok((0..texts.max(tokens).div_ceil(most)).map(batch))
}

/// The vectors of all batches in their order, and what they cost together where each says it.
#[must_use]
pub fn together(batches: Vec<Embeddings>) -> Embeddings {
    let cost = batches.iter().try_fold(0_u64, |sum, batch| Some(sum.saturating_add(batch.usage?.input_tokens?)));
    let usage = cost.map(reported);
    let warnings = batches.first().map(|batch| batch.warnings.clone()).unwrap_or_default();
    Embeddings { vectors: batches.into_iter().flat_map(|batch| batch.vectors).collect(), usage, warnings }
}

/// The JSON body of a request of at most [`Shape::most_texts`].
///
/// # Errors
/// REQUEST_INVALID for tokens where only texts are taken.
pub fn body(shape: Shape, identifier: &str, asked: &EmbedRequest) -> Result<(Bytes, Vec<String>), Failure> {
    let EmbedRequest { endpoint_id: _, inputs, dimensions, tokens, extra_json } = asked;
    if !tokens.is_empty() && shape != Shape::OpenAi {
        return Err(Failure::field("tokens", "the model's server embeds texts, not tokens"));
    }
    let mut body = match shape {
        Shape::OpenAi if !tokens.is_empty() => {
            let tokens: Vec<_> = tokens.iter().map(|TokenIds { ids }| ids).collect();
            json!({ "model": identifier, "input": tokens, "encoding_format": "float" })
        }
        Shape::OpenAi | Shape::Mistral => json!({ "model": identifier, "input": inputs, "encoding_format": "float" }),
        Shape::Cohere => json!({
            "model": identifier, "texts": inputs, "input_type": "search_document", "embedding_types": ["float"],
        }),
        Shape::Ollama => json!({ "model": identifier, "input": inputs }),
        Shape::VertexContent => json!({ "content": { "parts": [{ "text": inputs.first() }] } }),
        Shape::Titan => json!({ "inputText": inputs.first() }),
        Shape::Nova => {
            let text = json!({ "truncationMode": "END", "value": inputs.first() });
            let parameters = json!({ "embeddingPurpose": "GENERIC_INDEX", "text": text });
            json!({ "taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": parameters })
        }
        Shape::CohereOnBedrock => {
            json!({ "texts": inputs, "input_type": "search_document", "embedding_types": ["float"] })
        }
        Shape::Gemini => {
            let one = |text: &String| {
                let content = json!({ "parts": [{ "text": text }] });
                let mut request = json!({ "model": format!("models/{identifier}"), "content": content });
                if let Some(dimensions) = dimensions {
                    request["outputDimensionality"] = (*dimensions).into();
                }
                request
            };
            json!({ "requests": inputs.iter().map(one).collect::<Value>() })
        }
        Shape::Vertex => {
            json!({ "instances": inputs.iter().map(|text| json!({ "content": text })).collect::<Value>() })
        }
    };
    if let Some(dimensions) = *dimensions {
        match shape {
            Shape::OpenAi | Shape::Ollama | Shape::Titan => body["dimensions"] = dimensions.into(),
            Shape::Mistral | Shape::Cohere | Shape::CohereOnBedrock => body["output_dimension"] = dimensions.into(),
            Shape::Nova => body["singleEmbeddingParams"]["embeddingDimension"] = dimensions.into(),
            Shape::Vertex => body["parameters"] = json!({ "outputDimensionality": dimensions }),
            Shape::VertexContent => body["outputDimensionality"] = dimensions.into(),
            Shape::Gemini => {}
        }
    }
    let mut warnings = Vec::new();
    for (name, value) in say::json_object("embedding.extra_json", extra_json)? {
        if RESERVED.contains(&name.as_str()) {
            return Err(Failure::field("embedding.extra_json", format!("`{name}` has a field of its own")));
        }
        match shape {
            Shape::OpenAi | Shape::Mistral | Shape::Ollama => body[&name] = value,
            _ => {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                warnings.push(format!("`{shown}` was dropped: the model's server is not known to take it"));
            }
        }
    }
    Ok((serde_json::to_vec(&body).map_err(Failure::internal)?.into(), warnings))
}

/// Members that typed fields stand for.
const RESERVED: [&str; 5] = ["model", "input", "dimensions", "output_dimension", "encoding_format"];

/// Reads an answer of any of the shapes.
///
/// # Errors
/// MODEL_ANSWER_INVALID, or the error that the body holds.
pub fn read(body: &[u8]) -> Result<Embeddings, Failure> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        return Err(error::from_object(error));
    }
    let vectors = if let Some(data) = answer["data"].as_array() {
        by_index(data)?
    } else if let Some(predictions) = answer["predictions"].as_array() {
        predictions.iter().map(|one| vector(&one["embeddings"]["values"])).collect::<Result<_, _>>()?
    } else if !answer["embedding"].is_null() {
        // One text alone, of Gemini or Ollama.
        let one = &answer["embedding"];
        vec![vector(one.get("values").unwrap_or(one))?]
    } else {
        // Cohere names the kind of numbers; Gemini puts each vector into an object.
        let list = answer["embeddings"]["float"].as_array().or_else(|| answer["embeddings"].as_array());
        let list = list.ok_or_else(|| invalid("no embeddings"))?;
        let one = |value: &Value| vector(value.get("values").or_else(|| value.get("embedding")).unwrap_or(value));
        list.iter().map(one).collect::<Result<_, _>>()?
    };
    if vectors.is_empty() || vectors.len() > MOST_INPUTS {
        return Err(invalid("no embeddings, or too many"));
    }
    Ok(Embeddings { vectors, usage: usage(&answer), warnings: Vec::new() })
}

/// OpenAI's list says where each stands.
fn by_index(data: &[Value]) -> Result<Vec<Embedding>, Failure> {
    let mut vectors = Vec::new();
    for (position, one) in data.iter().enumerate() {
        let index = one["index"].as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(position);
        vectors.push((index, vector(&one["embedding"])?));
    }
    // Some count none of them.
    if vectors.iter().all(|(index, _)| *index == 0) {
        return Ok(vectors.into_iter().map(|(_, vector)| vector).collect());
    }
    vectors.sort_by_key(|(index, _)| *index);
    if vectors.iter().enumerate().any(|(position, (index, _))| position != *index) {
        return Err(invalid("embeddings whose indices are not those of the texts"));
    }
    Ok(vectors.into_iter().map(|(_, vector)| vector).collect())
}

/// Numbers, or 32-bit floats in base64, little end first.
fn vector(value: &Value) -> Result<Embedding, Failure> {
    let values: Vec<f32> = match value {
        // llama.cpp's own form, in which each pooled vector is a list of one.
        Value::Array(one) if one.len() == 1 && one[0].is_array() => return vector(&one[0]),
        Value::Array(numbers) => {
            #[expect(clippy::cast_possible_truncation, reason = "vectors are of 32-bit floats")]
            let number = |number: &Value| number.as_f64().map(|number| number as f32);
            numbers.iter().map(number).collect::<Option<_>>().ok_or_else(|| invalid("a vector of something else"))?
        }
        Value::String(text) => {
            let bytes = STANDARD.decode(text).map_err(|_| invalid("a vector that is not base64"))?;
            let (floats, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(invalid("a vector of a broken length"));
            }
            floats.iter().map(|float| f32::from_le_bytes(*float)).collect()
        }
        _ => return Err(invalid("no vector")),
    };
    if values.is_empty() || values.len() > MOST_DIMENSIONS {
        return Err(invalid("a vector of no numbers, or too many"));
    }
    Ok(Embedding { values })
}

fn usage(answer: &Value) -> Option<Usage> {
    let places = [
        "/usage/prompt_tokens",
        "/meta/billed_units/input_tokens",
        "/prompt_eval_count",
        "/inputTextTokenCount",
        "/inputTokenCount",
        "/usageMetadata/promptTokenCount",
    ];
    let said = places.into_iter().find_map(|place| answer.pointer(place)?.as_u64());
    // Vertex says it of each text.
    let of_each = || {
        let predictions = answer["predictions"].as_array()?;
        let count = |one: &Value| one["embeddings"]["statistics"]["token_count"].as_u64();
        predictions.iter().try_fold(0_u64, |sum, one| Some(sum.saturating_add(count(one)?)))
    };
    said.or_else(of_each).map(reported)
}

/// What it cost, where nothing but that was said.
#[must_use]
pub fn reported(input_tokens: u64) -> Usage {
    Usage { input_tokens: Some(input_tokens), provenance: UsageProvenance::Reported as i32, ..Usage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<Vec<Vec<f32>>, Failure> {
        read(text.as_bytes()).map(|read| read.vectors.into_iter().map(|vector| vector.values).collect())
    }

    #[test]
    fn vectors_of_every_shape_are_read_in_the_order_of_the_texts() {
        let expected = vec![vec![1.0, 2.0], vec![3.0, -4.5]];
        let base64 = |floats: [f32; 2]| STANDARD.encode(floats.map(f32::to_le_bytes).concat());
        for text in [
            r#"{"data":[{"index":1,"embedding":[3,-4.5]},{"index":0,"embedding":[1,2]}]}"#.to_owned(),
            format!(
                r#"{{"data":[{{"embedding":"{}"}},{{"embedding":"{}"}}]}}"#,
                base64([1.0, 2.0]),
                base64([3.0, -4.5])
            ),
            r#"{"embeddings":{"float":[[1,2],[3,-4.5]]}}"#.to_owned(),
            r#"{"embeddings":[[1,2],[3,-4.5]]}"#.to_owned(),
            r#"{"embeddings":[{"embeddingType":"TEXT","embedding":[1,2]},{"embeddingType":"TEXT","embedding":[3,-4.5]}]}"#.to_owned(),
            r#"{"embeddings":[{"values":[1,2]},{"values":[3,-4.5]}]}"#.to_owned(),
            r#"{"predictions":[{"embeddings":{"values":[1,2]}},{"embeddings":{"values":[3,-4.5]}}]}"#.to_owned(),
        ] {
            assert_eq!(numbers(&text).ok().as_ref(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn a_vector_alone_is_read() {
        for text in [r#"{"embedding":{"values":[1,2]}}"#, r#"{"embedding":[1,2]}"#] {
            assert_eq!(numbers(text).ok(), Some(vec![vec![1.0, 2.0]]), "{text}");
        }
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        for text in [
            "{}",
            "[]",
            r#"{"data":[]}"#,
            r#"{"data":[{"embedding":[]}]}"#,
            r#"{"data":[{"embedding":["1"]}]}"#,
            r#"{"data":[{"embedding":"AAAA"}]}"#,
            r#"{"data":[{"index":1,"embedding":[1]},{"index":1,"embedding":[1]}]}"#,
            r#"{"data":[{"embedding":[[1],[2]]}]}"#,
            r#"{"data":[{"index":1,"embedding":[1]}]}"#,
            r#"{"error":{"message":"no"}}"#,
        ] {
            assert!(numbers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_more_than_a_server_takes_at_once_is_asked_in_batches_and_put_together() {
        let asked = |texts: usize| EmbedRequest {
            inputs: (0..texts).map(|text| text.to_string()).collect(),
            dimensions: Some(8),
            ..Default::default()
        };
        let sizes = |texts, shape: Shape, model| {
            let batches: Vec<_> = batches(asked(texts), shape.most_texts(model)).unwrap().collect();
            assert!(batches.iter().all(|batch| batch.dimensions == Some(8)));
            assert_eq!(batches.iter().flat_map(|batch| batch.inputs.clone()).collect::<Vec<_>>(), asked(texts).inputs);
            batches.iter().map(|batch| batch.inputs.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(2048, Shape::OpenAi, "m"), [2048]);
        assert_eq!(sizes(200, Shape::Cohere, "m"), [96, 96, 8]);
        assert_eq!(sizes(101, Shape::Gemini, "m"), [100, 1]);
        assert_eq!(sizes(2, Shape::Vertex, "gemini-embedding-001"), [1, 1]);
        assert_eq!(sizes(10, Shape::Vertex, "text-embedding-005"), [9, 1]);
        assert_eq!(sizes(3, Shape::Titan, "m"), [1, 1, 1]);
        let tokens = |count| EmbedRequest { tokens: vec![TokenIds { ids: vec![1] }; count], ..Default::default() };
        assert_eq!(batches(tokens(3), 2).unwrap().map(|batch| batch.tokens.len()).collect::<Vec<_>>(), [2, 1]);
        for refused in [asked(0), asked(2049), tokens(2049), EmbedRequest { tokens: tokens(1).tokens, ..asked(1) }] {
            assert!(batches(refused, 100).is_err());
        }
        let part = |number: f32, cost| Embeddings {
            vectors: vec![Embedding { values: vec![number] }],
            usage: cost,
            ..Default::default()
        };
        let both = together(vec![part(1.0, Some(reported(2))), part(2.0, Some(reported(3)))]);
        assert_eq!(both.vectors.iter().map(|vector| vector.values[0]).collect::<Vec<_>>(), [1.0, 2.0]);
        assert_eq!(both.usage, Some(reported(5)));
        // What a part cost is not what all cost.
        assert_eq!(together(vec![part(1.0, Some(reported(2))), part(2.0, None)]).usage, None);
    }

    #[test]
    fn gemini_says_of_all_texts_what_they_cost() {
        let text = r#"{"embeddings":[{"values":[1]}],"usageMetadata":{"promptTokenCount":7}}"#;
        assert_eq!(read(text.as_bytes()).unwrap().usage, Some(reported(7)));
    }

    #[test]
    fn vertex_says_of_each_text_what_it_cost() {
        let text = r#"{"predictions":[{"embeddings":{"values":[1],"statistics":{"token_count":4,"truncated":false}}},
            {"embeddings":{"values":[2],"statistics":{"token_count":5,"truncated":false}}}]}"#;
        assert_eq!(read(text.as_bytes()).unwrap().usage, Some(reported(9)));
    }

    #[test]
    fn each_provider_is_asked_in_its_own_shape() {
        let asked = EmbedRequest { inputs: vec!["a".to_owned()], dimensions: Some(8), ..Default::default() };
        let said = |shape| serde_json::from_slice::<Value>(&body(shape, "m", &asked).unwrap().0).unwrap();
        assert_eq!(
            said(Shape::OpenAi),
            json!({ "model": "m", "input": ["a"], "encoding_format": "float", "dimensions": 8 })
        );
        assert_eq!(said(Shape::Mistral)["output_dimension"], 8);
        assert_eq!(
            (&said(Shape::Cohere)["texts"], &said(Shape::Cohere)["output_dimension"]),
            (&json!(["a"]), &json!(8))
        );
        assert_eq!(said(Shape::Ollama), json!({ "model": "m", "input": ["a"], "dimensions": 8 }));
        let request = json!({
            "model": "models/m", "content": { "parts": [{ "text": "a" }] }, "outputDimensionality": 8,
        });
        assert_eq!(said(Shape::Gemini), json!({ "requests": [request] }));
        assert_eq!(
            said(Shape::Vertex),
            json!({ "instances": [{ "content": "a" }], "parameters": { "outputDimensionality": 8 } })
        );
        let content = json!({ "parts": [{ "text": "a" }] });
        assert_eq!(said(Shape::VertexContent), json!({ "content": content, "outputDimensionality": 8 }));
        assert_eq!(said(Shape::Titan), json!({ "inputText": "a", "dimensions": 8 }));
        assert_eq!(said(Shape::Nova)["singleEmbeddingParams"]["embeddingDimension"], 8);
        let on_bedrock = said(Shape::CohereOnBedrock);
        assert_eq!((&on_bedrock["texts"], on_bedrock.get("model")), (&json!(["a"]), None));
        let tokens = EmbedRequest { tokens: vec![TokenIds { ids: vec![1, 2] }], ..Default::default() };
        let extra = |json: &str| EmbedRequest { extra_json: json.to_owned(), ..asked.clone() };
        let (sent, warnings) = body(Shape::Ollama, "m", &extra(r#"{"truncate":false}"#)).unwrap();
        assert!(String::from_utf8_lossy(&sent).contains(r#""truncate":false"#) && warnings.is_empty());
        let (sent, warnings) = body(Shape::Cohere, "m", &extra(r#"{"truncate":false}"#)).unwrap();
        assert!(!String::from_utf8_lossy(&sent).contains("truncate") && warnings.len() == 1);
        assert!(body(Shape::OpenAi, "m", &extra(r#"{"model":"other"}"#)).is_err());
        let sent: Value = serde_json::from_slice(&body(Shape::OpenAi, "m", &tokens).unwrap().0).unwrap();
        assert_eq!(sent["input"], json!([[1, 2]]));
        assert!(body(Shape::Gemini, "m", &tokens).is_err());
    }
}
