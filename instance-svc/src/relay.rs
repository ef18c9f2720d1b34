//! The relay's decisions: which gateway, and under which token. The streams themselves pass through the door untouched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::config::PeerAddress;
use postern_runtime::grpc::{self, Dialer};
use postern_runtime::instance::RELAY_SCOPE;
use postern_token::{Realm, Secret};
use tonic::transport::Channel;

use crate::audit::{Audit, Event};
use crate::exchange::{Asked, Exchange};
use crate::identity::Shown;
use crate::issuer::{Grant, Issuer};
use crate::registry::BoundTo;
use crate::store::{Kind, PrincipalRecord, Purpose, Store};
use crate::trust::Trust;

/// The relay.
pub struct Relay {
    store: Arc<dyn Store>,
    exchange: Arc<Exchange>,
    issuer: Arc<Issuer>,
    instance_id: String,
    dialer: Dialer,
    channels: Mutex<HashMap<String, Channel>>,
    /// The tokens with which the instance vouches for its callers' addresses, by audience.
    vouchers: tokio::sync::Mutex<HashMap<String, Voucher>>,
    trust: Arc<Trust>,
    audit: Audit,
    /// The tokens that were minted for credentials, by all that they were minted of.
    minted: moka::sync::Cache<String, String>,
}

#[derive(Clone)]
struct Voucher {
    token: String,
    expires: u64,
    kid: String,
}

/// A voucher with less life than this, in seconds, is made anew.
const LEAST_LIFE: u64 = 60;
const VOUCHER_SECONDS: u64 = 300;
/// Tokens that serve again, and for how long.
const REMEMBERED: u64 = 10_000;
const REUSED_FOR: Duration = Duration::from_secs(60);

/// Where a request goes and under which token.
pub struct Onward {
    /// The gateway.
    pub channel: Channel,
    /// The access token to show there.
    pub token: String,
    /// The token that vouches for the caller's address; a gateway of another instance would not believe it.
    pub voucher: Option<String>,
}

/// Whether a token says that it is for this audience. Whether it is good, its gateway judges.
fn is_for(token: &str, audience: &str) -> bool {
    let payload = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let claims = payload.and_then(|payload| serde_json::from_slice::<Audience>(&payload).ok());
    claims.is_some_and(|claims| claims.aud == audience)
}

#[derive(serde::Deserialize)]
struct Audience {
    aud: String,
}

