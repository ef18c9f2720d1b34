//! The rows, as the domain sees them.

use std::net::IpAddr;

use ipnet::IpNet;

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
    /// A caller of models.
    Adapter,
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

as_text!(Kind { User = "user", Service = "service", Gateway = "gateway", Adapter = "adapter" });
as_text!(Role { Admin = "admin", ModelManager = "model_manager", Auditor = "auditor", Gateway = "gateway", Adapter = "adapter" });
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
    /// A gateway's audience.
    pub audience: Option<String>,
    /// A gateway's address for the relay.
    pub address: Option<String>,
    /// An adapter's group.
    pub adapter_group: Option<String>,
    /// When it was made.
    pub created_at: Millis,
}

/// A credential, by the MAC of its secret.
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
    /// HMAC-SHA-256 of the secret under the pepper.
    pub mac: String,
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
