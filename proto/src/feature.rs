//! The features that an administrator binds to models and that a token's scopes name.

use std::fmt;
use std::str::FromStr;

/// Something that callers come for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Conversations.
    Chat,
    /// Code at a cursor.
    CodeCompletion,
}

impl Feature {
    /// Every feature, by name.
    pub const ALL: [Self; 2] = [Self::Chat, Self::CodeCompletion];

    /// The name in bindings, prompts and scopes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::CodeCompletion => "code_completion",
        }
    }

    /// The scope that lets a token use it.
    #[must_use]
    pub const fn scope(self) -> &'static str {
        match self {
            Self::Chat => "feature:chat",
            Self::CodeCompletion => "feature:code_completion",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not a feature's.
#[derive(Debug, thiserror::Error)]
#[error("there is no feature `{0}`; there are chat and code_completion")]
pub struct UnknownFeature(pub String);

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(name: &str) -> Result<Self, UnknownFeature> {
        Self::ALL
            .into_iter()
            .find(|feature| feature.name() == name)
            .ok_or_else(|| UnknownFeature(name.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_scopes_agree_and_read_back() {
        for feature in Feature::ALL {
            assert_eq!(feature.scope(), format!("feature:{}", feature.name()));
            assert!(matches!(feature.name().parse(), Ok(read) if Feature::eq(&feature, &read)));
        }
        let error = "cha".parse::<Feature>().map_err(|e| e.to_string());
        assert_eq!(error, Err("there is no feature `cha`; there are chat and code_completion".to_owned()));
    }
}
