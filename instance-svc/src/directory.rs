//! Principals: users, service accounts, gateways and adapters, with their credentials.

use std::sync::Arc;

use ipnet::IpNet;
use postern_proto::{Failure, GroupName, MemberName, PrincipalName, Reason};
use postern_runtime::config::PeerAddress;
use postern_token::Secret;
use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::partners::Entitlement;
use crate::store::{
    CredentialRecord, Found, Kind, Millis, PrincipalRecord, Proof, Purpose, Role, Store, StoreError,
    TrustedIssuerRecord,
};

/// What a new fleet member is.
#[derive(Debug, Clone)]
pub enum NewMember {
    /// A public door.
    Gateway {
        /// Empty: made of the name.
        audience: String,
        /// Empty: the relay does not use it.
        address: String,
        /// Whether it is another instance's.
        managed: bool,
    },
    /// A caller of models.
    Adapter {
        /// Empty: default.
        group: String,
    },
    /// Another instance.
    Instance(Entitlement),
}

/// What a new credential is.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// For what.
    pub purpose: Purpose,
    /// What its maker calls it.
    pub label: String,
    /// When it ends.
    pub expires_at: Option<Millis>,
    /// Where it may be used from; empty for anywhere.
    pub networks: Vec<IpNet>,
    /// How it is proved; `None`: by a secret that is made for it.
    pub proof: Option<Proof>,
}

impl NewCredential {
    /// One that does not end by itself and may be used from anywhere.
    fn plain(purpose: Purpose, label: &str, proof: Option<Proof>) -> Self {
        Self { purpose, label: label.to_owned(), expires_at: None, networks: Vec::new(), proof }
    }
}

/// Groups of one principal, feature or model.
const MOST_GROUPS: usize = 32;

/// Checks the names of groups.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub fn groups(field: &str, names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.len() > MOST_GROUPS {
        return Err(Failure::field(field, format!("at most {MOST_GROUPS} groups")));
    }
    let mut groups: Vec<String> = Vec::new();
    for name in names {
        let name = GroupName::new(name).map_err(|error| Failure::field(field, error.to_string()))?;
        if !groups.iter().any(|known| known == name.as_str()) {
            groups.push(name.into());
        }
    }
    Ok(groups)
}

