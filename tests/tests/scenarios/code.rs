//! Code at a cursor, in each of the ways that a model has for it.

use postern_proto::completion::v1::SourceFile;
use postern_proto::gateway::v1 as pb;
use postern_proto::instance::v1 as instance;
use postern_tests::{Act, FakeModel, Stack, answer, head};
use serde_json::json;

fn code(prefix: &str, suffix: Option<&str>) -> pb::Code {
    pb::Code { prefix: prefix.to_owned(), suffix: suffix.map(str::to_owned), ..Default::default() }
}

async fn completed(model: instance::Model, code: pb::Code) -> postern_proto::completion::v1::Completion {
    let stack = Stack::builder().registered(model, Some("key")).bind("code_completion", &["demo"]).start().await;
    let request = Stack::request(pb::CompleteCodeRequest { code: Some(code) }, &stack.token().await);
    stack.completions().complete_code(request).await.unwrap().into_inner().completion.unwrap()
}

#[tokio::test]
async fn a_server_that_fills_in_itself_is_given_both_sides() {
    let body = [
        r#"{"index":0,"content":"1;","stop":false}"#,
        r#"{"index":0,"content":"","stop":true,"stop_type":"eos","tokens_predicted":2,"tokens_evaluated":9}"#,
    ];
    let script: Vec<_> = [head(200, &[("content-type", "text/event-stream")])]
        .into_iter()
        .chain(body.map(|event| Act::Send(format!("data: {event}\n\n").into_bytes())))
        .collect();
    let server = FakeModel::playing([script]).await;
    let url = server.url().trim_end_matches("/v1").to_owned();
    let model = instance::Model { provider: "llamacpp".to_owned(), ..Stack::model("demo", &url) };
    let files = vec![SourceFile { path: "b.rs".to_owned(), text: "fn b() {}".to_owned() }];
    let answer = completed(model, pb::Code { related_files: files, ..code("let a = ", Some("\nb")) }).await;
    assert_eq!((answer.choices[0].text.as_str(), answer.usage.unwrap().input_tokens), ("1;", Some(9)));
    let asked = &server.requests()[0];
    assert_eq!(asked.path, "/infill");
    assert_eq!((&asked.body["input_prefix"], &asked.body["input_suffix"]), (&json!("let a = "), &json!("\nb")));
    assert_eq!(asked.body["input_extra"], json!([{ "filename": "b.rs", "text": "fn b() {}" }]));
}

#[tokio::test]
async fn a_model_that_only_chats_is_asked_and_its_answer_cleaned() {
    let server =
        FakeModel::playing([answer(&["```ru", "st\nlet a = 1;", "\nlet b = 2;\n``", "`\nThat sets a."])]).await;
    let model = instance::Model { family: "claude".to_owned(), ..Stack::model("demo", &server.url()) };
    let answer = completed(model, code("fn main() {\n", Some("\nlet b = 2;\n}"))).await;
    assert_eq!(answer.choices[0].text, "let a = 1;");
    assert_eq!(answer.prompt, "code_completion/claude/1.0.0");
    let asked = &server.requests()[0];
    assert_eq!(asked.path, "/v1/chat/completions");
    let question = asked.body["messages"][1]["content"].as_str().unwrap();
    assert!(question.contains("fn main() {") && question.contains("let b = 2;"), "{question}");
}

#[tokio::test]
async fn what_is_said_of_a_model_decides_and_code_is_trimmed_to_its_room() {
    let server = FakeModel::saying(&["x"]).await;
    let model = instance::Model {
        family: "qwen2.5-coder".to_owned(),
        capabilities: Some(instance::Capabilities {
            code: Some(instance::CodeMode::Server.into()),
            ..Default::default()
        }),
        limits: Some(instance::Limits { context_length: 500, max_concurrency: 0 }),
        ..Stack::model("demo", &server.url())
    };
    let answer = completed(model, code(&"line\n".repeat(1000), Some("after"))).await;
    assert!(answer.warnings.iter().any(|warning| warning.contains("trimmed")), "{:?}", answer.warnings);
    let asked = &server.requests()[0].body;
    let prompt = asked["prompt"].as_str().unwrap();
    assert!(prompt.ends_with("line\n") && prompt.len() < 1500 && !prompt.contains("<|"), "{}", prompt.len());
    assert_eq!(asked["suffix"], "after");
}
