//! Configuring: models, features, users, fleet, and the check of a model from its adapter's place.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::config_service_client::ConfigServiceClient;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_proto::{Failure, Reason};
use postern_tests::{Act, FakeModel, Stack, head, reason, soon};
use tonic::Status;

async fn check(stack: &Stack, name: &str) -> Result<Vec<pb::ProbeStep>, Status> {
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let request = stack.administer(pb::CheckModelRequest { name: name.to_owned() }).await;
    let mut steps = registry.check_model(request).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(step) = soon("a step of the check", steps.message()).await? {
        seen.push(step.step.unwrap());
    }
    Ok(seen)
}

fn verdicts(steps: &[pb::ProbeStep]) -> Vec<(&str, bool)> {
    steps.iter().map(|step| (step.name.as_str(), step.ok)).collect()
}

async fn demo() -> (Stack, FakeModel) {
    let model = FakeModel::saying(&["fine"]).await;
    (Stack::builder().model("demo", &model).start().await, model)
}

fn json(body: &str) -> Vec<Act> {
    vec![head(200, &[("content-type", "application/json")]), Act::Send(body.as_bytes().to_vec())]
}

const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"OK"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

#[tokio::test]
async fn a_check_says_step_by_step_what_the_adapter_saw() {
    // The probe's own connection asks nothing; then the list, then the completion.
    let model = FakeModel::playing([json(r#"{"data":[{"id":"demo"}]}"#), json(ANSWER)]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let steps = check(&stack, "demo").await.unwrap();
    let all = ["resolve", "connect", "authenticate", "model", "complete"].map(|name| (name, true));
    assert_eq!(verdicts(&steps), all);
    assert!(steps.iter().all(|step| step.adapter == "adapter" && step.endpoint_id.starts_with("ep_")));
    assert!(steps[3].detail.contains("lists `demo`"), "{}", steps[3].detail);
    assert!(!format!("{steps:?}").contains("model-api-key"));
}

#[tokio::test]
async fn a_failed_check_names_the_step_and_undoes_nothing() {
    let model = FakeModel::playing([vec![head(401, &[])]]).await;
    let mut far = Stack::model("far", "http://10.255.255.1:9/v1");
    far.endpoint_networks = vec!["127.0.0.0/8".to_owned()];
    let stack = Stack::builder().model("demo", &model).registered(far, None).start().await;
    let steps = check(&stack, "demo").await.unwrap();
    assert_eq!(verdicts(&steps), [("resolve", true), ("connect", true), ("authenticate", false)]);
    let steps = check(&stack, "far").await.unwrap();
    assert_eq!(verdicts(&steps), [("resolve", false)]);
    assert!(steps[0].detail.contains("10.255.255.1"), "an administrator may know: {}", steps[0].detail);
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let request = stack.administer(pb::GetModelRequest { name: "demo".to_owned() }).await;
    assert!(registry.get_model(request).await.is_ok());
    assert_eq!(reason(&check(&stack, "nobody").await.unwrap_err()), Reason::NotFound);
}

#[tokio::test]
async fn a_model_that_was_registered_a_moment_ago_can_be_checked_at_once() {
    let model = FakeModel::playing([json(r#"{"data":[]}"#), json(ANSWER)]).await;
    let stack = Stack::builder().start().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let message = pb::CreateModelRequest { model: Some(Stack::model("new", &model.url())), credential: None };
    registry.create_model(stack.administer(message).await).await.unwrap();
    assert!(check(&stack, "new").await.unwrap().iter().all(|step| step.ok));
}

#[tokio::test]
async fn without_an_adapter_a_check_says_so() {
    let stack = Stack::builder().start().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let model = pb::Model { adapter_group: "elsewhere".to_owned(), ..Stack::model("m", "http://127.0.0.1:9/v1") };
    let message = pb::CreateModelRequest { model: Some(model), credential: None };
    registry.create_model(stack.administer(message).await).await.unwrap();
    assert_eq!(reason(&check(&stack, "m").await.unwrap_err()), Reason::AdapterUnavailable);
}

#[tokio::test]
async fn a_changed_key_is_used_for_the_next_request() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let key = pb::model_credential::Credential::ApiKey(pb::ApiKey { value: "renewed-key".to_owned() });
    let message = pb::UpdateModelRequest {
        model: Some(Stack::model("demo", &model.url())),
        credential: Some(pb::ModelCredential { credential: Some(key), client_certificate: None }),
    };
    let changed = registry.update_model(stack.administer(message).await).await.unwrap().into_inner().model.unwrap();
    assert_eq!((changed.version, changed.credential_kind()), (2, pb::CredentialKind::ApiKey));
    // A probe is behind the newest snapshot in the adapter's stream, so after it the adapter has the new key.
    let _ = check(&stack, "demo").await.unwrap();
    stack.ask(&stack.token().await, Stack::chat("hi")).await.unwrap();
    assert_eq!(model.requests().pop().unwrap().headers["authorization"], "Bearer renewed-key");
    let stale = pb::Model { version: 1, ..Stack::model("demo", &model.url()) };
    let message = pb::UpdateModelRequest { model: Some(stale), credential: None };
    let status = registry.update_model(stack.administer(message).await).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::Aborted, Reason::VersionConflict));
}

#[tokio::test]
async fn what_is_in_use_stays_and_what_is_twice_is_refused() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let request = stack.administer(pb::DeleteModelRequest { name: "demo".to_owned() }).await;
    assert_eq!(reason(&registry.delete_model(request).await.unwrap_err()), Reason::InUse);
    let message = pb::CreateModelRequest { model: Some(Stack::model("demo", &model.url())), credential: None };
    let status = registry.create_model(stack.administer(message).await).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::AlreadyExists, Reason::AlreadyExists));
    let mut features = FeatureServiceClient::new(stack.at_instance());
    for name in ["chat", "code_completion"] {
        let request = stack.administer(pb::UnbindFeatureRequest { name: name.to_owned() }).await;
        features.unbind_feature(request).await.unwrap();
    }
    let request = stack.administer(pb::DeleteModelRequest { name: "demo".to_owned() }).await;
    registry.delete_model(request).await.unwrap();
    let binding = pb::feature::Binding::SelfHosted(pb::feature::SelfHosted { models: vec!["demo".to_owned()] });
    let feature = pb::Feature { name: "chat".to_owned(), binding: Some(binding), groups: vec![] };
    let request = stack.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
    assert_eq!(reason(&features.bind_feature(request).await.unwrap_err()), Reason::ModelNotFound);
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let stack = Stack::builder().start().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let message = pb::CreateModelRequest { model: Some(Stack::model("m", "ftp://x/")), credential: None };
    let status = registry.create_model(stack.administer(message).await).await.unwrap_err();
    let failure = Failure::from_status(&status, Reason::Internal);
    assert_eq!((failure.reason, failure.fields[0].0.as_str()), (Reason::RequestInvalid, "model.endpoints.url"));
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let stack = Stack::builder().start().await;
    let mut people = PrincipalServiceClient::new(stack.at_instance());
    let request = stack.administer(pb::DeletePrincipalRequest { name: "admin".to_owned() }).await;
    assert_eq!(reason(&people.delete_principal(request).await.unwrap_err()), Reason::InUse);
    let request = stack.administer(pb::DeletePrincipalRequest { name: "eve".to_owned() }).await;
    people.delete_principal(request).await.unwrap();
    let status = stack.exchange(&stack.user, "", &["feature:chat"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::CredentialInvalid, "her credentials went with her");
}

#[tokio::test]
async fn the_fleet_shows_who_is_connected() {
    let stack = Stack::builder().start().await;
    let mut fleet = FleetServiceClient::new(stack.at_instance());
    let members = fleet.list_fleet_members(stack.administer(pb::ListFleetMembersRequest {}).await).await.unwrap();
    let shown: Vec<_> =
        members.into_inner().members.into_iter().map(|member| (member.name, member.connected_replicas)).collect();
    assert_eq!(shown, [("adapter".to_owned(), 1), ("gateway".to_owned(), 1)]);
}

/// What a feed ends with.
async fn end_of<T>(feed: &mut tonic::Streaming<T>) -> Status {
    loop {
        match soon("the end of the feed", feed.message()).await {
            Ok(more) => assert!(more.is_some(), "the feed ended without a word"),
            Err(status) => return status,
        }
    }
}

/// A second gateway follows the routes until this has happened to it: then its feed ends, and its credential buys nothing.
async fn cut_off_by(ending: impl AsyncFnOnce(&Stack, String)) {
    let stack = Stack::builder().start().await;
    let message = pb::CreateFleetMemberRequest {
        name: "second".to_owned(),
        kind: Some(pb::create_fleet_member_request::Kind::Gateway(Default::default())),
        ..Default::default()
    };
    let mut fleet = FleetServiceClient::new(stack.at_instance());
    let created = fleet.create_fleet_member(stack.administer(message).await).await.unwrap();
    let credential = created.into_inner().credential;
    let token = stack.exchange(&credential, "", &["instance:fleet"]).await.unwrap();
    let hello = pb::WatchRoutesRequest { replica_id: "r".to_owned() };
    let mut routes = ConfigServiceClient::new(stack.at_instance());
    let mut routes = routes.watch_routes(Stack::request(hello, &token)).await.unwrap().into_inner();
    assert!(soon("the first snapshot", routes.message()).await.unwrap().is_some());
    let (saying, said) = tokio::sync::mpsc::channel(1);
    let hello = pb::WatchTrustRequest { replica_id: "r".to_owned(), acknowledged_sequence: 0 };
    saying.send(hello).await.unwrap();
    let said = Stack::request(tokio_stream::wrappers::ReceiverStream::new(said), &token);
    let mut trust = TrustServiceClient::new(stack.at_instance()).watch_trust(said).await.unwrap().into_inner();
    assert!(soon("the first chunk", trust.message()).await.unwrap().is_some());

    ending(&stack, credential.clone()).await;
    assert_eq!(reason(&end_of(&mut routes).await), Reason::CredentialInvalid);
    assert_eq!(reason(&end_of(&mut trust).await), Reason::CredentialInvalid);
    let status = stack.exchange(&credential, "", &["instance:fleet"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::CredentialInvalid);
}

#[tokio::test]
async fn a_member_that_is_removed_is_cut_off() {
    cut_off_by(async |stack, _| {
        let request = stack.administer(pb::DeleteFleetMemberRequest { name: "second".to_owned() }).await;
        FleetServiceClient::new(stack.at_instance()).delete_fleet_member(request).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_member_whose_credential_is_revoked_is_cut_off() {
    cut_off_by(async |stack, credential| {
        let message = pb::RevokeTokenRequest { token: credential };
        TokenServiceClient::new(stack.at_instance()).revoke_token(message).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_models_key_does_not_follow_it_to_another_place() {
    let (stack, model) = demo().await;
    let mut registry = ModelRegistryServiceClient::new(stack.at_instance());
    let update = async |registry: &mut ModelRegistryServiceClient<_>, model: pb::Model, credential| {
        let message = pb::UpdateModelRequest { model: Some(model), credential };
        registry.update_model(stack.administer(message).await).await.map(drop).map_err(|status| reason(&status))
    };
    let elsewhere = Stack::model("demo", "http://127.0.0.1:9/v1");
    assert_eq!(update(&mut registry, elsewhere.clone(), None).await, Err(Reason::RequestInvalid));
    let networks = pb::Model { endpoint_networks: vec![], ..Stack::model("demo", &model.url()) };
    assert_eq!(update(&mut registry, networks, None).await, Err(Reason::RequestInvalid));
    let limits = Some(pb::Limits { context_length: 9, ..Default::default() });
    let same_place = pb::Model { limits, ..Stack::model("demo", &model.url()) };
    assert_eq!(update(&mut registry, same_place, None).await, Ok(()));
    let key = pb::model_credential::Credential::ApiKey(pb::ApiKey { value: "another".to_owned() });
    let credential = Some(pb::ModelCredential { credential: Some(key), client_certificate: None });
    assert_eq!(update(&mut registry, elsewhere, credential).await, Ok(()));
}

#[tokio::test]
async fn nobody_locks_the_last_administrator_out() {
    let (stack, _model) = demo().await;
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let request = stack.administer(pb::ListCredentialsRequest { principal: "admin".to_owned() }).await;
    let id = principals.list_credentials(request).await.unwrap().into_inner().credentials[0].id.clone();
    let request = stack.administer(pb::RevokeCredentialRequest { id: id.clone() }).await;
    assert_eq!(reason(&principals.revoke_credential(request).await.unwrap_err()), Reason::InUse);
    stack.add_user("second", pb::CredentialPurpose::Administration, vec![pb::Role::Admin]).await;
    let request = stack.administer(pb::RevokeCredentialRequest { id }).await;
    assert!(principals.revoke_credential(request).await.is_ok(), "there is another way in");
}

#[tokio::test]
async fn the_key_encryption_key_is_rotated_while_the_instance_serves() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let settings = |key_file: &str, former: &[&str]| {
        let path = |name: &str| stack.dir.path().join(name);
        let former_key_files = former.iter().map(|name| path(name)).collect();
        let seal = instance_svc::config::SealConfig { key_file: path(key_file), former_key_files };
        instance_svc::config::InstanceConfig { seal, ..stack.instance_config.clone() }
    };
    let clock = || std::sync::Arc::new(stack.clock.clone());
    std::fs::copy(stack.dir.path().join("seal.key"), stack.dir.path().join("old.key")).unwrap();
    // 32 other bytes.
    std::fs::write(stack.dir.path().join("new.key"), "A".repeat(43)).unwrap();
    let alone = instance_svc::app::App::build(settings("new.key", &[]), clock()).await;
    assert!(alone.is_err(), "what is sealed under the old key does not open under the new one");
    let both = instance_svc::app::App::build(settings("new.key", &["old.key"]), clock()).await.unwrap();
    let mut keys = pb::key_service_client::KeyServiceClient::new(stack.channel(both.grpc, &stack.dialer));
    let done = keys.rewrap_secrets(stack.administer(pb::RewrapSecretsRequest {}).await).await.unwrap().into_inner();
    assert!(done.rewrapped >= 4 && done.unopened == 0, "{done:?}");
    let again = keys.rewrap_secrets(stack.administer(pb::RewrapSecretsRequest {}).await).await.unwrap().into_inner();
    assert_eq!((again.rewrapped, again.current), (0, done.rewrapped));
    both.stop().await;
    let alone = instance_svc::app::App::build(settings("new.key", &[]), clock()).await.unwrap();
    let stack = Stack { instance: alone, ..stack };
    // The pepper opens, so the user's credential is known; so does the signing key, and the model's key.
    let token = stack.token().await;
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
}
