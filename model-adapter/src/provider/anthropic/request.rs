//! What is sent.

use bytes::Bytes;
use postern_proto::Failure;
use postern_proto::completion::v1::{
    CacheMark, ContentPart, Message, Parameters, Role, Thought, Tool, ToolChoice, content_part, tool_choice,
};
use postern_proto::model::v1::{ChatPrompt, Generation, generation};
use serde_json::{Map, Value, json};

use super::{REDACTED, SIGNER};
use crate::provider::Target;
use crate::provider::claude::{self, Thinking};
use crate::provider::say::{self, Dropped, Picture};

/// The API demands a bound for the answer; this one where the caller gives none.
const DEFAULT_MAX_TOKENS: u32 = 4096;
/// The same for models that think as they like, which takes of it.
const DEFAULT_THOUGHTFUL_MAX_TOKENS: u32 = 32_000;

/// What is counted of a request (<https://docs.anthropic.com/en/api/messages-count-tokens>).
const COUNTED: [&str; 6] = ["model", "messages", "system", "tools", "tool_choice", "thinking"];

/// The body that asks how many tokens a prompt has.
pub(super) fn body_to_count(target: &Target<'_>, generation: &Generation) -> Result<Bytes, Failure> {
    let (bytes, _) = body(target, generation, false)?;
    let mut asked: Map<String, Value> = serde_json::from_slice(&bytes).map_err(Failure::internal)?;
    asked.retain(|name, _| COUNTED.contains(&name.as_str()));
    Ok(serde_json::to_vec(&asked).map_err(Failure::internal)?.into())
}

pub(super) fn body(
    target: &Target<'_>,
    generation: &Generation,
    stream: bool,
) -> Result<(Bytes, Vec<String>), Failure> {
    let Some(generation::Prompt::Chat(chat)) = &generation.prompt else {
        return Err(Failure::field("generation.prompt", "the provider anthropic has no raw completions"));
    };
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut dropped = Dropped::of("anthropic");
    let mut body = Map::new();
    if let Some((_, schema)) = say::schema(response_format.as_ref(), "anthropic")? {
        let format = json!({ "type": "json_schema", "schema": claude::schema(schema) });
        body.insert("output_config".to_owned(), json!({ "format": format }));
    }
    body.insert("model".to_owned(), target.identifier.into());
    let (system, messages) = conversation(messages)?;
    if !system.is_empty() {
        // In pieces, whether one is marked or not: to the server that keeps them one text would be another beginning.
        body.insert("system".to_owned(), system.into());
    }
    body.insert("messages".to_owned(), messages.into());
    if stream {
        body.insert("stream".to_owned(), true.into());
    }
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?.into());
    }
    let parameters = generation.parameters.clone().unwrap_or_default();
    if let Some(choice) = choice(tool_choice.as_ref().filter(|_| !tools.is_empty()), &parameters, !tools.is_empty()) {
        body.insert("tool_choice".to_owned(), choice);
    }
    let is_forced = body.get("tool_choice").is_some_and(|choice| choice["type"] == "any" || choice["type"] == "tool");
    let is_adaptive = target.capabilities.adaptive_thinking();
    let is_own = |thought: &Thought| own_block(thought).is_some();
    // One that thinks by a budget wants the thoughts that the calls of this turn began with; one that thinks as it likes does not.
    let may_think = !is_forced && (is_adaptive || !claude::begins_unthought(&chat.messages, is_own));
    add_parameters(&mut body, &parameters, &mut dropped, (may_think, is_adaptive))?;
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((bytes.into(), dropped.warnings))
}

/// The mark of what the server shall keep (<https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching>).
fn marked(mut block: Value, cache: Option<&CacheMark>) -> Value {
    if let Some(CacheMark { ttl }) = cache {
        block["cache_control"] = json!({ "type": "ephemeral" });
        if !ttl.is_empty() {
            block["cache_control"]["ttl"] = ttl.as_str().into();
        }
    }
    block
}

/// A thought as the server wrote it; `None` for another server's.
fn own_block(thought: &Thought) -> Option<Value> {
    let Thought { text, signature } = thought;
    match say::own_signature(REDACTED, signature) {
        Some(data) => Some(json!({ "type": "redacted_thinking", "data": data })),
        None => {
            let signature = say::own_signature(SIGNER, signature)?;
            Some(json!({ "type": "thinking", "thinking": text, "signature": signature }))
        }
    }
}

/// The system's words, and turns of user and assistant alternating: what comes in a row from one side is one turn.
fn conversation(messages: &[Message]) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let (mut system, mut turns): (Vec<Value>, Vec<(&str, Vec<Value>)>) = (Vec::new(), Vec::new());
    for message in messages {
        let (side, blocks) = match say::role(message)? {
            Role::System => {
                say::text_of(&message.content, "a system message")?;
                system.extend(blocks(&message.content)?);
                continue;
            }
            Role::Assistant => ("assistant", assistant(message)?),
            Role::Tool => ("user", vec![tool_result(message)?]),
            Role::User | Role::Unspecified => ("user", blocks(&message.content)?),
        };
        // A turn of nothing is refused.
        if blocks.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some((last, before)) if *last == side => before.extend(blocks),
            _ => turns.push((side, blocks)),
        }
    }
    let turn = |(role, content): (&str, Vec<Value>)| json!({ "role": role, "content": content });
    Ok((system, turns.into_iter().map(turn).collect()))
}

