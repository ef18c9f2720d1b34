//! Introspection (RFC 7662) and revocation (RFC 7009) of what the instance has minted.

use std::sync::Arc;

use postern_proto::{Failure, Reason};
use postern_runtime::auth::refused;
use postern_runtime::{Clock, Verifier};
use postern_token::{Claims, IssuerProfile, Revocation, Secret, TokenError, TrustTable, Unverified, Verified};

use crate::credentials::{self, Credentials};
use crate::store::{Kind, PrincipalRecord, Role, Store, StoreError};
use crate::trust::Trust;

/// Whose tokens a caller may ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Any.
    Every,
    /// Those of this audience.
    Audience(String),
}

impl Reach {
    /// What a principal may ask about; `None` for nothing.
    #[must_use]
    pub fn of(principal: &PrincipalRecord) -> Option<Self> {
        if principal.roles.iter().any(|role| matches!(role, Role::Admin | Role::Auditor)) {
            return Some(Self::Every);
        }
        match principal.kind {
            Kind::Gateway => principal.audience.clone().map(Self::Audience),
            _ => None,
        }
    }
}

/// Introspection and revocation.
pub struct Introspection {
    store: Arc<dyn Store>,
    credentials: Credentials,
    trust: Arc<Trust>,
    verifier: Verifier,
    clock: Arc<dyn Clock>,
}

impl Introspection {
    /// Over these parts; `verifier` is the one that `trust` keeps up to date.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        credentials: Credentials,
        trust: Arc<Trust>,
        verifier: Verifier,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, credentials, trust, verifier, clock }
    }

    /// The claims of a token that is good now and within reach. Of any other, nothing is told.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn introspect(&self, token: &str, reach: &Reach) -> Result<Option<Claims>, Failure> {
        let Ok(verified) = self.verify(token) else { return Ok(None) };
        let claims = verified.claims();
        if matches!(reach, Reach::Audience(audience) if claims.aud != *audience) || !self.verifier.stands(&verified) {
            return Ok(None);
        }
        // What the database knows now counts, also before the change has come round to the verifier.
        let credential = self.store.credential_by_id(claims.postern_credential.as_deref().unwrap_or_default()).await?;
        let now = self.store.now().await?;
        let live = credential.is_some_and(|found| found.is_live(now) && found.principal.id == claims.sub);
        Ok(live.then(|| claims.clone()))
    }

    /// Verifies a token of any audience.
    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let shape = Unverified::new(token)?;
        let audience = shape.says().map(|said| said.audience).unwrap_or_default();
        let profile = IssuerProfile { audience, ..self.trust.profile().clone() };
        TrustTable::new([(profile, self.trust.keys())]).verify(shape, self.clock.now())
    }

    /// Whether what is shown is an access token of this instance or a live credential. What for is judged by others.
    ///
    /// # Errors
    /// The token's fault, CREDENTIAL_INVALID, STORE_UNAVAILABLE.
    pub async fn is_ours(&self, presented: &str) -> Result<(), Failure> {
        if !Secret::looks_like_one(presented) {
            return self.verify(presented).map(drop).map_err(refused);
        }
        match credentials::recognise(&*self.store, &self.credentials, presented).await? {
            Some(_) => Ok(()),
            None => Err(Failure::new(Reason::CredentialInvalid, "the credential is unknown, revoked or ended")),
        }
    }

    /// Revokes what is shown: an access token, or a credential with all tokens that were minted for it; what that was, in the
    /// log's words. What is not good anyway is revoked already: `None`.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn revoke(&self, presented: &str) -> Result<Option<String>, Failure> {
        if Secret::looks_like_one(presented) {
            let found = credentials::recognise(&*self.store, &self.credentials, presented).await?;
            let Some(found) = found else { return Ok(None) };
            tracing::info!(credential.id = found.credential.id, "credential revoked by its holder");
            self.store.revoke_credential(&found.credential.id).await?;
            return Ok(Some(format!("credential {} of {}", found.credential.id, found.principal.id)));
        }
        let Ok(verified) = self.verify(presented) else { return Ok(None) };
        if !self.verifier.stands(&verified) {
            return Ok(None);
        }
        let claims = verified.claims();
        tracing::info!(token.id = claims.jti, "token revoked by its holder");
        let revocation = Revocation::Token {
            jti: claims.jti.clone(),
            subject: claims.sub.clone(),
            issued: claims.iat,
            until: claims.exp + postern_token::LEEWAY_SECONDS,
        };
        self.store.revoke(revocation).await?;
        Ok(Some(format!("token {} of {}", claims.jti, claims.sub)))
    }

    /// Revokes every token that a principal holds now.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn revoke_subject(&self, name: &str) -> Result<(), Failure> {
        let all = self.store.principals().await?;
        let subject = all.into_iter().find(|principal| principal.name == name).ok_or_else(|| {
            Failure::new(Reason::NotFound, "there is no user, service account or member of the fleet of that name")
        })?;
        let issued_by = self.store.now().await?.unsigned_abs() / 1000;
        let until = issued_by + self.trust.profile().max_lifetime + 2 * postern_token::LEEWAY_SECONDS;
        self.store.revoke(Revocation::Subject { id: subject.id, issued_by, until }).await.map_err(StoreError::into)
    }
}
