//! Ways to prove who one is beside a secret: a key of one's own, a certificate, a federated issuer's token.

use postern_proto::Reason;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_runtime::config::PeerAddress;
use postern_runtime::grpc::Dialer;
use postern_runtime::instance::{InstanceConfig, InstanceLink};
use postern_runtime::tls::{Tls, TlsConfig};
use postern_runtime::{Clock as _, Lifecycle, Readiness};
use postern_tests::{Act, Authority, FakeModel, Forge, Stack, head, post_form, reason, soon};
use serde_json::{Value, json};

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const CERTIFICATE: &str = "urn:postern:params:oauth:token-type:certificate";
const CLUSTER: &str = "https://kubernetes.default.svc";
const INSTANCE: &str = "http://instance.test";

async fn stack() -> (Stack, FakeModel) {
    let model = FakeModel::saying(&["fine"]).await;
    (Stack::builder().model("demo", &model).start().await, model)
}

async fn prove(stack: &Stack, principal: &str, proof: pb::proof::Proof) -> Result<pb::Credential, Reason> {
    let message = pb::CreateCredentialRequest {
        principal: principal.to_owned(),
        purpose: pb::CredentialPurpose::Inference as i32,
        proof: Some(pb::Proof { proof: Some(proof) }),
        ..Default::default()
    };
    let request = stack.administer(message).await;
    let made = PrincipalServiceClient::new(stack.at_instance()).create_credential(request).await;
    let made = made.map_err(|status| reason(&status))?.into_inner();
    assert!(made.secret.is_empty(), "there is no secret");
    Ok(made.credential.unwrap())
}

fn public_key(key: &Forge) -> pb::proof::Proof {
    pb::proof::Proof::PublicKey(pb::proof::PublicKey { jwk_json: key.jwk().to_string() })
}

fn federated(issuer: &str, claims: &[(&str, &str)]) -> pb::proof::Proof {
    let claims = claims.iter().map(|(claim, text)| ((*claim).to_owned(), (*text).to_owned())).collect();
    pb::proof::Proof::Federated(pb::proof::Federated { issuer: issuer.to_owned(), claims })
}

/// Exchanges a token of this type for one with the scope for chat.
async fn exchange(stack: &Stack, dialer: &Dialer, kind: &str, shown: &str) -> Result<String, Reason> {
    let request = pb::ExchangeTokenRequest {
        subject_token: shown.to_owned(),
        subject_token_type: kind.to_owned(),
        scope: vec!["feature:chat".to_owned()],
        ..Default::default()
    };
    let mut tokens = TokenServiceClient::new(stack.channel(stack.instance.grpc, dialer));
    let answer = tokens.exchange_token(request).await.map_err(|status| reason(&status))?;
    Ok(answer.into_inner().access_token)
}

fn assertion(stack: &Stack, changes: Value) -> Value {
    let now = stack.clock.now();
    let id = changes.to_string();
    let mut claims = json!({ "iss": "eve", "sub": "eve", "aud": INSTANCE, "iat": now, "exp": now + 60, "jti": id });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

fn signed(key: &Forge, claims: &Value) -> String {
    use base64::Engine as _;
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": key.kid() });
    key.sign_under(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header.to_string()), claims)
}

