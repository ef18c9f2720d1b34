//! The composition root: an adapter of its own, or the part of it that a gateway hosts.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_egress::{Egress, EgressConfig};
use postern_proto::model::v1::model_service_server::ModelServiceServer;
use postern_runtime::accept::Demands;
use postern_runtime::grpc::Dialer;
use postern_runtime::guard::GuardLayer;
use postern_runtime::health::ProcessHealth;
use postern_runtime::instance::InstanceLink;
use postern_runtime::lifecycle::Stopped;
use postern_runtime::notes::Notes;
use postern_runtime::tls::Tls;
use postern_runtime::{Clock, Lifecycle, Readiness, Verifier, grpc, ops, trust};
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::config::AdapterConfig;
use crate::endpoints::Endpoints;
use crate::guard::AdapterGuard;
use crate::service::Models;

/// Why an adapter was not built.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// A running adapter.
pub struct App {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where health and metrics are served.
    pub ops: SocketAddr,
    /// What it waits for.
    pub readiness: Readiness,
    lifecycle: Lifecycle,
    config: AdapterConfig,
}

/// The service itself, fed by the instance: what a gateway hosts when the adapter runs inside it.
///
/// # Errors
/// When the process has no TLS provider that can be used.
pub fn models(
    link: &InstanceLink,
    clock: Arc<dyn Clock>,
    readiness: &Readiness,
    group: Option<&str>,
    egress: &EgressConfig,
) -> Result<Models, BuildError> {
    let models = Models { endpoints: Endpoints::new(Egress::new(egress)?), clock };
    crate::feed::follow(link, models.clone(), readiness, group);
    Ok(models)
}

impl App {
    /// Builds and binds.
    ///
    /// # Errors
    /// Says which part could not be built.
    pub async fn build(config: AdapterConfig, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        config.check()?;
        let grpc_listener = grpc::bind(config.listen.grpc).await?;
        let ops_listener = grpc::bind(config.listen.ops).await?;
        let (grpc, ops) = (grpc_listener.local_addr()?, ops_listener.local_addr()?);

        let readiness = Readiness::default();
        let lifecycle = Lifecycle::new(&readiness);
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        tls.iter().for_each(|tls| tls.follow(&lifecycle));
        let dialer = Dialer::of(tls.as_ref())?;
        let link = InstanceLink::new(&config.instance, &dialer, clock.clone(), &lifecycle)?;
        let verifier = Verifier::new(clock.clone());
        trust::follow(&link, verifier.clone(), &readiness, Notes::none());
        let models = models(&link, clock, &readiness, None, &config.egress)?;

        let services = &[ModelServiceServer::<Models>::NAME];
        let health = ProcessHealth::follow(&readiness, services, &lifecycle).await;
        let service = ModelServiceServer::new(models)
            .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
        let routes = Routes::new(service).add_service(health.service(&lifecycle));
        let demands = Demands { tls, clients: Arc::new(config.clients.grpc.clone()) };
        grpc::serve("grpc", grpc_listener, demands, routes, GuardLayer::new(AdapterGuard { verifier }), &lifecycle);
        ops::serve(ops_listener, &readiness, &health, &lifecycle);
        lifecycle.started();
        Ok(Self { grpc, ops, readiness, lifecycle, config })
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
