//! The composition root: builds the instance from its configuration, with every port bound before it returns.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::gateway::v1::completion_service_server::CompletionServiceServer;
use postern_proto::instance::v1::config_service_server::ConfigServiceServer;
use postern_proto::instance::v1::feature_service_server::FeatureServiceServer;
use postern_proto::instance::v1::fleet_service_server::FleetServiceServer;
use postern_proto::instance::v1::model_registry_service_server::ModelRegistryServiceServer;
use postern_proto::instance::v1::principal_service_server::PrincipalServiceServer;
use postern_proto::instance::v1::token_service_server::TokenServiceServer;
use postern_proto::instance::v1::trust_service_server::TrustServiceServer;
use postern_runtime::auth::Verifier;
use postern_runtime::guard::GuardLayer;
use postern_runtime::health::ProcessHealth;
use postern_runtime::lifecycle::Stopped;
use postern_runtime::{Clock, Lifecycle, Readiness, grpc, http, ops};
use postern_token::{IssuerProfile, PublicKey, Secret, TrustTable};
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::config::InstanceConfig;
use crate::credentials::{self, Credentials};
use crate::directory::Directory;
use crate::doors::config::ConfigDoor;
use crate::doors::features::FeatureDoor;
use crate::doors::fleet::FleetDoor;
use crate::doors::guard::InstanceGuard;
use crate::doors::models::ModelDoor;
use crate::doors::principals::PrincipalDoor;
use crate::doors::relay::RelayDoor;
use crate::doors::token::TokenDoor;
use crate::doors::trust::TrustDoor;
use crate::exchange::{Exchange, Lifetimes};
use crate::fleet::Fleet;
use crate::issuer::{Identity, Issuer};
use crate::keys::KeyRing;
use crate::registry::Registry;
use crate::relay::Relay;
use crate::seal::Sealer;
use crate::store::{SqlStore, Store};

/// Why an instance was not built.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// A running instance.
pub struct App {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where health and metrics are served.
    pub ops: SocketAddr,
    /// What it waits for.
    pub readiness: Readiness,
    lifecycle: Lifecycle,
    config: InstanceConfig,
}

/// The parts that `bootstrap` needs too.
struct Ground {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    credentials: Credentials,
    instance_id: String,
}

impl Ground {
    async fn open(config: &InstanceConfig) -> Result<Self, BuildError> {
        let store = SqlStore::open_sqlite(&config.store.sqlite_file)
            .await
            .map_err(|error| format!("store.sqlite_file: {}: {error}", config.store.sqlite_file.display()))?;
        let known = store.instance().await?;
        let sealer = Sealer::from_file(&config.seal.key_file, known.is_none())?;
        let instance = match known {
            Some(instance) => instance,
            None => store.set_up(credentials::new_instance(&sealer)?).await?,
        };
        Ok(Self {
            store: Arc::new(store),
            credentials: Credentials::open(&sealer, &instance)?,
            sealer: Arc::new(sealer),
            instance_id: instance.id,
        })
    }
}

/// Makes the first administrator, unless there is an administrator: `None`.
///
/// # Errors
/// When the store cannot be opened or the name is not one.
pub async fn bootstrap(config: &InstanceConfig, name: String) -> Result<Option<Secret>, BuildError> {
    let ground = Ground::open(config).await?;
    Ok(Directory::new(ground.store, ground.credentials).bootstrap(name).await?)
}

impl App {
    /// Builds and binds.
    ///
    /// # Errors
    /// Says which part could not be built.
    pub async fn build(config: InstanceConfig, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        config.check()?;
        let ground = Ground::open(&config).await?;
        let keys = KeyRing::load_or_create(&*ground.store, &ground.sealer, config.keys.import_file.as_deref()).await?;
        let grpc_listener = grpc::bind(config.listen.grpc).await?;
        let http_listener = grpc::bind(config.listen.http).await?;
        let ops_listener = grpc::bind(config.listen.ops).await?;
        let (grpc, http, ops) = (grpc_listener.local_addr()?, http_listener.local_addr()?, ops_listener.local_addr()?);

        let readiness = Readiness::default();
        let lifecycle = Lifecycle::new(&readiness);
        let health = ProcessHealth::follow(&readiness, SERVICES, &lifecycle).await;
        let identity = Identity { issuer: config.issuer.url.clone(), instance_id: ground.instance_id.clone() };
        let verifier = own_verifier(&identity, &config, &keys.public, clock.clone());
        let guard = GuardLayer::new(InstanceGuard { store: ground.store.clone(), verifier });
        let http_routes = crate::doors::http::router(&identity.issuer, &keys.public);
        let routes =
            routes(&config, ground, keys, identity, clock, &lifecycle).await?.add_service(health.service(&lifecycle));

        grpc::serve("grpc", grpc_listener, routes, guard, &lifecycle);
        http::serve("http", http_listener, http_routes, &lifecycle);
        ops::serve(ops_listener, &readiness, &health, &lifecycle);
        lifecycle.started();
        Ok(Self { grpc, http, ops, readiness, lifecycle, config })
    }

