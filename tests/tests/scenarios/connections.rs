//! The way from the adapter to a model's server: what is shown there, whom it is believed, and how far it may lead.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_egress::{ClientTls, Egress, EgressConfig};
use postern_proto::gateway::v1 as gateway;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::model_credential::Credential;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use postern_proto::{Failure, Reason};
use postern_runtime::tls::{Tls, TlsConfig};
use postern_tests::{
    Act, Authority, FakeModel, Forge, Gate, Stack, answer, chunk, done, finish, head, reason, soon, sse_head, usage,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn update(stack: &Stack, model: instance::Model, credential: instance::ModelCredential) -> Result<(), Failure> {
    let message = instance::UpdateModelRequest { model: Some(model), credential: Some(credential) };
    let request = stack.administer(message).await;
    let updated = ModelRegistryServiceClient::new(stack.at_instance()).update_model(request).await;
    updated.map(drop).map_err(|status| Failure::from_status(&status, Reason::Internal))
}

/// Asks until the adapter has heard of a change, within bounds.
async fn ask_until(stack: &Stack, wanted: Option<Reason>) -> String {
    let asked = async {
        loop {
            match stack.ask(&stack.token().await, Stack::chat("hi")).await {
                Ok(text) if wanted.is_none() => return text,
                Err(status) if Some(reason(&status)) == wanted => return status.message().to_owned(),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    soon("an answer of the kind", asked).await
}

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn aws() -> instance::ModelCredential {
    let key = instance::AwsAccessKey {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: SECRET.to_owned(),
        session_token: "session".to_owned(),
        region: "eu-central-1".to_owned(),
    };
    instance::ModelCredential { credential: Some(Credential::Aws(key)), client_certificate: None }
}

#[tokio::test]
async fn requests_to_aws_are_signed_and_carry_the_headers_that_were_asked_for() {
    let refusal = [
        head(403, &[("content-type", "application/json")]),
        Act::Send(format!(r#"{{"message":"no {SECRET}"}}"#).into_bytes()),
    ];
    let server = FakeModel::playing([refusal.to_vec()]).await;
    let model = instance::Model {
        provider: "bedrock".to_owned(),
        headers: vec![instance::Header { name: "x-team".to_owned(), value: "search".to_owned() }],
        ..Stack::model("demo", &server.url())
    };
    let stack = Stack::builder().registered(model.clone(), None).bind("chat", &["demo"]).start().await;
    update(&stack, model.clone(), aws()).await.unwrap();
    let told = async {
        loop {
            let told = ask_until(&stack, Some(Reason::ModelCredentialRejected)).await;
            if server.requests().last().unwrap().headers.contains_key("authorization") {
                return told;
            }
        }
    };
    let told = soon("a signed request", told).await;
    assert!(!told.contains(SECRET), "{told}");
    let asked = server.requests().pop().unwrap();
    let shown = |name: &str| asked.headers[name].to_str().unwrap();
    let authorization = shown("authorization");
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    assert!(authorization.contains("/eu-central-1/bedrock/aws4_request"), "{authorization}");
    assert_eq!((shown("x-amz-security-token"), shown("x-team")), ("session", "search"));
    // A key of AWS is for AWS alone.
    let other = instance::Model { provider: "openai".to_owned(), ..model };
    assert_eq!(update(&stack, other, aws()).await.unwrap_err().fields[0].0, "credential.aws");
}

#[tokio::test]
async fn a_service_account_of_googles_is_shown_as_a_token_that_serves_again() {
    let json = |body: serde_json::Value| {
        vec![head(200, &[("content-type", "application/json")]), Act::Send(body.to_string().into_bytes())]
    };
    let tokens = FakeModel::playing([json(json!({ "access_token": "google-token", "expires_in": 3600 }))]).await;
    let said = json!({ "candidates": [{ "content": { "parts": [{ "text": "hi" }] }, "finishReason": "STOP" }] });
    let server = FakeModel::playing([json(said)]).await;
    let token_uri = format!("{}/token", tokens.url());
    let key_file = json!({
        "type": "service_account", "client_email": "postern@example.iam.gserviceaccount.com", "private_key_id": "k1",
        "private_key": std::fs::read_to_string(Forge::stranger().pem()).unwrap(), "token_uri": token_uri,
    });
    let model = instance::Model { provider: "vertex".to_owned(), ..Stack::model("demo", &server.url()) };
    let stack = Stack::builder().registered(model.clone(), None).bind("chat", &["demo"]).start().await;
    let google = |key_json: String| instance::ModelCredential {
        credential: Some(Credential::Google(instance::GoogleServiceAccount { key_json })),
        client_certificate: None,
    };
    assert!(update(&stack, model.clone(), google("no key file".to_owned())).await.is_err());
    update(&stack, model.clone(), google(key_file.to_string())).await.unwrap();
    let shown =
        |server: &FakeModel| server.requests().last().and_then(|asked| asked.headers.get("authorization").cloned());
    let asked = async {
        while shown(&server).is_none_or(|shown| shown != "Bearer google-token") {
            let _ = stack.ask(&stack.token().await, Stack::chat("hi")).await;
        }
    };
    soon("a request with the token", asked).await;
    stack.ask(&stack.token().await, Stack::chat("hi")).await.unwrap();
    assert_eq!(tokens.requests().len(), 1, "the token serves again");
    let form: std::collections::HashMap<_, _> =
        form_urlencoded::parse(tokens.requests()[0].text.as_bytes()).into_owned().collect();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let claims = Forge::claims(&form["assertion"]);
    assert_eq!((&claims["iss"], &claims["aud"]), (&key_file["client_email"], &key_file["token_uri"]));
    assert_eq!(Forge::header_of(&form["assertion"])["kid"], "k1");
    // The machine's own account is shown to Google alone, whoever registers what.
    update(&stack, model.clone(), google(String::new())).await.unwrap();
    ask_until(&stack, Some(Reason::AdapterUnavailable)).await;
    // Such an account is for Google alone.
    let other = instance::Model { provider: "gemini".to_owned(), ..model };
    assert_eq!(update(&stack, other, google(key_file.to_string())).await.unwrap_err().fields[0].0, "credential.google");
}

/// A model's server over TLS that demands a certificate; it answers everybody alike.
async fn over_tls(config: &TlsConfig) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = (*Tls::load(config).unwrap().server()).clone();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = vec![0; 64 * 1024];
                if stream.read(&mut request).await.is_ok() {
                    for act in answer(&["safe"]) {
                        if let Act::Send(bytes) = act {
                            let _ = stream.write_all(&bytes).await;
                        }
                    }
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    format!("https://localhost:{}/v1", address.port())
}

#[tokio::test]
async fn a_server_is_believed_by_an_authority_of_its_own_and_shown_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::default();
    let (server, client) = (authority.issue(dir.path(), "server"), authority.issue(dir.path(), "client"));
    let server = TlsConfig { client_ca_file: server.ca_file.clone(), ..server };
    let url = over_tls(&server).await;
    let model = Stack::model("demo", &url);
    let stack = Stack::builder().registered(model.clone(), None).bind("chat", &["demo"]).start().await;
    // The system's authorities do not know it.
    ask_until(&stack, Some(Reason::ModelUnreachable)).await;
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let known = instance::Model { ca_pem: text(client.ca_file.as_ref().unwrap()), ..model };
    let shown = instance::ClientCertificate {
        certificate_pem: text(&client.cert_file),
        private_key_pem: text(&client.key_file),
    };
    let none = || Some(Credential::None(instance::NoCredential {}));
    let with = |client_certificate| instance::ModelCredential { credential: none(), client_certificate };
    update(&stack, known.clone(), with(Some(shown))).await.unwrap();
    assert_eq!(ask_until(&stack, None).await, "safe");
    // Without a certificate the server does not answer.
    update(&stack, known, with(None)).await.unwrap();
    ask_until(&stack, Some(Reason::ModelUnreachable)).await;
}

/// A proxy that is shown `user:secret`, tunnels to one place whatever the name, and says which names it was asked for.
async fn a_proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (to, heard) = (to.clone(), heard.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                heard.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                if !head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n") {
                    let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                    return;
                }
                let mut beyond = tokio::net::TcpStream::connect(to).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut beyond).await;
            });
        }
    });
    (url, asked)
}

