//! What is sent.

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    self as pb, ContentPart, Message, Parameters, ResponseFormat, Role, Tool, ToolCall, ToolChoice, content_part,
    image, response_format, tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, RawPrompt, generation};
use serde_json::{Map, Value, json};

use super::{Api, Dialect, SIGNER, Target};
use crate::provider::say::{self, Dropped, images_apart, json_text};

/// The JSON body and what kind of answer it asks for.
pub(super) fn body(
    target: &Target<'_>,
    generation: &Generation,
    stream: bool,
    dialect: Dialect,
) -> Result<(Api, Bytes, Vec<String>), Failure> {
    let mut body = Map::new();
    body.insert("model".to_owned(), target.identifier.into());
    let kind = match &generation.prompt {
        Some(generation::Prompt::Chat(chat)) => {
            add_chat(&mut body, chat, target.capabilities.reasoning_history())?;
            Api::Chat
        }
        Some(generation::Prompt::Raw(RawPrompt { text, suffix, files: _ })) => {
            body.insert("prompt".to_owned(), text.as_str().into());
            if let Some(suffix) = suffix {
                body.insert("suffix".to_owned(), suffix.as_str().into());
            }
            match (dialect, suffix) {
                (Dialect::Mistral, None) => {
                    let problem = "the provider mistral has no raw completions";
                    return Err(Failure::field("generation.prompt", problem));
                }
                (Dialect::Mistral, Some(_)) => Api::Fim,
                _ => Api::Completions,
            }
        }
        None => return Err(Failure::field("generation.prompt", "is missing")),
    };
    if stream {
        body.insert("stream".to_owned(), true.into());
        // Mistral sends usage by itself, and refuses what it does not know.
        if dialect != Dialect::Mistral {
            body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        }
    }
    if let Some(parameters) = &generation.parameters {
        add_parameters(&mut body, parameters, kind == Api::Chat)?;
    }
    if !body.contains_key("tools") {
        body.remove("parallel_tool_calls");
    }
    if let Some(field) = &target.capabilities.max_tokens_field
        && let Some(bound) = body.remove("max_tokens")
    {
        body.insert(field.clone(), bound);
    }
    let warnings = if dialect == Dialect::Mistral { as_mistral(&mut body, kind) } else { Vec::new() };
    Ok((kind, serde_json::to_vec(&body).map_err(Failure::internal)?.into(), warnings))
}

/// Members of Mistral's requests: of both, of chats, and of code at a cursor (<https://docs.mistral.ai/api>).
const MISTRAL_KNOWS: &[&str] =
    &["model", "stream", "max_tokens", "min_tokens", "temperature", "top_p", "stop", "random_seed", "metadata"];
const MISTRAL_CHATS: &[&str] = &[
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "top_k",
    "n",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "prediction",
    "prompt_mode",
    "safe_prompt",
    "prompt_cache_key",
];
const MISTRAL_FILLS_IN: &[&str] = &["prompt", "suffix", "prompt_cache_key"];

/// Mistral's names, without what it has none for: it refuses what it does not know.
fn as_mistral(body: &mut Map<String, Value>, api: Api) -> Vec<String> {
    if let Some(seed) = body.remove("seed") {
        body.insert("random_seed".to_owned(), seed);
    }
    if body.get("tool_choice").is_some_and(|choice| choice == "required") {
        body.insert("tool_choice".to_owned(), "any".into());
    }
    // It knows two efforts.
    if let Some(effort) = body.get_mut("reasoning_effort")
        && !matches!(effort.as_str(), Some("none" | "high"))
    {
        *effort = if effort == "minimal" { "none".into() } else { "high".into() };
    }
    if let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) {
        *messages = mistral_turns(std::mem::take(messages));
    }
    let more = if api == Api::Chat { MISTRAL_CHATS } else { MISTRAL_FILLS_IN };
    let knows = |name: &str| MISTRAL_KNOWS.contains(&name) || more.contains(&name);
    let unknown: Vec<_> = body.keys().filter(|name| !knows(name)).cloned().collect();
    let mut dropped = Dropped::of("mistral");
    for name in unknown {
        body.remove(&name);
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        dropped.parameter(&shown, true);
    }
    dropped.warnings
}

