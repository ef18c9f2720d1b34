//! What a token says (RFC 9068 §2.2), and what is wrong with one that is refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// It was revoked, or its credential, subject, instance or key was.
    #[error("the token is revoked")]
    Revoked,
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
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The actor's id.
    pub sub: String,
}

/// What the token is bound to (RFC 7800).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The SHA-256 of the client's certificate, base64url (RFC 8705 §3.1).
    #[serde(rename = "x5t#S256", default, skip_serializing_if = "Option::is_none")]
    pub x5t_s256: Option<String>,
}

/// The claims of an access token. Times are seconds since 1970 (RFC 7519 §2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The issuer's URL.
    pub iss: String,
    /// The id of the user, program or process.
    pub sub: String,
    /// The one audience.
    pub aud: String,
    /// End.
    pub exp: u64,
    /// Begin. An instance always says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was minted.
    pub iat: u64,
    /// The token's id.
    pub jti: String,
    /// Who asked for the token. An instance always says it.
    #[serde(default)]
    pub client_id: String,
    /// The scopes, separated by spaces. An instance always says them.
    #[serde(default)]
    pub scope: String,
    /// The minting instance's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postern_instance: Option<String>,
    /// Which configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postern_realm: Option<Realm>,
    /// The id of the credential that the token was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postern_credential: Option<String>,
    /// The groups that the subject is in, as the minting instance knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postern_groups: Vec<String>,
    /// Who acts for the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
    /// What the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// The members of [`Claims`].
const KNOWN: [&str; 15] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "scope",
    "postern_instance",
    "postern_realm",
    "postern_credential",
    "postern_groups",
    "act",
    "cnf",
];

/// No time claim beyond this is meant seriously (the year 36812), and sums of two stay far from overflow.
const MAX_TIME: u64 = 1 << 40;

impl Claims {
    /// Reads the claims strictly.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        // An instance's own tokens hold these members and no others, each once: then one reading is strict by itself.
        // A list of the right values in the right order is none: only an object says which is which.
        let alone = match bytes.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(bytes).ok(),
            _ => None,
        };
        let claims = alone.map_or_else(|| Self::read_among_others(bytes), Ok)?;
        claims.is_sound().then_some(claims).ok_or(TokenError::ClaimsInvalid)
    }

    /// Reads the claims of a token that says more, as those of other issuers do: what is not known here is passed over, once the whole
    /// has been found to read one way only.
    fn read_among_others(bytes: &[u8]) -> Result<Self, TokenError> {
        let mut members = strict_json::object(bytes).ok_or(TokenError::Malformed)?;
        members.retain(|name, _| KNOWN.contains(&name.as_str()));
        for (name, known) in [("act", "sub"), ("cnf", "x5t#S256")] {
            if let Some(Value::Object(inner)) = members.get_mut(name) {
                inner.retain(|name, _| name == known);
            }
        }
        serde_json::from_value(Value::Object(members)).map_err(|_| TokenError::ClaimsInvalid)
    }

    fn is_sound(&self) -> bool {
        let always = [&self.iss, &self.sub, &self.aud, &self.jti, &self.client_id, &self.scope];
        let sometimes = [self.postern_instance.as_ref(), self.postern_credential.as_ref()];
        let actor = self.act.as_ref().map(|actor| &actor.sub);
        // A binding of a kind that is not known here cannot be checked, so it must not be passed over.
        let bound = self.cnf.as_ref().is_none_or(|cnf| cnf.x5t_s256.is_some());
        always.into_iter().chain(sometimes.into_iter().flatten()).chain(actor).all(|text| !has_control(text))
            && bound
            && !self.sub.is_empty()
            && !self.jti.is_empty()
            && [self.exp, self.nbf.unwrap_or(0), self.iat].into_iter().all(|time| time < MAX_TIME)
            && self.iat <= self.exp
    }

    /// Whether everything is there that an instance says in each token.
    pub(crate) fn is_complete(&self) -> bool {
        self.nbf.is_some()
            && !self.client_id.is_empty()
            && self.postern_instance.is_some()
            && self.postern_realm.is_some()
            && self.postern_credential.is_some()
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
    match text.is_ascii() {
        true => text.bytes().any(|byte| byte.is_ascii_control()),
        false => text.chars().any(char::is_control),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn whole() -> Value {
        json!({
            "iss": "i", "sub": "s", "aud": "a", "exp": 2, "nbf": 0, "iat": 1, "jti": "j", "client_id": "c", "scope": "x",
            "postern_instance": "n", "postern_realm": "managed", "postern_credential": "d", "postern_groups": ["g"],
            "act": { "sub": "t" }, "cnf": { "x5t#S256": "h" },
        })
    }

    #[test]
    fn claims_read_the_same_alone_and_among_others() {
        let alone = Claims::read(whole().to_string().as_bytes()).unwrap();
        // Each member is known by both ways of reading.
        assert_eq!(serde_json::to_value(&alone).unwrap(), whole());
        assert!(whole().as_object().unwrap().keys().all(|name| KNOWN.contains(&name.as_str())));
        assert_eq!(whole().as_object().unwrap().len(), KNOWN.len());
        let mut among = whole();
        among["groups"] = json!([{ "display": "x" }]);
        among["act"]["iss"] = "who".into();
        among["cnf"]["jkt"] = "k".into();
        assert_eq!(Claims::read(among.to_string().as_bytes()), Ok(alone));
        for text in [
            whole().to_string().replacen("{", r#"{"sub":"other","#, 1),
            whole().to_string().replacen("{", r#"{"x":1,"x":2,"#, 1),
            whole().to_string().replacen(r#""act":{"#, r#""act":{"sub":"u","#, 1),
            format!("{} x", whole()),
            format!("[{}]", whole()),
        ] {
            assert_eq!(Claims::read(text.as_bytes()), Err(TokenError::Malformed), "{text}");
        }
        let values: Vec<_> = KNOWN.iter().map(|name| whole()[*name].clone()).collect();
        assert!(Claims::read(json!(values).to_string().as_bytes()).is_err(), "a list is no object");
    }
}
