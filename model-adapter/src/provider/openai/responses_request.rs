//! What is sent to the Responses API (<https://platform.openai.com/docs/api-reference/responses/create>), of which nothing is kept there.

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    ContentPart, Message, Parameters, ResponseFormat, Role, Thought, Tool, ToolCall, ToolChoice, content_part,
    response_format, tool_choice,
};
use postern_proto::model::v1::ChatPrompt;
use serde_json::{Map, Value, json};

use super::request::{REASONING_SUMMARY, RESERVED, schema_of};
use super::{Api, SIGNER, Target};
use crate::provider::say::{self, Dropped, Picture};

/// The least bound of an answer that the API takes, in tokens.
const LEAST_MAX_TOKENS: u32 = 16;

pub(super) fn body(
    target: &Target<'_>,
    chat: &ChatPrompt,
    parameters: Option<&Parameters>,
    stream: bool,
) -> Result<(Api, Bytes, Vec<String>), Failure> {
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut input = Vec::new();
    for message in &say::images_apart(messages) {
        add_items(&mut input, message)?;
    }
    let mut body = Map::new();
    body.insert("model".to_owned(), target.identifier.into());
    body.insert("input".to_owned(), input.into());
    body.insert("store".to_owned(), false.into());
    // What is not kept there comes along, to be given back. It is refused of models that do not think.
    let thinks = target.capabilities.sampling == Some(false);
    let likely = parameters.is_some_and(|parameters| parameters.top_logprobs.is_some());
    let include = [(thinks, "reasoning.encrypted_content"), (likely, "message.output_text.logprobs")];
    let include: Vec<_> = include.into_iter().filter_map(|(wanted, name)| wanted.then_some(name)).collect();
    if !include.is_empty() {
        body.insert("include".to_owned(), include.into());
    }
    if stream {
        body.insert("stream".to_owned(), true.into());
    }
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?.into());
    }
    if let Some(ToolChoice { choice: Some(choice) }) = tool_choice.as_ref().filter(|_| !tools.is_empty()) {
        body.insert("tool_choice".to_owned(), choice_value(choice));
    }
    if let Some(ResponseFormat { format: Some(format) }) = response_format {
        body.insert("text".to_owned(), json!({ "format": format_value(format)? }));
    }
    let mut dropped = Dropped::of("openai");
    if let Some(parameters) = parameters {
        add_parameters(&mut body, parameters, &mut dropped)?;
    }
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((Api::Responses, bytes.into(), dropped.warnings))
}

/// A message is an item, and so is each call and each result.
fn add_items(input: &mut Vec<Value>, message: &Message) -> Result<(), Failure> {
    let (role, kind) = match say::role(message)? {
        Role::Tool => {
            let output = say::text_of(&message.content, "a tool's result")?;
            input.push(json!({ "type": "function_call_output", "call_id": message.tool_call_id, "output": output }));
            return Ok(());
        }
        Role::System => ("system", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
        Role::User | Role::Unspecified => ("user", "input_text"),
    };
    let parts = message.content.iter().map(|one| part(one, kind)).collect::<Result<Vec<_>, _>>()?;
    // A thought that nothing follows is refused.
    if role == "assistant" && (parts.iter().any(|part| part["text"] != "") || !message.tool_calls.is_empty()) {
        input.extend(message.thoughts.iter().filter_map(thought));
    }
    // An assistant that only called has said nothing.
    if parts.iter().any(|part| part["text"] != "") {
        input.push(json!({ "type": "message", "role": role, "content": parts }));
    }
    for ToolCall { id, name, arguments_json, signature: _ } in &message.tool_calls {
        input.push(json!({ "type": "function_call", "call_id": id, "name": name, "arguments": arguments_json }));
    }
    Ok(())
}

/// A thought as the server wrote it, which it alone can read; `None` for another server's.
fn thought(thought: &Thought) -> Option<Value> {
    let Thought { text, signature } = thought;
    let content = say::own_signature(SIGNER, signature).filter(|content| !content.is_empty())?;
    let summary = (!text.is_empty()).then(|| json!({ "type": "summary_text", "text": text }));
    let summary: Vec<_> = summary.into_iter().collect();
    // Without its id, which would be looked for among items that are not kept.
    Some(json!({ "type": "reasoning", "summary": summary, "encrypted_content": content }))
}

fn part(part: &ContentPart, kind: &str) -> Result<Value, Failure> {
    match &part.part {
        Some(content_part::Part::Text(text)) => Ok(json!({ "type": kind, "text": text })),
        Some(content_part::Part::Image(image)) => {
            let url = match say::picture(image)? {
                Picture::Url(url) => url,
                Picture::Data(media_type, data) => format!("data:{media_type};base64,{data}"),
            };
            let detail = if image.detail.is_empty() { "auto" } else { &image.detail };
            Ok(json!({ "type": "input_image", "image_url": url, "detail": detail }))
        }
        None => Err(Failure::field("messages.content", "has an empty part")),
    }
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict, cache: _ } = tool;
    let parameters = schema_of(parameters_json)?;
    // Strict is this API's default, and not that of the others.
    let mut value =
        json!({ "type": "function", "name": name, "parameters": parameters, "strict": strict.unwrap_or(false) });
    if !description.is_empty() {
        value["description"] = description.as_str().into();
    }
    Ok(value)
}

