//! What is said to one family's models, and not to others of the same server.

use super::*;

/// What a model of this identifier is told, and the warnings.
fn told(provider: &str, identifier: &str, chat: ChatPrompt, parameters: Parameters) -> (Value, Vec<String>) {
    let known = Capabilities::default();
    let target = Target { model: "demo", identifier, api_key: None, capabilities: &known };
    let prompt = Some(generation::Prompt::Chat(chat));
    let asked = Generation { prompt, parameters: Some(parameters), ..Default::default() };
    let call = by_name(provider).unwrap().call(&target, &asked, false).unwrap();
    (serde_json::from_slice(&call.body).unwrap(), call.warnings)
}

fn plain() -> ChatPrompt {
    ChatPrompt { messages: vec![message(Role::User, vec![text("Hi")])], ..ChatPrompt::default() }
}

fn effort(effort: &str) -> Parameters {
    Parameters { reasoning_effort: Some(effort.to_owned()), ..Default::default() }
}

/// A conversation in which something is said beside a call, and more is asked right after its result.
fn mixed() -> ChatPrompt {
    let mut chat = conversation();
    chat.messages[2].content = vec![text("Let me see.")];
    chat.messages.push(message(Role::User, vec![text("And tomorrow?")]));
    chat
}

#[test]
fn recent_gemini_models_get_the_names_of_calls_and_a_word_for_a_signature_that_was_not_kept() {
    let call = |provider: &str, identifier: &str, id: &str| {
        let mut chat = conversation();
        chat.messages[2].tool_calls[0].id = id.to_owned();
        chat.messages[3].tool_call_id = id.to_owned();
        let (body, _) = told(provider, identifier, chat, Parameters::default());
        let (call, result) = (&body["contents"][1]["parts"][0], &body["contents"][2]["parts"][0]);
        assert_eq!(call["functionCall"]["id"], result["functionResponse"]["id"]);
        (call["functionCall"]["id"].as_str().map(str::to_owned), call["thoughtSignature"].is_string())
    };
    for recent in ["gemini-3-pro", "gemini-3.5-flash", "gemini-flash-latest", "gemini-pro-latest"] {
        assert_eq!(call("gemini", recent, "call_1"), (Some("call_1".to_owned()), true), "{recent}");
    }
    for older in ["gemini-2.5-flash", "gemini-1.5-pro-latest", "gemini-pro", "gemma-3-27b-it", "org/m"] {
        assert_eq!(call("gemini", older, "call_1"), (None, false), "{older}");
    }
    // Vertex AI gets those that a server of Google's gave.
    assert_eq!(call("vertex", "gemini-3-pro", "ZX9IviSb"), (Some("ZX9IviSb".to_owned()), true));
    assert_eq!(call("vertex", "gemini-3-pro", "toolu_1"), (None, true));
}

#[test]
fn bedrocks_models_are_told_how_to_think_as_their_makers_have_it() {
    let more = |identifier: &str, parameters: Parameters| {
        let (body, warnings) = told("bedrock", identifier, plain(), parameters);
        (body["additionalModelRequestFields"].clone(), warnings.len())
    };
    assert_eq!(more("openai.gpt-oss-120b-1:0", effort("high")), (json!({ "reasoning_effort": "high" }), 0));
    assert_eq!(more("qwen.qwen3-32b-v1:0", effort("low")), (json!({ "reasoning_config": "low" }), 0));
    let nova = json!({ "reasoningConfig": { "type": "enabled", "maxReasoningEffort": "medium" } });
    assert_eq!(more("us.amazon.nova-2-lite-v1:0", effort("medium")), (nova, 0));
    for (identifier, level) in [("us.amazon.nova-2-lite-v1:0", "high"), ("meta.llama3-3-70b-instruct-v1:0", "low")] {
        assert_eq!(more(identifier, effort(level)), (Value::Null, 1), "{identifier}");
    }
    let top = || Parameters { top_k: Some(4), ..Default::default() };
    assert_eq!(more("eu.anthropic.claude-sonnet-4-5-v1:0", top()), (json!({ "top_k": 4 }), 0));
    assert_eq!(more("eu.amazon.nova-pro-v1:0", top()), (json!({ "inferenceConfig": { "topK": 4 } }), 0));
    assert_eq!(more("meta.llama3-3-70b-instruct-v1:0", top()), (Value::Null, 1));
}

