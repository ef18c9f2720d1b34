//! Public keys as JSON Web Keys (RFC 7517; RFC 7518 §6; RFC 8037 §2), read strictly: a key that is weak, private, symmetric or
//! for another use verifies nothing.

use std::sync::Arc;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType, Jwk,
    JwkSet, OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, RSAKeyParameters, RSAKeyType, ThumbprintHash,
};
use serde_json::{Map, Value};

use crate::algorithm::{Algorithm, header_segment};
use crate::{strict_json, weak};

/// Why a JWK is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not a JWK.
    #[error("the key is not a well-formed JSON Web Key")]
    Malformed,
    /// It carries a private member, or is symmetric.
    #[error("the key has private members")]
    Private,
    /// Of a type, for an algorithm or for a use other than verifying with an algorithm of ours.
    #[error("the key is not a signature key of an algorithm that is taken")]
    Unsupported,
    /// A modulus outside 2048 to 4096 bits or of a known weak form, an exponent other than 65537, a point off its curve or of
    /// small order.
    #[error("the key is weak")]
    Weak,
    /// The `kid` is not the key's thumbprint, or not a sound text.
    #[error("the key's id is not its thumbprint")]
    WrongId,
    /// A set has two keys of one `kid`, too many keys, or too many bytes.
    #[error("the key set is ambiguous or too large")]
    Ambiguous,
}

/// A key that verifies tokens, parsed once for each algorithm that it may be used with.
#[derive(Debug, Clone)]
pub struct PublicKey {
    kid: Option<String>,
    parsed: Vec<(Algorithm, Arc<ParsedPublicKey>)>,
    jwk: Jwk,
}

/// Equal keys verify the same under the same name.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.jwk == other.jwk
    }
}

/// Longest `kid`, in bytes.
pub(crate) const MAX_KID: usize = 256;
/// Keys in a set.
const MAX_KEYS: usize = 64;
/// Largest set, in bytes.
const MAX_SET_BYTES: usize = 64 * 1024;

impl PublicKey {
    /// Reads an instance's own key: one algorithm named in `alg`, `use` sig, `kid` its RFC 7638 thumbprint.
    ///
    /// # Errors
    /// [`InvalidKey`] says what is wrong.
    pub fn own(json: &str) -> Result<Self, InvalidKey> {
        let members = strict_json::object(json.as_bytes()).ok_or(InvalidKey::Malformed)?;
        let complete = members.contains_key("alg") && members.contains_key("use");
        let key = Self::read(&members)?;
        if !complete {
            return Err(InvalidKey::Unsupported);
        }
        if key.kid.as_deref() != Some(thumbprint(&key.jwk)?.as_str()) {
            return Err(InvalidKey::WrongId);
        }
        Ok(key)
    }

    /// Reads anybody's key. `kid`, `alg` and `use` may be absent; an RSA key without `alg` verifies RS256, RS384 and RS512.
    ///
    /// # Errors
    /// [`InvalidKey`] says what is wrong.
    pub fn foreign(json: &[u8]) -> Result<Self, InvalidKey> {
        Self::read(&strict_json::object(json).ok_or(InvalidKey::Malformed)?)
    }

    fn read(members: &Map<String, Value>) -> Result<Self, InvalidKey> {
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().any(|member| members.contains_key(member)) {
            return Err(InvalidKey::Private);
        }
        check_use(members)?;
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) if is_kid(kid) => Some(kid.clone()),
            Some(_) => return Err(InvalidKey::WrongId),
        };
        let (parameters, allowed, parse): (_, &[Algorithm], Parse) = match text(members, "kty")? {
            "RSA" => rsa(members)?,
            "EC" => p256(members)?,
            "OKP" => ed25519(members)?,
            _ => return Err(InvalidKey::Unsupported),
        };
        let named = match members.get("alg") {
            None => None,
            Some(alg) => Some(alg.as_str().and_then(Algorithm::from_name).ok_or(InvalidKey::Unsupported)?),
        };
        if named.is_some_and(|named| !allowed.contains(&named)) {
            return Err(InvalidKey::Unsupported);
        }
        let algorithms = named.map_or_else(|| allowed.to_vec(), |named| vec![named]);
        let parsed = algorithms.into_iter().map(|algorithm| Ok((algorithm, Arc::new(parse(algorithm)?))));
        let common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: named.map(Algorithm::in_jwk),
            key_id: kid.clone(),
            ..CommonParameters::default()
        };
        Ok(Self { kid, parsed: parsed.collect::<Result<_, InvalidKey>>()?, jwk: Jwk { common, algorithm: parameters } })
    }

    /// The key's id; empty when it has none.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.kid.as_deref().unwrap_or_default()
    }

    /// The first of the algorithms that it verifies; an instance's own key has this one only.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.parsed.first().map_or(Algorithm::Rs256, |(algorithm, _)| *algorithm)
    }

    /// The first segment of every token that this key signs, when it is an instance's own.
    #[must_use]
    pub fn header(&self) -> String {
        header_segment(self.algorithm(), self.kid())
    }

    /// The key as JWK JSON text.
    #[must_use]
    pub fn jwk_json(&self) -> String {
        serde_json::to_string(&self.jwk).unwrap_or_default()
    }

    /// Whether it may be used with this algorithm.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm) -> bool {
        self.parsed.iter().any(|(known, _)| *known == algorithm)
    }

    /// Whether the signature is this key's over these bytes. Encodings are those of JWS (RFC 7518 §3.3, §3.4; RFC 8037 §3.1).
    #[must_use]
    pub fn has_signed(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let parsed = self.parsed.iter().find(|(known, _)| *known == algorithm);
        parsed.is_some_and(|(_, key)| key.verify_sig(signed, signature).is_ok())
    }
}

