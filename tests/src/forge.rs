//! The instance's own signing key in the hands of a test, to mint tokens that the instance would not.

use std::path::PathBuf;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use postern_token::{Algorithm, header_segment, thumbprint};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A signing key.
pub struct Forge {
    pair: RsaKeyPair,
    kid: String,
    pem: PathBuf,
    _dir: TempDir,
}

/// One key for all stacks of a test process: making one takes most of a second.
static INSTANCE_KEY: LazyLock<Forge> = LazyLock::new(Forge::new);
/// A key that no instance knows.
static STRANGER: LazyLock<Forge> = LazyLock::new(Forge::new);
/// Another such key.
static OTHER: LazyLock<Forge> = LazyLock::new(Forge::new);

impl Forge {
    fn new() -> Self {
        let key = RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pem = dir.path().join("signing-key.pem");
        std::fs::write(&pem, key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()).unwrap();
        let pair = RsaKeyPair::from_pkcs8(key.to_pkcs8_der().unwrap().as_bytes()).unwrap();
        let n = B64.encode(pair.public_key().modulus().big_endian_without_leading_zero());
        let jwk = json!({ "kty": "RSA", "n": n, "e": "AQAB" });
        let kid = thumbprint(&serde_json::from_value(jwk).unwrap()).unwrap();
        Self { pair, kid, pem, _dir: dir }
    }

    /// The key that every stack's instance signs with.
    #[must_use]
    pub fn instance() -> &'static Self {
        &INSTANCE_KEY
    }

    /// A key that no instance knows.
    #[must_use]
    pub fn stranger() -> &'static Self {
        &STRANGER
    }

    /// The key's id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as a JWK.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let n = B64.encode(self.pair.public_key().modulus().big_endian_without_leading_zero());
        json!({ "kty": "RSA", "kid": self.kid, "n": n, "e": "AQAB", "use": "sig", "alg": "RS256" })
    }

    /// The key as a PKCS#8 PEM file.
    #[must_use]
    pub fn pem(&self) -> PathBuf {
        self.pem.clone()
    }

    /// Signs claims under this key's own header.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_under(&header_segment(Algorithm::Rs256, &self.kid), claims)
    }

    /// Signs claims under any header segment.
    ///
    /// # Panics
    /// When signing fails.
    #[must_use]
    pub fn sign_under(&self, header: &str, claims: &Value) -> String {
        let signed = format!("{header}.{}", B64.encode(claims.to_string()));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", B64.encode(signature))
    }

    /// The header segment of this key's tokens.
    #[must_use]
    pub fn header(&self) -> String {
        header_segment(Algorithm::Rs256, &self.kid)
    }

    /// Another key that no instance knows.
    #[must_use]
    pub fn other() -> &'static Self {
        &OTHER
    }

    /// The header of a token, unverified.
    ///
    /// # Panics
    /// When the text is no token.
    #[must_use]
    pub fn header_of(token: &str) -> Value {
        serde_json::from_slice(&B64.decode(token.split('.').next().unwrap()).unwrap()).unwrap()
    }

    /// The claims of a token, unverified.
    ///
    /// # Panics
    /// When the text is no token.
    #[must_use]
    pub fn claims(token: &str) -> Value {
        serde_json::from_slice(&B64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    }
}
