//! `/v1/completions`: text that is sent as it is, or, with a suffix, code in the family's own layout.

use postern_proto::Failure;
use postern_proto::completion::v1::Parameters;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer::{Shape, Writer};
use super::parameters::Common;
use crate::ask::{Ask, Task};
use crate::doors::http::{Parsed, Told};
use crate::doors::wire::{TextOr, read, refuse_unoffered, take_known};

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    prompt: Option<TextOr<String>>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    best_of: Option<u32>,
    #[serde(default)]
    logprobs: Option<u32>,
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What an answer cannot bring back.
const UNOFFERED: &[&str] = &["echo"];

/// Members that may be as large as the body.
const LARGE: &[&str] = &["prompt", "suffix"];

pub(super) fn parse(body: &[u8], told: Told) -> Result<Parsed, Failure> {
    let body: Body = read(body, LARGE)?;
    refuse_unoffered(&body.extra, UNOFFERED)?;
    if body.best_of.is_some_and(|best_of| best_of > 1) {
        return Err(Failure::field("best_of", "is not offered by this gateway"));
    }
    let prompt = match body.prompt {
        // At the beginning of a file.
        None if body.suffix.is_some() => String::new(),
        None => return Err(Failure::field("prompt", "is missing")),
        Some(TextOr::Text(prompt)) => prompt,
        Some(TextOr::Many(prompts)) => match <[String; 1]>::try_from(prompts) {
            Ok([prompt]) => prompt,
            _ => return Err(Failure::field("prompt", "must be one text; several, or tokens, are not offered")),
        },
    };
    let task = match body.suffix {
        None => Task::Raw(prompt),
        Some(suffix) => {
            let (file_path, files) = (String::new(), Vec::new());
            Task::Code { prefix: prompt, suffix: Some(suffix), file_path, files }
        }
    };
    let (stream, include_usage, model) = (body.common.streams(), body.common.include_usage(), body.common.model());
    let mut extra = body.extra;
    // Of chats, and nothing without a value.
    extra.retain(|name, value| name != "tools" || value.as_array().is_none_or(|tools| !tools.is_empty()));
    let mut known = Parameters::default();
    take_known(&mut extra, &mut known)?;
    let mut parameters = body.common.parameters(extra)?;
    parameters.max_tokens = parameters.max_tokens.or(known.max_tokens);
    parameters.reasoning_effort = known.reasoning_effort;
    parameters.top_logprobs = body.logprobs;
    let ask = Ask { model, task, parameters, session: None, warnings: Vec::new() };
    Ok(Parsed { ask, stream, writer: Box::new(Writer::new(Shape::Text, told, include_usage)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(body: &str) -> Result<Task, String> {
        parse(body.as_bytes(), Told { id: String::new(), created: 0 })
            .map(|parsed| parsed.ask.task)
            .map_err(|failure| failure.message)
    }

    #[test]
    fn a_prompt_is_raw_and_with_a_suffix_it_is_code() {
        assert!(matches!(task(r#"{"prompt":"a"}"#), Ok(Task::Raw(prompt)) if prompt == "a"));
        assert!(matches!(task(r#"{"prompt":["a"],"suffix":null}"#), Ok(Task::Raw(prompt)) if prompt == "a"));
        assert!(
            matches!(task(r#"{"suffix":"b","tools":[],"max_completion_tokens":3}"#), Ok(Task::Code { prefix, .. }) if prefix.is_empty())
        );
        assert!(
            matches!(task(r#"{"prompt":"a","suffix":"b"}"#), Ok(Task::Code { suffix: Some(suffix), .. }) if suffix == "b")
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for body in [
            r#"{}"#,
            r#"{"prompt":["a","b"]}"#,
            r#"{"prompt":[1,2]}"#,
            r#"{"prompt":"a","echo":true}"#,
            r#"{"prompt":"a","logprobs":true}"#,
            r#"{"prompt":"a","best_of":2}"#,
        ] {
            assert!(task(body).is_err(), "{body}");
        }
        assert!(task(r#"{"prompt":"a","echo":false,"logprobs":null,"best_of":1}"#).is_ok());
    }
}
