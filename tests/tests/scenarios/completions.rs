//! The main way: a token, a prompt, a streamed answer.

use postern_proto::completion::v1::{FinishReason, UsageProvenance, completion_event::Event, delta};
use postern_proto::gateway::v1 as pb;
use postern_tests::{FakeModel, Stack, soon};
use serde_json::json;

/// Reads a stream of events: its text, and the names of the events in order.
async fn read(mut events: tonic::Streaming<pb::StreamChatResponse>) -> (String, Vec<&'static str>, Vec<Event>) {
    let (mut text, mut order, mut all) = (String::new(), Vec::new(), Vec::new());
    while let Some(message) = soon("an event", events.message()).await.unwrap() {
        let event = message.event.unwrap().event.unwrap();
        order.push(match &event {
            Event::Start(_) => "start",
            Event::Delta(_) => "delta",
            Event::Usage(_) => "usage",
            Event::End(_) => "end",
        });
        if let Event::Delta(delta) = &event
            && let Some(delta::Delta::Text(piece)) = &delta.delta
        {
            text.push_str(piece);
        }
        all.push(event);
    }
    (text, order, all)
}

#[tokio::test]
async fn a_chat_streams_start_deltas_usage_end() {
    let model = FakeModel::saying(&["Hel", "lo ", "there"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let request = pb::StreamChatRequest { chat: Some(Stack::chat("hi")) };
    let request = Stack::request(request, &stack.token().await);
    let answer = stack.completions().stream_chat(request).await.unwrap();
    assert!(answer.metadata().contains_key("x-request-id"));
    let (text, order, events) = read(answer.into_inner()).await;
    assert_eq!(text, "Hello there");
    assert_eq!(order, ["start", "delta", "delta", "delta", "usage", "end"]);
    let Event::Start(start) = &events[0] else { panic!() };
    assert_eq!(start.model, "demo");
    let Event::Usage(usage) = &events[4] else { panic!() };
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(7), Some(3)));
    assert_eq!(usage.provenance, UsageProvenance::Reported as i32);
    let Event::End(end) = &events[5] else { panic!() };
    assert_eq!(end.finish_reason, FinishReason::Stop as i32);
}

#[tokio::test]
async fn the_model_sees_the_registered_identifier_the_key_and_nothing_of_the_user() {
    let model = FakeModel::saying(&["ok"]).await;
    let mut registered = Stack::model("demo", &model.url());
    registered.identifier = "served-name".to_owned();
    let stack = Stack::builder().registered(registered, Some("model-api-key")).bind("chat", &["demo"]).start().await;
    let token = stack.token().await;
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "ok");
    let asked = model.requests().pop().unwrap();
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.headers["authorization"], "Bearer model-api-key");
    assert_eq!(asked.body["model"], "served-name");
    assert_eq!(asked.body["messages"], json!([{ "role": "user", "content": "hi" }]));
    assert_eq!(asked.headers["x-request-id"].len(), 32);
    let everything = format!("{:?}{}", asked.headers, asked.body);
    assert!(!everything.contains(&token) && !everything.contains(&stack.user));
}

#[tokio::test]
async fn the_adapter_inside_the_gateway_does_the_same() {
    let model = FakeModel::saying(&["em", "bedded"]).await;
    let stack = Stack::builder().model("demo", &model).embedded().start().await;
    let request = pb::StreamChatRequest { chat: Some(Stack::chat("hi")) };
    let request = Stack::request(request, &stack.token().await);
    let answer = stack.completions().stream_chat(request).await.unwrap();
    let (text, order, _) = read(answer.into_inner()).await;
    assert_eq!((text.as_str(), order.last()), ("embedded", Some(&"end")));
    assert_eq!(model.requests()[0].headers["authorization"], "Bearer model-api-key");
}

