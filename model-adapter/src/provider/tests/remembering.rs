//! What a server gives to have it back: signed thoughts and calls, marks of what it shall keep, and how it is asked to count.

use postern_proto::completion::v1::{CacheMark, Thought, completion_event, delta};

use super::*;
use crate::provider::Api;

fn event(text: &Value) -> String {
    format!("data: {text}\n\n")
}

/// The thoughts and calls of a stream: each signature with what was thought before it.
fn streamed(provider: &str, api: Api, body: &[u8]) -> (Vec<Thought>, Vec<ToolCall>, String) {
    let mut decoder = by_name(provider).unwrap().stream_decoder(api);
    let mut out = Vec::new();
    decoder.feed(body, &mut out).unwrap();
    decoder.finish(&mut out).unwrap();
    let (mut thoughts, mut calls, mut thought, mut likely) = (Vec::new(), Vec::new(), String::new(), String::new());
    for event in out {
        let Some(completion_event::Event::Delta(delta)) = event.event else { continue };
        delta.logprobs.iter().for_each(|token| likely += &token.token);
        match delta.delta.unwrap() {
            delta::Delta::Reasoning(text) => thought += &text,
            delta::Delta::ReasoningSignature(signature) => {
                thoughts.push(Thought { text: std::mem::take(&mut thought), signature });
            }
            delta::Delta::ToolCall(call) if !call.name.is_empty() => calls.push(ToolCall {
                id: call.id,
                name: call.name,
                arguments_json: "{}".to_owned(),
                signature: call.signature,
            }),
            delta::Delta::ToolCall(_) | delta::Delta::Text(_) => {}
        }
    }
    (thoughts, calls, likely)
}

/// A turn of the assistant as it would be sent to a provider of this API.
fn sent(provider: &str, known: &Capabilities, thoughts: Vec<Thought>, calls: Vec<ToolCall>) -> Value {
    let target = Target { model: "demo", identifier: "m", api_key: None, capabilities: known };
    let result = |call: &ToolCall| Message { tool_call_id: call.id.clone(), ..message(Role::Tool, vec![text("done")]) };
    let results: Vec<_> = calls.iter().map(result).collect();
    let turn = Message { thoughts, tool_calls: calls, ..message(Role::Assistant, vec![text("So.")]) };
    let mut messages = vec![message(Role::User, vec![text("Hi")]), turn];
    messages.extend(results);
    let parameters =
        Parameters { reasoning_effort: Some("low".to_owned()), max_tokens: Some(4000), ..Parameters::default() };
    let chat = ChatPrompt { messages, ..ChatPrompt::default() };
    let generation = Generation {
        prompt: Some(generation::Prompt::Chat(chat)),
        parameters: Some(parameters),
        ..Generation::default()
    };
    let call = by_name(provider).unwrap().call(&target, &generation, true).unwrap();
    serde_json::from_slice(&call.body).unwrap()
}

fn foreign() -> Vec<Thought> {
    vec![Thought { text: "Hm.".to_owned(), signature: "elsewhere:s".to_owned() }]
}

