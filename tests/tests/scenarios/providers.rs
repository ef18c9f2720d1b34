//! Every provider from the gateway's door to the model server's socket and back: the golden answers, sent by a server.

use std::path::Path;

use base64::Engine as _;
use postern_proto::Reason;
use postern_proto::gateway::v1 as gateway;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use postern_proto::model::v1 as model;
use postern_proto::model::v1::model_service_client::ModelServiceClient;
use postern_tests::{Act, FakeModel, Stack, head, reason, soon};
use serde_json::{Value, json};

/// A server that answers as a golden exchange does, in two parts.
async fn server(golden: &str) -> FakeModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("goldens/{golden}.json"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let body = base64::engine::general_purpose::STANDARD.decode(golden["response"]["body_base64"].as_str().unwrap());
    let body = body.unwrap();
    let kind = golden["response"]["headers"]["content-type"].as_str().unwrap();
    let status = u16::try_from(golden["response"]["status"].as_u64().unwrap()).unwrap();
    let (one, two) = body.split_at(body.len() / 2);
    let parts = [head(status, &[("content-type", kind)]), Act::Send(one.to_vec()), Act::Send(two.to_vec())];
    FakeModel::playing([parts.to_vec()]).await
}

async fn stack(provider: &str, server: &FakeModel) -> Stack {
    let registered = instance::Model { provider: provider.to_owned(), ..Stack::model("demo", &server.url()) };
    Stack::builder().registered(registered, Some("model-api-key")).bind("chat", &["demo"]).start().await
}

#[tokio::test]
async fn a_caller_cannot_tell_which_api_is_behind_a_model() {
    for (provider, golden, path, header, text) in [
        ("anthropic", "anthropic/messages-thinking-and-text", "/v1/messages", "x-api-key", "Grüezi"),
        (
            "gemini",
            "gemini/generate_content-thought-text-call",
            "/v1/models/demo:streamGenerateContent?alt=sse",
            "x-goog-api-key",
            "Yes.",
        ),
        ("ollama", "ollama/ollama_chat-thinking-text", "/v1/api/chat", "authorization", "Grüezi"),
        ("cohere", "cohere/cohere_chat-text", "/v1/v2/chat", "authorization", "Grüezi"),
        ("bedrock", "bedrock/converse-thinking-text", "/v1/model/demo/converse-stream", "authorization", "Grüezi"),
        (
            "azure_openai",
            "openai/chat-text-crlf",
            "/v1/openai/deployments/demo/chat/completions?api-version=2024-10-21",
            "api-key",
            "Grüß Gott",
        ),
        ("mistral", "openai/chat-text-crlf", "/v1/chat/completions", "authorization", "Grüß Gott"),
    ] {
        let server = server(golden).await;
        let stack = stack(provider, &server).await;
        let request = gateway::StreamChatRequest { chat: Some(Stack::chat("hi")) };
        let request = Stack::request(request, &stack.token().await);
        let mut events = stack.completions().stream_chat(request).await.unwrap().into_inner();
        let (mut said, mut ended) = (String::new(), false);
        while let Some(event) = soon("an event", events.message()).await.unwrap() {
            use postern_proto::completion::v1::{completion_event::Event, delta};
            match event.event.unwrap().event.unwrap() {
                Event::Delta(delta) => {
                    if let Some(delta::Delta::Text(text)) = delta.delta {
                        said.push_str(&text);
                    }
                }
                Event::End(_) => ended = true,
                Event::Start(_) | Event::Usage(_) => {}
            }
        }
        assert_eq!((said.as_str(), ended), (text, true), "{provider}");
        let asked = &server.requests()[0];
        assert_eq!(asked.path, path, "{provider}");
        let shown = asked.headers.get(header).unwrap().to_str().unwrap();
        assert_eq!(shown.trim_start_matches("Bearer "), "model-api-key", "{provider}");
    }
}

