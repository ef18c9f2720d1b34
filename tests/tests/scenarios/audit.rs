//! The audit log: who did what, to what, from where, and what came of it; never a secret.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::audit_service_client::AuditServiceClient;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_tests::{FakeModel, Forge, Stack, post_form, soon};

async fn events(stack: &Stack) -> Vec<pb::AuditEvent> {
    let request = stack.administer(pb::ListAuditEventsRequest { limit: 1000, ..Default::default() }).await;
    AuditServiceClient::new(stack.at_instance()).list_audit_events(request).await.unwrap().into_inner().events
}

#[tokio::test]
async fn acts_and_refusals_are_told_and_the_chain_is_sound() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let token = stack.token().await;
    let _ = stack.exchange("postern_pat_nonsense", "", &["feature:chat"]).await.unwrap_err();
    let form = [("grant_type", "client_credentials"), ("scope", "feature:chat")];
    let secret = stack.user.clone();
    assert_eq!(post_form(&stack.instance_http("/oauth/token"), Some(("eve", &secret)), &form).await.status, 200);
    let request = Stack::request(pb::UnbindFeatureRequest { name: "chat".to_owned() }, &token);
    FeatureServiceClient::new(stack.at_instance()).unbind_feature(request).await.unwrap_err();

    let events = events(&stack).await;
    let all = |action: &str, outcome: &str| {
        let mut found: Vec<_> = events.iter().filter(|event| event.action == action).collect();
        found.retain(|event| event.outcome == outcome);
        assert!(!found.is_empty(), "{action} {outcome}: {events:#?}");
        found
    };
    let find = |action: &str, outcome: &str| all(action, outcome)[0];
    let made = find("ModelRegistryService/CreateModel", "OK");
    assert!(made.actor.ends_with(" admin") && made.target == "demo" && made.address == "127.0.0.1", "{made:?}");
    assert_eq!(made.request_id.len(), 32);
    assert_eq!(find("bootstrap", "OK").target, "admin");
    assert!(all("TokenService/ExchangeToken", "OK").iter().any(|event| event.target.contains("feature:chat")));
    assert_eq!(find("TokenService/ExchangeToken", "CREDENTIAL_INVALID").target, "");
    assert!(find("/oauth/token", "OK").target.starts_with("usr_"));
    find("FeatureService/UnbindFeature", "AUDIENCE_WRONG");
    assert!(!events.iter().any(|event| event.action.contains("List")), "looks are no acts");
    let shown = format!("{events:?}");
    for secret in [&stack.user, &stack.admin, &token, "model-api-key"] {
        assert!(!shown.contains(secret), "a secret is in the log");
    }

    let request = stack.administer(pb::VerifyAuditLogRequest {}).await;
    let mut chains = AuditServiceClient::new(stack.at_instance()).verify_audit_log(request).await.unwrap().into_inner();
    let mut verified = 0;
    while let Some(verdict) = chains.message().await.unwrap() {
        assert_eq!(verdict.fault, "");
        verified += verdict.events;
    }
    assert!(verified > 5, "{verified}");
}

