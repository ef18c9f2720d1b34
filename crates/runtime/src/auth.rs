//! The check of access tokens that every process makes alike.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use postern_proto::{Failure, Reason};
use postern_token::{TokenError, TrustTable, Unverified, Verified};

use crate::clock::Clock;

/// The bearer token of a request (RFC 6750 §2.1).
///
/// # Errors
/// TOKEN_MISSING without one, TOKEN_MALFORMED with several or with another scheme.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Failure::new(Reason::TokenMissing, "send the token as `authorization: Bearer <token>`"));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(token),
        _ => Err(Failure::new(Reason::TokenMalformed, "the authorization must be one `Bearer <token>`")),
    }
}

/// The failure that a refused token becomes.
#[must_use]
pub fn refused(error: TokenError) -> Failure {
    let reason = match error {
        TokenError::Malformed => Reason::TokenMalformed,
        TokenError::TooLarge => Reason::TokenTooLarge,
        TokenError::TypeWrong => Reason::TokenTypeWrong,
        TokenError::HeaderUnsupported => Reason::TokenHeaderUnsupported,
        TokenError::AlgorithmWrong => Reason::AlgorithmWrong,
        TokenError::KeyUnknown => Reason::KeyUnknown,
        TokenError::SignatureInvalid => Reason::SignatureInvalid,
        TokenError::ClaimsInvalid => Reason::ClaimsInvalid,
        TokenError::IssuerUntrusted => Reason::IssuerUntrusted,
        TokenError::AudienceWrong => Reason::AudienceWrong,
        TokenError::Expired => Reason::TokenExpired,
        TokenError::NotYetValid => Reason::TokenNotYetValid,
        TokenError::LifetimeTooLong => Reason::LifetimeTooLong,
    };
    Failure::new(reason, error.to_string())
}

/// Verified tokens to remember.
const REMEMBERED_TOKENS: u64 = 50_000;

/// Verifies tokens against the newest trust table and remembers those that passed. A refused token is not remembered: an
/// attacker could fill the memory with them.
#[derive(Debug, Clone)]
pub struct Verifier {
    table: Arc<ArcSwapOption<TrustTable>>,
    passed: moka::sync::Cache<[u8; 32], Arc<Verified>>,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// A verifier that knows no keys yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            table: Arc::default(),
            passed: moka::sync::Cache::builder().max_capacity(REMEMBERED_TOKENS).build(),
            clock,
        }
    }

    /// Puts a new table to use. What was verified by a key that is no longer there is forgotten with everything else.
    pub fn replace(&self, table: TrustTable) {
        self.table.store(Some(Arc::new(table)));
        self.passed.invalidate_all();
    }

    /// The audience that tokens must have, once it is known.
    #[must_use]
    pub fn audience(&self) -> Option<String> {
        self.table.load().as_ref().map(|table| table.profile().audience.clone())
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// TRUST_UNAVAILABLE before any keys have come, else the token's own fault.
    pub fn verify(&self, token: &str) -> Result<Arc<Verified>, Failure> {
        let shape = Unverified::new(token).map_err(refused)?;
        let table = self.table.load_full();
        let Some(table) = table.filter(|table| !table.is_empty()) else {
            return Err(Failure::new(Reason::TrustUnavailable, "the instance's keys have not arrived yet; try again")
                .with_retry_after(std::time::Duration::from_secs(1)));
        };
        let now = self.clock.now();
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        // A remembered token still has to be under a header of the newest table, whatever was swapped meanwhile.
        if let Some(passed) = self.passed.get(&key).filter(|_| table.knows_header_of(shape)) {
            if passed.has_expired(now) {
                self.passed.invalidate(&key);
                return Err(refused(TokenError::Expired));
            }
            return Ok(passed);
        }
        let verified = Arc::new(table.verify(shape, now).map_err(refused)?);
        self.passed.insert(key, verified.clone());
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, Reason> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", value.parse().unwrap());
        }
        bearer(&headers).map(str::to_owned).map_err(|failure| failure.reason)
    }

    #[test]
    fn one_bearer_token_is_taken() {
        assert_eq!(read(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(read(&["bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(read(&[]), Err(Reason::TokenMissing));
        for bad in [&["abc"][..], &["Basic abc"], &["Bearer "], &["Bearer a", "Bearer a"]] {
            assert_eq!(read(bad), Err(Reason::TokenMalformed), "{bad:?}");
        }
    }

    #[test]
    fn without_keys_nothing_is_judged() {
        let verifier = Verifier::new(Arc::new(crate::SystemClock));
        assert_eq!(verifier.verify("a.b.c").map_err(|f| f.reason), Err(Reason::TrustUnavailable));
        assert_eq!(verifier.verify("abc").map_err(|f| f.reason), Err(Reason::TokenMalformed));
    }
}
