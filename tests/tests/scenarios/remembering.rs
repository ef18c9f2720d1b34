//! What a model's server wants back, how likely its tokens were, and its own counts go through the doors, both ways.

use http_body_util::BodyExt as _;
use postern_proto::instance::v1 as instance;
use postern_tests::{Act, FakeModel, Stack, done, event, finish, head, post, post_stream, soon, sse_head, usage};
use serde_json::{Value, json};

async fn stack(provider: &str, plays: Vec<Vec<Act>>) -> (Stack, FakeModel) {
    let server = FakeModel::playing(plays).await;
    let registered = instance::Model { provider: provider.to_owned(), ..Stack::model("demo", &server.url()) };
    let stack = Stack::builder().registered(registered, Some("model-api-key")).bind("chat", &["demo"]);
    (stack.bind("code_completion", &["demo"]).bind("embed", &["demo"]).start().await, server)
}

fn json_answer(body: &Value) -> Vec<Act> {
    vec![head(200, &[("content-type", "application/json")]), Act::Send(body.to_string().into_bytes())]
}

/// The data of a stream's events.
async fn told(stack: &Stack, path: &str, body: &Value) -> Vec<Value> {
    let response = post_stream(&stack.http(path), &stack.user, body).await;
    assert_eq!(response.status(), 200);
    let body = soon("the end of the stream", response.into_body().collect()).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Claude, thinking: a thought that is told, one that is not, and a call.
fn thinking() -> Vec<Act> {
    let block = |index: u32, begun: Value, deltas: &[Value]| {
        let mut all = vec![event(&json!({ "type": "content_block_start", "index": index, "content_block": begun }))];
        let delta = |delta| event(&json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        all.extend(deltas.iter().map(delta));
        all.push(event(&json!({ "type": "content_block_stop", "index": index })));
        all
    };
    let mut acts =
        vec![sse_head(), event(&json!({ "type": "message_start", "message": { "usage": { "input_tokens": 7 } } }))];
    let thought = json!({ "type": "thinking", "thinking": "", "signature": "" });
    let deltas = [
        json!({ "type": "thinking_delta", "thinking": "Hm." }),
        json!({ "type": "signature_delta", "signature": "EqQB" }),
    ];
    acts.extend(block(0, thought, &deltas));
    acts.extend(block(1, json!({ "type": "redacted_thinking", "data": "EmwK" }), &[]));
    acts.extend(block(2, json!({ "type": "tool_use", "id": "t1", "name": "f", "input": {} }), &[]));
    acts.push(event(
        &json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 3 } }),
    ));
    acts.push(event(&json!({ "type": "message_stop" })));
    acts
}

#[tokio::test]
async fn signed_thoughts_go_to_the_caller_and_back_to_the_server() {
    let (stack, model) = stack("anthropic", vec![thinking(), thinking()]).await;
    let tools = json!([{ "name": "f", "input_schema": {}, "cache_control": { "type": "ephemeral", "ttl": "1h" } }]);
    let ask = |messages: Value| {
        json!({
            "model": "demo", "max_tokens": 9000, "stream": true, "thinking": { "type": "enabled", "budget_tokens": 2048 },
            "messages": messages, "tools": tools,
        })
    };
    let question = json!({ "role": "user", "content": "Hi" });
    let events = told(&stack, "/v1/messages", &ask(json!([question]))).await;
    // As a client puts it together.
    let mut content: Vec<Value> = Vec::new();
    for event in &events {
        match event["type"].as_str().unwrap() {
            "content_block_start" => content.push(event["content_block"].clone()),
            "content_block_delta" => {
                let (last, delta) = (content.last_mut().unwrap(), &event["delta"]);
                for member in ["thinking", "signature"] {
                    if let Some(more) = delta[member].as_str() {
                        last[member] = format!("{}{more}", last[member].as_str().unwrap()).into();
                    }
                }
            }
            _ => {}
        }
    }
    let kinds: Vec<_> = content.iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "redacted_thinking", "tool_use"]);
    assert_eq!(content[0]["thinking"], "Hm.");
    let result = json!({ "role": "user", "content": [
        { "type": "tool_result", "tool_use_id": "t1", "content": "done", "cache_control": { "type": "ephemeral" } },
    ] });
    told(&stack, "/v1/messages", &ask(json!([question, { "role": "assistant", "content": content }, result]))).await;
    let sent = &model.requests()[1].body;
    assert_eq!(
        sent["messages"][1]["content"][0],
        json!({ "type": "thinking", "thinking": "Hm.", "signature": "EqQB" })
    );
    assert_eq!(sent["messages"][1]["content"][1], json!({ "type": "redacted_thinking", "data": "EmwK" }));
    assert_eq!(sent["messages"][2]["content"][0]["cache_control"], json!({ "type": "ephemeral" }));
    assert_eq!(sent["tools"][0]["cache_control"]["ttl"], "1h");
    assert_eq!(sent["thinking"]["type"], "enabled", "it goes on thinking amid tools");
}

