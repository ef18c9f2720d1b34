//! Public keys as JSON Web Keys (RFC 7517, RFC 7518 §6.3).

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash};

use crate::header::{Algorithm, header_segment};
use crate::strict_json;

/// Why a JWK is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not a JWK.
    #[error("the key is not a well-formed JSON Web Key")]
    Malformed,
    /// It carries a private member.
    #[error("the key has private members")]
    Private,
    /// Not an RSA signature key with `alg` RS256 and `use` sig.
    #[error("the key is not an RS256 signature key")]
    Unsupported,
    /// Modulus outside 2048 to 4096 bits, or an exponent other than 65537.
    #[error("the key's size or exponent is not accepted")]
    Weak,
    /// The `kid` is not the key's thumbprint.
    #[error("the key's id is not its thumbprint")]
    WrongId,
}

/// A key that verifies tokens, parsed once.
#[derive(Debug, Clone)]
pub struct PublicKey {
    pub(crate) kid: String,
    pub(crate) header: String,
    pub(crate) key: std::sync::Arc<ParsedPublicKey>,
    jwk: Jwk,
}

impl PublicKey {
    /// Reads and checks a JWK: RS256, 2048 to 4096 bits, exponent 65537, `kid` its RFC 7638 thumbprint, nothing private.
    ///
    /// # Errors
    /// [`InvalidKey`] says what is wrong.
    pub fn from_jwk_json(json: &str) -> Result<Self, InvalidKey> {
        let members = strict_json::object(json.as_bytes()).ok_or(InvalidKey::Malformed)?;
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().any(|member| members.contains_key(member)) {
            return Err(InvalidKey::Private);
        }
        let jwk: Jwk = strict_json::typed(members).ok_or(InvalidKey::Malformed)?;
        Self::from_jwk(jwk)
    }

    fn from_jwk(jwk: Jwk) -> Result<Self, InvalidKey> {
        let AlgorithmParameters::RSA(parameters) = &jwk.algorithm else {
            return Err(InvalidKey::Unsupported);
        };
        let common = &jwk.common;
        if common.key_algorithm != Some(KeyAlgorithm::RS256) || common.public_key_use != Some(PublicKeyUse::Signature) {
            return Err(InvalidKey::Unsupported);
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidKey::Malformed);
        let (n, e) = (decode(&parameters.n)?, decode(&parameters.e)?);
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(2048..=4096).contains(&bits) || n.first() == Some(&0) || e != [1, 0, 1] {
            return Err(InvalidKey::Weak);
        }
        let kid = thumbprint(&jwk)?;
        if common.key_id.as_deref() != Some(kid.as_str()) {
            return Err(InvalidKey::WrongId);
        }
        let key = PublicKeyComponents { n, e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| InvalidKey::Malformed)?;
        Ok(Self { header: header_segment(Algorithm::Rs256, &kid), kid, key: std::sync::Arc::new(key), jwk })
    }

    /// The key's id: its RFC 7638 SHA-256 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The first segment of every token that this key signs.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// The key as JWK JSON text.
    #[must_use]
    pub fn jwk_json(&self) -> String {
        serde_json::to_string(&self.jwk).unwrap_or_default()
    }
}

/// The RFC 7638 SHA-256 thumbprint of a key, base64url.
///
/// # Errors
/// [`InvalidKey::Unsupported`] for key types that have none.
pub fn thumbprint(jwk: &Jwk) -> Result<String, InvalidKey> {
    jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| InvalidKey::Unsupported)
}

/// A JSON Web Key Set (RFC 7517 §5) of these keys, as JSON text.
#[must_use]
pub fn jwks_json<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> String {
    let keys = keys.into_iter().map(|key| key.jwk.clone()).collect();
    serde_json::to_string(&JwkSet { keys }).unwrap_or_default()
}
