//! Static credentials: made here, shown once, remembered as HMAC-SHA-256 (RFC 2104) under a pepper. They hold 256 random
//! bits, so a slow password hash would protect nothing and could be used to tire the instance out.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_token::{CredentialKind, Secret};

use crate::seal::{self, SealError, Sealer};
use crate::store::{Found, InstanceRecord, Kind, Store, StoreError};

/// Makes and recognises credentials.
#[derive(Clone)]
pub struct Credentials {
    pepper: hmac::Key,
}

const PEPPER_RECORD: &str = "instance/pepper";

/// A new instance record with a pepper of its own.
///
/// # Errors
/// [`SealError`].
pub fn new_instance(sealer: &Sealer) -> Result<InstanceRecord, SealError> {
    let pepper = zeroize::Zeroizing::new(seal::random::<32>()?);
    Ok(InstanceRecord {
        id: format!("ins_{}", uuid::Uuid::now_v7().simple()),
        sealed_pepper: sealer.seal(PEPPER_RECORD, pepper.as_slice())?,
    })
}

impl Credentials {
    /// Opens the instance's pepper.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn open(sealer: &Sealer, instance: &InstanceRecord) -> Result<Self, SealError> {
        let pepper = sealer.open(PEPPER_RECORD, &instance.sealed_pepper)?;
        Ok(Self { pepper: hmac::Key::new(hmac::HMAC_SHA256, &pepper) })
    }

    /// What the store knows a secret by.
    #[must_use]
    pub fn mac(&self, secret: &Secret) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.pepper, secret.expose().as_bytes()))
    }

    /// A new secret for a principal of this kind.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn secret(&self, kind: Kind) -> Result<Secret, SealError> {
        let kind = match kind {
            Kind::User => CredentialKind::Personal,
            Kind::Service => CredentialKind::Client,
            Kind::Gateway | Kind::ManagedGateway | Kind::Adapter | Kind::Instance => CredentialKind::Fleet,
        };
        Ok(Secret::from_random(kind, seal::random()?))
    }
}

/// Looks a presented secret up: the live credential with its principal, if that is what it is. From where it may be used is for
/// the caller to judge.
///
/// # Errors
/// [`StoreError`]. `None` for anything that is not a live credential, with no word on why.
pub async fn recognise(
    store: &dyn Store,
    credentials: &Credentials,
    presented: &str,
) -> Result<Option<Found>, StoreError> {
    let Ok(secret) = Secret::parse(presented) else { return Ok(None) };
    let found = store.credential_by_handle(&credentials.mac(&secret)).await?;
    let now = store.now().await?;
    Ok(found.filter(|found| found.is_live(now)))
}
