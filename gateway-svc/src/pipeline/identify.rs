//! Identify: the access token of a request, or one made of the credential that an ordinary API client holds.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::auth;
use postern_runtime::instance::{InstanceLink, Minted};
use postern_runtime::{Clock, Verifier};
use postern_token::{CredentialKind, Secret};
use tokio::sync::Semaphore;

use super::Caller;

/// What a door takes as a bearer.
#[derive(Clone, Copy)]
pub enum Bearer<'a> {
    /// Access tokens only.
    AccessToken,
    /// Credentials for inference too.
    Credential(&'a Credentials),
}

/// The request's access token.
pub(super) async fn token<'a>(caller: &Caller<'a>) -> Result<Cow<'a, str>, Failure> {
    let presented = auth::bearer(caller.headers)?;
    if !Secret::looks_like_one(presented) {
        return Ok(presented.into());
    }
    match caller.bearer {
        Bearer::AccessToken => Err(Failure::new(
            Reason::CredentialNotAccepted,
            "this door takes access tokens only; exchange the credential at the instance (`postern token`)",
        )),
        Bearer::Credential(credentials) => {
            Ok(credentials.token(presented, caller.address()?).await?.token.to_string().into())
        }
    }
}

/// Another token for the same caller, where the one that was refused had been made of a credential.
pub(super) async fn another_token(caller: &Caller<'_>, refused: &str) -> Result<Option<String>, Failure> {
    let presented = auth::bearer(caller.headers)?;
    match caller.bearer {
        Bearer::Credential(credentials) if Secret::looks_like_one(presented) => {
            let address = caller.address()?;
            credentials.forget(presented, address, refused).await;
            Ok(Some(credentials.token(presented, address).await?.token.to_string()))
        }
        _ => Ok(None),
    }
}

/// Credentials that were exchanged, and those that were refused.
const REMEMBERED: u64 = 10_000;
/// How long a refusal is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Exchanges at once; each costs the instance a signature.
const EXCHANGES: usize = 16;
/// How long a credential waits for its turn to be exchanged.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long an exchange takes at most, with all that it waits for: they share the gateway's own token.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(8);
/// A token with less life than this, in seconds, is exchanged anew.
const LEAST_LIFE: u64 = 10;

/// Exchanges static credentials at the instance and keeps the tokens until they end, under a keyed hash of the credential.
pub struct Credentials {
    link: InstanceLink,
    /// The gateway's token for the instance, with which it says where a caller is.
    own: tokio::sync::Mutex<Option<Minted>>,
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    key: hmac::Key,
    exchanged: moka::future::Cache<[u8; 32], Minted>,
    refused: moka::sync::Cache<[u8; 32], Failure>,
    places: Semaphore,
}

impl Credentials {
    /// Exchanges over this link. `key` makes the hashes of this process its own.
    #[must_use]
    pub fn new(link: InstanceLink, verifier: Verifier, clock: Arc<dyn Clock>, key: [u8; 32]) -> Self {
        Self {
            link,
            own: tokio::sync::Mutex::default(),
            verifier,
            clock,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            exchanged: moka::future::Cache::new(REMEMBERED),
            refused: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(REFUSED_FOR).build(),
            places: Semaphore::new(EXCHANGES),
        }
    }

    /// A credential may be good from one address and not from another.
    fn hash(&self, presented: &str, address: Option<IpAddr>) -> [u8; 32] {
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.key, format!("{address} {presented}").as_bytes()).as_ref());
        hash
    }

    /// Forgets this token of a credential, unless there is another by now.
    async fn forget(&self, presented: &str, address: Option<IpAddr>, token: &str) {
        let hash = self.hash(presented, address);
        if self.exchanged.get(&hash).await.is_some_and(|minted| &*minted.token == token) {
            self.exchanged.invalidate(&hash).await;
        }
    }

    /// A token for this credential: prefix and checksum come first, then what is remembered, then one exchange however many
    /// ask at once.
    async fn token(&self, presented: &str, address: Option<IpAddr>) -> Result<Minted, Failure> {
        let invalid = || Failure::new(Reason::CredentialInvalid, "the credential is unknown, revoked or ended");
        let secret = Secret::parse(presented).map_err(|_| invalid())?;
        if secret.kind() == CredentialKind::Fleet {
            return Err(invalid());
        }
        let hash = self.hash(presented, address);
        if let Some(refusal) = self.refused.get(&hash) {
            return Err(refusal);
        }
        if self.exchanged.get(&hash).await.is_some_and(|minted| minted.expires <= self.clock.now() + LEAST_LIFE) {
            self.exchanged.invalidate(&hash).await;
        }
        let exchanged = self.exchanged.try_get_with(hash, self.exchange(presented, address)).await;
        exchanged.map_err(|failure| {
            if matches!(failure.reason, Reason::CredentialInvalid | Reason::AudienceDenied | Reason::ScopeDenied) {
                self.refused.insert(hash, (*failure).clone());
            }
            (*failure).clone()
        })
    }

    async fn exchange(&self, presented: &str, address: Option<IpAddr>) -> Result<Minted, Failure> {
        let audience = self.verifier.audience().ok_or_else(|| {
            Failure::new(Reason::TrustUnavailable, "the instance's keys have not arrived yet; try again")
        })?;
        let _place = match tokio::time::timeout(LONGEST_WAIT, self.places.acquire()).await {
            Ok(place) => place.map_err(Failure::internal)?,
            Err(_) => {
                let message = "the instance is busy with other credentials; try again";
                return Err(Failure::new(Reason::InstanceUnavailable, message).with_retry_after(LONGEST_WAIT));
            }
        };
        let exchange = tokio::time::timeout(LONGEST_EXCHANGE, self.exchange_at(presented, &audience, address));
        exchange.await.map_err(|_| Failure::new(Reason::InstanceUnavailable, "the instance did not answer in time"))?
    }

    async fn exchange_at(&self, presented: &str, audience: &str, address: Option<IpAddr>) -> Result<Minted, Failure> {
        let scopes = Feature::ALL.map(Feature::scope);
        let Some(address) = address else { return self.link.exchange(presented, audience, &scopes).await };
        let own = self.own_token(None).await?;
        let answer = self.link.exchange_for(presented, audience, &scopes, (own.clone(), address)).await;
        match answer {
            // Not the credential is refused but the gateway's own token: its key or itself was revoked.
            Err(failure) if matches!(failure.reason, Reason::KeyUnknown | Reason::TokenRevoked) => {
                let own = self.own_token(Some(&own)).await?;
                self.link.exchange_for(presented, audience, &scopes, (own, address)).await
            }
            answer => answer,
        }
    }

    /// The gateway's own token, another than the one that was refused.
    async fn own_token(&self, refused: Option<&Arc<str>>) -> Result<Arc<str>, Failure> {
        let mut own = self.own.lock().await;
        let good = own.take().filter(|own| {
            own.expires > self.clock.now() + LEAST_LIFE && refused.is_none_or(|refused| *refused != own.token)
        });
        let good = match good {
            Some(good) => good,
            None => self.link.own_token().await?,
        };
        Ok(own.insert(good).token.clone())
    }
}
