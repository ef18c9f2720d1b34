//! Token exchange (RFC 8693): a credential for an access token that holds what was asked for and is allowed, never more.

use std::net::IpAddr;
use std::sync::Arc;

use postern_proto::{Failure, Feature, Reason};
use postern_runtime::instance::{FLEET_SCOPE, GENERATE_SCOPE};
use postern_token::Realm;

use crate::identity::{Identities, Shown};
use crate::issuer::{Grant, Issuer, Minted};
use crate::registry::BoundTo;
use crate::store::{Found, Kind, PrincipalRecord, Purpose, Store};

/// The scope of administrators' tokens at the instance.
pub const ADMIN_SCOPE: &str = "instance:admin";
/// How long a token lives that serves one explanation.
const EXPLAINING_SECONDS: u64 = 60;
/// What an adapter group's audience begins with.
const ADAPTER_AUDIENCE: &str = "postern-adapter:";

/// The audience of an adapter group.
#[must_use]
pub fn adapter_audience(group: &str) -> String {
    format!("{ADAPTER_AUDIENCE}{group}")
}

/// How long tokens live, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// When nothing is asked for.
    pub default: u64,
    /// At most, and the fleet's own.
    pub max: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Empty: the default for the credential.
    pub audience: String,
    /// At least one.
    pub scope: Vec<String>,
    /// Seconds.
    pub lifetime: Option<u64>,
    /// Who acts for the credential's owner, when that is known already.
    pub actor: Option<String>,
    /// The credential of who acts for the credential's owner; empty for nobody.
    pub actor_token: String,
    /// Where the request comes from; `None` when nobody knows.
    pub address: Option<IpAddr>,
    /// The SHA-256 of the certificate that the token shall be bound to, base64url.
    pub certificate: Option<String>,
}

/// A token with what it was minted for.
pub struct Exchanged {
    /// The token and its end.
    pub minted: Minted,
    /// Its audience.
    pub audience: String,
    /// Its scopes.
    pub scope: Vec<String>,
    /// Whose it is.
    pub subject: String,
    /// The credential that it was given for.
    pub credential: String,
}

impl Exchanged {
    /// What the audit log is told.
    #[must_use]
    pub fn told(&self) -> String {
        let Self { audience, scope, subject, credential, .. } = self;
        format!("{subject} by {credential} for {audience}: {}", scope.join(" "))
    }
}

/// The exchange.
pub struct Exchange {
    store: Arc<dyn Store>,
    identities: Identities,
    issuer: Arc<Issuer>,
    /// The instance's own audience.
    own_audience: String,
    lifetimes: Lifetimes,
}

