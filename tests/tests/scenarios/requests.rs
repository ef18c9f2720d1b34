//! Requests that cannot be served: each gets a typed error and no model hears of it. HEAD_TO_HEAD row 7.

use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_tests::{FakeModel, Stack, post, reason};
use serde_json::json;

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack =
        Stack::builder().model("demo", &model).registered(Stack::model("unbound", &model.url()), None).start().await;
    let token = stack.token().await;
    for name in ["nobody", "unbound", "Demo", "demo "] {
        let chat = pb::Chat { model: name.to_owned(), ..Stack::chat("hi") };
        let status = stack.ask(&token, chat).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (tonic::Code::NotFound, Reason::ModelNotFound), "{name}");
    }
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn row_7_a_request_cannot_name_where_the_gateway_connects() {
    let (model, elsewhere) = (FakeModel::saying(&["ok"]).await, FakeModel::saying(&["stolen"]).await);
    let stack = Stack::builder().model("demo", &model).start().await;
    let url = elsewhere.url();
    let chat = pb::Chat { model: url.clone(), ..Stack::chat("hi") };
    let status = stack.ask(&stack.token().await, chat).await.unwrap_err();
    assert_eq!(reason(&status), Reason::ModelNotFound);
    let body = json!({
        "model": "demo", "messages": [{ "role": "user", "content": "hi" }],
        "model_endpoint": url, "base_url": url, "api_base": url, "endpoint": url, "api_key": "x",
    });
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &body).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "ok");
    assert!(elsewhere.requests().is_empty());
    assert_eq!(model.requests()[0].headers["authorization"], "Bearer model-api-key");
}

#[tokio::test]
async fn an_empty_prompt_is_refused_by_name() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let token = stack.token().await;
    for chat in [pb::Chat::default(), Stack::chat("")] {
        let status = stack.ask(&token, chat).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (tonic::Code::InvalidArgument, Reason::RequestInvalid));
        assert!(status.message().contains("messages"), "{}", status.message());
    }
    let request = Stack::request(pb::ChatRequest { chat: None }, &token);
    let status = stack.completions().chat(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::RequestInvalid);
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn a_huge_prompt_is_refused_with_a_reason_however_huge() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let token = stack.token().await;
    for mib in [9, 17] {
        let status = stack.ask(&token, Stack::chat(&"x".repeat(mib << 20))).await.unwrap_err();
        assert_eq!(reason(&status), Reason::RequestTooLarge, "{mib} MiB: {status:?}");
    }
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": "x".repeat(17 << 20) }] });
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &body).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "request_too_large"));
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "ok", "and the gateway goes on");
}

#[tokio::test]
async fn a_full_gateway_says_when_to_come_back() {
    use postern_tests::{Act, chunk, sse_head};
    let model = FakeModel::playing([vec![sse_head(), chunk("a"), Act::Hang]]).await;
    let stack = Stack::builder().model("demo", &model).max_in_flight(1).start().await;
    let token = stack.token().await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let first = stack.completions().stream_chat(request).await.unwrap();
    let status = stack.ask(&token, Stack::chat("hi")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::ResourceExhausted, Reason::ConcurrencyLimited));
    let failure = postern_proto::Failure::from_status(&status, Reason::Internal);
    assert_eq!(failure.retry_after, Some(std::time::Duration::from_secs(1)));
    drop(first);
    model.abandoned(1).await;
}
