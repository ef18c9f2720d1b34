//! Arguments of a call that come value by value, each with its place
//! (<https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-function-call-arguments>).

use postern_proto::Failure;
use serde_json::{Map, Value};

use crate::provider::emit::invalid;

/// Steps of one path, and entries of one list; more is a fault.
const MOST_STEPS: usize = 32;
const MOST_ENTRIES: usize = 4096;
/// Largest arguments, in bytes of their names and texts.
const MOST_BYTES: usize = 1024 * 1024;

/// What has come of a call's arguments.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    whole: Map<String, Value>,
    bytes: usize,
    /// The text that is still coming, by its path.
    open: Option<String>,
}

impl Arguments {
    /// Takes the values of one part.
    ///
    /// # Errors
    /// MODEL_ANSWER_INVALID for a place that cannot be, and too much of anything.
    pub(super) fn take(&mut self, values: &Value) -> Result<(), Failure> {
        values.as_array().into_iter().flatten().try_for_each(|value| self.put(value))
    }

    fn put(&mut self, said: &Value) -> Result<(), Failure> {
        let path = said["jsonPath"].as_str().unwrap_or_default();
        let value = ["stringValue", "numberValue", "boolValue"].into_iter().find_map(|kind| said.get(kind));
        // The only other kind is null.
        let value = value.cloned().unwrap_or_default();
        self.bytes += path.len() + value.as_str().map_or(8, str::len);
        if self.bytes > MOST_BYTES {
            return Err(invalid("a tool call's arguments are too large"));
        }
        let goes_on = self.open.take().is_some_and(|open| open == path);
        let place = place(&mut self.whole, &steps(path)?)?;
        match (&mut *place, value) {
            (Value::String(before), Value::String(more)) if goes_on => before.push_str(&more),
            (_, value) => *place = value,
        }
        self.open = (said["willContinue"] == true).then(|| path.to_owned());
        Ok(())
    }

    /// The arguments as JSON.
    pub(super) fn into_json(self) -> String {
        Value::Object(self.whole).to_string()
    }
}

enum Step {
    Member(String),
    Entry(usize),
}

/// `$.a[0]['b.c']` in steps.
fn steps(path: &str) -> Result<Vec<Step>, Failure> {
    let wrong = || invalid("a tool call's argument has no place");
    let mut rest = path.strip_prefix('$').ok_or_else(wrong)?;
    let mut steps = Vec::new();
    while !rest.is_empty() && steps.len() < MOST_STEPS {
        let (step, after) = if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            (Step::Member(name[..end].to_owned()), &name[end..])
        } else {
            let inner = rest.strip_prefix('[').ok_or_else(wrong)?;
            match inner.chars().next() {
                Some(quote @ ('\'' | '"')) => {
                    let (name, after) = inner[1..].split_once(&format!("{quote}]")).ok_or_else(wrong)?;
                    (Step::Member(name.to_owned()), after)
                }
                _ => {
                    let (number, after) = inner.split_once(']').ok_or_else(wrong)?;
                    (Step::Entry(number.parse().map_err(|_| wrong())?), after)
                }
            }
        };
        steps.push(step);
        rest = after;
    }
    if rest.is_empty() && matches!(steps.first(), Some(Step::Member(_))) { Ok(steps) } else { Err(wrong()) }
}

/// The place that the steps lead to, which is made where it is not there.
fn place<'a>(whole: &'a mut Map<String, Value>, steps: &[Step]) -> Result<&'a mut Value, Failure> {
    let Some((Step::Member(first), rest)) = steps.split_first() else {
        return Err(invalid("a tool call's argument has no place"));
    };
    let mut at = whole.entry(first.clone()).or_insert(Value::Null);
    for step in rest {
        at = match step {
            Step::Member(name) => {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at.as_object_mut().map(|object| object.entry(name.clone()).or_insert(Value::Null))
            }
            Step::Entry(number) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                at.as_array_mut().filter(|list| *number <= list.len() && *number < MOST_ENTRIES).and_then(|list| {
                    if *number == list.len() {
                        list.push(Value::Null);
                    }
                    list.get_mut(*number)
                })
            }
        }
        .ok_or_else(|| invalid("a tool call's argument has no place"))?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn taken(values: &Value) -> Result<Value, Failure> {
        let mut arguments = Arguments::default();
        arguments.take(values)?;
        Ok(serde_json::from_str(&arguments.into_json()).unwrap())
    }

    #[test]
    fn values_come_to_their_places() {
        let values = json!([
            { "jsonPath": "$.city", "stringValue": "Bad ", "willContinue": true },
            { "jsonPath": "$.city", "stringValue": "Ischl" },
            { "jsonPath": "$.days", "numberValue": 3 },
            { "jsonPath": "$.at.hours[0]", "numberValue": 9.5 },
            { "jsonPath": "$.at.hours[1]", "boolValue": true },
            { "jsonPath": "$['a.b'][\"c d\"]", "nullValue": "NULL_VALUE" },
            { "jsonPath": "$.m[0][0]", "stringValue": "" },
        ]);
        let whole = json!({
            "city": "Bad Ischl", "days": 3, "at": { "hours": [9.5, true] }, "a.b": { "c d": null }, "m": [[""]],
        });
        assert_eq!(taken(&values).unwrap(), whole);
        // A text is added to where it was said that more comes, and else put in place of what was there.
        let again = json!([{ "jsonPath": "$.a", "stringValue": "x" }, { "jsonPath": "$.a", "stringValue": "y" }]);
        assert_eq!(taken(&again).unwrap(), json!({ "a": "y" }));
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        for path in ["", "a", "$", "$[0]", "$.a[", "$.a[x]", "$.a[1]", "$.a['b", "$x", &format!("${}", ".a".repeat(33))]
        {
            assert!(taken(&json!([{ "jsonPath": path, "numberValue": 1 }])).is_err(), "{path}");
        }
        let large = json!([{ "jsonPath": "$.a", "stringValue": "x".repeat(MOST_BYTES) }]);
        assert!(taken(&large).is_err());
    }

    proptest! {
        #[test]
        fn no_path_panics(path in r#"\$?([.\[\]'"a0é-]){0,12}"#) {
            let _ = taken(&json!([{ "jsonPath": path, "stringValue": "x" }]));
        }
    }
}
