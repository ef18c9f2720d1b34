//! Tokens by which somebody else, or a client itself, says who a caller is: OpenID Connect ID tokens (OIDC Core §3.1.3.7),
//! Kubernetes service-account tokens, and client assertions (RFC 7523 §3). They are shown to an instance once, to be exchanged;
//! nothing else takes them, and an access token is never taken for one.

use serde_json::{Map, Value};

use crate::LEEWAY_SECONDS;
use crate::algorithm::Algorithm;
use crate::claims::{TokenError, has_control};
use crate::header::Header;
use crate::key::PublicKey;
use crate::profile::OpenForm;
use crate::strict_json;
use crate::verify::{Unverified, under};

/// No time claim beyond this is meant seriously, and sums of two stay far from overflow.
const MAX_TIME: u64 = 1 << 40;

/// What is demanded of an assertion.
#[derive(Debug, Clone)]
pub struct AssertionDemands<'a> {
    /// The exact `iss`.
    pub issuer: &'a str,
    /// One of these must be the `aud`, or stand in it.
    pub audiences: &'a [&'a str],
    /// Whether `aud` may name others beside: who holds such a token may be one of them.
    pub shared_audience: bool,
    /// The most that `exp - iat` may be, in seconds; `exp` from now on where there is no `iat`.
    pub max_lifetime: u64,
    /// Whether a `kid` picks the key. Else each key is tried, as is right for the few keys of one client.
    pub by_kid: bool,
}

/// An assertion whose signature, issuer, audience and times have been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    members: Map<String, Value>,
    subject: String,
    expires: u64,
}

impl Assertion {
    /// Verifies an assertion at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenError`] names the first fault in the order of the checks.
    pub fn verify(
        token: &str,
        keys: &[PublicKey],
        demands: &AssertionDemands<'_>,
        now: u64,
    ) -> Result<Self, TokenError> {
        let token = Unverified::new(token)?;
        let header = token.header()?;
        let form = OpenForm {
            types: [None, Some("JWT"), Some("client-authentication+jwt")].map(|typ| typ.map(str::to_owned)).to_vec(),
            header_members: Vec::new(),
            algorithms: Algorithm::ALL.to_vec(),
            kid_optional: true,
        };
        let payload = signed_by_one_of(token, &header, &form, keys, demands.by_kid)?;
        let members = strict_json::object(&payload).ok_or(TokenError::Malformed)?;
        judge(&members, demands, now).map(|(subject, expires)| Self {
            subject: subject.to_owned(),
            expires,
            members: members.clone(),
        })
    }

    /// The `sub`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The `exp`, in seconds since 1970.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// The `jti`, where there is one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.members.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty())
    }

    /// Whether it says this: a claim that is this text, or a list that holds it. A name that begins with `/` is a JSON Pointer
    /// (RFC 6901).
    #[must_use]
    pub fn says(&self, claim: &str, text: &str) -> bool {
        let found = match claim.strip_prefix('/') {
            None => self.members.get(claim),
            Some(path) => pointed(&self.members, path),
        };
        match found {
            Some(Value::String(said)) => said == text,
            Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(text)),
            _ => false,
        }
    }
}

/// RFC 6901 §4, without the slash in front; array indices are not followed.
fn pointed<'a>(members: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
    let first = members.get(&steps.next()?)?;
    steps.try_fold(first, |value, step| value.as_object()?.get(&step))
}

fn signed_by_one_of(
    token: Unverified<'_>,
    header: &Header,
    form: &OpenForm,
    keys: &[PublicKey],
    by_kid: bool,
) -> Result<Vec<u8>, TokenError> {
    let kid = header.kid()?;
    let mut refusal = TokenError::KeyUnknown;
    for key in keys {
        let meant = match kid {
            _ if !by_kid => true,
            Some(kid) => kid == key.kid(),
            None => keys.len() == 1,
        };
        if !meant {
            continue;
        }
        match under(token, header, form, key) {
            Ok(payload) => return Ok(payload),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// The subject and the end, if everything is as demanded.
fn judge<'a>(
    members: &'a Map<String, Value>,
    demands: &AssertionDemands<'_>,
    now: u64,
) -> Result<(&'a str, u64), TokenError> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let time = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(value) => {
            let time = value.as_u64().filter(|time| *time < MAX_TIME);
            time.map(Some).ok_or(TokenError::ClaimsInvalid)
        }
    };
    let subject = text("sub").filter(|subject| !subject.is_empty() && !has_control(subject));
    let subject = subject.ok_or(TokenError::ClaimsInvalid)?;
    if text("iss") != Some(demands.issuer) {
        return Err(TokenError::IssuerUntrusted);
    }
    let ours = |audience: &str| demands.audiences.contains(&audience);
    let audience_is_ours = match members.get("aud") {
        Some(Value::String(one)) => ours(one),
        Some(Value::Array(list)) if demands.shared_audience || list.len() == 1 => {
            list.iter().all(Value::is_string) && list.iter().filter_map(Value::as_str).any(ours)
        }
        _ => false,
    };
    if !audience_is_ours {
        return Err(TokenError::AudienceWrong);
    }
    let expires = time("exp")?.ok_or(TokenError::ClaimsInvalid)?;
    let issued = time("iat")?;
    let begins = issued.unwrap_or(now);
    if expires.saturating_sub(begins) > demands.max_lifetime {
        return Err(TokenError::LifetimeTooLong);
    }
    if now > expires + LEEWAY_SECONDS {
        return Err(TokenError::Expired);
    }
    if [time("nbf")?, issued].into_iter().flatten().any(|begin| begin > now + LEEWAY_SECONDS) {
        return Err(TokenError::NotYetValid);
    }
    Ok((subject, expires))
}
