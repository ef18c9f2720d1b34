//! The part of the store that trust rests on: signing keys, the feed's events, revocations and leases.
//!
//! Every change begins by counting up `trust_sequence` on the one row of the instance, which is its lock: sequence numbers are
//! given out in the order of the commits, and a reader that has seen one has seen all before it.

use async_trait::async_trait;
use postern_token::Revocation;
use serde::{Deserialize, Serialize};

use super::{Millis, StoreError};

/// Where a key is in its life. A removed key has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published; does not sign yet.
    Pending,
    /// Signs.
    Active,
    /// Verifies only.
    Retired,
}

/// A key that is to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// The public half as JWK JSON.
    pub public_jwk: String,
    /// The private half as PKCS#8, sealed.
    pub sealed_private: String,
}

/// A stored key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// The public half as JWK JSON.
    pub public_jwk: String,
    /// The private half as PKCS#8, sealed; gone once retired.
    pub sealed_private: Option<String>,
    /// Where it is in its life.
    pub state: KeyState,
    /// When verifiers were told.
    pub published_at: Millis,
    /// The sequence number that told them.
    pub published_sequence: u64,
    /// When it began to sign.
    pub activated_at: Option<Millis>,
    /// When it ceased to sign.
    pub retired_at: Option<Millis>,
    /// When it ceases to verify.
    pub remove_at: Option<Millis>,
}

/// A change of the trust state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustEvent {
    /// A key was published.
    KeyAdded {
        /// The public half as JWK JSON.
        jwk: String,
    },
    /// The pending key signs from now on; the one before it is retired.
    KeyActivated {
        /// Its `kid`.
        kid: String,
    },
    /// A key verifies nothing from now on.
    KeyRemoved {
        /// Its `kid`.
        kid: String,
    },
    /// Something is refused although it is signed.
    Revoked(Revocation),
}

/// The whole trust state at one sequence number.
#[derive(Debug, Clone)]
pub struct TrustRecord {
    /// The number.
    pub sequence: u64,
    /// All keys, oldest first.
    pub keys: Vec<KeyRecord>,
    /// All revocations.
    pub revocations: Vec<Revocation>,
}

/// A process that follows the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which process.
    pub replica_id: String,
    /// Its fleet member's id.
    pub member_id: String,
    /// The last sequence number that it has put to use.
    pub acknowledged: u64,
    /// When the lease ends unless it is renewed.
    pub ends_at: Millis,
}

/// When the pending key may become the active one.
#[derive(Debug, Clone, Copy)]
pub struct ActivationRule {
    /// How long it must have been published, in milliseconds. Twice as long, and those that have not acknowledged it are left
    /// behind.
    pub lead: Millis,
    /// How long the key before it verifies on, in milliseconds.
    pub verify_on: Millis,
}

/// What became of the pending key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activation {
    /// It signs from now on. These lost their leases: they had not acknowledged it.
    Done {
        /// The key.
        kid: String,
        /// The replicas that were left behind.
        left_behind: Vec<Lease>,
    },
    /// It has not been published for long enough.
    TooEarly {
        /// Milliseconds to go.
        wait: Millis,
    },
    /// These have not acknowledged it yet.
    Unacknowledged(Vec<Lease>),
    /// There is none.
    NoPendingKey,
}

/// Keys, events, revocations and leases.
#[async_trait]
pub trait TrustStore: Send + Sync {
    /// The whole state.
    async fn trust(&self) -> Result<TrustRecord, StoreError>;
    /// The changes after a sequence number, oldest first; [`StoreError::Missing`] when they are not all there any more.
    async fn trust_events(&self, after: u64) -> Result<Vec<(u64, TrustEvent)>, StoreError>;

    /// Adds the pending key, or the active one when there is none to be waited for; [`StoreError::Exists`] when there is one.
    async fn add_key(&self, key: NewKey, state: KeyState) -> Result<(), StoreError>;
    /// Lets the pending key sign, if the rule allows it: the active one is retired and its private half destroyed.
    async fn activate_key(&self, rule: ActivationRule) -> Result<Activation, StoreError>;
    /// Removes the retired keys whose time has come; which.
    async fn remove_ended_keys(&self) -> Result<Vec<String>, StoreError>;
    /// Removes a key and revokes what it signed. Where it was the active one, the pending one signs from now on, or else
    /// `instead`, which is also published.
    async fn revoke_key(&self, kid: &str, until: u64, instead: NewKey) -> Result<(), StoreError>;

    /// Revokes.
    async fn revoke(&self, revocation: Revocation) -> Result<(), StoreError>;
    /// Forgets the revocations, and the used assertions, whose time has come.
    async fn forget_ended_revocations(&self) -> Result<(), StoreError>;

    /// Says that a process follows the feed and has come this far, until its lease ends.
    async fn renew_lease(&self, replica_id: &str, member_id: &str, acknowledged: u64) -> Result<(), StoreError>;
    /// Whether the lease is there: it is gone for who was left behind.
    async fn has_lease(&self, replica_id: &str) -> Result<bool, StoreError>;
    /// Ends a lease.
    async fn end_lease(&self, replica_id: &str) -> Result<(), StoreError>;
    /// The leases that have not ended.
    async fn leases(&self) -> Result<Vec<Lease>, StoreError>;
}
