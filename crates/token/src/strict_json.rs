//! One pass over JSON that refuses what lenient readers disagree on: repeated members at any depth, deep nesting, and bytes
//! after the end. Two verifiers that read a document differently are an attack (RFC 8725 §2.4); this one reads it one way.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting. Our own claims nest twice; those of other issuers a little deeper.
const MAX_DEPTH: u8 = 8;

/// Reads an object.
pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict(MAX_DEPTH).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Reads one value, with so many levels of nesting left.
struct Strict(u8);

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Strict {
    fn deeper<E: Error>(&self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.deeper()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key_seed(std::marker::PhantomData::<String>)? {
            let value = members.next_value_seed(self.deeper()?)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("a repeated member"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Reads a typed value out of a strict object, so that the type sees no repeated member.
pub(crate) fn typed<T: for<'de> serde::Deserialize<'de>>(object: Map<String, Value>) -> Option<T> {
    T::deserialize(Value::Object(object)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_objects_are_read() {
        let read = object(br#" {"a":1,"b":[true,null,"x"],"c":{"d":-1.5}} "#).map(Value::Object);
        assert_eq!(read, Some(serde_json::json!({"a":1,"b":[true,null,"x"],"c":{"d":-1.5}})));
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        let cases: [&[u8]; 12] = [
            br#"{"a":1,"a":2}"#,
            br#"{"sub":"x","\u0073ub":"y"}"#,
            br#"{"c":{"a":1,"a":2}}"#,
            br#"{"a":1}x"#,
            br#"{"a":1}{}"#,
            b"{\"a\":1}\0",
            b"\xEF\xBB\xBF{\"a\":1}",
            b"{\"a\":\"\xFF\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"a":[[[[[[[[[1]]]]]]]]]}"#,
            br#"[1]"#,
            br#"{"a":1e400}"#,
        ];
        for case in cases {
            assert_eq!(object(case), None, "{}", String::from_utf8_lossy(case));
        }
    }
}
