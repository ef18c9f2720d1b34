//! Callers that stop reading, say nothing, or send much: nobody else pays for them.

use std::time::Duration;

use futures_util::StreamExt as _;
use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_tests::{Act, FakeModel, Stack, answer, chunk, get, post, reason, soon, sse_head};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::{Channel, Endpoint};

#[tokio::test]
async fn readers_that_stop_reading_do_not_stop_the_others() {
    // Each stalled stream has more to say than any window holds.
    let flood =
        || [sse_head()].into_iter().chain(std::iter::repeat_n(chunk(&"x".repeat(64 * 1024)), 64)).chain([Act::Hang]);
    let scripts: Vec<Vec<Act>> = (0..8).map(|_| flood().collect()).chain([answer(&["fine"])]).collect();
    let model = FakeModel::playing(scripts).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let token = stack.token().await;
    let mut stalled = Vec::new();
    for number in 1..=8 {
        let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
        // One connection for all of them: they share its window.
        stalled.push(stack.completions().stream_chat(request).await.unwrap().into_inner());
        model.asked(number).await;
    }
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
    // And what they were sent is theirs when they read on.
    let first = soon("the first event", stalled[0].next()).await;
    assert!(first.unwrap().is_ok());
}

#[tokio::test]
async fn a_reader_that_has_stopped_gives_its_place_back() {
    let flood =
        [sse_head()].into_iter().chain(std::iter::repeat_n(chunk(&"x".repeat(64 * 1024)), 400)).chain([Act::Hang]);
    let model = FakeModel::playing([flood.collect(), answer(&["fine"])]).await;
    let idle = prost_types::Duration::try_from(Duration::from_millis(300)).ok();
    let registered = instance::Model {
        timers: Some(instance::Timers { idle, ..Default::default() }),
        limits: Some(instance::Limits { max_concurrency: 1, ..Default::default() }),
        ..Stack::model("demo", &model.url())
    };
    let stack = Stack::builder().registered(registered, None).bind("chat", &["demo"]).start().await;
    let mut socket = TcpStream::connect(stack.gateway.http).await.unwrap();
    let body =
        json!({ "model": "demo", "stream": true, "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        stack.user,
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    // Its model is let go although the connection stays open.
    model.abandoned(1).await;
    let token = stack.token().await;
    let place = async { while stack.ask(&token, Stack::chat("hi")).await.is_err() {} };
    soon("the place", place).await;
    drop(socket);
}

#[tokio::test]
async fn a_body_is_not_taken_in_before_its_sender_is_known() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut socket = TcpStream::connect(stack.gateway.http).await.unwrap();
    // The head of a large body that never comes.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 16000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = soon("the refusal", socket.read(&mut answer)).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn what_cannot_be_read_is_not_repeated() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    for body in [
        json!({ "messages": "my private words" }),
        json!({ "messages": [{ "role": 7, "content": "my private words" }] }),
    ] {
        let answer = post(&stack.http("/v1/chat/completions"), &stack.user, &body).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.text.contains("private"), "{}", answer.text);
    }
}

/// A channel whose connections come from this address.
async fn from_address(to: std::net::SocketAddr, from: [u8; 4]) -> Channel {
    let connect = tower::service_fn(move |_: http::Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(socket.connect(to).await?))
    });
    Endpoint::from_static("http://gateway.test").connect_with_connector(connect).await.unwrap()
}

#[tokio::test]
async fn row_13_a_models_networks_hold_also_through_the_relay() {
    let model = FakeModel::saying(&["fine"]).await;
    let registered =
        instance::Model { client_networks: vec!["127.0.0.2/32".to_owned()], ..Stack::model("demo", &model.url()) };
    let stack = Stack::builder().registered(registered, None).bind("chat", &["demo"]).start().await;
    let token = stack.token().await;
    let ask = async |at, from, bearer: &str, forged: bool| {
        let mut request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, bearer);
        if forged {
            request.metadata_mut().insert("x-postern-client-address", "127.0.0.2".parse().unwrap());
            request.metadata_mut().insert("x-postern-relay-token", token.parse().unwrap());
        }
        CompletionServiceClient::new(from_address(at, from).await).chat(request).await.map(drop).map_err(|s| reason(&s))
    };
    let untrusted = Err(Reason::NetworkUntrusted);
    for (at, bearer) in
        [(stack.gateway.grpc, &token), (stack.instance.grpc, &token), (stack.instance.grpc, &stack.user)]
    {
        assert_eq!(ask(at, [127, 0, 0, 2], bearer, false).await, Ok(()));
        assert_eq!(ask(at, [127, 0, 0, 3], bearer, false).await, untrusted);
        assert_eq!(ask(at, [127, 0, 0, 3], bearer, true).await, untrusted, "an address that nobody vouches for");
    }
    assert_eq!(get(&stack.http("/v1/models"), &token).await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_credentials_networks_hold_also_where_a_gateway_exchanges_it() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let message = instance::CreateCredentialRequest {
        principal: "eve".to_owned(),
        purpose: instance::CredentialPurpose::Inference as i32,
        networks: vec!["127.0.0.2/32".to_owned()],
        ..Default::default()
    };
    let request = stack.administer(message).await;
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let tied = principals.create_credential(request).await.unwrap().into_inner().secret;
    let ask = async |from: [u8; 4]| {
        let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": "hi" }] });
        postern_tests::post_from(from, &stack.http("/v1/chat/completions"), &tied, &body).await.status.as_u16()
    };
    assert_eq!((ask([127, 0, 0, 2]).await, ask([127, 0, 0, 3]).await), (200, 401));
    // Nobody else is believed who says where a caller is.
    let message = instance::ExchangeTokenRequest {
        subject_token: tied.clone(),
        scope: vec!["feature:chat".to_owned()],
        ..Default::default()
    };
    let mut request = Stack::request(message, "");
    request.metadata_mut().insert("x-postern-client-address", "127.0.0.2".parse().unwrap());
    request.metadata_mut().insert("x-postern-relay-token", stack.token().await.parse().unwrap());
    let status = TokenServiceClient::new(stack.at_instance()).exchange_token(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::AudienceWrong);
}

#[tokio::test]
async fn a_flood_of_bad_secrets_is_turned_away_and_locks_nobody_out() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut last = None;
    for _ in 0..60 {
        let status = stack.exchange("postern_pat_nonsense", "", &["feature:chat"]).await.unwrap_err();
        last = Some(reason(&status));
    }
    assert_eq!(last, Some(Reason::AttemptsLimited));
    assert!(stack.exchange(&stack.user, "", &["feature:chat"]).await.is_ok(), "who was known before the flood");
}
