//! What is sent to each provider for one and the same conversation, a line of JSON each, for tests that hold it against the vendors' own
//! types: `cargo run -p postern-tests --example requests`.
#![expect(clippy::unwrap_used, reason = "an example fails by panicking")]

use model_adapter::provider::{Call, Target, by_name};
use postern_proto::completion::v1::{
    CacheMark, ContentPart, Image, Message, Parameters, ResponseFormat, Role, Thought, Tool, ToolCall, ToolChoice,
    content_part, image, response_format, tool_choice,
};
use postern_proto::instance::v1::Capabilities;
use postern_proto::model::v1::{ChatPrompt, EmbedRequest, Generation, RawPrompt, generation};
use serde_json::{Value, json};

fn text(text: &str) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text.to_owned())), cache: None }
}

fn message(role: Role, content: Vec<ContentPart>) -> Message {
    Message { role: role as i32, content, ..Message::default() }
}

/// Instructions, a question with an image, two calls with the thoughts before them, their results, and one more question; with marks of
/// what the server shall keep.
fn conversation(provider: &str) -> ChatPrompt {
    let signed = |signature: &str| format!("{provider}:{signature}");
    let thoughts = vec![
        Thought { text: "Hm.".to_owned(), signature: signed("c2lnbmVk") },
        Thought { text: String::new(), signature: format!("{provider}-redacted:c2VjcmV0") },
    ];
    let keep = Some(CacheMark { ttl: "1h".to_owned() });
    let picture = Image {
        source: Some(image::Source::Data(vec![137, 80, 78, 71])),
        media_type: "image/png".to_owned(),
        detail: String::new(),
    };
    let picture = ContentPart { part: Some(content_part::Part::Image(picture)), cache: None };
    let call = |id: &str, city: &str| ToolCall {
        id: id.to_owned(),
        name: "weather".to_owned(),
        arguments_json: json!({ "city": city }).to_string(),
        signature: signed("c2lnbmVk"),
    };
    let result =
        |id: &str, said: &str| Message { tool_call_id: id.to_owned(), ..message(Role::Tool, vec![text(said)]) };
    ChatPrompt {
        messages: vec![
            message(Role::System, vec![ContentPart { cache: keep.clone(), ..text("Be brief.") }]),
            message(Role::User, vec![text("Where is this?"), picture]),
            Message {
                tool_calls: vec![call("c1", "Bern"), call("c2", "Basel")],
                thoughts,
                ..message(Role::Assistant, vec![])
            },
            result("c1", "sun"),
            result("c2", "rain"),
            message(Role::User, vec![text("And?")]),
        ],
        tools: vec![Tool {
            name: "weather".to_owned(),
            description: "Tells the weather.".to_owned(),
            parameters_json: json!({
                "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
            })
            .to_string(),
            strict: None,
            cache: keep,
        }],
        tool_choice: Some(ToolChoice { choice: Some(tool_choice::Choice::Mode(tool_choice::Mode::Required as i32)) }),
        response_format: None,
    }
}

/// An answer that must follow a schema.
fn structured() -> ChatPrompt {
    let schema = json!({
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
        "additionalProperties": false,
    });
    let format = response_format::JsonSchema {
        name: "place".to_owned(),
        schema_json: schema.to_string(),
        strict: Some(true),
        description: "Where.".to_owned(),
    };
    ChatPrompt {
        messages: vec![message(Role::User, vec![text("Where?")])],
        response_format: Some(ResponseFormat { format: Some(response_format::Format::JsonSchema(format)) }),
        ..ChatPrompt::default()
    }
}

fn main() {
    let sampling = Parameters {
        max_tokens: Some(20),
        temperature: Some(0.5),
        stop: vec!["END".to_owned()],
        parallel_tool_calls: Some(true),
        user: Some("u".to_owned()),
        ..Parameters::default()
    };
    let plain = Parameters { temperature: None, ..sampling.clone() };
    // Where tokens' likelihoods are offered.
    let likely = Parameters { top_logprobs: Some(2), ..sampling.clone() };
    let effort = Parameters { reasoning_effort: Some("low".to_owned()), ..plain.clone() };
    let responses = Capabilities { chat_api: Some("responses".to_owned()), ..Capabilities::default() };
    let thinking = Capabilities { sampling: Some(false), ..responses.clone() };
    let adaptive = Capabilities { adaptive_thinking: Some(true), ..Capabilities::default() };
    let none = Capabilities::default();
    for (provider, known, parameters) in [
        ("openai", &none, &likely),
        ("openai", &responses, &likely),
        ("openai", &thinking, &effort),
        ("anthropic", &none, &plain),
        ("anthropic", &adaptive, &effort),
        ("bedrock", &none, &sampling),
        ("gemini", &none, &likely),
        ("gemini", &none, &effort),
        ("mistral", &none, &likely),
    ] {
        for (what, chat) in [("conversation", conversation(provider)), ("structured", structured())] {
            let target = Target { model: "m", identifier: "the-model", api_key: None, capabilities: known };
            let prompt = Some(generation::Prompt::Chat(chat));
            let asked = Generation { prompt, parameters: Some(parameters.clone()), ..Generation::default() };
            let provider = by_name(provider).unwrap();
            show(provider.name(), what, &provider.call(&target, &asked, false).unwrap());
            if let Some(counting) = provider.count(&target, &asked).unwrap() {
                show(provider.name(), "count", &counting);
            }
        }
    }
    let target = Target { model: "m", identifier: "the-model", api_key: None, capabilities: &none };
    let asked = EmbedRequest { inputs: vec!["a".to_owned()], dimensions: Some(8), ..EmbedRequest::default() };
    for provider in ["openai", "gemini", "mistral"] {
        show(provider, "embeddings", &by_name(provider).unwrap().embed(&target, &asked).unwrap());
    }
    let (text, suffix, files) = ("a = ".to_owned(), Some("\nb".to_owned()), Vec::new());
    let prompt = Some(generation::Prompt::Raw(RawPrompt { text, suffix, files }));
    let asked = Generation { prompt, parameters: Some(sampling), ..Generation::default() };
    show("mistral", "fim", &by_name("mistral").unwrap().call(&target, &asked, false).unwrap());
}

fn show(provider: &str, what: &str, call: &Call) {
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    println!("{}", json!({ "provider": provider, "path": call.path, "what": what, "body": body }));
}
