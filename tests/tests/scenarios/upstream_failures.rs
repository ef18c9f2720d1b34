//! Model servers that fail: a failure is never taken for an answer, and what came before it is delivered.
//! HEAD_TO_HEAD rows 8, 9, 11, 14.

use std::time::Duration;

use postern_proto::completion::v1::{completion_event::Event, delta};
use postern_proto::gateway::v1 as pb;
use postern_proto::instance::v1 as instance;
use postern_proto::{Failure, Reason, SoFar};
use postern_tests::{
    Act, FakeModel, Stack, answer, chunk, done, event, finish, head, post, post_stream, reason, soon, sse_head,
};
use serde_json::{Value, json};
use tonic::Status;

/// Streams a chat: the text that came, and how it ended.
async fn streamed(stack: &Stack) -> (String, Result<(), Status>) {
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
    let mut text = String::new();
    let mut events = match soon("an answer", stack.completions().stream_chat(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (text, Err(status)),
    };
    loop {
        match soon("an event", events.message()).await {
            Ok(None) => return (text, Ok(())),
            Err(status) => return (text, Err(status)),
            Ok(Some(message)) => {
                if let Some(Event::Delta(delta)) = message.event.unwrap().event
                    && let Some(delta::Delta::Text(piece)) = delta.delta
                {
                    text.push_str(&piece);
                }
            }
        }
    }
}

async fn stack(script: Vec<Act>) -> (Stack, FakeModel) {
    let model = FakeModel::playing([script]).await;
    (Stack::builder().model("demo", &model).start().await, model)
}

fn error(status: u16, message: &str, headers: &[(&str, &str)]) -> Vec<Act> {
    let body = json!({ "error": { "message": message, "type": "x", "code": status } }).to_string();
    let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
    vec![head(status, &headers), Act::Send(body.into_bytes())]
}

fn chat_body(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

#[tokio::test]
async fn a_wrong_model_key_is_the_administrators_business_and_is_not_shown() {
    let (stack, _model) = stack(error(401, "Incorrect API key: model-api-key", &[])).await;
    let (_, ended) = streamed(&stack).await;
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::FailedPrecondition, Reason::ModelCredentialRejected));
    assert!(!format!("{status:?}").contains("model-api-key"));
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &chat_body(false)).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (502, "model_credential_rejected"));
    assert!(!answer.text.contains("model-api-key"));
}

#[tokio::test]
async fn row_14_a_servers_words_are_passed_on_without_the_key() {
    let (stack, _model) = stack(error(400, "bad thing near model-api-key", &[])).await;
    let (_, ended) = streamed(&stack).await;
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::InvalidArgument, Reason::ModelRefusedRequest));
    assert!(status.message().contains("bad thing near [redacted]"), "{}", status.message());
}

#[tokio::test]
async fn a_model_server_that_is_down_is_unreachable() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    drop(model);
    let (text, ended) = streamed(&stack).await;
    let status = ended.unwrap_err();
    assert_eq!(
        (text.as_str(), status.code(), reason(&status)),
        ("", tonic::Code::Unavailable, Reason::ModelUnreachable)
    );
}

#[tokio::test]
async fn row_8_a_429_keeps_its_retry_after() {
    let (stack, model) = stack(error(429, "slow down", &[("retry-after", "7")])).await;
    let (_, ended) = streamed(&stack).await;
    let status = ended.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::ResourceExhausted, Reason::ModelRateLimited));
    let failure = Failure::from_status(&status, Reason::Internal);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(model.requests().len(), 1, "one endpoint is asked once");
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &chat_body(true)).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (429, &"7".parse().unwrap()));
}

#[tokio::test]
async fn row_9_a_reset_mid_stream_delivers_what_came_and_ends_in_a_failure() {
    let script = vec![sse_head(), chunk("so "), chunk("far"), Act::Reset];
    let (stack, _model) = stack(script).await;
    let (text, ended) = streamed(&stack).await;
    let status = ended.unwrap_err();
    // A reset may overtake what was sent before it; what is delivered is a beginning of it.
    assert!("so far".starts_with(&text), "{text}");
    assert_eq!((status.code(), reason(&status)), (tonic::Code::Unavailable, Reason::ModelStreamTruncated));
}

