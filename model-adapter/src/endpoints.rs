//! The endpoints that this adapter serves now: its group's, as the instance last said. Credentials are in memory only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use postern_egress::{Client, ClientTls, Connector, Egress, OwnIdentity};
use postern_proto::Failure;
use postern_proto::completion::v1::Thought;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::aws_identity::Source;
use postern_proto::model::v1::{Generation, generation};
use secrecy::SecretString;

use crate::aws::{AwsCredentials, is_bedrock};
use crate::google::GoogleTokens;
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
    /// Connects as its client does, to probe with.
    pub connector: Connector,
    /// Headers beside those of the API.
    pub headers: HeaderMap,
    /// Signs what is sent, where the server is AWS's.
    pub aws: Option<Arc<AwsCredentials>>,
    /// Gets what is shown, where the server is Google's.
    pub google: Option<Arc<GoogleTokens>>,
    identifier: String,
    api_key: Option<SecretString>,
    capabilities: pb::Capabilities,
    connection: Connection,
}

/// Idle connections to a server of which nobody says how much it takes.
const UNBOUNDED_IDLE: usize = 64;

/// What a client depends on; while it stays the same, so do the client and its connections.
#[derive(Clone, PartialEq, Eq)]
struct Connection {
    url: String,
    networks: Vec<IpNet>,
    connect_timeout: Duration,
    tls: ClientTls,
    /// Connections that are kept while nothing is asked.
    idle: usize,
}