async fn complete(stack: &Stack, code: pb::Code) -> postern_proto::completion::v1::Completion {
    let request = Stack::request(pb::CompleteCodeRequest { code: Some(code) }, &stack.token().await);
    soon("a completion", stack.completions().complete_code(request)).await.unwrap().into_inner().completion.unwrap()
}

#[tokio::test]
async fn code_goes_raw_with_the_prefix_alone_where_there_is_no_fill_in_the_middle() {
    let model = FakeModel::saying(&["return n"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let code =
        pb::Code { prefix: "def f(n):\n".to_owned(), suffix: Some("\nprint()".to_owned()), ..Default::default() };
    let answer = complete(&stack, code).await;
    assert_eq!(answer.choices[0].text, "return n");
    assert!(answer.warnings[0].contains("suffix was not used"), "{:?}", answer.warnings);
    let asked = model.requests().pop().unwrap();
    assert_eq!(asked.path, "/v1/completions");
    assert_eq!(asked.body["prompt"], "def f(n):\n");
}

#[tokio::test]
async fn code_goes_raw_in_the_familys_own_layout_with_its_tokens_neutralised() {
    let model = FakeModel::saying(&["1"]).await;
    let mut registered = Stack::model("coder", &model.url());
    registered.family = "qwen2.5-coder".to_owned();
    let stack = Stack::builder().registered(registered, None).bind("code_completion", &["coder"]).start().await;
    let code = pb::Code { prefix: "x = '<|fim_middle|>'\ny = ".to_owned(), suffix: None, ..Default::default() };
    assert!(complete(&stack, code).await.warnings.is_empty());
    let asked = model.requests().pop().unwrap();
    assert_eq!(asked.path, "/v1/completions");
    let prompt = "<|fim_prefix|>x = '< |fim_middle|>'\ny = <|fim_suffix|><|fim_middle|>";
    assert_eq!(asked.body["prompt"], prompt);
    assert!(asked.headers.get("authorization").is_none(), "no key was registered");
}

#[tokio::test]
async fn a_newer_request_of_the_same_editing_session_ends_the_older() {
    let model = FakeModel::playing([
        vec![postern_tests::sse_head(), postern_tests::chunk("old"), postern_tests::Act::Hang],
        postern_tests::answer(&["new"]),
    ])
    .await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let code = || pb::Code { prefix: "x".to_owned(), editing_session_id: "s1".to_owned(), ..Default::default() };
    let request = Stack::request(pb::StreamCompleteCodeRequest { code: Some(code()) }, &stack.token().await);
    let mut older = stack.completions().stream_complete_code(request).await.unwrap().into_inner();
    assert!(older.message().await.unwrap().is_some());
    assert_eq!(complete(&stack, code()).await.choices[0].text, "new");
    let ended = loop {
        match soon("the older stream's end", older.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the older stream ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(postern_tests::reason(&ended), postern_proto::Reason::Cancelled);
    model.abandoned(1).await;
}

#[tokio::test]
async fn models_are_listed_by_what_the_token_is_for() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder()
        .model("demo", &model)
        .registered(Stack::model("chatty", &model.url()), None)
        .registered(Stack::model("idle", &model.url()), None)
        .bind("chat", &["demo", "chatty"])
        .start()
        .await;
    let listed = async |scope: &[&str]| {
        let token = stack.exchange(&stack.user, "", scope).await.unwrap();
        let request = Stack::request(pb::ListModelsRequest {}, &token);
        let models = stack.completions().list_models(request).await.unwrap().into_inner().models;
        models.into_iter().map(|model| (model.name, model.features)).collect::<Vec<_>>()
    };
    let text = |text: &str| text.to_owned();
    let both = vec![(text("chatty"), vec![text("chat")]), (text("demo"), vec![text("chat"), text("code_completion")])];
    assert_eq!(listed(&["feature:chat", "feature:code_completion"]).await, both);
    assert_eq!(listed(&["feature:code_completion"]).await, [(text("demo"), vec![text("code_completion")])]);
}
