//! What each provider says of one and the same conversation.

use postern_proto::completion::v1::{
    ContentPart, Image, Message, Parameters, ResponseFormat, Role, SourceFile, TokenLogprob, Tool, ToolCall,
    ToolChoice, completion_event, content_part, image, response_format, tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, RawPrompt, generation};
use postern_proto::{Failure, Reason};
use serde_json::{Value, json};

use super::*;

mod families;
mod remembering;

fn text(text: &str) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text.to_owned())), cache: None }
}

fn picture() -> ContentPart {
    let source = Some(image::Source::Data(vec![1, 2, 3]));
    let image = Image { source, media_type: "image/png".to_owned(), detail: String::new() };
    ContentPart { part: Some(content_part::Part::Image(image)), cache: None }
}

fn message(role: Role, content: Vec<ContentPart>) -> Message {
    Message { role: role as i32, content, ..Default::default() }
}

/// System, a question with an image, a call and its result.
fn conversation() -> ChatPrompt {
    let call = ToolCall {
        id: "c1".to_owned(),
        name: "weather".to_owned(),
        arguments_json: r#"{"city":"Bern"}"#.to_owned(),
        signature: String::new(),
    };
    ChatPrompt {
        messages: vec![
            message(Role::System, vec![text("Be brief.")]),
            message(Role::User, vec![text("Where is this?"), picture()]),
            Message { tool_calls: vec![call], ..message(Role::Assistant, vec![text("")]) },
            Message { tool_call_id: "c1".to_owned(), ..message(Role::Tool, vec![text(r#"{"sun":true}"#)]) },
        ],
        tools: vec![Tool {
            name: "weather".to_owned(),
            description: "Tells it.".to_owned(),
            parameters_json: r#"{"type":"object","properties":{"city":{"type":"string"}}}"#.to_owned(),
            strict: None,
            cache: None,
        }],
        tool_choice: Some(ToolChoice { choice: Some(tool_choice::Choice::Mode(tool_choice::Mode::Required as i32)) }),
        response_format: None,
    }
}

fn parameters() -> Parameters {
    Parameters {
        max_tokens: Some(20),
        temperature: Some(1.5),
        top_p: Some(0.5),
        top_k: Some(3),
        stop: vec!["END".to_owned()],
        seed: Some(7),
        ..Default::default()
    }
}

fn call(provider: &str, prompt: generation::Prompt, parameters: Parameters) -> Result<(Call, Value), Failure> {
    let key = "model-key".to_owned().into();
    let known = Capabilities::default();
    let target = Target { model: "demo", identifier: "org/m:1", api_key: Some(&key), capabilities: &known };
    let generation = Generation { prompt: Some(prompt), parameters: Some(parameters), ..Default::default() };
    let call = by_name(provider).unwrap().call(&target, &generation, true)?;
    let body = serde_json::from_slice(&call.body).unwrap();
    Ok((call, body))
}

fn header<'a>(call: &'a Call, name: &str) -> &'a str {
    call.headers[name].to_str().unwrap()
}

fn said(provider: &str) -> (Call, Value) {
    call(provider, generation::Prompt::Chat(conversation()), parameters()).unwrap()
}

const SCHEMA: &str = r#"{"type":"object","properties":{"city":{"type":"string"}}}"#;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

#[test]
fn anthropic_is_told_the_conversation_in_its_own_form() {
    let (call, body) = said("anthropic");
    assert_eq!((call.path.as_str(), header(&call, "x-api-key")), ("/messages", "model-key"));
    assert_eq!(call.headers["anthropic-version"], "2023-06-01");
    assert!(call.headers["x-api-key"].is_sensitive());
    let expected = json!({
        "model": "org/m:1", "stream": true, "max_tokens": 20, "temperature": 1.0, "top_k": 3,
        "stop_sequences": ["END"], "system": [{ "type": "text", "text": "Be brief." }], "tool_choice": { "type": "any" },
        "tools": [{ "name": "weather", "description": "Tells it.", "input_schema": schema() }],
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": "Where is this?" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AQID" } },
            ] },
            { "role": "assistant", "content": [
                { "type": "tool_use", "id": "c1", "name": "weather", "input": { "city": "Bern" } },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "c1", "content": [{ "type": "text", "text": "{\"sun\":true}" }] },
            ] },
        ],
    });
    assert_eq!(body, expected);
    assert_eq!(call.warnings.len(), 3, "seed, temperature and top_p: {:?}", call.warnings);
}

