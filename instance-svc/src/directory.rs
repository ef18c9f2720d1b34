//! Principals: users, service accounts, gateways and adapters, with their credentials.

use std::sync::Arc;

use ipnet::IpNet;
use postern_proto::{Failure, MemberName, PrincipalName, Reason};
use postern_runtime::config::PeerAddress;
use postern_token::Secret;
use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::store::{CredentialRecord, Found, Kind, Millis, PrincipalRecord, Purpose, Role, Store};

/// What a new fleet member is.
#[derive(Debug, Clone)]
pub enum NewMember {
    /// A public door.
    Gateway {
        /// Empty: made of the name.
        audience: String,
        /// Empty: the relay does not use it.
        address: String,
    },
    /// A caller of models.
    Adapter {
        /// Empty: default.
        group: String,
    },
}

/// The kinds of people and programs.
pub const PEOPLE: &[Kind] = &[Kind::User, Kind::Service];
/// The kinds of processes.
pub const FLEET: &[Kind] = &[Kind::Gateway, Kind::Adapter];

/// The directory.
pub struct Directory {
    store: Arc<dyn Store>,
    credentials: Credentials,
    changing: Mutex<()>,
}

impl Directory {
    /// A directory over these parts.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, credentials: Credentials) -> Self {
        Self { store, credentials, changing: Mutex::new(()) }
    }

    /// All principals of these kinds, by name.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn list(&self, kinds: &[Kind]) -> Result<Vec<PrincipalRecord>, Failure> {
        let all = self.store.principals().await?;
        Ok(all.into_iter().filter(|principal| kinds.contains(&principal.kind)).collect())
    }

    /// The principal of this name.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn get(&self, name: &str, kinds: &[Kind]) -> Result<PrincipalRecord, Failure> {
        let found = self.list(kinds).await?.into_iter().find(|principal| principal.name == name);
        found.ok_or_else(|| not_found(name))
    }

    /// Adds a user or a service account.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn add_person(&self, name: String, kind: Kind, roles: Vec<Role>) -> Result<PrincipalRecord, Failure> {
        let name = PrincipalName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let prefix = if kind == Kind::User { "usr" } else { "svc" };
        let record = self.record(prefix, name.into(), kind, roles).await?;
        self.add(record.clone(), None).await?;
        Ok(record)
    }

    /// Adds a gateway or an adapter, with its credential.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn add_member(&self, name: String, member: NewMember) -> Result<(PrincipalRecord, Secret), Failure> {
        let name = MemberName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let record = match member {
            NewMember::Gateway { audience, address } => {
                let audience = match audience.as_str() {
                    "" => format!("postern-gateway:{name}"),
                    given if given.len() <= 255 && given.bytes().all(|b| b.is_ascii_graphic()) => audience,
                    _ => {
                        return Err(Failure::field("gateway.audience", "must be at most 255 visible ASCII characters"));
                    }
                };
                if audience.starts_with("postern-adapter:") {
                    return Err(Failure::field("gateway.audience", "must not be an adapter's"));
                }
                let address = match address.as_str() {
                    "" => None,
                    _ => {
                        Some(PeerAddress::try_from(address).map_err(|error| Failure::field("gateway.address", error))?)
                    }
                };
                let record = self.record("gwy", name.into(), Kind::Gateway, vec![Role::Gateway]).await?;
                PrincipalRecord {
                    audience: Some(audience),
                    address: address.map(|address| address.as_str().to_owned()),
                    ..record
                }
            }
            NewMember::Adapter { group } => {
                let group = if group.is_empty() { "default".to_owned() } else { group };
                let group =
                    MemberName::new(group).map_err(|error| Failure::field("adapter.group", error.to_string()))?;
                let record = self.record("adp", name.into(), Kind::Adapter, vec![Role::Adapter]).await?;
                PrincipalRecord { adapter_group: Some(group.into()), ..record }
            }
        };
        let (credential, secret) = self.issue(&record, Purpose::Fleet, "", None, &[]).await?;
        self.add(record.clone(), Some(credential)).await?;
        Ok((record, secret))
    }

    /// The first administrator with a credential for administration, unless there is one who can administer: an administrator
    /// whose credentials have all ended gets a new one.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS for another principal of the name, STORE_UNAVAILABLE.
    pub async fn bootstrap(&self, name: String) -> Result<Option<Secret>, Failure> {
        let _changing = self.changing.lock().await;
        if !self.live_ways_in().await?.is_empty() {
            return Ok(None);
        }
        if let Some(admin) = self.list(PEOPLE).await?.into_iter().find(is_admin) {
            let (credential, secret) = self.issue(&admin, Purpose::Administration, "bootstrap", None, &[]).await?;
            self.store.add_credential(credential).await?;
            return Ok(Some(secret));
        }
        let name = PrincipalName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let record = self.record("usr", name.into(), Kind::User, vec![Role::Admin]).await?;
        let (credential, secret) = self.issue(&record, Purpose::Administration, "bootstrap", None, &[]).await?;
        self.add(record, Some(credential)).await?;
        Ok(Some(secret))
    }

    /// The live credentials with which somebody can administer as admin, by id.
    async fn live_ways_in(&self) -> Result<Vec<String>, Failure> {
        let now = self.store.now().await?;
        let mut live = Vec::new();
        for principal in self.list(PEOPLE).await?.into_iter().filter(is_admin) {
            for credential in self.store.credentials(&principal.id).await? {
                let found = Found { credential, principal: principal.clone() };
                if found.credential.purpose == Purpose::Administration && found.is_live(now) {
                    live.push(found.credential.id);
                }
            }
        }
        Ok(live)
    }

    async fn record(
        &self,
        prefix: &str,
        name: String,
        kind: Kind,
        roles: Vec<Role>,
    ) -> Result<PrincipalRecord, Failure> {
        Ok(PrincipalRecord {
            id: format!("{prefix}_{}", uuid::Uuid::now_v7().simple()),
            name,
            kind,
            roles,
            audience: None,
            address: None,
            adapter_group: None,
            created_at: self.store.now().await?,
        })
    }

    async fn add(&self, record: PrincipalRecord, credential: Option<CredentialRecord>) -> Result<(), Failure> {
        let name = record.name.clone();
        self.store.add_principal(record, credential).await.map_err(|error| match error.into() {
            Failure { reason: Reason::AlreadyExists, .. } => Failure::new(
                Reason::AlreadyExists,
                format!(
                    "the name `{name}`, or the audience, is taken; names are unique among users, programs and fleet"
                ),
            ),
            failure => failure,
        })
    }

    /// Removes a principal with its credentials. The last administrator stays.
    ///
    /// # Errors
    /// NOT_FOUND, IN_USE, STORE_UNAVAILABLE.
    pub async fn remove(&self, name: &str, kinds: &[Kind]) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        let all = self.list(kinds).await?;
        let mut admins = all.iter().filter(|principal| is_admin(principal));
        if admins.next().is_some_and(|admin| admin.name == name) && admins.next().is_none() {
            return Err(Failure::new(Reason::InUse, format!("`{name}` is the last administrator")));
        }
        self.store.remove_principal(name, kinds).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => not_found(name),
            failure => failure,
        })
    }

    /// Makes a credential for a user or a service account.
    ///
    /// # Errors
    /// NOT_FOUND, REQUEST_INVALID, STORE_UNAVAILABLE.
    pub async fn add_credential(
        &self,
        principal: &str,
        purpose: Purpose,
        label: &str,
        expires_at: Option<Millis>,
        networks: &[IpNet],
    ) -> Result<(CredentialRecord, Secret), Failure> {
        if label.chars().count() > 100 || postern_token::has_control(label) {
            return Err(Failure::field("label", "must be at most 100 characters without control characters"));
        }
        if expires_at.is_some_and(|end| end / 1000 * 1000 != end) {
            return Err(Failure::field("expire_time", "must be a whole second"));
        }
        let principal = self.get(principal, PEOPLE).await?;
        if purpose == Purpose::Administration && principal.roles.is_empty() {
            return Err(Failure::field("purpose", format!("`{}` has no role to administer with", principal.name)));
        }
        let (record, secret) = self.issue(&principal, purpose, label, expires_at, networks).await?;
        self.store.add_credential(record.clone()).await?;
        Ok((record, secret))
    }

    async fn issue(
        &self,
        principal: &PrincipalRecord,
        purpose: Purpose,
        label: &str,
        expires_at: Option<Millis>,
        networks: &[IpNet],
    ) -> Result<(CredentialRecord, Secret), Failure> {
        let now = self.store.now().await?;
        if expires_at.is_some_and(|end| end <= now) {
            return Err(Failure::field("expire_time", "has passed"));
        }
        self.credentials
            .issue((&principal.id, principal.kind), purpose, label, (now, expires_at), networks)
            .map_err(Failure::internal)
    }

    /// A principal's credentials, oldest first.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn credentials(&self, principal: &str) -> Result<Vec<CredentialRecord>, Failure> {
        let principal = self.get(principal, PEOPLE).await?;
        Ok(self.store.credentials(&principal.id).await?)
    }

    /// Ends a credential.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn revoke_credential(&self, id: &str) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        let mut ways_in = self.live_ways_in().await?.into_iter();
        if ways_in.next().as_deref() == Some(id) && ways_in.next().is_none() {
            let message = "this is the last credential of an administrator; make another one first";
            return Err(Failure::new(Reason::InUse, message));
        }
        self.store.revoke_credential(id).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => Failure::new(
                Reason::NotFound,
                "there is no credential of that id; `postern user token list` shows them",
            ),
            failure => failure,
        })
    }
}

fn is_admin(principal: &PrincipalRecord) -> bool {
    principal.roles.contains(&Role::Admin)
}

fn not_found(name: &str) -> Failure {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(Reason::NotFound, format!("there is no `{shown}`"))
}