/// The conversation as Mistral takes it: names of calls of nine letters and digits, no other names, and no question right after what a
/// tool said.
fn mistral_turns(given: Vec<Value>) -> Vec<Value> {
    let mut turns: Vec<Value> = Vec::new();
    for mut turn in given {
        let is_tools = turn["role"] == "tool";
        for id in turn["tool_calls"].as_array_mut().into_iter().flatten().map(|call| &mut call["id"]) {
            *id = mistral_id(id.as_str().unwrap_or_default()).into();
        }
        if let Some(id) = turn.get_mut("tool_call_id") {
            *id = mistral_id(id.as_str().unwrap_or_default()).into();
        }
        if let (false, Some(turn)) = (is_tools, turn.as_object_mut()) {
            turn.remove("name");
        }
        if turn["role"] == "user" && turns.last().is_some_and(|before| before["role"] == "tool") {
            turns.push(json!({ "role": "assistant", "content": "." }));
        }
        turns.push(turn);
    }
    turns
}

/// The same for the same name, so that a result finds its call.
fn mistral_id(id: &str) -> String {
    const LENGTH: usize = 9;
    if id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let half = |salt: &[u8]| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(salt);
        hasher.update(id.as_bytes());
        format!("{:08x}", hasher.finalize())
    };
    (half(b"1") + &half(b"2"))[..LENGTH].to_owned()
}

fn add_chat(body: &mut Map<String, Value>, chat: &ChatPrompt, with_thoughts: bool) -> Result<(), Failure> {
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let messages = images_apart(messages);
    let messages = messages.iter().map(|one| message(one, with_thoughts)).collect::<Result<Vec<_>, _>>()?;
    body.insert("messages".to_owned(), messages.into());
    if !tools.is_empty() {
        let tools = tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
        body.insert("tools".to_owned(), tools.into());
    }
    // A choice among no tools is refused.
    if let Some(ToolChoice { choice: Some(choice) }) = tool_choice.as_ref().filter(|_| !tools.is_empty()) {
        body.insert("tool_choice".to_owned(), tool_choice_value(choice));
    }
    if let Some(ResponseFormat { format: Some(format) }) = response_format {
        body.insert("response_format".to_owned(), response_format_value(format)?);
    }
    Ok(())
}

fn message(message: &Message, with_thoughts: bool) -> Result<Value, Failure> {
    let Message { role, content, tool_calls, tool_call_id, name, reasoning, thoughts: _ } = message;
    let role = match Role::try_from(*role) {
        Ok(Role::System) => "system",
        Ok(Role::User) => "user",
        Ok(Role::Assistant) => "assistant",
        Ok(Role::Tool) => "tool",
        Ok(Role::Unspecified) | Err(_) => return Err(Failure::field("messages.role", "is missing")),
    };
    let mut value = Map::new();
    value.insert("role".to_owned(), role.into());
    // Nothing was said where something was called; elsewhere nothing is an empty text.
    let content = if content.is_empty() && tool_calls.is_empty() { "".into() } else { content_value(content)? };
    value.insert("content".to_owned(), content);
    // Beside calls even where there is none, which servers that want it back ask for.
    if with_thoughts && role == "assistant" && !(reasoning.is_empty() && tool_calls.is_empty()) {
        value.insert("reasoning_content".to_owned(), reasoning.as_str().into());
    }
    if !tool_calls.is_empty() {
        value.insert("tool_calls".to_owned(), tool_calls.iter().map(tool_call).collect::<Vec<_>>().into());
    }
    if !tool_call_id.is_empty() {
        value.insert("tool_call_id".to_owned(), tool_call_id.as_str().into());
    }
    if !name.is_empty() {
        value.insert("name".to_owned(), name.as_str().into());
    }
    Ok(value.into())
}

/// Texts go as a string, which every server takes; with pictures as an array of parts.
fn content_value(parts: &[ContentPart]) -> Result<Value, Failure> {
    let text = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Some(text.clone()),
        _ => None,
    };
    match parts.iter().map(text).collect::<Option<Vec<_>>>() {
        Some(texts) if texts.is_empty() => Ok(Value::Null),
        Some(texts) => Ok(texts.join("\n").into()),
        None => parts.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::from),
    }
}

