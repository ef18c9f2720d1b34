//! One pass over JSON that refuses what lenient readers disagree on: repeated members at any depth, deep nesting, and bytes
//! after the end. Two verifiers that read a document differently are an attack (RFC 8725 §2.4); this one reads it one way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting. Our own claims nest twice; those of other issuers a little deeper.
const MAX_DEPTH: u8 = 8;

/// Reads an object.
pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_str(checked_object(bytes)?).ok()
}

/// The text of an object that every reader reads alike, for a type to read.
pub(crate) fn checked_object(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    Check(MAX_DEPTH).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{').then_some(text)
}

/// Checks one value, with so many levels of nesting left.
struct Check(u8);

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Check {
    fn deeper<E: Error>(&self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = Vec::with_capacity(16);
        while let Some(name) = members.next_key_seed(Name)? {
            members.next_value_seed(self.deeper()?)?;
            names.push(name);
        }
        names.sort_unstable();
        match names.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(A::Error::custom("a repeated member")),
            false => Ok(()),
        }
    }
}

/// A member's name, borrowed from the text where nothing in it is escaped.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            assert_eq!(checked_object(case), None, "{}", String::from_utf8_lossy(case));
        }
    }

    proptest! {
        #[test]
        fn what_is_checked_is_an_object_to_any_reader(parts in proptest::collection::vec(
            r#"[{}\[\],: ]|"a"|"b"|"\\u0061"|"\\ud800"|1|-2.5|1e9|true|null|\{"a":|\{\}"#, 0..12,
        )) {
            let text = parts.concat();
            let lenient = serde_json::from_str::<Map<String, Value>>(&text);
            match checked_object(text.as_bytes()) {
                Some(checked) => prop_assert!(checked == text && lenient.is_ok(), "{}", text),
                None => prop_assert!(lenient.is_err() || text.matches(['"', '[', '{']).count() > 2, "{}", text),
            }
        }
    }
}
