//! The signing keys: made or imported once, sealed in the store, parsed once in memory.
//!
//! `rsa` makes and checks keys; aws-lc-rs signs with them. The private half leaves this module only as a [`Signer`].

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, Jwk, KeyAlgorithm, PublicKeyUse, RSAKeyParameters, RSAKeyType,
};
use postern_token::{InvalidKey, PublicKey};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{RsaPrivateKey, RsaPublicKey};
use tokio::sync::Semaphore;

use crate::seal::{SealError, Sealer};
use crate::store::{KeyRecord, Store, StoreError};

/// Bits of a new key.
const KEY_BITS: usize = 2048;

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sealing or opening failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key is not one that may sign.
    #[error("the signing key cannot be used: {0}")]
    Unfit(String),
    /// Signing failed.
    #[error("signing failed")]
    Sign,
}

impl From<InvalidKey> for KeyError {
    fn from(error: InvalidKey) -> Self {
        Self::Unfit(error.to_string())
    }
}

/// Signs access tokens. An HSM or a KMS can stand behind it, so it is asynchronous.
#[async_trait]
pub trait Signer: Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// The RSASSA-PKCS1-v1_5 signature with SHA-256 (RFC 8017 §8.2) of these bytes.
    async fn sign(&self, bytes: Vec<u8>) -> Result<Vec<u8>, KeyError>;
}

/// A key in this process's memory.
pub struct LocalSigner {
    pair: Arc<RsaKeyPair>,
    public: PublicKey,
    /// Signing takes most of a millisecond of CPU: it runs beside the async workers, as many at once as there are cores.
    places: Semaphore,
}

impl LocalSigner {
    fn new(pkcs8: &[u8], public: PublicKey) -> Result<Self, KeyError> {
        let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|error| KeyError::Unfit(error.to_string()))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { pair: Arc::new(pair), public, places: Semaphore::new(cores) })
    }
}

#[async_trait]
impl Signer for LocalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, bytes: Vec<u8>) -> Result<Vec<u8>, KeyError> {
        let _place = self.places.acquire().await.map_err(|_| KeyError::Sign)?;
        let pair = self.pair.clone();
        let signing = tokio::task::spawn_blocking(move || {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &bytes, &mut signature)
                .map(|()| signature)
                .map_err(|_| KeyError::Sign)
        });
        signing.await.map_err(|_| KeyError::Sign)?
    }
}

/// The instance's keys: one that signs, and all that verify.
pub struct KeyRing {
    /// Signs.
    pub signer: Arc<dyn Signer>,
    /// Verify, the signing key's public half among them.
    pub public: Vec<PublicKey>,
}

impl KeyRing {
    /// Loads the keys. When there is none yet, imports one from a PKCS#8 PEM file or makes one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn load_or_create(store: &dyn Store, sealer: &Sealer, import: Option<&Path>) -> Result<Self, KeyError> {
        if !store.keys().await?.iter().any(|key| key.active) {
            let record = new_key(sealer, import).await?;
            match store.add_active_key(record).await {
                // Another replica was first; its key is the one.
                Ok(()) | Err(StoreError::Exists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let records = store.keys().await?;
        let public =
            records.iter().map(|record| PublicKey::from_jwk_json(&record.public_jwk)).collect::<Result<Vec<_>, _>>()?;
        let active = records.iter().find(|record| record.active).ok_or(StoreError::Missing)?;
        let sealed = active.sealed_private.as_deref().ok_or(SealError::DoesNotOpen)?;
        let pkcs8 = sealer.open(&record_name(&active.kid), sealed)?;
        let signer = LocalSigner::new(&pkcs8, PublicKey::from_jwk_json(&active.public_jwk)?)?;
        Ok(Self { signer: Arc::new(signer), public })
    }
}

fn record_name(kid: &str) -> String {
    format!("signing_keys/{kid}")
}

async fn new_key(sealer: &Sealer, import: Option<&Path>) -> Result<KeyRecord, KeyError> {
    let key = match import {
        Some(path) => {
            let pem = std::fs::read_to_string(path)
                .map_err(|error| KeyError::Unfit(format!("{}: {error}", path.display())))?;
            RsaPrivateKey::from_pkcs8_pem(&pem)
                .map_err(|error| KeyError::Unfit(format!("{}: {error}", path.display())))?
        }
        None => tokio::task::spawn_blocking(|| RsaPrivateKey::new(&mut rand_core::OsRng, KEY_BITS))
            .await
            .map_err(|_| KeyError::Sign)?
            .map_err(|error| KeyError::Unfit(error.to_string()))?,
    };
    key.validate().map_err(|error| KeyError::Unfit(error.to_string()))?;
    let public_jwk = jwk(&key.to_public_key())?;
    // Size and exponent are checked by the same code that verifiers run.
    let public = PublicKey::from_jwk_json(&public_jwk)?;
    let pkcs8 = key.to_pkcs8_der().map_err(|error| KeyError::Unfit(error.to_string()))?;
    let sealed = sealer.seal(&record_name(public.kid()), pkcs8.as_bytes())?;
    Ok(KeyRecord { kid: public.kid().to_owned(), public_jwk, sealed_private: Some(sealed), active: true })
}

/// The public half as JWK JSON (RFC 7517) whose `kid` is its thumbprint.
fn jwk(key: &RsaPublicKey) -> Result<String, KeyError> {
    let mut jwk = Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(KeyAlgorithm::RS256),
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::RSA(RSAKeyParameters {
            key_type: RSAKeyType::RSA,
            n: URL_SAFE_NO_PAD.encode(key.n().to_bytes_be()),
            e: URL_SAFE_NO_PAD.encode(key.e().to_bytes_be()),
        }),
    };
    jwk.common.key_id = Some(postern_token::thumbprint(&jwk)?);
    serde_json::to_string(&jwk).map_err(|error| KeyError::Unfit(error.to_string()))
}
