//! `/v1/chat/completions`: what is asked.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    CacheMark, ContentPart, Image, Message, ResponseFormat, Role, Tool, ToolCall, ToolChoice, content_part, image,
    response_format, tool_choice,
};
use postern_proto::model::v1::ChatPrompt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::answer::{Shape, Writer};
use super::parameters::Common;
use crate::ask::{Ask, Task};
use crate::doors::http::{Parsed, Told};
use crate::doors::wire::{CacheControl, TextOr, list, read, refuse_unoffered};

#[derive(Deserialize)]
struct Body {
    #[serde(deserialize_with = "list")]
    messages: Vec<WireMessage>,
    #[serde(default, deserialize_with = "list")]
    tools: Vec<WireTool>,
    #[serde(default)]
    tool_choice: Option<WireToolChoice>,
    #[serde(default)]
    response_format: Option<WireFormat>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    #[serde(default)]
    reasoning_effort: Option<String>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: String,
    #[serde(default)]
    content: Option<TextOr<WirePart>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default, deserialize_with = "list")]
    tool_calls: Vec<WireToolCall>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
struct WirePart {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    image_url: Option<WireImage>,
    /// Anthropic's, which routers of this API take over.
    #[serde(default)]
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
struct WireImage {
    url: String,
    #[serde(default)]
    detail: Option<String>,
}

#[derive(Deserialize)]
struct WireToolCall {
    #[serde(default)]
    id: String,
    function: WireFunctionCall,
    /// What Gemini signed, where its own door of this API has it.
    #[serde(default)]
    extra_content: Option<ExtraContent>,
}

#[derive(Deserialize)]
struct ExtraContent {
    #[serde(default)]
    google: Option<OfGoogle>,
}

#[derive(Deserialize)]
struct OfGoogle {
    #[serde(default)]
    thought_signature: Option<String>,
}

#[derive(Deserialize)]
struct WireFunctionCall {
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Deserialize)]
struct WireTool {
    r#type: String,
    #[serde(default)]
    function: Option<WireFunction>,
}

#[derive(Deserialize)]
struct WireFunction {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Box<RawValue>>,
    #[serde(default)]
    strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireToolChoice {
    Mode(String),
    Named { function: WireNamed },
}

#[derive(Deserialize)]
struct WireNamed {
    name: String,
}

#[derive(Deserialize)]
struct WireFormat {
    r#type: String,
    #[serde(default)]
    json_schema: Option<WireSchema>,
    /// Beside the type, as llama.cpp and Together have it.
    #[serde(default)]
    schema: Option<Value>,
}

#[derive(Deserialize)]
struct WireSchema {
    #[serde(default)]
    name: String,
    #[serde(default)]
    schema: Value,
    #[serde(default)]
    strict: Option<bool>,
    #[serde(default)]
    description: Option<String>,
}

/// What an answer cannot bring back.
const UNOFFERED: &[&str] = &["functions", "function_call", "audio"];

/// Members that may be as large as the body.
const LARGE: &[&str] = &["messages", "tools"];

pub(super) fn parse(body: &[u8], told: Told) -> Result<Parsed, Failure> {
    let body: Body = read(body, LARGE)?;
    refuse_unoffered(&body.extra, UNOFFERED)?;
    let messages =
        body.messages.into_iter().enumerate().map(|(at, wire)| message(at, wire)).collect::<Result<_, _>>()?;
    let tools = body.tools.into_iter().map(tool).collect::<Result<_, _>>()?;
    let chat = ChatPrompt {
        messages,
        tools,
        tool_choice: body.tool_choice.map(choice).transpose()?,
        response_format: body.response_format.map(format).transpose()?.flatten(),
    };
    let (stream, include_usage, model) = (body.common.streams(), body.common.include_usage(), body.common.model());
    let mut parameters = body.common.parameters(body.extra)?;
    // The newer name says the same and wins.
    parameters.max_tokens = body.max_completion_tokens.or(parameters.max_tokens);
    parameters.parallel_tool_calls = body.parallel_tool_calls;
    parameters.reasoning_effort = body.reasoning_effort;
    parameters.top_logprobs = match (body.logprobs, body.top_logprobs) {
        (Some(true), top) => Some(top.unwrap_or(0)),
        (_, Some(1..)) => return Err(Failure::field("top_logprobs", "needs `logprobs`")),
        _ => None,
    };
    let ask = Ask { model, task: Task::Chat(chat), parameters, session: None, warnings: Vec::new() };
    Ok(Parsed { ask, stream, writer: Box::new(Writer::new(Shape::Chat, told, include_usage)) })
}

fn message(at: usize, wire: WireMessage) -> Result<Message, Failure> {
    let role = match wire.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => {
            return Err(Failure::field(
                format!("messages[{at}].role"),
                "must be system, developer, user, assistant or tool",
            ));
        }
    };
    let content = match wire.content {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text_part(text)],
        Some(TextOr::Many(parts)) => parts.into_iter().map(|wire| part(at, wire)).collect::<Result<_, _>>()?,
    };
    let call = |call: WireToolCall| ToolCall {
        id: call.id,
        name: call.function.name,
        arguments_json: call.function.arguments,
        signature: signature(call.extra_content).unwrap_or_default(),
    };
    Ok(Message {
        role: role as i32,
        content,
        tool_calls: wire.tool_calls.into_iter().map(call).collect(),
        tool_call_id: wire.tool_call_id.unwrap_or_default(),
        name: wire.name.unwrap_or_default(),
        reasoning: wire.reasoning_content.unwrap_or_default(),
        thoughts: Vec::new(),
    })
}