#[tokio::test]
async fn a_failure_in_a_stream_is_one_whatever_the_api() {
    for (provider, golden, expected) in [
        ("anthropic", "anthropic/messages-overloaded", Reason::ModelUnavailable),
        ("gemini", "gemini/generate_content-no-end", Reason::ModelStreamTruncated),
        ("ollama", "ollama/ollama_chat-error-line", Reason::ModelFailed),
        ("bedrock", "bedrock/converse-exception", Reason::ModelRateLimited),
    ] {
        let server = server(golden).await;
        let stack = stack(provider, &server).await;
        let status = stack.ask(&stack.token().await, Stack::chat("hi")).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{provider}: {}", status.message());
    }
}

#[tokio::test]
async fn texts_are_embedded_in_as_many_requests_as_the_server_needs() {
    let nth = |number: usize| {
        let body = json!({ "embedding": [number, 7], "inputTextTokenCount": 2 }).to_string();
        vec![head(200, &[("content-type", "application/json")]), Act::Send(body.into_bytes())]
    };
    let server = FakeModel::playing((0..9).map(nth)).await;
    let titan = instance::Model {
        provider: "bedrock".to_owned(),
        identifier: "amazon.titan-embed-text-v2:0".to_owned(),
        ..Stack::model("demo", &server.url())
    };
    let stack = Stack::builder().registered(titan, Some("model-api-key")).bind("embed", &["demo"]).start().await;
    let inputs: Vec<_> = (0..9).map(|text| format!("text {text}")).collect();
    let embedding = gateway::Embedding { inputs: inputs.clone(), ..Default::default() };
    let message = gateway::EmbedRequest { embedding: Some(embedding) };
    let token = stack.exchange(&stack.user, "postern-gateway:gateway", &["feature:embed"]).await.unwrap();
    let answer = stack.completions().embed(Stack::request(message, &token)).await.unwrap().into_inner();
    assert_eq!(answer.usage.unwrap().input_tokens, Some(18));
    // The vectors are in the order of the texts, in whichever order their requests came.
    let came = server.requests();
    let text_of = |vector: &gateway::Vector| {
        let nth = (0..9u8).position(|nth| vector.values[0] == f32::from(nth)).unwrap();
        came[nth].body["inputText"].clone()
    };
    let answered: Vec<_> = answer.vectors.iter().map(text_of).collect();
    assert_eq!(answered, inputs);
}

#[tokio::test]
async fn an_adapter_embeds_texts_for_a_gateway() {
    let answer = json!({ "data": [{ "index": 0, "embedding": [1, 2] }], "usage": { "prompt_tokens": 3 } });
    let head = || head(200, &[("content-type", "application/json")]);
    let script = vec![head(), Act::Send(answer.to_string().into_bytes())];
    let server = FakeModel::playing([script]).await;
    let stack = stack("openai", &server).await;
    let request = stack.administer(instance::GetModelRequest { name: "demo".to_owned() }).await;
    let found = ModelRegistryServiceClient::new(stack.at_instance()).get_model(request).await.unwrap().into_inner();
    let endpoint_id = found.model.unwrap().endpoints[0].id.clone();
    let credential = std::fs::read_to_string(stack.dir.path().join("gateway.credential")).unwrap();
    let credential = credential.lines().next().unwrap();
    let token = stack.exchange(credential, "postern-adapter:default", &["model:generate"]).await.unwrap();
    let embed = async |inputs: &[&str]| {
        let inputs = inputs.iter().map(|text| (*text).to_owned()).collect();
        let message = model::EmbedRequest { endpoint_id: endpoint_id.clone(), inputs, ..Default::default() };
        ModelServiceClient::new(stack.at_adapter()).embed(Stack::request(message, &token)).await
    };
    let answer = embed(&["a"]).await.unwrap().into_inner();
    assert_eq!(
        (answer.embeddings[0].values.as_slice(), answer.usage.unwrap().input_tokens),
        (&[1.0, 2.0][..], Some(3))
    );
    assert_eq!(server.requests()[0].path, "/v1/embeddings");
    assert_eq!(reason(&embed(&["a", "b"]).await.unwrap_err()), Reason::ModelAnswerInvalid, "one vector for two texts");
    assert_eq!(reason(&embed(&[]).await.unwrap_err()), Reason::RequestInvalid);
}