#[test]
fn claude_on_bedrock_takes_a_temperature_up_to_one_and_no_top_p_beside_it() {
    let (body, warnings) = told("bedrock", "eu.anthropic.claude-sonnet-4-5-v1:0", plain(), parameters());
    let expected = json!({ "maxTokens": 20, "temperature": 1.0, "stopSequences": ["END"] });
    assert_eq!((&body["inferenceConfig"], warnings.len()), (&expected, 3), "seed, temperature and top_p: {warnings:?}");
    let (body, _) = told("bedrock", "eu.amazon.nova-pro-v1:0", plain(), parameters());
    assert_eq!((&body["inferenceConfig"]["temperature"], &body["inferenceConfig"]["topP"]), (&json!(1.5), &json!(0.5)));
}

#[test]
fn a_conversation_with_calls_says_on_bedrock_which_tools_there_were() {
    let chat = ChatPrompt { tools: Vec::new(), tool_choice: None, ..conversation() };
    let (body, _) = told("bedrock", "eu.anthropic.claude-sonnet-4-5-v1:0", chat, Parameters::default());
    let tools = body["toolConfig"]["tools"].as_array().unwrap();
    assert_eq!((tools.len(), &tools[0]["toolSpec"]["name"]), (1, &json!("weather")));
    assert_eq!(body["toolConfig"].get("toolChoice"), None);
    assert_eq!(told("bedrock", "m", plain(), Parameters::default()).0.get("toolConfig"), None);
}

#[test]
fn words_and_calls_stand_in_turns_of_their_own_where_a_model_wants_them_to() {
    let turns = |identifier: &str| {
        let (body, warnings) = told("bedrock", identifier, mixed(), Parameters::default());
        let turn = |turn: &Value| {
            let blocks = turn["content"].as_array().unwrap();
            let kinds: Vec<_> =
                blocks.iter().map(|block| block.as_object().unwrap().keys().next().unwrap().clone()).collect();
            format!("{} {}", turn["role"].as_str().unwrap(), kinds.join("+"))
        };
        let left_out = warnings.iter().filter(|warning| warning.contains("beside a call")).count();
        (body["messages"].as_array().unwrap().iter().map(turn).collect::<Vec<_>>().join(", "), left_out)
    };
    let together = "user text+image, assistant text+toolUse, user toolResult+text";
    assert_eq!(turns("eu.anthropic.claude-sonnet-4-5-v1:0"), (together.to_owned(), 0));
    let apart = "user text+image, assistant toolUse, user toolResult, assistant text, user text";
    assert_eq!(turns("us.meta.llama3-3-70b-instruct-v1:0"), (apart.to_owned(), 1));
}

#[test]
fn ollama_is_told_a_level_of_thinking_where_the_model_has_levels_and_what_was_thought_before_a_call() {
    let think = |identifier: &str| told("ollama", identifier, plain(), effort("low")).0["think"].clone();
    assert_eq!((think("gpt-oss:20b"), think("qwen3:8b")), (json!("low"), json!(true)));
    let mut chat = conversation();
    chat.messages[2].reasoning = "Bern, then.".to_owned();
    let (body, _) = told("ollama", "qwen3:8b", chat, Parameters::default());
    assert_eq!(body["messages"][2]["thinking"], "Bern, then.");
}

