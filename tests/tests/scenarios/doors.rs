//! The other doors: Anthropic's messages, OpenAI's responses and embeddings, and the features of the prompt registry.

use http_body_util::BodyExt as _;
use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_tests::{
    Act, FakeModel, Stack, chunk, done, event, finish, head, post, post_stream, reason, soon, sse_head, usage,
};
use serde_json::{Value, json};

/// Thoughts, a text and a call whose arguments come in pieces.
fn thinking_and_calling() -> Vec<Act> {
    let delta = |delta: Value| event(&json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }));
    let call = |call: Value| delta(json!({ "tool_calls": [call] }));
    vec![
        sse_head(),
        delta(json!({ "reasoning_content": "Hm." })),
        chunk("Let me see."),
        call(json!({ "index": 0, "id": "c1", "type": "function", "function": { "name": "f", "arguments": "" } })),
        call(json!({ "index": 0, "function": { "arguments": "{\"a\":" } })),
        call(json!({ "index": 0, "function": { "arguments": "1}" } })),
        call(json!({ "index": 1, "id": "c2", "function": { "name": "g", "arguments": "{}" } })),
        finish("tool_calls"),
        usage(7, 5),
        done(),
    ]
}

fn breaking_off() -> Vec<Act> {
    vec![sse_head(), chunk("Hel")]
}

/// Names and data of a stream's events.
async fn events(stack: &Stack, path: &str, body: &Value) -> Vec<(String, Value)> {
    let response = post_stream(&stack.http(path), &stack.user, body).await;
    assert_eq!(response.status(), 200);
    let body = soon("the end of the stream", response.into_body().collect()).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let read = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
    };
    text.split("\n\n").filter(|event| !event.is_empty()).map(read).collect()
}

async fn stack(script: Vec<Act>) -> (Stack, FakeModel) {
    let model = FakeModel::playing([script]).await;
    (Stack::builder().model("demo", &model).start().await, model)
}

fn message(stream: bool) -> Value {
    json!({ "model": "demo", "max_tokens": 9, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

fn response(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "input": "hi" })
}

#[tokio::test]
async fn a_message_is_streamed_as_blocks_one_after_the_other() {
    let (stack, _model) = stack(thinking_and_calling()).await;
    let events = events(&stack, "/v1/messages", &message(true)).await;
    for (name, data) in &events {
        assert_eq!(data["type"], name.as_str());
    }
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    let expected = [
        "message_start",
        "ping",
        start,
        delta,
        delta,
        stop,
        start,
        delta,
        stop,
        start,
        delta,
        delta,
        stop,
        start,
        delta,
        stop,
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let blocks: Vec<_> =
        events.iter().filter(|(name, _)| name == start).map(|(_, data)| &data["content_block"]).collect();
    assert_eq!((&blocks[0]["type"], &blocks[1]["type"]), (&json!("thinking"), &json!("text")));
    assert_eq!(*blocks[2], json!({ "type": "tool_use", "id": "c1", "name": "f", "input": {} }));
    let arguments: String = events
        .iter()
        .filter(|(_, data)| data["index"] == 2)
        .filter_map(|(_, data)| data["delta"]["partial_json"].as_str())
        .collect();
    assert_eq!(arguments, r#"{"a":1}"#);
    let (_, end) = &events[events.len() - 2];
    assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]), (&json!("tool_use"), &json!(5)));
}

#[tokio::test]
async fn a_message_is_answered_whole_with_the_key_in_a_header_of_its_own() {
    let (stack, model) = stack(thinking_and_calling()).await;
    let mut body = message(false);
    body["system"] = "Be brief.".into();
    let answer = post(&stack.http("/v1/messages"), &stack.user, &body).await;
    let value = answer.json();
    assert_eq!((&value["type"], &value["stop_reason"]), (&json!("message"), &json!("tool_use")));
    assert_eq!(value["content"][1], json!({ "type": "text", "text": "Let me see." }));
    assert_eq!(value["content"][2], json!({ "type": "tool_use", "id": "c1", "name": "f", "input": { "a": 1 } }));
    assert_eq!(answer.headers["request-id"], answer.headers["x-request-id"]);
    assert_eq!(model.requests()[0].body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
}

#[tokio::test]
async fn an_answer_that_breaks_off_has_no_good_end_at_any_door() {
    let (stack, _model) = stack(breaking_off()).await;
    let told = events(&stack, "/v1/messages", &message(true)).await;
    let (name, error) = told.last().unwrap();
    assert_eq!((name.as_str(), &error["error"]["code"]), ("error", &json!("model_stream_truncated")));
    assert!(told.iter().all(|(name, _)| name != "message_stop"));
    let told = events(&stack, "/v1/responses", &response(true)).await;
    assert!(told.iter().all(|(name, _)| name != "response.completed"));
    let names: Vec<_> = told.iter().rev().take(2).map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["response.failed", "error"]);
    assert_eq!(told.last().unwrap().1["response"]["error"]["code"], "model_stream_truncated");
    for (path, body) in [("/v1/messages", message(false)), ("/v1/responses", response(false))] {
        let answer = post(&stack.http(path), &stack.user, &body).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (502, "model_stream_truncated"), "{path}");
    }
}