fn part(part: &ContentPart) -> Result<Value, Failure> {
    match &part.part {
        Some(content_part::Part::Text(text)) => Ok(json!({ "type": "text", "text": text })),
        Some(content_part::Part::Image(picture)) => {
            use base64::Engine as _;
            let url = match &picture.source {
                Some(image::Source::Url(url)) => url.clone(),
                Some(image::Source::Data(bytes)) => {
                    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
                    format!("data:{};base64,{data}", picture.media_type)
                }
                None => return Err(Failure::field("messages.content.image", "has no source")),
            };
            let mut value = json!({ "url": url });
            if !picture.detail.is_empty() {
                value["detail"] = picture.detail.as_str().into();
            }
            Ok(json!({ "type": "image_url", "image_url": value }))
        }
        None => Err(Failure::field("messages.content", "has an empty part")),
    }
}

fn tool_call(call: &ToolCall) -> Value {
    let ToolCall { id, name, arguments_json, signature } = call;
    let mut value = json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments_json } });
    // Gemini's, behind its own door of this API (<https://ai.google.dev/gemini-api/docs/thought-signatures>).
    if let Some((place, signature)) = say::own_signature(SIGNER, signature).and_then(|whole| whole.split_once(':')) {
        value["extra_content"] = json!({ place: { "thought_signature": signature } });
    }
    value
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict, cache: _ } = tool;
    let mut function = json!({ "name": name });
    if !description.is_empty() {
        function["description"] = description.as_str().into();
    }
    if !parameters_json.is_empty() {
        function["parameters"] = json_text("tools.parameters_json", parameters_json)?;
    }
    if let Some(strict) = strict {
        function["strict"] = (*strict).into();
    }
    Ok(json!({ "type": "function", "function": function }))
}

fn tool_choice_value(choice: &tool_choice::Choice) -> Value {
    match choice {
        tool_choice::Choice::Mode(mode) => match tool_choice::Mode::try_from(*mode) {
            Ok(tool_choice::Mode::None) => "none".into(),
            Ok(tool_choice::Mode::Required) => "required".into(),
            Ok(tool_choice::Mode::Auto | tool_choice::Mode::Unspecified) | Err(_) => "auto".into(),
        },
        tool_choice::Choice::Name(name) => json!({ "type": "function", "function": { "name": name } }),
    }
}

fn response_format_value(format: &response_format::Format) -> Result<Value, Failure> {
    match format {
        response_format::Format::JsonObject(response_format::JsonObject {}) => Ok(json!({ "type": "json_object" })),
        response_format::Format::JsonSchema(schema) => {
            let response_format::JsonSchema { name, schema_json, strict, description } = schema;
            let mut value = json!({ "name": name, "schema": json_text("response_format.schema_json", schema_json)? });
            if let Some(strict) = strict {
                value["strict"] = (*strict).into();
            }
            if !description.is_empty() {
                value["description"] = description.as_str().into();
            }
            Ok(json!({ "type": "json_schema", "json_schema": value }))
        }
    }
}