#[test]
fn openais_responses_take_their_least_bound_schemas_everywhere_and_a_summary() {
    let known = Capabilities { chat_api: Some("responses".to_owned()), ..Default::default() };
    let target = Target { model: "demo", identifier: "gpt-5.5", api_key: None, capabilities: &known };
    let mut chat = conversation();
    chat.tools[0].parameters_json = String::new();
    let extra_json = r#"{"reasoning_summary":"auto"}"#.to_owned();
    let parameters = Parameters { max_tokens: Some(8), extra_json, ..effort("low") };
    let prompt = Some(generation::Prompt::Chat(chat));
    let asked = Generation { prompt, parameters: Some(parameters), ..Default::default() };
    let call = by_name("openai").unwrap().call(&target, &asked, false).unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((&body["max_output_tokens"], call.warnings.len()), (&json!(16), 1), "{:?}", call.warnings);
    assert_eq!(body["reasoning"], json!({ "effort": "low", "summary": "auto" }));
    assert_eq!(body["tools"][0]["parameters"], json!({ "type": "object", "properties": {} }));
    // A chat has no place for the summary.
    let chat = Target { capabilities: &Capabilities::default(), ..target };
    let call = by_name("openai").unwrap().call(&chat, &asked, false).unwrap();
    assert!(!String::from_utf8_lossy(&call.body).contains("summary"));
}

#[test]
fn azures_models_that_think_are_asked_by_the_api_without_a_version() {
    let path = |sampling| {
        let known = Capabilities { sampling, ..Default::default() };
        let target = Target { model: "demo", identifier: "dep", api_key: None, capabilities: &known };
        let asked = Generation { prompt: Some(generation::Prompt::Chat(plain())), ..Default::default() };
        by_name("azure_openai").unwrap().call(&target, &asked, false).unwrap().path
    };
    assert_eq!(path(Some(false)), "/openai/v1/chat/completions");
    assert_eq!(path(None), "/openai/deployments/dep/chat/completions?api-version=2024-10-21");
}

#[test]
fn claude_is_shown_schemas_as_it_takes_them() {
    let given = json!({
        "type": "object", "description": "An answer.", "minProperties": 1, "required": ["maximum"],
        "properties": {
            "maximum": { "type": "integer", "minimum": 1, "maximum": 9 },
            "list": { "type": "array", "maxItems": 3, "items": { "type": "object", "properties": { "a": {} } } },
            "kind": { "enum": [{ "type": "object" }] },
        },
        "additionalProperties": true,
    });
    let wanted = json!({
        "type": "object", "description": "An answer. (minProperties: 1)", "required": ["maximum"],
        "properties": {
            "maximum": { "type": "integer", "description": "(minimum: 1, maximum: 9)" },
            "list": {
                "type": "array", "description": "(maxItems: 3)",
                "items": { "type": "object", "properties": { "a": {} }, "additionalProperties": false },
            },
            "kind": { "enum": [{ "type": "object" }] },
        },
        "additionalProperties": false,
    });
    let schema = response_format::JsonSchema { schema_json: given.to_string(), ..Default::default() };
    let format = Some(ResponseFormat { format: Some(response_format::Format::JsonSchema(schema)) });
    let chat = ChatPrompt { response_format: format, ..plain() };
    let (body, _) = told("anthropic", "claude-sonnet-4-5", chat.clone(), Parameters::default());
    assert_eq!(body["output_config"]["format"]["schema"], wanted);
    let (body, _) = told("bedrock", "eu.anthropic.claude-sonnet-4-5-v1:0", chat.clone(), Parameters::default());
    let text = &body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"];
    assert_eq!(serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap(), wanted);
    // Others are shown what was given, to the letter.
    let (body, _) = told("bedrock", "qwen.qwen3-32b-v1:0", chat, Parameters::default());
    let text = &body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"];
    assert_eq!(text, &given.to_string());
}