#[tokio::test]
async fn what_lies_outside_is_reached_by_the_proxy_that_the_operator_names() {
    let dir = tempfile::tempdir().unwrap();
    let server = Authority::default().issue(dir.path(), "server");
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let ca_pem = text(server.ca_file.as_ref().unwrap());
    let beyond = over_tls(&TlsConfig { require_client_certificate: false, ca_file: None, ..server }).await;
    let (url, asked) = a_proxy(beyond.trim_start_matches("https://").trim_end_matches("/v1").to_owned()).await;
    let credentials = dir.path().join("proxy");
    std::fs::write(&credentials, "user:secret\n").unwrap();
    let outside = format!("https://{}/v1", Authority::OUTSIDE);
    let model = instance::Model { ca_pem, endpoint_networks: Vec::new(), ..Stack::model("demo", &outside) };
    let stack = |proxy_credentials_file| {
        let egress = EgressConfig { proxy: Some(url.clone()), proxy_credentials_file, ..EgressConfig::default() };
        Stack::builder().egress(egress).registered(model.clone(), None).bind("chat", &["demo"]).start()
    };
    let shown = stack(Some(credentials)).await;
    assert_eq!(ask_until(&shown, None).await, "safe");
    assert_eq!(asked.lock().unwrap()[0], "CONNECT model.test:443 HTTP/1.1");
    // Without the password the proxy lets nothing through; who asks is not told of the proxy.
    let not_shown = stack(None).await;
    let told = ask_until(&not_shown, Some(Reason::ModelUnreachable)).await;
    assert!(!told.contains("proxy"), "{told}");
}

