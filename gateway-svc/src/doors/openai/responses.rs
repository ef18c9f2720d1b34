//! `/v1/responses` (<https://platform.openai.com/docs/api-reference/responses>), of which nothing is kept: what is asked.

mod answer;
mod tools;

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    ContentPart, Image, Message, Parameters, ResponseFormat, Role, Thought, ToolCall, ToolChoice, content_part, image,
    response_format, tool_choice,
};
use postern_proto::model::v1::ChatPrompt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::ask::{Ask, Task};
use crate::doors::http::{Parsed, Told};
use crate::doors::wire::{TextOr, extra_json, list, members, read, refuse_unoffered, take_known};
use answer::{Echo, Writer};
use tools::{Tools, WireTool, shown};

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    input: TextOr<Item>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    max_output_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default, deserialize_with = "list")]
    tools: Vec<WireTool>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    #[serde(default)]
    text: Option<WireText>,
    #[serde(default)]
    reasoning: Option<WireReasoning>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    include: Vec<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    content: Option<TextOr<Part>>,
    #[serde(default)]
    call_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    /// A text, but for vendors' own calls.
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    input: Option<String>,
    #[serde(default, deserialize_with = "list")]
    tools: Vec<WireTool>,
    /// What a model thought.
    #[serde(default, deserialize_with = "list")]
    summary: Vec<Part>,
    #[serde(default)]
    encrypted_content: Option<String>,
    #[serde(default)]
    output: Option<TextOr<Part>>,
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    image_url: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

#[derive(Deserialize)]
struct WireText {
    #[serde(default)]
    format: Option<WireFormat>,
    #[serde(default)]
    verbosity: Option<String>,
}

#[derive(Deserialize)]
struct WireFormat {
    r#type: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    schema: Option<Value>,
    #[serde(default)]
    strict: Option<bool>,
    #[serde(default)]
    description: Option<String>,
}

#[derive(Deserialize)]
struct WireReasoning {
    #[serde(default)]
    effort: Option<String>,
    #[serde(default)]
    summary: Option<String>,
}

/// Pairs of metadata, as the API has it.
const MAX_METADATA: usize = 16;
/// What needs a memory, or an answer that cannot be brought back.
const UNOFFERED: &[&str] = &["previous_response_id", "conversation", "background", "prompt"];
/// What no answer depends on: there is no store, and hints to the vendor's own machines.
const HINTS: &[&str] = &[
    "store",
    "truncation",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "stream_options",
    "max_tool_calls",
    "client_metadata",
    "prompt_cache_options",
    "context_management",
    "moderation",
    "access_programs",
];

/// Members that may be as large as the body.
const LARGE: &[&str] = &["input", "instructions", "tools"];

pub(super) fn parse(body: &[u8], told: Told) -> Result<Parsed, Failure> {
    let echo = Echo::of(&members(body, LARGE)?);
    let body: Body = read(body, LARGE)?;
    refuse_unoffered(&body.extra, UNOFFERED)?;
    if body.metadata.as_ref().is_some_and(|pairs| pairs.len() > MAX_METADATA) {
        return Err(Failure::field("metadata", format!("at most {MAX_METADATA} pairs of texts")));
    }
    let (mut messages, mut later_tools) = (Vec::new(), Vec::new());
    if let Some(instructions) = body.instructions {
        messages.push(Message { content: vec![text_part(instructions)], ..message(Role::System) });
    }
    match body.input {
        TextOr::Text(text) => messages.push(Message { content: vec![text_part(text)], ..message(Role::User) }),
        TextOr::Many(items) => {
            for (at, item) in items.into_iter().enumerate() {
                add_item(&mut messages, &mut later_tools, at, item)?;
            }
        }
    }
    let (mut known, mut tools, mut warnings) = (Tools::default(), Vec::new(), Vec::new());
    for wire in body.tools.into_iter().chain(later_tools) {
        known.take(wire, &mut tools, &mut warnings)?;
    }
    let mut extra = body.extra;
    extra.retain(|name, _| !HINTS.contains(&name.as_str()));
    // Said by either.
    let wants_logprobs = body.include.iter().any(|included| included == "message.output_text.logprobs");
    let top_logprobs = body.top_logprobs.filter(|top| *top > 0 || wants_logprobs).or(wants_logprobs.then_some(0));
    let (format, verbosity) = body.text.map_or((None, None), |text| (text.format, text.verbosity));
    if let Some(verbosity) = verbosity {
        // Chats have it beside the other parameters.
        extra.insert("verbosity".to_owned(), verbosity.into());
    }
    let WireReasoning { effort, summary } = body.reasoning.unwrap_or(WireReasoning { effort: None, summary: None });
    if let Some(summary) = summary {
        // For servers of this API; others say what they thought, or do not.
        extra.insert("reasoning_summary".to_owned(), summary.into());
    }
    let mut parameters = Parameters {
        top_logprobs,
        max_tokens: body.max_output_tokens,
        temperature: body.temperature,
        top_p: body.top_p,
        user: body.user,
        parallel_tool_calls: body.parallel_tool_calls,
        reasoning_effort: effort,
        ..Parameters::default()
    };
    take_known(&mut extra, &mut parameters)?;
    parameters.extra_json = extra_json(extra)?;
    let chat = ChatPrompt {
        messages,
        tools,
        tool_choice: body.tool_choice.filter(|choice| !choice.is_null()).map(choice).transpose()?,
        response_format: format.map(demanded).transpose()?.flatten(),
    };
    let model = Some(body.model).filter(|model| !model.is_empty());
    let ask = Ask { model, task: Task::Chat(chat), parameters, session: None, warnings };
    Ok(Parsed { ask, stream: body.stream.unwrap_or(false), writer: Box::new(Writer::new(told, echo, known)) })
}

