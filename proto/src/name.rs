//! Identifiers as types of their own, so that one cannot stand where another is meant.

use std::fmt;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} characters of {allowed}, and begin with a letter or digit")]
pub struct InvalidName {
    what: &'static str,
    max: usize,
    allowed: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, $allowed:literal, $extra:pat) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks and takes the text.
            ///
            /// # Errors
            /// [`InvalidName`], which says the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                let allowed = |b: u8| matches!(b, $extra);
                if starts_well && text.len() <= $max && text.bytes().all(allowed) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { what: $what, max: $max, allowed: $allowed })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// A registered model's name: what requests name.
    ModelName, "a model's name", 63, "a-z, A-Z, 0-9, '-', '_', '.', ':' and '/'",
    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' | b'/'
);
name!(
    /// The id of a place where a model is served.
    EndpointId, "an endpoint's id", 63, "a-z, A-Z, 0-9, '-' and '_'",
    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_'
);
name!(
    /// The name of a user or service account.
    PrincipalName, "a principal's name", 63, "a-z, 0-9, '-', '_', '.' and '@'",
    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'@'
);
name!(
    /// The name of a group of users and service accounts.
    GroupName, "a group's name", 63, "a-z, 0-9, '-', '_' and '.'",
    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'
);
name!(
    /// The name of a gateway or adapter.
    MemberName, "a fleet member's name", 63, "a-z, 0-9, '-', '_' and '.'",
    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for good in ["a", "qwen2.5-coder:7b", "org/model", &"x".repeat(63)] {
            assert_eq!(ModelName::new(good).map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a b", "a\n", "é", "a\u{0}", &"x".repeat(64)] {
            assert!(ModelName::new(bad).is_err(), "{bad:?}");
        }
        assert!(PrincipalName::new("Eve").is_err());
        assert!(PrincipalName::new("eve@example.org").is_ok());
    }
}
