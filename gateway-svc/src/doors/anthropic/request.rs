//! What is asked.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    CacheMark, ContentPart, Image, Message, Parameters, ResponseFormat, Role, Thought, Tool, ToolCall, ToolChoice,
    content_part, image, response_format, tool_choice,
};
use postern_proto::model::v1::ChatPrompt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::answer::Writer;
use crate::ask::{Ask, Task};
use crate::doors::http::{Parsed, Told};
use crate::doors::wire::{CacheControl, TextOr, extra_json, list, read, refuse_unoffered, take_known};

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    #[serde(deserialize_with = "list")]
    messages: Vec<WireMessage>,
    /// Demanded by the API; counting goes without.
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    system: Option<TextOr<Inner>>,
    #[serde(default)]
    stop_sequences: Option<Vec<String>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    top_k: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    tools: Vec<WireTool>,
    #[serde(default)]
    tool_choice: Option<WireChoice>,
    #[serde(default)]
    thinking: Option<Thinking>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    output_config: Option<OutputConfig>,
    #[serde(default)]
    output_format: Option<WireFormat>,
    /// A mark after all of the prompt.
    #[serde(default)]
    cache_control: Option<CacheControl>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    content: TextOr<Block>,
}

#[derive(Deserialize)]
struct Block {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    source: Option<Box<RawValue>>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    input: Option<Box<RawValue>>,
    #[serde(default)]
    tool_use_id: Option<String>,
    #[serde(default)]
    content: Option<TextOr<Inner>>,
    #[serde(default)]
    is_error: Option<bool>,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    cache_control: Option<CacheControl>,
}

/// What a tool's result and instructions are made of: there is nothing within it.
#[derive(Deserialize)]
struct Inner {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    source: Option<Box<RawValue>>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    tool_name: Option<String>,
    #[serde(default)]
    content: Option<TextOr<Passage>>,
    #[serde(default)]
    cache_control: Option<CacheControl>,
}