#[test]
fn anthropics_thoughts_go_back_as_they_came_and_to_anthropic_alone() {
    let block = |index: u32, block: Value| {
        event(&json!({ "type": "content_block_start", "index": index, "content_block": block }))
    };
    let delta =
        |index: u32, delta: Value| event(&json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    let stop = |index: u32| event(&json!({ "type": "content_block_stop", "index": index }));
    let body = [
        event(&json!({ "type": "message_start", "message": { "usage": {} } })),
        block(0, json!({ "type": "thinking", "thinking": "", "signature": "" })),
        delta(0, json!({ "type": "thinking_delta", "thinking": "Hm, " })),
        delta(0, json!({ "type": "thinking_delta", "thinking": "so." })),
        delta(0, json!({ "type": "signature_delta", "signature": "Eq" })),
        delta(0, json!({ "type": "signature_delta", "signature": "QB" })),
        stop(0),
        block(1, json!({ "type": "redacted_thinking", "data": "EmwK" })),
        stop(1),
        block(2, json!({ "type": "tool_use", "id": "t1", "name": "f", "input": {} })),
        stop(2),
        event(&json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": {} })),
        event(&json!({ "type": "message_stop" })),
    ]
    .concat();
    let (thoughts, calls, _) = streamed("anthropic", Api::Messages, body.as_bytes());
    let expected = [("Hm, so.", "anthropic:EqQB"), ("", "anthropic-redacted:EmwK")]
        .map(|(text, signature)| Thought { text: text.to_owned(), signature: signature.to_owned() });
    assert_eq!(thoughts, expected);
    // The same in one piece.
    let whole = json!({
        "type": "message", "stop_reason": "tool_use", "usage": {}, "content": [
            { "type": "thinking", "thinking": "Hm, so.", "signature": "EqQB" },
            { "type": "redacted_thinking", "data": "EmwK" },
            { "type": "tool_use", "id": "t1", "name": "f", "input": {} },
        ],
    });
    let read = by_name("anthropic").unwrap().read(Api::Messages, whole.to_string().as_bytes()).unwrap();
    assert_eq!((read.choices[0].thoughts.as_slice(), read.choices[0].reasoning.as_str()), (&expected[..], "Hm, so."));
    let known = Capabilities::default();
    let body = sent("anthropic", &known, thoughts.clone(), calls.clone());
    let kinds: Vec<_> = body["messages"][1]["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "redacted_thinking", "text", "tool_use"]);
    assert_eq!(body["messages"][1]["content"][0]["signature"], "EqQB");
    assert_eq!(body["messages"][1]["content"][1]["data"], "EmwK");
    // With its thoughts there, it may go on thinking.
    assert_eq!(body["thinking"]["type"], "enabled");
    for (provider, thoughts) in [("anthropic", foreign()), ("bedrock", thoughts.clone()), ("openai", thoughts)] {
        let body = sent(provider, &known, thoughts, calls.clone());
        assert_eq!(body.get("thinking"), None);
        let body = body.to_string();
        assert!(!body.contains("Hm") && !body.contains("EqQB"), "{provider}: {body}");
    }
}

#[test]
fn bedrocks_thoughts_go_back_as_they_came() {
    let whole = json!({
        "stopReason": "end_turn", "usage": {}, "output": { "message": { "content": [
            { "reasoningContent": { "reasoningText": { "text": "Hm.", "signature": "sig" } } },
            { "reasoningContent": { "redactedContent": "cmVk" } },
            { "text": "So." },
        ] } },
    });
    let read = by_name("bedrock").unwrap().read(Api::Converse, whole.to_string().as_bytes()).unwrap();
    let thoughts = read.choices[0].thoughts.clone();
    let body = sent("bedrock", &Capabilities::default(), thoughts, Vec::new());
    assert_eq!(
        body["messages"][1]["content"],
        json!([
            { "reasoningContent": { "reasoningText": { "text": "Hm.", "signature": "sig" } } },
            { "reasoningContent": { "redactedContent": "cmVk" } },
            { "text": "So." },
        ])
    );
    let body = sent("bedrock", &Capabilities::default(), foreign(), Vec::new());
    assert_eq!(body["messages"][1]["content"], json!([{ "text": "So." }]));
}

#[test]
fn geminis_calls_go_back_with_their_signatures_at_either_door() {
    let part = json!({ "functionCall": { "name": "f", "args": {} }, "thoughtSignature": "c2ln" });
    let body = event(&json!({ "candidates": [{ "content": { "parts": [part] }, "finishReason": "STOP" }] }));
    let (_, calls, _) = streamed("gemini", Api::GenerateContent, body.as_bytes());
    assert_eq!(calls[0].signature, "gemini:c2ln");
    for provider in ["gemini", "vertex"] {
        let body = sent(provider, &Capabilities::default(), Vec::new(), calls.clone());
        assert_eq!(body["contents"][1]["parts"][1]["thoughtSignature"], "c2ln");
    }
    let call = json!({
        "index": 0, "id": "c1", "function": { "name": "f", "arguments": "{}" },
        "extra_content": { "google": { "thought_signature": "c2ln" } },
    });
    let chunk =
        json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] }, "finish_reason": "tool_calls" }] });
    let (_, calls, _) = streamed("openai", Api::Chat, format!("{}data: [DONE]\n\n", event(&chunk)).as_bytes());
    let body = sent("openai", &Capabilities::default(), Vec::new(), calls.clone());
    let sent_back = &body["messages"][1]["tool_calls"][0]["extra_content"];
    assert_eq!(*sent_back, json!({ "google": { "thought_signature": "c2ln" } }));
    let body = sent("gemini", &Capabilities::default(), Vec::new(), calls);
    assert!(!body.to_string().contains("c2ln"), "another server's: {body}");
}