#[tokio::test]
async fn what_changes_nothing_fills_no_log() {
    let stack = Stack::builder().start().await;
    let token = stack.token().await;
    let revoke = async |token: &str| {
        let message = pb::RevokeTokenRequest { token: token.to_owned() };
        TokenServiceClient::new(stack.at_instance()).revoke_token(message).await.unwrap();
        assert_eq!(post_form(&stack.instance_http("/oauth/revoke"), None, &[("token", token)]).await.status, 200);
    };
    let revocations = async || {
        let all = events(&stack).await.into_iter();
        all.filter(|event| event.action.contains("evoke")).map(|event| event.target).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        revoke("nonsense").await;
    }
    assert_eq!(revocations().await, Vec::<String>::new());
    revoke(&token).await;
    let told = revocations().await;
    let jti = Forge::claims(&token)["jti"].as_str().unwrap().to_owned();
    assert!(
        !told.is_empty() && told.iter().all(|target| target.starts_with(&format!("token {jti} of usr_"))),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_part_an_act_from_its_entry() {
    let stack = Stack::builder().start().await;
    for number in 0..100 {
        let message = pb::CreatePrincipalRequest {
            name: format!("user-{number}"),
            kind: pb::PrincipalKind::User as i32,
            roles: vec![],
            ..Default::default()
        };
        let request = stack.administer(message).await;
        let mut people = PrincipalServiceClient::new(stack.at_instance());
        // Each time a little later in its way.
        let call = people.create_principal(request);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(60 * number), call).await;
    }
    let made = async || {
        let request = stack.administer(pb::ListPrincipalsRequest::default()).await;
        let list = PrincipalServiceClient::new(stack.at_instance()).list_principals(request).await.unwrap();
        let names = list.into_inner().principals.into_iter().map(|principal| principal.name);
        names.filter(|name| name.starts_with("user-")).collect::<std::collections::BTreeSet<_>>()
    };
    let told = async || {
        let acts = events(&stack).await.into_iter().filter(|event| event.action.ends_with("/CreatePrincipal"));
        acts.map(|event| event.target)
            .filter(|name| name.starts_with("user-"))
            .collect::<std::collections::BTreeSet<_>>()
    };
    // Acts that are under way go on to their end.
    let equal = async {
        loop {
            let (made, told) = (made().await, told().await);
            if made == told && !made.is_empty() {
                return;
            }
        }
    };
    soon("an entry for each act", equal).await;
}

#[tokio::test]
async fn pages_of_the_log_hold_each_event_once() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    // Events of one moment are written together, with one time.
    let together = (0..20).map(|_| stack.token());
    futures_util::future::join_all(together).await;
    let token = stack.exchange(&stack.admin, "", &["instance:admin"]).await.unwrap();
    let mut client = AuditServiceClient::new(stack.at_instance());
    let mut page = async |page_token: String, limit: u32| {
        let message = pb::ListAuditEventsRequest { limit, page_token, before: None };
        client.list_audit_events(Stack::request(message, &token)).await.map(tonic::Response::into_inner)
    };
    let whole = page(String::new(), 1000).await.unwrap();
    assert!(whole.next_page_token.is_empty() && whole.events.len() > 25);
    let (mut paged, mut next) = (Vec::new(), String::new());
    loop {
        let one = page(next, 3).await.unwrap();
        paged.extend(one.events);
        next = one.next_page_token;
        if next.is_empty() {
            break;
        }
    }
    assert_eq!(paged, whole.events);
    assert!(page("nonsense".to_owned(), 3).await.is_err());
}

#[tokio::test]
async fn the_relays_tokens_are_told_and_serve_again_until_something_changes() {
    use postern_proto::gateway::v1 as gateway;
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let relay =
        postern_proto::gateway::v1::completion_service_client::CompletionServiceClient::new(stack.at_instance());
    let ask = async || {
        let chat = gateway::ChatRequest { chat: Some(Stack::chat("hi")) };
        relay.clone().chat(Stack::request(chat, &stack.user)).await.map(drop)
    };
    let relayed = async || {
        let events = events(&stack).await;
        events.into_iter().filter(|event| event.action == "relay").collect::<Vec<_>>()
    };
    for _ in 0..3 {
        ask().await.unwrap();
    }
    let told = relayed().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].actor.starts_with("usr_") && told[0].target.contains("feature:chat"), "{told:?}");
    let message = pb::RevokeSubjectRequest { name: "eve".to_owned() };
    TokenServiceClient::new(stack.at_instance()).revoke_subject(stack.administer(message).await).await.unwrap();
    stack.clock.advance(2);
    // Her credential is good, so the next token is: one that nobody has revoked.
    let served = async { while ask().await.is_err() || relayed().await.len() < 2 {} };
    soon("a token that is not revoked", served).await;
}
