//! What the instance remembers. The trait is what the domain sees; `store/sql.rs` is the one implementation.

mod audit;
mod records;
mod sql;
mod sql_trust;
#[cfg(test)]
mod tests;
mod trust;

use async_trait::async_trait;
use postern_proto::{Failure, Reason};

pub use audit::{AuditPlace, AuditRow, AuditStore};
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
pub trait Store: TrustStore + AuditStore {
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

    /// All principals by name.
    async fn principals(&self) -> Result<Vec<PrincipalRecord>, StoreError>;
    /// The principal of this name or id.
    async fn principal(&self, name_or_id: &str) -> Result<Option<PrincipalRecord>, StoreError>;
    /// Adds a principal with its first credential.
    async fn add_principal(
        &self,
        principal: PrincipalRecord,
        credential: Option<CredentialRecord>,
    ) -> Result<(), StoreError>;
    /// As [`Store::add_principal`], for another instance.
    async fn add_trusted_issuer(
        &self,
        principal: PrincipalRecord,
        credential: Option<CredentialRecord>,
        issuer: TrustedIssuerRecord,
    ) -> Result<(), StoreError>;
    /// The other instances, by issuer.
    async fn trusted_issuers(&self) -> Result<Vec<TrustedIssuerRecord>, StoreError>;
    /// Puts down what another instance has published, unless what is there is newer; the number of what is there then.
    /// [`StoreError::Missing`] for one that was removed.
    async fn publish_trust(&self, principal_id: &str, sequence: u64, published: &str) -> Result<u64, StoreError>;
    /// Remembers that another instance is there now.
    async fn publisher_heard(&self, principal_id: &str) -> Result<(), StoreError>;
    /// Forgets what was published by those that have not been there since this time.
    async fn forget_silent_publishers(&self, since: Millis) -> Result<(), StoreError>;
    /// Gives a principal of one of these kinds other roles and groups. When it has left a group, its tokens are revoked.
    async fn update_principal(
        &self,
        name: &str,
        kinds: &[Kind],
        roles: &[Role],
        groups: &[String],
    ) -> Result<PrincipalRecord, StoreError>;
    /// Removes a principal of one of these kinds with its credentials, and revokes its tokens.
    async fn remove_principal(&self, name: &str, kinds: &[Kind]) -> Result<(), StoreError>;

    /// Adds a credential.
    async fn add_credential(&self, credential: CredentialRecord) -> Result<(), StoreError>;
    /// A principal's credentials, oldest first.
    async fn credentials(&self, principal_id: &str) -> Result<Vec<CredentialRecord>, StoreError>;
    /// Marks a credential as revoked and revokes the tokens that were minted for it; a second time changes nothing.
    async fn revoke_credential(&self, id: &str) -> Result<(), StoreError>;
    /// Remembers that a credential was used now.
    async fn credential_used(&self, id: &str) -> Result<(), StoreError>;
    /// The credential of this handle with its principal.
    async fn credential_by_handle(&self, handle: &str) -> Result<Option<Found>, StoreError>;
    /// The credentials that a token of this issuer for this subject may prove, with their principals.
    async fn federated_credentials(&self, issuer: &str, subject: &str) -> Result<Vec<Found>, StoreError>;
    /// Remembers that an assertion was used, until this second; [`StoreError::Exists`] when it was before.
    async fn use_assertion(&self, id: &str, until: u64) -> Result<(), StoreError>;
    /// The credential of this id with its principal.
    async fn credential_by_id(&self, id: &str) -> Result<Option<Found>, StoreError>;

    /// The federated issuers by issuer.
    async fn federated_issuers(&self) -> Result<Vec<FederatedIssuerRecord>, StoreError>;
    /// Adds a federated issuer.
    async fn add_federated_issuer(&self, issuer: FederatedIssuerRecord) -> Result<(), StoreError>;
    /// Removes a federated issuer.
    async fn remove_federated_issuer(&self, issuer: &str) -> Result<(), StoreError>;

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
