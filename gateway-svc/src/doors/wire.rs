//! Bodies as they are read: nothing is taken in as a tree that a caller could make grow. What may be large is read straight into its
//! place; everything else is bounded before it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use postern_proto::{Failure, Reason};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Members that may be as large as the body.
const LARGE: &[&str] = &["messages", "input", "prompt", "suffix", "system", "instructions", "tools"];
/// Largest other member, in bytes of JSON.
const MAX_MEMBER: usize = 256 * 1024;
/// Members of a body.
const MAX_MEMBERS: usize = 256;

/// Reads a body, and says what of it cannot be read.
pub(super) fn read<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    members(body)?;
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

/// The members of a body as they were written.
pub(super) fn members(body: &[u8]) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, Failure> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if members.len() > MAX_MEMBERS {
        let message = format!("the request's body has more than {MAX_MEMBERS} members");
        return Err(Failure::new(Reason::RequestInvalid, message));
    }
    let large = members.iter().find(|(name, value)| !LARGE.contains(&&***name) && value.get().len() > MAX_MEMBER);
    match large {
        Some((name, _)) => {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            Err(Failure::field(shown, format!("is larger than {} KiB", MAX_MEMBER >> 10)))
        }
        None => Ok(members),
    }
}

fn unreadable(error: &serde_json::Error) -> Failure {
    // The error's own text quotes what it could not read, which is the caller's prompt as often as not.
    let what = match error.classify() {
        serde_json::error::Category::Data => "has a member of the wrong type or lacks one",
        serde_json::error::Category::Eof => "ends too early",
        _ => "is not JSON",
    };
    let place = format!("at line {}, column {}", error.line(), error.column());
    Failure::new(Reason::RequestInvalid, format!("the request's body {what}, {place}"))
}

/// A text, or a list, read without a copy in between.
pub(super) enum TextOr<T> {
    /// A text.
    Text(String),
    /// A list.
    Many(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a text or a list")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextOr<T>, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element()? {
                    many.push(one);
                }
                Ok(TextOr::Many(many))
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

/// Members that nobody here knows, as one text for servers that may know them. Null is the same as absent.
pub(super) fn extra_json(mut extra: Map<String, Value>) -> Result<String, Failure> {
    extra.retain(|_, value| !value.is_null());
    if extra.is_empty() {
        return Ok(String::new());
    }
    serde_json::to_string(&extra).map_err(Failure::internal)
}

/// Members that would change the answer's form in a way that a door cannot give back: refused, not lost.
pub(super) fn refuse_unoffered(extra: &Map<String, Value>, names: &[&str]) -> Result<(), Failure> {
    let asks = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_u64() != Some(0);
    match names.iter().find(|name| extra.get(**name).is_some_and(asks)) {
        Some(name) => Err(Failure::field(*name, "is not offered by this gateway")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_business_being_large_is_refused_before_it_is_read() {
        let large = format!("[{}0]", "0,".repeat(MAX_MEMBER));
        let refused = |body: String| members(body.as_bytes()).err().map(|failure| failure.fields[0].0.clone());
        assert_eq!(refused(format!(r#"{{"metadata":{large}}}"#)).as_deref(), Some("metadata"));
        assert_eq!(refused(format!(r#"{{"stop":{large},"model":"m"}}"#)).as_deref(), Some("stop"));
        assert_eq!(refused(format!(r#"{{"messages":{large}}}"#)), None);
        let many: Vec<_> = (0..=MAX_MEMBERS).map(|nth| format!(r#""m{nth}":0"#)).collect();
        assert!(members(format!("{{{}}}", many.join(",")).as_bytes()).is_err());
    }

    #[test]
    fn a_text_or_a_list_is_read_as_it_is() {
        let read = |text: &str| serde_json::from_str::<TextOr<u8>>(text).ok();
        assert!(matches!(read(r#""aé""#), Some(TextOr::Text(text)) if text == "aé"));
        assert!(matches!(read("[1,2]"), Some(TextOr::Many(list)) if list == [1, 2]));
        for bad in ["1", "{}", "[\"a\"]", "null"] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
