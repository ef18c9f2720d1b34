//! Gathers an answer's events into one answer, for callers that want it whole.

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion, Delta, Thought, ToolCall, ToolCallFragment, completion_event::Event, delta,
};

use crate::pipeline;

/// Largest answer that is gathered, in bytes; a model that writes more is stopped.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// What is counted for one token that is said to be likely.
const LOGPROB_BYTES: usize = 64;
/// Choices or tool calls in one answer.
const MAX_PARTS: u32 = 128;

/// Reads the answer to its end.
///
/// # Errors
/// What the stream ended with.
pub async fn collect(mut events: pipeline::Completion) -> Result<Completion, Failure> {
    let mut answer = Completion::default();
    let mut size = 0;
    while let Some(event) = events.next().await {
        match event? {
            Event::Start(start) => {
                (answer.model, answer.warnings, answer.prompt) = (start.model, start.warnings, start.prompt);
            }
            Event::Delta(delta) => {
                size += add(&mut answer, delta)?;
                if size > MAX_ANSWER_BYTES {
                    return Err(too_large());
                }
            }
            Event::Usage(usage) => answer.usage = Some(usage),
            Event::End(end) => {
                let reasons = if end.choices.is_empty() { vec![end.finish_reason] } else { end.choices };
                for (index, reason) in (0..).zip(reasons) {
                    choice(&mut answer, index)?.finish_reason = reason;
                }
            }
        }
    }
    Ok(answer)
}

/// What is said of a larger one.
pub(crate) fn too_large() -> Failure {
    Failure::new(postern_proto::Reason::ModelAnswerInvalid, "the model's answer is too large; ask for it as a stream")
}

fn choice(answer: &mut Completion, index: u32) -> Result<&mut Choice, Failure> {
    slot(&mut answer.choices, index)
}

fn slot<T: Default + Clone>(slots: &mut Vec<T>, index: u32) -> Result<&mut T, Failure> {
    if index >= MAX_PARTS {
        return Err(too_large());
    }
    let at = index as usize;
    if slots.len() <= at {
        slots.resize(at + 1, T::default());
    }
    Ok(&mut slots[at])
}

/// Adds a piece; its size.
fn add(answer: &mut Completion, delta: Delta) -> Result<usize, Failure> {
    let choice = choice(answer, delta.choice_index)?;
    let likely = delta.logprobs.iter().map(|token| LOGPROB_BYTES * (1 + token.top.len())).sum::<usize>();
    choice.logprobs.extend(delta.logprobs);
    let size: Result<usize, Failure> = match delta.delta {
        Some(delta::Delta::Text(text)) => {
            choice.text.push_str(&text);
            Ok(text.len())
        }
        Some(delta::Delta::Reasoning(text)) => {
            choice.reasoning.push_str(&text);
            Ok(text.len())
        }
        Some(delta::Delta::ReasoningSignature(signature)) => {
            // It is of what was thought since the last one.
            let before: usize = choice.thoughts.iter().map(|thought| thought.text.len()).sum();
            let text = choice.reasoning.get(before..).unwrap_or_default().to_owned();
            let size = text.len() + signature.len();
            choice.thoughts.push(Thought { text, signature });
            Ok(size)
        }
        Some(delta::Delta::ToolCall(ToolCallFragment { index, id, name, arguments_json, signature })) => {
            let size = id.len() + name.len() + arguments_json.len() + signature.len();
            let call: &mut ToolCall = slot(&mut choice.tool_calls, index)?;
            call.id.push_str(&id);
            call.name.push_str(&name);
            call.arguments_json.push_str(&arguments_json);
            call.signature.push_str(&signature);
            Ok(size)
        }
        None => Ok(0),
    };
    size.map(|size| size + likely)
}
