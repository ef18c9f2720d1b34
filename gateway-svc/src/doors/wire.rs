//! Bodies as they are read: nothing is taken in as a tree that a caller could make grow. What may be large is read straight into its
//! place; everything else is bounded before it is read.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use postern_proto::completion::v1::{CacheMark, Parameters};
use postern_proto::{Failure, Reason};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Largest member that need not be large, in bytes of JSON.
const MAX_MEMBER: usize = 256 * 1024;
/// Members of a body.
const MAX_MEMBERS: usize = 256;
/// Elements of all lists of a body together: the smallest takes three bytes there and some hundreds here.
const MAX_ELEMENTS: usize = 20_000;

thread_local! {
    /// Elements that the body that is being read may still have. Reading one is never interrupted.
    static ELEMENTS_LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Reads a body, of which the `large` members may be as large as itself, and says what of it cannot be read.
pub(super) fn read<'de, T: Deserialize<'de>>(body: &'de [u8], large: &[&str]) -> Result<T, Failure> {
    members(body, large)?;
    ELEMENTS_LEFT.set(MAX_ELEMENTS);
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

/// The members of a body as they were written; each is there once.
pub(super) fn members<'a>(body: &'a [u8], large: &[&str]) -> Result<Members<'a>, Failure> {
    let Once(members) = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let large = members.iter().find(|(name, value)| !large.contains(&&***name) && value.get().len() > MAX_MEMBER);
    match large {
        Some((name, _)) => {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            Err(Failure::field(shown, format!("is larger than {} KiB", MAX_MEMBER >> 10)))
        }
        None => Ok(members),
    }
}

/// The members of a body by name.
pub(super) type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Members of which none comes twice: the reader after this one would take in both.
struct Once<'a>(Members<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Once<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Members<'de>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members::new();
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    if members.len() == MAX_MEMBERS || members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member comes twice, or there are too many"));
                    }
                }
                Ok(members)
            }
        }
        from.deserialize_map(Map).map(Self)
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
                    take_one::<A::Error>()?;
                    many.push(one);
                }
                Ok(TextOr::Many(many))
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

/// A mark for the server to keep what is before it, as Anthropic's API has it.
#[derive(Deserialize)]
pub(super) struct CacheControl {
    #[serde(default)]
    ttl: Option<String>,
}

impl From<CacheControl> for CacheMark {
    fn from(CacheControl { ttl }: CacheControl) -> Self {
        Self { ttl: ttl.unwrap_or_default() }
    }
}

fn take_one<E: serde::de::Error>() -> Result<(), E> {
    let left = ELEMENTS_LEFT.get().checked_sub(1).ok_or_else(|| E::custom("too many elements"))?;
    ELEMENTS_LEFT.set(left);
    Ok(())
}

/// A list, whose elements count among all of the body.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    match Option::<TextOr<T>>::deserialize(from)? {
        None => Ok(Vec::new()),
        Some(TextOr::Many(list)) => Ok(list),
        Some(TextOr::Text(_)) => Err(serde::de::Error::custom("a text in place of a list")),
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