#[tokio::test]
async fn a_response_is_streamed_as_items_each_added_and_done() {
    let (stack, model) = stack(thinking_and_calling()).await;
    let events = events(&stack, "/v1/responses", &response(true)).await;
    for (number, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(number)));
    }
    let names = |wanted: &str| events.iter().filter(|(name, _)| name == wanted).count();
    assert_eq!((names("response.output_item.added"), names("response.output_item.done")), (4, 4));
    assert_eq!((names("response.content_part.added"), names("response.content_part.done")), (2, 2));
    assert_eq!(names("response.function_call_arguments.done"), 2);
    let (name, last) = events.last().unwrap();
    let whole = &last["response"];
    assert_eq!((name.as_str(), &whole["status"]), ("response.completed", &json!("completed")));
    let kinds: Vec<_> = whole["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(
        (&whole["output"][2]["call_id"], &whole["output"][2]["arguments"]),
        (&json!("c1"), &json!(r#"{"a":1}"#))
    );
    assert_eq!(whole["usage"]["total_tokens"], 12);
    assert!(model.requests()[0].body.get("store").is_none(), "it is no response at the model's server");
    let answer = post(&stack.http("/v1/responses"), &stack.user, &response(false)).await.json();
    assert_eq!(answer["output"], whole["output"].clone().rename_ids(&answer["output"]));
}

/// Items of two answers differ in their ids alone.
trait RenameIds {
    fn rename_ids(self, like: &Value) -> Value;
}

impl RenameIds for Value {
    fn rename_ids(mut self, like: &Value) -> Value {
        for (item, other) in self.as_array_mut().unwrap().iter_mut().zip(like.as_array().unwrap()) {
            item["id"] = other["id"].clone();
        }
        self
    }
}

#[tokio::test]
async fn texts_are_embedded_by_the_next_model_where_the_first_fails() {
    let json = |status: u16, body: Value| {
        vec![head(status, &[("content-type", "application/json")]), Act::Send(body.to_string().into_bytes())]
    };
    let broken = FakeModel::playing([json(503, json!({ "error": { "message": "loading" } }))]).await;
    let vectors = json!({ "data": [{ "index": 0, "embedding": [1.0, 0.5] }], "usage": { "prompt_tokens": 3 } });
    let good = FakeModel::playing([json(200, vectors)]).await;
    let stack = Stack::builder()
        .registered(Stack::model("first", &broken.url()), None)
        .registered(Stack::model("second", &good.url()), None)
        .bind("embed", &["first", "second"])
        .start()
        .await;
    let ask = async |body: Value| post(&stack.http("/v1/embeddings"), &stack.user, &body).await;
    let answer = ask(json!({ "input": "a" })).await.json();
    assert_eq!((&answer["model"], &answer["data"][0]["embedding"]), (&json!("second"), &json!([1.0, 0.5])));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
    // Vectors of two models are not of one space: who names a model gets that one or none.
    let answer = ask(json!({ "model": "first", "input": "a" })).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "model_unavailable"));
    let answer = ask(json!({ "model": "second", "input": ["a", "b"] })).await;
    assert_eq!(answer.error_code(), "model_answer_invalid", "one vector for two texts");
    assert_eq!(ask(json!({ "input": [] })).await.json()["error"]["param"], "input");
}

async fn token(stack: &Stack) -> String {
    stack.exchange(&stack.user, "", &["feature:explain_code", "feature:write_tests"]).await.unwrap()
}

fn run(feature: &str, variables: &[(&str, &str)]) -> pb::PromptRun {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pb::PromptRun { feature: feature.to_owned(), variables, ..Default::default() }
}