#[tokio::test]
async fn a_stream_that_breaks_off_delivers_everything_that_came() {
    let (stack, _model) = stack(vec![sse_head(), chunk("so "), chunk("far")]).await;
    let (text, ended) = streamed(&stack).await;
    assert_eq!((text.as_str(), reason(&ended.unwrap_err())), ("so far", Reason::ModelStreamTruncated));
    // The HTTP door ends in an error event and without [DONE].
    let response = post_stream(&stack.http("/v1/chat/completions"), &stack.user, &chat_body(true)).await;
    assert_eq!(response.status(), 200);
    use http_body_util::BodyExt as _;
    let body = soon("the end of the stream", response.into_body().collect()).await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let last = body.trim().lines().last().unwrap().strip_prefix("data: ").unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "model_stream_truncated");
    assert!(body.contains("far") && !body.contains("[DONE]"), "{body}");
    // And unary callers get the failure, not half an answer.
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &chat_body(false)).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (502, "model_stream_truncated"));
}

#[tokio::test]
async fn row_9_what_had_come_and_what_it_cost_is_told_of_an_answer_that_breaks_off() {
    // Some servers say in each chunk what has been spent so far.
    let spent = |text: &str, tokens: u64| {
        let choice = json!({ "index": 0, "delta": { "content": text } });
        let usage = json!({ "prompt_tokens": 11, "completion_tokens": tokens });
        event(&json!({ "choices": [choice], "usage": usage }))
    };
    let (stack, _model) = stack(vec![sse_head(), spent("so ", 1), spent("far", 2)]).await;
    let (text, ended) = streamed(&stack).await;
    let failure = Failure::from_status(&ended.unwrap_err(), Reason::Internal);
    assert_eq!((text.as_str(), failure.reason), ("so far", Reason::ModelStreamTruncated));
    let so_far = SoFar { pieces: 2, input_tokens: Some(11), output_tokens: Some(2) };
    assert_eq!(failure.so_far.as_deref(), Some(&so_far));
    let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &chat_body(false)).await;
    assert_eq!(answer.json()["error"]["so_far"], json!({ "pieces": 2, "input_tokens": 11, "output_tokens": 2 }));
    // What never began has no part, and costs nobody a try at another.
    let (stack, _model) = self::stack(vec![sse_head(), spent("", 0)]).await;
    let (_, ended) = streamed(&stack).await;
    assert_eq!(Failure::from_status(&ended.unwrap_err(), Reason::Internal).so_far, None);
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure() {
    let html = || vec![head(200, &[("content-type", "text/html")]), Act::Send(b"<html>hello</html>".to_vec())];
    let json_head = || head(200, &[("content-type", "application/json")]);
    let text = |text: &str| Act::Send(text.as_bytes().to_vec());
    let cases: Vec<(&str, Vec<Act>, Reason)> = vec![
        ("an HTML page under 200", html(), Reason::ModelAnswerInvalid),
        ("JSON that is no completion", vec![json_head(), text(r#"{"hello":"world"}"#)], Reason::ModelAnswerInvalid),
        ("a body that is no JSON", vec![json_head(), text("oops")], Reason::ModelAnswerInvalid),
        (
            "an error under 200",
            vec![json_head(), text(r#"{"error":{"message":"x","code":429}}"#)],
            Reason::ModelRateLimited,
        ),
        (
            "an undecodable event",
            vec![sse_head(), chunk("a"), text("data: {oops\n\n"), finish("stop"), done()],
            Reason::ModelAnswerInvalid,
        ),
        (
            "an error in the stream",
            vec![sse_head(), chunk("a"), text("data: {\"error\":{\"message\":\"x\"}}\n\n")],
            Reason::ModelFailed,
        ),
        ("no finish reason", vec![sse_head(), chunk("a"), done()], Reason::ModelStreamTruncated),
        ("no [DONE]", vec![sse_head(), chunk("a"), finish("stop")], Reason::ModelStreamTruncated),
        ("an empty stream", vec![sse_head()], Reason::ModelStreamTruncated),
        ("a redirect", vec![head(302, &[("location", "http://127.0.0.1:1/")])], Reason::ModelAnswerInvalid),
        ("a server that is loading", error(503, "Loading model", &[]), Reason::ModelUnavailable),
        ("a server that fails", error(500, "boom", &[]), Reason::ModelFailed),
        ("a missing model", error(404, "no such model", &[]), Reason::ModelMissingUpstream),
    ];
    let model = FakeModel::playing(cases.iter().map(|(_, script, _)| script.clone())).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    for (what, _, expected) in cases {
        let (_, ended) = streamed(&stack).await;
        assert_eq!(ended.map_err(|status| reason(&status)), Err(expected), "{what}");
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_is_streamed_all_the_same() {
    let body = json!({
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "whole" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 1 },
    });
    let script = vec![head(200, &[("content-type", "application/json")]), Act::Send(body.to_string().into_bytes())];
    let (stack, _model) = stack(script).await;
    let (text, ended) = streamed(&stack).await;
    assert_eq!((text.as_str(), ended.is_ok()), ("whole", true));
}

fn impatient(name: &str, url: &str, first_content_ms: u64, idle_ms: u64) -> instance::Model {
    let duration = |ms| prost_types::Duration::try_from(Duration::from_millis(ms)).ok();
    let timers =
        instance::Timers { first_content: duration(first_content_ms), idle: duration(idle_ms), ..Default::default() };
    instance::Model { timers: Some(timers), ..Stack::model(name, url) }
}

#[tokio::test]
async fn row_11_a_model_that_hangs_is_given_up_and_hung_up_on() {
    let model =
        FakeModel::playing([vec![Act::Hang], vec![sse_head(), Act::Hang], vec![sse_head(), chunk("a"), Act::Hang]])
            .await;
    let registered = impatient("demo", &model.url(), 150, 150);
    let stack = Stack::builder().registered(registered, None).bind("chat", &["demo"]).start().await;
    for (hang_ups, expected) in
        [(1, Reason::FirstContentTimeout), (2, Reason::FirstContentTimeout), (3, Reason::IdleTimeout)]
    {
        let status = streamed(&stack).await.1.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (tonic::Code::DeadlineExceeded, expected));
        model.abandoned(hang_ups).await;
    }
}

#[tokio::test]
async fn row_11_the_callers_own_deadline_covers_the_whole_stream() {
    let (stack, model) = stack(vec![sse_head(), chunk("a"), Act::Hang]).await;
    let mut request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
    // Said as a header: tonic's own client would enforce it by itself.
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
    let status = loop {
        match soon("the deadline", events.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), reason(&status)), (tonic::Code::DeadlineExceeded, Reason::DeadlineExceeded));
    model.abandoned(1).await;
}

#[tokio::test]
async fn before_the_first_content_the_next_model_is_tried() {
    let broken = FakeModel::playing([error(500, "boom", &[])]).await;
    let sound = FakeModel::playing([answer(&["second"])]).await;
    let stack = Stack::builder()
        .registered(Stack::model("first", &broken.url()), None)
        .registered(Stack::model("second", &sound.url()), None)
        .bind("chat", &["first", "second"])
        .start()
        .await;
    let (text, ended) = streamed(&stack).await;
    assert_eq!((text.as_str(), ended.is_ok()), ("second", true));
    assert_eq!((broken.requests().len(), sound.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_callers_own_fault_is_not_tried_elsewhere() {
    let strict = FakeModel::playing([error(400, "no", &[])]).await;
    let other = FakeModel::playing([answer(&["second"])]).await;
    let stack = Stack::builder()
        .registered(Stack::model("first", &strict.url()), None)
        .registered(Stack::model("second", &other.url()), None)
        .bind("chat", &["first", "second"])
        .start()
        .await;
    assert_eq!(reason(&streamed(&stack).await.1.unwrap_err()), Reason::ModelRefusedRequest);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_key_that_lies_across_the_cut_of_a_servers_words_is_not_shown() {
    for filler in [590, 560, 8180] {
        let (stack, _model) = stack(error(400, &format!("{}model-api-key", "x".repeat(filler)), &[])).await;
        let status = streamed(&stack).await.1.unwrap_err();
        assert!(!format!("{status:?}").contains("model-api"), "{filler}");
        assert!(status.message().len() < 1000);
    }
}
