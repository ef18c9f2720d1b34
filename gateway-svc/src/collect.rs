//! Gathers an answer's events into one answer, for callers that want it whole.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::{
    Choice, Completion, Delta, Thought, TokenLogprob, ToolCall, ToolCallFragment, completion_event::Event, delta,
};

use crate::pipeline;

/// Largest answer that is gathered, in bytes; a model that writes more is stopped.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// What is gathered of how likely tokens were, in bytes of the JSON that it becomes.
const MAX_LIKELY_BYTES: usize = 64 * 1024 * 1024;
/// What one of them becomes there, beside its own bytes, each of which is a number.
const LIKELY_BYTES: usize = 1024;
const BYTES_PER_BYTE: usize = 32;
/// Choices or tool calls in one answer.
const MAX_PARTS: u32 = 128;

/// Reads the answer to its end.
///
/// # Errors
/// What the stream ended with.
pub async fn collect(mut events: pipeline::Completion) -> Result<Completion, Failure> {
    let mut answer = Completion::default();
    let mut gathered = Gathered::default();
    while let Some(event) = events.next().await {
        match event? {
            Event::Start(start) => {
                (answer.model, answer.warnings, answer.prompt) = (start.model, start.warnings, start.prompt);
            }
            Event::Delta(delta) => {
                gathered.add(&mut answer, delta)?;
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

/// Counts how likely tokens were towards what may be gathered of that.
pub(crate) fn count_likely(gathered: &mut usize, tokens: &[TokenLogprob]) -> Result<(), Failure> {
    let one = |token: &TokenLogprob| LIKELY_BYTES + BYTES_PER_BYTE * (token.token.len() + token.bytes.len());
    *gathered += tokens.iter().map(|token| one(token) + token.top.iter().map(one).sum::<usize>()).sum::<usize>();
    if *gathered > MAX_LIKELY_BYTES { Err(too_large()) } else { Ok(()) }
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

/// How much has been gathered.
#[derive(Default)]
struct Gathered {
    size: usize,
    likely: usize,
    /// Where the thought that is coming begins in each choice's reasoning.
    thoughts: BTreeMap<u32, usize>,
}

impl Gathered {
    /// Adds a piece.
    fn add(&mut self, answer: &mut Completion, delta: Delta) -> Result<(), Failure> {
        let Delta { choice_index, delta, logprobs } = delta;
        let choice = choice(answer, choice_index)?;
        count_likely(&mut self.likely, &logprobs)?;
        choice.logprobs.extend(logprobs);
        self.size += match delta {
            Some(delta::Delta::Text(text)) => {
                choice.text.push_str(&text);
                text.len()
            }
            Some(delta::Delta::Reasoning(text)) => {
                choice.reasoning.push_str(&text);
                text.len()
            }
            Some(delta::Delta::ReasoningSignature(signature)) => {
                if choice.thoughts.len() >= MAX_PARTS as usize {
                    return Err(too_large());
                }
                // It is of what was thought since the last one.
                let from = self.thoughts.insert(choice_index, choice.reasoning.len()).unwrap_or(0);
                let text = choice.reasoning.get(from..).unwrap_or_default().to_owned();
                let size = text.len() + signature.len();
                choice.thoughts.push(Thought { text, signature });
                size
            }
            Some(delta::Delta::ToolCall(ToolCallFragment { index, id, name, arguments_json, signature })) => {
                let call: &mut ToolCall = slot(&mut choice.tool_calls, index)?;
                call.id.push_str(&id);
                call.name.push_str(&name);
                call.arguments_json.push_str(&arguments_json);
                call.signature.push_str(&signature);
                id.len() + name.len() + arguments_json.len() + signature.len()
            }
            None => 0,
        };
        if self.size > MAX_ANSWER_BYTES { Err(too_large()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(delta: delta::Delta, logprobs: Vec<TokenLogprob>) -> Delta {
        Delta { choice_index: 0, delta: Some(delta), logprobs }
    }

    #[test]
    fn what_a_server_says_without_end_is_bounded_by_what_it_costs() {
        let text = || delta::Delta::Text(String::new());
        let token = TokenLogprob { token: "x".repeat(256), ..TokenLogprob::default() };
        let likely = TokenLogprob { top: vec![token.clone(); 20], ..token };
        let (mut gathered, mut answer) = (Gathered::default(), Completion::default());
        let taken =
            (0..1000).take_while(|_| gathered.add(&mut answer, delta(text(), vec![likely.clone()])).is_ok()).count();
        assert!((100..1000).contains(&taken), "{taken}");
        let (mut gathered, mut answer) = (Gathered::default(), Completion::default());
        let signature = || delta(delta::Delta::ReasoningSignature("s".to_owned()), Vec::new());
        let taken = (0..1000).take_while(|_| gathered.add(&mut answer, signature()).is_ok()).count();
        assert_eq!(taken, MAX_PARTS as usize);
    }

    #[test]
    fn each_signature_is_of_what_was_thought_since_the_last() {
        let (mut gathered, mut answer) = (Gathered::default(), Completion::default());
        for piece in [
            delta::Delta::Reasoning("é1".to_owned()),
            delta::Delta::ReasoningSignature("a".to_owned()),
            delta::Delta::ReasoningSignature("b".to_owned()),
            delta::Delta::Reasoning("2".to_owned()),
            delta::Delta::ReasoningSignature("c".to_owned()),
        ] {
            gathered.add(&mut answer, delta(piece, Vec::new())).unwrap();
        }
        let thoughts: Vec<_> = answer.choices[0]
            .thoughts
            .iter()
            .map(|thought| (thought.text.as_str(), thought.signature.as_str()))
            .collect();
        assert_eq!(thoughts, [("é1", "a"), ("", "b"), ("2", "c")]);
    }
}
