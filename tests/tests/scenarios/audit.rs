//! The audit log: who did what, to what, from where, and what came of it; never a secret.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::audit_service_client::AuditServiceClient;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use postern_tests::{FakeModel, Stack, post_form};

async fn events(stack: &Stack) -> Vec<pb::AuditEvent> {
    let request = stack.administer(pb::ListAuditEventsRequest { before: None, limit: 1000 }).await;
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
    let verdict = chains.message().await.unwrap().unwrap();
    assert_eq!(verdict.fault, "");
    assert!(verdict.events > 5);
}
