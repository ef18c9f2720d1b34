//! The rows, as the domain sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Millis, StoreError};

/// The instance itself.
#[derive(Debug, Clone)]
pub struct InstanceRecord {
    /// Its id.
    pub id: String,
    /// The key under which credentials are MACed, sealed.
    pub sealed_pepper: String,
}

/// How far the counters have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// Of models, features and fleet.
    pub config: u64,
    /// Of keys.
    pub trust: u64,
}

/// What a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person.
    User,
    /// A program.
    Service,
    /// A public door.
    Gateway,
    /// A public door of another instance, to which features are bound.
    ManagedGateway,
    /// A caller of models.
    Adapter,
    /// Another instance, whose tokens the gateways take.
    Instance,
}

/// What a principal may do at the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Models and features.
    ModelManager,
    /// Reads keys, tokens and the audit log; changes nothing.
    Auditor,
    /// Follow trust and routes, call adapters.
    Gateway,
    /// Follow trust, serve models.
    Adapter,
    /// Publish its own trust state.
    Instance,
}

/// What a credential is exchanged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Tokens for gateways.
    Inference,
    /// Tokens for the instance's administration.
    Administration,
    /// A gateway's or an adapter's tokens.
    Fleet,
}

macro_rules! as_text {
    ($type:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $type {
            pub(super) const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub(super) fn read(text: &str) -> Result<Self, StoreError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(StoreError::Damaged(format!(concat!(stringify!($type), " `{}`"), text))),
                }
            }
        }
    };
}

as_text!(Kind { User = "user", Service = "service", Gateway = "gateway", ManagedGateway = "managed_gateway", Adapter = "adapter", Instance = "instance" });
as_text!(Role { Admin = "admin", ModelManager = "model_manager", Auditor = "auditor", Gateway = "gateway", Adapter = "adapter", Instance = "instance" });
as_text!(Purpose { Inference = "inference", Administration = "administration", Fleet = "fleet" });

/// A user, service account, gateway or adapter.
#[derive(Debug, Clone)]
pub struct PrincipalRecord {
    /// The `sub` of its tokens.
    pub id: String,
    /// Unique.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// A gateway's audience.
    pub audience: Option<String>,
    /// A gateway's address for the relay.
    pub address: Option<String>,
    /// An adapter's group.
    pub adapter_group: Option<String>,
    /// When it was made.
    pub created_at: Millis,
}

/// How a credential is proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// By a secret.
    Secret {
        /// Its HMAC-SHA-256 under the pepper.
        mac: String,
    },
    /// By assertions that this key signs.
    PublicKey {
        /// The public key as a JWK.
        jwk: String,
        /// Its RFC 7638 thumbprint.
        thumbprint: String,
    },
    /// By a certificate of this name.
    Certificate {
        /// A URI or DNS name.
        name: String,
    },
    /// By a token of a federated issuer.
    Federated {
        /// Its `iss`.
        issuer: String,
        /// What it must say.
        claims: BTreeMap<String, String>,
    },
}

impl Proof {
    /// What no two credentials share: one proof proves one thing. A MAC, which has no spaces, is no other proof's.
    #[must_use]
    pub fn handle(&self, principal_id: &str, purpose: Purpose) -> String {
        match self {
            Self::Secret { mac } => mac.clone(),
            Self::PublicKey { thumbprint, .. } => hashed("key", purpose, &[principal_id, thumbprint]),
            Self::Certificate { name } => handle_of_certificate(purpose, name),
            Self::Federated { issuer, claims } => {
                let claims = claims.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]);
                hashed("federated", purpose, &std::iter::once(issuer.as_str()).chain(claims).collect::<Vec<_>>())
            }
        }
    }

    /// The issuer, and the `sub` that is asked for, of a federated one.
    pub(super) fn issuer_and_subject(&self) -> (&str, &str) {
        match self {
            Self::Federated { issuer, claims } => (issuer, claims.get("sub").map_or("", String::as_str)),
            Self::Secret { .. } | Self::PublicKey { .. } | Self::Certificate { .. } => ("", ""),
        }
    }
}

/// A kind and a hash, which an index takes whatever it is over. Each part is counted, so that no two lists read alike.
fn hashed(kind: &str, purpose: Purpose, parts: &[&str]) -> String {
    let mut text = purpose.text().to_owned();
    for part in parts {
        text.push_str(&format!(" {}:{part}", part.len()));
    }
    format!("{kind} {}", URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes())))
}

/// The handle of the credential for a purpose that a certificate of this name proves.
#[must_use]
pub fn handle_of_certificate(purpose: Purpose, name: &str) -> String {
    hashed("certificate", purpose, &[name])
}

/// Something sealed.
#[derive(Debug, Clone)]
pub struct SealedRecord {
    /// What it is sealed as.
    pub name: String,
    /// The sealed text.
    pub sealed: String,
}

/// An issuer whose tokens can prove who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedIssuerRecord {
    /// Its `iss`.
    pub issuer: String,
    /// Its settings as JSON.
    pub spec: String,
    /// When it was added.
    pub created_at: Millis,
}

/// Another instance whose tokens the gateways take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedIssuerRecord {
    /// The member of the fleet.
    pub principal_id: String,
    /// Its `iss`.
    pub issuer: String,
    /// What it is entitled to, as JSON.
    pub spec: String,
    /// What it published last, as JSON; empty for nothing yet.
    pub published: String,
}

/// A credential.
#[derive(Debug, Clone)]
pub struct CredentialRecord {
    /// Its id.
    pub id: String,
    /// Whose.
    pub principal_id: String,
    /// For what.
    pub purpose: Purpose,
    /// What its maker called it.
    pub label: String,
    /// How it is proved.
    pub proof: Proof,
    /// When it was made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Option<Millis>,
    /// When it was revoked.
    pub revoked_at: Option<Millis>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Millis>,
    /// Where it may be used from; empty for anywhere.
    pub networks: Vec<IpNet>,
}

/// A credential with its principal.
#[derive(Debug, Clone)]
pub struct Found {
    /// The credential.
    pub credential: CredentialRecord,
    /// Whose it is.
    pub principal: PrincipalRecord,
}

impl Found {
    /// Whether the credential may be used from this address. One that is tied to networks is not used from nowhere.
    #[must_use]
    pub fn may_be_used_from(&self, address: Option<IpAddr>) -> bool {
        let networks = &self.credential.networks;
        networks.is_empty()
            || address.is_some_and(|address| networks.iter().any(|network| network.contains(&address.to_canonical())))
    }

    /// Whether the credential still holds.
    #[must_use]
    pub fn is_live(&self, now: Millis) -> bool {
        self.credential.revoked_at.is_none() && self.credential.expires_at.is_none_or(|end| now < end)
    }
}

/// A model.
#[derive(Debug, Clone)]
pub struct ModelRecord {
    /// Unique.
    pub name: String,
    /// Its settings as JSON.
    pub spec: String,
    /// Which kind of credential is sealed.
    pub credential_kind: String,
    /// The credential, sealed; none for a server that asks for none.
    pub sealed_credential: Option<String>,
    /// Counts changes, from 1.
    pub version: u64,
    /// When it was registered.
    pub created_at: Millis,
    /// When it was last changed.
    pub updated_at: Millis,
}

/// What becomes of a value.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// It is this from now on.
    Set(T),
    /// It is gone.
    Remove,
}
