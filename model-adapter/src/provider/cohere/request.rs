//! What is sent.

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    Message, Parameters, ResponseFormat, Role, Tool, ToolChoice, content_part, response_format, tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, generation};
use serde_json::{Map, Value, json};

use crate::provider::say::{self, Dropped, Picture};

pub(super) fn body(identifier: &str, generation: &Generation, stream: bool) -> Result<(Bytes, Vec<String>), Failure> {
    let Some(generation::Prompt::Chat(chat)) = &generation.prompt else {
        return Err(Failure::field("generation.prompt", "the provider cohere has no raw completions"));
    };
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut dropped = Dropped::of("cohere");
    let mut body = Map::new();
    body.insert("model".to_owned(), identifier.into());
    body.insert("stream".to_owned(), stream.into());
    body.insert("messages".to_owned(), messages.iter().map(message).collect::<Result<Vec<_>, _>>()?.into());
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?.into());
    }
    if let Some(choice) = tool_choice.as_ref().and_then(|given| choice(given, &mut dropped)) {
        body.insert("tool_choice".to_owned(), choice.into());
    }
    if let Some(ResponseFormat { format: Some(format) }) = response_format {
        let mut value = json!({ "type": "json_object" });
        if let response_format::Format::JsonSchema(schema) = format {
            value["json_schema"] = say::json_text("response_format.schema_json", &schema.schema_json)?;
        }
        body.insert("response_format".to_owned(), value);
    }
    add_parameters(&mut body, &generation.parameters.clone().unwrap_or_default(), &mut dropped)?;
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((bytes.into(), dropped.warnings))
}

fn message(message: &Message) -> Result<Value, Failure> {
    let role = match say::role(message)? {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::User | Role::Unspecified => "user",
    };
    let mut parts = Vec::new();
    for part in &message.content {
        parts.push(match &part.part {
            Some(content_part::Part::Text(text)) => json!({ "type": "text", "text": text }),
            Some(content_part::Part::Image(image)) => {
                let url = match say::picture(image)? {
                    Picture::Data(media_type, data) => format!("data:{media_type};base64,{data}"),
                    Picture::Url(url) => url,
                };
                json!({ "type": "image_url", "image_url": { "url": url } })
            }
            None => return Err(Failure::field("messages.content", "has an empty part")),
        });
    }
    let mut value = json!({ "role": role });
    // Beside calls there is no content: what is said with them is their plan.
    if message.tool_calls.is_empty() {
        value["content"] = parts.into();
    } else {
        let plan = say::text_of(&message.content, "a message with tool calls")?;
        if !plan.is_empty() {
            value["tool_plan"] = plan.into();
        }
    }
    let call = |call: &postern_proto::completion::v1::ToolCall| {
        let arguments = if call.arguments_json.is_empty() { "{}" } else { call.arguments_json.as_str() };
        let function = json!({ "name": call.name, "arguments": arguments });
        json!({ "id": call.id, "type": "function", "function": function })
    };
    if !message.tool_calls.is_empty() {
        value["tool_calls"] = message.tool_calls.iter().map(call).collect();
    }
    if !message.tool_call_id.is_empty() {
        value["tool_call_id"] = message.tool_call_id.as_str().into();
    }
    Ok(value)
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict: _, cache: _ } = tool;
    let mut parameters = say::json_object("tools.parameters_json", parameters_json)?;
    parameters.entry("type").or_insert_with(|| "object".into());
    let function = json!({ "name": name, "description": description, "parameters": parameters });
    Ok(json!({ "type": "function", "function": function }))
}

fn choice(choice: &ToolChoice, dropped: &mut Dropped<'_>) -> Option<&'static str> {
    match choice.choice.as_ref()? {
        tool_choice::Choice::Mode(mode) if *mode == tool_choice::Mode::None as i32 => Some("NONE"),
        tool_choice::Choice::Mode(mode) if *mode == tool_choice::Mode::Required as i32 => Some("REQUIRED"),
        tool_choice::Choice::Mode(_) => None,
        tool_choice::Choice::Name(_) => {
            dropped.warnings.push("`tool_choice` became REQUIRED: the provider cohere cannot name one tool".to_owned());
            Some("REQUIRED")
        }
    }
}

fn add_parameters(
    body: &mut Map<String, Value>,
    parameters: &Parameters,
    dropped: &mut Dropped<'_>,
) -> Result<(), Failure> {
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
        extra_json: _,
    } = parameters;
    dropped.one_choice(parameters)?;
    dropped.extra(parameters)?;
    dropped.parameter("user", user.is_some());
    dropped.parameter("top_logprobs", top_logprobs.is_some());
    dropped.parameter("parallel_tool_calls", parallel_tool_calls.is_some());
    dropped.parameter("reasoning_effort", reasoning_effort.is_some());
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("max_tokens", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("p", top_p.map(Value::from));
    add("k", top_k.map(Value::from));
    add("stop_sequences", (!stop.is_empty()).then(|| stop.clone().into()));
    add("seed", seed.map(Value::from));
    add("presence_penalty", presence_penalty.map(Value::from));
    add("frequency_penalty", frequency_penalty.map(Value::from));
    Ok(())
}