impl Exchange {
    /// An exchange over these parts.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        identities: Identities,
        issuer: Arc<Issuer>,
        own_audience: String,
        lifetimes: Lifetimes,
    ) -> Self {
        Self { store, identities, issuer, own_audience, lifetimes }
    }

    /// Exchanges a proof of identity.
    ///
    /// # Errors
    /// CREDENTIAL_INVALID, ATTEMPTS_LIMITED, AUDIENCE_DENIED, SCOPE_DENIED, REQUEST_INVALID, TRUST_UNAVAILABLE, STORE_UNAVAILABLE.
    pub async fn exchange(&self, shown: Shown<'_>, asked: Asked) -> Result<Exchanged, Failure> {
        let found = self.recognise(shown, purpose(&asked.scope), None, asked.address).await?;
        self.exchange_for(found, asked).await
    }

    /// Exchanges for whom has proved to be who they are.
    ///
    /// # Errors
    /// As [`Exchange::exchange`]; CREDENTIAL_INVALID is the actor's.
    pub async fn exchange_for(&self, found: Found, asked: Asked) -> Result<Exchanged, Failure> {
        let actor = match asked.actor_token.as_str() {
            "" => asked.actor,
            token => {
                let shown = Shown::Secret(token);
                Some(self.recognise(shown, Purpose::Inference, None, asked.address).await?.principal.id)
            }
        };
        let gateways = match found.credential.purpose {
            Purpose::Inference => self.gateways().await?,
            _ => Vec::new(),
        };
        let audience = audience(&found, &asked.audience, &self.own_audience, &gateways)?;
        let scope = scope(&found, &audience, &self.own_audience, &asked.scope)?;
        let managed = gateways.iter().find(|gateway| {
            gateway.kind == Kind::ManagedGateway && gateway.audience.as_deref() == Some(audience.as_str())
        });
        if let Some(gateway) = managed {
            self.goes_there(gateway, &scope, &found.principal.groups).await?;
        }
        let grant = Grant {
            realm: if managed.is_some() { Realm::Managed } else { Realm::SelfManaged },
            subject: found.principal.id,
            groups: found.principal.groups,
            audience: audience.clone(),
            scope: scope.clone(),
            credential: found.credential.id,
            actor,
            lifetime: self.lifetime(found.credential.purpose, asked.lifetime)?,
            // The fleet is held to its certificates connection by connection; a bound token would not outlive a new one.
            certificate: asked.certificate.filter(|_| found.credential.purpose != Purpose::Fleet),
            not_after: found.credential.expires_at.and_then(|end| u64::try_from(end / 1000).ok()),
        };
        let (subject, used) = (grant.subject.clone(), grant.credential.clone());
        let groups = grant.groups.clone();
        let minted = self.issuer.mint(grant).await?;
        if !groups.is_empty() {
            // Who left a group while the token was being minted must not have it: its revocation may be older than the token.
            let now = self.store.credential_by_id(&used).await?;
            if now.is_none_or(|now| groups.iter().any(|group| !now.principal.groups.contains(group))) {
                return Err(Failure::new(Reason::CredentialInvalid, "the principal was changed meanwhile; try again"));
            }
        }
        self.store.credential_used(&used).await?;
        Ok(Exchanged { minted, audience, scope, subject, credential: used })
    }

    /// A token of a user who has not asked for it, with which the instance asks one of its own gateways what a request of theirs would
    /// meet. Nobody else is shown it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, TRUST_UNAVAILABLE.
    pub async fn mint_to_explain(
        &self,
        subject: PrincipalRecord,
        feature: Feature,
        (audience, actor): (String, String),
    ) -> Result<Minted, Failure> {
        let grant = Grant {
            realm: Realm::SelfManaged,
            subject: subject.id,
            groups: subject.groups,
            audience,
            scope: vec![feature.scope().to_owned()],
            credential: actor.clone(),
            actor: Some(actor),
            lifetime: EXPLAINING_SECONDS,
            certificate: None,
            not_after: None,
        };
        self.issuer.mint(grant).await
    }

    /// Who it is.
    ///
    /// # Errors
    /// As [`Identities::recognise`].
    pub async fn recognise(
        &self,
        shown: Shown<'_>,
        purpose: Purpose,
        claimed: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Found, Failure> {
        self.identities.recognise(shown, purpose, claimed, address).await
    }

    async fn gateways(&self) -> Result<Vec<PrincipalRecord>, Failure> {
        let all = self.store.principals().await?;
        let gateway = |principal: &PrincipalRecord| matches!(principal.kind, Kind::Gateway | Kind::ManagedGateway);
        Ok(all.into_iter().filter(gateway).collect())
    }

    /// Whether all these features are bound to this gateway of another instance, and for members of these groups. Its own instance knows
    /// nothing of bindings and groups here, so a token for it is held to them when it is made.
    async fn goes_there(&self, gateway: &PrincipalRecord, scope: &[String], groups: &[String]) -> Result<(), Failure> {
        let bindings = crate::registry::bindings(&*self.store).await?;
        for feature in Feature::ALL.into_iter().filter(|feature| scope.iter().any(|one| one == feature.scope())) {
            let binding = bindings.get(&feature);
            let bound = binding.filter(|binding| binding.to == BoundTo::Managed(gateway.name.clone()));
            let Some(bound) = bound else {
                let message = format!("the feature `{feature}` is not bound to the gateway `{}`", gateway.name);
                return Err(Failure::new(Reason::ScopeDenied, message));
            };
            if !bound.groups.is_empty() && !groups.iter().any(|group| bound.groups.contains(group)) {
                let message = format!("the feature `{feature}` is for groups that you are not in");
                return Err(Failure::new(Reason::GroupMissing, message));
            }
        }
        Ok(())
    }

    fn lifetime(&self, purpose: Purpose, asked: Option<u64>) -> Result<u64, Failure> {
        match asked {
            None if purpose == Purpose::Fleet => Ok(self.lifetimes.max),
            None => Ok(self.lifetimes.default),
            Some(seconds) if (1..=self.lifetimes.max).contains(&seconds) => Ok(seconds),
            Some(_) => Err(Failure::field("lifetime", format!("must be 1 to {} seconds", self.lifetimes.max))),
        }
    }
}