fn add_parameters(body: &mut Map<String, Value>, parameters: &Parameters, is_chat: bool) -> Result<(), Failure> {
    let pb::Parameters {
        max_tokens,
        temperature,
        top_p,
        top_k,
        stop,
        seed,
        presence_penalty,
        frequency_penalty,
        choices,
        user,
        parallel_tool_calls,
        reasoning_effort,
        top_logprobs,
        extra_json,
    } = parameters;
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    add("max_tokens", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("top_p", top_p.map(Value::from));
    add("top_k", top_k.map(Value::from));
    add("stop", (!stop.is_empty()).then(|| stop.clone().into()));
    add("seed", seed.map(Value::from));
    add("presence_penalty", presence_penalty.map(Value::from));
    add("frequency_penalty", frequency_penalty.map(Value::from));
    add("n", choices.map(Value::from));
    add("user", user.clone().map(Value::from));
    add("parallel_tool_calls", parallel_tool_calls.map(Value::from));
    add("reasoning_effort", reasoning_effort.clone().map(Value::from));
    // Completions take a number where chats take a yes and a number.
    match (top_logprobs, is_chat) {
        (None, _) => {}
        (Some(top), true) => {
            add("logprobs", Some(true.into()));
            add("top_logprobs", Some(*top).filter(|top| *top > 0).map(Value::from));
        }
        (Some(top), false) => add("logprobs", Some((*top).max(1).into())),
    }
    if extra_json.is_empty() {
        return Ok(());
    }
    let Value::Object(extra) = json_text("parameters.extra_json", extra_json)? else {
        return Err(Failure::field("parameters.extra_json", "is not a JSON object"));
    };
    for (name, value) in extra {
        // What has a field of its own must not come in by the back door: the model's name least of all.
        if RESERVED.contains(&name.as_str()) {
            return Err(Failure::field("parameters.extra_json", format!("`{name}` has a field of its own")));
        }
        // Chats have none.
        if name != REASONING_SUMMARY {
            body.insert(name, value);
        }
    }
    Ok(())
}

/// The member of `extra_json` that says how what was thought shall be summed up, where the Responses API is asked.
pub(super) const REASONING_SUMMARY: &str = "reasoning_summary";

/// The schema of a tool's arguments; some servers want one where there are none.
pub(super) fn schema_of(parameters_json: &str) -> Result<Value, Failure> {
    match parameters_json {
        "" | "{}" => Ok(json!({ "type": "object", "properties": {} })),
        text => Ok(say::json_object("tools.parameters_json", text)?.into()),
    }
}

/// Members that typed fields stand for.
pub(super) const RESERVED: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "user",
    "parallel_tool_calls",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
];

#[cfg(test)]
mod tests {
    use super::*;
    use postern_proto::instance::v1::Capabilities;

    fn sent(generation: Generation, stream: bool) -> Result<Value, Failure> {
        let known = Capabilities::default();
        sent_by(&known, &generation, stream, Dialect::OpenAi)
    }

