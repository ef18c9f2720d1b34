//! Making, importing and using signing keys. `rsa` makes and checks RSA keys; aws-lc-rs signs. The private half leaves this
//! module only sealed, or as a [`Signer`].

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType, Jwk,
    OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, RSAKeyParameters, RSAKeyType,
};
use postern_token::{Algorithm, InvalidKey, PublicKey};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, SecretDocument};
use rsa::traits::PublicKeyParts as _;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::seal::{SealError, Sealer};
use crate::store::{KeyRecord, NewKey, StoreError};

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

    /// The signature of these bytes by the key's algorithm, in the encoding of JWS (RFC 7518 §3).
    async fn sign(&self, bytes: Vec<u8>) -> Result<Vec<u8>, KeyError>;
}

/// A key pair, parsed once.
enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    fn read(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let rsa =
            |encoding: &'static dyn RsaEncoding| RsaKeyPair::from_pkcs8(pkcs8).map(|pair| Self::Rsa(pair, encoding));
        match algorithm {
            Algorithm::Rs256 => rsa(&RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&RSA_PKCS1_SHA512),
            Algorithm::Es256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map(Self::P256),
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::Ed25519),
        }
        .map_err(|error| KeyError::Unfit(format!("not a private key for {}: {error}", algorithm.name())))
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, bytes, &mut signature).map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
            Self::P256(pair) => Ok(pair.sign(&random, bytes).map_err(|_| KeyError::Sign)?.as_ref().to_vec()),
            Self::Ed25519(pair) => Ok(pair.sign(bytes).as_ref().to_vec()),
        }
    }

    fn public(&self) -> AlgorithmParameters {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(pair, _) => {
                let public = pair.public_key();
                AlgorithmParameters::RSA(RSAKeyParameters {
                    key_type: RSAKeyType::RSA,
                    n: text(public.modulus().big_endian_without_leading_zero()),
                    e: text(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::P256(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
                    key_type: EllipticCurveKeyType::EC,
                    curve: EllipticCurve::P256,
                    x: text(point.get(1..33).unwrap_or_default()),
                    y: text(point.get(33..).unwrap_or_default()),
                })
            }
            Self::Ed25519(pair) => AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                key_type: OctetKeyPairType::OctetKeyPair,
                curve: EllipticCurve::Ed25519,
                x: text(pair.public_key().as_ref()),
            }),
        }
    }
}

/// A key in this process's memory. Signing takes a good part of a millisecond of CPU: it is done beside the async workers, by a thread
/// for each core, which takes one job after the other while there are any.
pub struct LocalSigner {
    public: PublicKey,
    jobs: mpsc::Sender<Job>,
}

/// What to sign, and where the signature goes.
struct Job(Vec<u8>, oneshot::Sender<Result<Vec<u8>, KeyError>>);

/// Jobs that wait at once; whoever has more waits to hand it in.
const WAITING_JOBS: usize = 64;

/// Signs until nobody can ask any more.
fn work(pair: &Pair, jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job(bytes, signed)) = job else { return };
        // Who has gone away does not need it any more.
        if !signed.is_closed() {
            let _ = signed.send(pair.sign(&bytes));
        }
    }
}

impl LocalSigner {
    /// Opens the private half of a stored key.
    ///
    /// # Errors
    /// [`KeyError`]; [`SealError::DoesNotOpen`] also for a key whose private half is gone.
    pub fn open(sealer: &Sealer, record: &KeyRecord) -> Result<Self, KeyError> {
        let public = PublicKey::own(&record.public_jwk)?;
        let sealed = record.sealed_private.as_deref().ok_or(SealError::DoesNotOpen)?;
        let pkcs8 = sealer.open(&record_name(&record.kid), sealed)?;
        let pair = Pair::read(public.algorithm(), &pkcs8)?;
        let (jobs, waiting) = mpsc::channel(WAITING_JOBS);
        let (pair, waiting) = (Arc::new(pair), Arc::new(Mutex::new(waiting)));
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (pair, waiting) = (pair.clone(), waiting.clone());
            let thread = std::thread::Builder::new().name("signer".to_owned());
            thread.spawn(move || work(&pair, &waiting)).map_err(|_| KeyError::Sign)?;
        }
        Ok(Self { public, jobs })
    }
}

#[async_trait]
impl Signer for LocalSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, bytes: Vec<u8>) -> Result<Vec<u8>, KeyError> {
        let (signed, signature) = oneshot::channel();
        self.jobs.send(Job(bytes, signed)).await.map_err(|_| KeyError::Sign)?;
        signature.await.map_err(|_| KeyError::Sign)?
    }
}

/// What new keys are.
#[derive(Debug, Clone, Copy)]
pub struct KeyKind {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Bits of an RSA modulus.
    pub rsa_bits: usize,
}

impl KeyKind {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn make(self, sealer: &Sealer) -> Result<NewKey, KeyError> {
        let made = tokio::task::spawn_blocking(move || self.pkcs8());
        self.sealed(sealer, &made.await.map_err(|_| KeyError::Sign)??)
    }

