//! How likely tokens were, in the shapes in which servers say it.

use std::collections::BTreeMap;

use postern_proto::completion::v1::TokenLogprob;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Tokens beside the one that was written; more are not asked for.
const MAX_TOP: usize = 20;

/// Longest token, in bytes; no vocabulary has longer ones that are text.
const MAX_TOKEN: usize = 256;

/// What a choice of OpenAI's chat or completions says of its tokens: a list with one entry a token
/// (<https://platform.openai.com/docs/api-reference/chat/object>), or lists side by side
/// (<https://platform.openai.com/docs/api-reference/completions/object>).
#[derive(Deserialize)]
struct OfChoice {
    content: Option<Vec<Token>>,
    refusal: Option<Vec<Token>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f64>>>,
    top_logprobs: Option<Vec<Option<BTreeMap<String, f64>>>>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    /// Negative infinity is no number in JSON.
    logprob: Option<f64>,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Token>>,
}

/// Reads what a choice says; what is nothing of the kind says nothing.
pub fn of_choice(said: Option<&RawValue>) -> Vec<TokenLogprob> {
    let Some(said) = said.and_then(|said| serde_json::from_str::<OfChoice>(said.get()).ok()) else { return Vec::new() };
    let OfChoice { content, refusal, tokens, token_logprobs, top_logprobs } = said;
    match content.or(refusal) {
        Some(tokens) => tokens.into_iter().filter_map(Token::read).collect(),
        None => in_columns(
            tokens.unwrap_or_default(),
            &token_logprobs.unwrap_or_default(),
            top_logprobs.unwrap_or_default(),
        ),
    }
}

/// A list with one entry a token, within what is read already.
pub fn listed(tokens: &[Value]) -> Vec<TokenLogprob> {
    tokens.iter().filter_map(|token| Token::deserialize(token).ok()?.read()).collect()
}

fn one(token: String, logprob: Option<f64>) -> Option<TokenLogprob> {
    let logprob = logprob.unwrap_or(f64::NEG_INFINITY);
    (token.len() <= MAX_TOKEN).then_some(TokenLogprob { token, logprob, ..TokenLogprob::default() })
}

impl Token {
    fn read(self) -> Option<TokenLogprob> {
        let bytes = self.bytes.filter(|bytes| bytes.len() <= MAX_TOKEN).unwrap_or_default();
        let top = self.top_logprobs.unwrap_or_default().into_iter().take(MAX_TOP);
        let top = top.filter_map(|token| Token { top_logprobs: None, ..token }.read()).collect();
        Some(TokenLogprob { bytes, top, ..one(self.token, self.logprob)? })
    }
}

fn in_columns(
    tokens: Vec<String>,
    logprobs: &[Option<f64>],
    tops: Vec<Option<BTreeMap<String, f64>>>,
) -> Vec<TokenLogprob> {
    let mut tops = tops.into_iter();
    let with_top = |(at, token): (usize, String)| {
        let top = tops.next().flatten().unwrap_or_default().into_iter().take(MAX_TOP);
        let mut top: Vec<_> = top.filter_map(|(token, logprob)| one(token, Some(logprob))).collect();
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        Some(TokenLogprob { top, ..one(token, logprobs.get(at).copied().flatten())? })
    };
    tokens.into_iter().enumerate().filter_map(with_top).collect()
}

/// Gemini's chosen tokens, and beside each the likeliest (<https://ai.google.dev/api/generate-content#LogprobsResult>).
pub fn of_gemini(said: &Value) -> Vec<TokenLogprob> {
    let one = |said: &Value| one(said["token"].as_str()?.to_owned(), said["logProbability"].as_f64());
    let chosen = said["chosenCandidates"].as_array().into_iter().flatten().enumerate();
    let with_top = |(at, token): (usize, &Value)| {
        let top = said["topCandidates"][at]["candidates"].as_array().into_iter().flatten().take(MAX_TOP);
        Some(TokenLogprob { top: top.filter_map(one).collect(), ..one(token)? })
    };
    chosen.filter_map(with_top).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(tokens: &[TokenLogprob]) -> Vec<String> {
        let one = |token: &TokenLogprob| format!("{}={}", token.token, token.logprob);
        let line = |token: &TokenLogprob| {
            format!("{} [{}]", one(token), token.top.iter().map(one).collect::<Vec<_>>().join(" "))
        };
        tokens.iter().map(line).collect()
    }

    fn of_choice(said: &Value) -> Vec<TokenLogprob> {
        super::of_choice(Some(&serde_json::value::to_raw_value(said).unwrap()))
    }

    #[test]
    fn each_shape_says_the_same() {
        let expected = ["Hi=-0.5 [Hi=-0.5 Ho=-1]", "!=-2 []"];
        let listed = json!({ "content": [
            { "token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [
                { "token": "Hi", "logprob": -0.5, "bytes": null }, { "token": "Ho", "logprob": -1.0 },
            ] },
            { "token": "!", "logprob": -2, "bytes": null, "top_logprobs": [] },
        ], "refusal": null });
        assert_eq!(shown(&of_choice(&listed)), expected);
        assert_eq!(of_choice(&listed)[0].bytes, b"Hi");
        let columns = json!({
            "tokens": ["Hi", "!"], "token_logprobs": [-0.5, -2.0], "text_offset": [0, 2],
            "top_logprobs": [{ "Ho": -1.0, "Hi": -0.5 }, null],
        });
        assert_eq!(shown(&of_choice(&columns)), expected);
        let gemini = json!({
            "chosenCandidates": [{ "token": "Hi", "logProbability": -0.5 }, { "token": "!", "logProbability": -2.0 }],
            "topCandidates": [{ "candidates": [
                { "token": "Hi", "logProbability": -0.5 }, { "token": "Ho", "logProbability": -1.0 },
            ] }],
        });
        assert_eq!(shown(&of_gemini(&gemini)), expected);
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        for said in [json!(null), json!({}), json!({ "content": null }), json!({ "tokens": 1 }), json!([])] {
            assert!(of_choice(&said).is_empty(), "{said}");
        }
        assert!(super::of_choice(None).is_empty());
        let long = json!({ "content": [{ "token": "x".repeat(MAX_TOKEN + 1), "logprob": -1.0 }] });
        assert!(of_choice(&long).is_empty());
        let columns = json!({ "tokens": ["a"], "token_logprobs": [null], "top_logprobs": null });
        assert_eq!(of_choice(&columns)[0].logprob, f64::NEG_INFINITY);
    }
}