    fn sent_by(
        known: &Capabilities,
        generation: &Generation,
        stream: bool,
        dialect: Dialect,
    ) -> Result<Value, Failure> {
        let target = Target { model: "m", identifier: "served-name", api_key: None, capabilities: known };
        let (_, bytes, _) = body(&target, generation, stream, dialect)?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    fn text(role: Role, text: &str) -> Message {
        let part = content_part::Part::Text(text.to_owned());
        Message {
            role: role as i32,
            content: vec![ContentPart { part: Some(part), cache: None }],
            ..Default::default()
        }
    }

    fn chat(prompt: ChatPrompt, parameters: Parameters) -> Generation {
        Generation {
            endpoint_id: "ep".to_owned(),
            prompt: Some(generation::Prompt::Chat(prompt)),
            parameters: Some(parameters),
        }
    }

    #[test]
    fn a_plain_chat_is_plain() {
        let prompt =
            ChatPrompt { messages: vec![text(Role::System, "be brief"), text(Role::User, "hi")], ..Default::default() };
        let expected = json!({
            "model": "served-name",
            "messages": [{ "role": "system", "content": "be brief" }, { "role": "user", "content": "hi" }],
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        assert_eq!(sent(chat(prompt, Parameters::default()), true).unwrap(), expected);
    }

    #[test]
    fn everything_that_has_a_place_is_put_there() {
        let picture = pb::Image {
            source: Some(image::Source::Data(vec![1, 2, 3])),
            media_type: "image/png".to_owned(),
            detail: "low".to_owned(),
        };
        let mut asked = text(Role::User, "what is this?");
        asked.content.push(ContentPart { part: Some(content_part::Part::Image(picture)), cache: None });
        let call = ToolCall {
            id: "c1".to_owned(),
            name: "look".to_owned(),
            arguments_json: "{}".to_owned(),
            signature: String::new(),
        };
        let called = Message { role: Role::Assistant as i32, tool_calls: vec![call], ..Default::default() };
        let mut told = text(Role::Tool, "a cat");
        told.tool_call_id = "c1".to_owned();
        let prompt = ChatPrompt {
            messages: vec![asked, called, told],
            tools: vec![Tool {
                name: "look".to_owned(),
                description: "looks".to_owned(),
                parameters_json: r#"{"type":"object"}"#.to_owned(),
                strict: Some(true),
                cache: None,
            }],
            tool_choice: Some(ToolChoice { choice: Some(tool_choice::Choice::Name("look".to_owned())) }),
            response_format: Some(ResponseFormat {
                format: Some(response_format::Format::JsonSchema(response_format::JsonSchema {
                    name: "animal".to_owned(),
                    schema_json: r#"{"type":"object"}"#.to_owned(),
                    strict: Some(true),
                    description: String::new(),
                })),
            }),
        };
        let parameters = Parameters {
            max_tokens: Some(5),
            temperature: Some(0.7),
            top_p: Some(0.9),
            top_k: Some(40),
            stop: vec!["\n".to_owned()],
            seed: Some(7),
            presence_penalty: Some(0.1),
            frequency_penalty: Some(-0.1),
            choices: Some(2),
            user: Some("u".to_owned()),
            parallel_tool_calls: Some(false),
            reasoning_effort: Some("low".to_owned()),
            top_logprobs: Some(3),
            extra_json: r#"{"logit_bias":{"5":1},"min_p":0.05}"#.to_owned(),
        };
        let expected = json!({
            "model": "served-name",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "what is this?" },
                    { "type": "image_url", "image_url": { "url": "data:image/png;base64,AQID", "detail": "low" } },
                ] },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "c1", "type": "function", "function": { "name": "look", "arguments": "{}" } },
                ] },
                { "role": "tool", "content": "a cat", "tool_call_id": "c1" },
            ],
            "tools": [{ "type": "function", "function": {
                "name": "look", "description": "looks", "parameters": { "type": "object" }, "strict": true,
            } }],
            "tool_choice": { "type": "function", "function": { "name": "look" } },
            "response_format": { "type": "json_schema", "json_schema": {
                "name": "animal", "schema": { "type": "object" }, "strict": true,
            } },
            "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "stop": ["\n"], "seed": 7,
            "presence_penalty": 0.1, "frequency_penalty": -0.1, "n": 2, "user": "u", "parallel_tool_calls": false,
            "reasoning_effort": "low", "logprobs": true, "top_logprobs": 3, "logit_bias": { "5": 1 }, "min_p": 0.05,
        });
        assert_eq!(sent(chat(prompt, parameters), false).unwrap(), expected);
    }

    #[test]
    fn code_at_a_cursor_goes_where_the_server_fills_in() {
        let raw = RawPrompt { text: "a = ".to_owned(), suffix: Some("\nb".to_owned()), files: Vec::new() };
        let asked = Generation { prompt: Some(generation::Prompt::Raw(raw)), ..Default::default() };
        let expected = json!({ "model": "served-name", "prompt": "a = ", "suffix": "\nb" });
        assert_eq!(sent(asked.clone(), false).unwrap(), expected);
        assert_eq!(sent_by(&Capabilities::default(), &asked, false, Dialect::Mistral).unwrap(), expected);
    }

    #[test]
    fn the_bound_goes_under_the_name_that_the_model_has_for_it() {
        let known = Capabilities { max_tokens_field: Some("max_completion_tokens".to_owned()), ..Default::default() };
        let asked = chat(ChatPrompt::default(), Parameters { max_tokens: Some(5), ..Default::default() });
        let said = sent_by(&known, &asked, false, Dialect::OpenAi).unwrap();
        assert_eq!((&said["max_completion_tokens"], said.get("max_tokens")), (&json!(5), None));
    }

    #[test]
    fn what_cannot_be_said_is_refused_by_name() {
        let prompt = || ChatPrompt { messages: vec![text(Role::User, "hi")], ..Default::default() };
        let extra = |text: &str| Parameters { extra_json: text.to_owned(), ..Default::default() };
        let cases = [
            (Generation::default(), "generation.prompt"),
            (
                chat(
                    ChatPrompt { messages: vec![text(Role::Unspecified, "x")], ..Default::default() },
                    Parameters::default(),
                ),
                "messages.role",
            ),
            (chat(prompt(), extra("[]")), "parameters.extra_json"),
            (chat(prompt(), extra("{")), "parameters.extra_json"),
            (chat(prompt(), extra(r#"{"model":"another"}"#)), "parameters.extra_json"),
            (chat(prompt(), extra(r#"{"stream":false}"#)), "parameters.extra_json"),
        ];
        for (generation, field) in cases {
            let failure = sent(generation, true).unwrap_err();
            assert_eq!(failure.fields.first().map(|(name, _)| name.as_str()), Some(field), "{failure}");
        }
    }
}
