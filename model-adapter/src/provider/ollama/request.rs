//! What is sent.

use std::collections::HashMap;

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    Message, Parameters, ResponseFormat, Role, Tool, content_part, response_format, tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, RawPrompt, generation};
use serde_json::{Map, Value, json};

use crate::provider::Api;
use crate::provider::say::{self, Dropped, Picture};

pub(super) fn body(
    identifier: &str,
    generation: &Generation,
    stream: bool,
) -> Result<(Api, Bytes, Vec<String>), Failure> {
    let mut dropped = Dropped::of("ollama");
    let mut body = Map::new();
    body.insert("model".to_owned(), identifier.into());
    // It streams unless it is told not to.
    body.insert("stream".to_owned(), stream.into());
    let api = match &generation.prompt {
        Some(generation::Prompt::Chat(chat)) => {
            add_chat(&mut body, chat, &mut dropped)?;
            Api::OllamaChat
        }
        Some(generation::Prompt::Raw(RawPrompt { text, suffix, files: _ })) => {
            body.insert("prompt".to_owned(), text.as_str().into());
            match suffix {
                // The server has the model's layout.
                Some(suffix) => body.insert("suffix".to_owned(), suffix.as_str().into()),
                // The prompt has its family's own layout already.
                None => body.insert("raw".to_owned(), true.into()),
            };
            Api::OllamaGenerate
        }
        None => return Err(Failure::field("generation.prompt", "is missing")),
    };
    let parameters = generation.parameters.clone().unwrap_or_default();
    match parameters.reasoning_effort.as_deref() {
        None => {}
        // Levels are gpt-oss's; the others think or do not.
        Some(effort @ ("low" | "medium" | "high")) => {
            let think = if identifier.contains("gpt-oss") { effort.into() } else { true.into() };
            body.insert("think".to_owned(), think);
        }
        Some("none") => drop(body.insert("think".to_owned(), false.into())),
        Some(_) => dropped.parameter("reasoning_effort", true),
    }
    if let Some(top) = parameters.top_logprobs {
        body.insert("logprobs".to_owned(), true.into());
        body.insert("top_logprobs".to_owned(), top.into());
    }
    let options = options(&parameters, &mut dropped)?;
    if !options.is_empty() {
        body.insert("options".to_owned(), options.into());
    }
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((api, bytes.into(), dropped.warnings))
}

fn add_chat(body: &mut Map<String, Value>, chat: &ChatPrompt, dropped: &mut Dropped<'_>) -> Result<(), Failure> {
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut names = HashMap::new();
    let messages = messages.iter().map(|one| message(one, &mut names)).collect::<Result<Vec<_>, _>>()?;
    body.insert("messages".to_owned(), messages.into());
    // Models call tools as they like, or get none.
    let choice = tool_choice.as_ref().and_then(|choice| choice.choice.as_ref());
    let none = matches!(choice, Some(tool_choice::Choice::Mode(mode)) if *mode == tool_choice::Mode::None as i32);
    let auto = matches!(choice, Some(tool_choice::Choice::Mode(mode)) if *mode == tool_choice::Mode::Auto as i32);
    dropped.parameter("tool_choice", choice.is_some() && !none && !auto);
    if !tools.is_empty() && !none {
        body.insert("tools".to_owned(), tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?.into());
    }
    if let Some(ResponseFormat { format: Some(format) }) = response_format {
        let format = match format {
            response_format::Format::JsonObject(response_format::JsonObject {}) => "json".into(),
            response_format::Format::JsonSchema(schema) => {
                say::json_text("response_format.schema_json", &schema.schema_json)?
            }
        };
        body.insert("format".to_owned(), format);
    }
    Ok(())
}

fn message(message: &Message, names: &mut HashMap<String, String>) -> Result<Value, Failure> {
    let role = match say::role(message)? {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::User | Role::Unspecified => "user",
    };
    let (mut text, mut images) = (Vec::new(), Vec::new());
    for part in &message.content {
        match &part.part {
            Some(content_part::Part::Text(piece)) => text.push(piece.as_str()),
            Some(content_part::Part::Image(image)) => match say::picture(image)? {
                Picture::Data(_, data) => images.push(data),
                Picture::Url(_) => {
                    let problem = "the provider ollama takes images as data only";
                    return Err(Failure::field("messages.content.image.url", problem));
                }
            },
            None => return Err(Failure::field("messages.content", "has an empty part")),
        }
    }
    let mut value = json!({ "role": role, "content": text.join("\n") });
    if !images.is_empty() {
        value["images"] = images.into();
    }
    let mut calls = Vec::new();
    for call in &message.tool_calls {
        names.insert(call.id.clone(), call.name.clone());
        let arguments = say::json_object("messages.tool_calls.arguments_json", &call.arguments_json)?;
        calls.push(json!({ "function": { "name": call.name, "arguments": arguments } }));
    }
    if !calls.is_empty() {
        value["tool_calls"] = calls.into();
    }
    // Amid calls a model wants what it thought before them.
    if !message.tool_calls.is_empty() && !message.reasoning.is_empty() {
        value["thinking"] = message.reasoning.as_str().into();
    }
    if let Some(name) = names.get(&message.tool_call_id) {
        value["tool_name"] = name.as_str().into();
    }
    Ok(value)
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict: _, cache: _ } = tool;
    let parameters = say::json_object("tools.parameters_json", parameters_json)?;
    let function = json!({ "name": name, "description": description, "parameters": parameters });
    Ok(json!({ "type": "function", "function": function }))
}

fn options(parameters: &Parameters, dropped: &mut Dropped<'_>) -> Result<Map<String, Value>, Failure> {
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
        reasoning_effort: _,
        top_logprobs: _,
        extra_json: _,
    } = parameters;
    dropped.one_choice(parameters)?;
    dropped.extra(parameters)?;
    dropped.parameter("user", user.is_some());
    dropped.parameter("parallel_tool_calls", parallel_tool_calls.is_some());
    let mut options = Map::new();
    let mut add = |name: &str, value: Option<Value>| value.map(|value| options.insert(name.to_owned(), value));
    add("num_predict", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("top_p", top_p.map(Value::from));
    add("top_k", top_k.map(Value::from));
    add("stop", (!stop.is_empty()).then(|| stop.clone().into()));
    add("seed", seed.map(Value::from));
    add("presence_penalty", presence_penalty.map(Value::from));
    add("frequency_penalty", frequency_penalty.map(Value::from));
    Ok(options)
}
