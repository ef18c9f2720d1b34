//! Every wire format meets every fault of a server: each is a typed failure, with whom to blame and what had been delivered.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use postern_proto::completion::v1::{completion_event::Event, delta};
use postern_proto::gateway::v1 as gateway;
use postern_proto::instance::v1 as instance;
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::{Clock as _, SystemClock};
use postern_tests::{Act, FakeModel, Stack, head, soon};
use serde_json::Value;

/// A wire format: its provider, and a whole answer of it with the kind of its content.
struct Format {
    provider: &'static str,
    kind: String,
    body: Vec<u8>,
}

fn formats() -> Vec<Format> {
    let format = |(provider, golden): (&'static str, &str)| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/{golden}.json"));
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let body = golden["response"]["body_base64"].as_str().unwrap();
        Format {
            provider,
            kind: golden["response"]["headers"]["content-type"].as_str().unwrap().to_owned(),
            body: base64::engine::general_purpose::STANDARD.decode(body).unwrap(),
        }
    };
    [
        ("openai", "openai/chat-text-crlf"),
        ("anthropic", "anthropic/messages-thinking-and-text"),
        ("gemini", "gemini/generate_content-thought-text-call"),
        ("ollama", "ollama/ollama_chat-thinking-text"),
        ("cohere", "cohere/cohere_chat-text"),
        ("bedrock", "bedrock/converse-thinking-text"),
    ]
    .map(format)
    .into()
}

async fn stack(provider: &str, url: &str) -> Stack {
    let duration = |ms| prost_types::Duration::try_from(Duration::from_millis(ms)).ok();
    let timers = instance::Timers { first_content: duration(700), idle: duration(700), ..Default::default() };
    let timers = Some(timers);
    let model = instance::Model { provider: provider.to_owned(), timers, ..Stack::model("demo", url) };
    Stack::builder().registered(model, Some("model-api-key")).bind("chat", &["demo"]).start().await
}

/// How it ended, and whether any text had come.
async fn ask(stack: &Stack) -> (Result<(), Failure>, bool) {
    let request = gateway::StreamChatRequest { chat: Some(Stack::chat("hi")) };
    let request = Stack::request(request, &stack.token().await);
    let failure = |status: &tonic::Status| Failure::from_status(status, Reason::Internal);
    let mut came = false;
    let mut events = match soon("an answer", stack.completions().stream_chat(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (Err(failure(&status)), came),
    };
    loop {
        match soon("an event", events.message()).await {
            Ok(None) => return (Ok(()), came),
            Err(status) => return (Err(failure(&status)), came),
            Ok(Some(message)) => {
                if let Some(Event::Delta(piece)) = message.event.unwrap().event {
                    came |= matches!(piece.delta, Some(delta::Delta::Text(_) | delta::Delta::Reasoning(_)));
                }
            }
        }
    }
}

fn refused(status: u16, headers: &[(&str, &str)]) -> Vec<Act> {
    let kind = [("content-type", "application/json")];
    let headers: Vec<_> = headers.iter().copied().chain(kind).collect();
    vec![head(status, &headers), Act::Send(br#"{"error":{"message":"no"},"message":"no"}"#.to_vec())]
}

#[tokio::test]
async fn each_fault_has_its_reason_in_every_wire_format() {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(SystemClock.now() + 90));
    for Format { provider, kind, body } in formats() {
        let begun = || head(200, &[("content-type", &kind)]);
        let half = || Act::Send(body[..body.len() * 3 / 4].to_vec());
        let rest = |more: Vec<Act>| [vec![begun(), half()], more].concat();
        let drip: Vec<_> = body.chunks(7).map(|piece| Act::Send(piece.to_vec())).collect();
        let cases: Vec<(&str, Vec<Act>, Option<Reason>)> = vec![
            ("whole", vec![begun(), Act::Send(body.clone())], None),
            ("slow drip", [vec![begun()], drip].concat(), None),
            ("reset before the head", vec![Act::Reset], Some(Reason::ModelUnreachable)),
            ("reset after some", rest(vec![Act::Reset]), Some(Reason::ModelStreamTruncated)),
            ("truncated", rest(vec![]), Some(Reason::ModelStreamTruncated)),
            ("nothing at all", vec![begun()], Some(Reason::ModelStreamTruncated)),
            ("stall before content", vec![begun(), Act::Hang], Some(Reason::FirstContentTimeout)),
            ("stall after some", rest(vec![Act::Hang]), Some(Reason::IdleTimeout)),
            (
                "garbage",
                vec![begun(), Act::Send(b"data: {]\n\n{]\n\0\0\0\x10\0\0\0\0garbagegarbage".to_vec())],
                Some(Reason::ModelAnswerInvalid),
            ),
            (
                "html under 200",
                vec![head(200, &[("content-type", "text/html")]), Act::Send(b"<html>login</html>".to_vec())],
                Some(Reason::ModelAnswerInvalid),
            ),
            (
                "an oversized event",
                vec![begun(), Act::Send([b"data: {\"a\":\"".to_vec(), vec![b'x'; 2 << 20]].concat())],
                Some(Reason::ModelAnswerInvalid),
            ),
            ("429 with seconds", refused(429, &[("retry-after", "7")]), Some(Reason::ModelRateLimited)),
            ("429 with a date", refused(429, &[("retry-after", &date)]), Some(Reason::ModelRateLimited)),
            ("500", refused(500, &[]), Some(Reason::ModelFailed)),
            ("503 while loading", refused(503, &[("retry-after", "7")]), Some(Reason::ModelUnavailable)),
            ("a redirect", refused(302, &[("location", "http://169.254.169.254/")]), Some(Reason::ModelAnswerInvalid)),
        ];
        let server = FakeModel::playing(cases.iter().map(|(_, script, _)| script.clone())).await;
        let stack = stack(provider, &server.url()).await;
        for (nth, (fault, _, expected)) in cases.iter().enumerate() {
            let (ended, came) = ask(&stack).await;
            let told = format!("{provider}, {fault}: {ended:?}");
            assert_eq!(ended.as_ref().err().map(|failure| failure.reason), *expected, "{told}");
            if let Err(failure) = ended {
                // That an address redirects is for who registered it to mend.
                let whose = if *fault == "a redirect" { Blame::Adapter } else { Blame::Upstream };
                assert!(failure.blame.is_none_or(|blame| blame == whose), "{told}");
                let waits = failure.retry_after.map(|wait| wait.as_secs());
                match *fault {
                    "429 with seconds" | "503 while loading" => assert_eq!(waits, Some(7), "{told}"),
                    "429 with a date" => assert!(waits.is_some_and(|wait| (30..=90).contains(&wait)), "{told}"),
                    _ => {}
                }
            }
            let brings = ["whole", "slow drip", "reset after some", "truncated", "stall after some"];
            assert_eq!(came, brings.contains(fault), "{told}");
            assert_eq!(server.requests().len(), nth + 1, "one attempt: {told}");
        }
        drop(server);
        let (ended, _) = ask(&stack).await;
        assert_eq!(ended.unwrap_err().reason, Reason::ModelUnreachable, "{provider}: nobody is there");
    }
}