/// A text within a document or a search's result.
#[derive(Deserialize)]
struct Passage {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Source {
    r#type: String,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    content: Option<TextOr<Passage>>,
}

#[derive(Deserialize)]
struct WireTool {
    #[serde(default)]
    r#type: Option<String>,
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    input_schema: Option<Box<RawValue>>,
    #[serde(default)]
    strict: Option<bool>,
    #[serde(default)]
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
struct WireChoice {
    r#type: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
struct Thinking {
    r#type: String,
    #[serde(default)]
    budget_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    user_id: Option<String>,
}

#[derive(Deserialize)]
struct OutputConfig {
    #[serde(default)]
    effort: Option<String>,
    #[serde(default)]
    format: Option<WireFormat>,
}

#[derive(Deserialize)]
struct WireFormat {
    r#type: String,
    #[serde(default)]
    schema: Option<Value>,
}

/// What an answer cannot bring back, or what has tools of the vendor's own.
const UNOFFERED: &[&str] = &["mcp_servers", "container", "thread"];
/// Hints to the vendor's own machines, which no answer depends on.
const HINTS: &[&str] = &[
    "service_tier",
    "betas",
    "inference_geo",
    "context_management",
    "speed",
    "diagnostics",
    "fallbacks",
    "fallback_credit_token",
    "billing_policy",
];

/// Members that may be as large as the body.
const LARGE: &[&str] = &["messages", "system", "tools"];

pub(super) fn parse(body: &[u8], told: Told) -> Result<Parsed, Failure> {
    let body: Body = read(body, LARGE)?;
    if body.max_tokens.is_none() {
        return Err(Failure::field("max_tokens", "is missing"));
    }
    let stream = body.stream.unwrap_or(false);
    Ok(Parsed { ask: ask(body)?, stream, writer: Box::new(Writer::new(told)) })
}

pub(super) fn parse_to_count(body: &[u8]) -> Result<Ask, Failure> {
    ask(read(body, LARGE)?)
}

fn ask(body: Body) -> Result<Ask, Failure> {
    refuse_unoffered(&body.extra, UNOFFERED)?;
    let edits = body.extra.get("context_management").and_then(|management| management["edits"].as_array());
    // Clearing is up to who serves; a summary is a block of the answer that nobody here writes.
    if edits.into_iter().flatten().any(|edit| edit["type"].as_str().is_some_and(|kind| kind.starts_with("compact"))) {
        return Err(Failure::field("context_management", "compaction is not offered by this gateway"));
    }
    let mut messages = Vec::new();
    if let Some(system) = body.system {
        messages.push(Message { content: parts("system", system)?, ..message(Role::System) });
    }
    for (at, wire) in body.messages.into_iter().enumerate() {
        add_turn(&mut messages, at, wire)?;
    }
    let last = messages.last_mut().and_then(|message| message.content.last_mut());
    if let (Some(last), Some(mark)) = (last, body.cache_control) {
        last.cache = Some(mark.into());
    }
    let mut warnings = Vec::new();
    let tools = body.tools.into_iter().filter_map(|wire| tool(wire, &mut warnings)).collect();
    let mut extra = body.extra;
    extra.retain(|name, _| !HINTS.contains(&name.as_str()));
    let parallel = body.tool_choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
    let OutputConfig { effort, format } = body.output_config.unwrap_or(OutputConfig { effort: None, format: None });
    let mut parameters = Parameters {
        max_tokens: body.max_tokens,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        stop: body.stop_sequences.unwrap_or_default(),
        user: body.metadata.and_then(|metadata| metadata.user_id),
        parallel_tool_calls: parallel.map(|disabled| !disabled),
        reasoning_effort: effort.or(body.thinking.and_then(thought)),
        ..Parameters::default()
    };
    take_known(&mut extra, &mut parameters)?;
    parameters.extra_json = extra_json(extra)?;
    let chat = ChatPrompt {
        messages,
        tools,
        tool_choice: body.tool_choice.map(choice).transpose()?,
        response_format: format.or(body.output_format).map(demanded).transpose()?,
    };
    let model = Some(body.model).filter(|model| !model.is_empty());
    Ok(Ask { model, task: Task::Chat(chat), parameters, session: None, warnings })
}

fn message(role: Role) -> Message {
    Message { role: role as i32, ..Message::default() }
}

/// A turn: the results of tools in it are messages of their own, which come before what the user says.
fn add_turn(messages: &mut Vec<Message>, at: usize, wire: WireMessage) -> Result<(), Failure> {
    let field = format!("messages[{at}].content");
    let role = match wire.role.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return Err(Failure::field(format!("messages[{at}].role"), "must be user or assistant")),
    };
    let blocks = match wire.content {
        TextOr::Text(text) => {
            messages.push(Message { content: vec![text_part(text)], ..message(role) });
            return Ok(());
        }
        TextOr::Many(blocks) => blocks,
    };
    let mut turn = message(role);
    for block in blocks {
        let is_thought = matches!(block.r#type.as_str(), "thinking" | "redacted_thinking");
        if is_thought && (!turn.content.is_empty() || !turn.tool_calls.is_empty()) {
            // Each thought stays before what it led to.
            messages.push(std::mem::replace(&mut turn, message(role)));
        }
        match (block.r#type.as_str(), role) {
            ("tool_use", Role::Assistant) => turn.tool_calls.push(ToolCall {
                id: block.id.ok_or_else(|| Failure::field(&*field, "a tool_use has no id"))?,
                name: block.name.ok_or_else(|| Failure::field(&*field, "a tool_use has no name"))?,
                arguments_json: block.input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned()),
                signature: String::new(),
            }),
            ("tool_result", Role::User) => messages.push(tool_result(&field, block)?),
            ("thinking", Role::Assistant) => {
                let text = block.thinking.unwrap_or_default();
                turn.reasoning.push_str(&text);
                let signature = block.signature.filter(|signature| !signature.is_empty());
                turn.thoughts.extend(signature.map(|signature| Thought { text, signature }));
            }
            // Only the server that it came from can read it.
            ("redacted_thinking", Role::Assistant) => {
                let signature = block.data.filter(|data| !data.is_empty());
                turn.thoughts.extend(signature.map(|signature| Thought { text: String::new(), signature }));
            }
            _ => {
                let Block { r#type, text, source, title, content, cache_control, .. } = block;
                let passage = |inner: Inner| Passage { text: inner.text.unwrap_or_default() };
                let content = content.map(|content| match content {
                    TextOr::Text(text) => TextOr::Text(text),
                    TextOr::Many(inner) => TextOr::Many(inner.into_iter().map(passage).collect()),
                });
                turn.content.push(part(
                    &field,
                    Inner { r#type, text, source, title, tool_name: None, content, cache_control },
                )?);
            }
        }
    }
    let has_thoughts = !turn.reasoning.is_empty() || !turn.thoughts.is_empty();
    if !turn.content.is_empty() || !turn.tool_calls.is_empty() || has_thoughts {
        messages.push(turn);
    }
    Ok(())
}

fn tool_result(field: &str, block: Block) -> Result<Message, Failure> {
    let id = block.tool_use_id.ok_or_else(|| Failure::field(field, "a tool_result has no tool_use_id"))?;
    let mut content = block.content.map_or_else(|| Ok(Vec::new()), |content| parts(field, content))?;
    if block.is_error == Some(true) {
        content.insert(0, text_part("The tool failed:".to_owned()));
    }
    if let (Some(last), Some(mark)) = (content.last_mut(), block.cache_control) {
        last.cache = Some(mark.into());
    }
    Ok(Message { content, tool_call_id: id, ..message(Role::Tool) })
}

fn parts(field: &str, content: TextOr<Inner>) -> Result<Vec<ContentPart>, Failure> {
    match content {
        TextOr::Text(text) => Ok(vec![text_part(text)]),
        TextOr::Many(blocks) => blocks.into_iter().map(|block| part(field, block)).collect(),
    }
}

fn text_part(text: String) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text)), cache: None }
}