#[tokio::test]
async fn an_adapter_that_is_offline_reaches_only_what_lies_inside() {
    let server = FakeModel::saying(&["inside"]).await;
    let egress =
        EgressConfig { offline: true, networks: vec!["127.0.0.0/8".parse().unwrap()], ..EgressConfig::default() };
    let outside = |name: &str, url: &str, networks: &[&str]| instance::Model {
        endpoint_networks: networks.iter().map(|network| (*network).to_owned()).collect(),
        ..Stack::model(name, url)
    };
    let stack = Stack::builder()
        .egress(egress)
        .registered(Stack::model("inside", &server.url()), None)
        // By its address, by its networks, and by what its name stands for.
        .registered(outside("by-address", "http://10.9.9.9/v1", &["0.0.0.0/0"]), None)
        .registered(outside("by-network", "http://model.test/v1", &[]), None)
        .registered(outside("by-name", "http://[::1]:9/v1", &["127.0.0.0/8", "::1/128"]), None)
        .bind("chat", &["inside", "by-address", "by-network", "by-name"])
        .start()
        .await;
    let ask = async |model: &str| {
        let chat = postern_proto::gateway::v1::Chat { model: model.to_owned(), ..Stack::chat("hi") };
        stack.ask(&stack.token().await, chat).await
    };
    assert_eq!(ask("inside").await.unwrap(), "inside");
    for model in ["by-address", "by-network", "by-name"] {
        let refused = reason(&ask(model).await.unwrap_err());
        assert!(matches!(refused, Reason::AdapterUnavailable | Reason::EgressDenied), "{model}: {refused:?}");
    }
}

/// As many as a server takes on one connection, and half as many again.
#[tokio::test]
async fn the_streams_of_one_connection_are_no_ceiling() {
    const AT_ONCE: usize = 150;
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::default().issue(dir.path(), "server");
    let mut server = (*Tls::load(&files).unwrap().server()).clone();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, all_here) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(AT_ONCE)));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, all_here, counted) = (acceptor.clone(), all_here.clone(), counted.clone());
            tokio::spawn(async move {
                let is_used = AtomicUsize::new(0);
                // Nobody is answered before all are there.
                let service = hyper::service::service_fn(move |_| {
                    if is_used.fetch_add(1, Ordering::Relaxed) == 0 {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    let all_here = all_here.clone();
                    async move {
                        all_here.wait().await;
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from("here"))))
                    }
                });
                // Until the first says that it speaks HTTP/2, more are begun, and given up.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.max_concurrent_streams(100).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let certificate = Some((text(&files.cert_file), text(&files.key_file)));
    let tls = ClientTls { ca_pem: text(files.ca_file.as_ref().unwrap()), certificate };
    let egress = Egress::new(&EgressConfig::default()).unwrap();
    let networks = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let connector = egress.connector(networks, std::time::Duration::from_secs(5));
    let client = egress.client_with(&connector, &tls, 4).unwrap();
    let ask = async || {
        let request = http::Request::get(format!("https://localhost:{port}/")).body(Full::default()).unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "here");
    };
    soon("all answers", futures_util::future::join_all((0..AT_ONCE).map(|_| ask()))).await;
    let made = connections.load(Ordering::Relaxed);
    assert!((2..=3).contains(&made), "{made} connections");
}

#[tokio::test]
async fn a_new_key_is_used_at_once_and_the_streams_of_the_old_one_go_on() {
    let gate = Gate::default();
    let slow =
        vec![sse_head(), chunk("one "), Act::Wait(gate.clone()), chunk("two"), finish("stop"), usage(1, 2), done()];
    let server = FakeModel::playing([slow, answer(&["new"])]).await;
    let registered = Stack::model("demo", &server.url());
    let stack = Stack::builder().registered(registered.clone(), Some("old-key")).bind("chat", &["demo"]).start().await;
    let token = stack.token().await;
    let request = Stack::request(gateway::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &token);
    let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
    let key = Credential::ApiKey(instance::ApiKey { value: "new-key".to_owned() });
    let credential = instance::ModelCredential { credential: Some(key), client_certificate: None };
    update(&stack, registered, credential).await.unwrap();
    let shown = || server.requests().last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
    assert_eq!(shown(), "Bearer old-key");
    let asked = async {
        while shown() != "Bearer new-key" {
            stack.ask(&token, Stack::chat("hi")).await.unwrap();
        }
    };
    soon("a request with the new key", asked).await;
    gate.open();
    let mut ended = false;
    while let Some(event) = soon("an event", events.message()).await.unwrap() {
        ended =
            matches!(event.event.unwrap().event, Some(postern_proto::completion::v1::completion_event::Event::End(_)));
    }
    assert!(ended, "the stream under the old key came to its end");
}
