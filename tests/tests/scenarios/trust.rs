//! The life of keys and the end of tokens, seen from outside. HEAD_TO_HEAD rows 2, 4 and 16.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_proto::instance::v1::key_service_client::KeyServiceClient;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_tests::{Act, FakeModel, Forge, Stack, chunk, reason, soon, sse_head};
use tokio_stream::StreamExt as _;
use tonic::Status;

async fn stack() -> (Stack, FakeModel) {
    let model = FakeModel::saying(&["fine"]).await;
    (Stack::builder().model("demo", &model).rotating(3600, 1).start().await, model)
}

async fn keys(stack: &Stack) -> Vec<(String, instance::KeyState)> {
    let request = stack.administer(instance::ListKeysRequest {}).await;
    let list = KeyServiceClient::new(stack.at_instance()).list_keys(request).await.unwrap().into_inner();
    list.keys.iter().map(|key| (key.kid.clone(), key.state())).collect()
}

/// Rotates as soon as it may be done; the key that signs then.
async fn rotate(stack: &Stack) -> String {
    let rotation = async {
        loop {
            stack.clock.advance(1);
            let request = stack.administer(instance::RotateKeysRequest {}).await;
            match KeyServiceClient::new(stack.at_instance()).rotate_keys(request).await {
                Ok(done) => return done.into_inner().active_kid,
                Err(status) => assert_eq!(reason(&status), Reason::KeyNotReady, "{status}"),
            }
        }
    };
    soon("a rotation", rotation).await
}

fn kid_of(token: &str) -> String {
    Forge::header_of(token)["kid"].as_str().unwrap().to_owned()
}

/// Asks until the answer is this.
async fn until(stack: &Stack, token: &str, expected: Result<(), Reason>) {
    let asking = async {
        while stack.ask(token, Stack::chat("hi")).await.map(drop).map_err(|status| reason(&status)) != expected {}
    };
    soon(&format!("the answer {expected:?}"), asking).await;
}

#[tokio::test]
async fn row_4_rotating_under_load_refuses_nobody() {
    let (stack, _model) = stack().await;
    let stack = Arc::new(stack);
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let (stack, over, asked) = (stack.clone(), over.clone(), asked.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    // A fresh token each time: the newest key, as soon as it signs.
                    let token = stack.token().await;
                    stack.ask(&token, Stack::chat("hi")).await?;
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    let old = stack.token().await;
    let mut signed_by = vec![kid_of(&old)];
    for _ in 0..4 {
        let active = rotate(&stack).await;
        let minting = async {
            loop {
                let token = stack.token().await;
                if kid_of(&token) == active {
                    return token;
                }
            }
        };
        // This very token is the first of its key that the gateway sees.
        let first = soon("a token of the new key", minting).await;
        assert_eq!(stack.ask(&first, Stack::chat("hi")).await.unwrap(), "fine");
        assert!(!signed_by.contains(&active));
        signed_by.push(active);
    }
    assert_eq!(stack.ask(&old, Stack::chat("hi")).await.unwrap(), "fine", "a retired key verifies on");
    over.store(true, Ordering::SeqCst);
    for task in asking {
        task.await.unwrap().unwrap();
    }
    assert!(asked.load(Ordering::SeqCst) > 0);
    let states: Vec<_> = keys(&stack).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states.iter().filter(|state| **state == instance::KeyState::Active).count(), 1);
    assert_eq!(states.iter().filter(|state| **state == instance::KeyState::Retired).count(), 4);
}

#[tokio::test]
async fn keys_rotate_by_themselves_and_retired_ones_are_removed() {
    let (stack, _model) = stack().await;
    let first = kid_of(&stack.token().await);
    let rotated = async {
        while kid_of(&stack.token().await) == first {
            stack.clock.advance(60);
        }
    };
    soon("a rotation by the schedule", rotated).await;
    // Longest life, leeway and margin are over.
    stack.clock.advance(900 + 30 + 60);
    let removed = async { while keys(&stack).await.iter().any(|(kid, _)| *kid == first) {} };
    soon("the removal of the retired key", removed).await;
}

#[tokio::test]
async fn a_key_never_signs_before_it_has_been_published_for_its_lead() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).rotating(7200, 3600).start().await;
    let request = stack.administer(instance::RotateKeysRequest {}).await;
    let status = KeyServiceClient::new(stack.at_instance()).rotate_keys(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::KeyNotReady);
}

#[tokio::test]
async fn revoking_a_credential_refuses_its_tokens_and_cuts_its_streams() {
    let model = FakeModel::playing([vec![sse_head(), chunk("a"), Act::Hang]]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let (token, other) =
        (stack.token().await, stack.add_user("bob", instance::CredentialPurpose::Inference, vec![]).await);
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
    assert!(soon("the first event", events.message()).await.unwrap().is_some());

    let id = Forge::claims(&token)["postern_credential"].as_str().unwrap().to_owned();
    let request = stack.administer(instance::RevokeCredentialRequest { id }).await;
    PrincipalServiceClient::new(stack.at_instance()).revoke_credential(request).await.unwrap();

    let ended = loop {
        match soon("the end of the stream", events.message()).await {
            Ok(event) => assert!(event.is_some(), "the stream ended as if it were whole"),
            Err(status) => break reason(&status),
        }
    };
    assert_eq!(ended, Reason::TokenRevoked);
    model.abandoned(1).await;
    until(&stack, &token, Err(Reason::TokenRevoked)).await;
    let other = stack.exchange(&other, "", &["feature:chat"]).await.unwrap();
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &other);
    assert!(stack.completions().stream_chat(request).await.is_ok(), "nobody else is concerned");
}

