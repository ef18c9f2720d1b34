//! Another instance, whose tokens a gateway takes: entitled to what was said here, and speaking for itself alone.

use std::sync::Arc;

use postern_proto::Reason;
use postern_proto::gateway::v1 as gateway;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_proto::instance::v1::key_service_client::KeyServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_runtime::config::PeerAddress;
use postern_runtime::instance::InstanceConfig;
use postern_tests::{Act, FakeModel, Forge, Gate, Stack, answer, chunk, done, finish, reason, soon, sse_head, usage};
use serde_json::{Value, json};

const CUSTOMER: &str = "http://customer.test";

/// A provider with a gateway and a model, and a customer's instance that the provider knows.
struct Two {
    provider: Stack,
    customer: Stack,
    credential: String,
    _model: FakeModel,
}

fn entitled(customer: &Stack) -> pb::fleet_member::Instance {
    pb::fleet_member::Instance {
        issuer: CUSTOMER.to_owned(),
        instance_id: customer.instance_id.clone(),
        scopes: vec!["feature:chat".to_owned()],
        groups: vec!["customers".to_owned()],
        ..Default::default()
    }
}

async fn add(provider: &Stack, instance: pb::fleet_member::Instance) -> Result<String, Reason> {
    let kind = Some(pb::create_fleet_member_request::Kind::Instance(instance));
    let message = pb::CreateFleetMemberRequest { name: "customer".to_owned(), kind, proof: None };
    let request = provider.administer(message).await;
    let made = FleetServiceClient::new(provider.at_instance()).create_fleet_member(request).await;
    made.map(|made| made.into_inner().credential).map_err(|status| reason(&status))
}

async fn two(model: FakeModel) -> Two {
    let provider = Stack::builder().model("demo", &model).start().await;
    let customer =
        Stack::builder().issuer_url(CUSTOMER, Forge::stranger).audience("postern-gateway:customer").start().await;
    let credential = add(&provider, entitled(&customer)).await.unwrap();
    Two { provider, customer, credential, _model: model }
}

impl Two {
    /// A second replica of the customer's instance, which publishes.
    async fn publisher(&self) -> instance_svc::app::App {
        let file = self.customer.dir.path().join("provider.credential");
        std::fs::write(&file, &self.credential).unwrap();
        let address = PeerAddress::try_from(format!("http://{}", self.provider.instance.grpc)).unwrap();
        let publish = vec![InstanceConfig::by_secret(address, file)];
        let config = instance_svc::config::InstanceConfig { publish, ..self.customer.instance_config.clone() };
        instance_svc::app::App::build(config, Arc::new(self.customer.clock.clone())).await.unwrap()
    }

    /// The claims of a token of the customer's for the provider's gateway.
    fn claims(&self, changes: Value) -> Value {
        let mut claims = self.customer.claims();
        claims["iss"] = CUSTOMER.into();
        claims["postern_realm"] = "managed".into();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    }

    async fn ask(&self, token: &str) -> Result<(), Reason> {
        self.provider.ask(token, Stack::chat("hi")).await.map(drop).map_err(|status| reason(&status))
    }

    async fn until(&self, token: &str, expected: Result<(), Reason>) {
        let asking = async { while self.ask(token).await != expected {} };
        soon(&format!("the answer {expected:?}"), asking).await;
    }
}

