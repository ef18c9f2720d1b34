//! What is sent.

use std::collections::HashMap;

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    ContentPart, Message, Parameters, ResponseFormat, Role, Tool, ToolChoice, content_part, response_format,
    tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, generation};
use serde_json::{Map, Value, json};

use super::SIGNER;
use crate::provider::say::{self, Dropped, Picture};

/// What a model may spend on thinking, by the effort that is asked for.
const BUDGETS: [(&str, u32); 3] = [("low", 1024), ("medium", 8192), ("high", 24_576)];

/// Whether it is one of the third generation or a later one, by its name or by one that goes with the times.
fn is_recent(identifier: &str) -> bool {
    let version = identifier.strip_prefix("gemini-").filter(|rest| !matches!(*rest, "pro" | "pro-vision"));
    version.is_some_and(|rest| !rest.starts_with(['1', '2']))
}

/// The names of calls, which recent models want back (<https://ai.google.dev/gemini-api/docs/function-calling>).
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallIds {
    None,
    /// Those that a server of Google's gave: Vertex AI is not known to take others.
    Own,
    All,
}

impl CallIds {
    fn of(identifier: &str, on_vertex: bool) -> Self {
        match (is_recent(identifier), on_vertex) {
            (false, _) => Self::None,
            (true, true) => Self::Own,
            (true, false) => Self::All,
        }
    }

    /// Puts the name of a call into it, or into its result.
    fn put(self, id: &str, into: &mut Value) {
        let is_anothers = ["call_", "toolu_", "tooluse_", "fc_"].iter().any(|begin| id.starts_with(begin));
        if !id.is_empty() && (self == Self::All || self == Self::Own && !is_anothers) {
            into["id"] = id.into();
        }
    }
}

pub(super) fn body(
    identifier: &str,
    generation: &Generation,
    on_vertex: bool,
) -> Result<(Bytes, Vec<String>), Failure> {
    let Some(generation::Prompt::Chat(chat)) = &generation.prompt else {
        return Err(Failure::field("generation.prompt", "the provider gemini has no raw completions"));
    };
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut dropped = Dropped::of("gemini");
    let mut body = Map::new();
    let (system, mut contents) = conversation(messages, CallIds::of(identifier, on_vertex))?;
    if is_recent(identifier) {
        contents.iter_mut().for_each(unsigned);
    }
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({ "parts": [{ "text": system }] }));
    }
    body.insert("contents".to_owned(), contents.into());
    if !tools.is_empty() {
        let declarations = tools.iter().map(declaration).collect::<Result<Vec<_>, _>>()?;
        body.insert("tools".to_owned(), json!([{ "functionDeclarations": declarations }]));
    }
    if let Some(config) = tool_choice.as_ref().filter(|_| !tools.is_empty()).and_then(calling) {
        body.insert("toolConfig".to_owned(), json!({ "functionCallingConfig": config }));
    }
    let parameters = generation.parameters.clone().unwrap_or_default();
    let mut config = parameters_of(&parameters, &mut dropped)?;
    if let Some(format) = response_format {
        add_format(&mut config, format)?;
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), config.into());
    }
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((bytes.into(), dropped.warnings))
}

/// The body that asks how many tokens a prompt has (<https://ai.google.dev/api/tokens>).
pub(super) fn body_to_count(identifier: &str, generation: &Generation, on_vertex: bool) -> Result<Bytes, Failure> {
    let (bytes, _) = body(identifier, generation, on_vertex)?;
    let mut asked: Map<String, Value> = serde_json::from_slice(&bytes).map_err(Failure::internal)?;
    asked.retain(|name, _| matches!(name.as_str(), "contents" | "systemInstruction" | "tools"));
    let mut asked = Value::Object(asked);
    if !on_vertex {
        asked["model"] = format!("models/{identifier}").into();
        asked = json!({ "generateContentRequest": asked });
    }
    Ok(serde_json::to_vec(&asked).map_err(Failure::internal)?.into())
}

