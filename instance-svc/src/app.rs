//! The composition root: builds the instance from its configuration, with every port bound before it returns.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_egress::Egress;
use postern_proto::gateway::v1::completion_service_server::CompletionServiceServer;
use postern_proto::gateway::v1::explain_service_server::ExplainServiceServer;
use postern_proto::instance::v1::audit_service_server::AuditServiceServer;
use postern_proto::instance::v1::config_service_server::ConfigServiceServer;
use postern_proto::instance::v1::feature_service_server::FeatureServiceServer;
use postern_proto::instance::v1::fleet_service_server::FleetServiceServer;
use postern_proto::instance::v1::key_service_server::KeyServiceServer;
use postern_proto::instance::v1::model_registry_service_server::ModelRegistryServiceServer;
use postern_proto::instance::v1::principal_service_server::PrincipalServiceServer;
use postern_proto::instance::v1::prompt_service_server::PromptServiceServer;
use postern_proto::instance::v1::token_service_server::TokenServiceServer;
use postern_proto::instance::v1::trust_service_server::TrustServiceServer;
use postern_runtime::accept::Demands;
use postern_runtime::config::secret_file;
use postern_runtime::grpc::Dialer;
use postern_runtime::guard::GuardLayer;
use postern_runtime::health::ProcessHealth;
use postern_runtime::instance::InstanceLink;
use postern_runtime::lifecycle::Stopped;
use postern_runtime::peer::ClientConfig;
use postern_runtime::tls::Tls;
use postern_runtime::{Clock, Lifecycle, Readiness, SystemClock, Verifier, grpc, http, ops};
use postern_token::{IssuerProfile, Secret};
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::layer::util::Stack;

