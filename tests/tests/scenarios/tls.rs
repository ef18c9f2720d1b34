//! TLS between all parts, and tokens that are good only with their holder's certificate. HEAD_TO_HEAD row 20.

use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_runtime::grpc::Dialer;
use postern_runtime::tls::{Tls, client_config};
use postern_tests::{Act, FakeModel, Forge, Gate, Stack, answer, chunk, done, finish, reason, soon, sse_head, usage};

async fn ask(stack: &Stack, dialer: &Dialer, token: &str) -> Result<(), tonic::Status> {
    let request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, token);
    let mut client = CompletionServiceClient::new(stack.channel(stack.gateway.grpc, dialer));
    soon("an answer", client.chat(request)).await.map(drop)
}

/// Whether the connection was refused, before anything could be asked.
fn is_not_let_in(answer: Result<(), tonic::Status>) -> bool {
    answer.is_err_and(|status| status.details().is_empty() && status.code() != tonic::Code::Unauthenticated)
}

#[tokio::test]
async fn row_20_all_parts_speak_mutual_tls() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let token = stack.token().await;
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
    // Through the instance, which dials the gateway with its own certificate.
    let mut relay = CompletionServiceClient::new(stack.at_instance());
    let request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, &stack.user);
    assert!(soon("an answer", relay.chat(request)).await.is_ok());

    let ca = stack.dir.path().join("test.ca.pem");
    let nobody = Dialer::Anonymous(std::sync::Arc::new(client_config(Some(&ca)).unwrap()));
    assert!(is_not_let_in(ask(&stack, &nobody, &token).await), "no certificate");
    let strangers = postern_tests::Authority::default().issue(stack.dir.path(), "stranger");
    let stranger = Dialer::Known(Tls::load(&strangers).unwrap());
    assert!(is_not_let_in(ask(&stack, &stranger, &token).await), "another authority");
}

#[tokio::test]
async fn a_token_is_bound_to_the_certificate_that_it_was_asked_for_with() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let token = stack.token().await;
    assert_eq!(Forge::claims(&token)["cnf"]["x5t#S256"].as_str().unwrap().len(), 43);
    let thief = stack.authority.as_ref().unwrap().issue(stack.dir.path(), "thief");
    let thief = Dialer::Known(Tls::load(&thief).unwrap());
    assert_eq!(reason(&ask(&stack, &thief, &token).await.unwrap_err()), Reason::CertificateMismatch);
    assert!(ask(&stack, &stack.dialer, &token).await.is_ok());
}

#[tokio::test]
async fn a_certificate_is_reloaded_without_dropping_a_stream() {
    let gate = Gate::default();
    let slow = vec![sse_head(), chunk("a"), Act::Wait(gate.clone()), chunk("b"), finish("stop"), usage(1, 2), done()];
    let model = FakeModel::playing([slow, answer(&["fine"])]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let token = stack.token().await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
    assert!(soon("the first event", events.message()).await.unwrap().is_some());

    // The gateway's certificate becomes one of another authority, which the test's own does not trust.
    let fresh = postern_tests::Authority::default();
    let mut config = fresh.issue(stack.dir.path(), "fresh");
    let path = |name: &str| stack.dir.path().join(name);
    std::fs::copy(&config.key_file, path("gateway.key.pem")).unwrap();
    std::fs::copy(&config.cert_file, path("gateway.cert.pem")).unwrap();
    let refused = async { while ask(&stack, &stack.dialer, &token).await.is_ok() {} };
    soon("the new certificate", refused).await;
    config.ca_file = Some(path("fresh.ca.pem"));
    config.cert_file = path("test.cert.pem");
    config.key_file = path("test.key.pem");
    let renewed = Dialer::Known(Tls::load(&config).unwrap());
    assert!(ask(&stack, &renewed, &token).await.is_ok());

    gate.open();
    let mut count = 0;
    while soon("an event", events.message()).await.unwrap().is_some() {
        count += 1;
    }
    assert!(count >= 3, "the stream that was open ended whole");
}
