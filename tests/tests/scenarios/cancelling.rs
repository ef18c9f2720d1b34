//! A caller that goes away stops the model, in every window and through every door. HEAD_TO_HEAD row 10.

use postern_proto::gateway::v1 as pb;
use postern_tests::{Act, FakeModel, Stack, chunk, post_stream, soon, sse_head};
use serde_json::{Value, json};

fn body(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn hanging(script: Vec<Act>, embedded: bool) -> (Stack, FakeModel) {
    let model = FakeModel::playing([script]).await;
    let builder = Stack::builder().model("demo", &model);
    let builder = if embedded { builder.embedded() } else { builder };
    (builder.start().await, model)
}

#[tokio::test]
async fn row_10_dropping_a_stream_midway_stops_the_model() {
    for embedded in [false, true] {
        let (stack, model) = hanging(vec![sse_head(), chunk("a"), Act::Hang], embedded).await;
        let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
        let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
        assert!(soon("the first event", events.message()).await.unwrap().is_some());
        drop(events);
        model.abandoned(1).await;
    }
}

#[tokio::test]
async fn row_10_cancelling_before_the_models_head_stops_the_model() {
    let (stack, model) = hanging(vec![Act::Hang], false).await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
    let mut client = stack.completions();
    let call = tokio::spawn(async move { client.stream_chat(request).await.map(drop) });
    model.asked(1).await;
    call.abort();
    model.abandoned(1).await;
}

#[tokio::test]
async fn row_10_cancelling_a_unary_call_stops_the_model() {
    let (stack, model) = hanging(vec![sse_head(), chunk("a"), Act::Hang], false).await;
    let request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
    let mut client = stack.completions();
    let call = tokio::spawn(async move { client.chat(request).await.map(drop) });
    model.asked(1).await;
    call.abort();
    model.abandoned(1).await;
}

#[tokio::test]
async fn row_10_closing_the_http_stream_stops_the_model() {
    let (stack, model) = hanging(vec![sse_head(), chunk("a"), Act::Hang], false).await;
    let response = post_stream(&stack.http("/v1/chat/completions"), &stack.user, &body(true)).await;
    assert_eq!(response.status(), 200);
    drop(response);
    model.abandoned(1).await;
}

#[tokio::test]
async fn row_10_closing_an_http_call_that_waits_stops_the_model() {
    let (stack, model) = hanging(vec![sse_head(), chunk("a"), Act::Hang], false).await;
    let (url, user) = (stack.http("/v1/chat/completions"), stack.user.clone());
    let call = tokio::spawn(async move { post_stream(&url, &user, &body(false)).await.status() });
    model.asked(1).await;
    call.abort();
    model.abandoned(1).await;
}

#[tokio::test]
async fn row_10_dropping_a_relayed_stream_stops_the_model() {
    use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
    let (stack, model) = hanging(vec![sse_head(), chunk("a"), Act::Hang], false).await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.user);
    let mut relay = CompletionServiceClient::new(stack.at_instance());
    let mut events = relay.stream_chat(request).await.unwrap().into_inner();
    assert!(soon("the first event", events.message()).await.unwrap().is_some());
    drop(events);
    model.abandoned(1).await;
}
