//! Federated issuers: OpenID providers and Kubernetes clusters whose tokens can prove who somebody is. They are records like
//! models; each replica keeps the keys of each supplied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use postern_egress::Egress;
use postern_proto::{Failure, Reason};
use postern_runtime::key_source::{KeyPlace, KeySource};
use postern_runtime::{Clock, Lifecycle};
use postern_token::PublicKey;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::{FederatedIssuerRecord, Store, Versions};

/// How long an issuer's keys serve when none can be had.
const KEY_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Issuers at most; each is a task and a connection.
const MOST_ISSUERS: usize = 64;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// Where its discovery document says.
    Discovery,
    /// At this URL.
    Url(String),
    /// Here, as a JSON Web Key Set.
    Here(String),
}

/// An issuer's settings, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerSpec {
    /// What must be among its tokens' `aud`.
    pub audience: String,
    /// Where its keys are.
    pub keys: Keys,
    /// Networks where they may be served.
    pub key_networks: Vec<IpNet>,
    /// The most that `exp - iat` may be, in seconds.
    pub max_lifetime: u64,
}

impl IssuerSpec {
    fn place(&self, issuer: &str) -> Result<KeyPlace, String> {
        match &self.keys {
            Keys::Discovery => KeyPlace::discovery(issuer),
            Keys::Url(url) => KeyPlace::url(url),
            Keys::Here(jwks) => KeyPlace::here(jwks),
        }
    }
}

/// An issuer with the keys that this replica has of it.
pub struct Known {
    /// Its settings.
    pub spec: IssuerSpec,
    source: KeySource,
    keys: ArcSwap<Vec<PublicKey>>,
}

impl Known {
    /// Its newest keys; none when they have not come yet, or are too old to go by.
    #[must_use]
    pub fn keys(&self) -> Arc<Vec<PublicKey>> {
        self.keys.load_full()
    }

    /// Asks for a fetch on account of a key that is not known; when to try again, or `None` when it is no use.
    #[must_use]
    pub fn ask_for(&self, kid: &str) -> Option<Duration> {
        self.source.ask_for(kid)
    }
}

/// An issuer whose keys are followed for as long as this is kept.
struct Followed {
    known: Arc<Known>,
    _until: DropGuard,
}

/// The federated issuers; its clones are one.
#[derive(Clone)]
pub struct Federation {
    store: Arc<dyn Store>,
    egress: Egress,
    clock: Arc<dyn Clock>,
    own_issuer: Arc<str>,
    followed: Arc<ArcSwap<BTreeMap<String, Arc<Followed>>>>,
}

