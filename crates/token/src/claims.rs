//! What a token says (RFC 9068 §2.2), and what is wrong with one that is refused.

use serde::{Deserialize, Serialize};

use crate::strict_json;

/// Why a token is refused. Each fault has a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url segments of the right content.
    #[error("the token is not well-formed")]
    Malformed,
    /// Larger than [`crate::MAX_TOKEN_BYTES`].
    #[error("the token is larger than 8 KiB")]
    TooLarge,
    /// `typ` is not `at+jwt`.
    #[error("this is not an access token (its type is not at+jwt)")]
    TypeWrong,
    /// A header member that is not offered, such as `crit`, `jku` or `jwk`.
    #[error("the token's header has members that are not accepted")]
    HeaderUnsupported,
    /// `alg` is not the key's.
    #[error("the token's algorithm is not the one of its key")]
    AlgorithmWrong,
    /// No key of this `kid`.
    #[error("the token is signed by a key that is not known here")]
    KeyUnknown,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    SignatureInvalid,
    /// A claim is missing, of the wrong type, or contradicts another.
    #[error("the token's claims are not those of an access token")]
    ClaimsInvalid,
    /// `iss` or `postern_instance` is somebody else's.
    #[error("the token is not from the issuer whose key signed it")]
    IssuerUntrusted,
    /// `aud` is somebody else's.
    #[error("the token is for another audience")]
    AudienceWrong,
    /// `exp` has passed by more than the leeway.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is ahead by more than the leeway.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `exp - iat` is more than the issuer may give.
    #[error("the token lives longer than is allowed")]
    LifetimeTooLong,
}

/// Which configuration a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Realm {
    /// For a gateway of the instance itself.
    SelfManaged,
    /// For an external gateway.
    Managed,
}

/// Who acts for the subject (RFC 8693 §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The actor's id.
    pub sub: String,
}

/// The claims of an access token. Times are seconds since 1970 (RFC 7519 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer's URL.
    pub iss: String,
    /// The id of the user, program or process.
    pub sub: String,
    /// The one audience.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Begin.
    pub nbf: u64,
    /// When it was minted.
    pub iat: u64,
    /// The token's id.
    pub jti: String,
    /// Who asked for the token.
    pub client_id: String,
    /// The scopes, separated by spaces.
    pub scope: String,
    /// The minting instance's id.
    pub postern_instance: String,
    /// Which configuration.
    pub postern_realm: Realm,
    /// The id of the credential that the token was exchanged for.
    pub postern_credential: String,
    /// Who acts for the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

/// No time claim beyond this is meant seriously (the year 36812), and sums of two stay far from overflow.
const MAX_TIME: u64 = 1 << 40;

impl Claims {
    /// Reads the claims strictly.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        let object = strict_json::object(bytes).ok_or(TokenError::Malformed)?;
        let claims: Self = strict_json::typed(object).ok_or(TokenError::ClaimsInvalid)?;
        claims.is_sound().then_some(claims).ok_or(TokenError::ClaimsInvalid)
    }

    fn is_sound(&self) -> bool {
        let texts = [
            &self.iss,
            &self.sub,
            &self.aud,
            &self.jti,
            &self.client_id,
            &self.scope,
            &self.postern_instance,
            &self.postern_credential,
        ];
        let actor = self.act.as_ref().map(|actor| &actor.sub);
        texts.into_iter().chain(actor).all(|text| !has_control(text))
            && !self.sub.is_empty()
            && !self.jti.is_empty()
            && [self.exp, self.nbf, self.iat].into_iter().all(|time| time < MAX_TIME)
            && self.iat <= self.exp
    }

    /// Whether the token holds this scope, exactly.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|held| held == scope)
    }
}

/// Whether a text holds control characters, which could forge a second scope, header or log line.
#[must_use]
pub fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}