#[tokio::test]
async fn each_thing_that_can_be_revoked_refuses_its_tokens_and_no_others() {
    let (stack, _model) = stack().await;
    let mut tokens = TokenServiceClient::new(stack.at_instance());
    let (one, two) = (stack.token().await, stack.token().await);
    until(&stack, &one, Ok(())).await;

    let message = instance::RevokeTokenRequest { token: one.clone() };
    tokens.revoke_token(message.clone()).await.unwrap();
    tokens.revoke_token(message).await.unwrap();
    until(&stack, &one, Err(Reason::TokenRevoked)).await;
    until(&stack, &two, Ok(())).await;

    let request = stack.administer(instance::RevokeSubjectRequest { name: "eve".to_owned() }).await;
    tokens.revoke_subject(request).await.unwrap();
    until(&stack, &two, Err(Reason::TokenRevoked)).await;
    stack.clock.advance(2);
    let three = stack.token().await;
    until(&stack, &three, Ok(())).await;

    let kid = kid_of(&three);
    let request = stack.administer(instance::RevokeKeyRequest { kid: kid.clone() }).await;
    let active = KeyServiceClient::new(stack.at_instance()).revoke_key(request).await.unwrap().into_inner().active_kid;
    assert_ne!(active, kid);
    until(&stack, &three, Err(Reason::KeyUnknown)).await;
    let fresh = async {
        loop {
            let token = stack.token().await;
            if kid_of(&token) == active {
                return token;
            }
        }
    };
    until(&stack, &soon("a token of the new key", fresh).await, Ok(())).await;

    // What is no good is revoked already.
    tokens.revoke_token(instance::RevokeTokenRequest { token: "nonsense".to_owned() }).await.unwrap();
}

#[tokio::test]
async fn nobody_acknowledges_what_it_was_not_told() {
    let (stack, _model) = stack().await;
    let message = instance::CreateFleetMemberRequest {
        name: "liar".to_owned(),
        kind: Some(instance::create_fleet_member_request::Kind::Gateway(Default::default())),
        ..Default::default()
    };
    let request = stack.administer(message).await;
    let created = FleetServiceClient::new(stack.at_instance()).create_fleet_member(request).await.unwrap();
    let token = stack.exchange(&created.into_inner().credential, "", &["instance:fleet"]).await.unwrap();
    let lie = instance::WatchTrustRequest { replica_id: "r".to_owned(), acknowledged_sequence: u64::MAX };
    let lies = tokio_stream::iter([lie]).chain(tokio_stream::pending());
    let mut trust = TrustServiceClient::new(stack.at_instance());
    let mut feed = trust.watch_trust(Stack::request(lies, &token)).await.unwrap().into_inner();
    let status = loop {
        match soon("the end of the feed", feed.message()).await {
            Ok(more) => assert!(more.is_some(), "the feed ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), Reason::RequestInvalid);
}

#[tokio::test]
async fn introspection_tells_the_active_and_nothing_of_the_rest() {
    let (stack, _model) = stack().await;
    let mut tokens = TokenServiceClient::new(stack.at_instance());
    let token = stack.token().await;
    let ask = async |tokens: &mut TokenServiceClient<_>, token: &str| {
        let request = stack.administer(instance::IntrospectTokenRequest { token: token.to_owned() }).await;
        tokens.introspect_token(request).await.unwrap().into_inner()
    };
    let told = ask(&mut tokens, &token).await;
    let claims: serde_json::Value = serde_json::from_str(&told.claims_json).unwrap();
    assert!(told.active);
    assert_eq!(claims, Forge::claims(&token));
    for bad in ["", "x.y.z", &format!("{token}x"), &Forge::stranger().sign(&stack.claims())] {
        let told = ask(&mut tokens, bad).await;
        assert_eq!((told.active, told.claims_json.as_str()), (false, ""), "{bad}");
    }
    // A forged token of a good key whose credential nobody knows.
    assert!(!ask(&mut tokens, &Forge::instance().sign(&stack.claims())).await.active);
    tokens.revoke_token(instance::RevokeTokenRequest { token: token.clone() }).await.unwrap();
    let refused = async { while ask(&mut tokens, &token).await.active {} };
    soon("the end of the token", refused).await;

    let request = Stack::request(instance::IntrospectTokenRequest { token }, &stack.token().await);
    let status = tokens.introspect_token(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::AudienceWrong, "a user's token is for gateways");
}

#[tokio::test]
async fn a_credential_tied_to_networks_is_used_from_nowhere_else() {
    let (stack, _model) = stack().await;
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let mut add = async |network: &str| {
        let message = instance::CreateCredentialRequest {
            principal: "eve".to_owned(),
            purpose: instance::CredentialPurpose::Inference as i32,
            networks: vec![network.to_owned()],
            ..Default::default()
        };
        principals.create_credential(stack.administer(message).await).await.map(|made| made.into_inner().secret)
    };
    let (here, elsewhere) = (add("127.0.0.0/8").await.unwrap(), add("10.0.0.0/8").await.unwrap());
    assert!(stack.exchange(&here, "", &["feature:chat"]).await.is_ok());
    let status = stack.exchange(&elsewhere, "", &["feature:chat"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::CredentialInvalid);
    assert_eq!(reason(&add("10.0.0.1/8").await.unwrap_err()), Reason::RequestInvalid);
}

#[tokio::test]
async fn a_removed_user_is_gone_everywhere() {
    let (stack, _model) = stack().await;
    let token = stack.token().await;
    until(&stack, &token, Ok(())).await;
    let request = stack.administer(instance::DeletePrincipalRequest { name: "eve".to_owned() }).await;
    PrincipalServiceClient::new(stack.at_instance()).delete_principal(request).await.unwrap();
    until(&stack, &token, Err(Reason::TokenRevoked)).await;
}