#[test]
fn claude_takes_no_empty_texts_no_odd_names_of_calls_and_no_address_of_a_persons() {
    let mut chat = conversation();
    chat.messages[0].content = vec![text(" \n")];
    chat.messages[1].content.push(text(""));
    chat.messages[2].tool_calls[0].id = "call_x|fc:1".to_owned();
    chat.messages[3].tool_call_id = "call_x|fc:1".to_owned();
    chat.messages[3].content = vec![text("")];
    let user = Some("eve@example.com".to_owned());
    let (body, warnings) = told("anthropic", "claude-sonnet-4-5", chat, Parameters { user, ..Default::default() });
    assert_eq!((body.get("system"), body.get("metadata"), warnings.len()), (None, None, 1), "{warnings:?}");
    let turns = &body["messages"];
    assert_eq!(turns[0]["content"].as_array().unwrap().len(), 2);
    let id = turns[1]["content"][0]["id"].as_str().unwrap();
    assert!(id.starts_with("call_x_fc_1_") && say::plain_id("call_x_fc_1") != id, "{id}");
    assert_eq!(turns[2]["content"][0], json!({ "type": "tool_result", "tool_use_id": id, "content": [] }));
}

#[test]
fn claude_thinks_at_the_nearest_effort_that_it_knows() {
    let thinking = |level: &str| {
        let (body, warnings) =
            told("anthropic", "claude-sonnet-4-5", plain(), Parameters { max_tokens: Some(64_000), ..effort(level) });
        (body["thinking"]["budget_tokens"].as_u64(), warnings.len())
    };
    assert_eq!((thinking("minimal"), thinking("low")), ((Some(2048), 0), (Some(2048), 0)));
    assert_eq!((thinking("high"), thinking("max")), ((Some(16_384), 0), (Some(16_384), 0)));
    assert_eq!((thinking("none"), thinking("odd")), ((None, 0), (None, 1)));
}

#[test]
fn mistral_gets_names_of_calls_turns_and_efforts_as_it_takes_them() {
    let mut chat = conversation();
    chat.messages[1].name = "eve".to_owned();
    chat.messages[1].content = vec![text("Where is this?")];
    chat.messages[3].name = "weather".to_owned();
    chat.messages.push(message(Role::User, vec![text("And tomorrow?")]));
    let (body, warnings) = told("mistral", "mistral-small-latest", chat.clone(), effort("medium"));
    let turns = body["messages"].as_array().unwrap();
    let roles: Vec<_> = turns.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "user"]);
    let id = turns[2]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    assert_eq!((turns[3]["tool_call_id"].as_str(), turns[3]["name"].as_str()), (Some(id), Some("weather")));
    assert_eq!((turns[1].get("name"), &body["reasoning_effort"], warnings.len()), (None, &json!("high"), 0));
    // Its own names stay.
    chat.messages[2].tool_calls[0].id = "aB3dE6gH9".to_owned();
    chat.messages[3].tool_call_id = "aB3dE6gH9".to_owned();
    let (body, _) = told("mistral", "mistral-small-latest", chat, effort("none"));
    assert_eq!(body["messages"][2]["tool_calls"][0]["id"], "aB3dE6gH9");
    assert_eq!(body["reasoning_effort"], "none");
}

#[test]
fn thoughts_go_back_with_calls_and_where_there_are_any() {
    let known = Capabilities { reasoning_history: Some(true), ..Default::default() };
    let target = Target { model: "demo", identifier: "deepseek-chat", api_key: None, capabilities: &known };
    let mut chat = conversation();
    chat.messages.insert(2, message(Role::Assistant, vec![text("Hm?")]));
    chat.messages.insert(2, Message { reasoning: "so".to_owned(), ..message(Role::Assistant, vec![text("Well.")]) });
    let asked = Generation { prompt: Some(generation::Prompt::Chat(chat)), ..Default::default() };
    let call = by_name("openai").unwrap().call(&target, &asked, false).unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    let thoughts: Vec<_> =
        body["messages"].as_array().unwrap().iter().map(|turn| turn["reasoning_content"].as_str()).collect();
    assert_eq!(thoughts, [None, None, Some("so"), None, Some(""), None]);
}