/// The kinds of people and programs.
pub const PEOPLE: &[Kind] = &[Kind::User, Kind::Service];
/// The kinds of processes.
pub const FLEET: &[Kind] = &[Kind::Gateway, Kind::ManagedGateway, Kind::Adapter, Kind::Instance];

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
    pub async fn add_person(
        &self,
        name: String,
        kind: Kind,
        roles: Vec<Role>,
        groups: Vec<String>,
    ) -> Result<PrincipalRecord, Failure> {
        let name = PrincipalName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let prefix = if kind == Kind::User { "usr" } else { "svc" };
        let record = self.record(prefix, name.into(), kind, roles).await?;
        let record = PrincipalRecord { groups: self::groups("groups", groups)?, ..record };
        self.add(record.clone(), None).await?;
        Ok(record)
    }

    /// Gives a user or service account other roles and groups. The last administrator stays one.
    ///
    /// # Errors
    /// REQUEST_INVALID, NOT_FOUND, IN_USE, STORE_UNAVAILABLE.
    pub async fn update(&self, name: &str, roles: &[Role], groups: Vec<String>) -> Result<PrincipalRecord, Failure> {
        let _changing = self.changing.lock().await;
        let groups = self::groups("groups", groups)?;
        if !roles.contains(&Role::Admin) {
            self.is_not_the_last_admin(name, &self.list(PEOPLE).await?)?;
        }
        self.store.update_principal(name, PEOPLE, roles, &groups).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => not_found(name),
            failure => failure,
        })
    }

    fn is_not_the_last_admin(&self, name: &str, all: &[PrincipalRecord]) -> Result<(), Failure> {
        let mut admins = all.iter().filter(|principal| is_admin(principal));
        if admins.next().is_some_and(|admin| admin.name == name) && admins.next().is_none() {
            return Err(Failure::new(Reason::InUse, format!("`{name}` is the last administrator")));
        }
        Ok(())
    }

    /// Adds a gateway or an adapter, with its credential, and the secret when that is how it is proved.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn add_member(
        &self,
        name: String,
        member: NewMember,
        proof: Option<Proof>,
    ) -> Result<(PrincipalRecord, Option<Secret>), Failure> {
        let name = MemberName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let mut trusted = None;
        let record = match member {
            NewMember::Instance(entitlement) => {
                let record = self.record("ptr", name.into(), Kind::Instance, vec![Role::Instance]).await?;
                trusted = Some(TrustedIssuerRecord {
                    principal_id: record.id.clone(),
                    issuer: entitlement.issuer.clone(),
                    spec: serde_json::to_string(&entitlement).map_err(Failure::internal)?,
                    published: String::new(),
                });
                record
            }
            NewMember::Gateway { audience, address, managed } => {
                if managed && (audience.is_empty() || address.is_empty()) {
                    let problem = "a managed gateway is known by its audience and its address";
                    return Err(Failure::field("gateway.managed", problem));
                }
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
                // One audience must not be here and elsewhere: a token for the one would be a token for the other.
                let other = if managed { Kind::Gateway } else { Kind::ManagedGateway };
                let taken = |member: &PrincipalRecord| member.audience.as_deref() == Some(audience.as_str());
                if self.list(&[other]).await?.iter().any(taken) {
                    let problem = "is that of a gateway of this instance and of another; give one of its own";
                    return Err(Failure::field("gateway.audience", problem));
                }
                let (kind, roles) = match managed {
                    true => (Kind::ManagedGateway, Vec::new()),
                    false => (Kind::Gateway, vec![Role::Gateway]),
                };
                let record = self.record("gwy", name.into(), kind, roles).await?;
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
        if record.kind == Kind::ManagedGateway {
            // It is called, and never calls.
            self.add(record.clone(), None).await?;
            return Ok((record, None));
        }
        let (credential, secret) = self.issue(&record, NewCredential::plain(Purpose::Fleet, "", proof)).await?;
        match trusted {
            None => self.add(record.clone(), Some(credential)).await?,
            Some(issuer) => {
                let added = self.store.add_trusted_issuer(record.clone(), Some(credential), issuer).await;
                added.map_err(|error| taken(error, &record.name))?;
            }
        }
        Ok((record, secret))
    }

    /// The first administrator with a credential for administration, unless there is one who can administer: an administrator
    /// whose credentials have all ended gets a new one.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS for another principal of the name, STORE_UNAVAILABLE.
    pub async fn bootstrap(&self, name: String) -> Result<Option<Secret>, Failure> {
        let _changing = self.changing.lock().await;
        let first = || NewCredential::plain(Purpose::Administration, "bootstrap", None);
        if !self.live_ways_in().await?.is_empty() {
            return Ok(None);
        }
        if let Some(admin) = self.list(PEOPLE).await?.into_iter().find(is_admin) {
            let (credential, secret) = self.issue(&admin, first()).await?;
            self.store.add_credential(credential).await?;
            return Ok(secret);
        }
        let name = PrincipalName::new(name).map_err(|error| Failure::field("name", error.to_string()))?;
        let record = self.record("usr", name.into(), Kind::User, vec![Role::Admin]).await?;
        let (credential, secret) = self.issue(&record, first()).await?;
        self.add(record, Some(credential)).await?;
        Ok(secret)
    }

    /// The live secrets with which somebody can administer as admin, by id.
    async fn live_ways_in(&self) -> Result<Vec<String>, Failure> {
        let now = self.store.now().await?;
        let mut live = Vec::new();
        for principal in self.list(PEOPLE).await?.into_iter().filter(is_admin) {
            for credential in self.store.credentials(&principal.id).await? {
                let found = Found { credential, principal: principal.clone() };
                // Only a secret is a way in by itself: an issuer may be removed, an authority replaced.
                let by_itself = matches!(found.credential.proof, Proof::Secret { .. });
                if by_itself && found.credential.purpose == Purpose::Administration && found.is_live(now) {
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
            groups: Vec::new(),
            audience: None,
            address: None,
            adapter_group: None,
            created_at: self.store.now().await?,
        })
    }

    async fn add(&self, record: PrincipalRecord, credential: Option<CredentialRecord>) -> Result<(), Failure> {
        let name = record.name.clone();
        self.store.add_principal(record, credential).await.map_err(|error| taken(error, &name))
    }

    /// Removes a principal with its credentials. The last administrator stays.
    ///
    /// # Errors
    /// NOT_FOUND, IN_USE, STORE_UNAVAILABLE.
    pub async fn remove(&self, name: &str, kinds: &[Kind]) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        let all = self.list(kinds).await?;
        self.is_not_the_last_admin(name, &all)?;
        self.store.remove_principal(name, kinds).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => not_found(name),
            failure => failure,
        })
    }

    /// Makes a credential for a user or a service account, and the secret when that is how it is proved.
    ///
    /// # Errors
    /// NOT_FOUND, REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn add_credential(
        &self,
        principal: &str,
        new: NewCredential,
    ) -> Result<(CredentialRecord, Option<Secret>), Failure> {
        if new.label.chars().count() > 100 || postern_token::has_control(&new.label) {
            return Err(Failure::field("label", "must be at most 100 characters without control characters"));
        }
        if new.expires_at.is_some_and(|end| end / 1000 * 1000 != end) {
            return Err(Failure::field("expire_time", "must be a whole second"));
        }
        let principal = self.get(principal, PEOPLE).await?;
        if new.purpose == Purpose::Administration && principal.roles.is_empty() {
            return Err(Failure::field("purpose", format!("`{}` has no role to administer with", principal.name)));
        }
        let (record, secret) = self.issue(&principal, new).await?;
        self.store.add_credential(record.clone()).await.map_err(|error| match error.into() {
            Failure { reason: Reason::AlreadyExists, .. } => {
                Failure::new(Reason::AlreadyExists, "a live credential is proved by that already")
            }
            failure => failure,
        })?;
        Ok((record, secret))
    }

    async fn issue(
        &self,
        principal: &PrincipalRecord,
        new: NewCredential,
    ) -> Result<(CredentialRecord, Option<Secret>), Failure> {
        let NewCredential { purpose, label, expires_at, networks, proof } = new;
        let created_at = self.store.now().await?;
        if expires_at.is_some_and(|end| end <= created_at) {
            return Err(Failure::field("expire_time", "has passed"));
        }
        let (proof, secret) = match proof {
            Some(proof) => (proof, None),
            None => {
                let secret = self.credentials.secret(principal.kind).map_err(Failure::internal)?;
                (Proof::Secret { mac: self.credentials.mac(&secret) }, Some(secret))
            }
        };
        let record = CredentialRecord {
            id: format!("crd_{}", uuid::Uuid::now_v7().simple()),
            principal_id: principal.id.clone(),
            purpose,
            label,
            proof,
            created_at,
            expires_at,
            revoked_at: None,
            last_used_at: None,
            networks,
        };
        Ok((record, secret))
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

fn taken(error: StoreError, name: &str) -> Failure {
    match error.into() {
        Failure { reason: Reason::AlreadyExists, .. } => {
            let message = format!(
                "the name `{name}`, or the audience, issuer or proof, is taken; names are unique among users, programs and fleet"
            );
            Failure::new(Reason::AlreadyExists, message)
        }
        failure => failure,
    }
}

fn is_admin(principal: &PrincipalRecord) -> bool {
    principal.roles.contains(&Role::Admin)
}

fn not_found(name: &str) -> Failure {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(Reason::NotFound, format!("there is no `{shown}`"))
}
