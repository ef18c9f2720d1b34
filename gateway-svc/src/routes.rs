//! What the gateway routes by: models and bindings, as the instance last said. The last good state stays in use through an
//! outage of the instance.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::CodeMode;
use postern_proto::instance::v1::config_service_client::ConfigServiceClient;
use postern_proto::instance::v1::watch_routes_response::Message;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::Verifier;
use postern_runtime::grpc;
use postern_runtime::instance::{InstanceLink, next};
use postern_runtime::notes::{self, Notes};
use postern_runtime::readiness::{Condition, Readiness};
use postern_runtime::request_id::RequestId;
use postern_runtime::trust::read_revocation;
use postern_runtime::verifier::TrustedIssuer;
use postern_token::{Form, IssuerProfile, OpenForm, PublicKey, Realm};

/// What a gateway knows of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What requests name.
    pub name: String,
    /// The family of its prompts.
    pub family: String,
    /// How code is completed with it.
    pub code: CodeMode,
    /// Which adapters serve it.
    pub adapter_group: String,
    /// Where it is served.
    pub endpoints: Vec<String>,
    /// From where it may be used; empty for anywhere.
    pub client_networks: Vec<IpNet>,
    /// The groups whose members may use it; empty for anyone.
    pub groups: Vec<String>,
    /// Tokens of prompt and answer; 0 when not known.
    pub context_length: u32,
    /// Requests at once; `None` for no limit of its own.
    pub max_concurrency: Option<usize>,
    /// How long to wait.
    pub timers: Timers,
}

/// How long to wait for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// For the first content, over all attempts.
    pub first_content: Duration,
    /// Between contents.
    pub idle: Duration,
    /// For the whole answer.
    pub total: Duration,
}

impl Model {
    /// Whether a caller at this address may use it.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.client_networks.is_empty() || self.client_networks.iter().any(|network| network.contains(&address))
    }
}

/// All models and what the features are bound to.
#[derive(Debug, Default)]
pub struct RouteTable {
    models: BTreeMap<String, Arc<Model>>,
    features: HashMap<Feature, Bound>,
}

/// What a feature is bound to, and for whom.
#[derive(Debug, Default)]
struct Bound {
    models: Vec<Arc<Model>>,
    groups: Vec<String>,
}

impl RouteTable {
    /// The models that a feature is bound to, in order of preference; empty when it is off.
    #[must_use]
    pub fn bound(&self, feature: Feature) -> &[Arc<Model>] {
        self.features.get(&feature).map_or(&[], |bound| bound.models.as_slice())
    }

    /// The groups whose members may use a feature; empty for anyone.
    #[must_use]
    pub fn groups(&self, feature: Feature) -> &[String] {
        self.features.get(&feature).map_or(&[], |bound| bound.groups.as_slice())
    }

    /// All models by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    fn read(snapshot: pb::RouteSnapshot) -> Self {
        let mut table = Self::default();
        for wire in snapshot.models {
            let name = wire.name.clone();
            match model(wire) {
                Ok(model) => {
                    table.models.insert(name, Arc::new(model));
                }
                // One model that cannot be read must not take the others down.
                Err(problem) => tracing::error!(model.name = name, problem, "a model cannot be routed to"),
            }
        }
        for pb::Feature { name, binding, groups } in snapshot.features {
            let (Ok(feature), Some(pb::feature::Binding::SelfHosted(bound))) = (name.parse::<Feature>(), binding)
            else {
                continue;
            };
            let models = bound.models.iter().filter_map(|name| table.models.get(name).cloned()).collect();
            table.features.insert(feature, Bound { models, groups });
        }
        table
    }
}

fn model(wire: pb::RouteModel) -> Result<Model, String> {
    let pb::RouteModel { name, family, adapter_group, endpoint_ids, client_networks, limits, timers, groups, code } =
        wire;
    let network = |text: &String| text.parse::<IpNet>().map_err(|error| format!("{text}: {error}"));
    let pb::Limits { context_length, max_concurrency } = limits.unwrap_or_default();
    let timers = timers.unwrap_or_default();
    let timer = |given: Option<prost_types::Duration>, default| {
        given.and_then(|given| Duration::try_from(given).ok()).unwrap_or(Duration::from_secs(default))
    };
    Ok(Model {
        name,
        family,
        // An instance of an older version does not say.
        code: CodeMode::try_from(code).ok().filter(|code| *code != CodeMode::Unspecified).unwrap_or(CodeMode::Layout),
        adapter_group,
        endpoints: endpoint_ids,
        client_networks: client_networks.iter().map(network).collect::<Result<_, _>>()?,
        groups,
        context_length,
        max_concurrency: usize::try_from(max_concurrency).ok().filter(|limit| *limit > 0),
        timers: Timers {
            first_content: timer(timers.first_content, 60),
            idle: timer(timers.idle, 60),
            total: timer(timers.total, 600),
        },
    })
}