/// What a credential must be for, to be given these scopes.
#[must_use]
pub fn purpose(scope: &[String]) -> Purpose {
    let asked = |of: &[&str]| scope.iter().any(|one| of.contains(&one.as_str()));
    if asked(&[ADMIN_SCOPE]) {
        Purpose::Administration
    } else if asked(&[FLEET_SCOPE, GENERATE_SCOPE]) {
        Purpose::Fleet
    } else {
        Purpose::Inference
    }
}

/// The audience of the new token.
fn audience(found: &Found, asked: &str, own: &str, gateways: &[PrincipalRecord]) -> Result<String, Failure> {
    let denied = |message: &str| Failure::new(Reason::AudienceDenied, message);
    match (found.credential.purpose, asked) {
        (Purpose::Inference, "") => match own_gateways(gateways).as_slice() {
            [only] => Ok(only.audience.clone().unwrap_or_default()),
            [] => Err(denied("there is no gateway yet; an administrator adds one with `postern fleet add gateway`")),
            _ => Err(Failure::field("audience", "there are several gateways; say which one's audience is meant")),
        },
        (Purpose::Inference, asked) => {
            let known = gateways.iter().any(|gateway| gateway.audience.as_deref() == Some(asked));
            known
                .then(|| asked.to_owned())
                .ok_or_else(|| denied("this credential is for inference: the audience must be a gateway's"))
        }
        (Purpose::Administration | Purpose::Fleet, asked) if asked.is_empty() || asked == own => Ok(own.to_owned()),
        (Purpose::Administration, _) => Err(denied("this credential is for administration of the instance only")),
        (Purpose::Fleet, asked) => {
            let allowed = found.principal.kind == Kind::Gateway && asked.starts_with(ADAPTER_AUDIENCE);
            allowed
                .then(|| asked.to_owned())
                .ok_or_else(|| denied("this member of the fleet may not call that audience"))
        }
    }
}

/// Those that are meant where nobody says which.
fn own_gateways(gateways: &[PrincipalRecord]) -> Vec<&PrincipalRecord> {
    gateways.iter().filter(|gateway| gateway.kind == Kind::Gateway).collect()
}