/// Takes parameters out of the further members, which a door's own API does not have and others do: each to its place, unless that is
/// taken already.
pub(super) fn take_known(extra: &mut Map<String, Value>, parameters: &mut Parameters) -> Result<(), Failure> {
    fn put<T: serde::de::DeserializeOwned>(
        extra: &mut Map<String, Value>,
        name: &str,
        place: &mut Option<T>,
    ) -> Result<(), Failure> {
        let Some(given) = extra.shift_remove(name).filter(|given| !given.is_null()) else { return Ok(()) };
        let given = serde_json::from_value(given).map_err(|_| Failure::field(name, "is of the wrong type"))?;
        place.get_or_insert(given);
        Ok(())
    }
    for name in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
        put(extra, name, &mut parameters.max_tokens)?;
    }
    put(extra, "temperature", &mut parameters.temperature)?;
    put(extra, "top_p", &mut parameters.top_p)?;
    put(extra, "top_k", &mut parameters.top_k)?;
    put(extra, "seed", &mut parameters.seed)?;
    put(extra, "presence_penalty", &mut parameters.presence_penalty)?;
    put(extra, "frequency_penalty", &mut parameters.frequency_penalty)?;
    put(extra, "user", &mut parameters.user)?;
    put(extra, "parallel_tool_calls", &mut parameters.parallel_tool_calls)?;
    put(extra, "reasoning_effort", &mut parameters.reasoning_effort)?;
    let mut stop = None;
    put(extra, "stop", &mut stop)?;
    match stop {
        Some(Value::String(text)) if parameters.stop.is_empty() => parameters.stop = vec![text],
        Some(given) if parameters.stop.is_empty() => {
            parameters.stop =
                serde_json::from_value(given).map_err(|_| Failure::field("stop", "is of the wrong type"))?;
        }
        _ => {}
    }
    // One answer is what there is without it.
    match extra.shift_remove("n") {
        None | Some(Value::Null) => Ok(()),
        Some(one) if one == 1 => Ok(()),
        Some(_) => Err(Failure::field("n", "is not offered at this door: there is one answer")),
    }
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
    fn what_another_door_knows_is_put_in_its_place() {
        let mut extra = serde_json::json!({
            "seed": 7, "stop": "END", "top_k": null, "frequency_penalty": 0.5, "n": 1, "user": "eve", "min_p": 0.1,
            "max_completion_tokens": 9, "temperature": 0.1,
        });
        let extra = extra.as_object_mut().unwrap();
        let mut parameters = Parameters { temperature: Some(0.9), ..Default::default() };
        take_known(extra, &mut parameters).unwrap();
        let expected = Parameters {
            seed: Some(7),
            stop: vec!["END".to_owned()],
            frequency_penalty: Some(0.5),
            user: Some("eve".to_owned()),
            max_tokens: Some(9),
            temperature: Some(0.9),
            ..Default::default()
        };
        assert_eq!((parameters, extra.len(), &extra["min_p"]), (expected, 1, &Value::from(0.1)));
        for (name, wrong) in [("seed", Value::from("x")), ("stop", 5.into()), ("n", 2.into())] {
            let mut extra = Map::from_iter([(name.to_owned(), wrong)]);
            let refused = take_known(&mut extra, &mut Parameters::default()).unwrap_err();
            assert_eq!(refused.fields[0].0, name);
        }
    }

    #[test]
    fn what_has_no_business_being_large_is_refused_before_it_is_read() {
        let large = format!("[{}0]", "0,".repeat(MAX_MEMBER));
        let refused =
            |body: String| members(body.as_bytes(), &["messages"]).err().map(|failure| failure.fields[0].0.clone());
        assert_eq!(refused(format!(r#"{{"metadata":{large}}}"#)).as_deref(), Some("metadata"));
        assert_eq!(refused(format!(r#"{{"stop":{large},"model":"m"}}"#)).as_deref(), Some("stop"));
        assert_eq!(refused(format!(r#"{{"messages":{large}}}"#)), None);
        let many: Vec<_> = (0..=MAX_MEMBERS).map(|nth| format!(r#""m{nth}":0"#)).collect();
        assert!(members(format!("{{{}}}", many.join(",")).as_bytes(), &[]).is_err());
        // What comes twice is taken in twice, and only one of the two would be looked at.
        assert!(members(format!(r#"{{"z":{large},"z":0}}"#).as_bytes(), &[]).is_err());
        assert!(members(br#"{"a":1,"b":1}"#, &[]).is_ok());
    }

    #[test]
    fn many_small_elements_are_no_way_round() {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "list")]
            messages: Vec<Within>,
        }
        #[derive(Deserialize)]
        struct Within {
            #[serde(default, deserialize_with = "list")]
            parts: Vec<Value>,
        }
        let body = |lists: usize, each: usize| {
            let parts = vec!["{}"; each].join(",");
            format!(r#"{{"messages":[{}]}}"#, vec![format!(r#"{{"parts":[{parts}]}}"#); lists].join(","))
        };
        let count = |lists, each| {
            read::<Body>(body(lists, each).as_bytes(), &["messages"])
                .map(|body| body.messages.iter().map(|within| within.parts.len()).sum::<usize>())
        };
        assert_eq!(count(10, 100).ok(), Some(1000));
        assert!(count(1, MAX_ELEMENTS).is_err());
        assert!(count(200, 100).is_err());
        // Each body has its own.
        assert_eq!(count(10, 100).ok(), Some(1000));
    }

    #[test]
    fn a_text_or_a_list_is_read_as_it_is() {
        ELEMENTS_LEFT.set(MAX_ELEMENTS);
        let read = |text: &str| serde_json::from_str::<TextOr<u8>>(text).ok();
        assert!(matches!(read(r#""aé""#), Some(TextOr::Text(text)) if text == "aé"));
        assert!(matches!(read("[1,2]"), Some(TextOr::Many(list)) if list == [1, 2]));
        for bad in ["1", "{}", "[\"a\"]", "null"] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
