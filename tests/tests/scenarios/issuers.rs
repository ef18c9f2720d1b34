//! Other issuers beside the instance: keys from a file, a URL or discovery. HEAD_TO_HEAD rows 1, 2, 3, 4 and 6.

use std::time::Duration;

use gateway_svc::issuers::IssuerConfig;
use postern_proto::gateway::v1 as pb;
use postern_proto::{Failure, Reason};
use postern_tests::{Act, FakeModel, Forge, Stack, StackBuilder, head, reason, soon};
use serde_json::{Value, json};

const PARTNER: &str = "https://partner.test";

fn config(changes: Value) -> IssuerConfig {
    let mut config = json!({ "issuer": PARTNER, "audience": "postern-gateway:gateway" });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn document(value: &Value) -> Vec<Act> {
    let head = head(200, &[("content-type", "application/json"), ("cache-control", "max-age=3600")]);
    vec![head, Act::Send(value.to_string().into_bytes())]
}

fn claims(stack: &Stack, changes: Value) -> Value {
    let mut claims = stack.claims();
    claims["iss"] = PARTNER.into();
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

async fn ask(stack: &Stack, token: &str) -> Result<(), Failure> {
    let answer = stack.ask(token, Stack::chat("hi")).await;
    answer.map(drop).map_err(|status| Failure::from_status(&status, Reason::Internal))
}

/// Asks until the answer is this.
async fn until(stack: &Stack, token: &str, expected: Result<(), Reason>) {
    let asking = async { while ask(stack, token).await.map_err(|failure| failure.reason) != expected {} };
    soon(&format!("the answer {expected:?}"), asking).await;
}

async fn start<'a>(builder: StackBuilder<'a>) -> (Stack, FakeModel) {
    let model = FakeModel::saying(&["fine"]).await;
    (builder.model("demo", &model).start().await, model)
}

#[tokio::test]
async fn keys_from_a_file_verify_its_issuers_tokens_and_are_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let write = |keys: &[&Forge]| {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        std::fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    };
    write(&[Forge::stranger()]);
    let (stack, _model) = start(Stack::builder().issuer(config(json!({ "jwks_file": file })))).await;
    let good = Forge::stranger().sign(&claims(&stack, json!({})));
    until(&stack, &good, Ok(())).await;
    // Each fault has its reason, as with the instance's own tokens.
    let now = stack.claims()["iat"].as_u64().unwrap();
    let cases = [
        (json!({ "iss": "http://instance.test" }), Reason::IssuerUntrusted),
        (json!({ "iss": "https://partner.test/" }), Reason::IssuerUntrusted),
        (json!({ "aud": "elsewhere" }), Reason::AudienceWrong),
        (json!({ "exp": now - 31, "iat": now - 300 }), Reason::TokenExpired),
        (json!({ "nbf": now + 60 }), Reason::TokenNotYetValid),
        (json!({ "exp": now + 901 }), Reason::LifetimeTooLong),
        (json!({ "scope": "feature:embed" }), Reason::ScopeMissing),
        (json!({ "jti": "" }), Reason::ClaimsInvalid),
    ];
    for (changes, expected) in cases {
        let token = Forge::stranger().sign(&claims(&stack, changes.clone()));
        assert_eq!(ask(&stack, &token).await.map_err(|failure| failure.reason), Err(expected), "{changes}");
    }
    // The partner's key speaks for the partner alone, and the instance's for the instance.
    let forged = Forge::stranger().sign(&stack.claims());
    assert_eq!(ask(&stack, &forged).await.unwrap_err().reason, Reason::IssuerUntrusted);
    let crossed = Forge::instance().sign(&claims(&stack, json!({})));
    assert_eq!(ask(&stack, &crossed).await.unwrap_err().reason, Reason::IssuerUntrusted);

    std::fs::write(&file, "no keys").unwrap();
    assert_eq!(ask(&stack, &good).await.err(), None, "a worse set replaces nothing");
    write(&[Forge::other()]);
    until(&stack, &good, Err(Reason::KeyUnknown)).await;
    until(&stack, &Forge::other().sign(&claims(&stack, json!({}))), Ok(())).await;
}

