//! The relay's decisions: which gateway, and under which token. The streams themselves pass through the door untouched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::{Failure, Feature, Reason};
use postern_runtime::config::PeerAddress;
use postern_runtime::grpc;
use postern_token::Secret;
use tonic::transport::Channel;

use crate::exchange::{Asked, Exchange};
use crate::store::{Kind, Store};

/// The relay.
pub struct Relay {
    store: Arc<dyn Store>,
    exchange: Arc<Exchange>,
    instance_id: String,
    channels: Mutex<HashMap<String, Channel>>,
}

/// Where a request goes and under which token.
pub struct Onward {
    /// The gateway.
    pub channel: Channel,
    /// The access token to show there.
    pub token: String,
}

impl Relay {
    /// A relay over these parts.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, exchange: Arc<Exchange>, instance_id: String) -> Self {
        Self { store, exchange, instance_id, channels: Mutex::default() }
    }

    /// Decides. An access token goes on untouched, for the gateway to judge; for a credential a token is minted, with the
    /// user as subject and the instance as actor, for the one feature that is asked for.
    ///
    /// # Errors
    /// The exchange's, and GATEWAY_UNAVAILABLE when no gateway has an address.
    pub async fn onward(&self, presented: &str, features: &[Feature]) -> Result<Onward, Failure> {
        let principals = self.store.principals().await?;
        let gateway = principals
            .into_iter()
            .filter(|principal| principal.kind == Kind::Gateway)
            .find_map(|gateway| Some((gateway.audience?, gateway.address?)));
        let (audience, address) = gateway.ok_or_else(|| {
            Failure::new(
                Reason::GatewayUnavailable,
                "no gateway of this instance has an address; add one with `postern fleet add gateway --address`",
            )
        })?;
        let token = if Secret::looks_like_one(presented) {
            let scope = features.iter().map(|feature| feature.scope().to_owned()).collect();
            let asked =
                Asked { audience, scope, lifetime: None, actor: Some(self.instance_id.clone()), ..Asked::default() };
            self.exchange.exchange(presented, asked).await?.minted.token
        } else {
            presented.to_owned()
        };
        Ok(Onward { channel: self.channel(&address)?, token })
    }

    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let peer = PeerAddress::try_from(address.to_owned()).map_err(Failure::internal)?;
        let channel = grpc::channel(&peer).map_err(Failure::internal)?;
        // Addresses come from the registry alone; those of gateways that are gone are few and idle.
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