fn signature(given: Option<ExtraContent>) -> Option<String> {
    given?.google?.thought_signature
}

fn text_part(text: String) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text)), cache: None }
}

fn part(at: usize, wire: WirePart) -> Result<ContentPart, Failure> {
    let cache = wire.cache_control.map(CacheMark::from);
    match (wire.r#type.as_str(), wire.text.or(wire.refusal), wire.image_url) {
        ("text" | "refusal", Some(text), _) => Ok(ContentPart { cache, ..text_part(text) }),
        ("image_url", _, Some(WireImage { url, detail })) => {
            let source = Some(image::Source::Url(url));
            let picture = Image { source, media_type: String::new(), detail: detail.unwrap_or_default() };
            Ok(ContentPart { part: Some(content_part::Part::Image(picture)), cache })
        }
        (kind, ..) => {
            let shown: String = kind.chars().take(32).collect();
            Err(Failure::field(format!("messages[{at}].content"), format!("parts of type `{shown}` are not offered")))
        }
    }
}

fn tool(wire: WireTool) -> Result<Tool, Failure> {
    let function = wire.function.filter(|_| wire.r#type == "function");
    let function = function.ok_or_else(|| Failure::field("tools", "only tools of type `function` are offered"))?;
    Ok(Tool {
        name: function.name,
        description: function.description.unwrap_or_default(),
        parameters_json: function.parameters.map(|schema| schema.get().to_owned()).unwrap_or_default(),
        strict: function.strict,
        cache: None,
    })
}

fn choice(wire: WireToolChoice) -> Result<ToolChoice, Failure> {
    let choice = match wire {
        WireToolChoice::Named { function } => tool_choice::Choice::Name(function.name),
        WireToolChoice::Mode(mode) => tool_choice::Choice::Mode(match mode.as_str() {
            "auto" => tool_choice::Mode::Auto,
            "none" => tool_choice::Mode::None,
            "required" => tool_choice::Mode::Required,
            _ => return Err(Failure::field("tool_choice", "must be auto, none, required or a function's name")),
        } as i32),
    };
    Ok(ToolChoice { choice: Some(choice) })
}

fn format(wire: WireFormat) -> Result<Option<ResponseFormat>, Failure> {
    let beside = wire.schema.map(|schema| WireSchema { name: String::new(), schema, strict: None, description: None });
    let format = match (wire.r#type.as_str(), wire.json_schema.or(beside)) {
        ("text", _) => return Ok(None),
        ("json_object", None) => response_format::Format::JsonObject(response_format::JsonObject {}),
        ("json_object" | "json_schema", Some(schema)) => {
            response_format::Format::JsonSchema(response_format::JsonSchema {
                name: if schema.name.is_empty() { "answer".to_owned() } else { schema.name },
                schema_json: schema.schema.to_string(),
                strict: schema.strict,
                description: schema.description.unwrap_or_default(),
            })
        }
        _ => return Err(Failure::field("response_format", "must be text, json_object, or json_schema with a schema")),
    };
    Ok(Some(ResponseFormat { format: Some(format) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(body: Value) -> Result<Parsed, Failure> {
        parse(body.to_string().as_bytes(), Told { id: String::new(), created: 0 })
    }

    #[test]
    fn everything_that_has_a_place_is_put_there() {
        let Parsed { ask, stream, .. } = parsed(json!({
            "model": "m", "stream": true, "stream_options": { "include_usage": true },
            "messages": [
                { "role": "developer", "content": "be brief" },
                { "role": "user", "content": [
                    { "type": "text", "text": "what?" },
                    { "type": "image_url", "image_url": { "url": "data:image/png;base64,AA==", "detail": "low" } },
                ] },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" }, "extra_content": null },
                    { "id": "d", "type": "function", "function": { "name": "f", "arguments": "{}" },
                      "extra_content": { "google": { "thought_signature": "s" } } },
                ] },
                { "role": "tool", "tool_call_id": "c", "content": "done" },
            ],
            "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }],
            "tool_choice": { "type": "function", "function": { "name": "f" } },
            "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": {}, "strict": true } },
            "max_tokens": 1, "max_completion_tokens": 2, "temperature": 0.5, "stop": "x", "n": 2,
            "parallel_tool_calls": false, "reasoning_effort": "low", "min_p": 0.1, "logit_bias": null, "logprobs": true, "top_logprobs": 2,
        }))
        .unwrap();
        assert!(stream);
        let Task::Chat(chat) = ask.task else { panic!("a chat") };
        let roles: Vec<_> = chat.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System as i32, Role::User as i32, Role::Assistant as i32, Role::Tool as i32]);
        assert_eq!(chat.messages[1].content.len(), 2);
        assert_eq!(chat.messages[2].tool_calls[0].id, "c");
        assert_eq!(chat.messages[2].tool_calls[1].signature, "s");
        assert_eq!(chat.tools[0].parameters_json, r#"{"type":"object"}"#);
        assert_eq!(chat.tool_choice.unwrap().choice, Some(tool_choice::Choice::Name("f".to_owned())));
        assert!(chat.response_format.is_some());
        let parameters = ask.parameters;
        assert_eq!((parameters.max_tokens, parameters.choices), (Some(2), Some(2)));
        assert_eq!(parameters.stop, ["x"]);
        assert_eq!(parameters.top_logprobs, Some(2));
        assert_eq!(parameters.extra_json, r#"{"min_p":0.1}"#);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |member: &str, value: Value| {
            let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
            body[member] = value;
            parsed(body).err().and_then(|failure| failure.fields.into_iter().next()).map(|(field, _)| field)
        };
        assert_eq!(with("user", json!("eve")), None);
        assert_eq!(with("messages", json!([{ "role": "king", "content": "x" }])).as_deref(), Some("messages[0].role"));
        assert_eq!(
            with("messages", json!([{ "role": "user", "content": [{ "type": "input_audio" }] }])).as_deref(),
            Some("messages[0].content")
        );
        assert_eq!(with("tools", json!([{ "type": "web_search" }])).as_deref(), Some("tools"));
        assert_eq!(with("tool_choice", json!("maybe")).as_deref(), Some("tool_choice"));
        assert_eq!(with("response_format", json!({ "type": "xml" })).as_deref(), Some("response_format"));
        assert_eq!(with("logprobs", json!(false)), None);
        assert_eq!(with("top_logprobs", json!(1)).as_deref(), Some("top_logprobs"));
        assert_eq!(with("functions", json!([])).as_deref(), Some("functions"));
    }

    #[test]
    fn a_body_that_is_no_request_is_refused() {
        for body in ["", "{", "[]", "{}", r#"{"messages":"x"}"#, r#"{"messages":[],"temperature":"hot"}"#] {
            let failure = parse(body.as_bytes(), Told { id: String::new(), created: 0 }).err().unwrap();
            assert_eq!(failure.reason, postern_proto::Reason::RequestInvalid, "{body}");
        }
    }
}
