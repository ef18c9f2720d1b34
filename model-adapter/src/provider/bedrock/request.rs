//! What is sent.

use std::collections::BTreeSet;

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

/// The bound for an answer where thinking wants one and the caller gives none.
const DEFAULT_MAX_TOKENS: u32 = 4096;

pub(super) fn body(target: &Target<'_>, generation: &Generation) -> Result<(Bytes, Vec<String>), Failure> {
    let Some(generation::Prompt::Chat(chat)) = &generation.prompt else {
        return Err(Failure::field("generation.prompt", "the provider bedrock has no raw completions"));
    };
    let ChatPrompt { messages, tools, tool_choice, response_format } = chat;
    let mut dropped = Dropped::of("bedrock");
    let identifier = target.identifier;
    let keeps = Keeps::of(identifier);
    let mut body = Map::new();
    if let Some((said, given)) = say::schema(response_format.as_ref(), "bedrock")? {
        // The schema goes as text.
        let text =
            if identifier.contains("claude") { claude::schema(given).to_string() } else { said.schema_json.clone() };
        let mut schema = json!({ "name": said.name, "schema": text });
        if !said.description.is_empty() {
            schema["description"] = said.description.as_str().into();
        }
        let format = json!({ "type": "json_schema", "structure": { "jsonSchema": schema } });
        body.insert("outputConfig".to_owned(), json!({ "textFormat": format }));
    }
    let (system, mut messages) = conversation(messages, keeps)?;
    if SEPARATE.iter().any(|maker| identifier.contains(maker)) {
        separate(&mut messages, &mut dropped);
    }
    if !system.is_empty() {
        body.insert("system".to_owned(), system.into());
    }
    body.insert("messages".to_owned(), messages.into());
    // A choice of no tools is none that is offered.
    let none = matches!(tool_choice, Some(ToolChoice { choice: Some(tool_choice::Choice::Mode(mode)) })
        if *mode == tool_choice::Mode::None as i32);
    // But a conversation in which tools were called must say which they were.
    let called: BTreeSet<_> =
        chat.messages.iter().flat_map(|message| &message.tool_calls).map(|call| call.name.as_str()).collect();
    if (!tools.is_empty() && !none) || !called.is_empty() {
        let mut offered = Vec::new();
        for one in tools {
            offered.push(tool(one)?);
            offered.extend(keeps.point(one.cache.as_ref()).filter(|_| keeps == Keeps::Everything));
        }
        if tools.is_empty() {
            offered.extend(called.into_iter().map(no_longer_offered));
        }
        let mut config = json!({ "tools": offered });
        if let Some(choice) = tool_choice.as_ref().filter(|_| !none && !tools.is_empty()).and_then(choice) {
            config["toolChoice"] = choice;
        }
        dropped.parameter("tool_choice", none && !tools.is_empty());
        body.insert("toolConfig".to_owned(), config);
    }
    let parameters = generation.parameters.clone().unwrap_or_default();
    let is_claude = identifier.contains("claude");
    let mut config = inference(&parameters, is_claude, &mut dropped)?;
    let mut more = Map::new();
    if is_claude {
        let forced = body.get("toolConfig").is_some_and(|config| {
            let choice = config.get("toolChoice");
            choice.is_some_and(|choice| choice.get("auto").is_none())
        });
        let is_own = |thought: &Thought| own_block(thought).is_some();
        let is_adaptive = target.capabilities.adaptive_thinking();
        let may_think = !forced && (is_adaptive || !claude::begins_unthought(&chat.messages, is_own));
        let max_tokens = parameters.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let Thinking { thinking, effort, warning } = claude::thinking(&parameters, max_tokens, may_think, is_adaptive);
        if let Some(top_k) = parameters.top_k.filter(|_| thinking.is_none()) {
            more.insert("top_k".to_owned(), top_k.into());
        }
        if let Some(thinking) = thinking {
            // A budget must be less than a bound that is there.
            config.insert("maxTokens".to_owned(), max_tokens.into());
            more.insert("thinking".to_owned(), thinking);
        }
        if let Some(effort) = effort {
            more.insert("output_config".to_owned(), json!({ "effort": effort }));
        }
        dropped.warnings.extend(warning.map(str::to_owned));
    } else {
        add_effort(&mut more, identifier, parameters.reasoning_effort.as_deref(), &mut dropped);
        match parameters.top_k {
            Some(top_k) if identifier.contains("nova") => {
                more.insert("inferenceConfig".to_owned(), json!({ "topK": top_k }));
            }
            given => dropped.parameter("top_k", given.is_some()),
        }
    }
    if !more.is_empty() {
        body.insert("additionalModelRequestFields".to_owned(), more.into());
    }
    if !config.is_empty() {
        body.insert("inferenceConfig".to_owned(), config.into());
    }
    let bytes = serde_json::to_vec(&body).map_err(Failure::internal)?;
    Ok((bytes.into(), dropped.warnings))
}