#[tokio::test]
async fn row_4_a_key_that_an_issuer_has_just_published_is_fetched() {
    let first = document(&json!({ "keys": [Forge::stranger().jwk()] }));
    let second = document(&json!({ "keys": [Forge::stranger().jwk(), Forge::other().jwk()] }));
    let keys = FakeModel::playing([first, second]).await;
    let url = keys.url();
    let settings = json!({ "jwks_url": format!("{url}/keys"), "key_networks": ["127.0.0.0/8"] });
    let (stack, _model) = start(Stack::builder().issuer(config(settings))).await;
    until(&stack, &Forge::stranger().sign(&claims(&stack, json!({}))), Ok(())).await;
    let token = Forge::other().sign(&claims(&stack, json!({})));
    let refusal = ask(&stack, &token).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after), (Reason::KeyUnknown, Some(Duration::from_secs(1))));
    until(&stack, &token, Ok(())).await;
    assert_eq!(keys.requests().len(), 2, "one fetch for it");
}

#[tokio::test]
async fn discovery_leads_to_the_keys_of_the_very_issuer() {
    let keys = FakeModel::playing([document(&json!({ "keys": [Forge::stranger().jwk()] }))]).await;
    let document_of = |issuer: &str| document(&json!({ "issuer": issuer, "jwks_uri": format!("{}/keys", keys.url()) }));
    // The issuer's URL is known only once it listens, so the document is told by a server that repeats its own address.
    let honest = FakeModel::playing_at(|url| vec![document_of(url)]).await;
    let liar = FakeModel::playing_at(|_| vec![document_of("https://somebody.else")]).await;
    let issuer = |server: &FakeModel| {
        let issuer = server.url().trim_end_matches("/v1").to_owned();
        (issuer.clone(), config(json!({ "issuer": issuer, "discovery": true, "key_networks": ["127.0.0.0/8"] })))
    };
    let ((good, good_config), (bad, bad_config)) = (issuer(&honest), issuer(&liar));
    let (stack, _model) = start(Stack::builder().issuer(good_config).issuer(bad_config)).await;
    until(&stack, &Forge::stranger().sign(&claims(&stack, json!({ "iss": good }))), Ok(())).await;
    liar.asked(1).await;
    let token = Forge::stranger().sign(&claims(&stack, json!({ "iss": bad })));
    assert_eq!(ask(&stack, &token).await.unwrap_err().reason, Reason::IssuerUntrusted);
}

#[tokio::test]
async fn row_5_an_issuer_that_is_down_at_first_is_served_the_moment_its_keys_arrive() {
    let down = vec![head(503, &[("content-type", "text/plain")]), Act::Send(b"later".to_vec())];
    let back = document(&json!({ "keys": [Forge::stranger().jwk()] }));
    let keys = FakeModel::playing([down, back]).await;
    let settings = json!({ "jwks_url": format!("{}/keys", keys.url()), "key_networks": ["127.0.0.0/8"] });
    let (stack, _model) = start(Stack::builder().issuer(config(settings))).await;
    keys.asked(1).await;
    let token = Forge::stranger().sign(&claims(&stack, json!({})));
    until(&stack, &token, Ok(())).await;
}

#[tokio::test]
async fn row_6_nobody_waits_for_an_issuer_whose_key_server_is_a_black_hole() {
    let hole = FakeModel::playing([vec![Act::Hang]]).await;
    let settings = json!({ "jwks_url": format!("{}/keys", hole.url()), "key_networks": ["127.0.0.0/8"] });
    // Its readiness did not wait either.
    let (stack, _model) = start(Stack::builder().issuer(config(settings))).await;
    hole.asked(1).await;
    assert_eq!(ask(&stack, &stack.token().await).await.err(), None);
    let token = Forge::stranger().sign(&claims(&stack, json!({})));
    assert_eq!(ask(&stack, &token).await.unwrap_err().reason, Reason::KeyUnknown);
}