#[test]
fn reasoning_items_go_back_as_they_came() {
    let item = json!({
        "id": "rs_1", "type": "reasoning", "summary": [{ "type": "summary_text", "text": "Hm." }], "encrypted_content": "gAAA",
    });
    let response = json!({ "status": "completed", "output": [
        item, { "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" },
    ] });
    let provider = by_name("openai").unwrap();
    let read = provider.read(Api::Responses, response.to_string().as_bytes()).unwrap();
    let body = [
        event(&json!({ "type": "response.output_item.added", "output_index": 0, "item": { "type": "reasoning" } })),
        event(&json!({ "type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm." })),
        event(&json!({ "type": "response.output_item.done", "output_index": 0, "item": item })),
        event(&json!({ "type": "response.completed", "response": { "status": "completed" } })),
    ]
    .concat();
    let (thoughts, ..) = streamed("openai", Api::Responses, body.as_bytes());
    assert_eq!(thoughts, [Thought { text: "Hm.".to_owned(), signature: "openai:gAAA".to_owned() }]);
    assert_eq!(thoughts, read.choices[0].thoughts);
    let known = Capabilities { chat_api: Some("responses".to_owned()), sampling: Some(false), ..Default::default() };
    let body = sent("openai", &known, thoughts, read.choices[0].tool_calls.clone());
    let back = json!({ "type": "reasoning", "summary": [{ "type": "summary_text", "text": "Hm." }], "encrypted_content": "gAAA" });
    assert_eq!((&body["input"][1], &body["include"]), (&back, &json!(["reasoning.encrypted_content"])));
    // Of a model that does not think nothing of the kind is asked for: it is refused there.
    let known = Capabilities { chat_api: Some("responses".to_owned()), ..Default::default() };
    assert_eq!(sent("openai", &known, foreign(), Vec::new()).get("include"), None);
}

#[test]
fn what_shall_be_kept_is_marked_where_that_is_asked_for() {
    let mark = |ttl: &str| Some(CacheMark { ttl: ttl.to_owned() });
    let marked = |said: &str, ttl: &str| ContentPart { cache: mark(ttl), ..text(said) };
    let mut chat = conversation();
    chat.messages[0] = message(Role::System, vec![text("A."), marked("B.", "1h")]);
    chat.messages[3].content = vec![marked("done", "")];
    chat.tools[0].cache = mark("");
    let said =
        |provider: &str| call(provider, generation::Prompt::Chat(chat.clone()), Parameters::default()).unwrap().1;
    let body = said("anthropic");
    let short = json!({ "type": "ephemeral" });
    assert_eq!(
        body["system"],
        json!([
            { "type": "text", "text": "A." },
            { "type": "text", "text": "B.", "cache_control": { "type": "ephemeral", "ttl": "1h" } },
        ])
    );
    assert_eq!(body["tools"][0]["cache_control"], short);
    assert_eq!(body["messages"][2]["content"][0]["cache_control"], short);
    assert_eq!(body["messages"][2]["content"][0]["content"][0].get("cache_control"), None);
    let on_bedrock = |identifier: &str| -> Value {
        let known = Capabilities::default();
        let target = Target { model: "demo", identifier, api_key: None, capabilities: &known };
        let prompt = Some(generation::Prompt::Chat(chat.clone()));
        let call =
            by_name("bedrock").unwrap().call(&target, &Generation { prompt, ..Default::default() }, true).unwrap();
        serde_json::from_slice(&call.body).unwrap()
    };
    let body = on_bedrock("eu.anthropic.claude-sonnet-4-5-20250929-v1:0");
    let point = json!({ "cachePoint": { "type": "default" } });
    assert_eq!(body["system"][2], json!({ "cachePoint": { "type": "default", "ttl": "1h" } }));
    assert_eq!(body["toolConfig"]["tools"][1], point);
    assert_eq!(body["messages"][2]["content"][1], point);
    // Nova keeps no tools and not as long as it is asked to; others refuse to be asked.
    let body = on_bedrock("eu.amazon.nova-pro-v1:0");
    assert_eq!((&body["system"][2], body["toolConfig"]["tools"].as_array().unwrap().len()), (&point, 1));
    assert!(!on_bedrock("meta.llama3-3-70b-instruct-v1:0").to_string().contains("cachePoint"));
    for provider in ["openai", "gemini", "mistral", "cohere", "ollama"] {
        let body = said(provider).to_string();
        assert!(!body.contains("cache") && body.contains("A."), "{provider}: {body}");
    }
}