impl Endpoint {
    /// What the provider must know.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        Target {
            model: &self.model,
            identifier: &self.identifier,
            api_key: self.api_key.as_ref(),
            capabilities: &self.capabilities,
        }
    }

    /// The URL of a path of the API.
    ///
    /// # Errors
    /// INTERNAL when the two make no URL.
    pub fn url(&self, path: &str) -> Result<Uri, Failure> {
        format!("{}{path}", self.connection.url).parse().map_err(Failure::internal)
    }

    /// Requests that may be at work at once.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.connection.idle.max(1)
    }

    /// The secrets, to take them out of what a server said.
    pub fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let own = self.api_key.iter().cloned().chain(self.aws.iter().flat_map(|aws| aws.secrets()));
        own.chain(self.google.as_ref().and_then(|google| google.shown()))
    }

    /// Marks what the server signed as this one's: it means nothing to another, nor to another model's.
    pub fn mark(&self, signature: &mut String) {
        if !signature.is_empty() {
            *signature = format!("{}.{signature}", self.signer());
        }
    }

    /// Takes back what this server signed, and leaves out what another did.
    pub fn take_back(&self, generation: &mut Generation) {
        let Some(generation::Prompt::Chat(chat)) = &mut generation.prompt else { return };
        let signer = self.signer();
        let unmarked = |signature: &str| {
            signature.strip_prefix(&signer).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned)
        };
        for message in &mut chat.messages {
            message.thoughts = std::mem::take(&mut message.thoughts)
                .into_iter()
                .filter_map(|thought| Some(Thought { signature: unmarked(&thought.signature)?, ..thought }))
                .collect();
            for call in &mut message.tool_calls {
                call.signature = unmarked(&call.signature).unwrap_or_default();
            }
        }
    }

    /// A short name for the model at its place.
    fn signer(&self) -> String {
        let place = [self.provider.name(), &self.connection.url, &self.model, &self.identifier].join("\n");
        format!("{:08x}", crc32fast::hash(place.as_bytes()))
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
            // Is in what it can do.
            family: _,
            capabilities,
            headers,
            ca_pem,
            max_concurrency,
        } = wire;
        let provider =
            provider::by_name(&provider).ok_or_else(|| format!("the provider `{provider}` is not offered here"))?;
        let networks = endpoint_networks
            .iter()
            .map(|network| network.parse::<IpNet>().map_err(|error| format!("{network}: {error}")))
            .collect::<Result<_, _>>()?;
        let connect = timers.and_then(|timers| timers.connect).and_then(|connect| Duration::try_from(connect).ok());
        let pb::ModelCredential { credential, client_certificate } = credential.unwrap_or_default();
        let certificate = client_certificate.map(|shown| (shown.certificate_pem, shown.private_key_pem));
        let tls = ClientTls { ca_pem, certificate };
        let connect_timeout = connect.unwrap_or(Duration::from_secs(5));
        // As many as may be at work at once; a model without a bound keeps some.
        let idle = usize::try_from(max_concurrency).ok().filter(|most| *most > 0).unwrap_or(UNBOUNDED_IDLE);
        let connection = Connection { url, networks, connect_timeout, tls, idle };
        self.stays_within(&connection)?;
        let connector = self.egress.connector(connection.networks.iter().copied(), connect_timeout);
        let client = match before.filter(|before| before.connection == connection) {
            Some(before) => before.client.clone(),
            None => self
                .egress
                .client_with(&connector, &connection.tls, connection.idle)
                .map_err(|problem| problem.to_string())?,
        };
        let (mut api_key, mut aws, mut google) = (None, None, None);
        match credential {
            Some(Credential::ApiKey(pb::ApiKey { value })) => api_key = Some(value.into()),
            Some(Credential::Aws(key)) => aws = Some(Arc::new(AwsCredentials::fixed(key))),
            Some(Credential::AwsIdentity(identity)) => aws = Some(self.aws(identity, &connection, before)?),
            Some(Credential::Google(pb::GoogleServiceAccount { key_json })) => {
                google = Some(self.google(key_json, &connection, before)?);
            }
            Some(Credential::None(pb::NoCredential {})) => {}
            None => return Err("its credential is of a kind that is not known here".to_owned()),
        }
        let header = |pb::Header { name, value }| {
            let name = name.parse::<HeaderName>().map_err(|error| error.to_string())?;
            Ok((name, HeaderValue::from_str(&value).map_err(|error| error.to_string())?))
        };
        let headers = headers.into_iter().map(header).collect::<Result<_, String>>()?;
        let capabilities = capabilities.unwrap_or_default();
        Ok(Endpoint {
            id,
            model,
            provider,
            client,
            headers,
            aws,
            google,
            identifier,
            api_key,
            capabilities,
            connector,
            connection,
        })
    }

    /// Credentials that are got; those of before, with what they have got, where they are the same.
    fn aws(
        &self,
        identity: pb::AwsIdentity,
        connection: &Connection,
        before: Option<&Arc<Endpoint>>,
    ) -> Result<Arc<AwsCredentials>, String> {
        let same = |before: &&Arc<Endpoint>| before.connection == *connection;
        let kept = before.filter(same).and_then(|before| before.aws.clone());
        if let Some(kept) = kept.filter(|kept| kept.are_got_with(&identity)) {
            return Ok(kept);
        }
        match &identity.source {
            Some(Source::Machine(_)) => self.egress.shows(&OwnIdentity::AwsMachine)?,
            Some(Source::WebIdentity(_)) => self.egress.shows(&OwnIdentity::AwsWebIdentity)?,
            Some(Source::Profile(name)) => self.egress.shows(&OwnIdentity::AwsProfile(name.clone()))?,
            // It came with the model.
            Some(Source::Key(_)) | None => {}
        }
        let is_bedrocks = connection.url.parse::<Uri>().is_ok_and(|uri| is_bedrock(&uri));
        if !is_bedrocks || !connection.tls.is_default() {
            // Else whoever registers a model could have what the adapter signs sent to a server of theirs.
            let message = "the adapter's own identity at AWS is shown to https://bedrock-runtime.REGION.amazonaws.com alone, \
                           and by the system's authorities";
            return Err(message.to_owned());
        }
        Ok(Arc::new(AwsCredentials::got(identity, &self.egress, connection.networks.iter().copied())))
    }

    /// The source of tokens for a service account; the one before, with its token, where it is the same account.
    fn google(
        &self,
        key_json: String,
        connection: &Connection,
        before: Option<&Arc<Endpoint>>,
    ) -> Result<Arc<GoogleTokens>, String> {
        let same = |before: &&Arc<Endpoint>| before.connection == *connection;
        let kept = before.filter(same).and_then(|before| before.google.clone());
        if let Some(kept) = kept.filter(|kept| kept.is_of(&key_json)) {
            return Ok(kept);
        }
        let uri = connection.url.parse::<Uri>().ok();
        let is_googles = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| host.ends_with(".googleapis.com"))
        });
        if key_json.is_empty() && !is_googles {
            // Else whoever registers a model could have the machine's own account sent to a server of theirs.
            return Err("the machine's own account is shown to https://….googleapis.com alone".to_owned());
        }
        if key_json.is_empty() {
            self.egress.shows(&OwnIdentity::GoogleMetadata)?;
        }
        let tokens = match key_json.is_empty() {
            true => GoogleTokens::of_this_machine(&self.egress),
            false => {
                let networks = connection.networks.iter().copied();
                GoogleTokens::of_service_account(&key_json, &self.egress, networks)?
            }
        };
        Ok(Arc::new(tokens))
    }

    /// Where the process keeps within networks, an endpoint that could only lie outside of them is not served at all.
    fn stays_within(&self, connection: &Connection) -> Result<(), String> {
        let Some(bound) = self.egress.bound() else { return Ok(()) };
        let overlaps = |network: &IpNet| bound.iter().any(|bound| bound.contains(network) || network.contains(bound));
        let inside = connection.networks.iter().any(overlaps);
        let host = connection
            .url
            .parse::<Uri>()
            .ok()
            .and_then(|uri| uri.host().map(|host| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>()));
        let address_inside = match host {
            Some(Ok(address)) => bound.iter().any(|bound| bound.contains(&address)),
            _ => true,
        };
        if inside && address_inside {
            return Ok(());
        }
        Err("it would leave the networks that this process keeps within (egress.offline)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_egress::EgressConfig;
    use postern_proto::instance::v1::aws_identity::{Machine, WebIdentity};
    use postern_proto::instance::v1::model_credential::Credential;

    /// What an adapter serves that lends these identities.
    fn served(identities: Vec<OwnIdentity>, url: &str, credential: Credential) -> bool {
        let egress = Egress::new(&EgressConfig { identities, ..EgressConfig::default() }).unwrap();
        let endpoints = Endpoints::new(egress);
        let provider = if matches!(credential, Credential::Google(_)) { "vertex" } else { "bedrock" };
        let credential = pb::ModelCredential { credential: Some(credential), client_certificate: None };
        endpoints.replace(vec![pb::AdapterEndpoint {
            id: "ep".to_owned(),
            provider: provider.to_owned(),
            url: url.to_owned(),
            credential: Some(credential),
            ..pb::AdapterEndpoint::default()
        }]);
        endpoints.get("ep").is_some()
    }

    #[test]
    fn an_identity_of_the_adapters_own_is_shown_where_its_operator_has_listed_it() {
        let bedrock = "https://bedrock-runtime.eu-central-1.amazonaws.com";
        let aws = |source| {
            let region = "eu-central-1".to_owned();
            Credential::AwsIdentity(pb::AwsIdentity { region, source: Some(source), ..pb::AwsIdentity::default() })
        };
        let machine = || aws(Source::Machine(Machine {}));
        assert!(!served(vec![], bedrock, machine()));
        assert!(!served(vec![OwnIdentity::AwsWebIdentity], bedrock, machine()));
        assert!(served(vec![OwnIdentity::AwsMachine], bedrock, machine()));
        assert!(!served(vec![OwnIdentity::AwsMachine], "https://evil.example", machine()));
        assert!(served(vec![OwnIdentity::AwsWebIdentity], bedrock, aws(Source::WebIdentity(WebIdentity {}))));
        let profile = |name: &str| aws(Source::Profile(name.to_owned()));
        let models = || vec![OwnIdentity::AwsProfile("models".to_owned())];
        assert!(served(models(), bedrock, profile("models")) && !served(models(), bedrock, profile("admin")));
        let vertex = "https://europe-west4-aiplatform.googleapis.com/v1";
        let google = || Credential::Google(pb::GoogleServiceAccount { key_json: String::new() });
        assert!(!served(vec![], vertex, google()) && served(vec![OwnIdentity::GoogleMetadata], vertex, google()));
    }
}
