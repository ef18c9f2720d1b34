//! Who may do what: roles at the instance, gateways at the adapter, features and networks at the gateway.
//! HEAD_TO_HEAD rows 13, 15.

use postern_proto::Reason;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::config_service_client::ConfigServiceClient;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::model::v1 as model;
use postern_proto::model::v1::model_service_client::ModelServiceClient;
use postern_tests::{FakeModel, Stack, reason, soon};

#[tokio::test]
async fn row_15_an_unbound_feature_is_off() {
    let model = FakeModel::saying(&["ok"]).await;
    let registered = Stack::model("demo", &model.url());
    let stack = Stack::builder().registered(registered, None).bind("chat", &["demo"]).start().await;
    let code = postern_proto::gateway::v1::Code { prefix: "x".to_owned(), ..Default::default() };
    let request = postern_proto::gateway::v1::CompleteCodeRequest { code: Some(code) };
    let status = stack.completions().complete_code(Stack::request(request, &stack.token().await)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::FailedPrecondition, Reason::FeatureUnbound));
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn a_disabled_feature_is_off() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).disable("chat").start().await;
    let status = stack.ask(&stack.token().await, Stack::chat("hi")).await.unwrap_err();
    assert_eq!(reason(&status), Reason::FeatureUnbound);
}

#[tokio::test]
async fn row_13_a_caller_outside_the_models_networks_is_refused() {
    let server = FakeModel::saying(&["ok"]).await;
    let mut elsewhere = Stack::model("elsewhere", &server.url());
    elsewhere.client_networks = vec!["10.0.0.0/8".to_owned()];
    let mut here = Stack::model("here", &server.url());
    here.client_networks = vec!["127.0.0.0/8".to_owned()];
    let stack = Stack::builder()
        .registered(elsewhere, None)
        .registered(here, None)
        .bind("chat", &["elsewhere", "here"])
        .start()
        .await;
    let token = stack.token().await;
    let named = |name: &str| postern_proto::gateway::v1::Chat { model: name.to_owned(), ..Stack::chat("hi") };
    let status = stack.ask(&token, named("elsewhere")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::PermissionDenied, Reason::NetworkUntrusted));
    assert_eq!(stack.ask(&token, named("here")).await.unwrap(), "ok");
    // Unnamed, the first model that trusts the caller answers.
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "ok");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_adapter_connects_only_into_the_models_endpoint_networks() {
    let server = FakeModel::saying(&["ok"]).await;
    for networks in [vec![], vec!["10.0.0.0/8".to_owned()]] {
        let mut registered = Stack::model("demo", &server.url());
        registered.endpoint_networks = networks;
        let stack = Stack::builder().registered(registered, None).bind("chat", &["demo"]).start().await;
        let status = stack.ask(&stack.token().await, Stack::chat("hi")).await.unwrap_err();
        assert_eq!(reason(&status), Reason::EgressDenied);
        assert!(!status.message().contains("127.0.0.1"), "a caller learns no address: {}", status.message());
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn an_adapter_serves_gateways_and_nobody_else() {
    let server = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &server).start().await;
    let mut adapter = ModelServiceClient::new(stack.at_adapter());
    let generate = || model::GenerateRequest { generation: Some(model::Generation::default()) };
    assert_eq!(reason(&adapter.generate(generate()).await.unwrap_err()), Reason::TokenMissing);
    for (bearer, expected) in [
        (stack.token().await, Reason::AudienceWrong),
        (stack.user.clone(), Reason::TokenMalformed),
        (stack.exchange(&stack.admin, "", &["instance:admin"]).await.unwrap(), Reason::AudienceWrong),
    ] {
        let status = adapter.generate(Stack::request(generate(), &bearer)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (tonic::Code::Unauthenticated, expected));
    }
    // Nobody but a gateway is given a token for it.
    let status = stack.exchange(&stack.user, "postern-adapter:default", &["model:generate"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::AudienceDenied);
}

#[tokio::test]
async fn roles_open_what_they_are_for_and_nothing_else() {
    let stack = Stack::builder().start().await;
    let list_models = || pb::ListModelsRequest {};
    let list_people = || pb::ListPrincipalsRequest {};
    let manager = stack.add_user("mia", pb::CredentialPurpose::Administration, vec![pb::Role::ModelManager]).await;
    let token = stack.exchange(&manager, "", &["instance:admin"]).await.unwrap();
    let mut models = ModelRegistryServiceClient::new(stack.at_instance());
    let mut people = PrincipalServiceClient::new(stack.at_instance());
    assert!(models.list_models(Stack::request(list_models(), &token)).await.is_ok());
    let status = people.list_principals(Stack::request(list_people(), &token)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (tonic::Code::PermissionDenied, Reason::RoleMissing));
    // A user's gateway token is not for the instance, and no token at all opens nothing.
    let status = models.list_models(Stack::request(list_models(), &stack.token().await)).await.unwrap_err();
    assert_eq!(reason(&status), Reason::AudienceWrong);
    assert_eq!(reason(&models.list_models(list_models()).await.unwrap_err()), Reason::TokenMissing);
    // Only the fleet follows the feeds.
    let mut feeds = ConfigServiceClient::new(stack.at_instance());
    let hello = pb::WatchRoutesRequest { replica_id: "x".to_owned() };
    let status = feeds.watch_routes(Stack::request(hello, &token)).await.unwrap_err();
    assert_eq!(reason(&status), Reason::RoleMissing);
}

#[tokio::test]
async fn a_credential_is_for_one_purpose() {
    let stack = Stack::builder().start().await;
    let status = stack.exchange(&stack.user, "", &["instance:admin"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::ScopeDenied);
    let status = stack.exchange(&stack.admin, "postern-gateway:gateway", &["feature:chat"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::AudienceDenied);
}

#[tokio::test]
async fn a_revoked_credential_buys_nothing_and_its_administrative_tokens_end_at_once() {
    let stack = Stack::builder().start().await;
    let boss = stack.add_user("boss", pb::CredentialPurpose::Administration, vec![pb::Role::Admin]).await;
    let token = stack.exchange(&boss, "", &["instance:admin"]).await.unwrap();
    let mut people = PrincipalServiceClient::new(stack.at_instance());
    let request = Stack::request(pb::ListCredentialsRequest { principal: "boss".to_owned() }, &token);
    let id = people.list_credentials(request).await.unwrap().into_inner().credentials[0].id.clone();
    people.revoke_credential(stack.administer(pb::RevokeCredentialRequest { id }).await).await.unwrap();
    let status = people.list_principals(Stack::request(pb::ListPrincipalsRequest {}, &token)).await.unwrap_err();
    // By the credential, or by the revocation of all its tokens: whichever is looked at first.
    assert!(matches!(reason(&status), Reason::CredentialInvalid | Reason::TokenRevoked), "{status:?}");
    let status = stack.exchange(&boss, "", &["instance:admin"]).await.unwrap_err();
    assert_eq!(reason(&status), Reason::CredentialInvalid);
}

#[tokio::test]
async fn features_and_models_are_for_their_groups() {
    let server = FakeModel::saying(&["ok"]).await;
    let mut precious = Stack::model("precious", &server.url());
    precious.groups = vec!["research".to_owned(), "board".to_owned()];
    let stack = Stack::builder()
        .registered(precious, None)
        .registered(Stack::model("plain", &server.url()), None)
        .bind("chat", &["precious", "plain"])
        .start()
        .await;
    let named = |name: &str| postern_proto::gateway::v1::Chat { model: name.to_owned(), ..Stack::chat("hi") };
    let ask = async |name: &str| {
        let token = stack.token().await;
        let asked = if name.is_empty() { Stack::chat("hi") } else { named(name) };
        stack.ask(&token, asked).await.map_err(|status| reason(&status))
    };
    let models = async || {
        let token = stack.token().await;
        let request = Stack::request(postern_proto::gateway::v1::ListModelsRequest {}, &token);
        let list = stack.completions().list_models(request).await.unwrap().into_inner().models;
        list.into_iter().map(|model| model.name).collect::<Vec<_>>()
    };
    assert_eq!(ask("precious").await, Err(Reason::GroupMissing));
    assert_eq!(ask("").await.as_deref(), Ok("ok"), "unnamed, the first model that is for the caller answers");
    assert_eq!(models().await, ["plain"]);

    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let mut join = async |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let message = pb::UpdatePrincipalRequest { name: "eve".to_owned(), roles: vec![], groups };
        principals.update_principal(stack.administer(message).await).await.map_err(|status| reason(&status))
    };
    assert_eq!(join(&["Not A Group"]).await.err(), Some(Reason::RequestInvalid));
    let joined = join(&["board", "other"]).await.unwrap().into_inner().principal.unwrap();
    assert_eq!(joined.groups, ["board", "other"]);
    assert_eq!(ask("precious").await.as_deref(), Ok("ok"));
    assert_eq!(models().await, ["plain", "precious"]);

    let feature = pb::Feature {
        name: "chat".to_owned(),
        binding: Some(pb::feature::Binding::SelfHosted(pb::feature::SelfHosted { models: vec!["plain".to_owned()] })),
        groups: vec!["research".to_owned()],
    };
    let request = stack.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
    pb::feature_service_client::FeatureServiceClient::new(stack.at_instance()).bind_feature(request).await.unwrap();
    let closed = async { while ask("plain").await != Err(Reason::GroupMissing) {} };
    soon("the binding", closed).await;
    assert!(models().await.is_empty());
    join(&["research", "board", "other"]).await.unwrap();
    assert_eq!(ask("plain").await.as_deref(), Ok("ok"));

    // Who leaves a group loses what its tokens still say of it.
    let token = stack.token().await;
    join(&["other"]).await.unwrap();
    let refused = async { while stack.ask(&token, Stack::chat("hi")).await.is_ok() {} };
    soon("the end of the token", refused).await;
}

#[tokio::test]
async fn the_last_administrator_stays_one() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let message = pb::UpdatePrincipalRequest { name: "admin".to_owned(), roles: vec![], groups: vec![] };
    let request = stack.administer(message).await;
    let status = PrincipalServiceClient::new(stack.at_instance()).update_principal(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::InUse);
    let message = pb::UpdatePrincipalRequest { name: "nobody".to_owned(), roles: vec![], groups: vec![] };
    let request = stack.administer(message).await;
    let status = PrincipalServiceClient::new(stack.at_instance()).update_principal(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::NotFound);
}
