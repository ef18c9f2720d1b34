//! The OpenAI-compatible door.

use http_body_util::BodyExt as _;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::key_service_client::KeyServiceClient;
use postern_tests::{FakeModel, Forge, Stack, get, post, post_stream, soon};
use serde_json::{Value, json};

fn chat(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn events(stack: &Stack, path: &str, body: &Value) -> Vec<String> {
    let response = post_stream(&stack.http(path), &stack.user, body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let body = soon("the end of the stream", response.into_body().collect()).await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let model = FakeModel::saying(&["Hel", "lo"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &chat(false)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("x-request-id"));
    let value = answer.json();
    assert_eq!((&value["object"], &value["model"]), (&json!("chat.completion"), &json!("demo")));
    assert_eq!(value["choices"][0]["message"], json!({ "role": "assistant", "content": "Hello", "refusal": null }));
    assert_eq!(value["choices"][0]["finish_reason"], "stop");
    assert_eq!(value["usage"], json!({ "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 }));
}

#[tokio::test]
async fn a_chat_is_streamed_in_the_apis_own_order() {
    let model = FakeModel::saying(&["Hel", "lo"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut body = chat(true);
    body["stream_options"] = json!({ "include_usage": true });
    let events = events(&stack, "/v1/chat/completions", &body).await;
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let deltas: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
    assert_eq!(deltas[0], json!({ "role": "assistant", "content": "" }));
    assert_eq!(deltas[1..3], [json!({ "content": "Hel" }), json!({ "content": "lo" })]);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!((&chunks[4]["choices"], &chunks[4]["usage"]["total_tokens"]), (&json!([]), &json!(9)));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"));
}

#[tokio::test]
async fn usage_is_streamed_only_when_it_was_asked_for() {
    let model = FakeModel::saying(&["Hello"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let events = events(&stack, "/v1/chat/completions", &chat(true)).await;
    assert!(events.iter().all(|event| !event.contains("usage")), "{events:?}");
}

#[tokio::test]
async fn a_completion_is_raw() {
    let model = FakeModel::saying(&["a", "b"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let body = json!({ "model": "demo", "prompt": "x", "max_tokens": 5, "temperature": 0.5, "min_p": 0.1 });
    let answer = post(&stack.http("/v1/completions"), &stack.user, &body).await.json();
    assert_eq!((&answer["object"], &answer["choices"][0]["text"]), (&json!("text_completion"), &json!("ab")));
    let asked = model.requests().pop().unwrap().body;
    assert_eq!((&asked["prompt"], &asked["max_tokens"]), (&json!("x"), &json!(5)));
    assert_eq!(asked["min_p"], 0.1, "a member that is not known here goes on to the server");
    let streamed = events(&stack, "/v1/completions", &json!({ "model": "demo", "prompt": "x", "stream": true })).await;
    let first: Value = serde_json::from_str(&streamed[0]).unwrap();
    assert_eq!((&first["choices"][0]["text"], streamed.last().unwrap().as_str()), (&json!("a"), "[DONE]"));
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder()
        .registered(Stack::model("org/demo", &model.url()), None)
        .bind("chat", &["org/demo"])
        .start()
        .await;
    let list = get(&stack.http("/v1/models"), &stack.user).await.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("org/demo")));
    assert_eq!(get(&stack.http("/v1/models/org/demo"), &stack.user).await.json()["id"], "org/demo");
    let missing = get(&stack.http("/v1/models/nobody"), &stack.user).await;
    assert_eq!((missing.status.as_u16(), missing.error_code().as_str()), (404, "model_not_found"));
    assert_eq!(get(&stack.http("/v1/models"), "").await.status, 401);
}

#[tokio::test]
async fn errors_come_in_the_apis_envelope() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let url = stack.http("/v1/chat/completions");
    let failed = async |body: Value| {
        let answer = post(&url, &stack.user, &body).await;
        let error = answer.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        (answer.status.as_u16(), error["code"].as_str().unwrap().to_owned(), error["param"].clone())
    };
    let mut body = chat(false);
    body["model"] = "nobody".into();
    assert_eq!(failed(body).await, (404, "model_not_found".to_owned(), Value::Null));
    let mut body = chat(false);
    body["temperature"] = 3.into();
    assert_eq!(failed(body).await, (400, "request_invalid".to_owned(), "temperature".into()));
    assert_eq!(failed(json!({ "model": "demo" })).await.0, 400);
    assert_eq!(post(&stack.http("/v1/nothing"), &stack.user, &json!({})).await.error_code(), "unimplemented");
}

#[tokio::test]
async fn a_credential_for_inference_is_taken_and_no_other() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let url = stack.http("/v1/chat/completions");
    for bearer in [stack.user.clone(), stack.user.clone(), stack.token().await] {
        assert_eq!(post(&url, &bearer, &chat(false)).await.status, 200);
    }
    let unknown = postern_token::Secret::from_random(postern_token::CredentialKind::Personal, [9; 32]);
    let fleet = postern_token::Secret::from_random(postern_token::CredentialKind::Fleet, [9; 32]);
    for bad in [unknown.expose(), unknown.expose(), fleet.expose(), "postern_pat_short"] {
        let answer = post(&url, bad, &chat(false)).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (401, "credential_invalid"), "{bad}");
    }
    let admin = post(&url, &stack.admin, &chat(false)).await;
    assert_eq!((admin.status.as_u16(), admin.error_code().as_str()), (403, "audience_denied"));
}

#[tokio::test]
async fn a_listener_that_is_not_set_to_takes_no_credential() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).access_tokens_only().start().await;
    let url = stack.http("/v1/chat/completions");
    let refused = post(&url, &stack.user, &chat(false)).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (401, "credential_not_accepted"));
    assert_eq!(post(&url, &stack.token().await, &chat(false)).await.status, 200);
}

#[tokio::test]
async fn a_credential_goes_on_when_the_token_that_was_made_of_it_does_not() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let url = stack.http("/v1/chat/completions");
    assert_eq!(post(&url, &stack.user, &chat(false)).await.status, 200);
    let token = stack.token().await;
    let kid = Forge::header_of(&token)["kid"].as_str().unwrap().to_owned();
    let request = stack.administer(instance::RevokeKeyRequest { kid }).await;
    KeyServiceClient::new(stack.at_instance()).revoke_key(request).await.unwrap();
    // Also while some have heard of the revocation and others have not: the gateway's own token for its adapter ends with it.
    // Only what was admitted before is cut.
    let refused = async {
        while post(&url, &token, &chat(false)).await.status != 401 {
            let answer = post(&url, &stack.user, &chat(false)).await;
            assert!(answer.status == 200 || answer.error_code() == "token_revoked", "{}", answer.text);
        }
    };
    soon("the end of the key", refused).await;
    for _ in 0..20 {
        let answer = post(&url, &stack.user, &chat(false)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test]
async fn an_outage_of_the_instance_does_not_touch_keys_that_are_known() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).grace(0).start().await;
    let url = stack.http("/v1/chat/completions");
    let token = stack.token().await;
    let late = stack.add_user("late", instance::CredentialPurpose::Inference, vec![]).await;
    assert_eq!(post(&url, &stack.user, &chat(false)).await.status, 200);
    let Stack { instance, gateway, clock, user, .. } = stack;
    instance.stop().await;
    assert_eq!(post(&url, &user, &chat(false)).await.status, 200, "a key whose token lives goes on");
    assert_eq!(post(&url, &token, &chat(false)).await.status, 200, "and so does a token");
    let unknown = post(&url, &late, &chat(false)).await;
    assert_eq!((unknown.status.as_u16(), unknown.error_code().as_str()), (503, "instance_unavailable"));
    clock.advance(331);
    assert_eq!(post(&url, &user, &chat(false)).await.error_code(), "instance_unavailable");
    gateway.stop().await;
}
