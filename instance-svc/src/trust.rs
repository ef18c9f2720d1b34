//! The trust state in this replica's memory: keys, revocations and the last changes, following the database.
//!
//! Whoever changed it, this replica or another, the change is taken from the database in the order of its sequence numbers;
//! then it signs, verifies and is told to subscribers. A gap means a new snapshot.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_proto::{Failure, Reason};
use postern_runtime::verifier::TrustChange;
use postern_runtime::{Lifecycle, Verifier};
use postern_token::{IssuerProfile, PublicKey, Revocation, jwks_json};
use tokio::sync::watch;

use crate::keys::{KeyError, LocalSigner, Signer};
use crate::seal::Sealer;
use crate::store::{KeyState, Store, StoreError, TrustEvent, Versions};

/// Changes that subscribers can be told one by one; who is further behind takes a snapshot.
const KEPT_CHANGES: usize = 4096;

/// Until the database is asked again, where it failed.
const RETRY: Duration = Duration::from_millis(200);
/// How long a new subscriber waits for this replica to catch up with the database.
const CATCHING_UP: Duration = Duration::from_secs(5);

/// The state at one sequence number.
#[derive(Debug, Clone, Default)]
pub struct TrustSnapshot {
    /// The number.
    pub sequence: u64,
    /// All keys that verify, oldest first.
    pub keys: Vec<PublicKey>,
    /// All revocations.
    pub revocations: Vec<Revocation>,
}

/// A change as subscribers are told; `None` for one that is no verifier's business.
pub type Told = Option<TrustChange>;

struct State {
    snapshot: TrustSnapshot,
    changes: VecDeque<(u64, Told)>,
}

/// The trust state.
pub struct Trust {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    state: RwLock<State>,
    signer: ArcSwap<LocalSigner>,
    verifier: Verifier,
    profile: IssuerProfile,
    sequence: watch::Sender<u64>,
}

impl Trust {
    /// Reads the state. There must be an active key.
    ///
    /// # Errors
    /// [`KeyError`] when the store cannot be read or the active key does not open.
    pub async fn load(
        store: Arc<dyn Store>,
        sealer: Arc<Sealer>,
        profile: IssuerProfile,
        verifier: Verifier,
    ) -> Result<Arc<Self>, KeyError> {
        let (state, signer) = read(&*store, &sealer).await?;
        let trust = Self {
            store,
            sealer,
            signer: ArcSwap::from_pointee(signer),
            sequence: watch::channel(state.snapshot.sequence).0,
            state: RwLock::new(state),
            verifier,
            profile,
        };
        trust.verify_by_snapshot();
        Ok(Arc::new(trust))
    }

    /// Follows the database until the process stops.
    pub fn follow(self: &Arc<Self>, mut versions: watch::Receiver<Versions>, lifecycle: &Lifecycle) {
        let (trust, stopping) = (self.clone(), lifecycle.stopping().clone());
        lifecycle.spawn_vital("trust", async move {
            let following = async {
                let mut failing = false;
                loop {
                    // Again until it has succeeded: a change that is not taken in would stay unknown until the next one.
                    while versions.borrow_and_update().trust > trust.sequence() {
                        match trust.catch_up().await {
                            Ok(()) => failing = false,
                            Err(error) => {
                                if !std::mem::replace(&mut failing, true) {
                                    tracing::error!(error = %error, "the trust state cannot be read; trying again");
                                }
                                tokio::time::sleep(RETRY).await;
                            }
                        }
                    }
                    if versions.changed().await.is_err() {
                        return;
                    }
                }
            };
            stopping.run_until_cancelled(following).await;
        });
    }