fn message(role: Role) -> Message {
    Message { role: role as i32, ..Message::default() }
}

fn text_part(text: String) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text)), cache: None }
}

/// An item; calls in a row are one turn of the assistant, with what it said before them.
fn add_item(messages: &mut Vec<Message>, tools: &mut Vec<WireTool>, at: usize, item: Item) -> Result<(), Failure> {
    let missing = |member: &str| Failure::field(format!("input[{at}].{member}"), "is missing");
    match item.r#type.as_deref().unwrap_or("message") {
        "message" => {
            let role = match item.role.as_deref() {
                Some("system" | "developer") => Role::System,
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                _ => {
                    let problem = "must be system, developer, user or assistant";
                    return Err(Failure::field(format!("input[{at}].role"), problem));
                }
            };
            let content = parts(at, item.content.ok_or_else(|| missing("content"))?)?;
            match messages.last_mut() {
                // What it says beside its calls is one turn with them, in whichever order they come.
                Some(turn) if role == Role::Assistant && turn.role == role as i32 => turn.content.extend(content),
                _ => messages.push(Message { content, ..message(role) }),
            }
        }
        kind @ ("function_call" | "custom_tool_call") => {
            let name = item.name.ok_or_else(|| missing("name"))?;
            let arguments_json = match (kind, item.arguments, item.input) {
                ("custom_tool_call", _, input) => serde_json::json!({ "input": input.unwrap_or_default() }).to_string(),
                (_, Some(arguments), _) => serde_json::from_str::<String>(arguments.get())
                    .map_err(|_| Failure::field(format!("input[{at}].arguments"), "must be a text"))?,
                (_, None, _) => String::new(),
            };
            let call = ToolCall {
                id: item.call_id.ok_or_else(|| missing("call_id"))?,
                name: item.namespace.map_or(name.clone(), |namespace| shown(&namespace, &name)),
                arguments_json,
                signature: String::new(),
            };
            match messages.last_mut() {
                Some(turn) if turn.role == Role::Assistant as i32 => turn.tool_calls.push(call),
                _ => messages.push(Message { tool_calls: vec![call], ..message(Role::Assistant) }),
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            let tool_call_id = item.call_id.ok_or_else(|| missing("call_id"))?;
            let content = parts(at, item.output.ok_or_else(|| missing("output"))?)?;
            messages.push(Message { content, tool_call_id, ..message(Role::Tool) });
        }
        "reasoning" => {
            let thought = |part: Part| part.text.unwrap_or_default();
            let content = match item.content {
                Some(TextOr::Many(parts)) => parts,
                _ => Vec::new(),
            };
            let reasoning = content.into_iter().chain(item.summary).map(thought).collect::<Vec<_>>().join("\n");
            let signature = item.encrypted_content.filter(|text| !text.is_empty());
            let signed = signature.map(|signature| Thought { text: reasoning.clone(), signature });
            match messages.last_mut() {
                // More thoughts of a turn in which nothing was said yet.
                Some(turn) if turn.role == Role::Assistant as i32 && is_unsaid(turn) => {
                    turn.reasoning.push_str(&reasoning);
                    turn.thoughts.extend(signed);
                }
                _ if reasoning.is_empty() && signed.is_none() => {}
                _ => {
                    let thoughts = signed.into_iter().collect();
                    messages.push(Message { reasoning, thoughts, ..message(Role::Assistant) });
                }
            }
        }
        "additional_tools" => tools.extend(item.tools),
        // What a vendor's own tool did is for its vendor.
        "tool_search_call" | "tool_search_output" | "web_search_call" | "image_generation_call" => {}
        "item_reference" => {
            let problem = "nothing is kept here: send the items themselves (clients do so with `store: false`)";
            return Err(Failure::field(format!("input[{at}].type"), problem));
        }
        other => {
            let shown: String = other.chars().filter(|c| !c.is_control()).take(32).collect();
            let problem = format!("items of type `{shown}` are not offered here");
            return Err(Failure::field(format!("input[{at}].type"), problem));
        }
    }
    Ok(())
}

