//! Stands before every gRPC method of the instance: finds its row in the policy table, checks the token, and reads the
//! caller's roles from the database, each time, so that a role that was taken away is gone at once.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Extensions, HeaderMap, request};
use postern_proto::{Failure, Reason};
use postern_runtime::guard::Admit;
use postern_runtime::instance::FLEET_SCOPE;
use postern_runtime::peer::{certificate_of, client_of, vouched};
use postern_runtime::policy::Access;
use postern_runtime::{Verifier, auth};

use super::audit::{is_an_act, of_head};
use crate::audit::{Audit, Event};
use crate::exchange::ADMIN_SCOPE;
use crate::introspection::Introspection;
use crate::policy::TABLE;
use crate::store::{Found, PrincipalRecord, Proof, Purpose, Role, Store, StoreError};

/// Who calls, as an extension of the request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The principal, as it was when the call came.
    pub principal: Arc<PrincipalRecord>,
    /// The id of the credential behind its token.
    credential: Arc<str>,
}

impl Caller {
    /// The caller that the guard found.
    ///
    /// # Errors
    /// INTERNAL when the method was reached without the guard.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Failure> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Failure::internal("a guarded method was reached without a caller"))
    }

    /// Whether the caller may still be told things on a stream that it opened: it is there, and its credential is.
    ///
    /// While the database is away nobody can tell; nor can anything new be told.
    ///
    /// # Errors
    /// CREDENTIAL_INVALID.
    pub async fn still_may(&self, store: &dyn Store) -> Result<(), Failure> {
        let (Ok(found), Ok(now)) = (store.credential_by_id(&self.credential).await, store.now().await) else {
            return Ok(());
        };
        let found = found.filter(|found| found.is_live(now) && found.principal.id == self.principal.id);
        let live = match found {
            Some(found) => still_vouched_for(store, &found).await.unwrap_or(true),
            None => false,
        };
        let ended = "this member was removed from the fleet, or its credential revoked";
        if live { Ok(()) } else { Err(Failure::new(Reason::CredentialInvalid, ended)) }
    }
}

/// Whether the issuer that a credential is proved by is still one.
async fn still_vouched_for(store: &dyn Store, found: &Found) -> Result<bool, StoreError> {
    match &found.credential.proof {
        Proof::Federated { issuer, .. } => {
            Ok(store.federated_issuers().await?.iter().any(|known| known.issuer == *issuer))
        }
        Proof::Secret { .. } | Proof::PublicKey { .. } | Proof::Certificate { .. } => Ok(true),
    }
}

/// The address of a caller whom a gateway passes on, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Vouched(pub IpAddr);

/// Where a request comes from: what a gateway vouches for, else its connection.
///
/// # Errors
/// As [`client_of`].
pub(super) fn address_of(extensions: &Extensions, headers: &HeaderMap) -> Result<Option<IpAddr>, Failure> {
    let own = client_of(extensions, headers)?;
    Ok(extensions.get::<Vouched>().map(|vouched| vouched.0).or(own))
}

/// Believes tokens of its verifier and roles of its store.
pub struct InstanceGuard {
    /// The roles.
    pub store: Arc<dyn Store>,
    /// The keys.
    pub verifier: Verifier,
    /// Knows the tokens and credentials that are relayed.
    pub introspection: Arc<Introspection>,
    /// Is told of acts that are refused.
    pub audit: Audit,
}

#[tonic::async_trait]
impl Admit for InstanceGuard {
    async fn admit(&self, head: &mut request::Parts) -> Result<(), Failure> {
        let certificate = certificate_of(&head.extensions);
        let judged = async {
            let caller = self.caller(head.uri.path(), &head.headers, certificate).await?;
            Ok::<_, Failure>((caller, self.vouched(head).await?))
        };
        match judged.await {
            Ok((caller, vouched)) => {
                caller.map(|caller| head.extensions.insert(caller));
                vouched.map(|vouched| head.extensions.insert(vouched));
            }
            Err(failure) => {
                if is_an_act(head.uri.path()) {
                    let outcome = failure.reason.name().to_owned();
                    self.audit.record_refusal(Event { outcome, ..of_head(head) }).await?;
                }
                return Err(failure);
            }
        }
        Ok(())
    }
}

impl InstanceGuard {
    async fn caller(
        &self,
        method: &str,
        headers: &HeaderMap,
        certificate: Option<&str>,
    ) -> Result<Option<Caller>, Failure> {
        let roles = match TABLE.access(method) {
            None => return Err(Failure::new(Reason::Unimplemented, "the instance does not offer this method")),
            Some(Access::Open) => return Ok(None),
            Some(Access::Pipeline) => {
                // Judged where it goes; but nobody unknown makes the instance take in a message.
                self.introspection.is_ours(auth::bearer(headers)?).await?;
                return Ok(None);
            }
            Some(Access::Roles(roles)) => roles,
        };
        self.of_roles(auth::bearer(headers)?, certificate, roles).await.map(Some)
    }

    /// The address that a gateway says its caller is at, where one passes a credential on.
    async fn vouched(&self, head: &request::Parts) -> Result<Option<Vouched>, Failure> {
        if !matches!(TABLE.access(head.uri.path()), Some(Access::Open)) {
            return Ok(None);
        }
        let Some((voucher, address)) = vouched(&head.headers)? else { return Ok(None) };
        self.of_roles(voucher, certificate_of(&head.extensions), &[Role::Gateway]).await?;
        Ok(Some(Vouched(address)))
    }

    /// The caller whose token this is, if it has one of these roles.
    async fn of_roles(&self, token: &str, certificate: Option<&str>, roles: &[Role]) -> Result<Caller, Failure> {
        let verified = self.verifier.verify(token, certificate)?;
        let claims = verified.claims();
        let found = self.store.credential_by_id(claims.postern_credential.as_deref().unwrap_or_default()).await?;
        let now = self.store.now().await?;
        let found = found.filter(|found| found.is_live(now) && found.principal.id == claims.sub).ok_or_else(|| {
            Failure::new(Reason::CredentialInvalid, "the credential behind the token is revoked or ended")
        })?;
        if !still_vouched_for(&*self.store, &found).await? {
            let message = "the issuer that vouched for the credential behind the token was removed";
            return Err(Failure::new(Reason::CredentialInvalid, message));
        }
        let scope = match found.credential.purpose {
            Purpose::Fleet => FLEET_SCOPE,
            Purpose::Inference | Purpose::Administration => ADMIN_SCOPE,
        };
        if !claims.has_scope(scope) {
            return Err(Failure::new(Reason::ScopeMissing, format!("the token lacks the scope {scope}")));
        }
        if !found.principal.roles.iter().any(|role| roles.contains(role)) {
            let needed: Vec<_> = roles.iter().map(role_name).collect();
            return Err(Failure::new(Reason::RoleMissing, format!("this needs the role {}", needed.join(" or "))));
        }
        let credential = found.credential.id.as_str().into();
        Ok(Caller { principal: Arc::new(found.principal), credential })
    }
}

const fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::ModelManager => "model manager",
        Role::Auditor => "auditor",
        Role::Gateway => "gateway",
        Role::Adapter => "adapter",
        Role::Instance => "instance",
    }
}