fn choice_value(choice: &tool_choice::Choice) -> Value {
    match choice {
        tool_choice::Choice::Name(name) => json!({ "type": "function", "name": name }),
        tool_choice::Choice::Mode(mode) => match tool_choice::Mode::try_from(*mode) {
            Ok(tool_choice::Mode::None) => "none".into(),
            Ok(tool_choice::Mode::Required) => "required".into(),
            Ok(tool_choice::Mode::Auto | tool_choice::Mode::Unspecified) | Err(_) => "auto".into(),
        },
    }
}

fn format_value(format: &response_format::Format) -> Result<Value, Failure> {
    match format {
        response_format::Format::JsonObject(response_format::JsonObject {}) => Ok(json!({ "type": "json_object" })),
        response_format::Format::JsonSchema(schema) => {
            let response_format::JsonSchema { name, schema_json, strict, description } = schema;
            let schema = say::json_text("response_format.schema_json", schema_json)?;
            let mut value = json!({ "type": "json_schema", "name": name, "schema": schema });
            if let Some(strict) = strict {
                value["strict"] = (*strict).into();
            }
            if !description.is_empty() {
                value["description"] = description.as_str().into();
            }
            Ok(value)
        }
    }
}

fn add_parameters(
    body: &mut Map<String, Value>,
    parameters: &Parameters,
    dropped: &mut Dropped<'_>,
) -> Result<(), Failure> {
    dropped.one_choice(parameters)?;
    let Parameters {
        max_tokens,
        temperature,
        top_p,
        top_k,
        stop,
        seed,
        presence_penalty,
        frequency_penalty,
        choices: _,
        user,
        parallel_tool_calls,
        reasoning_effort,
        top_logprobs,
        extra_json,
    } = parameters;
    for (name, is_set) in [
        ("top_k", top_k.is_some()),
        ("stop", !stop.is_empty()),
        ("seed", seed.is_some()),
        ("presence_penalty", presence_penalty.is_some()),
        ("frequency_penalty", frequency_penalty.is_some()),
    ] {
        dropped.parameter(name, is_set);
    }
    let has_tools = body.contains_key("tools");
    if max_tokens.is_some_and(|most| most < LEAST_MAX_TOKENS) {
        dropped.warnings.push(format!("`max_tokens` was raised to {LEAST_MAX_TOKENS}, the least that this API takes"));
    }
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("max_output_tokens", max_tokens.map(|most| most.max(LEAST_MAX_TOKENS).into()));
    add("temperature", temperature.map(Value::from));
    add("top_p", top_p.map(Value::from));
    add("user", user.clone().map(Value::from));
    add("parallel_tool_calls", parallel_tool_calls.filter(|_| has_tools).map(Value::from));
    add("top_logprobs", top_logprobs.map(Value::from));
    add("reasoning", reasoning_effort.as_ref().map(|effort| json!({ "effort": effort })));
    // Nothing that reaches what the server keeps, which all callers of the one key would share.
    const OWN: [&str; 12] = [
        "input",
        "store",
        "max_output_tokens",
        "reasoning",
        "previous_response_id",
        "conversation",
        "background",
        "prompt",
        "instructions",
        "include",
        "text",
        "metadata",
    ];
    for (name, value) in say::json_object("parameters.extra_json", extra_json)? {
        if name == REASONING_SUMMARY {
            body.entry("reasoning").or_insert_with(|| json!({}))["summary"] = value;
            continue;
        }
        // Of chats; this API has it beside the form.
        if name == "verbosity" {
            let text = body.entry("text").or_insert_with(|| json!({}));
            text["verbosity"] = value;
            continue;
        }
        if RESERVED.contains(&name.as_str()) || OWN.contains(&name.as_str()) {
            return Err(Failure::field("parameters.extra_json", format!("`{name}` has a field of its own")));
        }
        body.insert(name, value);
    }
    Ok(())
}