#[tokio::test]
async fn signed_thoughts_go_through_the_door_of_responses_too() {
    let (stack, model) = stack("anthropic", vec![thinking(), thinking()]).await;
    let ask = |input: Value| {
        json!({
            "model": "demo", "stream": true, "input": input, "tools": [{ "type": "function", "name": "f", "parameters": {} }],
        })
    };
    let events = told(&stack, "/v1/responses", &ask(json!("Hi"))).await;
    let output = events.last().unwrap()["response"]["output"].as_array().unwrap().clone();
    let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "reasoning", "function_call"]);
    let mut input = vec![json!({ "role": "user", "content": "Hi" })];
    input.extend(output);
    input.push(json!({ "type": "function_call_output", "call_id": "t1", "output": "done" }));
    told(&stack, "/v1/responses", &ask(input.into())).await;
    let sent = &model.requests()[1].body;
    let kinds: Vec<_> = sent["messages"][1]["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "redacted_thinking", "tool_use"]);
    assert_eq!(sent["messages"][1]["content"][0]["signature"], "EqQB");
}

fn likely(text: &str, shape: &str) -> Vec<Act> {
    let token = json!({ "token": text, "logprob": -0.5, "bytes": null, "top_logprobs": [
        { "token": text, "logprob": -0.5, "bytes": null }, { "token": "Ho", "logprob": -1.0, "bytes": null },
    ] });
    let piece = match shape {
        "chat" => {
            json!({ "index": 0, "delta": { "content": text }, "logprobs": { "content": [token] }, "finish_reason": null })
        }
        _ => json!({ "index": 0, "text": text, "logprobs": {
            "tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{ text: -0.5, "Ho": -1.0 }], "text_offset": [0],
        }, "finish_reason": null }),
    };
    vec![sse_head(), event(&json!({ "choices": [piece] })), finish("stop"), usage(3, 1), done()]
}

