//! How likely tokens were, in the shapes of the APIs.

use postern_proto::completion::v1::TokenLogprob;
use serde_json::{Map, Value, json};

/// The least that is written: negative infinity is no number in JSON, and the API has this for it.
const LEAST: f64 = -9999.0;

fn number(logprob: f64) -> f64 {
    logprob.max(LEAST)
}

fn token(said: &TokenLogprob) -> Value {
    let bytes = if said.bytes.is_empty() { said.token.as_bytes() } else { said.bytes.as_slice() };
    json!({ "token": said.token, "logprob": number(said.logprob), "bytes": bytes })
}

/// A list with one entry a token, as chats and responses have it.
pub(super) fn listed(tokens: &[TokenLogprob]) -> Value {
    let one = |said: &TokenLogprob| {
        let mut value = token(said);
        value["top_logprobs"] = said.top.iter().map(token).collect();
        value
    };
    tokens.iter().map(one).collect()
}

/// What a chat's choice says; null where nothing was asked.
pub(super) fn of_chat(tokens: &[TokenLogprob]) -> Value {
    if tokens.is_empty() { Value::Null } else { json!({ "content": listed(tokens), "refusal": null }) }
}

/// Lists side by side, as completions have it; `offset` is where the text of these tokens begins, in characters.
pub(super) fn of_text(tokens: &[TokenLogprob], mut offset: usize) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let mut offsets = Vec::new();
    for one in tokens {
        offsets.push(offset);
        offset += one.token.chars().count();
    }
    let top = |said: &TokenLogprob| -> Map<String, Value> {
        said.top.iter().map(|one| (one.token.clone(), number(one.logprob).into())).collect()
    };
    json!({
        "tokens": tokens.iter().map(|one| one.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|one| number(one.logprob)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_own_shape() {
        let one = |token: &str, logprob: f64| TokenLogprob { token: token.to_owned(), logprob, ..Default::default() };
        let tokens =
            [TokenLogprob { top: vec![one("é", -0.5), one("e", -1.0)], ..one("é", -0.5) }, one("!", f64::NEG_INFINITY)];
        let chat = of_chat(&tokens);
        assert_eq!(chat["content"][0]["bytes"], json!([195, 169]));
        assert_eq!(chat["content"][0]["top_logprobs"][1]["token"], "e");
        assert_eq!(chat["content"][1]["logprob"], -9999.0);
        let text = of_text(&tokens, 3);
        assert_eq!((&text["tokens"], &text["text_offset"]), (&json!(["é", "!"]), &json!([3, 4])));
        assert_eq!(text["top_logprobs"], json!([{ "é": -0.5, "e": -1.0 }, {}]));
        assert_eq!((of_chat(&[]), of_text(&[], 0)), (Value::Null, Value::Null));
    }
}