impl Relay {
    /// A relay over these parts.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        exchange: Arc<Exchange>,
        issuer: Arc<Issuer>,
        (instance_id, dialer): (String, Dialer),
        (trust, audit): (Arc<Trust>, Audit),
    ) -> Self {
        let (channels, vouchers) = (Mutex::default(), tokio::sync::Mutex::default());
        let minted = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(REUSED_FOR).build();
        Self { store, exchange, issuer, instance_id, dialer, channels, vouchers, trust, audit, minted }
    }

    /// Decides. An access token goes on untouched, for the gateway to judge; for a credential a token is minted, with the
    /// user as subject and the instance as actor, for the one feature that is asked for.
    ///
    /// # Errors
    /// The exchange's, and GATEWAY_UNAVAILABLE when no gateway has an address.
    pub async fn onward(
        &self,
        presented: &str,
        features: &[Feature],
        caller: Option<IpAddr>,
    ) -> Result<Onward, Failure> {
        let (kind, audience, address) = self.gateway_of(features).await?;
        let token = if Secret::looks_like_one(presented) {
            self.minted_for(presented, features, caller, &audience).await?
        } else if kind == Kind::Gateway || is_for(presented, &audience) {
            presented.to_owned()
        } else {
            // Whoever runs that gateway could use it at the one that it is for.
            let message = "the token is for another gateway than the one that the feature is bound to";
            return Err(Failure::new(Reason::AudienceWrong, message));
        };
        let voucher = match kind {
            Kind::Gateway => Some(self.voucher(&audience).await?),
            _ => None,
        };
        Ok(Onward { channel: self.channel(&address)?, token, voucher })
    }

    /// Where a request of this user for this feature would go, to ask what it would meet there.
    ///
    /// # Errors
    /// GATEWAY_UNAVAILABLE when no gateway has an address, and the mint's.
    pub async fn to_explain(&self, subject: PrincipalRecord, feature: Feature) -> Result<Onward, Failure> {
        let (kind, audience, address) = self.gateway_of(&[feature]).await?;
        if kind != Kind::Gateway {
            return Err(Failure::internal("a gateway of another instance is not asked about users of this one"));
        }
        let minted =
            self.exchange.mint_to_explain(subject, feature, (audience.clone(), self.instance_id.clone())).await?;
        let voucher = Some(self.voucher(&audience).await?);
        Ok(Onward { channel: self.channel(&address)?, token: minted.token, voucher })
    }

    /// Where requests for these features go: to the gateway of another instance that a feature is bound to, else to this instance's own.
    /// Nothing falls back from the one to the other.
    async fn gateway_of(&self, features: &[Feature]) -> Result<(Kind, String, String), Failure> {
        let members = self.store.principals().await?;
        let reached = |member: PrincipalRecord| Some((member.kind, member.audience?, member.address?));
        let bindings = crate::registry::bindings(&*self.store).await?;
        if let [feature] = features
            && let Some(BoundTo::Managed(name)) = bindings.get(feature).map(|binding| &binding.to)
        {
            let bound = |member: &PrincipalRecord| member.kind == Kind::ManagedGateway && member.name == *name;
            return members.into_iter().find(bound).and_then(reached).ok_or_else(|| {
                let message =
                    format!("the feature `{feature}` is bound to a gateway that is not in the fleet any more");
                Failure::new(Reason::GatewayUnavailable, message)
            });
        }
        if let Some(gateway) = members.into_iter().filter(|member| member.kind == Kind::Gateway).find_map(reached) {
            return Ok(gateway);
        }
        // Where there is no gateway to say it, a feature that is off is still off.
        if let [feature] = features
            && !bindings.contains_key(feature)
        {
            let message = format!("the feature `{feature}` is bound to no model; an administrator can bind it");
            return Err(Failure::new(Reason::FeatureUnbound, message));
        }
        let message = "no gateway of this instance has an address; add one with `postern fleet add gateway --address`";
        Err(Failure::new(Reason::GatewayUnavailable, message))
    }

    /// A token for whom this credential is. The credential is looked up each time; the token serves again while nothing that it says,
    /// no key and no revocation has changed.
    async fn minted_for(
        &self,
        presented: &str,
        features: &[Feature],
        caller: Option<IpAddr>,
        audience: &str,
    ) -> Result<String, Failure> {
        // Before the credential is looked up: what changes meanwhile counts for the next.
        let sequence = self.trust.sequence();
        let found = self.exchange.recognise(Shown::Secret(presented), Purpose::Inference, None, caller).await?;
        let scope: Vec<String> = features.iter().map(|feature| feature.scope().to_owned()).collect();
        let (credential, groups) = (found.credential.id.clone(), found.principal.groups.join(" "));
        let made_of = format!("{sequence}\n{credential}\n{groups}\n{audience}\n{}", scope.join(" "));
        if let Some(token) = self.minted.get(&made_of) {
            return Ok(token);
        }
        let ends = found.credential.expires_at;
        let (audience, actor) = (audience.to_owned(), Some(self.instance_id.clone()));
        let asked = Asked { audience, scope, actor, address: caller, ..Asked::default() };
        let exchanged = self.exchange.exchange_for(found, asked).await?;
        let (target, actor) = (exchanged.told(), exchanged.subject.clone());
        let (action, outcome) = ("relay".to_owned(), "OK".to_owned());
        self.audit.record(Event { action, actor, target, address: caller, outcome, ..Event::default() }).await?;
        // One whose credential ends gets a token of its own each time, for that ends with it.
        if ends.is_none() && exchanged.minted.expires > self.issuer.now() + 2 * REUSED_FOR.as_secs() {
            self.minted.insert(made_of, exchanged.minted.token.clone());
        }
        Ok(exchanged.minted.token)
    }

    async fn voucher(&self, audience: &str) -> Result<String, Failure> {
        let mut vouchers = self.vouchers.lock().await;
        let kid = self.issuer.kid();
        let good = |voucher: &&Voucher| voucher.expires > self.issuer.now() + LEAST_LIFE && voucher.kid == kid;
        if let Some(voucher) = vouchers.get(audience).filter(good) {
            return Ok(voucher.token.clone());
        }
        let grant = Grant {
            realm: Realm::SelfManaged,
            subject: self.instance_id.clone(),
            groups: Vec::new(),
            audience: audience.to_owned(),
            scope: vec![RELAY_SCOPE.to_owned()],
            credential: self.instance_id.clone(),
            actor: None,
            lifetime: VOUCHER_SECONDS,
            certificate: None,
            not_after: None,
        };
        let minted = self.issuer.mint(grant).await?;
        let voucher = Voucher { token: minted.token.clone(), expires: minted.expires, kid };
        // Audiences are those of the few gateways.
        vouchers.insert(audience.to_owned(), voucher);
        Ok(minted.token)
    }

    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let peer = PeerAddress::try_from(address.to_owned()).map_err(Failure::internal)?;
        let channel = grpc::channel(&peer, &self.dialer).map_err(Failure::internal)?;
        // Addresses come from the registry alone; those of gateways that are gone are few and idle.
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
