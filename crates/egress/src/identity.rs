//! The identities that a process has by itself, from its machine, its pod or its operator's files.

use std::fmt;

use serde::Deserialize;

/// An identity of the process's own. Models are shown none that its operator has not listed: whoever may register one could otherwise act as
/// the machine that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum OwnIdentity {
    /// `google_metadata`: the service account of the machine, by Google's metadata server.
    GoogleMetadata,
    /// `aws_machine`: the role of the container, pod or machine, by AWS's metadata addresses.
    AwsMachine,
    /// `aws_web_identity`: the pod's web identity at AWS.
    AwsWebIdentity,
    /// `aws_profile:NAME`: a profile of AWS's configuration files.
    AwsProfile(String),
}

impl fmt::Display for OwnIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoogleMetadata => f.write_str("google_metadata"),
            Self::AwsMachine => f.write_str("aws_machine"),
            Self::AwsWebIdentity => f.write_str("aws_web_identity"),
            Self::AwsProfile(name) => write!(f, "aws_profile:{name}"),
        }
    }
}

impl TryFrom<String> for OwnIdentity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "google_metadata" => Ok(Self::GoogleMetadata),
            "aws_machine" => Ok(Self::AwsMachine),
            "aws_web_identity" => Ok(Self::AwsWebIdentity),
            other => match other.strip_prefix("aws_profile:").filter(|name| !name.is_empty()) {
                Some(name) => Ok(Self::AwsProfile(name.to_owned())),
                None => Err(format!(
                    "`{other}` is none of google_metadata, aws_machine, aws_web_identity, aws_profile:NAME"
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for name in ["google_metadata", "aws_machine", "aws_web_identity", "aws_profile:models"] {
            assert_eq!(OwnIdentity::try_from(name.to_owned()).unwrap().to_string(), name);
        }
        for name in ["", "aws", "aws_profile:", "AWS_MACHINE"] {
            assert!(OwnIdentity::try_from(name.to_owned()).is_err(), "{name}");
        }
    }
}
