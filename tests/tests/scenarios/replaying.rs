//! The project's own recorded exchanges, in the form that `make replay` reads: every provider's bytes, whole and in pieces.

use std::path::Path;

use postern_tests::replay::{Exchange, Outcome, exchanges};
use serde_json::Value;

fn goldens() -> Vec<Exchange> {
    exchanges(&Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")).unwrap()
}

#[test]
fn every_golden_exchange_reads_as_expected_however_it_is_cut() {
    let goldens = goldens();
    assert!(goldens.len() >= 29);
    for exchange in goldens {
        assert_eq!(exchange.replay(), Outcome::Passed, "{}", exchange.name);
    }
}

/// A golden exchange with something changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/{name}.json"));
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    let exchange: Exchange = serde_json::from_value(value).unwrap();
    exchange.replay()
}

#[test]
fn the_replay_notices_what_is_wrong() {
    let expect = |name: &'static str, member: &'static str, wrong: Value| {
        move || changed(name, move |exchange| exchange["expect"][member] = wrong)
    };
    let cases: Vec<Box<dyn FnOnce() -> Outcome>> = vec![
        Box::new(expect("openai/chat-text-crlf", "text", "other".into())),
        Box::new(expect("openai/chat-text-crlf", "finish", "length".into())),
        Box::new(expect("openai/chat-text-crlf", "usage", serde_json::json!({ "input_tokens": 8 }))),
        Box::new(expect("openai/chat-text-crlf", "error", serde_json::json!({ "truncated": true }))),
        Box::new(expect("openai/chat-tool", "tool_calls", Value::Null)),
        Box::new(expect("openai/chat-tool", "tool_calls", serde_json::json!([{ "name": "weather", "arguments": {} }]))),
        Box::new(expect("openai/chat-no-done", "error", Value::Null)),
        Box::new(expect("anthropic/messages-thinking-and-text", "reasoning", Value::Null)),
        Box::new(|| changed("openai/chat-html", |exchange| exchange["expect"]["error"]["status"] = 400.into())),
        Box::new(|| changed("bedrock/converse-call", |exchange| exchange["response"]["body_base64"] = "AAAA".into())),
    ];
    for (nth, case) in cases.into_iter().enumerate() {
        assert!(matches!(case(), Outcome::Failed(_)), "case {nth} passed");
    }
    let unknown = changed("openai/chat-tool", |exchange| exchange["api"] = "telepathy".into());
    assert!(matches!(unknown, Outcome::Skipped(_)));
}