#[tokio::test]
async fn a_profile_narrows_scopes_instances_and_networks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [Forge::stranger().jwk()] }).to_string()).unwrap();
    let settings = |changes: Value| {
        let mut settings = json!({ "jwks_file": file });
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config(settings)
    };
    let cases = [
        (json!({ "scopes": ["feature:code_completion"] }), Reason::ScopeMissing),
        (json!({ "instances": ["ins_other"] }), Reason::IssuerUntrusted),
        (json!({ "realm": "managed" }), Reason::IssuerUntrusted),
        (json!({ "types": ["JWT"] }), Reason::TokenTypeWrong),
        (json!({ "algorithms": ["ES256"] }), Reason::AlgorithmWrong),
        (json!({ "client_networks": ["10.0.0.0/8"] }), Reason::NetworkUntrusted),
    ];
    for (changes, expected) in cases {
        let (stack, _model) = start(Stack::builder().issuer(settings(changes))).await;
        until(&stack, &Forge::stranger().sign(&claims(&stack, json!({}))), Err(expected)).await;
    }
}

#[tokio::test]
async fn an_issuer_with_networks_of_its_own_does_not_vouch_for_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [Forge::stranger().jwk()] }).to_string()).unwrap();
    let settings = json!({ "jwks_file": file, "client_networks": ["10.0.0.0/8"] });
    let (stack, _model) = start(Stack::builder().issuer(config(settings))).await;
    let token = Forge::stranger().sign(&claims(&stack, json!({})));
    until(&stack, &token, Err(Reason::NetworkUntrusted)).await;
    let voucher = Forge::stranger().sign(&claims(&stack, json!({ "scope": "relay:forward" })));
    let mut request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    request.metadata_mut().insert("x-postern-relay-token", voucher.parse().unwrap());
    request.metadata_mut().insert("x-postern-client-address", "10.0.0.1".parse().unwrap());
    assert_eq!(reason(&stack.completions().chat(request).await.unwrap_err()), Reason::NetworkUntrusted);
    // What a caller may not use from there it is not shown either.
    let shown = postern_tests::get(&stack.http("/v1/models"), &token).await;
    assert_eq!((shown.status.as_u16(), shown.error_code().as_str()), (403, "network_untrusted"));
}

#[tokio::test]
async fn news_that_is_too_old_refuses_where_that_is_the_rule() {
    let (strict, _model) = start(Stack::builder().refuse_when_stale(5)).await;
    let (lenient, _other) = start(Stack::builder()).await;
    // The process was stopped and goes on: its clock of suspended time has moved, and no news has come yet.
    let token = strict.token().await;
    assert_eq!(ask(&strict, &token).await.err(), None);
    let refused = async {
        loop {
            strict.clock.advance(10);
            // Where news came in between, once more.
            if let Err(failure) = ask(&strict, &token).await {
                return failure.reason;
            }
        }
    };
    assert_eq!(soon("a refusal", refused).await, Reason::TrustStale);
    until(&strict, &strict.token().await, Ok(())).await;
    let token = lenient.token().await;
    lenient.clock.advance(10);
    assert_eq!(ask(&lenient, &token).await.err(), None);
}

#[tokio::test]
async fn the_reason_of_a_refusal_reaches_a_caller_in_both_apis() {
    let (stack, _model) = start(Stack::builder()).await;
    let status = stack.ask("nonsense", Stack::chat("hi")).await.unwrap_err();
    assert_eq!(reason(&status), Reason::TokenMalformed);
    let answer = postern_tests::get(&stack.http("/v1/models"), "nonsense").await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (401, "token_malformed"));
}