#[test]
fn gemini_is_told_the_conversation_in_its_own_form() {
    let (call, body) = said("gemini");
    assert_eq!(call.path, "/models/org%2Fm%3A1:streamGenerateContent?alt=sse");
    assert_eq!(call.headers["x-goog-api-key"], "model-key");
    let expected = json!({
        "systemInstruction": { "parts": [{ "text": "Be brief." }] },
        "toolConfig": { "functionCallingConfig": { "mode": "ANY" } },
        "tools": [{ "functionDeclarations": [
            { "name": "weather", "description": "Tells it.", "parametersJsonSchema": schema() },
        ] }],
        "generationConfig": {
            "maxOutputTokens": 20, "temperature": 1.5, "topP": 0.5, "topK": 3, "stopSequences": ["END"], "seed": 7,
        },
        "contents": [
            { "role": "user", "parts": [
                { "text": "Where is this?" }, { "inlineData": { "mimeType": "image/png", "data": "AQID" } },
            ] },
            { "role": "model", "parts": [{ "functionCall": { "name": "weather", "args": { "city": "Bern" } } }] },
            { "role": "user", "parts": [{ "functionResponse": { "name": "weather", "response": { "sun": true } } }] },
        ],
    });
    assert_eq!((body, call.warnings.len()), (expected, 0));
}

#[test]
fn ollama_is_told_the_conversation_in_its_own_form() {
    let (call, body) = said("ollama");
    assert_eq!((call.path.as_str(), header(&call, "authorization")), ("/api/chat", "Bearer model-key"));
    let function = json!({ "name": "weather", "description": "Tells it.", "parameters": schema() });
    let expected = json!({
        "model": "org/m:1", "stream": true, "tools": [{ "type": "function", "function": function }],
        "options": { "num_predict": 20, "temperature": 1.5, "top_p": 0.5, "top_k": 3, "stop": ["END"], "seed": 7 },
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "Where is this?", "images": ["AQID"] },
            { "role": "assistant", "content": "",
              "tool_calls": [{ "function": { "name": "weather", "arguments": { "city": "Bern" } } }] },
            { "role": "tool", "content": "{\"sun\":true}", "tool_name": "weather" },
        ],
    });
    assert_eq!((body, call.warnings.len()), (expected, 1), "that a call cannot be demanded");
    let raw = generation::Prompt::Raw(RawPrompt { text: "<fim>".to_owned(), ..Default::default() });
    let (call, body) = self::call("ollama", raw, Parameters::default()).unwrap();
    let expected = json!({ "model": "org/m:1", "prompt": "<fim>", "raw": true, "stream": true });
    assert_eq!((call.path.as_str(), body), ("/api/generate", expected));
}

