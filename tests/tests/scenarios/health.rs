//! Health, readiness, and the way out.

use http_body_util::BodyExt as _;
use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::health::v1::HealthListRequest;
use postern_proto::health::v1::health_client::HealthClient;
use postern_runtime::lifecycle::Stopped;
use postern_tests::{Act, FakeModel, Gate, Stack, chunk, done, finish, get, soon, sse_head, usage};

#[tokio::test]
async fn every_process_tells_its_health_on_both_ports_without_a_credential() {
    let stack = Stack::builder().start().await;
    let adapter = stack.adapter.as_ref().unwrap();
    let processes = [
        (stack.instance.grpc, stack.instance.ops, "postern.instance.v1.TokenService"),
        (stack.gateway.grpc, stack.gateway.ops, "postern.gateway.v1.CompletionService"),
        (adapter.grpc, adapter.ops, "postern.model.v1.ModelService"),
    ];
    for (grpc, ops, service) in processes {
        for port in [grpc, ops] {
            let mut health = HealthClient::connect(format!("http://{port}")).await.unwrap();
            let statuses = health.list(HealthListRequest {}).await.unwrap().into_inner().statuses;
            for name in ["", service] {
                assert_eq!(statuses[name].status, 1, "{service} at {port}");
            }
            assert!(!statuses.keys().any(|name| name.contains("demo")));
        }
        for (path, body) in [("/livez", "ok"), ("/readyz", "ok")] {
            let answer = get(&format!("http://{ops}{path}"), "").await;
            assert_eq!((answer.status.as_u16(), answer.text.trim()), (200, body), "{service} {path}");
        }
        // A probe with a wrong path does not look healthy.
        assert_eq!(get(&format!("http://{ops}/healthz"), "").await.status, 404, "{service}");
        assert_eq!(get(&format!("http://{ops}/metrics"), "").await.status, 200);
    }
}

#[tokio::test]
async fn the_instance_publishes_its_keys_and_says_where() {
    let stack = Stack::builder().start().await;
    let at = format!("http://{}", stack.instance.http);
    let discovery = get(&format!("{at}/.well-known/openid-configuration"), "").await.json();
    assert_eq!(discovery["issuer"], "http://instance.test");
    assert_eq!(discovery["jwks_uri"], "http://instance.test/oauth/discovery/keys");
    let keys = get(&format!("{at}/oauth/discovery/keys"), "").await;
    assert!(keys.headers["cache-control"].to_str().unwrap().contains("max-age=300"));
    let keys = keys.json();
    assert_eq!((keys["keys"][0]["alg"].as_str(), keys["keys"].as_array().unwrap().len()), (Some("RS256"), 1));
    assert!(!keys.to_string().contains("\"d\""), "no private member");
}