use crate::audit::{self, Audit, Event};
use crate::config::{InstanceConfig, StoreConfig};
use crate::credentials::{self, Credentials};
use crate::directory::Directory;
use crate::doors::audit::{AuditDoor, AuditLayer};
use crate::doors::config::ConfigDoor;
use crate::doors::explain::ExplainDoor;
use crate::doors::features::FeatureDoor;
use crate::doors::fleet::FleetDoor;
use crate::doors::guard::InstanceGuard;
use crate::doors::keys::KeyDoor;
use crate::doors::models::ModelDoor;
use crate::doors::oauth::OAuthDoor;
use crate::doors::principals::PrincipalDoor;
use crate::doors::prompts::PromptDoor;
use crate::doors::relay::RelayDoor;
use crate::doors::token::TokenDoor;
use crate::doors::trust::TrustDoor;
use crate::exchange::{Exchange, Lifetimes};
use crate::federation::Federation;
use crate::fleet::Fleet;
use crate::identity::Identities;
use crate::introspection::Introspection;
use crate::issuer::{Identity, Issuer};
use crate::lint::Lint;
use crate::partners::Partners;
use crate::prompts::Prompts;
use crate::registry::Registry;
use crate::relay::Relay;
use crate::rewrap::Rewrap;
use crate::root::TrustRoot;
use crate::rotation::Rotation;
use crate::seal::Sealer;
use crate::store::{SqlStore, Store, StoreError};
use crate::trust::Trust;

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
    async fn open(config: &InstanceConfig, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let store = open(&config.store, clock).await?;
        let known = store.instance().await?;
        let sealer = Sealer::from_file(&config.seal.key_file, known.is_none())?;
        let sealer = sealer.with_former(&config.seal.former_key_files)?;
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

async fn open(config: &StoreConfig, clock: Arc<dyn Clock>) -> Result<SqlStore, BuildError> {
    if let Some(path) = &config.sqlite_file {
        let opened = SqlStore::open_sqlite(path, clock).await;
        return Ok(opened.map_err(|error| format!("store.sqlite_file: {}: {error}", path.display()))?);
    }
    let path = config.postgres_url_file.as_deref().unwrap_or_else(|| std::path::Path::new(""));
    let url = secret_file("store.postgres_url_file", path)?;
    // The URL holds a password: what the driver says of it is not repeated.
    let opened = SqlStore::open_postgres(secrecy::ExposeSecret::expose_secret(&url), clock).await;
    Ok(opened.map_err(|error| match error {
        StoreError::Unavailable(sqlx::Error::Configuration(_)) => "store.postgres_url_file: not a URL".to_owned(),
        other => format!("store.postgres_url_file: {other}"),
    })?)
}

/// Makes the first administrator, unless there is an administrator: `None`.
///
/// # Errors
/// When the store cannot be opened or the name is not one.
pub async fn bootstrap(config: &InstanceConfig, name: String) -> Result<Option<Secret>, BuildError> {
    let ground = Ground::open(config, Arc::new(SystemClock)).await?;
    let made = Directory::new(ground.store.clone(), ground.credentials).bootstrap(name.clone()).await?;
    if made.is_some() {
        let event =
            Event { action: "bootstrap".to_owned(), target: name, outcome: "OK".to_owned(), ..Event::default() };
        audit::note(ground.store, event).await?;
    }
    Ok(made)
}

impl App {
    /// Builds and binds.
    ///
    /// # Errors
    /// Says which part could not be built.
    pub async fn build(config: InstanceConfig, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        config.check()?;
        let ground = Ground::open(&config, clock.clone()).await?;
        let schedule = config.keys.schedule(config.issuer.max_access_token_seconds)?;
        let rotation = Arc::new(Rotation::new(ground.store.clone(), ground.sealer.clone(), schedule));
        rotation.first_key(config.keys.import_file.as_deref()).await?;
        let identity = Identity { issuer: config.issuer.url.clone(), instance_id: ground.instance_id.clone() };
        let verifier = Verifier::new(clock.clone());
        let profile = own_profile(&identity, config.issuer.max_access_token_seconds);
        let trust = Trust::load(ground.store.clone(), ground.sealer.clone(), profile, verifier.clone()).await?;
        let grpc_listener = grpc::bind(config.listen.grpc).await?;
        let http_listener = grpc::bind(config.listen.http).await?;
        let ops_listener = grpc::bind(config.listen.ops).await?;
        let (grpc, http, ops) = (grpc_listener.local_addr()?, http_listener.local_addr()?, ops_listener.local_addr()?);

        let readiness = Readiness::default();
        let lifecycle = Lifecycle::new(&readiness);
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        tls.iter().for_each(|tls| tls.follow(&lifecycle));
        let dialer = Dialer::of(tls.as_ref())?;
        let demands = |clients: &ClientConfig| Demands { tls: tls.clone(), clients: Arc::new(clients.clone()) };
        let health = ProcessHealth::follow(&readiness, SERVICES, &lifecycle).await;
        let introspection = Arc::new(Introspection::new(
            ground.store.clone(),
            ground.credentials.clone(),
            trust.clone(),
            verifier.clone(),
            clock.clone(),
        ));
        let audit = Audit::begin(ground.store.clone(), &lifecycle).await?;
        let root = TrustRoot::open_or_make(&*ground.store, &ground.sealer).await?;
        let guard = InstanceGuard {
            store: ground.store.clone(),
            verifier,
            introspection: introspection.clone(),
            audit: audit.clone(),
        };
        // The guard first: the log tells who it was.
        let guard = Stack::new(AuditLayer(audit.clone()), GuardLayer::new(guard));
        let max_age = schedule.jwks_max_age();
        let (trusted, issuer) = (trust.clone(), identity.issuer.clone());
        let keeping = Keeping { rotation, trust, root, introspection, audit, dialer };
        let (routes, oauth) = routes(&config, ground, keeping, identity, clock, &lifecycle).await?;
        let routes = routes.add_service(health.service(&lifecycle));
        let http_routes = crate::doors::http::router(&issuer, trusted, max_age, oauth);

        grpc::serve("grpc", grpc_listener, demands(&config.clients.grpc), routes, guard, &lifecycle);
        http::serve("http", http_listener, demands(&config.clients.http), http_routes, &lifecycle);
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
    KeyServiceServer::<KeyDoor>::NAME,
    AuditServiceServer::<AuditDoor>::NAME,
    PrincipalServiceServer::<PrincipalDoor>::NAME,
    FleetServiceServer::<FleetDoor>::NAME,
    ModelRegistryServiceServer::<ModelDoor>::NAME,
    FeatureServiceServer::<FeatureDoor>::NAME,
    ConfigServiceServer::<ConfigDoor>::NAME,
    PromptServiceServer::<PromptDoor>::NAME,
    CompletionServiceServer::<RelayDoor>::NAME,
    ExplainServiceServer::<ExplainDoor>::NAME,
];

/// What is demanded of the instance's own callers. Their audience is the issuer itself.
fn own_profile(identity: &Identity, max_lifetime: u64) -> IssuerProfile {
    let issuer = identity.issuer.clone();
    IssuerProfile::own(issuer.clone(), identity.instance_id.clone(), issuer, max_lifetime)
}

/// The parts that keep keys and revocations, and what the instance is to those it dials.
struct Keeping {
    rotation: Arc<Rotation>,
    trust: Arc<Trust>,
    root: TrustRoot,
    introspection: Arc<Introspection>,
    audit: Audit,
    dialer: Dialer,
}

async fn routes(
    config: &InstanceConfig,
    ground: Ground,
    keeping: Keeping,
    identity: Identity,
    clock: Arc<dyn Clock>,
    lifecycle: &Lifecycle,
) -> Result<(Routes, OAuthDoor), BuildError> {
    let Ground { store, sealer, credentials, instance_id } = ground;
    let Keeping { rotation, trust, root, introspection, audit, dialer } = keeping;
    let versions = crate::changes::follow(store.clone(), store.versions().await?, lifecycle);
    trust.follow(versions.clone(), lifecycle);
    rotation.run(trust.clone(), audit.clone(), clock.clone(), lifecycle);
    let lifetimes =
        Lifetimes { default: config.issuer.access_token_seconds, max: config.issuer.max_access_token_seconds };
    let issuer = Arc::new(Issuer::new(identity.clone(), trust.clone(), clock.clone()));
    let federation = Federation::new(store.clone(), Egress::new(&config.egress)?, clock.clone(), &identity.issuer);
    federation.follow(versions.clone(), lifecycle);
    let identities =
        Identities::new(store.clone(), credentials.clone(), federation.clone(), clock.clone(), &identity.issuer);
    let exchange =
        Arc::new(Exchange::new(store.clone(), identities, issuer.clone(), identity.issuer.clone(), lifetimes));
    let oauth = OAuthDoor {
        exchange: exchange.clone(),
        introspection: introspection.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
    };
    let directory = Arc::new(Directory::new(store.clone(), credentials));
    let registry = Arc::new(Registry::new(store.clone(), sealer.clone()));
    let relay = Relay::new(
        store.clone(),
        exchange.clone(),
        issuer,
        (instance_id, dialer.clone()),
        (trust.clone(), audit.clone()),
    );
    let relay = Arc::new(relay);
    let fleet = Fleet::default();
    for target in &config.publish {
        let link = InstanceLink::new(target, &dialer, clock.clone(), lifecycle)?;
        crate::publisher::publish(&link, trust.clone(), clock.clone());
    }

    let rewrap = Rewrap::new(store.clone(), sealer.clone());
    let key_door = KeyDoor { rotation: rotation.clone(), store: store.clone(), rewrap };
    let trust = TrustDoor {
        trust,
        root: root.clone(),
        clock: clock.clone(),
        jwks_max_age: rotation.schedule().jwks_max_age(),
        audit: audit.clone(),
        fleet: fleet.clone(),
        store: store.clone(),
        versions: versions.clone(),
        lifecycle: lifecycle.clone(),
    };
    let prompts = Arc::new(Prompts::new(store.clone()));
    let configuration = ConfigDoor {
        registry: registry.clone(),
        prompts: prompts.clone(),
        root: root.clone(),
        clock,
        store: store.clone(),
        fleet: fleet.clone(),
        versions,
        lifecycle: lifecycle.clone(),
    };
    let fleet_door = FleetDoor {
        directory: directory.clone(),
        fleet: fleet.clone(),
        trust_root: root.public(),
        partners: Partners::new(store.clone()),
        own_issuer: identity.issuer.clone(),
    };
    let explain = ExplainDoor { relay: relay.clone(), store: store.clone() };
    let features =
        FeatureDoor { registry: registry.clone(), lint: Lint::new(registry.clone(), prompts.clone(), store.clone()) };
    let relay = CompletionServiceServer::new(RelayDoor { relay })
        .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
    let routes = Routes::new(TokenServiceServer::new(TokenDoor { exchange, introspection }))
        .add_service(TrustServiceServer::new(trust))
        .add_service(KeyServiceServer::new(key_door))
        .add_service(AuditServiceServer::new(AuditDoor { store: store.clone() }))
        .add_service(PrincipalServiceServer::new(PrincipalDoor { directory: directory.clone(), federation }))
        .add_service(FleetServiceServer::new(fleet_door))
        .add_service(ModelRegistryServiceServer::new(ModelDoor { registry, fleet }))
        .add_service(FeatureServiceServer::new(features))
        .add_service(PromptServiceServer::new(PromptDoor { prompts }))
        .add_service(ExplainServiceServer::new(explain))
        .add_service(ConfigServiceServer::new(configuration))
        .add_service(relay);
    Ok((routes, oauth))
}
