//! The schedule of the signing keys. The next key is published as soon as one begins to sign, so that verifiers always know it
//! long before it signs, and an emergency finds a key that everybody has.
//!
//! Every replica runs this; the store's lock decides which of them acts. A pending key signs once the period is over, its lead
//! has passed and every live subscriber has acknowledged it; after twice the lead those that have not are left behind, which is
//! an alert.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::{Failure, Reason};
use postern_runtime::{Clock, Lifecycle};

use crate::audit::{Audit, Event};
use crate::keys::{KeyError, KeyKind};
use crate::metrics;
use crate::seal::Sealer;
use crate::store::{Activation, ActivationRule, KeyRecord, KeyState, Millis, Store, StoreError};
use crate::trust::Trust;

/// How long what another instance published serves while that is away.
const LONGEST_SILENCE: Duration = Duration::from_secs(24 * 3600);

/// When keys change.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// What new keys are.
    pub kind: KeyKind,
    /// How long a key signs.
    pub period: Duration,
    /// How long a key is published before it signs, at least.
    pub lead: Duration,
    /// The longest life of a token.
    pub max_lifetime: Duration,
}

/// How long verifiers may keep the key set that they fetched: well within the lead, so that they have a key before it signs.
const LONGEST_JWKS_AGE: Duration = Duration::from_secs(300);
/// How long a retired key verifies beyond the life of what it signed: clock differences, and replicas that were slow to notice.
const VERIFY_MARGIN: Duration = Duration::from_secs(60);

impl Schedule {
    /// How long verifiers may keep the key set.
    #[must_use]
    pub fn jwks_max_age(&self) -> Duration {
        (self.lead / 2).min(LONGEST_JWKS_AGE)
    }

    fn rule(&self) -> ActivationRule {
        let verify_on = self.max_lifetime + Duration::from_secs(postern_token::LEEWAY_SECONDS) + VERIFY_MARGIN;
        ActivationRule { lead: millis(self.lead), verify_on: millis(verify_on) }
    }

    fn tick(&self) -> Duration {
        (self.lead / 4).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }
}