impl Federation {
    /// The issuers in this store. `own_issuer`: the instance itself, which is none of them.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, egress: Egress, clock: Arc<dyn Clock>, own_issuer: &str) -> Self {
        Self { store, egress, clock, own_issuer: own_issuer.into(), followed: Arc::default() }
    }

    /// Follows the records and their keys until the process stops.
    pub fn follow(&self, mut versions: watch::Receiver<Versions>, lifecycle: &Lifecycle) {
        let (federation, inner, stopping) = (self.clone(), lifecycle.clone(), lifecycle.stopping().clone());
        lifecycle.spawn_vital("federation", async move {
            let follow = async {
                loop {
                    versions.mark_unchanged();
                    if let Err(failure) = federation.reload(&inner).await {
                        tracing::error!(detail = failure.detail, "the federated issuers cannot be read");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                    if versions.changed().await.is_err() {
                        return;
                    }
                }
            };
            stopping.run_until_cancelled(follow).await;
        });
    }

    async fn reload(&self, lifecycle: &Lifecycle) -> Result<(), Failure> {
        let before = self.followed.load_full();
        let mut after = BTreeMap::new();
        for (record, spec) in self.records().await? {
            match before.get(&record.issuer).filter(|followed| followed.known.spec == spec) {
                Some(unchanged) => drop(after.insert(record.issuer, unchanged.clone())),
                None => match self.begin(&record.issuer, spec, lifecycle) {
                    Ok(followed) => drop(after.insert(record.issuer, Arc::new(followed))),
                    Err(problem) => tracing::error!(issuer = record.issuer, problem, "an issuer cannot be followed"),
                },
            }
        }
        self.followed.store(Arc::new(after));
        Ok(())
    }

    fn begin(&self, issuer: &str, spec: IssuerSpec, lifecycle: &Lifecycle) -> Result<Followed, String> {
        let place = spec.place(issuer)?;
        let source = KeySource::new(issuer.to_owned(), place, &spec.key_networks, KEY_MAX_AGE, &self.egress);
        let until = CancellationToken::new();
        let known = Arc::new(Known { spec, source, keys: ArcSwap::default() });
        let (supplied, clock) = (known.clone(), self.clock.clone());
        let (removed, stopping) = (until.clone(), lifecycle.stopping().clone());
        lifecycle.spawn(async move {
            let put = |keys| supplied.keys.store(Arc::new(keys));
            let follow = supplied.source.follow(put, clock);
            stopping.run_until_cancelled(removed.run_until_cancelled(follow)).await;
        });
        Ok(Followed { known, _until: until.drop_guard() })
    }

    /// The issuer of this `iss`.
    #[must_use]
    pub fn known(&self, issuer: &str) -> Option<Arc<Known>> {
        self.followed.load().get(issuer).map(|followed| followed.known.clone())
    }

    async fn records(&self) -> Result<Vec<(FederatedIssuerRecord, IssuerSpec)>, Failure> {
        let read = |record: FederatedIssuerRecord| {
            let spec = serde_json::from_str(&record.spec).map_err(Failure::internal)?;
            Ok((record, spec))
        };
        self.store.federated_issuers().await?.into_iter().map(read).collect()
    }

    /// The issuers, with how many keys this replica has of each.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn list(&self) -> Result<Vec<(FederatedIssuerRecord, IssuerSpec, usize)>, Failure> {
        let keys = |issuer: &str| self.known(issuer).map_or(0, |known| known.keys().len());
        let records = self.records().await?.into_iter();
        Ok(records.map(|(record, spec)| (record.clone(), spec, keys(&record.issuer))).collect())
    }

    /// Adds an issuer.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn add(&self, issuer: String, spec: IssuerSpec) -> Result<FederatedIssuerRecord, Failure> {
        let is_a_url = issuer.starts_with("https://") || issuer.starts_with("http://");
        if !is_a_url || issuer.len() > 255 || !issuer.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::field("issuer.issuer", "must be a URL of at most 255 visible ASCII characters"));
        }
        if *issuer == *self.own_issuer {
            return Err(Failure::field("issuer.issuer", "is this instance itself"));
        }
        if spec.audience.is_empty() || spec.audience.len() > 255 || postern_token::has_control(&spec.audience) {
            return Err(Failure::field("issuer.audience", "must be 1 to 255 characters"));
        }
        spec.place(&issuer).map_err(|problem| Failure::field("issuer.keys", problem))?;
        if self.store.federated_issuers().await?.len() >= MOST_ISSUERS {
            return Err(Failure::field("issuer", format!("at most {MOST_ISSUERS} issuers")));
        }
        let text = serde_json::to_string(&spec).map_err(Failure::internal)?;
        let record = FederatedIssuerRecord { issuer, spec: text, created_at: self.store.now().await? };
        self.store.add_federated_issuer(record.clone()).await.map_err(|error| match error.into() {
            Failure { reason: Reason::AlreadyExists, .. } => {
                Failure::new(Reason::AlreadyExists, "there is a federated issuer of that `iss` already")
            }
            failure => failure,
        })?;
        Ok(record)
    }

    /// Removes an issuer.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn remove(&self, issuer: &str) -> Result<(), Failure> {
        self.store.remove_federated_issuer(issuer).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => {
                Failure::new(Reason::NotFound, "there is no federated issuer of that `iss`")
            }
            failure => failure,
        })
    }
}