#[tokio::test]
async fn a_feature_of_the_registry_is_run_by_its_variables_directly_and_through_the_instance() {
    let model = FakeModel::saying(&["It ", "adds."]).await;
    let stack = Stack::builder().model("demo", &model).bind("explain_code", &["demo"]).start().await;
    let given = [("code", "a + b"), ("language", "rust")];
    let request = Stack::request(pb::RunPromptRequest { run: Some(run("explain_code", &given)) }, &token(&stack).await);
    let answer = stack.completions().run_prompt(request).await.unwrap().into_inner().completion.unwrap();
    assert_eq!((answer.choices[0].text.as_str(), answer.prompt.as_str()), ("It adds.", "explain_code/base/1.0.0"));
    let asked = &model.requests()[0].body;
    assert_eq!(asked["messages"][0]["role"], "system");
    assert!(asked["messages"][1]["content"].as_str().unwrap().contains("```rust\na + b\n```"), "{asked}");
    assert_eq!(asked["temperature"], 0.2, "as the prompt says");
    let mut relay = pb::completion_service_client::CompletionServiceClient::new(stack.at_instance());
    let request = Stack::request(pb::StreamRunPromptRequest { run: Some(run("explain_code", &given)) }, &stack.user);
    let mut events = relay.stream_run_prompt(request).await.unwrap().into_inner();
    let mut count = 0;
    while soon("an event", events.message()).await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 5, "start, two pieces, usage, end");
}

#[tokio::test]
async fn what_is_wrong_with_a_run_is_named() {
    let model = FakeModel::saying(&["x"]).await;
    let stack = Stack::builder().model("demo", &model).bind("explain_code", &["demo"]).start().await;
    let ask = async |run: pb::PromptRun| {
        let request = Stack::request(pb::RunPromptRequest { run: Some(run) }, &token(&stack).await);
        reason(&stack.completions().run_prompt(request).await.unwrap_err())
    };
    let good = || run("explain_code", &[("code", "x")]);
    assert_eq!(ask(run("explain_code", &[])).await, Reason::RequestInvalid);
    assert_eq!(ask(run("explain_code", &[("code", "x"), ("colour", "red")])).await, Reason::RequestInvalid);
    assert_eq!(ask(run("chat", &[])).await, Reason::RequestInvalid);
    assert_eq!(ask(run("telepathy", &[])).await, Reason::RequestInvalid);
    assert_eq!(ask(run("write_tests", &[("code", "x")])).await, Reason::FeatureUnbound);
    assert_eq!(ask(pb::PromptRun { prompt_version: "9.9.9".to_owned(), ..good() }).await, Reason::PromptNotFound);
    assert_eq!(ask(pb::PromptRun { prompt_version: "new".to_owned(), ..good() }).await, Reason::RequestInvalid);
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn what_a_request_would_meet_is_told_without_running_it() {
    let model = FakeModel::saying(&["x"]).await;
    let stack = Stack::builder()
        .model("demo", &model)
        .registered(Stack::model("spare", &model.url()), None)
        .bind("explain_code", &["demo", "spare"])
        .start()
        .await;
    let mut explain = pb::explain_service_client::ExplainServiceClient::new(stack.at_gateway());
    let mut ask = async |feature: &str, scope: &str, model: &str, variables: &[(&str, &str)]| {
        let variables = run("", variables).variables;
        let message = pb::ExplainRequestRequest {
            feature: feature.to_owned(),
            model: model.to_owned(),
            variables,
            ..Default::default()
        };
        let token = stack.exchange(&stack.user, "", &[scope]).await.unwrap();
        let answer = explain.explain_request(Stack::request(message, &token)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| reason(&status))
    };
    let told = ask("explain_code", "feature:explain_code", "", &[("code", "x")]).await.unwrap();
    assert!(told.allowed && told.findings.iter().all(|finding| finding.ok), "{told:?}");
    let planned: Vec<_> = told.models.iter().map(|model| (model.name.as_str(), model.prompt.as_str())).collect();
    assert_eq!(planned, [("demo", "explain_code/base/1.0.0"), ("spare", "explain_code/base/1.0.0")]);
    for (feature, scope, model, refusal, failed) in [
        ("explain_code", "feature:explain_code", "", "REQUEST_INVALID", None),
        ("explain_code", "feature:chat", "", "SCOPE_MISSING", Some("scope")),
        ("write_tests", "feature:write_tests", "", "FEATURE_UNBOUND", Some("binding")),
        ("explain_code", "feature:explain_code", "nobody", "MODEL_NOT_FOUND", Some("model")),
    ] {
        let told = ask(feature, scope, model, &[]).await.unwrap();
        assert_eq!((told.allowed, told.reason.as_str()), (false, refusal));
        let not: Vec<_> =
            told.findings.iter().filter(|finding| !finding.ok).map(|finding| finding.name.as_str()).collect();
        assert_eq!(not.first().copied(), failed, "{told:?}");
    }
    assert_eq!(ask("telepathy", "feature:chat", "", &[]).await.unwrap_err(), Reason::RequestInvalid);
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn a_tool_that_takes_a_text_and_one_in_a_namespace_come_back_as_what_they_are() {
    let delta = |call: Value| {
        event(&json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] }, "finish_reason": null }] }))
    };
    let script = vec![
        sse_head(),
        delta(
            json!({ "index": 0, "id": "c1", "function": { "name": "apply_patch", "arguments": "{\"input\":\"*** B" } }),
        ),
        delta(json!({ "index": 0, "function": { "arguments": "egin\"}" } })),
        delta(json!({ "index": 1, "id": "c2", "function": { "name": "mcp__files__read", "arguments": "{}" } })),
        finish("stop"),
        done(),
    ];
    let (stack, model) = stack(script).await;
    let mut body = response(true);
    body["tools"] = json!([
        { "type": "custom", "name": "apply_patch" },
        { "type": "namespace", "name": "mcp__files", "tools": [{ "type": "function", "name": "read" }] },
        { "type": "web_search" },
    ]);
    let told = events(&stack, "/v1/responses", &body).await;
    let (_, last) = told.last().unwrap();
    let output = &last["response"]["output"];
    assert_eq!((&output[0]["type"], &output[0]["input"]), (&json!("custom_tool_call"), &json!("*** Begin")));
    assert_eq!((&output[1]["namespace"], &output[1]["name"]), (&json!("mcp__files"), &json!("read")));
    let (_, first) = &told[0];
    assert!(first["response"]["postern_warnings"][0].as_str().unwrap().contains("web_search"), "{first}");
    let input: Vec<_> = told.iter().filter(|(name, _)| name.starts_with("response.custom_tool_call_input")).collect();
    assert_eq!(input.len(), 2);
    assert_eq!(model.requests()[0].body["tools"].as_array().unwrap().len(), 2);
    // The same at the other door: a call is one, whatever the server says of why it stopped.
    let answer = post(&stack.http("/v1/messages"), &stack.user, &message(false)).await.json();
    assert_eq!(answer["stop_reason"], "tool_use");
}

