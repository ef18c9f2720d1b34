//! OAuth over HTTP: its answers and its errors are the RFCs'.

use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_tests::{FakeModel, Forge, HttpAnswer, Stack, get, post_form};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// A service account with a client secret, and the administrator's own.
async fn stack() -> (Stack, String, FakeModel) {
    let model = FakeModel::saying(&["fine"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let message = instance::CreatePrincipalRequest {
        name: "robot".to_owned(),
        kind: instance::PrincipalKind::Service as i32,
        roles: vec![],
        ..Default::default()
    };
    principals.create_principal(stack.administer(message).await).await.unwrap();
    let message = instance::CreateCredentialRequest {
        principal: "robot".to_owned(),
        purpose: instance::CredentialPurpose::Inference as i32,
        ..Default::default()
    };
    let secret = principals.create_credential(stack.administer(message).await).await.unwrap().into_inner().secret;
    (stack, secret, model)
}

async fn token(stack: &Stack, basic: Option<(&str, &str)>, form: &[(&str, &str)]) -> HttpAnswer {
    post_form(&stack.instance_http("/oauth/token"), basic, form).await
}

fn error(answer: &HttpAnswer) -> (u16, String) {
    assert_eq!(answer.headers["cache-control"], "no-store");
    (answer.status.as_u16(), answer.json()["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn client_credentials_give_a_token_for_a_gateway() {
    let (stack, secret, _model) = stack().await;
    let form = [("grant_type", "client_credentials"), ("scope", "feature:chat")];
    let posted = [form[0], form[1], ("client_id", "robot"), ("client_secret", secret.as_str())];
    for answer in [token(&stack, Some(("robot", &secret)), &form).await, token(&stack, None, &posted).await] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.headers["cache-control"], "no-store");
        let json = answer.json();
        assert_eq!((json["token_type"].as_str(), json["scope"].as_str()), (Some("Bearer"), Some("feature:chat")));
        assert_eq!(json["expires_in"], 300);
        let access = json["access_token"].as_str().unwrap();
        assert_eq!(stack.ask(access, Stack::chat("hi")).await.unwrap(), "fine");
    }
}

#[tokio::test]
async fn token_exchange_narrows_and_names_the_actor() {
    let (stack, secret, _model) = stack().await;
    let form = [
        ("grant_type", EXCHANGE),
        ("subject_token", stack.user.as_str()),
        ("actor_token", secret.as_str()),
        ("scope", "feature:code_completion"),
        ("lifetime", "60"),
    ];
    let answer = token(&stack, None, &form).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let json = answer.json();
    assert_eq!(json["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    let claims = Forge::claims(json["access_token"].as_str().unwrap());
    assert_eq!((claims["scope"].as_str(), json["expires_in"].as_u64()), (Some("feature:code_completion"), Some(60)));
    assert!(claims["act"]["sub"].as_str().unwrap().starts_with("svc_"), "{claims}");
    assert!(claims["sub"].as_str().unwrap().starts_with("usr_"));
}

#[tokio::test]
async fn errors_are_those_of_the_rfcs() {
    let (stack, secret, _model) = stack().await;
    let client = Some(("robot", secret.as_str()));
    let good = [("grant_type", "client_credentials"), ("scope", "feature:chat")];
    let cases: Vec<(Option<(&str, &str)>, Vec<(&str, &str)>, u16, &str)> = vec![
        (client, vec![], 400, "invalid_request"),
        (client, vec![("grant_type", "password")], 400, "unsupported_grant_type"),
        (None, good.to_vec(), 401, "invalid_client"),
        (Some(("eve", &secret)), good.to_vec(), 401, "invalid_client"),
        (Some(("robot", "wrong")), good.to_vec(), 401, "invalid_client"),
        (client, vec![good[0]], 400, "invalid_scope"),
        (client, vec![good[0], ("scope", "instance:admin")], 400, "invalid_scope"),
        (client, vec![good[0], good[1], ("audience", "elsewhere")], 400, "invalid_target"),
        (client, vec![good[0], good[1], ("lifetime", "soon")], 400, "invalid_request"),
        (client, vec![good[0], good[1], ("lifetime", "901")], 400, "invalid_request"),
        (client, vec![good[0], good[1], good[1]], 400, "invalid_request"),
        (client, vec![good[0], good[1], ("client_id", "robot"), ("client_secret", &secret)], 400, "invalid_request"),
        (None, vec![("grant_type", EXCHANGE), good[1]], 400, "invalid_request"),
        (None, vec![("grant_type", EXCHANGE), good[1], ("subject_token", "x")], 400, "invalid_request"),
        (
            None,
            vec![("grant_type", EXCHANGE), good[1], ("subject_token", &secret), ("subject_token_type", "x")],
            400,
            "invalid_request",
        ),
    ];
    for (basic, form, status, name) in cases {
        let answer = token(&stack, basic, &form).await;
        assert_eq!(error(&answer), (status, name.to_owned()), "{form:?}");
        assert!(!answer.text.contains(&secret), "no secret comes back");
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
    }
    let json = postern_tests::post(&stack.instance_http("/oauth/token"), "", &serde_json::json!({})).await;
    assert_eq!(error(&json), (400, "invalid_request".to_owned()), "a body of another type");
}

#[tokio::test]
async fn introspection_and_revocation_over_http() {
    let (stack, secret, _model) = stack().await;
    let access = stack.token().await;
    let introspect = async |basic: Option<(&str, &str)>, token: &str| {
        post_form(&stack.instance_http("/oauth/introspect"), basic, &[("token", token)]).await
    };
    let admin = Some(("admin", stack.admin.as_str()));
    let told = introspect(admin, &access).await.json();
    assert_eq!((told["active"].as_bool(), told["sub"].clone()), (Some(true), Forge::claims(&access)["sub"].clone()));
    // Who may not know is told no more than of a bad token.
    assert_eq!(introspect(Some(("robot", &secret)), &access).await.text, r#"{"active":false}"#);
    assert_eq!(introspect(admin, "nonsense").await.text, r#"{"active":false}"#);
    assert_eq!(error(&introspect(None, &access).await), (401, "invalid_client".to_owned()));

    let revoke = async |form: &[(&str, &str)]| post_form(&stack.instance_http("/oauth/revoke"), None, form).await;
    assert_eq!(revoke(&[("token", &access), ("token_type_hint", "access_token")]).await.status, 200);
    assert_eq!(revoke(&[("token", "nonsense")]).await.status, 200, "what is no good is revoked already");
    assert_eq!(error(&revoke(&[]).await), (400, "invalid_request".to_owned()));
    let ended = async { while introspect(admin, &access).await.json()["active"] == true {} };
    postern_tests::soon("the end of the token", ended).await;

    // A credential ends as well, and takes its tokens along.
    assert_eq!(revoke(&[("token", &secret)]).await.status, 200);
    let form = [("grant_type", "client_credentials"), ("scope", "feature:chat")];
    assert_eq!(token(&stack, Some(("robot", &secret)), &form).await.status, 401);
}

#[tokio::test]
async fn metadata_names_what_is_served_and_keys_carry_an_etag() {
    let (stack, _, _model) = stack().await;
    let metadata = get(&stack.instance_http("/.well-known/oauth-authorization-server"), "").await.json();
    let issuer = metadata["issuer"].as_str().unwrap();
    for endpoint in ["token_endpoint", "introspection_endpoint", "revocation_endpoint", "jwks_uri"] {
        let path = metadata[endpoint].as_str().unwrap().strip_prefix(issuer).unwrap();
        let answer = get(&stack.instance_http(path), "").await;
        assert_ne!(answer.status, 404, "{endpoint}");
    }
    let openid = get(&stack.instance_http("/.well-known/openid-configuration"), "").await.json();
    assert_eq!(openid["jwks_uri"], metadata["jwks_uri"]);
    let keys = get(&stack.instance_http("/oauth/discovery/keys"), "").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert!(keys.headers["cache-control"].to_str().unwrap().contains("max-age=300"));
    assert!(!keys.json()["keys"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn an_administrators_key_for_inference_asks_about_no_token() {
    let (stack, _secret, _model) = stack().await;
    let message = instance::CreateCredentialRequest {
        principal: "admin".to_owned(),
        purpose: instance::CredentialPurpose::Inference as i32,
        ..Default::default()
    };
    let mut principals = PrincipalServiceClient::new(stack.at_instance());
    let key = principals.create_credential(stack.administer(message).await).await.unwrap().into_inner().secret;
    let token = stack.token().await;
    let ask = async |secret: &str| {
        let form = [("token", token.as_str())];
        post_form(&stack.instance_http("/oauth/introspect"), Some(("admin", secret)), &form).await.json()["active"]
            .clone()
    };
    assert_eq!((ask(&key).await, ask(&stack.admin).await), (false.into(), true.into()));
}
