//! The composition root: builds the gateway from its configuration, with every port bound before it returns. It is the one
//! place that knows that an adapter can run inside.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use postern_egress::Egress;
use postern_proto::gateway::v1::completion_service_server::CompletionServiceServer;
use postern_proto::gateway::v1::explain_service_server::ExplainServiceServer;
use postern_runtime::accept::Demands;
use postern_runtime::config::second_line;
use postern_runtime::grpc::Dialer;
use postern_runtime::guard::GuardLayer;
use postern_runtime::health::ProcessHealth;
use postern_runtime::instance::{GENERATE_SCOPE, InstanceConfig, InstanceLink};
use postern_runtime::lifecycle::Stopped;
use postern_runtime::notes::Notes;
use postern_runtime::peer::ClientConfig;
use postern_runtime::tls::Tls;
use postern_runtime::{Clock, Lifecycle, Readiness, Verifier, grpc, http, ops, trust};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::server::NamedService;

use crate::adapters::{Adapter, Adapters};
use crate::config::{AdapterConfig, GatewayConfig, Listen};
use crate::doors::explain::ExplainDoor;
use crate::doors::grpc::GrpcDoor;
use crate::doors::http::{self as http_door, HttpDoor};
use crate::issuers::Issuers;
use crate::pipeline::{Admission, Credentials, Pipeline, Sessions};
use crate::policy::GatewayGuard;
use crate::prompt::Prompts;
use crate::routes::{Routes, Told};

/// Why a gateway was not built.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// A running gateway.
pub struct App {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where the OpenAI-compatible API is served.
    pub http: SocketAddr,
    /// Where health and metrics are served.
    pub ops: SocketAddr,
    /// What it waits for.
    pub readiness: Readiness,
    lifecycle: Lifecycle,
    config: GatewayConfig,
}

/// A gateway's bound ports.
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For the OpenAI-compatible API.
    pub http: TcpListener,
    /// For health and metrics.
    pub ops: TcpListener,
}

impl Listeners {
    /// Binds the configured addresses.
    ///
    /// # Errors
    /// The system's, with the address.
    pub async fn bind(listen: &Listen) -> std::io::Result<Self> {
        Ok(Self {
            grpc: grpc::bind(listen.grpc).await?,
            http: grpc::bind(listen.http).await?,
            ops: grpc::bind(listen.ops).await?,
        })
    }
}

impl App {
    /// Builds and binds.
    ///
    /// # Errors
    /// Says which part could not be built.
    pub async fn build(config: GatewayConfig, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        config.check()?;
        let listeners = Listeners::bind(&config.listen).await?;
        Self::build_on(listeners, config, clock).await
    }

    /// Builds on ports that are bound already.
    ///
    /// # Errors
    /// Says which part could not be built.
    pub async fn build_on(
        listeners: Listeners,
        config: GatewayConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BuildError> {
        let Listeners { grpc: grpc_listener, http: http_listener, ops: ops_listener } = listeners;
        let (grpc, http, ops) = (grpc_listener.local_addr()?, http_listener.local_addr()?, ops_listener.local_addr()?);

        let readiness = Readiness::default();
        let lifecycle = Lifecycle::new(&readiness);
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        tls.iter().for_each(|tls| tls.follow(&lifecycle));
        let dialer = Dialer::of(tls.as_ref())?;
        let demands = |clients: &ClientConfig| Demands { tls: tls.clone(), clients: Arc::new(clients.clone()) };
        let link = InstanceLink::new(&config.instance, &dialer, clock.clone(), &lifecycle)?;
        let pipeline = pipeline(&config, &link, &dialer, &clock, &readiness, &lifecycle)?;
        let credentials = match config.http.accept_credentials {
            true => Some(Credentials::new(link, pipeline.verifier.clone(), clock.clone(), random_key()?)),
            false => None,
        };

        let services = &[CompletionServiceServer::<GrpcDoor>::NAME, ExplainServiceServer::<ExplainDoor>::NAME];
        let health = ProcessHealth::follow(&readiness, services, &lifecycle).await;
        let service = CompletionServiceServer::new(GrpcDoor { pipeline: pipeline.clone() })
            .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
        let explain = ExplainServiceServer::new(ExplainDoor { pipeline: pipeline.clone() });
        let routes = tonic::service::Routes::new(service).add_service(explain).add_service(health.service(&lifecycle));
        let guard = GuardLayer::new(GatewayGuard(pipeline.clone()));
        grpc::serve("grpc", grpc_listener, demands(&config.clients.grpc), routes, guard, &lifecycle);
        let bodies = Semaphore::new(http_door::MAX_BODIES_KIB);
        let door = HttpDoor { pipeline, credentials, clock, bodies };
        http::serve("http", http_listener, demands(&config.clients.http), http_door::router(door), &lifecycle);
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

fn pipeline(
    config: &GatewayConfig,
    link: &InstanceLink,
    dialer: &Dialer,
    clock: &Arc<dyn Clock>,
    readiness: &Readiness,
    lifecycle: &Lifecycle,
) -> Result<Pipeline, BuildError> {
    let notes = match &config.notes {
        Some(settings) => {
            let pinned = || second_line(config.instance.credential_file.as_deref()?);
            let root = config.instance.trust_root.clone().or_else(pinned);
            Notes::open(settings, root.as_deref(), clock.clone())?
        }
        None => Notes::none(),
    };
    let verifier = Verifier::with_stale_bound(clock.clone(), config.trust.bound());
    trust::follow(link, verifier.clone(), readiness, notes.clone());
    let prompts = Prompts::follow(&config.prompts, lifecycle)?;
    let routes = Routes::default();
    let in_use = prompts.clone();
    let told = Told { verifier: verifier.clone(), prompts: Arc::new(move |given| in_use.take_over(given)) };
    routes.follow(link, &told, readiness, notes.clone());
    let mut adapters = HashMap::new();
    for (group, adapter) in &config.adapters {
        let adapter = match adapter {
            AdapterConfig::Remote(address) => Adapter::Remote {
                channel: grpc::channel(address, dialer)?,
                token: {
                    let given = readiness.condition(format!("token for the adapter group {group}"));
                    link.keep_token(format!("postern-adapter:{group}"), GENERATE_SCOPE, given, notes.clone())
                },
            },
            AdapterConfig::Embedded(credential_file) => {
                let as_adapter = InstanceConfig::by_secret(config.instance.address.clone(), credential_file.clone());
                let link = InstanceLink::new(&as_adapter, dialer, clock.clone(), lifecycle)?;
                Adapter::Embedded(Arc::new(model_adapter::app::models(
                    &link,
                    clock.clone(),
                    readiness,
                    Some(group.as_str()),
                    &config.egress,
                )?))
            }
        };
        adapters.insert(group.clone(), adapter);
    }
    let issuers = Issuers::follow(&config.issuers, &Egress::new(&config.egress)?, &verifier, clock, lifecycle)?;
    Ok(Pipeline {
        prompts,
        verifier,
        issuers,
        routes,
        adapters: Adapters(Arc::new(adapters)),
        admission: Admission::new(config.limits.max_in_flight),
        sessions: Sessions::default(),
        ending: lifecycle.ending().clone(),
    })
}

fn random_key() -> Result<[u8; 32], BuildError> {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| "the system gives no random bytes")?;
    Ok(key)
}