/// How the tokens of another instance are judged: as strictly as one's own, by a header that is read.
fn trusted(wire: pb::TrustedIssuer) -> Result<TrustedIssuer, String> {
    let pb::TrustedIssuer { issuer, instance_id, scopes, groups, client_networks, max_lifetime, jwk_json, revocations } =
        wire;
    let network = |text: &String| text.parse::<IpNet>().map_err(|error| format!("{text}: {error}"));
    let key = |jwk: &String| PublicKey::foreign(jwk.as_bytes()).map_err(|error| error.to_string());
    let profile = IssuerProfile {
        issuer,
        // The verifier's own.
        audience: String::new(),
        max_lifetime: max_lifetime.map_or(0, |given| u64::try_from(given.seconds).unwrap_or(0)),
        instances: vec![instance_id],
        realm: Some(Realm::Managed),
        scopes: Some(scopes),
        groups,
        client_networks: client_networks.iter().map(network).collect::<Result<_, _>>()?,
        form: Form::Open(OpenForm::default()),
    };
    let keys = jwk_json.iter().map(key).collect::<Result<_, _>>()?;
    let revocations = revocations.into_iter().map(read_revocation).collect::<Result<_, _>>();
    Ok(TrustedIssuer { profile, keys, revocations: revocations.map_err(|failure| failure.message)? })
}

/// Who is told what comes with the routes.
#[derive(Clone)]
pub struct Told {
    /// Of the other instances whose tokens are taken.
    pub verifier: Verifier,
    /// Of the instance's prompts, by name with their texts.
    pub prompts: Arc<dyn Fn(Vec<(String, String)>) + Send + Sync>,
}

/// The table in use.
#[derive(Clone, Default)]
pub struct Routes {
    current: Arc<ArcSwapOption<RouteTable>>,
}

impl Routes {
    /// The newest table.
    ///
    /// # Errors
    /// TRUST_UNAVAILABLE's sibling: INSTANCE_UNAVAILABLE before the first has come.
    pub fn current(&self) -> Result<Arc<RouteTable>, Failure> {
        self.current.load_full().ok_or_else(|| {
            Failure::new(Reason::InstanceUnavailable, "the instance's routes have not arrived yet; try again")
                .with_retry_after(Duration::from_secs(1))
        })
    }

    /// Follows the instance until the process stops; readiness waits for the first table, or for one in the notes.
    pub fn follow(&self, link: &InstanceLink, told: &Told, readiness: &Readiness, notes: Notes) {
        let arrived = readiness.condition("routes");
        let noted = notes.recall(notes::ROUTES, |routes: &pb::SealedRoutes| routes.time);
        if let Some(snapshot) = noted.and_then(|routes| routes.snapshot) {
            self.put(snapshot, told);
            arrived.open();
        }
        let (routes, inner, told) = (self.clone(), link.clone(), told.clone());
        link.subscribe("route feed", move |token| {
            let (routes, link, arrived, notes) = (routes.clone(), inner.clone(), arrived.clone(), notes.clone());
            let told = told.clone();
            async move {
                match routes.follow_once(&link, &told, &token, &arrived, &notes).await {
                    Ok(()) => Failure::new(Reason::InstanceUnavailable, "the route feed ended"),
                    Err(failure) => failure,
                }
            }
        });
    }

    fn put(&self, mut snapshot: pb::RouteSnapshot, told: &Told) {
        let version = snapshot.version;
        let mut issuers = Vec::new();
        for wire in std::mem::take(&mut snapshot.issuers) {
            let issuer = wire.issuer.clone();
            match trusted(wire) {
                Ok(trusted) => issuers.push(trusted),
                Err(problem) => tracing::error!(issuer, problem, "another instance's tokens cannot be taken"),
            }
        }
        let prompts = std::mem::take(&mut snapshot.prompts);
        let table = RouteTable::read(snapshot);
        tracing::info!(
            routes.version = version,
            routes.models = table.models.len(),
            routes.issuers = issuers.len(),
            "routes in use"
        );
        told.verifier.replace_trusted(issuers);
        (told.prompts)(prompts.into_iter().map(|pb::Prompt { name, text }| (name, text)).collect());
        self.current.store(Some(Arc::new(table)));
    }

    async fn follow_once(
        &self,
        link: &InstanceLink,
        told: &Told,
        token: &str,
        arrived: &Condition,
        notes: &Notes,
    ) -> Result<(), Failure> {
        let hello = pb::WatchRoutesRequest { replica_id: link.replica_id().to_owned() };
        let request = grpc::onward(hello, &RequestId::generate(), token, None);
        let mut feed = ConfigServiceClient::new(link.channel())
            .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
            .watch_routes(request)
            .await
            .map_err(|status| Failure::from_status(&status, Reason::InstanceUnavailable))?
            .into_inner();
        while let Some(message) = next(&mut feed).await? {
            if let Some(Message::Seal(sealed)) = &message.message {
                notes.keep(notes::ROUTES, sealed);
            }
            if let Some(Message::Snapshot(snapshot)) = message.message {
                self.put(snapshot, told);
                arrived.open();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A model of the tests.
    pub(crate) fn model(name: &str, endpoints: &[&str]) -> Model {
        let second = Duration::from_secs(1);
        Model {
            name: name.to_owned(),
            family: "general".to_owned(),
            code: CodeMode::Layout,
            adapter_group: "default".to_owned(),
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
            client_networks: Vec::new(),
            groups: Vec::new(),
            context_length: 0,
            max_concurrency: None,
            timers: Timers { first_content: second, idle: second, total: second },
        }
    }
}