#[test]
fn each_that_counts_is_asked_in_its_own_way() {
    let known = Capabilities::default();
    let target = Target { model: "demo", identifier: "m", api_key: None, capabilities: &known };
    let asked = Generation {
        prompt: Some(generation::Prompt::Chat(conversation())),
        parameters: Some(parameters()),
        ..Generation::default()
    };
    let count = |provider: &str| {
        let call = by_name(provider).unwrap().count(&target, &asked).unwrap()?;
        Some((call.path, serde_json::from_slice::<Value>(&call.body).unwrap()))
    };
    for (provider, path, holder) in [
        ("anthropic", "/messages/count_tokens", ""),
        ("postern", "/messages/count_tokens", ""),
        ("llamacpp", "/v1/messages/count_tokens", ""),
        ("gemini", "/models/m:countTokens", "/generateContentRequest"),
        ("vertex", "/models/m:countTokens", ""),
        ("bedrock", "/model/m/count-tokens", "/input/converse"),
    ] {
        let (asked_at, body) = count(provider).unwrap();
        assert_eq!(asked_at, path);
        let members = body.pointer(holder).unwrap().as_object().unwrap();
        assert!(members.contains_key("messages") || members.contains_key("contents"), "{provider}: {body}");
        let shown = body.to_string();
        assert!(
            !shown.contains("temperature") && !shown.contains("maxTokens") && !shown.contains("max_tokens"),
            "{shown}"
        );
    }
    for provider in ["openai", "azure_openai", "mistral", "ollama", "cohere"] {
        assert_eq!(count(provider), None, "{provider}");
    }
    for (answer, tokens) in [
        (r#"{"input_tokens":3}"#, Some(3)),
        (r#"{"inputTokens":4}"#, Some(4)),
        (r#"{"totalTokens":5}"#, Some(5)),
        ("{}", None),
        ("x", None),
    ] {
        assert_eq!(by_name("anthropic").unwrap().read_count(answer.as_bytes()).ok(), tokens, "{answer}");
    }
}

#[test]
fn how_likely_tokens_were_is_asked_for_and_read_where_it_is_offered() {
    let with = |top: u32| Parameters { top_logprobs: Some(top), ..Parameters::default() };
    let chat = || {
        generation::Prompt::Chat(ChatPrompt {
            messages: vec![message(Role::User, vec![text("Hi")])],
            ..Default::default()
        })
    };
    let raw = || generation::Prompt::Raw(RawPrompt { text: "a".to_owned(), ..Default::default() });
    let said = |provider: &str, prompt: generation::Prompt, top: u32| {
        let (call, body) = call(provider, prompt, with(top)).unwrap();
        (body, call.warnings.len())
    };
    let (body, warned) = said("openai", chat(), 2);
    assert_eq!((&body["logprobs"], &body["top_logprobs"], warned), (&json!(true), &json!(2), 0));
    assert_eq!(said("openai", chat(), 0).0.get("top_logprobs"), None);
    assert_eq!(said("openai", raw(), 2).0["logprobs"], 2);
    assert_eq!(said("openai", raw(), 0).0["logprobs"], 1);
    let (body, warned) = said("gemini", chat(), 2);
    assert_eq!(
        (&body["generationConfig"]["responseLogprobs"], &body["generationConfig"]["logprobs"], warned),
        (&json!(true), &json!(2), 0)
    );
    assert_eq!(said("ollama", chat(), 2).0["top_logprobs"], 2);
    assert_eq!(said("mistral", chat(), 2).0["top_logprobs"], 2);
    for provider in ["anthropic", "bedrock", "cohere"] {
        let (body, warned) = said(provider, chat(), 2);
        assert_eq!((body.to_string().contains("logprobs"), warned), (false, 1), "{provider}");
    }
    let token = |token: &str| json!({ "token": token, "logprob": -0.5, "bytes": null, "top_logprobs": [] });
    let piece = |choice: Value| event(&json!({ "choices": [choice] }));
    let done = "data: [DONE]\n\n";
    for (provider, api, body) in [
        ("openai", Api::Chat, [
            piece(json!({ "index": 0, "delta": { "content": "Hi" }, "logprobs": { "content": [token("Hi")] } })),
            piece(json!({ "index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop" })),
            done.to_owned(),
        ].concat()),
        ("openai", Api::Completions, [
            piece(json!({ "index": 0, "text": "Hi", "logprobs": { "tokens": ["Hi"], "token_logprobs": [-0.5] }, "finish_reason": "stop" })),
            done.to_owned(),
        ].concat()),
        ("openai", Api::Responses, [
            event(&json!({ "type": "response.output_text.delta", "output_index": 0, "delta": "Hi", "logprobs": [token("Hi")] })),
            event(&json!({ "type": "response.completed", "response": { "status": "completed" } })),
        ].concat()),
        ("gemini", Api::GenerateContent, event(&json!({ "candidates": [{
            "content": { "parts": [{ "text": "Hi" }] }, "finishReason": "STOP",
            "logprobsResult": { "chosenCandidates": [{ "token": "Hi", "logProbability": -0.5 }] },
        }] }))),
        ("ollama", Api::OllamaChat, format!("{}\n", json!({
            "message": { "content": "Hi" }, "done": true, "logprobs": [token("Hi")],
        }))),
    ] {
        let (_, _, likely) = streamed(provider, api, body.as_bytes());
        assert_eq!(likely, "Hi", "{provider} {api:?}");
    }
}