/// Whether a turn is of thoughts alone.
fn is_unsaid(turn: &Message) -> bool {
    turn.content.is_empty() && turn.tool_calls.is_empty()
}

fn parts(at: usize, content: TextOr<Part>) -> Result<Vec<ContentPart>, Failure> {
    match content {
        TextOr::Text(text) => Ok(vec![text_part(text)]),
        TextOr::Many(parts) => parts.into_iter().map(|wire| part(at, wire)).collect(),
    }
}

fn part(at: usize, wire: Part) -> Result<ContentPart, Failure> {
    match (wire.r#type.as_str(), wire.text.or(wire.refusal), wire.image_url) {
        ("input_text" | "output_text" | "text" | "refusal", Some(text), _) => Ok(text_part(text)),
        ("input_image", _, Some(url)) => {
            let detail = wire.detail.unwrap_or_default();
            let image = Image { source: Some(image::Source::Url(url)), media_type: String::new(), detail };
            Ok(ContentPart { part: Some(content_part::Part::Image(image)), cache: None })
        }
        (kind, ..) => {
            let shown: String = kind.chars().filter(|c| !c.is_control()).take(32).collect();
            Err(Failure::field(format!("input[{at}].content"), format!("parts of type `{shown}` are not offered")))
        }
    }
}

fn choice(wire: Value) -> Result<ToolChoice, Failure> {
    let mode = |mode: tool_choice::Mode| tool_choice::Choice::Mode(mode as i32);
    let choice = match (wire.as_str(), wire["type"].as_str(), wire["name"].as_str()) {
        (Some("auto"), ..) => mode(tool_choice::Mode::Auto),
        (Some("none"), ..) => mode(tool_choice::Mode::None),
        (Some("required"), ..) => mode(tool_choice::Mode::Required),
        (None, Some("function"), Some(name)) => tool_choice::Choice::Name(name.to_owned()),
        _ => return Err(Failure::field("tool_choice", "must be auto, none, required or a function's name")),
    };
    Ok(ToolChoice { choice: Some(choice) })
}

