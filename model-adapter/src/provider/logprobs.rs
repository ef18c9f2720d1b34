//! How likely tokens were, in the shapes in which servers say it.

use postern_proto::completion::v1::TokenLogprob;
use serde_json::Value;

/// Tokens beside the one that was written; more are not asked for.
const MAX_TOP: usize = 20;

/// What a choice of OpenAI's chat or completions says of its tokens.
pub fn of_choice(said: &Value) -> Vec<TokenLogprob> {
    match said["content"].as_array().or_else(|| said["refusal"].as_array()) {
        Some(tokens) => listed(tokens),
        None => in_columns(said),
    }
}

/// A list with one entry a token (<https://platform.openai.com/docs/api-reference/chat/object>).
pub fn listed(tokens: &[Value]) -> Vec<TokenLogprob> {
    let with_top = |said: &Value| {
        let top = said["top_logprobs"].as_array().into_iter().flatten().take(MAX_TOP);
        Some(TokenLogprob { top: top.filter_map(token).collect(), ..token(said)? })
    };
    tokens.iter().filter_map(with_top).collect()
}

fn token(said: &Value) -> Option<TokenLogprob> {
    let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
    Some(TokenLogprob {
        token: said["token"].as_str()?.to_owned(),
        // Negative infinity is no number in JSON.
        logprob: said["logprob"].as_f64().unwrap_or(f64::NEG_INFINITY),
        bytes: said["bytes"].as_array().into_iter().flatten().filter_map(byte).collect(),
        top: Vec::new(),
    })
}

/// Lists side by side (<https://platform.openai.com/docs/api-reference/completions/object>).
fn in_columns(said: &Value) -> Vec<TokenLogprob> {
    let Some(tokens) = said["tokens"].as_array() else { return Vec::new() };
    let one = |token: &str, logprob: Option<f64>| TokenLogprob {
        token: token.to_owned(),
        logprob: logprob.unwrap_or(f64::NEG_INFINITY),
        ..TokenLogprob::default()
    };
    let with_top = |(at, token): (usize, &Value)| {
        let top = said["top_logprobs"][at].as_object().into_iter().flatten().take(MAX_TOP);
        let mut top: Vec<_> = top.map(|(token, logprob)| one(token, logprob.as_f64())).collect();
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        Some(TokenLogprob { top, ..one(token.as_str()?, said["token_logprobs"][at].as_f64()) })
    };
    tokens.iter().enumerate().filter_map(with_top).collect()
}

/// Gemini's chosen tokens, and beside each the likeliest (<https://ai.google.dev/api/generate-content#LogprobsResult>).
pub fn of_gemini(said: &Value) -> Vec<TokenLogprob> {
    let one = |said: &Value| {
        let logprob = said["logProbability"].as_f64().unwrap_or(f64::NEG_INFINITY);
        Some(TokenLogprob { token: said["token"].as_str()?.to_owned(), logprob, ..TokenLogprob::default() })
    };
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
        let columns = json!({ "tokens": ["a"], "token_logprobs": [null], "top_logprobs": null });
        assert_eq!(of_choice(&columns)[0].logprob, f64::NEG_INFINITY);
    }
}