    /// Takes in what has changed since.
    ///
    /// # Errors
    /// As [`Trust::load`].
    pub async fn catch_up(&self) -> Result<(), KeyError> {
        match self.store.trust_events(self.sequence()).await {
            Ok(events) => {
                for (sequence, event) in events {
                    self.take(sequence, event).await?;
                }
            }
            // Too far behind.
            Err(StoreError::Missing) => {
                let (state, signer) = read(&*self.store, &self.sealer).await?;
                let sequence = state.snapshot.sequence;
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
                self.signer.store(Arc::new(signer));
                self.verify_by_snapshot();
                self.sequence.send_replace(sequence);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn verify_by_snapshot(&self) {
        let TrustSnapshot { keys, revocations, .. } = self.snapshot();
        self.verifier.replace_own(self.profile.clone(), keys, revocations);
    }

    async fn take(&self, sequence: u64, event: TrustEvent) -> Result<(), KeyError> {
        let told = match event {
            TrustEvent::KeyAdded { jwk } => Some(TrustChange::KeyAdded(Box::new(PublicKey::own(&jwk)?))),
            TrustEvent::KeyRemoved { kid } => Some(TrustChange::KeyRemoved(kid)),
            TrustEvent::Revoked(revocation) => Some(TrustChange::Revoked(revocation)),
            TrustEvent::KeyActivated { kid } => {
                let all = self.store.trust().await?.keys;
                // A key that is no longer active has been followed by another; its event comes next.
                if let Some(active) = all.iter().find(|key| key.kid == kid && key.state == KeyState::Active) {
                    self.signer.store(Arc::new(LocalSigner::open(&self.sealer, active)?));
                    tracing::info!(key.id = kid, "signing key activated");
                }
                None
            }
        };
        if let Some(change) = told.clone() {
            self.verifier.apply(change);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.snapshot.sequence = sequence;
        match &told {
            Some(TrustChange::KeyAdded(key)) => state.snapshot.keys.push((**key).clone()),
            Some(TrustChange::KeyRemoved(kid)) => state.snapshot.keys.retain(|key| key.kid() != kid),
            Some(TrustChange::Revoked(revocation)) => {
                if !matches!(revocation, Revocation::Token { .. }) {
                    state.snapshot.revocations.retain(|older| !revocation.covers(older));
                }
                state.snapshot.revocations.push(revocation.clone());
            }
            None => {}
        }
        state.changes.push_back((sequence, told));
        if state.changes.len() > KEPT_CHANGES {
            state.changes.pop_front();
        }
        drop(state);
        self.sequence.send_replace(sequence);
        Ok(())
    }

    /// Whether everything that is in the database by now is in here.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_current(&self) -> Result<bool, StoreError> {
        Ok(self.store.versions().await?.trust <= self.sequence())
    }

    /// Waits until what is in the database by now is in here.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE when it cannot be read, or not in time.
    pub async fn caught_up(&self) -> Result<(), Failure> {
        let needed = self.store.versions().await?.trust;
        let mut sequence = self.watch();
        let reached = sequence.wait_for(|sequence| *sequence >= needed);
        let reached = tokio::time::timeout(CATCHING_UP, reached).await;
        reached.map(drop).map_err(|_| Failure::new(Reason::StoreUnavailable, "this replica is behind; connect again"))
    }

    /// Forgets the revocations that have ended by this time, in seconds since 1970: new subscribers need not be told.
    pub fn forget(&self, now: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.snapshot.revocations.retain(|revocation| revocation.until() >= now);
    }

    /// The number of the state in use.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        *self.sequence.borrow()
    }

    /// Tells each new number.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// The whole state.
    #[must_use]
    pub fn snapshot(&self) -> TrustSnapshot {
        self.state.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone()
    }

    /// The state, with at most so many revocations: more collapse, which refuses more, not less. `now`: seconds since 1970.
    #[must_use]
    pub fn condensed(&self, most: usize, now: u64) -> (TrustSnapshot, Vec<Revocation>) {
        let mut snapshot = self.snapshot();
        let mut revocations = std::mem::take(&mut snapshot.revocations);
        if revocations.len() > most {
            revocations = by_subject(revocations);
        }
        if revocations.len() > most {
            let until = revocations.iter().map(Revocation::until).max().unwrap_or(0);
            let id = self.profile.instances.first().cloned().unwrap_or_default();
            revocations = vec![Revocation::Instance { id, issued_by: now, until }];
        }
        (snapshot, revocations)
    }

    /// All keys that verify.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).snapshot.keys.clone()
    }

    /// The changes after a number, oldest first; `None` when they are not all here any more.
    #[must_use]
    pub fn changes_after(&self, sequence: u64) -> Option<Vec<(u64, Told)>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let begin = state.changes.front().map_or(state.snapshot.sequence + 1, |(first, _)| *first);
        if sequence + 1 < begin {
            return None;
        }
        Some(state.changes.iter().filter(|(number, _)| *number > sequence).cloned().collect())
    }