    /// Runs until a signal or a failure, then drains.
    pub async fn run(self) -> Stopped {
        self.lifecycle.run(self.config.drain).await
    }

    /// Drains and stops.
    pub async fn stop(self) -> Stopped {
        self.lifecycle.stop(self.config.drain, std::future::pending()).await
    }
}

/// The names under which health is told.
const SERVICES: &[&str] = &[
    TokenServiceServer::<TokenDoor>::NAME,
    TrustServiceServer::<TrustDoor>::NAME,
    PrincipalServiceServer::<PrincipalDoor>::NAME,
    FleetServiceServer::<FleetDoor>::NAME,
    ModelRegistryServiceServer::<ModelDoor>::NAME,
    FeatureServiceServer::<FeatureDoor>::NAME,
    ConfigServiceServer::<ConfigDoor>::NAME,
    CompletionServiceServer::<RelayDoor>::NAME,
];

/// Verifies the tokens of the instance's own callers. Its audience is the issuer itself.
fn own_verifier(identity: &Identity, config: &InstanceConfig, keys: &[PublicKey], clock: Arc<dyn Clock>) -> Verifier {
    let profile = IssuerProfile {
        issuer: identity.issuer.clone(),
        instance_id: identity.instance_id.clone(),
        audience: identity.issuer.clone(),
        max_lifetime: config.issuer.max_access_token_seconds,
    };
    let verifier = Verifier::new(clock);
    verifier.replace(TrustTable::new(profile, keys.iter().cloned()));
    verifier
}

async fn routes(
    config: &InstanceConfig,
    ground: Ground,
    keys: KeyRing,
    identity: Identity,
    clock: Arc<dyn Clock>,
    lifecycle: &Lifecycle,
) -> Result<Routes, BuildError> {
    let Ground { store, sealer, credentials, instance_id } = ground;
    let versions = crate::changes::follow(store.clone(), store.versions().await?, lifecycle);
    let lifetimes =
        Lifetimes { default: config.issuer.access_token_seconds, max: config.issuer.max_access_token_seconds };
    let issuer = Issuer::new(identity.clone(), keys.signer, clock);
    let exchange =
        Arc::new(Exchange::new(store.clone(), credentials.clone(), issuer, identity.issuer.clone(), lifetimes));
    let directory = Arc::new(Directory::new(store.clone(), credentials));
    let registry = Arc::new(Registry::new(store.clone(), sealer));
    let relay = Arc::new(Relay::new(store.clone(), exchange.clone(), instance_id));
    let fleet = Fleet::default();

    let trust = TrustDoor {
        identity,
        keys: keys.public.into(),
        max_lifetime: lifetimes.max,
        fleet: fleet.clone(),
        store: store.clone(),
        versions: versions.clone(),
        lifecycle: lifecycle.clone(),
    };
    let configuration =
        ConfigDoor { registry: registry.clone(), store, fleet: fleet.clone(), versions, lifecycle: lifecycle.clone() };
    let relay = CompletionServiceServer::new(RelayDoor { relay })
        .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
    Ok(Routes::new(TokenServiceServer::new(TokenDoor { exchange }))
        .add_service(TrustServiceServer::new(trust))
        .add_service(PrincipalServiceServer::new(PrincipalDoor { directory: directory.clone() }))
        .add_service(FleetServiceServer::new(FleetDoor { directory, fleet: fleet.clone() }))
        .add_service(ModelRegistryServiceServer::new(ModelDoor { registry: registry.clone(), fleet }))
        .add_service(FeatureServiceServer::new(FeatureDoor { registry }))
        .add_service(ConfigServiceServer::new(configuration))
        .add_service(relay))
}