type Parse = Box<dyn Fn(Algorithm) -> Result<ParsedPublicKey, InvalidKey>>;
type Read = (AlgorithmParameters, &'static [Algorithm], Parse);

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, InvalidKey> {
    members.get(name).and_then(Value::as_str).ok_or(InvalidKey::Malformed)
}

fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, InvalidKey> {
    URL_SAFE_NO_PAD.decode(text(members, name)?).map_err(|_| InvalidKey::Malformed)
}

pub(crate) fn is_kid(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= MAX_KID && !crate::has_control(kid)
}

/// A key for another use verifies nothing (RFC 7517 §4.2, §4.3).
fn check_use(members: &Map<String, Value>) -> Result<(), InvalidKey> {
    if members.get("use").is_some_and(|usage| usage != "sig") {
        return Err(InvalidKey::Unsupported);
    }
    let Some(operations) = members.get("key_ops") else { return Ok(()) };
    let operations = operations.as_array().ok_or(InvalidKey::Malformed)?;
    if operations.iter().any(|operation| operation == "verify") { Ok(()) } else { Err(InvalidKey::Unsupported) }
}

fn rsa(members: &Map<String, Value>) -> Result<Read, InvalidKey> {
    let (n, e) = (bytes(members, "n")?, bytes(members, "e")?);
    if e != [1, 0, 1] || weak::modulus(&n) {
        return Err(InvalidKey::Weak);
    }
    let parameters =
        RSAKeyParameters { key_type: RSAKeyType::RSA, n: URL_SAFE_NO_PAD.encode(&n), e: URL_SAFE_NO_PAD.encode(&e) };
    let parse = move |algorithm: Algorithm| {
        PublicKeyComponents { n: &n, e: &e }
            .to_parsed_public_key(rsa_parameters(algorithm))
            .map_err(|_| InvalidKey::Malformed)
    };
    Ok((AlgorithmParameters::RSA(parameters), &Algorithm::RSA, Box::new(parse)))
}

fn rsa_parameters(algorithm: Algorithm) -> &'static aws_lc_rs::signature::RsaParameters {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512};
    match algorithm {
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        _ => &RSA_PKCS1_2048_8192_SHA256,
    }
}

fn p256(members: &Map<String, Value>) -> Result<Read, InvalidKey> {
    if text(members, "crv")? != "P-256" {
        return Err(InvalidKey::Unsupported);
    }
    let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
    // RFC 7518 §6.2.1.2: the full size of a coordinate.
    if x.len() != 32 || y.len() != 32 {
        return Err(InvalidKey::Malformed);
    }
    let parameters = EllipticCurveKeyParameters {
        key_type: EllipticCurveKeyType::EC,
        curve: EllipticCurve::P256,
        x: URL_SAFE_NO_PAD.encode(&x),
        y: URL_SAFE_NO_PAD.encode(&y),
    };
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let parse = move |algorithm: Algorithm| {
        // Whether the point is on the curve is checked here.
        ParsedPublicKey::new(algorithm.verification(), &point).map_err(|_| InvalidKey::Weak)
    };
    Ok((AlgorithmParameters::EllipticCurve(parameters), &[Algorithm::Es256], Box::new(parse)))
}

fn ed25519(members: &Map<String, Value>) -> Result<Read, InvalidKey> {
    if text(members, "crv")? != "Ed25519" {
        return Err(InvalidKey::Unsupported);
    }
    let x = bytes(members, "x")?;
    let point: [u8; 32] = x.as_slice().try_into().map_err(|_| InvalidKey::Malformed)?;
    if weak::edwards_point(&point) {
        return Err(InvalidKey::Weak);
    }
    let parameters = OctetKeyPairParameters {
        key_type: OctetKeyPairType::OctetKeyPair,
        curve: EllipticCurve::Ed25519,
        x: URL_SAFE_NO_PAD.encode(point),
    };
    let parse =
        move |algorithm: Algorithm| ParsedPublicKey::new(algorithm.verification(), point).map_err(|_| InvalidKey::Weak);
    Ok((AlgorithmParameters::OctetKeyPair(parameters), &[Algorithm::EdDsa], Box::new(parse)))
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

/// Reads anybody's key set. Keys of a type or for a use that is not ours are passed over (RFC 7517 §5); a private or symmetric
/// key, a weak one, or two of one `kid` make the whole set untrustworthy.
///
/// # Errors
/// [`InvalidKey`]; [`InvalidKey::Unsupported`] when no key is left.
pub fn read_jwks(json: &[u8]) -> Result<Vec<PublicKey>, InvalidKey> {
    if json.len() > MAX_SET_BYTES {
        return Err(InvalidKey::Ambiguous);
    }
    let set = strict_json::object(json).ok_or(InvalidKey::Malformed)?;
    let members = set.get("keys").and_then(Value::as_array).ok_or(InvalidKey::Malformed)?;
    let mut keys: Vec<PublicKey> = Vec::new();
    for member in members {
        match PublicKey::read(member.as_object().ok_or(InvalidKey::Malformed)?) {
            Ok(key) => keys.push(key),
            Err(InvalidKey::Unsupported) => {}
            Err(error) => return Err(error),
        }
    }
    let doubled = keys.iter().enumerate().any(|(at, key)| keys[..at].iter().any(|other| other.kid == key.kid));
    if doubled || keys.len() > MAX_KEYS {
        return Err(InvalidKey::Ambiguous);
    }
    if keys.is_empty() { Err(InvalidKey::Unsupported) } else { Ok(keys) }
}