    /// Reads a key from a PKCS#8 PEM file.
    ///
    /// # Errors
    /// [`KeyError::Unfit`] for a file that is none, or a key of another algorithm.
    pub fn import(self, sealer: &Sealer, path: &Path) -> Result<NewKey, KeyError> {
        let unfit = |error: &dyn std::fmt::Display| KeyError::Unfit(format!("{}: {error}", path.display()));
        let pem = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unfit(&error))?);
        let (_, document) = SecretDocument::from_pem(&pem).map_err(|error| unfit(&error))?;
        if matches!(self.algorithm, Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512) {
            let key = RsaPrivateKey::from_pkcs8_der(document.as_bytes()).map_err(|error| unfit(&error))?;
            key.validate().map_err(|error| unfit(&error))?;
            if key.n().bits() < 2048 {
                return Err(unfit(&"an RSA key has at least 2048 bits"));
            }
        }
        self.sealed(sealer, document.as_bytes())
    }

    fn pkcs8(self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let unfit = |error: &dyn std::fmt::Display| KeyError::Unfit(error.to_string());
        let bytes = match self.algorithm {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => {
                let key = RsaPrivateKey::new(&mut rand_core::OsRng, self.rsa_bits).map_err(|error| unfit(&error))?;
                key.to_pkcs8_der().map_err(|error| unfit(&error))?.as_bytes().to_vec()
            }
            Algorithm::Es256 => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
                made.map_err(|error| unfit(&error))?.as_ref().to_vec()
            }
            Algorithm::EdDsa => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                made.map_err(|error| unfit(&error))?.as_ref().to_vec()
            }
        };
        Ok(Zeroizing::new(bytes))
    }

    fn sealed(self, sealer: &Sealer, pkcs8: &[u8]) -> Result<NewKey, KeyError> {
        let mut jwk = Jwk {
            common: CommonParameters {
                public_key_use: Some(PublicKeyUse::Signature),
                key_algorithm: Some(self.algorithm.in_jwk()),
                ..CommonParameters::default()
            },
            algorithm: Pair::read(self.algorithm, pkcs8)?.public(),
        };
        jwk.common.key_id = Some(postern_token::thumbprint(&jwk)?);
        let public_jwk = serde_json::to_string(&jwk).map_err(|error| KeyError::Unfit(error.to_string()))?;
        // Size, exponent and form are checked by the same code that verifiers run.
        let kid = PublicKey::own(&public_jwk)?.kid().to_owned();
        let sealed_private = sealer.seal(&record_name(&kid), pkcs8)?;
        Ok(NewKey { kid, public_jwk, sealed_private })
    }
}

fn record_name(kid: &str) -> String {
    format!("signing_keys/{kid}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KeyState;

    #[tokio::test]
    async fn a_key_of_each_algorithm_signs_what_its_public_half_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::from_file(&dir.path().join("kek"), true).unwrap();
        for algorithm in Algorithm::ALL {
            let key = KeyKind { algorithm, rsa_bits: 2048 }.make(&sealer).await.unwrap();
            let mut record = KeyRecord {
                kid: key.kid,
                public_jwk: key.public_jwk,
                sealed_private: Some(key.sealed_private),
                state: KeyState::Active,
                published_at: 0,
                published_sequence: 0,
                activated_at: None,
                retired_at: None,
                remove_at: None,
            };
            let signer = LocalSigner::open(&sealer, &record).unwrap();
            let signature = signer.sign(b"bytes".to_vec()).await.unwrap();
            assert!(signer.public_key().has_signed(algorithm, b"bytes", &signature), "{algorithm:?}");
            assert!(!signer.public_key().has_signed(algorithm, b"other", &signature), "{algorithm:?}");
            record.sealed_private = None;
            assert!(LocalSigner::open(&sealer, &record).is_err(), "a destroyed key does not sign");
        }
    }

    #[test]
    fn only_sound_keys_of_the_right_kind_are_imported() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::from_file(&dir.path().join("kek"), true).unwrap();
        let path = dir.path().join("key.pem");
        let kind = |algorithm| KeyKind { algorithm, rsa_bits: 2048 };
        let write = |bits| {
            let key = RsaPrivateKey::new(&mut rand_core::OsRng, bits).unwrap();
            std::fs::write(&path, key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap().as_bytes()).unwrap();
        };
        write(1024);
        assert!(kind(Algorithm::Rs256).import(&sealer, &path).is_err(), "too small");
        write(2048);
        assert!(kind(Algorithm::Rs256).import(&sealer, &path).is_ok());
        assert!(kind(Algorithm::Es256).import(&sealer, &path).is_err(), "another algorithm");
        std::fs::write(&path, "no key").unwrap();
        assert!(kind(Algorithm::Rs256).import(&sealer, &path).is_err());
    }
}
