//! A gateway that starts while its instance is away goes by its notes.

use std::sync::Arc;

use gateway_svc::app::App;
use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_tests::{FakeModel, Stack, reason, soon};

async fn ask(stack: &Stack, gateway: &App, token: &str) -> Result<(), Reason> {
    let request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, token);
    let mut client = CompletionServiceClient::new(stack.channel(gateway.grpc, &stack.dialer));
    soon("an answer", client.chat(request)).await.map(drop).map_err(|status| reason(&status))
}

#[tokio::test]
async fn a_gateway_starts_from_its_notes_while_the_instance_is_away() {
    let model = FakeModel::saying(&["fine"]).await;
    let mut stack = Stack::builder().model("demo", &model).notes().start().await;
    let (good, revoked) = (stack.token().await, stack.token().await);
    let message = instance::RevokeTokenRequest { token: revoked.clone() };
    TokenServiceClient::new(stack.at_instance()).revoke_token(message).await.unwrap();
    let told = async { while ask(&stack, &stack.gateway, &revoked).await != Err(Reason::TokenRevoked) {} };
    soon("the revocation", told).await;
    let notes = stack.gateway_config.notes.clone().unwrap().file;
    // The seal follows the change on the same stream.
    let noted = async { while !std::fs::read_to_string(&notes).is_ok_and(|text| text.contains("trust")) {} };
    soon("the notes", noted).await;
    ask(&stack, &stack.gateway, &good).await.unwrap();

    let mut config = stack.gateway_config.clone();
    // Nobody listens there any more.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    config.instance.address = format!("http://{closed}").try_into().unwrap();
    let again = App::build(config.clone(), Arc::new(stack.clock.clone())).await.unwrap();
    let mut ready = again.readiness.watch();
    soon("readiness without the instance", ready.wait_for(|ready| *ready)).await.unwrap();
    assert_eq!(ask(&stack, &again, &good).await, Ok(()));
    assert_eq!(ask(&stack, &again, "nonsense").await, Err(Reason::TokenMalformed));
    let old = std::mem::replace(&mut stack.gateway, again);
    old.stop().await;

    // Who changes the notes is not believed.
    let text = std::fs::read_to_string(&notes).unwrap();
    let at = text.find("payload").unwrap() + 20;
    let flipped = if &text[at..=at] == "A" { "B" } else { "A" };
    std::fs::write(&notes, format!("{}{flipped}{}", &text[..at], &text[at + 1..])).unwrap();
    let third = App::build(config, Arc::new(stack.clock.clone())).await.unwrap();
    assert!(!third.readiness.waiting_for().is_empty(), "it waits for the instance");
}