#[test]
fn cohere_is_told_the_conversation_in_its_own_form() {
    let (call, body) = said("cohere");
    assert_eq!((call.path.as_str(), header(&call, "authorization")), ("/v2/chat", "Bearer model-key"));
    let function = json!({ "name": "weather", "description": "Tells it.", "parameters": schema() });
    let called = json!({ "name": "weather", "arguments": "{\"city\":\"Bern\"}" });
    let expected = json!({
        "model": "org/m:1", "stream": true, "max_tokens": 20, "temperature": 1.5, "p": 0.5, "k": 3,
        "stop_sequences": ["END"], "seed": 7, "tool_choice": "REQUIRED",
        "tools": [{ "type": "function", "function": function }],
        "messages": [
            { "role": "system", "content": [{ "type": "text", "text": "Be brief." }] },
            { "role": "user", "content": [
                { "type": "text", "text": "Where is this?" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AQID" } },
            ] },
            { "role": "assistant", "tool_calls": [{ "id": "c1", "type": "function", "function": called }] },
            { "role": "tool", "tool_call_id": "c1", "content": [{ "type": "text", "text": "{\"sun\":true}" }] },
        ],
    });
    assert_eq!((body, call.warnings.len()), (expected, 0));
}

#[test]
fn bedrock_is_told_the_conversation_in_its_own_form() {
    let (call, body) = said("bedrock");
    assert_eq!(call.path, "/model/org%2Fm%3A1/converse-stream");
    let spec = json!({ "name": "weather", "description": "Tells it.", "inputSchema": { "json": schema() } });
    let expected = json!({
        "system": [{ "text": "Be brief." }],
        "toolConfig": { "tools": [{ "toolSpec": spec }], "toolChoice": { "any": {} } },
        "inferenceConfig": { "maxTokens": 20, "temperature": 1.5, "topP": 0.5, "stopSequences": ["END"] },
        "messages": [
            { "role": "user", "content": [
                { "text": "Where is this?" }, { "image": { "format": "png", "source": { "bytes": "AQID" } } },
            ] },
            { "role": "assistant", "content": [
                { "toolUse": { "toolUseId": "c1", "name": "weather", "input": { "city": "Bern" } } },
            ] },
            { "role": "user", "content": [
                { "toolResult": { "toolUseId": "c1", "content": [{ "text": "{\"sun\":true}" }] } },
            ] },
        ],
    });
    assert_eq!((body, call.warnings.len()), (expected, 2), "top_k and seed");
}

#[test]
fn those_that_speak_openais_api_differ_where_they_do() {
    let (call, body) = said("mistral");
    assert_eq!((call.path.as_str(), header(&call, "authorization")), ("/chat/completions", "Bearer model-key"));
    assert_eq!((&body["random_seed"], &body["tool_choice"]), (&json!(7), &json!("any")));
    assert!(["seed", "stream_options"].iter().all(|name| body.get(name).is_none()), "{body}");
    assert_eq!((&body["top_k"], call.warnings.len()), (&json!(3), 0));
    let named =
        Parameters { user: Some("u".to_owned()), extra_json: r#"{"min_p":0.1}"#.to_owned(), ..Default::default() };
    let (dropping, body) = super::tests::call("mistral", generation::Prompt::Chat(conversation()), named).unwrap();
    assert_eq!((body.get("user"), body.get("min_p"), dropping.warnings.len()), (None, None, 2));
    let (call, _) = said("vertex");
    assert_eq!(header(&call, "authorization"), "Bearer model-key");
    let (call, body) = said("azure_openai");
    assert_eq!(call.path, "/openai/deployments/org%2Fm%3A1/chat/completions?api-version=2024-10-21");
    assert_eq!((header(&call, "api-key"), call.headers.get("authorization")), ("model-key", None));
    assert_eq!(body["stream_options"]["include_usage"], true);
}

#[test]
fn what_a_format_cannot_say_is_refused_or_said_to_be_dropped() {
    let chat = || generation::Prompt::Chat(conversation());
    let all = ["anthropic", "gemini", "ollama", "cohere", "bedrock"];
    for provider in all {
        let many = Parameters { choices: Some(2), ..Default::default() };
        let refused = call(provider, chat(), many).err().map(|failure| failure.reason);
        assert_eq!(refused, Some(Reason::RequestInvalid), "{provider}");
        let extra = Parameters { extra_json: r#"{"mirostat":1}"#.to_owned(), ..Default::default() };
        let (call, body) = call(provider, chat(), extra).unwrap();
        assert!(call.warnings.iter().any(|warning| warning.contains("mirostat")), "{provider}: {:?}", call.warnings);
        assert!(!body.to_string().contains("mirostat"), "{provider}");
    }
    for provider in ["anthropic", "gemini", "cohere", "bedrock"] {
        let raw = generation::Prompt::Raw(RawPrompt { text: "x".to_owned(), ..Default::default() });
        assert!(call(provider, raw, Parameters::default()).is_err(), "{provider}");
    }
    // Arguments of a call that are no JSON come from a caller, and are its fault.
    let mut broken = conversation();
    broken.messages[2].tool_calls[0].arguments_json = "{".to_owned();
    for provider in ["anthropic", "gemini", "ollama", "bedrock"] {
        let refused = call(provider, generation::Prompt::Chat(broken.clone()), Parameters::default());
        assert_eq!(refused.err().map(|failure| failure.reason), Some(Reason::RequestInvalid), "{provider}");
    }
    let schema = response_format::JsonSchema { schema_json: SCHEMA.to_owned(), ..Default::default() };
    let format = Some(response_format::Format::JsonSchema(schema));
    let structured = ChatPrompt { response_format: Some(ResponseFormat { format }), ..conversation() };
    for (provider, place) in [
        ("gemini", "/generationConfig/responseJsonSchema"),
        ("ollama", "/format"),
        ("cohere", "/response_format/json_schema"),
    ] {
        let (_, body) = call(provider, generation::Prompt::Chat(structured.clone()), Parameters::default()).unwrap();
        assert_eq!(body.pointer(place), Some(&self::schema()), "{provider}");
    }
    let (_, body) = call("bedrock", generation::Prompt::Chat(structured), Parameters::default()).unwrap();
    let told = &body["outputConfig"]["textFormat"];
    assert_eq!((&told["type"], &told["structure"]["jsonSchema"]["schema"]), (&json!("json_schema"), &json!(SCHEMA)));
    let format = Some(response_format::Format::JsonObject(response_format::JsonObject {}));
    let any = ChatPrompt { response_format: Some(ResponseFormat { format }), ..conversation() };
    for provider in ["anthropic", "bedrock"] {
        assert!(call(provider, generation::Prompt::Chat(any.clone()), Parameters::default()).is_err(), "{provider}");
    }
}

/// An assistant that said nothing, and whitespace alone: these formats refuse an empty turn.
#[test]
fn turns_of_nothing_are_left_out() {
    let mut chat = conversation();
    chat.messages.insert(1, message(Role::Assistant, vec![text(" ")]));
    chat.messages.insert(1, message(Role::Assistant, vec![]));
    for (provider, list) in [("anthropic", "messages"), ("bedrock", "messages"), ("gemini", "contents")] {
        let (_, body) = call(provider, generation::Prompt::Chat(chat.clone()), Parameters::default()).unwrap();
        let turns = body[list].as_array().unwrap();
        let is_empty = |turn: &Value| turn["content"] == json!([]) || turn["parts"] == json!([]);
        assert!(!turns.iter().any(is_empty), "{provider}: {body}");
        let blanks = body.to_string().matches(r#""text":" ""#).count();
        assert_eq!(blanks, usize::from(provider == "gemini"), "{provider}: {body}");
    }
}

#[test]
fn thinking_is_asked_for_only_where_it_is_taken() {
    let asked = |provider: &str, effort: &str, max_tokens: u32, chat: ChatPrompt, rest: Parameters| {
        let parameters = Parameters { max_tokens: Some(max_tokens), reasoning_effort: Some(effort.to_owned()), ..rest };
        let (call, body) = call(provider, generation::Prompt::Chat(chat), parameters).unwrap();
        (body, call.warnings.iter().filter(|warning| warning.contains("reasoning_effort")).count())
    };
    let plain = || ChatPrompt { messages: vec![message(Role::User, vec![text("Hi")])], ..ChatPrompt::default() };
    let (body, warned) = asked("anthropic", "low", 4000, plain(), Parameters::default());
    assert_eq!((&body["thinking"]["budget_tokens"], warned), (&json!(2048), 0));
    let (body, warned) = asked("anthropic", "high", 16_000, plain(), Parameters::default());
    assert_eq!((&body["thinking"]["budget_tokens"], warned), (&json!(12_000), 0));
    let sampled = Parameters { top_k: Some(1), ..Parameters::default() };
    for (max_tokens, chat, rest) in [
        (1200, plain(), Parameters::default()),
        (4000, plain(), sampled),
        (4000, conversation(), Parameters::default()),
    ] {
        let (body, warned) = asked("anthropic", "low", max_tokens, chat, rest);
        assert_eq!((body.get("thinking"), warned), (None, 1), "{body}");
    }
    for (effort, think, warnings) in
        [("high", Some(json!(true)), 0), ("none", Some(json!(false)), 0), ("minimal", None, 1)]
    {
        let (body, warned) = asked("ollama", effort, 4000, plain(), Parameters::default());
        assert_eq!((body.get("think"), warned), (think.as_ref(), warnings), "{effort}");
    }
}

#[test]
fn claude_thinks_on_bedrock_as_it_does_at_anthropic() {
    let asked = |identifier: &str, known: &Capabilities, chat: ChatPrompt| -> Value {
        let target = Target { model: "demo", identifier, api_key: None, capabilities: known };
        let parameters = Some(Parameters { reasoning_effort: Some("low".to_owned()), ..Parameters::default() });
        let asked = Generation { prompt: Some(generation::Prompt::Chat(chat)), parameters, ..Generation::default() };
        serde_json::from_slice(&by_name("bedrock").unwrap().call(&target, &asked, false).unwrap().body).unwrap()
    };
    let plain = || ChatPrompt { messages: vec![message(Role::User, vec![text("Hi")])], ..ChatPrompt::default() };
    let (none, adaptive) =
        (Capabilities::default(), Capabilities { adaptive_thinking: Some(true), ..Default::default() });
    let body = asked("eu.anthropic.claude-sonnet-4-5-v1:0", &none, plain());
    let expected = json!({ "thinking": { "type": "enabled", "budget_tokens": 2048 } });
    assert_eq!(
        (&body["additionalModelRequestFields"], &body["inferenceConfig"]["maxTokens"]),
        (&expected, &json!(4096))
    );
    let body = asked("eu.anthropic.claude-opus-5-v1:0", &adaptive, plain());
    assert_eq!(body["additionalModelRequestFields"]["output_config"], json!({ "effort": "low" }));
    assert_eq!(body["additionalModelRequestFields"]["thinking"]["type"], "adaptive");
    // A call is demanded, or the model is another.
    let body = asked("eu.anthropic.claude-sonnet-4-5-v1:0", &none, conversation());
    assert_eq!(body.get("additionalModelRequestFields"), None);
    assert_eq!(asked("amazon.nova-pro-v1:0", &none, plain()).get("additionalModelRequestFields"), None);
}

fn at_a_cursor() -> generation::Prompt {
    let files = vec![SourceFile { path: "b.rs".to_owned(), text: "fn b() {}".to_owned() }];
    generation::Prompt::Raw(RawPrompt { text: "let a = ".to_owned(), suffix: Some(";".to_owned()), files })
}

#[test]
fn code_at_a_cursor_is_said_in_each_servers_own_way() {
    let said = |provider| {
        let parameters = Parameters { max_tokens: Some(20), seed: Some(7), ..Default::default() };
        let (call, body) = call(provider, at_a_cursor(), parameters).unwrap();
        (call.path, call.api, body)
    };
    let (prefix, suffix) = ("let a = ", ";");
    let expected = json!({
        "model": "org/m:1", "input_prefix": prefix, "input_suffix": suffix,
        "input_extra": [{ "filename": "b.rs", "text": "fn b() {}" }], "n_predict": 20, "seed": 7, "stream": true,
    });
    assert_eq!(said("llamacpp"), ("/infill".to_owned(), Api::Infill, expected));
    let expected = json!({
        "model": "org/m:1", "prompt": prefix, "suffix": suffix, "max_tokens": 20, "random_seed": 7, "stream": true,
    });
    assert_eq!(said("mistral"), ("/fim/completions".to_owned(), Api::Fim, expected));
    let (path, api, body) = said("ollama");
    assert_eq!((path.as_str(), api), ("/api/generate", Api::OllamaGenerate));
    assert_eq!((&body["prompt"], &body["suffix"], body.get("raw")), (&json!(prefix), &json!(suffix), None));
    let (path, api, body) = said("openai");
    assert_eq!((path.as_str(), api, &body["suffix"]), ("/completions", Api::Completions, &json!(suffix)));
}

#[test]
fn llamacpp_completes_text_by_its_own_api_and_several_times_by_openais() {
    let raw = || generation::Prompt::Raw(RawPrompt { text: "let a = ".to_owned(), ..Default::default() });
    let asked = |choices, top, extra: &str| Parameters {
        max_tokens: Some(20),
        choices,
        top_logprobs: Some(top),
        stop: vec![";".to_owned()],
        extra_json: extra.to_owned(),
        ..Default::default()
    };
    let (one, body) = call("llamacpp", raw(), asked(None, 0, r#"{"min_p":0.1}"#)).unwrap();
    assert_eq!((one.path.as_str(), one.api, one.warnings.len()), ("/completion", Api::Infill, 0));
    assert_eq!(header(&one, "authorization"), "Bearer model-key");
    let expected = json!({
        "model": "org/m:1", "prompt": "let a = ", "stream": true, "n_predict": 20, "n_probs": 1, "stop": [";"], "min_p": 0.1,
    });
    assert_eq!(body, expected);
    let (several, body) = call("llamacpp", raw(), asked(Some(2), 3, "")).unwrap();
    assert_eq!((several.path.as_str(), several.api, &body["n"]), ("/v1/completions", Api::Completions, &json!(2)));
    for member in ["model", "n_predict", "stream", "prompt", "n", "n_probs", "response_fields", "seed"] {
        let extra = json!({ member: 1 }).to_string();
        let refused = call("llamacpp", raw(), asked(None, 0, &extra)).err().unwrap();
        assert_eq!(refused.reason, Reason::RequestInvalid, "{member}");
    }
}

#[test]
fn llamacpp_says_how_likely_its_own_tokens_were() {
    let entry = r#"{"id":1,"token":"a","bytes":[97],"logprob":-0.5,"top_logprobs":[{"id":2,"token":"b","bytes":[98],"logprob":-1.5}]}"#;
    let piece = |content: &str, rest: &str| format!(r#"{{"content":"{content}"{rest}}}"#);
    let told = |logprobs: &[TokenLogprob]| {
        logprobs.iter().map(|one| (one.token.clone(), one.logprob, one.top[0].token.clone())).collect::<Vec<_>>()
    };
    let expected = vec![("a".to_owned(), -0.5, "b".to_owned())];
    let provider = by_name("llamacpp").unwrap();
    let whole = piece("a", &format!(r#","stop":true,"completion_probabilities":[{entry}]"#));
    let whole = provider.read(Api::Infill, whole.as_bytes()).unwrap();
    assert_eq!(told(&whole.choices[0].logprobs), expected);
    let stream = format!(
        "data: {}\n\ndata: {}\n\n",
        piece("a", &format!(r#","stop":false,"completion_probabilities":[{entry}]"#)),
        piece("", r#","stop":true,"stop_type":"eos""#),
    );
    let mut out = Vec::new();
    provider.stream_decoder(Api::Infill).feed(stream.as_bytes(), &mut out).unwrap();
    let likely = out.iter().find_map(|event| match &event.event {
        Some(completion_event::Event::Delta(delta)) => Some(told(&delta.logprobs)),
        _ => None,
    });
    assert_eq!(likely, Some(expected));
}

#[test]
fn llamacpp_has_openais_api_below_its_own() {
    let (call, _) = call("llamacpp", generation::Prompt::Chat(conversation()), parameters()).unwrap();
    assert_eq!((call.path.as_str(), call.api), ("/v1/chat/completions", Api::Chat));
    assert_eq!(header(&call, "authorization"), "Bearer model-key");
}

#[test]
fn the_responses_api_is_told_the_conversation_as_items_and_keeps_nothing() {
    let known = Capabilities { chat_api: Some("responses".to_owned()), ..Default::default() };
    let target = Target { model: "demo", identifier: "gpt-5", api_key: None, capabilities: &known };
    let format = response_format::JsonSchema {
        name: "place".to_owned(),
        schema_json: SCHEMA.to_owned(),
        strict: Some(true),
        description: String::new(),
    };
    let response_format = Some(ResponseFormat { format: Some(response_format::Format::JsonSchema(format)) });
    let chat = ChatPrompt { response_format, ..conversation() };
    let parameters = Parameters { reasoning_effort: Some("low".to_owned()), ..parameters() };
    let asked =
        Generation { prompt: Some(generation::Prompt::Chat(chat)), parameters: Some(parameters), ..Default::default() };
    let call = by_name("openai").unwrap().call(&target, &asked, true).unwrap();
    assert_eq!((call.path.as_str(), call.api, call.warnings.len()), ("/responses", Api::Responses, 3));
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    let expected = json!({
        "model": "gpt-5", "store": false, "stream": true, "max_output_tokens": 20, "temperature": 1.5, "top_p": 0.5,
        "reasoning": { "effort": "low" }, "tool_choice": "required",
        "tools": [{ "type": "function", "name": "weather", "description": "Tells it.", "parameters": schema(), "strict": false }],
        "text": { "format": { "type": "json_schema", "name": "place", "schema": schema(), "strict": true } },
        "input": [
            { "type": "message", "role": "system", "content": [{ "type": "input_text", "text": "Be brief." }] },
            { "type": "message", "role": "user", "content": [
                { "type": "input_text", "text": "Where is this?" },
                { "type": "input_image", "image_url": "data:image/png;base64,AQID", "detail": "auto" },
            ] },
            { "type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"city\":\"Bern\"}" },
            { "type": "function_call_output", "call_id": "c1", "output": "{\"sun\":true}" },
        ],
    });
    assert_eq!(body, expected);
}

#[test]
fn a_model_that_thinks_by_effort_is_told_one() {
    let known = Capabilities { adaptive_thinking: Some(true), ..Default::default() };
    let target = Target { model: "demo", identifier: "claude-opus-4-7", api_key: None, capabilities: &known };
    let said = |effort: &str, chat: ChatPrompt| -> Value {
        let parameters = Some(Parameters { reasoning_effort: Some(effort.to_owned()), ..Default::default() });
        let asked = Generation { prompt: Some(generation::Prompt::Chat(chat)), parameters, ..Default::default() };
        serde_json::from_slice(&by_name("anthropic").unwrap().call(&target, &asked, false).unwrap().body).unwrap()
    };
    let plain = || ChatPrompt { messages: vec![message(Role::User, vec![text("hi")])], ..Default::default() };
    let body = said("xhigh", plain());
    assert_eq!(
        (&body["output_config"], &body["thinking"]["type"]),
        (&json!({ "effort": "xhigh" }), &json!("adaptive"))
    );
    // One that thinks as it likes may go on amid tools, but not where it must call one.
    let body = said("low", conversation());
    assert_eq!((&body["output_config"]["effort"], body.get("thinking")), (&json!("low"), None));
    let body = said("low", ChatPrompt { tool_choice: None, ..conversation() });
    assert_eq!(body["thinking"]["type"], "adaptive");
    let body = said("none", plain());
    assert_eq!((body.get("output_config"), body.get("thinking")), (None, None));
}
