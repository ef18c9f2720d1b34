//! The features that an administrator binds to models and that a token's scopes name.

use std::fmt;
use std::str::FromStr;

macro_rules! features {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Something that callers come for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Feature {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Feature {
            /// Every feature.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name in bindings, prompts and scopes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The scope that lets a token use it.
            #[must_use]
            pub const fn scope(self) -> &'static str {
                match self { $(Self::$variant => concat!("feature:", $name),)* }
            }
        }
    };
}

features! {
    /// Conversations.
    Chat = "chat",
    /// Code at a cursor.
    CodeCompletion = "code_completion",
    /// Vectors of texts.
    Embed = "embed",
    /// Code from an instruction.
    CodeGeneration = "code_generation",
    /// What code does.
    ExplainCode = "explain_code",
    /// Tests for code.
    WriteTests = "write_tests",
    /// What is wrong with a change.
    ReviewChanges = "review_changes",
    /// Code that does the same, better put.
    RefactorCode = "refactor_code",
    /// Code without its fault.
    FixCode = "fix_code",
    /// What a finding of a scanner means.
    ExplainVulnerability = "explain_vulnerability",
    /// Code without a vulnerability.
    ResolveVulnerability = "resolve_vulnerability",
    /// What a change does.
    SummarizeChanges = "summarize_changes",
    /// What was said in a discussion.
    SummarizeDiscussion = "summarize_discussion",
    /// A commit's message.
    CommitMessage = "commit_message",
    /// An issue from notes.
    IssueDescription = "issue_description",
    /// Why a job failed.
    TroubleshootJob = "troubleshoot_job",
    /// A command for a shell.
    ShellCommand = "shell_command",
}

impl Feature {
    /// Whether the registry has prompts for it: all but conversations and vectors, of which code at a cursor needs one only where it is
    /// asked for in a chat.
    #[must_use]
    pub const fn has_prompt(self) -> bool {
        !matches!(self, Self::Chat | Self::Embed)
    }

    /// Whether it is run by its prompt's variables.
    #[must_use]
    pub const fn is_run_by_prompt(self) -> bool {
        self.has_prompt() && !matches!(self, Self::CodeCompletion)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not a feature's.
#[derive(Debug, thiserror::Error)]
#[error("there is no feature `{name}`; there are: {}", Feature::ALL.map(Feature::name).join(", "))]
pub struct UnknownFeature {
    /// The beginning of what was given.
    pub name: String,
}

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(name: &str) -> Result<Self, UnknownFeature> {
        Self::ALL
            .into_iter()
            .find(|feature| feature.name() == name)
            .ok_or_else(|| UnknownFeature { name: name.chars().take(64).collect() })
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
        let error = "cha".parse::<Feature>().map_err(|e| e.to_string()).unwrap_err();
        assert!(error.starts_with("there is no feature `cha`; there are: chat, code_completion, embed, "), "{error}");
    }
}