#[tokio::test]
async fn a_key_of_ones_own_signs_assertions_that_are_taken_once() {
    let (stack, _model) = stack().await;
    let key = Forge::stranger();
    let made = prove(&stack, "eve", public_key(key)).await.unwrap();
    assert_eq!(prove(&stack, "eve", public_key(key)).await.err(), Some(Reason::AlreadyExists));
    let show = async |claims: Value| exchange(&stack, &stack.dialer, JWT, &signed(key, &claims)).await;

    let once = assertion(&stack, json!({}));
    let token = show(once.clone()).await.unwrap();
    assert_eq!(Forge::claims(&token)["postern_credential"], made.id.as_str());
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
    assert_eq!(show(once).await, Err(Reason::CredentialInvalid), "a second time");

    let now = stack.clock.now();
    for wrong in [
        json!({ "iss": "admin", "sub": "admin" }),
        json!({ "sub": "admin" }),
        json!({ "aud": "http://elsewhere.test" }),
        json!({ "aud": [INSTANCE, "http://elsewhere.test"] }),
        json!({ "exp": now + 301 }),
        json!({ "exp": now - 31, "iat": now - 60 }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
    ] {
        let outcome = show(assertion(&stack, wrong.clone())).await;
        assert_eq!(outcome, Err(Reason::CredentialInvalid), "{wrong}");
    }
    let forged = signed(Forge::other(), &assertion(&stack, json!({ "jti": "f" })));
    assert_eq!(exchange(&stack, &stack.dialer, JWT, &forged).await, Err(Reason::CredentialInvalid));
    // An access token proves nothing here, whoever signed it.
    let access = exchange(&stack, &stack.dialer, JWT, &stack.token().await).await;
    assert_eq!(access, Err(Reason::CredentialInvalid));

    let request = stack.administer(pb::RevokeCredentialRequest { id: made.id }).await;
    PrincipalServiceClient::new(stack.at_instance()).revoke_credential(request).await.unwrap();
    let late = show(assertion(&stack, json!({ "jti": "late" }))).await;
    assert_eq!(late, Err(Reason::CredentialInvalid), "the key's credential was revoked");
    assert!(prove(&stack, "eve", public_key(key)).await.is_ok(), "and may be made anew");
}

#[tokio::test]
async fn private_key_jwt_is_a_clients_way_at_the_token_endpoint() {
    let (stack, _model) = stack().await;
    prove(&stack, "eve", public_key(Forge::stranger())).await.unwrap();
    let url = stack.instance_http("/oauth/token");
    let with = async |claims: Value, more: &[(&str, &str)]| {
        let assertion = signed(Forge::stranger(), &claims);
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let form = [("grant_type", "client_credentials"), ("scope", "feature:chat"), ("client_assertion", &assertion)];
        let form = [&form[..], &[("client_assertion_type", kind)], more].concat();
        post_form(&url, None, &form).await
    };
    let endpoint = format!("{INSTANCE}/oauth/token");
    let good = with(assertion(&stack, json!({ "aud": endpoint })), &[]).await;
    assert_eq!(good.status, 200, "{}", good.text);
    let named = with(assertion(&stack, json!({ "jti": "2" })), &[("client_id", "eve")]).await;
    assert_eq!(named.status, 200, "{}", named.text);
    let other = with(assertion(&stack, json!({ "jti": "3" })), &[("client_id", "admin")]).await;
    assert_eq!((other.status.as_u16(), other.json()["error"].as_str()), (401, Some("invalid_client")));
    let twice = with(assertion(&stack, json!({ "jti": "4" })), &[("client_id", "eve"), ("client_secret", "x")]).await;
    assert_eq!((twice.status.as_u16(), twice.json()["error"].as_str()), (400, Some("invalid_request")));
    let replayed = with(assertion(&stack, json!({ "jti": "2" })), &[]).await;
    assert_eq!((replayed.status.as_u16(), replayed.json()["error"].as_str()), (401, Some("invalid_client")));
}

/// A token as a cluster's service account has it.
fn workload(stack: &Stack, changes: Value) -> String {
    let now = stack.clock.now();
    let mut claims = json!({
        "iss": CLUSTER, "sub": "system:serviceaccount:build:runner", "aud": [INSTANCE], "iat": now, "exp": now + 600,
        "kubernetes.io": { "namespace": "build", "serviceaccount": { "name": "runner" } },
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let header = json!({ "alg": "RS256", "kid": Forge::stranger().kid() });
    use base64::Engine as _;
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header.to_string());
    Forge::stranger().sign_under(&header, &claims)
}

async fn add_issuer(stack: &Stack, issuer: &str, keys: pb::federated_issuer::Keys) -> Result<(), Reason> {
    let issuer = pb::FederatedIssuer {
        issuer: issuer.to_owned(),
        audience: INSTANCE.to_owned(),
        keys: Some(keys),
        key_networks: vec!["127.0.0.0/8".to_owned()],
        ..Default::default()
    };
    let request = stack.administer(pb::CreateFederatedIssuerRequest { issuer: Some(issuer) }).await;
    let made = PrincipalServiceClient::new(stack.at_instance()).create_federated_issuer(request).await;
    made.map(drop).map_err(|status| reason(&status))
}

/// Waits until the instance has keys of an issuer.
async fn has_keys(stack: &Stack, issuer: &str) {
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let known = async {
        loop {
            let request = stack.administer(pb::ListFederatedIssuersRequest {}).await;
            let list = principals.list_federated_issuers(request).await.unwrap().into_inner().issuers;
            if list.iter().any(|one| one.issuer == issuer && one.known_keys > 0) {
                return;
            }
        }
    };
    soon("the issuer's keys", known).await;
}

#[tokio::test]
async fn a_federated_issuers_token_is_whom_a_credential_says() {
    let (stack, _model) = stack().await;
    let jwks = json!({ "keys": [Forge::stranger().jwk()] }).to_string();
    let keys = pb::federated_issuer::Keys::JwksJson(jwks);
    add_issuer(&stack, CLUSTER, keys.clone()).await.unwrap();
    assert_eq!(add_issuer(&stack, CLUSTER, keys.clone()).await, Err(Reason::AlreadyExists));
    assert_eq!(add_issuer(&stack, INSTANCE, keys.clone()).await, Err(Reason::RequestInvalid), "that is oneself");
    assert_eq!(add_issuer(&stack, "eve", keys).await, Err(Reason::RequestInvalid), "a principal's name is no issuer");
    has_keys(&stack, CLUSTER).await;
    let show = async |token: &str| exchange(&stack, &stack.dialer, JWT, token).await;
    let good = workload(&stack, json!({}));
    assert_eq!(show(&good).await, Err(Reason::CredentialInvalid), "an issuer by itself lets nobody in");

    let claims = [("sub", "system:serviceaccount:build:runner"), ("/kubernetes.io/namespace", "build")];
    prove(&stack, "eve", federated(CLUSTER, &claims)).await.unwrap();
    let token = show(&good).await.unwrap();
    assert!(Forge::claims(&token)["sub"].as_str().unwrap().starts_with("usr_"));
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
    assert!(show(&good).await.is_ok(), "such a token is shown as often as it lives");
    for wrong in [
        json!({ "sub": "system:serviceaccount:build:other" }),
        json!({ "kubernetes.io": { "namespace": "prod" } }),
        json!({ "aud": ["https://elsewhere.test"] }),
        json!({ "exp": stack.clock.now() + 3601 }),
        json!({ "iss": "https://other.test" }),
    ] {
        assert_eq!(show(&workload(&stack, wrong.clone())).await, Err(Reason::CredentialInvalid), "{wrong}");
    }
    // Where it fits two principals, it is nobody's.
    stack.add_user("bob", pb::CredentialPurpose::Inference, vec![]).await;
    prove(&stack, "bob", federated(CLUSTER, &[("/kubernetes.io/namespace", "build")])).await.unwrap();
    assert_eq!(show(&good).await, Err(Reason::CredentialInvalid));

    let request = stack.administer(pb::DeleteFederatedIssuerRequest { issuer: CLUSTER.to_owned() }).await;
    PrincipalServiceClient::new(stack.at_instance()).delete_federated_issuer(request).await.unwrap();
    let other = workload(&stack, json!({ "kubernetes.io": { "namespace": "build" } }));
    let gone = async { while show(&other).await.is_ok() {} };
    soon("the end of the issuer", gone).await;
}

#[tokio::test]
async fn an_issuers_new_key_is_fetched_when_a_token_asks_for_it() {
    let document = |keys: &[&Forge]| {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        let head = head(200, &[("content-type", "application/json"), ("cache-control", "max-age=3600")]);
        vec![head, Act::Send(json!({ "keys": keys }).to_string().into_bytes())]
    };
    let server =
        FakeModel::playing([document(&[Forge::other()]), document(&[Forge::other(), Forge::stranger()])]).await;
    let (stack, _model) = stack().await;
    let keys = pb::federated_issuer::Keys::JwksUrl(format!("{}/keys", server.url()));
    add_issuer(&stack, CLUSTER, keys).await.unwrap();
    has_keys(&stack, CLUSTER).await;
    prove(&stack, "eve", federated(CLUSTER, &[("sub", "system:serviceaccount:build:runner")])).await.unwrap();
    let token = workload(&stack, json!({}));
    assert_eq!(exchange(&stack, &stack.dialer, JWT, &token).await, Err(Reason::TrustUnavailable), "try again");
    let taken = async { while exchange(&stack, &stack.dialer, JWT, &token).await.is_err() {} };
    soon("the new key", taken).await;
    assert_eq!(server.requests().len(), 2, "one fetch for it");
}

#[tokio::test]
async fn a_certificate_is_whom_a_credential_says() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let name = |name: &str| pb::proof::Proof::Certificate(pb::proof::Certificate { name: name.to_owned() });
    let eve = stack.authority.as_ref().unwrap().issue(stack.dir.path(), "eve");
    let eve = Dialer::Known(Tls::load(&eve).unwrap());
    assert_eq!(exchange(&stack, &eve, CERTIFICATE, "").await, Err(Reason::CredentialInvalid));
    prove(&stack, "eve", name(&Authority::identity("eve"))).await.unwrap();
    let token = exchange(&stack, &eve, CERTIFICATE, "").await.unwrap();
    assert!(Forge::claims(&token)["cnf"]["x5t#S256"].is_string(), "it is bound to the certificate");
    assert_eq!(exchange(&stack, &eve, CERTIFICATE, "x").await, Err(Reason::RequestInvalid));
    assert_eq!(exchange(&stack, &stack.dialer, CERTIFICATE, "").await, Err(Reason::CredentialInvalid));
    assert_eq!(prove(&stack, "eve", name("*.example.org")).await.err(), Some(Reason::RequestInvalid));
    // `localhost` stands in every certificate here: whom it names besides does not matter then.
    stack.add_user("bob", pb::CredentialPurpose::Inference, vec![]).await;
    prove(&stack, "bob", name("localhost")).await.unwrap();
    assert_eq!(exchange(&stack, &eve, CERTIFICATE, "").await, Err(Reason::CredentialInvalid), "two principals");
    assert!(exchange(&stack, &stack.dialer, CERTIFICATE, "").await.is_ok());
    // A connection may outlive the certificate that it began with.
    stack.clock.advance(3 * 24 * 3600);
    assert_eq!(exchange(&stack, &stack.dialer, CERTIFICATE, "").await, Err(Reason::CredentialInvalid), "it has ended");
}

#[tokio::test]
async fn the_authorities_of_clients_may_be_others_than_those_of_servers() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let clients = Authority::default();
    let theirs = clients.issue(stack.dir.path(), "client");
    let config = stack.instance_config.clone();
    let tls = config.tls.clone().map(|tls| TlsConfig { client_ca_file: theirs.ca_file.clone(), ..tls });
    let config = instance_svc::config::InstanceConfig { tls, ..config };
    let replica = instance_svc::app::App::build(config, std::sync::Arc::new(stack.clock.clone())).await.unwrap();
    let ask = async |config: &TlsConfig| {
        // Whoever it is, it knows the server by the server's own authority.
        let config = TlsConfig { ca_file: Some(stack.dir.path().join("test.ca.pem")), ..config.clone() };
        let dialer = Dialer::Known(Tls::load(&config).unwrap());
        let mut trust = TrustServiceClient::new(stack.channel(replica.grpc, &dialer));
        trust.get_jwks(pb::GetJwksRequest {}).await.is_ok()
    };
    assert!(ask(&theirs).await);
    let of_the_servers = stack.authority.as_ref().unwrap().issue(stack.dir.path(), "eve");
    assert!(!ask(&of_the_servers).await, "who may be a server is no client");
    replica.stop().await;
}