#[tokio::test]
async fn how_likely_tokens_were_is_told_in_each_apis_own_shape() {
    let (stack, model) = stack(
        "openai",
        vec![
            likely("Hi", "chat"),
            likely("Hi", "chat"),
            likely("Hi", "chat"),
            likely("Hi", "text"),
            likely("Hi", "text"),
        ],
    )
    .await;
    let question = json!([{ "role": "user", "content": "Hi" }]);
    let body = json!({ "model": "demo", "messages": question, "logprobs": true, "top_logprobs": 2 });
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &body).await.json();
    let content = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!((&content[0]["token"], &content[0]["top_logprobs"][1]["token"]), (&json!("Hi"), &json!("Ho")));
    assert_eq!(
        (&model.requests()[0].body["logprobs"], &model.requests()[0].body["top_logprobs"]),
        (&json!(true), &json!(2))
    );
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let chunks = told(&stack, "/v1/chat/completions", &streamed).await;
    assert_eq!(chunks[1]["choices"][0]["logprobs"]["content"][0]["logprob"], -0.5);
    let body = json!({ "model": "demo", "input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2, "stream": true });
    let events = told(&stack, "/v1/responses", &body).await;
    let part = &events.last().unwrap()["response"]["output"][0]["content"][0];
    assert_eq!((&part["text"], &part["logprobs"][0]["token"]), (&json!("Hi"), &json!("Hi")));
    let body = json!({ "model": "demo", "prompt": "Hi", "logprobs": 2 });
    let answer = post(&stack.http("/v1/completions"), &stack.user, &body).await.json();
    let told = &answer["choices"][0]["logprobs"];
    assert_eq!(
        (&told["tokens"], &told["token_logprobs"], &told["text_offset"]),
        (&json!(["Hi"]), &json!([-0.5]), &json!([0]))
    );
    assert_eq!(told["top_logprobs"], json!([{ "Hi": -0.5, "Ho": -1.0 }]));
    // A completion of code is cleaned up, and no longer what the model wrote token by token.
    let body = json!({ "model": "demo", "prompt": "Hi", "suffix": "!", "logprobs": 2 });
    let answer = post(&stack.http("/v1/completions"), &stack.user, &body).await.json();
    assert_eq!(model.requests()[4].body.get("logprobs"), None);
    assert!(answer["postern_warnings"].to_string().contains("logprobs"), "{answer}");
}

#[tokio::test]
async fn a_server_that_counts_is_asked_and_one_that_does_not_is_guessed() {
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": "Hi there" }] });
    let count = async |stack: &Stack| post(&stack.http("/v1/messages/count_tokens"), &stack.user, &body).await.json();
    let (stack_, model) = stack("anthropic", vec![json_answer(&json!({ "input_tokens": 4711 }))]).await;
    assert_eq!(count(&stack_).await, json!({ "input_tokens": 4711, "postern_provenance": "reported" }));
    assert_eq!(model.requests()[0].path, "/v1/messages/count_tokens");
    let (stack_, model) = stack("openai", vec![vec![head(500, &[])]]).await;
    assert_eq!(count(&stack_).await["postern_provenance"], "estimated");
    assert!(model.requests().is_empty());
    // A server that is too old to count.
    let (stack_, _model) = stack("llamacpp", vec![vec![head(404, &[])]]).await;
    assert_eq!(count(&stack_).await["postern_provenance"], "estimated");
    // What would be refused is refused.
    let bad = json!({ "model": "demo", "messages": [{ "role": "user", "content": "Hi" }], "tools": [{ "name": "f", "input_schema": [] }] });
    let (stack_, _model) = stack("anthropic", vec![vec![head(500, &[])]]).await;
    let answer = post(&stack_.http("/v1/messages/count_tokens"), &stack_.user, &bad).await;
    assert_eq!(answer.status, 400, "{}", answer.json());
}

#[tokio::test]
async fn tokens_are_embedded_where_the_server_takes_them() {
    let answer = json!({ "data": [{ "index": 0, "embedding": [1, 2] }], "usage": { "prompt_tokens": 3 } });
    let (openai, model) = stack("openai", vec![json_answer(&answer)]).await;
    let body = json!({ "model": "demo", "input": [1, 2, 3] });
    let told = post(&openai.http("/v1/embeddings"), &openai.user, &body).await.json();
    assert_eq!(told["data"][0]["embedding"], json!([1.0, 2.0]));
    assert_eq!(model.requests()[0].body["input"], json!([[1, 2, 3]]));
    let (gemini, model) = stack("gemini", vec![vec![head(500, &[])]]).await;
    let refused = post(&gemini.http("/v1/embeddings"), &gemini.user, &body).await;
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("not tokens"), "{}", refused.json());
    assert!(model.requests().is_empty());
}