fn part(field: &str, mut block: Inner) -> Result<ContentPart, Failure> {
    let cache = block.cache_control.take().map(CacheMark::from);
    Ok(ContentPart { cache, ..unmarked(field, block)? })
}

fn unmarked(field: &str, block: Inner) -> Result<ContentPart, Failure> {
    let Inner { r#type: kind, text, source, title, tool_name, content, cache_control: _ } = block;
    // Of a search's result it is a text, and of no use to a model.
    let source = source.and_then(|source| serde_json::from_str::<Source>(source.get()).ok());
    let titled = |body: String| match &title {
        Some(title) => text_part(format!("{title}\n{body}")),
        None => text_part(body),
    };
    match (kind.as_str(), text, source) {
        ("text", Some(text), _) => Ok(text_part(text)),
        ("image", _, Some(source)) => {
            let url = match (source.r#type.as_str(), source.media_type, source.data, source.url) {
                ("base64", Some(media_type), Some(data), _) => format!("data:{media_type};base64,{data}"),
                ("url", _, _, Some(url)) => url,
                _ => return Err(Failure::field(field, "an image needs base64 data with its media type, or a url")),
            };
            let image = Image { source: Some(image::Source::Url(url)), ..Image::default() };
            Ok(ContentPart { part: Some(content_part::Part::Image(image)), cache: None })
        }
        // Documents of text are text to every model.
        ("document", _, Some(Source { r#type, data: Some(data), .. })) if r#type == "text" => Ok(titled(data)),
        ("document", _, Some(Source { r#type, content: Some(content), .. })) if r#type == "content" => {
            Ok(titled(passages(content)))
        }
        ("search_result", ..) => Ok(titled(content.map(passages).unwrap_or_default())),
        ("tool_reference", ..) => Ok(text_part(format!("tool: {}", tool_name.unwrap_or_default()))),
        (kind, ..) => {
            let shown: String = kind.chars().filter(|c| !c.is_control()).take(32).collect();
            Err(Failure::field(field, format!("blocks of type `{shown}` are not offered here")))
        }
    }
}

fn passages(content: TextOr<Passage>) -> String {
    match content {
        TextOr::Text(text) => text,
        TextOr::Many(passages) => passages.into_iter().map(|passage| passage.text).collect::<Vec<_>>().join("\n"),
    }
}

/// A tool of the caller's; what only the vendor runs is left out.
fn tool(wire: WireTool, warnings: &mut Vec<String>) -> Option<Tool> {
    if let Some(kind) = wire.r#type.as_deref().filter(|kind| *kind != "custom") {
        let shown: String = kind.chars().filter(|c| !c.is_control()).take(64).collect();
        warnings.push(format!("the tool `{shown}` was dropped: only its vendor runs it"));
        return None;
    }
    Some(Tool {
        name: wire.name,
        description: wire.description.unwrap_or_default(),
        parameters_json: wire.input_schema.map(|schema| schema.get().to_owned()).unwrap_or_default(),
        strict: wire.strict,
        cache: wire.cache_control.map(CacheMark::from),
    })
}

fn choice(wire: WireChoice) -> Result<ToolChoice, Failure> {
    let mode = |mode: tool_choice::Mode| tool_choice::Choice::Mode(mode as i32);
    let choice = match (wire.r#type.as_str(), wire.name) {
        ("auto", _) => mode(tool_choice::Mode::Auto),
        ("any", _) => mode(tool_choice::Mode::Required),
        ("none", _) => mode(tool_choice::Mode::None),
        ("tool", Some(name)) => tool_choice::Choice::Name(name),
        _ => return Err(Failure::field("tool_choice", "must be auto, any, none, or a tool by its name")),
    };
    Ok(ToolChoice { choice: Some(choice) })
}

/// The effort that a budget for thinking stands for.
fn thought(thinking: Thinking) -> Option<String> {
    let effort = match (thinking.r#type.as_str(), thinking.budget_tokens) {
        ("enabled", Some(0..=2048)) => "low",
        ("enabled", Some(2049..=8192)) => "medium",
        ("enabled", _) => "high",
        // Anything else leaves it to the model.
        _ => return None,
    };
    Some(effort.to_owned())
}

fn demanded(wire: WireFormat) -> Result<ResponseFormat, Failure> {
    match (wire.r#type.as_str(), wire.schema) {
        ("json_schema", Some(schema)) => {
            let format = response_format::JsonSchema {
                name: "answer".to_owned(),
                schema_json: schema.to_string(),
                // Servers that know strictness want every property demanded; this API does not.
                strict: demands_all(&schema).then_some(true),
                description: String::new(),
            };
            Ok(ResponseFormat { format: Some(response_format::Format::JsonSchema(format)) })
        }
        _ => Err(Failure::field("output_config.format", "must be json_schema with a schema")),
    }
}

/// Whether a schema demands every property, at every level.
fn demands_all(schema: &Value) -> bool {
    let own = match (schema["properties"].as_object(), schema["required"].as_array()) {
        (None, _) => true,
        (Some(properties), Some(required)) => properties.keys().all(|name| required.iter().any(|one| one == name)),
        (Some(properties), None) => properties.is_empty(),
    };
    let within: Vec<&Value> = match schema {
        Value::Object(members) => members.values().collect(),
        Value::Array(all) => all.iter().collect(),
        _ => Vec::new(),
    };
    own && within.into_iter().all(demands_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(body: &Value) -> Result<Ask, Failure> {
        let told = Told { id: String::new(), created: 0 };
        parse(body.to_string().as_bytes(), told).map(|parsed| parsed.ask)
    }

    #[test]
    fn everything_that_has_a_place_is_put_there() {
        let ask = asked(&json!({
            "model": "m", "max_tokens": 20, "system": [{ "type": "text", "text": "Be brief.", "cache_control": {} }],
            "stop_sequences": ["END"], "temperature": 0.5, "top_k": 3, "metadata": { "user_id": "u" },
            "thinking": { "type": "enabled", "budget_tokens": 4096 }, "service_tier": "auto", "min_p": 0.1,
            "tools": [{ "name": "f", "description": "d", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
            "output_config": { "format": { "type": "json_schema", "schema": { "type": "object" } } },
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "what?" },
                    { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA==" } },
                ] },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "s" },
                    { "type": "text", "text": "let me see" },
                    { "type": "tool_use", "id": "t1", "name": "f", "input": { "a": 1 } },
                ] },
                { "role": "user", "content": [
                    { "type": "text", "text": "and?" },
                    { "type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": true },
                ] },
            ],
        }))
        .unwrap();
        let Task::Chat(chat) = ask.task else { panic!("a chat") };
        let roles: Vec<_> = chat.messages.iter().map(|message| Role::try_from(message.role).unwrap()).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::User]);
        assert_eq!(chat.messages[2].tool_calls[0].arguments_json, r#"{"a":1}"#);
        assert_eq!((chat.messages[2].content.len(), chat.messages[3].tool_call_id.as_str()), (1, "t1"));
        assert_eq!(chat.messages[3].content.len(), 2);
        assert!(chat.response_format.is_some() && chat.tool_choice.is_some());
        let parameters = ask.parameters;
        assert_eq!((parameters.max_tokens, parameters.parallel_tool_calls), (Some(20), Some(false)));
        assert_eq!(parameters.reasoning_effort.as_deref(), Some("medium"));
        assert_eq!((parameters.user.as_deref(), parameters.extra_json.as_str()), (Some("u"), r#"{"min_p":0.1}"#));
    }

    #[test]
    fn what_widely_used_tools_send_beside_is_no_hindrance() {
        let ask = asked(&json!({
            "max_tokens": 5, "thinking": { "type": "adaptive" }, "seed": 7, "stop": ["END"], "n": 1,
            "tools": [{ "type": "web_search_20250305", "name": "web_search" }],
            "context_management": { "edits": [{ "type": "clear_thinking_20251015", "keep": "all" }] },
            "output_config": { "format": { "type": "json_schema", "schema": {
                "type": "object", "properties": { "a": {}, "b": {} }, "required": ["a"],
            } } },
            "messages": [
                { "role": "user", "content": [
                    { "type": "document", "title": "T", "source": { "type": "text", "media_type": "text/plain", "data": "D" } },
                    { "type": "search_result", "source": "https://x", "title": "S", "content": [{ "type": "text", "text": "P" }] },
                ] },
                { "role": "assistant", "content": [{ "type": "thinking", "thinking": "hm", "signature": "s" }] },
            ],
        }))
        .unwrap();
        assert_eq!(ask.parameters.reasoning_effort, None);
        assert_eq!((ask.parameters.extra_json.as_str(), ask.warnings.len()), ("", 1), "{:?}", ask.warnings);
        assert_eq!((ask.parameters.seed, ask.parameters.stop), (Some(7), vec!["END".to_owned()]));
        let Task::Chat(chat) = ask.task else { panic!("a chat") };
        assert_eq!(chat.messages[0].content, [text_part("T\nD".to_owned()), text_part("S\nP".to_owned())]);
        let Some(response_format::Format::JsonSchema(format)) = chat.response_format.unwrap().format else { panic!() };
        assert_eq!(format.strict, None);
    }

    /// Each level of a list within a list costs a level of the reader and no copy of what is below.
    #[test]
    fn results_within_results_are_refused_and_cost_nothing() {
        let mut block = json!({ "type": "text", "text": "x", "z": vec![0; 10_000] });
        for _ in 0..60 {
            block = json!({ "type": "tool_result", "tool_use_id": "t", "content": [block] });
        }
        let body = json!({ "max_tokens": 5, "messages": [{ "role": "user", "content": [block] }] });
        let refused = asked(&body).err().unwrap();
        assert_eq!(refused.fields[0].0, "messages[0].content");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |member: &str, value: Value| {
            let mut body = json!({ "model": "m", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
            body[member] = value;
            asked(&body).err().and_then(|failure| failure.fields.into_iter().next()).map(|(field, _)| field)
        };
        let content = |block: Value| json!([{ "role": "user", "content": [block] }]);
        assert_eq!(with("stream", json!(true)), None);
        for (member, value, field) in [
            ("max_tokens", Value::Null, "max_tokens"),
            ("messages", json!([{ "role": "king", "content": "x" }]), "messages[0].role"),
            ("messages", content(json!({ "type": "document" })), "messages[0].content"),
            ("messages", content(json!({ "type": "tool_result" })), "messages[0].content"),
            ("messages", content(json!({ "type": "image", "source": { "type": "file" } })), "messages[0].content"),
            ("tool_choice", json!({ "type": "maybe" }), "tool_choice"),
            ("mcp_servers", json!([{}]), "mcp_servers"),
            ("thread", json!({ "type": "create" }), "thread"),
            ("context_management", json!({ "edits": [{ "type": "compact_20260112" }] }), "context_management"),
        ] {
            assert_eq!(with(member, value).as_deref(), Some(field), "{member}");
        }
    }
}