#[tokio::test]
async fn a_token_for_a_caller_who_is_passed_on_is_not_bound_to_the_gateways_certificate() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).mutual_tls().start().await;
    let lifecycle = Lifecycle::new(&Readiness::default());
    let clock = std::sync::Arc::new(stack.clock.clone());
    let link = InstanceLink::new(&stack.gateway_config.instance, &stack.dialer, clock, &lifecycle).unwrap();
    let own = link.own_token().await.map_err(|failure| failure.reason).unwrap();
    let passed_on = (own.token, "10.0.0.1".parse().unwrap());
    let minted = link.exchange_for(&stack.user, "", &["feature:chat"], passed_on).await;
    let minted = minted.map_err(|failure| failure.reason).unwrap();
    assert!(Forge::claims(&minted.token)["cnf"].is_null());
}

#[tokio::test]
async fn a_key_is_no_way_in_that_lets_the_last_secret_go() {
    let (stack, _model) = stack().await;
    let message = pb::CreateCredentialRequest {
        principal: "admin".to_owned(),
        purpose: pb::CredentialPurpose::Administration as i32,
        proof: Some(pb::Proof { proof: Some(public_key(Forge::stranger())) }),
        ..Default::default()
    };
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    principals.create_credential(stack.administer(message).await).await.unwrap();
    let message = pb::ListCredentialsRequest { principal: "admin".to_owned() };
    let list = principals.list_credentials(stack.administer(message).await).await.unwrap().into_inner().credentials;
    let secret = list.into_iter().find(|one| one.proof.is_none()).unwrap();
    let request = stack.administer(pb::RevokeCredentialRequest { id: secret.id }).await;
    assert_eq!(reason(&principals.revoke_credential(request).await.unwrap_err()), Reason::InUse);
}