/// The scopes of the new token: those asked for, each of which must be allowed.
fn scope(found: &Found, audience: &str, own: &str, asked: &[String]) -> Result<Vec<String>, Failure> {
    if asked.is_empty() {
        return Err(Failure::field("scope", "ask for at least one scope, such as feature:chat"));
    }
    let allowed: Vec<&str> = match found.credential.purpose {
        Purpose::Inference => Feature::ALL.iter().map(|feature| feature.scope()).collect(),
        Purpose::Administration => vec![ADMIN_SCOPE],
        Purpose::Fleet if audience == own => vec![FLEET_SCOPE],
        Purpose::Fleet => vec![GENERATE_SCOPE],
    };
    let mut scope: Vec<String> = Vec::new();
    for one in asked {
        if !allowed.contains(&one.as_str()) {
            let shown: String = one.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Failure::new(
                Reason::ScopeDenied,
                format!("the scope `{shown}` is not allowed for this credential; allowed are: {}", allowed.join(" ")),
            ));
        }
        if !scope.contains(one) {
            scope.push(one.clone());
        }
    }
    Ok(scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CredentialRecord, Proof};

    const OWN: &str = "https://instance.test";

    fn found(kind: Kind, purpose: Purpose) -> Found {
        Found {
            credential: CredentialRecord {
                id: "crd_1".to_owned(),
                principal_id: "p_1".to_owned(),
                purpose,
                label: String::new(),
                proof: Proof::Secret { mac: String::new() },
                created_at: 0,
                expires_at: None,
                revoked_at: None,
                last_used_at: None,
                networks: Vec::new(),
            },
            principal: principal(kind, None),
        }
    }

    fn principal(kind: Kind, audience: Option<&str>) -> PrincipalRecord {
        PrincipalRecord {
            id: "p_1".to_owned(),
            name: "p".to_owned(),
            kind,
            roles: Vec::new(),
            groups: Vec::new(),
            audience: audience.map(str::to_owned),
            address: None,
            adapter_group: None,
            created_at: 0,
        }
    }

    #[test]
    fn each_credential_reaches_its_own_audiences_only() {
        let gateway = |name| principal(Kind::Gateway, Some(name));
        let (one, two) = ([gateway("g1")], [gateway("g1"), gateway("g2")]);
        let cases: [(Kind, Purpose, &str, &[PrincipalRecord], Result<&str, Reason>); 13] = [
            (Kind::User, Purpose::Inference, "", &one, Ok("g1")),
            (Kind::User, Purpose::Inference, "", &two, Err(Reason::RequestInvalid)),
            (Kind::User, Purpose::Inference, "", &[], Err(Reason::AudienceDenied)),
            (Kind::User, Purpose::Inference, "g2", &two, Ok("g2")),
            (Kind::User, Purpose::Inference, "g3", &two, Err(Reason::AudienceDenied)),
            (Kind::User, Purpose::Inference, OWN, &one, Err(Reason::AudienceDenied)),
            (Kind::Service, Purpose::Inference, "postern-adapter:default", &one, Err(Reason::AudienceDenied)),
            (Kind::User, Purpose::Administration, "", &one, Ok(OWN)),
            (Kind::User, Purpose::Administration, "g1", &one, Err(Reason::AudienceDenied)),
            (Kind::Gateway, Purpose::Fleet, "", &[], Ok(OWN)),
            (Kind::Gateway, Purpose::Fleet, "postern-adapter:default", &[], Ok("postern-adapter:default")),
            (Kind::Adapter, Purpose::Fleet, "postern-adapter:default", &[], Err(Reason::AudienceDenied)),
            (Kind::Gateway, Purpose::Fleet, "g1", &one, Err(Reason::AudienceDenied)),
        ];
        for (kind, purpose, asked, gateways, expected) in cases {
            let result = audience(&found(kind, purpose), asked, OWN, gateways).map_err(|failure| failure.reason);
            assert_eq!(result, expected.map(str::to_owned), "{kind:?} {purpose:?} {asked}");
        }
    }

    #[test]
    fn a_token_holds_what_was_asked_for_and_nothing_more() {
        let ask = |purpose, audience, asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|scope| (*scope).to_owned()).collect();
            scope(&found(Kind::Gateway, purpose), audience, OWN, &asked).map_err(|failure| failure.reason)
        };
        assert_eq!(
            ask(Purpose::Inference, "g1", &["feature:chat", "feature:chat"]),
            Ok(vec!["feature:chat".to_owned()])
        );
        assert_eq!(ask(Purpose::Inference, "g1", &[]), Err(Reason::RequestInvalid));
        assert_eq!(ask(Purpose::Inference, "g1", &["feature:chat", "instance:admin"]), Err(Reason::ScopeDenied));
        assert_eq!(ask(Purpose::Administration, OWN, &["feature:chat"]), Err(Reason::ScopeDenied));
        assert_eq!(ask(Purpose::Fleet, OWN, &["model:generate"]), Err(Reason::ScopeDenied));
        assert_eq!(ask(Purpose::Fleet, "postern-adapter:x", &["instance:fleet"]), Err(Reason::ScopeDenied));
        assert_eq!(
            ask(Purpose::Fleet, "postern-adapter:x", &["model:generate"]),
            Ok(vec!["model:generate".to_owned()])
        );
    }
}