fn millis(duration: Duration) -> Millis {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Keeps the keys.
pub struct Rotation {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    schedule: Schedule,
}

impl Rotation {
    /// A rotation over these parts.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>, schedule: Schedule) -> Self {
        Self { store, sealer, schedule }
    }

    /// Makes the first key, or imports it, when there is none. Nobody verifies yet, so it signs at once.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn first_key(&self, import: Option<&std::path::Path>) -> Result<(), KeyError> {
        if self.keys().await?.iter().any(|key| key.state == KeyState::Active) {
            return Ok(());
        }
        let key = match import {
            Some(path) => self.schedule.kind.import(&self.sealer, path)?,
            None => self.schedule.kind.make(&self.sealer).await?,
        };
        // Another replica may have been first; its key is the one.
        unless_exists(self.store.add_key(key, KeyState::Active).await)
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        Ok(self.store.trust().await?.keys)
    }

    /// Runs until the process stops.
    pub fn run(self: &Arc<Self>, trust: Arc<Trust>, audit: Audit, clock: Arc<dyn Clock>, lifecycle: &Lifecycle) {
        let (rotation, stopping) = (self.clone(), lifecycle.stopping().clone());
        lifecycle.spawn_vital("rotation", async move {
            let mut failing = false;
            let mut forgotten = tokio::time::Instant::now();
            while stopping.run_until_cancelled(tokio::time::sleep(rotation.schedule.tick())).await.is_some() {
                match rotation.step(&audit).await {
                    Ok(()) => failing = false,
                    Err(error) if !failing => {
                        failing = true;
                        metrics::rotation_failed();
                        tracing::error!(error = %error, "the signing keys cannot be kept; trying again");
                    }
                    Err(_) => {}
                }
                if forgotten.elapsed() > Duration::from_secs(60) {
                    forgotten = tokio::time::Instant::now();
                    trust.forget(clock.now());
                    if let Err(error) = rotation.forget_silent_publishers().await {
                        tracing::warn!(error = %error, "silent publishers could not be forgotten");
                    }
                    if let Err(error) = rotation.store.forget_ended_revocations().await {
                        tracing::warn!(error = %error, "ended revocations could not be forgotten");
                    }
                }
            }
        });
    }

    /// The keys of another instance that has not been there for so long are too old to go by.
    async fn forget_silent_publishers(&self) -> Result<(), StoreError> {
        self.store.forget_silent_publishers(self.store.now().await? - millis(LONGEST_SILENCE)).await
    }

    /// Does what is due.
    async fn step(&self, audit: &Audit) -> Result<(), KeyError> {
        let (keys, now) = (self.keys().await?, self.store.now().await?);
        if keys.iter().any(|key| key.remove_at.is_some_and(|time| time <= now)) {
            for kid in self.store.remove_ended_keys().await? {
                told(audit, "remove-key", kid).await;
            }
        }
        let Some(pending) = keys.iter().find(|key| key.state == KeyState::Pending) else {
            let key = self.schedule.kind.make(&self.sealer).await?;
            return unless_exists(self.store.add_key(key, KeyState::Pending).await);
        };
        let active = keys.iter().find(|key| key.state == KeyState::Active);
        let signs_since = active.and_then(|key| key.activated_at).unwrap_or(0);
        let due = now - signs_since >= millis(self.schedule.period);
        if due && now - pending.published_at >= millis(self.schedule.lead) {
            let Activation::Done { kid, left_behind } = self.activate().await? else { return Ok(()) };
            told(audit, "rotate", kid).await;
            for lease in left_behind {
                told(audit, "leave-behind", format!("{} {}", lease.member_id, lease.replica_id)).await;
            }
        }
        Ok(())
    }

    async fn activate(&self) -> Result<Activation, StoreError> {
        let activation = self.store.activate_key(self.schedule.rule()).await?;
        match &activation {
            Activation::Done { kid, left_behind } => {
                metrics::key_rotated();
                tracing::info!(key.id = kid, "signing key rotated");
                for lease in left_behind {
                    metrics::subscriber_left_behind();
                    tracing::error!(
                        fleet.member_id = lease.member_id,
                        fleet.replica = lease.replica_id,
                        "a subscriber did not acknowledge the new key in twice its lead and lost its lease"
                    );
                }
            }
            Activation::Unacknowledged(waiting) => {
                tracing::info!(leases.waiting = waiting.len(), "the new key waits for subscribers to acknowledge it");
            }
            Activation::TooEarly { .. } | Activation::NoPendingKey => {}
        }
        Ok(activation)
    }

    /// Lets the pending key sign now, as an administrator wishes.
    ///
    /// # Errors
    /// KEY_NOT_READY before its lead has passed or while a subscriber has not acknowledged it; STORE_UNAVAILABLE.
    pub async fn rotate(&self) -> Result<String, Failure> {
        let not_ready = |message: String| Failure::new(Reason::KeyNotReady, message);
        match self.activate().await? {
            Activation::Done { kid, .. } => Ok(kid),
            Activation::NoPendingKey => {
                Err(not_ready("the next key is not published yet; try again in a moment".to_owned()))
            }
            Activation::TooEarly { wait } => {
                let wait = Duration::from_millis(wait.unsigned_abs());
                let message = format!("the next key must be published for another {} s", wait.as_secs() + 1);
                Err(not_ready(message).with_retry_after(wait))
            }
            Activation::Unacknowledged(leases) => {
                let message = format!("{} subscribers have not acknowledged the next key yet", leases.len());
                Err(not_ready(message).with_retry_after(self.schedule.tick()))
            }
        }
    }

    /// Ends a compromised key; the key that signs then.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn revoke(&self, kid: &str) -> Result<String, Failure> {
        let rule = self.schedule.rule();
        let until = self.store.now().await?.saturating_add(rule.verify_on).unsigned_abs() / 1000;
        let instead = self.schedule.kind.make(&self.sealer).await.map_err(Failure::internal)?;
        self.store.revoke_key(kid, until, instead).await.map_err(|error| match error {
            StoreError::Missing => {
                Failure::new(Reason::NotFound, "there is no key of that id; `postern keys list` shows them")
            }
            other => other.into(),
        })?;
        tracing::warn!(key.id = kid, "signing key revoked");
        let active = self.keys().await?.into_iter().find(|key| key.state == KeyState::Active);
        Ok(active.map(|key| key.kid).unwrap_or_default())
    }

    /// The schedule.
    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

/// Writes down what the schedule has done. Done is done; that it could not be written down the log's own writer says.
async fn told(audit: &Audit, action: &str, target: String) {
    let event = Event { action: action.to_owned(), target, outcome: "OK".to_owned(), ..Event::default() };
    let _ = audit.record(event).await;
}

fn unless_exists(done: Result<(), StoreError>) -> Result<(), KeyError> {
    match done {
        Ok(()) | Err(StoreError::Exists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
