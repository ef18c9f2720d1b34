//! Prompts that the instance holds, what can never apply, and what a request of somebody else would meet.

use postern_proto::gateway::v1 as gateway;
use postern_proto::gateway::v1::explain_service_client::ExplainServiceClient;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::audit_service_client::AuditServiceClient;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_proto::instance::v1::prompt_service_client::PromptServiceClient;
use postern_proto::{Failure, Reason};
use postern_tests::{FakeModel, Stack, reason, soon};

const TEXT: &str = "description = 'd'\nuser = 'Ours: {{ code }}'\n[variables.code]\ndescription = 'c'\nrequired = true";

async fn put(stack: &Stack, name: &str, text: &str) -> Result<(), Failure> {
    let prompt = Some(pb::Prompt { name: name.to_owned(), text: text.to_owned() });
    let request = stack.administer(pb::PutPromptRequest { prompt }).await;
    let answer = PromptServiceClient::new(stack.at_instance()).put_prompt(request).await;
    answer.map(drop).map_err(|status| Failure::from_status(&status, Reason::Internal))
}

/// The prompt that an answer was made by.
async fn used(stack: &Stack) -> String {
    let token = stack.exchange(&stack.user, "", &["feature:explain_code"]).await.unwrap();
    let variables = [("code".to_owned(), "a + b".to_owned())].into();
    let run = gateway::PromptRun { feature: "explain_code".to_owned(), variables, ..Default::default() };
    let request = Stack::request(gateway::RunPromptRequest { run: Some(run) }, &token);
    stack.completions().run_prompt(request).await.unwrap().into_inner().completion.unwrap().prompt
}

async fn until_used(stack: &Stack, name: &str) {
    soon(name, async { while used(stack).await != name {} }).await;
}

#[tokio::test]
async fn a_prompt_of_the_instance_is_used_at_its_gateways_until_it_is_removed() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).bind("explain_code", &["demo"]).start().await;
    assert_eq!(used(&stack).await, "explain_code/base/1.0.0");
    put(&stack, "explain_code/base/2.0.0", TEXT).await.unwrap();
    until_used(&stack, "explain_code/base/2.0.0").await;
    assert_eq!(model.requests().last().unwrap().body["messages"][0]["content"], "Ours: a + b");
    // What cannot be used is refused at once, by its field, and nothing changes.
    for (name, text, field) in [
        ("explain_code/base/3.0.0", "user = '{{'", "prompt.text"),
        ("explain_code/base/3.0.0", "description = 'd'\nuser = '{{ undeclared }}'", "prompt.text"),
        ("explain_code/base/three", TEXT, "prompt.name"),
        ("telepathy/base/1.0.0", TEXT, "prompt.name"),
        ("chat/base/1.0.0", TEXT, "prompt.name"),
    ] {
        let failure = put(&stack, name, text).await.unwrap_err();
        assert_eq!((failure.reason, failure.fields[0].0.as_str()), (Reason::RequestInvalid, field), "{name}");
    }
    let mut prompts = PromptServiceClient::new(stack.at_instance());
    let list = prompts.list_prompts(stack.administer(pb::ListPromptsRequest {}).await).await.unwrap();
    let names: Vec<_> = list.into_inner().prompts.into_iter().map(|prompt| prompt.name).collect();
    assert_eq!(names, ["explain_code/base/2.0.0"]);
    let remove = || pb::RemovePromptRequest { name: "explain_code/base/2.0.0".to_owned() };
    prompts.remove_prompt(stack.administer(remove()).await).await.unwrap();
    until_used(&stack, "explain_code/base/1.0.0").await;
    let again = prompts.remove_prompt(stack.administer(remove()).await).await.unwrap_err();
    assert_eq!(reason(&again), Reason::NotFound);
}

async fn lint(stack: &Stack) -> Vec<String> {
    let request = stack.administer(pb::LintFeaturesRequest {}).await;
    let answer = FeatureServiceClient::new(stack.at_instance()).lint_features(request).await.unwrap();
    answer.into_inner().lints.into_iter().map(|lint| format!("{}: {}", lint.subject, lint.problem)).collect()
}