/// How a model that is not Claude is told to think; what it takes beside the API's own parameters is its maker's.
fn add_effort(more: &mut Map<String, Value>, identifier: &str, effort: Option<&str>, dropped: &mut Dropped<'_>) {
    let Some(effort) = effort else { return };
    let is_level = matches!(effort, "low" | "medium" | "high");
    let (name, value) = match identifier {
        id if id.contains("openai.") => ("reasoning_effort", effort.into()),
        id if id.contains("qwen3") && is_level => ("reasoning_config", effort.into()),
        // (<https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html>); at its highest it wants no bounds beside it.
        id if id.contains("nova-2") && matches!(effort, "low" | "medium") => {
            ("reasoningConfig", json!({ "type": "enabled", "maxReasoningEffort": effort }))
        }
        _ => {
            dropped.parameter("reasoning_effort", effort != "none");
            return;
        }
    };
    more.insert(name.to_owned(), value);
}

/// Makers whose models refuse words beside calls, and beside what tools said.
const SEPARATE: [&str; 5] = ["meta.", "mistral.", "writer.", "cohere.", "ai21."];

/// Puts words into turns of their own: those beside a call are left out, those after what tools said follow a turn of the assistant's.
fn separate(turns: &mut Vec<Value>, dropped: &mut Dropped<'_>) {
    let mut apart = Vec::new();
    for turn in turns.drain(..) {
        let blocks = turn["content"].as_array().cloned().unwrap_or_default();
        let is_tools = |block: &Value| block.get("toolUse").is_some() || block.get("toolResult").is_some();
        let (tools, words): (Vec<_>, Vec<_>) = blocks.into_iter().partition(is_tools);
        if tools.is_empty() || words.is_empty() {
            apart.push(turn);
            continue;
        }
        apart.push(json!({ "role": turn["role"], "content": tools }));
        if turn["role"] == "user" {
            apart.push(json!({ "role": "assistant", "content": [{ "text": "." }] }));
            apart.push(json!({ "role": "user", "content": words }));
        } else {
            let warning = "what was said beside a call was left out: the model takes one or the other in a turn";
            dropped.warnings.push(warning.to_owned());
        }
    }
    *turns = apart;
}

/// A tool that was called and is not offered any more: a conversation with calls must say which tools there are.
fn no_longer_offered(name: &str) -> Value {
    let description = "No longer available: do not call it.";
    json!({ "toolSpec": { "name": name, "description": description, "inputSchema": { "json": { "type": "object" } } } })
}

/// The body that asks how many tokens a prompt has.
pub(super) fn body_to_count(target: &Target<'_>, generation: &Generation) -> Result<Bytes, Failure> {
    let (bytes, _) = body(target, generation)?;
    let mut asked: Map<String, Value> = serde_json::from_slice(&bytes).map_err(Failure::internal)?;
    asked.retain(|name, _| matches!(name.as_str(), "messages" | "system" | "toolConfig"));
    let asked = json!({ "input": { "converse": asked } });
    Ok(serde_json::to_vec(&asked).map_err(Failure::internal)?.into())
}