#[tokio::test]
async fn an_instance_that_publishes_its_keys_is_believed_in_what_it_is_entitled_to() {
    let two = two(FakeModel::saying(&["fine"]).await).await;
    let token = Forge::stranger().sign(&two.claims(json!({})));
    assert_eq!(two.ask(&token).await, Err(Reason::KeyUnknown), "nothing was published yet");
    let publisher = two.publisher().await;
    two.until(&token, Ok(())).await;
    for (wrong, refusal) in [
        (json!({ "scope": "feature:code_completion" }), Reason::ScopeMissing),
        (json!({ "postern_realm": "self-managed" }), Reason::IssuerUntrusted),
        (json!({ "postern_instance": two.provider.instance_id }), Reason::IssuerUntrusted),
        (json!({ "iss": "http://instance.test" }), Reason::IssuerUntrusted),
        (json!({ "aud": "http://instance.test" }), Reason::AudienceWrong),
    ] {
        let token = Forge::stranger().sign(&two.claims(wrong.clone()));
        assert_eq!(two.ask(&token).await, Err(refusal), "{wrong}");
    }
    // Entitled to chat alone, whatever the token says; and in the groups that the provider says, not in those that it says.
    let code = gateway::Code { prefix: "x".to_owned(), ..Default::default() };
    let request = Stack::request(gateway::CompleteCodeRequest { code: Some(code) }, &token);
    let status = two.provider.completions().complete_code(request).await.unwrap_err();
    assert_eq!(reason(&status), Reason::ScopeMissing);
    let models = pb::feature::SelfHosted { models: vec!["demo".to_owned()] };
    for (group, expected) in [("staff", Err(Reason::GroupMissing)), ("customers", Ok(()))] {
        let binding = Some(pb::feature::Binding::SelfHosted(models.clone()));
        let feature = pb::Feature { name: "chat".to_owned(), binding, groups: vec![group.to_owned()] };
        let request = two.provider.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
        let mut features = pb::feature_service_client::FeatureServiceClient::new(two.provider.at_instance());
        features.bind_feature(request).await.unwrap();
        let token = Forge::stranger().sign(&two.claims(json!({ "postern_groups": ["staff"], "jti": group })));
        two.until(&token, expected).await;
    }

    // The customer rotates: the next key is published before it signs, and the provider takes it.
    let request = two.customer.administer(pb::ListKeysRequest {}).await;
    let before = KeyServiceClient::new(two.customer.at_instance()).list_keys(request).await.unwrap().into_inner().keys;
    let kid = Forge::stranger().kid().to_owned();
    assert!(before.iter().any(|key| key.kid == kid));
    let request = two.customer.administer(pb::RevokeKeyRequest { kid }).await;
    KeyServiceClient::new(two.customer.at_instance()).revoke_key(request).await.unwrap();
    let mut refused = two.ask(&token).await;
    let gone = async {
        while refused.is_ok() {
            refused = two.ask(&token).await;
        }
    };
    soon("the end of the key", gone).await;
    assert!(matches!(refused, Err(Reason::KeyUnknown | Reason::TokenRevoked)), "{refused:?}");
    publisher.stop().await;
}