fn demanded(wire: WireFormat) -> Result<Option<ResponseFormat>, Failure> {
    let format = match (wire.r#type.as_str(), wire.schema) {
        ("text", _) => return Ok(None),
        ("json_object", _) => response_format::Format::JsonObject(response_format::JsonObject {}),
        ("json_schema", Some(schema)) => response_format::Format::JsonSchema(response_format::JsonSchema {
            name: wire.name.unwrap_or_else(|| "answer".to_owned()),
            schema_json: schema.to_string(),
            strict: wire.strict,
            description: wire.description.unwrap_or_default(),
        }),
        _ => return Err(Failure::field("text.format", "must be text, json_object, or json_schema with a schema")),
    };
    Ok(Some(ResponseFormat { format: Some(format) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(body: &Value) -> Result<Ask, Failure> {
        parse(body.to_string().as_bytes(), Told { id: String::new(), created: 0 }).map(|parsed| parsed.ask)
    }

    #[test]
    fn items_become_the_turns_of_a_conversation() {
        let ask = asked(&json!({
            "model": "m", "instructions": "Be brief.", "max_output_tokens": 9, "reasoning": { "effort": "low" },
            "store": true, "include": ["reasoning.encrypted_content"], "metadata": { "a": "b" }, "min_p": 0.1,
            "tools": [{ "type": "function", "name": "f", "parameters": { "type": "object" }, "strict": true }],
            "tool_choice": { "type": "function", "name": "f" },
            "text": { "format": { "type": "json_schema", "name": "s", "schema": {}, "strict": true } },
            "input": [
                { "role": "user", "content": [
                    { "type": "input_text", "text": "what?" },
                    { "type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low" },
                ] },
                { "type": "reasoning", "id": "rs", "summary": [] },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "see" }] },
                { "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" },
                { "type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c1", "output": "yes" },
                { "type": "function_call_output", "call_id": "c2", "output": [{ "type": "input_text", "text": "no" }] },
            ],
        }))
        .unwrap();
        let Task::Chat(chat) = ask.task else { panic!("a chat") };
        let roles: Vec<_> = chat.messages.iter().map(|message| Role::try_from(message.role).unwrap()).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Tool]);
        assert_eq!(chat.messages[2].tool_calls.len(), 2);
        assert_eq!(chat.messages[2].content, [text_part("see".to_owned())]);
        assert!(chat.response_format.is_some());
        assert_eq!(chat.tool_choice.unwrap().choice, Some(tool_choice::Choice::Name("f".to_owned())));
        assert_eq!((ask.parameters.max_tokens, ask.parameters.extra_json.as_str()), (Some(9), r#"{"min_p":0.1}"#));
    }

    #[test]
    fn tools_that_are_no_functions_are_shown_as_such_or_dropped_with_a_warning() {
        let ask = asked(&json!({
            "model": "m", "client_metadata": { "a": "b" },
            "tools": [
                { "type": "custom", "name": "apply_patch", "description": "Takes a patch." },
                { "type": "namespace", "name": "mcp__files", "tools": [
                    { "type": "function", "name": "read", "parameters": { "type": "object" } },
                ] },
                { "type": "web_search" },
            ],
            "input": [
                { "type": "additional_tools", "role": "developer", "tools": [{ "type": "function", "name": "late" }] },
                { "role": "user", "content": "go" },
                { "type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin" },
                { "type": "function_call", "call_id": "c2", "namespace": "mcp__files", "name": "read", "arguments": "{}" },
                { "type": "message", "role": "assistant", "content": "reading" },
                { "type": "custom_tool_call_output", "call_id": "c1", "output": "done" },
                { "type": "tool_search_call", "arguments": { "q": 1 } },
            ],
        }))
        .unwrap();
        assert_eq!(ask.warnings, ["the tool `web_search` was dropped: only its vendor runs it"]);
        assert_eq!(ask.parameters.extra_json, "");
        let Task::Chat(chat) = ask.task else { panic!("a chat") };
        let names: Vec<_> = chat.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["apply_patch", "mcp__files__read", "late"]);
        assert_eq!(chat.messages.len(), 3);
        let turn = &chat.messages[1];
        assert_eq!(turn.tool_calls[0].arguments_json, r#"{"input":"*** Begin"}"#);
        assert_eq!((turn.tool_calls[1].name.as_str(), turn.content.len()), ("mcp__files__read", 1));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |member: &str, value: Value| {
            let mut body = json!({ "model": "m", "input": "hi" });
            body[member] = value;
            asked(&body).err().and_then(|failure| failure.fields.into_iter().next()).map(|(field, _)| field)
        };
        assert_eq!(with("store", json!(false)), None);
        for (member, value, field) in [
            ("previous_response_id", json!("resp_1"), "previous_response_id"),
            ("background", json!(true), "background"),
            ("tools", json!([{ "type": "function" }]), "tools"),
            ("tool_choice", json!("maybe"), "tool_choice"),
            ("text", json!({ "format": { "type": "xml" } }), "text.format"),
            ("input", json!([{ "type": "item_reference", "id": "x" }]), "input[0].type"),
            ("input", json!([{ "role": "king", "content": "x" }]), "input[0].role"),
            ("input", json!([{ "role": "user", "content": [{ "type": "input_audio" }] }]), "input[0].content"),
            ("input", json!([{ "type": "function_call_output", "output": "x" }]), "input[0].call_id"),
        ] {
            assert_eq!(with(member, value).as_deref(), Some(field), "{member}");
        }
    }
}
