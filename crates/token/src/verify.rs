//! Verification. The order is the point: size and shape, then the header by comparison, then strict base64url, then the
//! signature, and only then one strict reading of the claims. Nothing that an attacker wrote is interpreted before the
//! signature has been checked.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::LEEWAY_SECONDS;
use crate::claims::{Claims, TokenError};
use crate::header;
use crate::jwk::PublicKey;

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token of which only size and shape are known.
#[derive(Clone, Copy)]
pub struct Unverified<'a> {
    header: &'a str,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Unverified<'a> {
    /// Checks size and shape: at most [`MAX_TOKEN_BYTES`], three segments.
    ///
    /// # Errors
    /// [`TokenError::TooLarge`] or [`TokenError::Malformed`].
    pub fn new(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') || [header, payload, signature].iter().any(|segment| segment.is_empty()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self { header, signed, payload, signature })
    }
}

/// A token whose signature and claims have been checked against a [`TrustTable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    claims: Claims,
}

impl Verified {
    /// What the token says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether it has ended at this time (seconds since 1970), the leeway included.
    #[must_use]
    pub const fn has_expired(&self, now: u64) -> bool {
        now > self.claims.exp.saturating_add(LEEWAY_SECONDS)
    }
}

/// What to demand of an issuer's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerProfile {
    /// The exact `iss`.
    pub issuer: String,
    /// The exact `postern_instance`.
    pub instance_id: String,
    /// The exact `aud`.
    pub audience: String,
    /// The most that `exp - iat` may be, in seconds.
    pub max_lifetime: u64,
}

/// One issuer and its keys, by the header that each announces.
#[derive(Debug, Clone)]
pub struct TrustTable {
    profile: IssuerProfile,
    keys: HashMap<String, PublicKey>,
}

impl TrustTable {
    /// A table of these keys.
    #[must_use]
    pub fn new(profile: IssuerProfile, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { profile, keys: keys.into_iter().map(|key| (key.header.clone(), key)).collect() }
    }

    /// What is demanded.
    #[must_use]
    pub const fn profile(&self) -> &IssuerProfile {
        &self.profile
    }

    /// Whether any key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether this token is signed under a header that a known key announced.
    #[must_use]
    pub fn knows_header_of(&self, token: Unverified<'_>) -> bool {
        self.keys.contains_key(token.header)
    }

    /// Verifies at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenError`] names the first fault in the order of the checks.
    pub fn verify(&self, token: Unverified<'_>, now: u64) -> Result<Verified, TokenError> {
        let Some(key) = self.keys.get(token.header) else {
            return Err(header::refusal(token.header, |kid| self.keys.values().any(|key| key.kid == kid)));
        };
        let payload = URL_SAFE_NO_PAD.decode(token.payload).map_err(|_| TokenError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(token.signature).map_err(|_| TokenError::Malformed)?;
        key.key.verify_sig(token.signed.as_bytes(), &signature).map_err(|_| TokenError::SignatureInvalid)?;
        let claims = Claims::read(&payload)?;
        self.judge(&claims, now)?;
        Ok(Verified { claims })
    }

    fn judge(&self, claims: &Claims, now: u64) -> Result<(), TokenError> {
        let profile = &self.profile;
        if claims.iss != profile.issuer || claims.postern_instance != profile.instance_id {
            return Err(TokenError::IssuerUntrusted);
        }
        if claims.aud != profile.audience {
            return Err(TokenError::AudienceWrong);
        }
        if claims.exp - claims.iat > profile.max_lifetime {
            return Err(TokenError::LifetimeTooLong);
        }
        if now > claims.exp + LEEWAY_SECONDS {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now + LEEWAY_SECONDS || claims.iat > now + LEEWAY_SECONDS {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}