#[tokio::test]
async fn a_gateway_whose_instance_is_away_names_what_it_waits_for() {
    use postern_runtime::clock::ManualClock;
    use postern_runtime::config::PeerAddress;
    let dir = tempfile::tempdir().unwrap();
    let credential = dir.path().join("credential");
    std::fs::write(&credential, "postern_flt_x").unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    // A port that was bound and closed again: nobody is there.
    let closed = tokio::net::TcpListener::bind(any).await.unwrap().local_addr().unwrap();
    let away = PeerAddress::try_from(format!("http://{closed}")).unwrap();
    let config = gateway_svc::config::GatewayConfig {
        tls: None,
        clients: Default::default(),
        trust: Default::default(),
        issuers: Vec::new(),
        notes: None,
        listen: gateway_svc::config::Listen { grpc: any, http: any, ops: any },
        instance: postern_runtime::instance::InstanceConfig::by_secret(away.clone(), credential),
        adapters: [("default".to_owned(), gateway_svc::config::AdapterConfig::Remote(away))].into(),
        http: Default::default(),
        limits: Default::default(),
        egress: Default::default(),
        prompts: Default::default(),
        telemetry: Default::default(),
        drain: postern_runtime::config::DrainConfig { notice_seconds: 0, grace_seconds: 0 },
    };
    let clock = std::sync::Arc::new(ManualClock::starting_now());
    let gateway = gateway_svc::app::App::build(config, clock).await.unwrap();
    let ready = get(&format!("http://{}/readyz", gateway.ops), "").await;
    assert_eq!(
        (ready.status.as_u16(), ready.text.trim()),
        (503, "waiting for: keys, routes, token for the adapter group default")
    );
    assert_eq!(get(&format!("http://{}/livez", gateway.ops), "").await.status, 200);
    let mut health = HealthClient::connect(format!("http://{}", gateway.grpc)).await.unwrap();
    assert_eq!(health.check(tonic::Request::new(Default::default())).await.unwrap().into_inner().status, 2);
    let body = serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = postern_tests::post(&format!("http://{}/v1/chat/completions", gateway.http), "a.b.c", &body).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "trust_unavailable"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_stopping_gateway_lets_a_stream_end_and_takes_no_new_one() {
    let gate = Gate::default();
    let script =
        vec![sse_head(), chunk("first "), Act::Wait(gate.clone()), chunk("last"), finish("stop"), usage(1, 2), done()];
    let model = FakeModel::playing([script]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.token().await);
    let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().is_some());
    let ready = stack.gateway.readiness.watch();
    let address = stack.gateway.grpc;
    let Stack { instance, gateway, adapter, .. } = stack;
    let stopping = tokio::spawn(gateway.stop());
    let mut watch = ready.clone();
    soon("not being ready", watch.wait_for(|ready| !*ready)).await.unwrap();
    gate.open();
    let mut count = 0;
    while soon("an event", events.message()).await.unwrap().is_some() {
        count += 1;
    }
    assert!(count >= 3, "the stream ended whole");
    assert_eq!(soon("the end of the drain", stopping).await.unwrap(), Stopped::Drained);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is closed");
    adapter.unwrap().stop().await;
    assert_eq!(instance.stop().await, Stopped::Drained);
}

/// Whichever process it is that stops, and through whichever door one came.
#[tokio::test]
async fn a_stream_that_outlives_the_grace_ends_with_a_status_and_not_with_a_broken_connection() {
    for stopped in ["gateway", "adapter", "instance"] {
        let model = FakeModel::playing([vec![sse_head(), chunk("first "), Act::Hang]]).await;
        let stack = Stack::builder().model("demo", &model).grace(0).start().await;
        let request = |bearer: &str| Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, bearer);
        let mut direct = stack.completions().stream_chat(request(&stack.token().await)).await.unwrap().into_inner();
        let mut relay = CompletionServiceClient::new(stack.at_instance());
        let mut relayed = relay.stream_chat(request(&stack.user)).await.unwrap().into_inner();
        let body = serde_json::json!({
            "model": "demo", "stream": true, "messages": [{ "role": "user", "content": "hi" }],
        });
        let http = postern_tests::post_stream(&stack.http("/v1/chat/completions"), &stack.user, &body).await;
        for events in [&mut direct, &mut relayed] {
            assert!(soon("an event", events.message()).await.unwrap().is_some());
        }
        let Stack { instance, gateway, adapter, .. } = stack;
        let outcome = match stopped {
            "gateway" => gateway.stop().await,
            "adapter" => adapter.unwrap().stop().await,
            _ => instance.stop().await,
        };
        assert_eq!(outcome, Stopped::Aborted, "{stopped}");
        let mut told = vec![&mut relayed];
        if stopped != "instance" {
            told.push(&mut direct);
            let said = String::from_utf8(http.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
            assert!(said.contains("first ") && said.contains("draining"), "{stopped}: {said}");
        }
        for events in told {
            let status = loop {
                match soon("the end", events.message()).await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{stopped}: it ended well"),
                    Err(status) => break status,
                }
            };
            assert_eq!(postern_tests::reason(&status), Reason::Draining, "{stopped}");
        }
    }
}
