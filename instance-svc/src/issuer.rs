//! Mints access tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::Failure;
use postern_runtime::Clock;
use postern_token::{Actor, Claims, Confirmation, Realm};

use crate::metrics;
use crate::trust::Trust;

/// What the instance says of itself in every token.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The `iss`.
    pub issuer: String,
    /// The `postern_instance`.
    pub instance_id: String,
}

/// Whom a token is for and what it may do.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Whose gateway it is for.
    pub realm: Realm,
    /// The `sub`.
    pub subject: String,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// The one audience.
    pub audience: String,
    /// The scopes.
    pub scope: Vec<String>,
    /// The credential's id.
    pub credential: String,
    /// Who acts for the subject.
    pub actor: Option<String>,
    /// Seconds of life.
    pub lifetime: u64,
    /// The SHA-256 of the certificate that the token is bound to, base64url.
    pub certificate: Option<String>,
    /// The token ends no later than this, in seconds since 1970.
    pub not_after: Option<u64>,
}

/// A minted token.
pub struct Minted {
    /// The compact JWT.
    pub token: String,
    /// Its end, in seconds since 1970.
    pub expires: u64,
}

/// Begin of validity before the minting, in seconds, for verifiers whose clock is behind.
const BACKDATE: u64 = 5;

/// The issuer.
pub struct Issuer {
    identity: Identity,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
}

impl Issuer {
    /// An issuer that signs with the active key.
    #[must_use]
    pub fn new(identity: Identity, trust: Arc<Trust>, clock: Arc<dyn Clock>) -> Self {
        Self { identity, trust, clock }
    }

    /// The key that signs now.
    #[must_use]
    pub fn kid(&self) -> String {
        self.trust.signer().public_key().kid().to_owned()
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Mints.
    ///
    /// # Errors
    /// INTERNAL when signing fails.
    pub async fn mint(&self, grant: Grant) -> Result<Minted, Failure> {
        let now = self.clock.now();
        let expires = grant.not_after.map_or(now + grant.lifetime, |end| end.min(now + grant.lifetime));
        let claims = Claims {
            iss: self.identity.issuer.clone(),
            sub: grant.subject.clone(),
            aud: grant.audience,
            exp: expires,
            nbf: Some(now - BACKDATE),
            iat: now,
            jti: uuid::Uuid::now_v7().to_string(),
            client_id: grant.actor.clone().unwrap_or(grant.subject),
            scope: grant.scope.join(" "),
            postern_instance: Some(self.identity.instance_id.clone()),
            postern_realm: Some(grant.realm),
            postern_credential: Some(grant.credential),
            postern_groups: grant.groups,
            act: grant.actor.map(|sub| Actor { sub }),
            cnf: grant.certificate.map(|thumbprint| Confirmation { x5t_s256: Some(thumbprint) }),
        };
        let payload = serde_json::to_vec(&claims).map_err(Failure::internal)?;
        let mut token = String::with_capacity(1024);
        let signer = self.trust.signer();
        token.push_str(&signer.public_key().header());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = signer.sign(token.clone().into_bytes()).await.map_err(Failure::internal)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        metrics::minted();
        Ok(Minted { token, expires })
    }
}
