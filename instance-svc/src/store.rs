//! What the instance remembers. The trait is what the domain sees; `store/sql.rs` is the one implementation.

mod audit;
mod principals;
mod records;
mod sql;
mod sql_principals;
mod sql_trust;
#[cfg(test)]
mod tests;
mod trust;

use async_trait::async_trait;
use postern_proto::{Failure, Reason};

pub use audit::{AuditPlace, AuditRow, AuditStore};
pub use principals::PrincipalStore;
pub use records::{
    Change, CredentialRecord, FederatedIssuerRecord, Found, InstanceRecord, Kind, ModelRecord, PrincipalRecord, Proof,
    Purpose, Role, SealedRecord, TrustedIssuerRecord, Versions, handle_of_certificate,
};
pub use sql::SqlStore;
pub use trust::{Activation, ActivationRule, KeyRecord, KeyState, NewKey, TrustEvent, TrustStore};

/// Milliseconds since 1970, by the database's clock: all replicas share it.
pub type Millis = i64;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of that name or id is there already.
    #[error("it exists already")]
    Exists,
    /// There is nothing of that name, id or version.
    #[error("it does not exist")]
    Missing,
    /// A record cannot be read: the database was written by something else.
    #[error("a record cannot be read: {0}")]
    Damaged(String),
    /// The database cannot be used.
    #[error("the database: {0}")]
    Unavailable(#[source] sqlx::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (reason, message) = match &error {
            StoreError::Exists => (Reason::AlreadyExists, "it exists already"),
            StoreError::Missing => (Reason::NotFound, "it does not exist"),
            StoreError::Damaged(_) => return Self::internal(error),
            StoreError::Unavailable(_) => {
                (Reason::StoreUnavailable, "the instance's database cannot be used at the moment; try again")
            }
        };
        Self::new(reason, message).with_detail(error)
    }
}

/// The instance's memory. Every call is atomic; a change that returned is durable.
#[async_trait]
pub trait Store: PrincipalStore + TrustStore + AuditStore {
    /// The time.
    async fn now(&self) -> Result<Millis, StoreError>;

    /// The instance itself, once it has been set up.
    async fn instance(&self) -> Result<Option<InstanceRecord>, StoreError>;
    /// Sets the instance up unless it is; returns what is there then.
    async fn set_up(&self, instance: InstanceRecord) -> Result<InstanceRecord, StoreError>;
    /// The sealed trust root: this one unless there is one already.
    async fn trust_root(&self, sealed: String) -> Result<String, StoreError>;
    /// How far configuration and trust have counted.
    async fn versions(&self) -> Result<Versions, StoreError>;

    /// Everything that is sealed.
    async fn sealed_records(&self) -> Result<Vec<SealedRecord>, StoreError>;
    /// Puts another sealed text in the place of this record's, unless that has changed meanwhile; whether it did.
    async fn replace_sealed(&self, record: &SealedRecord, sealed: &str) -> Result<bool, StoreError>;

    /// All models by name.
    async fn models(&self) -> Result<Vec<ModelRecord>, StoreError>;
    /// Adds a model.
    async fn add_model(&self, model: ModelRecord) -> Result<(), StoreError>;
    /// Replaces the model of this name and of the version before, else [`StoreError::Missing`].
    async fn replace_model(&self, model: ModelRecord) -> Result<(), StoreError>;
    /// Removes a model.
    async fn remove_model(&self, name: &str) -> Result<(), StoreError>;

    /// The bindings as feature name and text, by name.
    async fn features(&self) -> Result<Vec<(String, String)>, StoreError>;
    /// The prompts as name and text, by name.
    async fn prompts(&self) -> Result<Vec<(String, String)>, StoreError>;
    /// Puts a prompt in place of what was there, or removes it; nothing to remove is [`StoreError::Missing`].
    async fn put_prompt(&self, name: &str, text: Change<String>) -> Result<(), StoreError>;

    /// Binds a feature in place of what was there, or unbinds it; nothing to unbind is [`StoreError::Missing`].
    async fn bind_feature(&self, name: &str, binding: Change<String>) -> Result<(), StoreError>;
}