#[tokio::test]
async fn a_fleet_is_known_by_its_certificates() {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).certified_fleet().start().await;
    let token = stack.token().await;
    assert_eq!(stack.ask(&token, Stack::chat("hi")).await.unwrap(), "fine");
}

#[tokio::test]
async fn a_member_of_the_fleet_is_known_by_the_token_in_a_file_that_somebody_renews() {
    let (stack, _model) = stack().await;
    let jwks = json!({ "keys": [Forge::stranger().jwk()] }).to_string();
    add_issuer(&stack, CLUSTER, pb::federated_issuer::Keys::JwksJson(jwks)).await.unwrap();
    has_keys(&stack, CLUSTER).await;
    let proof = federated(CLUSTER, &[("sub", "system:serviceaccount:build:runner")]);
    let message = pb::CreateFleetMemberRequest {
        name: "pod".to_owned(),
        kind: Some(pb::create_fleet_member_request::Kind::Adapter(pb::fleet_member::Adapter::default())),
        proof: Some(pb::Proof { proof: Some(proof) }),
    };
    let mut fleet = pb::fleet_service_client::FleetServiceClient::new(stack.at_instance());
    let made = fleet.create_fleet_member(stack.administer(message).await).await.unwrap().into_inner();
    assert!(made.credential.is_empty() && !made.trust_root.is_empty());

    let file = stack.dir.path().join("token");
    let config = InstanceConfig {
        credential_file: None,
        token_file: Some(file.clone()),
        ..InstanceConfig::by_secret(
            PeerAddress::try_from(format!("http://{}", stack.instance.grpc)).unwrap(),
            file.clone(),
        )
    };
    let lifecycle = Lifecycle::new(&Readiness::default());
    let clock = std::sync::Arc::new(stack.clock.clone());
    let link = InstanceLink::new(&config, &stack.dialer, clock, &lifecycle).unwrap();
    assert_eq!(link.own_token().await.err().map(|failure| failure.reason), Some(Reason::CredentialInvalid), "no file");
    std::fs::write(&file, "nonsense").unwrap();
    assert_eq!(link.own_token().await.err().map(|failure| failure.reason), Some(Reason::CredentialInvalid));
    std::fs::write(&file, format!("{}\n", workload(&stack, json!({})))).unwrap();
    let minted = link.own_token().await.map_err(|failure| failure.reason).unwrap();
    assert_eq!(Forge::claims(&minted.token)["scope"], "instance:fleet");
    // What a removed issuer vouched for ends, also a stream that is open.
    let hello = pb::WatchTrustRequest { replica_id: "r".to_owned(), acknowledged_sequence: 0 };
    let said = tokio_stream::StreamExt::chain(tokio_stream::iter([hello]), tokio_stream::pending());
    let mut trust = TrustServiceClient::new(stack.at_instance());
    let mut feed = trust.watch_trust(Stack::request(said, &minted.token)).await.unwrap().into_inner();
    assert!(soon("the first chunk", feed.message()).await.unwrap().is_some());
    // The same token is no person's.
    let person = exchange(&stack, &stack.dialer, JWT, &workload(&stack, json!({}))).await;
    assert_eq!(person, Err(Reason::CredentialInvalid));
    let request = stack.administer(pb::DeleteFederatedIssuerRequest { issuer: CLUSTER.to_owned() }).await;
    PrincipalServiceClient::new(stack.at_instance()).delete_federated_issuer(request).await.unwrap();
    let end = async {
        loop {
            match feed.message().await {
                Ok(more) => assert!(more.is_some(), "the feed ended without a word"),
                Err(status) => return reason(&status),
            }
        }
    };
    assert_eq!(soon("the end of the feed", end).await, Reason::CredentialInvalid);
}

#[test]
fn a_process_proves_itself_in_one_way() {
    let read = |text: &str| toml_of(&format!("address = \"http://127.0.0.1:1\"\n{text}")).check().is_ok();
    assert!(read("certificate = true") && read("token_file = \"t\"") && read("credential_file = \"c\""));
    assert!(!read("") && !read("certificate = true\ntoken_file = \"t\"") && !read("certificate = false"));
}

fn toml_of(text: &str) -> InstanceConfig {
    let pairs = text.lines().filter(|line| !line.is_empty()).map(|line| line.split_once(" = ").unwrap());
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let object: serde_json::Map<_, _> = pairs.map(|(name, text)| (name.to_owned(), value(text))).collect();
    serde_json::from_value(Value::Object(object)).unwrap()
}
