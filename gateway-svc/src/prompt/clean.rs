//! What a model wrote at a cursor, without what does not belong there: the fence around it, and the code after the cursor said once more.

use std::collections::{HashMap, VecDeque};

use futures_util::stream::{self, StreamExt as _};
use postern_proto::Failure;
use postern_proto::completion::v1::completion_event::Event;
use postern_proto::completion::v1::{CompletionEvent, Delta, End, FinishReason, Usage, UsageProvenance, delta};

use crate::adapters::Events;

/// A line of the suffix that is shorter than this, such as a bracket, may well be meant twice.
const LEAST_LINE: usize = 4;
const FENCE: &str = "```";
/// Most that is held back, in bytes.
const MOST_HELD: usize = 4096;

/// Cleans one answer, however it is cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaner {
    /// The first line after the cursor.
    next_line: Option<String>,
    fenced: Fenced,
    /// What may yet turn out not to belong to the answer.
    held: String,
    /// Whether some of the line that is coming has been given out, so that it is no such line.
    mid_line: bool,
    is_over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fenced {
    /// It may begin with one.
    Unknown,
    Yes,
    No,
}

impl Cleaner {
    /// For an answer that is followed by this; `None` when there is nothing to look for.
    #[must_use]
    pub fn new(suffix: &str, may_be_fenced: bool) -> Option<Self> {
        let line = suffix.lines().map(str::trim).find(|line| !line.is_empty());
        let next_line = line.filter(|line| (LEAST_LINE..MOST_HELD).contains(&line.len())).map(str::to_owned);
        let fenced = if may_be_fenced { Fenced::Unknown } else { Fenced::No };
        (may_be_fenced || next_line.is_some()).then_some(Self {
            next_line,
            fenced,
            held: String::new(),
            mid_line: false,
            is_over: false,
        })
    }

    /// Takes a piece; gives out what surely belongs to the answer.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_over {
            return String::new();
        }
        self.held.push_str(piece);
        if self.fenced == Fenced::Unknown && !self.find_fence() {
            if self.held.len() <= MOST_HELD {
                return String::new();
            }
            // No fence begins like that.
            self.fenced = Fenced::No;
        }
        let mut out = String::new();
        if self.mid_line {
            let end = self.held.find('\n').unwrap_or(self.held.len());
            out.extend(self.held.drain(..end));
            self.mid_line = self.held.is_empty();
        }
        // Line by line; a line's end is given out with the line after it.
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while let Some(end) = line_end(rest) {
            let (line, after) = rest.split_at(end);
            if self.is_end(line.trim()) {
                self.is_over = true;
                return out;
            }
            out.push_str(line);
            rest = after;
        }
        self.held.push_str(rest);
        if !self.may_become_end(self.held.trim()) || self.held.len() > MOST_HELD {
            out.push_str(&std::mem::take(&mut self.held));
            self.mid_line = true;
        }
        out
    }

    /// Takes the end; gives out what was held back.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        let lone_fence = self.fenced == Fenced::Unknown && held.trim_start().starts_with(FENCE);
        if self.is_over || (!self.mid_line && (lone_fence || self.is_end(held.trim()))) {
            return String::new();
        }
        held
    }

    /// Whether the answer begins with a fence, as far as can be said; its line is taken away.
    fn find_fence(&mut self) -> bool {
        let begins = self.held.trim_start();
        if begins.starts_with(FENCE) {
            let Some((_, rest)) = begins.split_once('\n') else { return false };
            // A line end before each line, as within the answer.
            self.held = rest.to_owned();
            self.fenced = Fenced::Yes;
            return true;
        }
        if FENCE.starts_with(begins) {
            return false;
        }
        self.fenced = Fenced::No;
        true
    }

    fn is_end(&self, line: &str) -> bool {
        (self.fenced == Fenced::Yes && line == FENCE) || self.next_line.as_deref() == Some(line)
    }

    fn may_become_end(&self, line: &str) -> bool {
        (self.fenced == Fenced::Yes && FENCE.starts_with(line))
            || self.next_line.as_ref().is_some_and(|next| next.starts_with(line))
    }
}

/// Where the first whole line ends, which another follows; its own beginning may be a line end.
fn line_end(text: &str) -> Option<usize> {
    let from = usize::from(text.starts_with('\n'));
    text[from..].find('\n').map(|at| at + from)
}

/// The same events, each choice's text cleaned. When all of the `choices` have come to their end, so has the answer, whatever the model
/// would still write: it is stopped.
pub fn cleaned(events: Events, cleaner: Cleaner, choices: usize) -> Events {
    let state = Cleaning {
        events: Some(events),
        fresh: cleaner,
        expected: choices,
        choices: HashMap::new(),
        ready: VecDeque::new(),
    };
    Box::pin(stream::unfold(state, |mut state| async move { state.next().await.map(|event| (event, state)) }))
}

struct Cleaning {
    events: Option<Events>,
    fresh: Cleaner,
    expected: usize,
    choices: HashMap<u32, Cleaner>,
    ready: VecDeque<Event>,
}

