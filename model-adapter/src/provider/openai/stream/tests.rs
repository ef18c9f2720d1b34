use proptest::prelude::*;

use super::*;
use postern_proto::Reason;
use postern_proto::completion::v1::{End, completion_event, delta};

/// As llama.cpp's server sends it: two events in one read, a role delta with null content, usage in a chunk of its own.
const RECORDED: &str = concat!(
    r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"c","model":"m","object":"chat.completion.chunk"}"#,
    "\n\n",
    r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hé"}}],"created":1,"id":"c","model":"m"}"#,
    "\n\n",
    r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"llo\n"}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}"#,
    "\n\n",
    r#"data: {"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":31,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":30}},"timings":{"prompt_n":1}}"#,
    "\n\n",
    "data: [DONE]\n\n",
);

#[derive(Debug, Default, PartialEq, Clone)]
struct Read {
    text: String,
    reasoning: String,
    calls: Vec<(u32, String, String, String)>,
    usage: Option<Usage>,
    end: Option<End>,
}

fn read(chunks: &[&[u8]]) -> (Read, Result<(), Reason>) {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    let mut result = Ok(());
    for chunk in chunks {
        result = result.and_then(|()| decoder.feed(chunk, &mut out));
    }
    let result = result.and_then(|()| decoder.finish(&mut out)).map_err(|failure| failure.reason);
    let mut read = Read::default();
    for event in out {
        match event.event.unwrap() {
            completion_event::Event::Start(_) => unreachable!("the decoder starts nothing"),
            completion_event::Event::Delta(delta) => match delta.delta.unwrap() {
                delta::Delta::Text(text) => read.text.push_str(&text),
                delta::Delta::Reasoning(text) => read.reasoning.push_str(&text),
                delta::Delta::ReasoningSignature(_) => unreachable!("this API has none"),
                delta::Delta::ToolCall(call) => read.calls.push((call.index, call.id, call.name, call.arguments_json)),
            },
            completion_event::Event::Usage(usage) => read.usage = Some(usage),
            completion_event::Event::End(end) => read.end = Some(end),
        }
    }
    (read, result)
}

fn events(datas: &[&str]) -> Vec<u8> {
    datas.iter().flat_map(|data| format!("data: {data}\n\n").into_bytes()).collect()
}

fn outcome(datas: &[&str]) -> Result<(), Reason> {
    read(&[&events(datas)]).1
}

#[test]
fn a_recorded_answer_is_read_whole() {
    let (read, result) = read(&[RECORDED.as_bytes()]);
    assert_eq!(result, Ok(()));
    assert_eq!(read.text, "Héllo\n");
    let usage = read.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.cached_input_tokens), (Some(31), Some(2), Some(30)));
    assert_eq!(read.end.unwrap().finish_reason, FinishReason::Stop as i32);
}

#[test]
fn the_cut_does_not_matter() {
    let bytes = RECORDED.as_bytes();
    let whole = read(&[bytes]);
    for at in 0..bytes.len() {
        assert_eq!(read(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(read(&single), whole);
}

#[test]
fn an_answer_without_its_end_is_truncated_wherever_it_breaks_off() {
    let bytes = RECORDED.as_bytes();
    let done = RECORDED.find("data: [DONE]").unwrap() + "data: [DONE]".len();
    for at in 0..bytes.len() {
        let (read, result) = read(&[&bytes[..at]]);
        if at < done {
            // Within an event the rest is no JSON; either way it is a failure, and nothing claims to be the end.
            assert!(
                matches!(result, Err(Reason::ModelStreamTruncated | Reason::ModelAnswerInvalid)),
                "{at}: {result:?}"
            );
            assert_eq!(read.end, None, "{at}");
        } else {
            assert_eq!(result, Ok(()), "{at}");
        }
    }
}

#[test]
fn what_is_no_answer_is_a_failure() {
    let finish = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let text = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let cases: [(&[&str], Result<(), Reason>); 10] = [
        (&[text, finish, "[DONE]"], Ok(())),
        (&[text, finish], Err(Reason::ModelStreamTruncated)),
        (&[text, "[DONE]"], Err(Reason::ModelStreamTruncated)),
        (&["[DONE]"], Err(Reason::ModelStreamTruncated)),
        (&[], Err(Reason::ModelStreamTruncated)),
        (&[text, "{", finish, "[DONE]"], Err(Reason::ModelAnswerInvalid)),
        (&["{}", "[DONE]"], Err(Reason::ModelAnswerInvalid)),
        (&[text, r#"{"error":{"message":"boom"}}"#], Err(Reason::ModelFailed)),
        (&[r#"{"error":{"message":"slow down","code":429}}"#], Err(Reason::ModelRateLimited)),
        (&[r#"{"choices":[{"index":1000000,"delta":{}}]}"#], Err(Reason::ModelAnswerInvalid)),
    ];
    for (datas, expected) in cases {
        assert_eq!(outcome(datas), expected, "{datas:?}");
    }
}

#[test]
fn tool_calls_reasoning_and_choices_keep_their_places() {
    let bytes = events(&[
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"other"},"finish_reason":"length"}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        "[DONE]",
    ]);
    let (read, result) = read(&[&bytes]);
    assert_eq!(result, Ok(()));
    assert_eq!((read.reasoning.as_str(), read.text.as_str()), ("hm", "other"));
    let arguments: String = read.calls.iter().map(|call| call.3.as_str()).collect();
    assert_eq!((read.calls[0].1.as_str(), read.calls[0].2.as_str(), arguments.as_str()), ("c1", "f", r#"{"a":1}"#));
    let (first, second) = (FinishReason::ToolCalls as i32, FinishReason::Length as i32);
    assert_eq!(read.end, Some(End { finish_reason: first, choices: vec![first, second] }));
    assert_eq!(read.usage, Some(emit::absent_usage()));
}

#[test]
fn raw_completions_carry_text() {
    let bytes = events(&[r#"{"choices":[{"index":0,"text":"ab","finish_reason":"length"}]}"#, "[DONE]"]);
    let (read, result) = read(&[&bytes]);
    assert_eq!((read.text.as_str(), result), ("ab", Ok(())));
}

proptest! {
    #[test]
    fn no_bytes_panic_or_pass(bytes: Vec<u8>) {
        let (_, result) = read(&[&bytes]);
        prop_assert!(result.is_err());
    }
}