fn conversation(messages: &[Message], ids: CallIds) -> Result<(String, Vec<Value>), Failure> {
    let (mut system, mut turns): (Vec<String>, Vec<(&str, Vec<Value>)>) = (Vec::new(), Vec::new());
    // A result names the function here, not the call.
    let mut names = HashMap::new();
    for message in &say::images_apart(messages) {
        let (side, parts) = match say::role(message)? {
            Role::System => {
                system.push(say::text_of(&message.content, "a system message")?);
                continue;
            }
            Role::Assistant => {
                let mut all = parts(&message.content)?;
                all.retain(|part| part["text"] != "");
                for call in &message.tool_calls {
                    names.insert(call.id.clone(), call.name.clone());
                    let args = say::json_object("messages.tool_calls.arguments_json", &call.arguments_json)?;
                    let mut part = json!({ "functionCall": { "name": call.name, "args": args } });
                    ids.put(&call.id, &mut part["functionCall"]);
                    if let Some(signature) = say::own_signature(SIGNER, &call.signature) {
                        part["thoughtSignature"] = signature.into();
                    }
                    all.push(part);
                }
                ("model", all)
            }
            Role::Tool => {
                let called = names.get(&message.tool_call_id).cloned();
                let name = called.or_else(|| Some(message.name.clone()).filter(|name| !name.is_empty()));
                let name = name.ok_or_else(|| Failure::field("messages.tool_call_id", "is of no call before it"))?;
                let text = say::text_of(&message.content, "a tool's result")?;
                // An object goes as it is; anything else as the result's one member.
                let response = match serde_json::from_str(&text) {
                    Ok(Value::Object(object)) => Value::Object(object),
                    _ => json!({ "result": text }),
                };
                let mut part = json!({ "functionResponse": { "name": name, "response": response } });
                ids.put(&message.tool_call_id, &mut part["functionResponse"]);
                ("user", vec![part])
            }
            Role::User | Role::Unspecified => ("user", parts(&message.content)?),
        };
        // A turn of nothing is refused.
        if parts.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, before)) if *last == side => before.extend(parts),
            _ => turns.push((side, parts)),
        }
    }
    let turn = |(role, parts): (&str, Vec<Value>)| json!({ "role": role, "parts": parts });
    Ok((system.join("\n\n"), turns.into_iter().map(turn).collect()))
}

/// From Gemini 3 on, the model wants the signature of the thought before a turn's first call; where nobody has kept it, this says so
/// (<https://ai.google.dev/gemini-api/docs/thought-signatures>).
fn unsigned(turn: &mut Value) {
    let parts = turn["parts"].as_array_mut().into_iter().flatten();
    if let Some(part) = parts.into_iter().find(|part| part.get("functionCall").is_some()) {
        let part = part.as_object_mut().into_iter();
        part.for_each(|part| {
            part.entry("thoughtSignature").or_insert_with(|| "skip_thought_signature_validator".into());
        });
    }
}

fn parts(content: &[ContentPart]) -> Result<Vec<Value>, Failure> {
    let part = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Ok(json!({ "text": text })),
        Some(content_part::Part::Image(image)) => match say::picture(image)? {
            Picture::Data(media_type, data) => Ok(json!({ "inlineData": { "mimeType": media_type, "data": data } })),
            Picture::Url(_) => {
                Err(Failure::field("messages.content.image.url", "the provider gemini takes images as data only"))
            }
        },
        None => Err(Failure::field("messages.content", "has an empty part")),
    };
    content.iter().map(part).collect()
}

fn declaration(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict: _, cache: _ } = tool;
    let mut value = json!({ "name": name });
    if !description.is_empty() {
        value["description"] = description.as_str().into();
    }
    if !parameters_json.is_empty() {
        value["parametersJsonSchema"] = say::json_object("tools.parameters_json", parameters_json)?.into();
    }
    Ok(value)
}

fn calling(choice: &ToolChoice) -> Option<Value> {
    Some(match choice.choice.as_ref()? {
        tool_choice::Choice::Name(name) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
        tool_choice::Choice::Mode(mode) => match tool_choice::Mode::try_from(*mode) {
            Ok(tool_choice::Mode::None) => json!({ "mode": "NONE" }),
            Ok(tool_choice::Mode::Required) => json!({ "mode": "ANY" }),
            _ => json!({ "mode": "AUTO" }),
        },
    })
}

fn add_format(config: &mut Map<String, Value>, format: &ResponseFormat) -> Result<(), Failure> {
    config.insert("responseMimeType".to_owned(), "application/json".into());
    if let Some(response_format::Format::JsonSchema(schema)) = &format.format {
        let schema = say::json_text("response_format.schema_json", &schema.schema_json)?;
        config.insert("responseJsonSchema".to_owned(), schema);
    }
    Ok(())
}

fn parameters_of(parameters: &Parameters, dropped: &mut Dropped<'_>) -> Result<Map<String, Value>, Failure> {
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
    let mut config = Map::new();
    if let Some(top) = top_logprobs {
        config.insert("responseLogprobs".to_owned(), true.into());
        if *top > 0 {
            config.insert("logprobs".to_owned(), (*top).into());
        }
    }
    dropped.parameter("parallel_tool_calls", parallel_tool_calls.is_some());
    let mut add = |name: &str, value: Option<Value>| value.map(|value| config.insert(name.to_owned(), value));
    add("maxOutputTokens", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("topP", top_p.map(Value::from));
    add("topK", top_k.map(Value::from));
    add("stopSequences", (!stop.is_empty()).then(|| stop.clone().into()));
    add("seed", seed.map(Value::from));
    add("presencePenalty", presence_penalty.map(Value::from));
    add("frequencyPenalty", frequency_penalty.map(Value::from));
    if let Some(effort) = reasoning_effort {
        match BUDGETS.iter().find(|(name, _)| name == effort) {
            Some((_, budget)) => drop(add("thinkingConfig", Some(json!({ "thinkingBudget": budget })))),
            None => dropped.parameter("reasoning_effort", true),
        }
    }
    Ok(config)
}