#[tokio::test]
async fn what_can_never_apply_is_told() {
    let model = FakeModel::saying(&["fine"]).await;
    let mut far = Stack::model("far", "http://10.1.2.3:9/v1");
    far.endpoint_networks = vec!["127.0.0.0/8".to_owned()];
    far.adapter_group = "nobody".to_owned();
    let mut silent = Stack::model("silent", "https://api.anthropic.com/v1");
    silent.provider = "anthropic".to_owned();
    silent.endpoint_networks.clear();
    let clean = Stack::builder().model("demo", &model).start().await;
    assert_eq!(lint(&clean).await, Vec::<String>::new());
    let stack = Stack::builder()
        .model("demo", &model)
        .registered(far, None)
        .registered(silent, Some("key"))
        .bind("embed", &["silent"])
        .bind("explain_code", &["demo"])
        .start()
        .await;
    let binding = pb::feature::Binding::SelfHosted(pb::feature::SelfHosted { models: vec!["demo".to_owned()] });
    let feature = pb::Feature { name: "chat".to_owned(), binding: Some(binding), groups: vec!["ghosts".to_owned()] };
    let request = stack.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
    FeatureServiceClient::new(stack.at_instance()).bind_feature(request).await.unwrap();
    for name in
        ["explain_code/base/0.9.0", "explain_code/qwen/1.0.0", "fix_code/base/2.0.0", "explain_code/general/1.0.0"]
    {
        put(&stack, name, TEXT).await.unwrap();
    }
    let found = lint(&stack).await;
    for (subject, word) in [
        ("feature:chat", "nobody is in"),
        ("feature:embed", "no embeddings"),
        ("model:far", "no feature is bound"),
        ("model:far", "no adapter"),
        ("model:far", "never called"),
        ("prompt:explain_code/base/0.9.0", "another stands before it"),
        ("prompt:explain_code/qwen/1.0.0", "of its family"),
        ("prompt:fix_code/base/2.0.0", "bound to no model"),
    ] {
        assert!(found.iter().any(|line| line.starts_with(subject) && line.contains(word)), "{subject}: {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[tokio::test]
async fn an_administrator_is_told_what_a_request_of_somebody_else_would_meet() {
    let model = FakeModel::saying(&["x"]).await;
    let mut inner = Stack::model("inner", &model.url());
    inner.client_networks = vec!["192.0.2.0/24".to_owned()];
    let stack = Stack::builder().model("demo", &model).registered(inner, None).bind("embed", &["inner"]).start().await;
    stack.add_user("bob", pb::CredentialPurpose::Administration, vec![pb::Role::ModelManager]).await;
    let ask = async |feature: &str, subject: &str, from: &str| {
        let message = gateway::ExplainRequestRequest {
            feature: feature.to_owned(),
            subject: subject.to_owned(),
            client_address: from.to_owned(),
            ..Default::default()
        };
        let answer =
            ExplainServiceClient::new(stack.at_instance()).explain_request(stack.administer(message).await).await;
        let told = answer.map_err(|status| reason(&status))?.into_inner();
        let failed = told.findings.iter().find(|finding| !finding.ok).map(|finding| finding.name.clone());
        Ok::<_, Reason>((told.allowed, told.reason, failed.unwrap_or_default()))
    };
    let yes = || (true, String::new(), String::new());
    let no = |reason: &str, finding: &str| (false, reason.to_owned(), finding.to_owned());
    let user = "eve";
    assert_eq!(ask("chat", user, "").await, Ok(yes()));
    assert_eq!(ask("embed", user, "192.0.2.7").await, Ok(yes()));
    assert_eq!(ask("embed", user, "198.51.100.7").await, Ok(no("NETWORK_UNTRUSTED", "network")));
    assert_eq!(ask("write_tests", user, "").await, Ok(no("FEATURE_UNBOUND", "binding")));
    // A token was made in the user's name, and that is written down.
    let message = pb::ListAuditEventsRequest { limit: 10, ..Default::default() };
    let events = AuditServiceClient::new(stack.at_instance()).list_audit_events(stack.administer(message).await).await;
    let mut events = events.unwrap().into_inner().events.into_iter();
    let event = events.find(|event| event.action == "ExplainService/ExplainRequest").unwrap();
    assert!(event.target.starts_with("write_tests for ") && event.target.ends_with(" eve"), "{}", event.target);
    assert_eq!(ask("chat", "bob", "").await, Ok(no("CREDENTIAL_INVALID", "credential")));
    assert_eq!(ask("chat", "nobody", "").await, Err(Reason::NotFound));
    assert_eq!(ask("chat", "gateway", "").await, Err(Reason::NotFound));
    assert_eq!(ask("chat", "", "").await, Err(Reason::RequestInvalid));
    assert_eq!(ask("chat", user, "everywhere").await, Err(Reason::RequestInvalid));
    assert_eq!(ask("telepathy", user, "").await, Err(Reason::RequestInvalid));
    // A user is told of nobody: not here, and not at the gateway.
    let token = stack.token().await;
    let message = || gateway::ExplainRequestRequest {
        feature: "chat".to_owned(),
        subject: "bob".to_owned(),
        ..Default::default()
    };
    let here = ExplainServiceClient::new(stack.at_instance()).explain_request(Stack::request(message(), &token)).await;
    assert_eq!(reason(&here.unwrap_err()), Reason::AudienceWrong);
    let there = ExplainServiceClient::new(stack.at_gateway()).explain_request(Stack::request(message(), &token)).await;
    assert_eq!(reason(&there.unwrap_err()), Reason::RequestInvalid);
    // Another instance's gateway is not told of users who did not ask.
    let kind = Some(pb::create_fleet_member_request::Kind::Gateway(pb::fleet_member::Gateway {
        audience: "postern-gateway:afar".to_owned(),
        address: "http://127.0.0.1:9".to_owned(),
        managed: true,
    }));
    let message = pb::CreateFleetMemberRequest { name: "afar".to_owned(), kind, proof: None };
    FleetServiceClient::new(stack.at_instance()).create_fleet_member(stack.administer(message).await).await.unwrap();
    let managed = pb::feature::Managed { gateway: "afar".to_owned() };
    let binding = Some(pb::feature::Binding::Managed(managed));
    let feature = pb::Feature { name: "chat".to_owned(), binding, groups: vec!["staff".to_owned()] };
    let request = stack.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
    FeatureServiceClient::new(stack.at_instance()).bind_feature(request).await.unwrap();
    assert_eq!(ask("chat", user, "").await, Ok(no("GROUP_MISSING", "groups")));
    assert!(model.requests().is_empty());
}
