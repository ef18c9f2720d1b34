//! The endpoints that this adapter serves now: its group's, as the instance last said. Credentials are in memory only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Uri;
use ipnet::IpNet;
use postern_egress::{Client, Connector, Egress, Policy};
use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use secrecy::SecretString;

use crate::provider::{self, Provider, Target};

/// A place where a model is served, ready to be called.
pub struct Endpoint {
    /// What routes name.
    pub id: String,
    /// The registered model.
    pub model: String,
    /// The wire format.
    pub provider: &'static dyn Provider,
    /// Calls it, under its own policy.
    pub client: Client,
    identifier: String,
    api_key: Option<SecretString>,
    connection: Connection,
}

/// What a client depends on; while it stays the same, so do the client and its connections.
#[derive(Clone, PartialEq, Eq)]
struct Connection {
    url: String,
    networks: Vec<IpNet>,
    connect_timeout: Duration,
}

impl Endpoint {
    /// What the provider must know.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        Target { model: &self.model, identifier: &self.identifier, api_key: self.api_key.as_ref() }
    }

    /// The URL of a path of the API.
    ///
    /// # Errors
    /// INTERNAL when the two make no URL.
    pub fn url(&self, path: &str) -> Result<Uri, Failure> {
        format!("{}{path}", self.connection.url).parse().map_err(Failure::internal)
    }

    /// The key, to take it out of what a server said.
    #[must_use]
    pub const fn api_key(&self) -> Option<&SecretString> {
        self.api_key.as_ref()
    }

    /// A connector under the same policy, to probe with.
    #[must_use]
    pub fn connector(&self) -> Connector {
        Connector::new(Policy::new(self.connection.networks.iter().copied()), self.connection.connect_timeout)
    }
}

/// All endpoints by id.
#[derive(Clone)]
pub struct Endpoints {
    egress: Egress,
    current: Arc<ArcSwap<HashMap<String, Arc<Endpoint>>>>,
}

impl Endpoints {
    /// None yet.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self { egress, current: Arc::default() }
    }

    /// The endpoint of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Endpoint>> {
        self.current.load().get(id).cloned()
    }

    /// Puts a snapshot to use. Streams that are under way keep the endpoint they began with.
    pub fn replace(&self, endpoints: Vec<pb::AdapterEndpoint>) {
        let before = self.current.load();
        let mut after = HashMap::new();
        for wire in endpoints {
            let (id, model) = (wire.id.clone(), wire.model.clone());
            match self.endpoint(wire, before.get(&id)) {
                Ok(endpoint) => {
                    after.insert(id, Arc::new(endpoint));
                }
                Err(problem) => {
                    tracing::error!(endpoint.id = id, model.name = model, problem, "an endpoint cannot be served");
                }
            }
        }
        tracing::info!(endpoints = after.len(), "endpoints in use");
        self.current.store(Arc::new(after));
    }

    fn endpoint(&self, wire: pb::AdapterEndpoint, before: Option<&Arc<Endpoint>>) -> Result<Endpoint, String> {
        use pb::model_credential::Credential;
        let pb::AdapterEndpoint {
            id,
            model,
            provider,
            url,
            identifier,
            credential,
            endpoint_networks,
            timers,
            // For the providers of later versions.
            family: _,
        } = wire;
        let provider =
            provider::by_name(&provider).ok_or_else(|| format!("the provider `{provider}` is not offered here"))?;
        let networks = endpoint_networks
            .iter()
            .map(|network| network.parse::<IpNet>().map_err(|error| format!("{network}: {error}")))
            .collect::<Result<_, _>>()?;
        let connect = timers.and_then(|timers| timers.connect).and_then(|connect| Duration::try_from(connect).ok());
        let connection = Connection { url, networks, connect_timeout: connect.unwrap_or(Duration::from_secs(5)) };
        let client = match before.filter(|before| before.connection == connection) {
            Some(before) => before.client.clone(),
            None => {
                let policy = Policy::new(connection.networks.iter().copied());
                self.egress.client(policy, connection.connect_timeout)
            }
        };
        let api_key = match credential.and_then(|credential| credential.credential) {
            Some(Credential::ApiKey(pb::ApiKey { value })) => Some(value.into()),
            Some(Credential::None(pb::NoCredential {})) => None,
            None => return Err("its credential is of a kind that is not known here".to_owned()),
        };
        Ok(Endpoint { id, model, provider, client, identifier, api_key, connection })
    }
}
