//! The token's header. All our own tokens of one key carry the same header, byte for byte, so the verifier compares bytes
//! and never reads a header on its fast path.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::claims::TokenError;
use crate::strict_json;

/// How a key signs (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// The `alg` value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
        }
    }
}

/// The first segment of every token that this key signs: `{"alg","kid","typ":"at+jwt"}` (RFC 9068 §2.1), base64url.
#[must_use]
pub fn header_segment(algorithm: Algorithm, kid: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{}","kid":"{kid}","typ":"at+jwt"}}"#, algorithm.name()))
}

/// Longest header worth reading, in base64url characters.
const MAX_HEADER: usize = 1024;

/// Says why a header that is none of the known ones is refused. It never ends in acceptance: whatever a header claims, a
/// token under an unknown header is not ours.
pub(crate) fn refusal(segment: &str, known: impl Fn(&str) -> bool) -> TokenError {
    if segment.len() > MAX_HEADER {
        return TokenError::Malformed;
    }
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(segment) else {
        return TokenError::Malformed;
    };
    let Some(header) = strict_json::object(&bytes) else {
        return TokenError::Malformed;
    };
    let text = |member: &str| header.get(member).and_then(|value| value.as_str());
    if header.keys().any(|member| !matches!(member.as_str(), "alg" | "kid" | "typ")) {
        return TokenError::HeaderUnsupported;
    }
    if text("typ") != Some("at+jwt") {
        return TokenError::TypeWrong;
    }
    match text("kid") {
        None => TokenError::KeyUnknown,
        Some(kid) if !known(kid) => TokenError::KeyUnknown,
        Some(_) if text("alg") != Some(Algorithm::Rs256.name()) => TokenError::AlgorithmWrong,
        // The right members in another order or spacing: nobody who signs with our keys writes them so.
        Some(_) => TokenError::HeaderUnsupported,
    }
}