impl Cleaning {
    async fn next(&mut self) -> Option<Result<CompletionEvent, Failure>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(CompletionEvent { event: Some(event) }));
            }
            match self.events.as_mut()?.next().await? {
                Ok(CompletionEvent { event: Some(event) }) => self.take(event),
                other => return Some(other),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Delta(Delta { choice_index, delta: Some(delta::Delta::Text(piece)), .. }) => {
                let piece = self.choices.entry(choice_index).or_insert_with(|| self.fresh.clone()).push(&piece);
                self.give(choice_index, piece);
                if self.choices.len() >= self.expected && self.choices.values().all(|cleaner| cleaner.is_over) {
                    self.stop();
                }
            }
            // It comes once, when all text has come.
            Event::Usage(usage) => {
                let mut choices: Vec<_> = self.choices.drain().collect();
                choices.sort_by_key(|(choice, _)| *choice);
                for (choice, mut cleaner) in choices {
                    self.give(choice, cleaner.finish());
                }
                self.ready.push_back(Event::Usage(usage));
            }
            other => self.ready.push_back(other),
        }
    }

    fn give(&mut self, choice_index: u32, text: String) {
        if !text.is_empty() {
            let delta = Some(delta::Delta::Text(text));
            self.ready.push_back(Event::Delta(Delta { choice_index, delta, logprobs: Vec::new() }));
        }
    }

    /// Drops the way to the model. What the answer cost nobody says then.
    fn stop(&mut self) {
        self.events = None;
        let usage = Usage { provenance: UsageProvenance::Absent as i32, ..Usage::default() };
        let reasons = vec![FinishReason::Stop as i32; self.choices.len()];
        let choices = if reasons.len() > 1 { reasons } else { Vec::new() };
        self.ready.push_back(Event::Usage(usage));
        self.ready.push_back(Event::End(End { finish_reason: FinishReason::Stop as i32, choices }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(suffix: &str, may_be_fenced: bool, pieces: &[&str]) -> String {
        let Some(mut cleaner) = Cleaner::new(suffix, may_be_fenced) else { return pieces.concat() };
        let mut out: String = pieces.iter().map(|piece| cleaner.push(piece)).collect();
        out += &cleaner.finish();
        out
    }

    #[test]
    fn fences_and_what_follows_the_cursor_are_taken_away() {
        for (suffix, answer, expected) in [
            ("", "```rust\nlet a = 1;\n```", "let a = 1;"),
            ("", "```\nlet a = 1;\nlet b;\n```\nThis sets a.", "let a = 1;\nlet b;"),
            ("", "let a = 1;", "let a = 1;"),
            ("", "  indented\n\nnext", "  indented\n\nnext"),
            ("\nprint(x)\n", "x = 1\nprint(x)\n", "x = 1"),
            ("\nprint(x)\n", "```py\nx = 1\nprint(x)\n```", "x = 1"),
            // A bracket may well be meant twice.
            ("\n}\n", "a();\n}", "a();\n}"),
            ("\nprint(x)\n", "print(xy)", "print(xy)"),
            ("", "``` is a fence", ""),
            ("", "``", "``"),
            ("\nprint(x)", "print(x)", ""),
        ] {
            assert_eq!(clean(suffix, true, &[answer]), expected, "{answer:?}");
        }
        // What is not asked for in a chat has no fences.
        assert_eq!(clean("\nprint(x)", false, &["```\nx"]), "```\nx");
        assert_eq!(Cleaner::new("\n}\n", false), None);
    }

    #[test]
    fn what_surely_belongs_comes_at_once() {
        let mut cleaner = Cleaner::new("\nreturn total", true).unwrap();
        assert_eq!(cleaner.push("let "), "let ");
        assert_eq!(cleaner.push("a = 1;"), "a = 1;");
        assert_eq!(cleaner.push("\nret"), "");
        assert_eq!(cleaner.push("ry();"), "\nretry();");
    }

    #[test]
    fn no_more_than_a_little_is_held_back() {
        for endless in ["```", " ", "\n"] {
            let mut cleaner = Cleaner::new("\nreturn total", true).unwrap();
            let given: usize = (0..10_000).map(|_| cleaner.push(endless).len()).sum();
            assert!(10_000 * endless.len() - given <= 2 * MOST_HELD, "{endless:?}: {given}");
        }
    }

    #[tokio::test]
    async fn when_all_has_been_said_the_model_is_stopped() {
        let text = |text: &str| {
            let delta = Some(delta::Delta::Text(text.to_owned()));
            Ok(CompletionEvent { event: Some(Event::Delta(Delta { choice_index: 0, delta, logprobs: Vec::new() })) })
        };
        // After its end the model says nothing, and never ends.
        let events = stream::iter([text("a = 1\n"), text("next line\n")]).chain(stream::pending());
        let cleaner = Cleaner::new("\nnext line", false).unwrap();
        let told: Vec<_> = cleaned(Box::pin(events), cleaner, 1).collect().await;
        let kinds: Vec<_> = told.into_iter().map(|event| event.unwrap().event.unwrap()).collect();
        assert!(matches!(&kinds[..], [Event::Delta(_), Event::Usage(_), Event::End(_)]), "{kinds:?}");
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_how_it_is_cut(
            answer in "(```[a-z]{0,3}\n)?[ab`\n]{0,12}(next line)?[a\n]{0,3}(```)?",
            at in proptest::collection::vec(0_usize..40, 0..4),
        ) {
            let whole = clean("\nnext line\n", true, &[&answer]);
            let mut cuts: Vec<usize> = at.into_iter().map(|at| at.min(answer.len())).chain([0, answer.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
            prop_assert_eq!(clean("\nnext line\n", true, &pieces), whole);
        }
    }
}
