//! The part of the store that holds who there is: principals with their credentials, and the issuers that vouch for others.

use async_trait::async_trait;

use super::{
    CredentialRecord, FederatedIssuerRecord, Found, Kind, Millis, PrincipalRecord, Role, StoreError,
    TrustedIssuerRecord,
};

/// Who there is. Every call is atomic; a change that returned is durable.
#[async_trait]
pub trait PrincipalStore: Send + Sync {
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
    /// As [`PrincipalStore::add_principal`], for another instance.
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
}
