//! The token's header, read strictly. Nothing in a header is ever followed: it names a key that is known already, or the token is
//! refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::algorithm::Algorithm;
use crate::claims::TokenError;
use crate::profile::OpenForm;
use crate::strict_json;

/// Longest header worth reading, in base64url characters.
const MAX_HEADER: usize = 1024;

/// A header's members.
pub(crate) struct Header(serde_json::Map<String, serde_json::Value>);

impl Header {
    pub(crate) fn read(segment: &str) -> Result<Self, TokenError> {
        if segment.len() > MAX_HEADER {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Malformed)?;
        strict_json::object(&bytes).map(Self).ok_or(TokenError::Malformed)
    }

    fn text(&self, member: &str) -> Option<&str> {
        self.0.get(member).and_then(|value| value.as_str())
    }

    /// The key's id; `Err` for one that is no text.
    pub(crate) fn kid(&self) -> Result<Option<&str>, TokenError> {
        match self.0.get("kid") {
            None => Ok(None),
            Some(kid) => kid.as_str().map(Some).ok_or(TokenError::KeyUnknown),
        }
    }

    pub(crate) fn algorithm(&self) -> Result<Algorithm, TokenError> {
        self.text("alg").and_then(Algorithm::from_name).ok_or(TokenError::AlgorithmWrong)
    }

    /// Whether the members are those that the form takes. `crit` never is: an extension that is not understood must be refused
    /// (RFC 7515 §4.1.11), and none is.
    pub(crate) fn has_only_members_of(&self, form: &OpenForm) -> bool {
        self.0.keys().all(|member| match member.as_str() {
            "alg" | "kid" | "typ" => true,
            "crit" | "b64" => false,
            other => form.header_members.iter().any(|allowed| allowed == other),
        })
    }

    /// Whether there is any member beside the three of an announced header.
    pub(crate) fn has_further_members(&self) -> bool {
        self.0.keys().any(|member| !matches!(member.as_str(), "alg" | "kid" | "typ"))
    }

    pub(crate) fn is_of_type(&self, form: &OpenForm) -> bool {
        match self.0.get("typ") {
            None => form.types.contains(&None),
            Some(typ) => form.types.iter().flatten().any(|allowed| typ == allowed.as_str()),
        }
    }

    pub(crate) fn is_access_token(&self) -> bool {
        self.text("typ") == Some("at+jwt")
    }
}
