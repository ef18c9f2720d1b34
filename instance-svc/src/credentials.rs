//! Static credentials: made here, shown once, remembered as HMAC-SHA-256 (RFC 2104) under a pepper. They hold 256 random
//! bits, so a slow password hash would protect nothing and could be used to tire the instance out.

use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use postern_token::{CredentialKind, Secret};

use crate::seal::{self, SealError, Sealer};
use crate::store::{CredentialRecord, InstanceRecord, Kind, Millis, Purpose, Store};

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

    /// Makes a credential for a principal.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn issue(
        &self,
        (principal_id, kind): (&str, Kind),
        purpose: Purpose,
        label: &str,
        (created_at, expires_at): (Millis, Option<Millis>),
        networks: &[IpNet],
    ) -> Result<(CredentialRecord, Secret), SealError> {
        let kind = match kind {
            Kind::User => CredentialKind::Personal,
            Kind::Service => CredentialKind::Client,
            Kind::Gateway | Kind::Adapter => CredentialKind::Fleet,
        };
        let secret = Secret::from_random(kind, seal::random()?);
        let record = CredentialRecord {
            id: format!("crd_{}", uuid::Uuid::now_v7().simple()),
            principal_id: principal_id.to_owned(),
            purpose,
            label: label.to_owned(),
            mac: self.mac(&secret),
            created_at,
            expires_at,
            revoked_at: None,
            last_used_at: None,
            networks: networks.to_vec(),
        };
        Ok((record, secret))
    }
}

/// Looks a presented secret up: the live credential with its principal, if it may be used from this address.
///
/// # Errors
/// `None` inside for anything that is not a live credential, with no word on why.
pub async fn recognise(
    store: &dyn Store,
    credentials: &Credentials,
    presented: &str,
    address: Option<IpAddr>,
) -> Result<Option<crate::store::Found>, crate::store::StoreError> {
    let found = recognise_anywhere(store, credentials, presented).await?;
    Ok(found.filter(|found| found.may_be_used_from(address)))
}

/// As [`recognise`], wherever it is used from.
///
/// # Errors
/// As there.
pub async fn recognise_anywhere(
    store: &dyn Store,
    credentials: &Credentials,
    presented: &str,
) -> Result<Option<crate::store::Found>, crate::store::StoreError> {
    let Ok(secret) = Secret::parse(presented) else { return Ok(None) };
    let found = store.credential_by_mac(&credentials.mac(&secret)).await?;
    let now = store.now().await?;
    Ok(found.filter(|found| found.is_live(now)))
}
