//! Tokens at the gateway: each fault has its own reason, over gRPC and over HTTP. HEAD_TO_HEAD rows 1, 2, 3, 17.

use postern_proto::Reason;
use postern_tests::{FakeModel, Forge, Stack, post, reason};
use serde_json::{Value, json};

async fn stack() -> Stack {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    // The model outlives this function with the stack's tests; it is asked nothing by refused requests.
    std::mem::forget(model);
    stack
}

async fn outcome(stack: &Stack, bearer: &str) -> Result<String, Reason> {
    stack.ask(bearer, Stack::chat("hi")).await.map_err(|status| reason(&status))
}

fn changed(stack: &Stack, changes: Value) -> Value {
    let mut claims = stack.claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn no_token_is_refused() {
    let stack = stack().await;
    let mut client = stack.completions();
    let message = postern_proto::gateway::v1::ChatRequest { chat: Some(Stack::chat("hi")) };
    let status = client.chat(message).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::Unauthenticated, Reason::TokenMissing));
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = post(&stack.http("/v1/chat/completions"), "", &body).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (401, "token_missing"));
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn a_forged_token_with_the_right_key_passes_so_the_forgery_itself_is_sound() {
    let stack = stack().await;
    let token = Forge::instance().sign(&stack.claims());
    assert_eq!(outcome(&stack, &token).await, Ok("ok".to_owned()));
}

#[tokio::test]
async fn row_1_the_right_key_with_somebody_elses_issuer_is_refused() {
    let stack = stack().await;
    let token = Forge::instance().sign(&changed(&stack, json!({ "iss": "https://evil.example" })));
    assert_eq!(outcome(&stack, &token).await, Err(Reason::IssuerUntrusted));
    let token = Forge::instance().sign(&changed(&stack, json!({ "postern_instance": "ins_other" })));
    assert_eq!(outcome(&stack, &token).await, Err(Reason::IssuerUntrusted));
}

#[tokio::test]
async fn row_2_an_unknown_kid_is_refused() {
    let stack = stack().await;
    assert_eq!(outcome(&stack, &Forge::stranger().sign(&stack.claims())).await, Err(Reason::KeyUnknown));
    // The right key under another key's header.
    let token = Forge::instance().sign_under(&Forge::stranger().header(), &stack.claims());
    assert_eq!(outcome(&stack, &token).await, Err(Reason::KeyUnknown));
}

#[tokio::test]
async fn row_3_an_expired_token_is_taken_within_the_leeway_and_has_its_own_reason_past_it() {
    let stack = stack().await;
    let token = Forge::instance().sign(&stack.claims());
    stack.clock.advance(301);
    assert_eq!(outcome(&stack, &token).await, Ok("ok".to_owned()));
    stack.clock.advance(30);
    assert_eq!(outcome(&stack, &token).await, Err(Reason::TokenExpired));
}

#[tokio::test]
async fn a_token_that_has_ended_is_refused_though_it_was_remembered() {
    let stack = stack().await;
    let token = stack.token().await;
    assert_eq!(outcome(&stack, &token).await, Ok("ok".to_owned()));
    stack.clock.advance(331);
    assert_eq!(outcome(&stack, &token).await, Err(Reason::TokenExpired));
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let stack = stack().await;
    let token = Forge::stranger().sign_under(&Forge::instance().header(), &stack.claims());
    assert_eq!(outcome(&stack, &token).await, Err(Reason::SignatureInvalid));
}

#[tokio::test]
async fn a_wrong_audience_is_refused() {
    let stack = stack().await;
    let token = Forge::instance().sign(&changed(&stack, json!({ "aud": "postern-gateway:other" })));
    assert_eq!(outcome(&stack, &token).await, Err(Reason::AudienceWrong));
    // A token for the instance's own administration opens no model.
    let admin = stack.exchange(&stack.admin, "", &["instance:admin"]).await.unwrap();
    assert_eq!(outcome(&stack, &admin).await, Err(Reason::AudienceWrong));
}

#[tokio::test]
async fn a_token_that_lives_too_long_or_has_not_begun_is_refused() {
    let stack = stack().await;
    let now = stack.claims()["iat"].as_u64().unwrap();
    let token = Forge::instance().sign(&changed(&stack, json!({ "exp": now + 901 })));
    assert_eq!(outcome(&stack, &token).await, Err(Reason::LifetimeTooLong));
    let token = Forge::instance().sign(&changed(&stack, json!({ "nbf": now + 31 })));
    assert_eq!(outcome(&stack, &token).await, Err(Reason::TokenNotYetValid));
}

#[tokio::test]
async fn row_17_a_token_opens_only_the_features_it_was_asked_for() {
    let stack = stack().await;
    let token = stack.exchange(&stack.user, "", &["feature:code_completion"]).await.unwrap();
    let status = stack.ask(&token, Stack::chat("hi")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::PermissionDenied, Reason::ScopeMissing));
}

#[tokio::test]
async fn garbage_is_refused_before_anything_reads_it() {
    let stack = stack().await;
    for garbage in ["x", "a.b.c", "a.b.c.d", &"x".repeat(8000)] {
        assert_eq!(outcome(&stack, garbage).await, Err(Reason::TokenMalformed), "{garbage:.20}");
    }
    assert_eq!(outcome(&stack, &"x".repeat(8193)).await, Err(Reason::TokenTooLarge));
}

#[tokio::test]
async fn the_grpc_door_takes_no_credential() {
    let stack = stack().await;
    assert_eq!(outcome(&stack, &stack.user).await, Err(Reason::CredentialNotAccepted));
}

#[tokio::test]
async fn a_bad_credential_buys_no_token() {
    let stack = stack().await;
    let mut wrong = stack.user.clone();
    wrong.replace_range(20..21, if &wrong[20..21] == "a" { "b" } else { "a" });
    let unknown = postern_token::Secret::from_random(postern_token::CredentialKind::Personal, [9; 32]);
    for credential in ["x", &wrong, unknown.expose()] {
        let status = stack.exchange(credential, "", &["feature:chat"]).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (tonic::Code::Unauthenticated, Reason::CredentialInvalid));
    }
}