/// A server that writes of two calls at once, and one whose call is cut off.
#[tokio::test]
async fn calls_are_whole_or_said_not_to_be() {
    let call = |call: Value| {
        event(&json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] }, "finish_reason": null }] }))
    };
    let piece = |index: u32, arguments: &str| call(json!({ "index": index, "function": { "arguments": arguments } }));
    let begin = |index: u32, name: &str| {
        call(json!({ "index": index, "id": format!("c{index}"), "function": { "name": name, "arguments": "" } }))
    };
    let at_once = vec![
        sse_head(),
        begin(0, "f"),
        begin(1, "g"),
        piece(0, "{\"a\":"),
        piece(1, "{\"b\":"),
        piece(0, "1}"),
        piece(1, "2}"),
        finish("tool_calls"),
        done(),
    ];
    let cut_off = vec![sse_head(), begin(0, "f"), piece(0, "{\"a\":"), finish("length"), done()];
    let model = FakeModel::playing([at_once.clone(), at_once, cut_off]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let told = events(&stack, "/v1/messages", &message(true)).await;
    // Each block is stopped before the next begins, and its pieces stand between.
    let (mut open, mut written) = (None, std::collections::BTreeMap::<u64, String>::new());
    for (name, data) in told.iter().filter(|(name, _)| name.starts_with("content_block")) {
        match name.as_str() {
            "content_block_start" => assert_eq!(open.replace(data["index"].clone()), None),
            "content_block_stop" => assert_eq!(open.take().as_ref(), Some(&data["index"])),
            _ => {
                assert_eq!(open.as_ref(), Some(&data["index"]));
                let text = data["delta"]["partial_json"].as_str().unwrap();
                written.entry(data["index"].as_u64().unwrap()).or_default().push_str(text);
            }
        }
    }
    assert_eq!(written.into_values().collect::<Vec<_>>(), [r#"{"a":1}"#, r#"{"b":2}"#]);
    let told = events(&stack, "/v1/responses", &response(true)).await;
    let output = &told.last().unwrap().1["response"]["output"];
    assert_eq!((&output[0]["arguments"], &output[1]["arguments"]), (&json!(r#"{"a":1}"#), &json!(r#"{"b":2}"#)));
    // What was cut off is not said to be done.
    let told = events(&stack, "/v1/responses", &response(true)).await;
    assert!(told.iter().all(|(name, _)| name != "response.function_call_arguments.done"));
    let (name, last) = told.last().unwrap();
    assert_eq!(
        (name.as_str(), &last["response"]["output"][0]["status"]),
        ("response.incomplete", &json!("incomplete"))
    );
}
