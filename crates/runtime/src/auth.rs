//! The bearer token of a request, and what a refused one is called.

use http::HeaderMap;
use postern_proto::{Failure, Reason};
use postern_token::TokenError;

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
        TokenError::Revoked => Reason::TokenRevoked,
    };
    Failure::new(reason, error.to_string())
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
}