fn conversation(messages: &[Message], keeps: Keeps) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let (mut system, mut turns): (Vec<Value>, Vec<(&str, Vec<Value>)>) = (Vec::new(), Vec::new());
    for message in messages {
        let (side, blocks) = match say::role(message)? {
            Role::System => {
                say::text_of(&message.content, "a system message")?;
                system.extend(blocks(&message.content, keeps)?);
                continue;
            }
            Role::Assistant => {
                let said = blocks(&message.content, keeps)?;
                // Thoughts alone are no turn.
                let is_turn = !said.is_empty() || !message.tool_calls.is_empty();
                let thoughts = message.thoughts.iter().filter(|_| is_turn).filter_map(own_block);
                let mut all: Vec<_> = thoughts.chain(said).collect();
                for call in &message.tool_calls {
                    let input = say::json_object("messages.tool_calls.arguments_json", &call.arguments_json)?;
                    all.push(json!({ "toolUse": { "toolUseId": say::plain_id(&call.id), "name": call.name, "input": input } }));
                }
                ("assistant", all)
            }
            Role::Tool => {
                let (content, points): (Vec<_>, Vec<_>) =
                    blocks(&message.content, keeps)?.into_iter().partition(|block| block.get("cachePoint").is_none());
                let result = json!({ "toolUseId": say::plain_id(&message.tool_call_id), "content": content });
                // A mark stands beside the result and not within.
                let mut all = vec![json!({ "toolResult": result })];
                all.extend(points.into_iter().next());
                ("user", all)
            }
            Role::User | Role::Unspecified => ("user", blocks(&message.content, keeps)?),
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

/// A thought as the server wrote it; `None` for another server's.
fn own_block(thought: &Thought) -> Option<Value> {
    let Thought { text, signature } = thought;
    let content = match say::own_signature(REDACTED, signature) {
        Some(data) => json!({ "redactedContent": data }),
        None => json!({ "reasoningText": { "text": text, "signature": say::own_signature(SIGNER, signature)? } }),
    };
    Some(json!({ "reasoningContent": content }))
}

/// What a model keeps of what it is asked to (<https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html>); others refuse
/// to be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Claude: whatever it is asked to, as long as it is asked to.
    Everything,
    /// Nova: instructions and messages.
    NoTools,
    Nothing,
}

impl Keeps {
    fn of(identifier: &str) -> Self {
        match identifier {
            id if id.contains("claude") => Self::Everything,
            id if id.contains("nova") => Self::NoTools,
            _ => Self::Nothing,
        }
    }

    fn point(self, cache: Option<&CacheMark>) -> Option<Value> {
        let cache = cache.filter(|_| self != Self::Nothing)?;
        let mut point = json!({ "type": "default" });
        if !cache.ttl.is_empty() && self == Self::Everything {
            point["ttl"] = cache.ttl.as_str().into();
        }
        Some(json!({ "cachePoint": point }))
    }
}

fn blocks(parts: &[ContentPart], keeps: Keeps) -> Result<Vec<Value>, Failure> {
    let block = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Ok(json!({ "text": text })),
        Some(content_part::Part::Image(image)) => match say::picture(image)? {
            Picture::Data(media_type, data) => {
                let format = media_type.strip_prefix("image/").unwrap_or(&media_type).to_owned();
                Ok(json!({ "image": { "format": format, "source": { "bytes": data } } }))
            }
            Picture::Url(_) => {
                Err(Failure::field("messages.content.image.url", "the provider bedrock takes images as data only"))
            }
        },
        None => Err(Failure::field("messages.content", "has an empty part")),
    };
    let mut blocks = Vec::new();
    for part in parts {
        let block = block(part)?;
        // A text of nothing is refused, and a mark after nothing too.
        if block["text"].as_str().is_some_and(|text| text.trim().is_empty()) {
            continue;
        }
        blocks.push(block);
        blocks.extend(keeps.point(part.cache.as_ref()));
    }
    Ok(blocks)
}

fn tool(tool: &Tool) -> Result<Value, Failure> {
    let Tool { name, description, parameters_json, strict: _, cache: _ } = tool;
    let mut schema = say::json_object("tools.parameters_json", parameters_json)?;
    schema.entry("type").or_insert_with(|| "object".into());
    let mut spec = json!({ "name": name, "inputSchema": { "json": schema } });
    if !description.is_empty() {
        spec["description"] = description.as_str().into();
    }
    Ok(json!({ "toolSpec": spec }))
}

fn choice(choice: &ToolChoice) -> Option<Value> {
    Some(match choice.choice.as_ref()? {
        tool_choice::Choice::Name(name) => json!({ "tool": { "name": name } }),
        tool_choice::Choice::Mode(mode) if *mode == tool_choice::Mode::Required as i32 => json!({ "any": {} }),
        tool_choice::Choice::Mode(_) => json!({ "auto": {} }),
    })
}

fn inference(
    parameters: &Parameters,
    is_claude: bool,
    dropped: &mut Dropped<'_>,
) -> Result<Map<String, Value>, Failure> {
    let Parameters {
        max_tokens,
        temperature,
        top_p,
        top_k: _,
        stop,
        seed,
        presence_penalty,
        frequency_penalty,
        choices: _,
        user,
        parallel_tool_calls,
        reasoning_effort: _,
        top_logprobs,
        extra_json: _,
    } = parameters;
    dropped.one_choice(parameters)?;
    dropped.extra(parameters)?;
    for (name, is_set) in [
        ("top_logprobs", top_logprobs.is_some()),
        ("seed", seed.is_some()),
        ("presence_penalty", presence_penalty.is_some()),
        ("frequency_penalty", frequency_penalty.is_some()),
        ("user", user.is_some()),
        ("parallel_tool_calls", parallel_tool_calls.is_some()),
    ] {
        dropped.parameter(name, is_set);
    }
    let (temperature, top_p) = match is_claude {
        true => claude::sampling(parameters, dropped),
        false => (*temperature, *top_p),
    };
    let mut config = Map::new();
    let mut add = |name: &str, value: Option<Value>| value.map(|value| config.insert(name.to_owned(), value));
    add("maxTokens", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("topP", top_p.map(Value::from));
    add("stopSequences", (!stop.is_empty()).then(|| stop.clone().into()));
    Ok(config)
}