#[tokio::test]
async fn what_an_instance_revokes_of_its_own_is_refused_and_cut_and_nothing_else() {
    let gate = Gate::default();
    let slow = vec![sse_head(), chunk("a"), Act::Wait(gate.clone()), chunk("b"), finish("stop"), usage(1, 2), done()];
    let two = two(FakeModel::playing([answer(&["fine"]), slow, answer(&["fine"])]).await).await;
    let publisher = two.publisher().await;
    // A real token of the customer's, made over into one for the provider: only its id and credential matter to a revocation.
    let real = two.customer.token().await;
    let made_over = |changes: Value| {
        let real = Forge::claims(&real);
        let mut claims = two.claims(json!({
            "jti": real["jti"], "sub": real["sub"], "iat": real["iat"], "postern_credential": real["postern_credential"],
        }));
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Forge::stranger().sign(&claims)
    };
    let (token, other) = (made_over(json!({})), made_over(json!({ "jti": "other" })));
    two.until(&token, Ok(())).await;
    let request = Stack::request(gateway::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let mut events = two.provider.completions().stream_chat(request).await.unwrap().into_inner();
    assert!(soon("the first event", events.message()).await.unwrap().is_some());

    let mut tokens = TokenServiceClient::new(two.customer.at_instance());
    tokens.revoke_token(pb::RevokeTokenRequest { token: real.clone() }).await.unwrap();
    let cut = async {
        loop {
            match events.message().await {
                Ok(more) => assert!(more.is_some(), "the stream went on to its end"),
                Err(status) => return reason(&status),
            }
        }
    };
    assert_eq!(soon("the end of the stream", cut).await, Reason::TokenRevoked);
    assert_eq!(two.ask(&token).await, Err(Reason::TokenRevoked));
    // The customer cannot refuse the provider's own tokens, whatever it says of them.
    let own = two.provider.token().await;
    let claims = Forge::claims(&own);
    let forged = pb::Revocation {
        of: Some(pb::revocation::Of::CredentialId(claims["postern_credential"].as_str().unwrap().to_owned())),
        until: u64::MAX >> 1,
    };
    publisher.stop().await;
    let fleet = two.provider.exchange(&two.credential, "", &["instance:fleet"]).await.unwrap();
    let keys = vec![Forge::stranger().jwk().to_string()];
    let said = |sequence, jwk_json| pb::PublishTrustRequest { sequence, jwk_json, revocations: vec![forged.clone()] };
    let publish = async |message: pb::PublishTrustRequest| {
        let stream = tokio_stream::StreamExt::chain(tokio_stream::iter([message]), tokio_stream::pending());
        let mut trust = TrustServiceClient::new(two.provider.at_instance());
        let mut answers = trust.publish_trust(Stack::request(stream, &fleet)).await.unwrap().into_inner();
        loop {
            match answers.message().await {
                Ok(Some(answer)) if answer.acknowledged_sequence == 0 => {}
                Ok(answer) => return Ok(answer.unwrap().acknowledged_sequence),
                Err(status) => return Err(reason(&status)),
            }
        }
    };
    assert_eq!(soon("an answer", publish(said(1 << 40, keys))).await, Ok(1 << 40));
    assert_eq!(soon("an answer", publish(said(1 << 41, vec![]))).await, Err(Reason::RequestInvalid), "no keys");
    let long = pb::Revocation { of: Some(pb::revocation::Of::Kid("k".repeat(200))), until: u64::MAX >> 1 };
    let keys = vec![Forge::stranger().jwk().to_string()];
    let too_long = pb::PublishTrustRequest { sequence: 1 << 41, jwk_json: keys, revocations: vec![long] };
    assert_eq!(soon("an answer", publish(too_long)).await, Err(Reason::RequestInvalid), "a long id");
    two.until(&other, Ok(())).await;
    assert_eq!(two.ask(&own).await, Ok(()));
    let request = two.provider.administer(pb::ListAuditEventsRequest { limit: 1000, ..Default::default() }).await;
    let mut audit = pb::audit_service_client::AuditServiceClient::new(two.provider.at_instance());
    let events = audit.list_audit_events(request).await.unwrap().into_inner().events;
    let published = events.iter().find(|event| event.action == "publish-trust").unwrap();
    assert!(published.actor.ends_with(" customer") && published.target.starts_with("1 keys"), "{published:?}");

    // A member that is removed is not believed any more.
    let request = two.provider.administer(pb::DeleteFleetMemberRequest { name: "customer".to_owned() }).await;
    FleetServiceClient::new(two.provider.at_instance()).delete_fleet_member(request).await.unwrap();
    two.until(&other, Err(Reason::KeyUnknown)).await;
    gate.open();
}

#[tokio::test]
async fn an_instance_is_added_with_what_it_is_entitled_to() {
    let two = two(FakeModel::saying(&["fine"]).await).await;
    let good = || entitled(&two.customer);
    assert_eq!(add(&two.provider, good()).await, Err(Reason::AlreadyExists));
    for bad in [
        pb::fleet_member::Instance { issuer: "http://instance.test".to_owned(), ..good() },
        pb::fleet_member::Instance { issuer: String::new(), ..good() },
        pb::fleet_member::Instance { instance_id: String::new(), ..good() },
        pb::fleet_member::Instance { scopes: vec![], ..good() },
        pb::fleet_member::Instance { scopes: vec!["instance:admin".to_owned()], ..good() },
        pb::fleet_member::Instance { groups: vec!["No Group".to_owned()], ..good() },
        pb::fleet_member::Instance { jwks_json: "{}".to_owned(), ..good() },
        pb::fleet_member::Instance { max_lifetime: Some(prost_types::Duration { seconds: 901, nanos: 0 }), ..good() },
    ] {
        assert_eq!(add(&two.provider, bad.clone()).await, Err(Reason::RequestInvalid), "{bad:?}");
    }
    // It may publish, and nothing else that the fleet may.
    let fleet = two.provider.exchange(&two.credential, "", &["instance:fleet"]).await.unwrap();
    let hello = pb::WatchTrustRequest { replica_id: "r".to_owned(), acknowledged_sequence: 0 };
    let mut trust = TrustServiceClient::new(two.provider.at_instance());
    let watched = trust.watch_trust(Stack::request(tokio_stream::iter([hello]), &fleet)).await;
    assert_eq!(reason(&watched.unwrap_err()), Reason::RoleMissing);
    let for_adapters = two.provider.exchange(&two.credential, "postern-adapter:default", &["model:generate"]).await;
    assert_eq!(reason(&for_adapters.unwrap_err()), Reason::AudienceDenied);
}

#[tokio::test]
async fn news_of_other_instances_grows_as_old_as_that_of_ones_own() {
    let model = FakeModel::saying(&["fine"]).await;
    let provider = Stack::builder().model("demo", &model).refuse_when_stale(5).grace(0).start().await;
    let customer =
        Stack::builder().issuer_url(CUSTOMER, Forge::stranger).audience("postern-gateway:customer").start().await;
    let credential = add(&provider, entitled(&customer)).await.unwrap();
    let two = Two { provider, customer, credential, _model: model };
    let publisher = two.publisher().await;
    let token = Forge::stranger().sign(&two.claims(json!({})));
    two.until(&token, Ok(())).await;
    let Two { provider, .. } = two;
    let Stack { instance, gateway, clock, gateway_config, .. } = provider;
    instance.stop().await;
    clock.advance(6);
    let dialer = postern_runtime::grpc::Dialer::of(None).unwrap();
    let address = PeerAddress::try_from(format!("http://{}", gateway.grpc)).unwrap();
    let channel = postern_runtime::grpc::channel(&address, &dialer).unwrap();
    let mut completions = gateway::completion_service_client::CompletionServiceClient::new(channel);
    let request = Stack::request(gateway::ChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let status = soon("an answer", completions.chat(request)).await.unwrap_err();
    assert_eq!(reason(&status), Reason::TrustStale);
    drop(gateway_config);
    gateway.stop().await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_feature_that_is_bound_to_a_managed_gateway_goes_there_and_no_other_does() {
    let two = two(FakeModel::saying(&["from ", "afar"]).await).await;
    let _publisher = two.publisher().await;
    let customer = &two.customer;
    let own = FakeModel::saying(&["from here"]).await;
    let request = customer
        .administer(pb::CreateModelRequest { model: Some(Stack::model("local", &own.url())), credential: None });
    let mut registry = pb::model_registry_service_client::ModelRegistryServiceClient::new(customer.at_instance());
    registry.create_model(request.await).await.unwrap();
    let audience = two.provider.claims()["aud"].as_str().unwrap().to_owned();
    let add = async |gateway: pb::fleet_member::Gateway| {
        let kind = Some(pb::create_fleet_member_request::Kind::Gateway(gateway));
        let message = pb::CreateFleetMemberRequest { name: "afar".to_owned(), kind, proof: None };
        let request = customer.administer(message).await;
        let made = FleetServiceClient::new(customer.at_instance()).create_fleet_member(request).await;
        made.map(|made| made.into_inner().credential).map_err(|status| reason(&status))
    };
    let gateway = pb::fleet_member::Gateway {
        audience: audience.clone(),
        address: format!("http://{}", two.provider.gateway.grpc),
        managed: true,
    };
    let nameless = pb::fleet_member::Gateway { audience: String::new(), ..gateway.clone() };
    assert_eq!(add(nameless).await, Err(Reason::RequestInvalid));
    let taken = pb::fleet_member::Gateway { audience: "postern-gateway:customer".to_owned(), ..gateway.clone() };
    assert_eq!(add(taken).await, Err(Reason::RequestInvalid), "whose a token is, its audience must say");
    assert_eq!(add(gateway).await.as_deref(), Ok(""), "it never calls, and has no credential");
    let bind = async |name: &str, binding: pb::feature::Binding, groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let feature = pb::Feature { name: name.to_owned(), binding: Some(binding), groups };
        let request = customer.administer(pb::BindFeatureRequest { feature: Some(feature) }).await;
        let mut features = pb::feature_service_client::FeatureServiceClient::new(customer.at_instance());
        features.bind_feature(request).await.map(drop).map_err(|status| reason(&status))
    };
    let managed = |gateway: &str| pb::feature::Binding::Managed(pb::feature::Managed { gateway: gateway.to_owned() });
    assert_eq!(bind("chat", managed("nobody"), &[]).await, Err(Reason::RequestInvalid));
    bind("chat", managed("afar"), &[]).await.unwrap();
    let models = pb::feature::SelfHosted { models: vec!["local".to_owned()] };
    bind("code_completion", pb::feature::Binding::SelfHosted(models), &[]).await.unwrap();

    let mut relay = gateway::completion_service_client::CompletionServiceClient::new(customer.at_instance());
    let mut chat = async || {
        let request = gateway::ChatRequest { chat: Some(Stack::chat("hi")) };
        let answer = relay.chat(Stack::request(request, &customer.user)).await.map_err(|status| reason(&status))?;
        Ok::<_, Reason>(answer.into_inner().completion.unwrap().choices[0].text.clone())
    };
    let answered = async { while chat().await.as_deref() != Ok("from afar") {} };
    soon("the managed gateway to know the keys", answered).await;
    // Hybrid: the other feature stays here.
    let mut relay = gateway::completion_service_client::CompletionServiceClient::new(customer.at_instance());
    let code = gateway::Code { prefix: "x".to_owned(), ..Default::default() };
    let completed = async {
        loop {
            let request = gateway::CompleteCodeRequest { code: Some(code.clone()) };
            if let Ok(answer) = relay.complete_code(Stack::request(request, &customer.user)).await {
                return answer.into_inner().completion.unwrap().choices[0].text.clone();
            }
        }
    };
    assert_eq!(soon("an answer from here", completed).await, "from here");
    assert!(own.requests().iter().all(|asked| asked.path == "/v1/completions"), "no chat came here");

    // A token for the gateway here is not shown to the one afar.
    let own_token = customer.token().await;
    let request = gateway::ChatRequest { chat: Some(Stack::chat("hi")) };
    let mut relay = gateway::completion_service_client::CompletionServiceClient::new(customer.at_instance());
    let refused = relay.chat(Stack::request(request, &own_token)).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::AudienceWrong);

    // A token for that gateway is of the managed realm, and for what is bound to it alone.
    let token = customer.exchange(&customer.user, &audience, &["feature:chat"]).await;
    let shown = Forge::claims(&token.unwrap());
    assert_eq!((&shown["postern_realm"], &shown["aud"]), (&json!("managed"), &json!(audience)));
    let refused = customer.exchange(&customer.user, &audience, &["feature:code_completion"]).await;
    assert_eq!(reason(&refused.unwrap_err()), Reason::ScopeDenied);
    bind("chat", managed("afar"), &["staff"]).await.unwrap();
    let refused = customer.exchange(&customer.user, &audience, &["feature:chat"]).await;
    assert_eq!(reason(&refused.unwrap_err()), Reason::GroupMissing);
}