fn blocks(parts: &[ContentPart]) -> Result<Vec<Value>, Failure> {
    let block = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Ok(json!({ "type": "text", "text": text })),
        Some(content_part::Part::Image(image)) => {
            let source = match say::picture(image)? {
                Picture::Data(media_type, data) => json!({ "type": "base64", "media_type": media_type, "data": data }),
                Picture::Url(url) => json!({ "type": "url", "url": url }),
            };
            Ok(json!({ "type": "image", "source": source }))
        }
        None => Err(Failure::field("messages.content", "has an empty part")),
    };
    let blocks = parts.iter().map(|part| Ok(marked(block(part)?, part.cache.as_ref())));
    // A text of nothing is refused, wherever it stands.
    let says = |block: &Value| block["text"].as_str().is_none_or(|text| !text.trim().is_empty());
    blocks.filter(|block: &Result<Value, Failure>| block.as_ref().map_or(true, says)).collect()
}

fn assistant(message: &Message) -> Result<Vec<Value>, Failure> {
    let said = blocks(&message.content)?;
    // Thoughts come first, and alone they are no turn.
    let mut content: Vec<_> = message.thoughts.iter().filter_map(own_block).collect();
    if said.is_empty() && message.tool_calls.is_empty() {
        return Ok(Vec::new());
    }
    content.extend(said);
    for call in &message.tool_calls {
        let input = say::json_object("messages.tool_calls.arguments_json", &call.arguments_json)?;
        content.push(json!({ "type": "tool_use", "id": say::plain_id(&call.id), "name": call.name, "input": input }));
    }
    Ok(content)
}

fn tool_result(message: &Message) -> Result<Value, Failure> {
    if message.tool_call_id.is_empty() {
        return Err(Failure::field("messages.tool_call_id", "is missing"));
    }
    // A mark is the result's own.
    let mark = message.content.iter().rev().find_map(|part| part.cache.as_ref());
    let bare: Vec<_> = message.content.iter().map(|part| ContentPart { cache: None, ..part.clone() }).collect();
    let id = say::plain_id(&message.tool_call_id);
    let result = json!({ "type": "tool_result", "tool_use_id": id, "content": blocks(&bare)? });
    Ok(marked(result, mark))
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict: _, cache } = tool;
    let mut schema = say::json_object("tools.parameters_json", parameters_json)?;
    schema.entry("type").or_insert_with(|| "object".into());
    let mut value = json!({ "name": name, "input_schema": schema });
    if !description.is_empty() {
        value["description"] = description.as_str().into();
    }
    Ok(marked(value, cache.as_ref()))
}

fn choice(choice: Option<&ToolChoice>, parameters: &Parameters, has_tools: bool) -> Option<Value> {
    let mut value = match choice.and_then(|choice| choice.choice.as_ref()) {
        Some(tool_choice::Choice::Name(name)) => json!({ "type": "tool", "name": name }),
        Some(tool_choice::Choice::Mode(mode)) => match tool_choice::Mode::try_from(*mode) {
            Ok(tool_choice::Mode::None) => return Some(json!({ "type": "none" })),
            Ok(tool_choice::Mode::Required) => json!({ "type": "any" }),
            _ => json!({ "type": "auto" }),
        },
        None if has_tools && parameters.parallel_tool_calls == Some(false) => json!({ "type": "auto" }),
        None => return None,
    };
    if parameters.parallel_tool_calls == Some(false) {
        value["disable_parallel_tool_use"] = true.into();
    }
    Some(value)
}

fn add_parameters(
    body: &mut Map<String, Value>,
    parameters: &Parameters,
    dropped: &mut Dropped<'_>,
    (may_think, is_adaptive): (bool, bool),
) -> Result<(), Failure> {
    let Parameters {
        max_tokens,
        temperature: _,
        top_p: _,
        top_k,
        stop,
        seed,
        presence_penalty,
        frequency_penalty,
        choices: _,
        user,
        parallel_tool_calls: _,
        reasoning_effort: _,
        top_logprobs,
        extra_json: _,
    } = parameters;
    dropped.one_choice(parameters)?;
    dropped.extra(parameters)?;
    dropped.parameter("seed", seed.is_some());
    dropped.parameter("top_logprobs", top_logprobs.is_some());
    if stop.iter().any(|text| text.trim().is_empty()) {
        dropped
            .warnings
            .push("a stop sequence of white space was dropped: the provider anthropic takes none".to_owned());
    }
    dropped.parameter("presence_penalty", presence_penalty.is_some());
    dropped.parameter("frequency_penalty", frequency_penalty.is_some());
    let default = if is_adaptive { DEFAULT_THOUGHTFUL_MAX_TOKENS } else { DEFAULT_MAX_TOKENS };
    let max_tokens = max_tokens.unwrap_or(default);
    body.insert("max_tokens".to_owned(), max_tokens.into());
    let (temperature, top_p) = claude::sampling(parameters, dropped);
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("temperature", temperature.map(Value::from));
    add("top_p", top_p.map(Value::from));
    add("top_k", top_k.map(Value::from));
    // One of white space alone is refused.
    let stop: Vec<_> = stop.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
    add("stop_sequences", (!stop.is_empty()).then(|| stop.into()));
    // An address of a person's is refused.
    let user_id = user.as_ref().filter(|user| !user.contains('@'));
    add("metadata", user_id.map(|user| json!({ "user_id": user })));
    if user.is_some() && user_id.is_none() {
        dropped.warnings.push("`user` was dropped: the provider anthropic takes no e-mail address".to_owned());
    }
    let Thinking { thinking, effort, warning } = claude::thinking(parameters, max_tokens, may_think, is_adaptive);
    add("thinking", thinking);
    if let Some(effort) = effort {
        body.entry("output_config").or_insert_with(|| json!({}))["effort"] = effort.into();
    }
    dropped.warnings.extend(warning.map(str::to_owned));
    Ok(())
}
