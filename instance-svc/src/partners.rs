//! Other instances whose tokens the gateways of this one take: what each is entitled to, and what it publishes. Whatever it says, it
//! says of itself alone: its keys verify its own tokens, its revocations refuse them.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use postern_proto::instance::v1 as pb;
use postern_proto::{Failure, Feature};
use postern_runtime::trust::{read_revocation, wire_revocation};
use postern_token::{PublicKey, Revocation, read_jwks};
use serde::{Deserialize, Serialize};

use crate::store::{Store, TrustedIssuerRecord};

/// Keys and revocations of one instance.
const MOST_KEYS: usize = 64;
/// More than these collapse before they are published.
pub const MOST_REVOCATIONS: usize = 1000;
const MOST_ID_BYTES: usize = 128;
const MOST_KEY_BYTES: usize = 2048;
const LONGEST_LIFE: u64 = 900;

/// What an instance is entitled to, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlement {
    /// Its `iss`.
    pub issuer: String,
    /// Its `postern_instance`.
    pub instance_id: String,
    /// The scopes that its tokens may use.
    pub scopes: Vec<String>,
    /// The groups that its users count as members of.
    pub groups: Vec<String>,
    /// Where callers with its tokens may be; empty for anywhere.
    pub client_networks: Vec<IpNet>,
    /// The most that `exp - iat` may be, in seconds.
    pub max_lifetime: u64,
    /// Its keys, each as a JWK; empty: it publishes them itself.
    pub keys: Vec<String>,
}

/// What an instance has published, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Published {
    keys: Vec<String>,
    revocations: Vec<Revocation>,
}

impl Entitlement {
    /// Checks what an administrator wrote.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field.
    pub fn check(given: pb::fleet_member::Instance, own_issuer: &str) -> Result<Self, Failure> {
        let pb::fleet_member::Instance {
            issuer,
            instance_id,
            scopes,
            groups,
            client_networks,
            max_lifetime,
            jwks_json,
            // Output only.
            known_keys: _,
        } = given;
        let good = |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !good(&issuer) || issuer == own_issuer {
            return Err(Failure::field("instance.issuer", "must be another instance's issuer URL"));
        }
        if !good(&instance_id) {
            return Err(Failure::field("instance.instance_id", "must be the other instance's id"));
        }
        let known = |scope: &String| Feature::ALL.iter().any(|feature| feature.scope() == scope);
        if scopes.is_empty() || !scopes.iter().all(known) {
            let all = Feature::ALL.map(Feature::scope).join(", ");
            return Err(Failure::field("instance.scopes", format!("must be at least one of {all}")));
        }
        let max_lifetime = match max_lifetime.map(Duration::try_from) {
            None => LONGEST_LIFE,
            Some(Ok(given)) if (1..=LONGEST_LIFE).contains(&given.as_secs()) => given.as_secs(),
            Some(_) => return Err(Failure::field("instance.max_lifetime", "must be 1 to 900 seconds")),
        };
        let keys = match jwks_json.as_str() {
            "" => Vec::new(),
            text => read_jwks(text.as_bytes())
                .map_err(|error| Failure::field("instance.jwks_json", error.to_string()))?
                .iter()
                .map(PublicKey::jwk_json)
                .collect(),
        };
        Ok(Self {
            issuer,
            instance_id,
            scopes,
            groups: crate::directory::groups("instance.groups", groups)?,
            client_networks: crate::model::networks("instance.client_networks", &client_networks)?,
            max_lifetime,
            keys,
        })
    }
}

/// The other instances.
pub struct Partners {
    store: Arc<dyn Store>,
}

impl Partners {
    /// Those in this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// All of them, as gateways are told.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn issuers(&self) -> Result<Vec<pb::TrustedIssuer>, Failure> {
        Ok(self.all().await?.into_iter().map(|(_, issuer)| issuer).collect())
    }

    /// The one of this member of the fleet.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn of(&self, principal_id: &str) -> Result<Option<pb::TrustedIssuer>, Failure> {
        Ok(self.all().await?.into_iter().find(|(id, _)| id == principal_id).map(|(_, issuer)| issuer))
    }

    async fn all(&self) -> Result<Vec<(String, pb::TrustedIssuer)>, Failure> {
        let read = |record: TrustedIssuerRecord| {
            let entitled: Entitlement = serde_json::from_str(&record.spec).map_err(Failure::internal)?;
            let published: Published = match record.published.as_str() {
                "" => Published::default(),
                text => serde_json::from_str(text).map_err(Failure::internal)?,
            };
            Ok((record.principal_id, wire(entitled, published)))
        };
        self.store.trusted_issuers().await?.into_iter().map(read).collect()
    }

    /// Takes in what a member of the fleet publishes; the number of the newest that is there then.
    ///
    /// # Errors
    /// REQUEST_INVALID, NOT_FOUND for one that was removed, STORE_UNAVAILABLE.
    pub async fn publish(&self, principal_id: &str, said: pb::PublishTrustRequest) -> Result<u64, Failure> {
        let pb::PublishTrustRequest { sequence, jwk_json, revocations } = said;
        if !(1..=MOST_KEYS).contains(&jwk_json.len()) {
            return Err(Failure::field("jwk_json", format!("must be 1 to {MOST_KEYS} keys")));
        }
        if revocations.len() > MOST_REVOCATIONS {
            return Err(Failure::field("revocations", format!("at most {MOST_REVOCATIONS}")));
        }
        let key = |jwk: &String| {
            if jwk.len() > MOST_KEY_BYTES {
                return Err(Failure::field("jwk_json", format!("at most {MOST_KEY_BYTES} bytes a key")));
            }
            let key = PublicKey::foreign(jwk.as_bytes()).map_err(|error| Failure::field("jwk_json", error.to_string()));
            key.map(|key| key.jwk_json())
        };
        let published = Published {
            keys: jwk_json.iter().map(key).collect::<Result<_, _>>()?,
            revocations: revocations
                .into_iter()
                .map(|wire| {
                    let read =
                        read_revocation(wire).map_err(|failure| Failure::field("revocations", failure.message))?;
                    // The whole of it goes to every gateway.
                    if read.longest_id() > MOST_ID_BYTES {
                        return Err(Failure::field("revocations", format!("ids of at most {MOST_ID_BYTES} bytes")));
                    }
                    Ok(read)
                })
                .collect::<Result<_, _>>()?,
        };
        let text = serde_json::to_string(&published).map_err(Failure::internal)?;
        Ok(self.store.publish_trust(principal_id, sequence, &text).await?)
    }
}

fn wire(entitled: Entitlement, published: Published) -> pb::TrustedIssuer {
    let Entitlement { issuer, instance_id, scopes, groups, client_networks, max_lifetime, keys } = entitled;
    pb::TrustedIssuer {
        issuer,
        instance_id,
        scopes,
        groups,
        client_networks: client_networks.iter().map(ToString::to_string).collect(),
        max_lifetime: prost_types::Duration::try_from(Duration::from_secs(max_lifetime)).ok(),
        // Keys that an administrator gave are the only ones.
        jwk_json: if keys.is_empty() { published.keys } else { keys },
        revocations: published.revocations.into_iter().map(wire_revocation).collect(),
    }
}