    /// The key set as published.
    #[must_use]
    pub fn jwks(&self) -> String {
        jwks_json(self.state.read().unwrap_or_else(PoisonError::into_inner).snapshot.keys.iter())
    }

    /// What signs now.
    #[must_use]
    pub fn signer(&self) -> Arc<dyn Signer> {
        self.signer.load_full()
    }

    /// What is demanded of the instance's own callers.
    #[must_use]
    pub fn profile(&self) -> &IssuerProfile {
        &self.profile
    }
}

/// The tokens of each subject as one revocation of all that are as old: more is refused, not less.
fn by_subject(revocations: Vec<Revocation>) -> Vec<Revocation> {
    let mut subjects: HashMap<String, Revocation> = HashMap::new();
    let mut others = Vec::new();
    for revocation in revocations {
        let (Revocation::Token { subject: id, .. } | Revocation::Subject { id, .. }) = &revocation else {
            others.push(revocation);
            continue;
        };
        let none = Revocation::Subject { id: id.clone(), issued_by: 0, until: 0 };
        let whole = subjects.remove(id).unwrap_or(none).widened_by(&revocation);
        subjects.insert(id.clone(), whole);
    }
    others.extend(subjects.into_values());
    others
}

async fn read(store: &dyn Store, sealer: &Sealer) -> Result<(State, LocalSigner), KeyError> {
    let record = store.trust().await?;
    let active = record.keys.iter().find(|key| key.state == KeyState::Active).ok_or(StoreError::Missing)?;
    let signer = LocalSigner::open(sealer, active)?;
    let keys = record.keys.iter().map(|key| PublicKey::own(&key.public_jwk)).collect::<Result<_, _>>()?;
    let snapshot = TrustSnapshot { sequence: record.sequence, keys, revocations: record.revocations };
    Ok((State { snapshot, changes: VecDeque::new() }, signer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyKind;
    use crate::rotation::{Rotation, Schedule};
    use crate::store::{InstanceRecord, SqlStore, TrustStore as _};
    use postern_runtime::{Readiness, SystemClock};
    use postern_token::Algorithm;

    #[tokio::test]
    async fn a_change_that_could_not_be_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let store = SqlStore::open_sqlite(&dir.path().join("x.db"), clock.clone()).await.unwrap();
        store.set_up(InstanceRecord { id: "ins_1".to_owned(), sealed_pepper: "p".to_owned() }).await.unwrap();
        let sealer = Arc::new(Sealer::from_file(&dir.path().join("kek"), true).unwrap());
        let second = Duration::from_secs(1);
        let kind = KeyKind { algorithm: Algorithm::EdDsa, rsa_bits: 2048 };
        let schedule = Schedule { kind, period: second, lead: second, max_lifetime: second };
        Rotation::new(Arc::new(store.clone()), sealer.clone(), schedule).first_key(None).await.unwrap();
        let profile = IssuerProfile::own("i".to_owned(), "ins_1".to_owned(), "a".to_owned(), 900);
        let trust = Trust::load(Arc::new(store.clone()), sealer, profile, Verifier::new(clock)).await.unwrap();
        let lifecycle = Lifecycle::new(&Readiness::default());
        let (news, versions) = watch::channel(store.versions().await.unwrap());
        trust.follow(versions, &lifecycle);

        let (one, other) = ("one".to_owned(), "other".to_owned());
        store.revoke(Revocation::Credential { id: one, until: u64::MAX >> 1 }).await.unwrap();
        let now = store.versions().await.unwrap();
        store.run("ALTER TABLE trust_events RENAME TO away").await.unwrap();
        news.send_replace(now);
        // The follower has its try meanwhile; a beat of the feed would not be sent.
        for _ in 0..3 {
            assert!(trust.catch_up().await.is_err() && !trust.is_current().await.unwrap());
        }
        store.run("ALTER TABLE away RENAME TO trust_events").await.unwrap();
        // No further news comes.
        trust.caught_up().await.unwrap();
        assert!(trust.is_current().await.unwrap());
        assert_eq!(trust.snapshot().revocations.len(), 1);
        store.revoke(Revocation::Credential { id: other, until: 9 }).await.unwrap();
        assert!(!trust.is_current().await.unwrap(), "until the news has come");
    }
}
