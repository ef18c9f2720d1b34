//! `postern.instance.v1.ConfigService`: what gateways route by, and what adapters call models with.

use std::sync::Arc;

use futures_util::StreamExt as _;
use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::config_service_server::ConfigService;
use postern_proto::instance::v1::connect_adapter_response::Message as ToAdapter;
use postern_proto::instance::v1::watch_routes_response::Message as ToGateway;
use postern_runtime::grpc::refuse;
use postern_runtime::{Clock, Lifecycle, notes};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::guard::Caller;
use super::trust::draining;
use super::{Answers, HEARTBEAT};
use crate::fleet::Fleet;
use crate::model_credential::ModelCredential;
use crate::partners::Partners;
use crate::prompts::Prompts;
use crate::registry::{Model, Registry};
use crate::root::TrustRoot;
use crate::store::{Store, Versions};

/// Messages that may wait for a slow reader.
const WAITING: usize = 4;

/// The door.
pub struct ConfigDoor {
    /// The models and features.
    pub registry: Arc<Registry>,
    /// The prompts.
    pub prompts: Arc<Prompts>,
    /// Seals what gateways keep.
    pub root: TrustRoot,
    /// For the time of a seal.
    pub clock: Arc<dyn Clock>,
    /// The counters.
    pub store: Arc<dyn Store>,
    /// Who is connected.
    pub fleet: Fleet,
    /// News.
    pub versions: watch::Receiver<Versions>,
    /// Ends the streams.
    pub lifecycle: Lifecycle,
}

/// What the streams read their snapshots from.
#[derive(Clone)]
struct Source {
    registry: Arc<Registry>,
    prompts: Arc<Prompts>,
    partners: Arc<Partners>,
    store: Arc<dyn Store>,
}

impl Source {
    /// The version is read before the content, so content is at least as new as its version says.
    async fn routes(&self) -> Result<pb::RouteSnapshot, Failure> {
        let version = self.store.versions().await?.config;
        let models = self.registry.models().await?.into_iter().map(route_model).collect();
        let bindings = self.registry.bindings().await?;
        let features = bindings.iter().map(|(name, binding)| super::features::feature(*name, Some(binding))).collect();
        let issuers = self.partners.issuers().await?;
        let prompts = self.prompts.all().await?.into_iter().map(super::prompts::prompt).collect();
        Ok(pb::RouteSnapshot { version, models, features, issuers, prompts })
    }

    async fn endpoints(&self, group: &str) -> Result<pb::AdapterSnapshot, Failure> {
        let version = self.store.versions().await?.config;
        let mut endpoints = Vec::new();
        for model in self.registry.models().await? {
            if model.spec.adapter_group != group {
                continue;
            }
            // One model whose credential does not open must not take the others down.
            match self.registry.credential(&model) {
                Ok(credential) => endpoints.extend(adapter_endpoints(model, &credential)),
                Err(failure) => tracing::error!(
                    model.name = model.record.name,
                    detail = failure.detail,
                    "a model's credential does not open; the model is not served"
                ),
            }
        }
        Ok(pb::AdapterSnapshot { version, endpoints })
    }
}

fn route_model(Model { record, spec }: Model) -> pb::RouteModel {
    let (limits, timers, code) = (spec.limits(), spec.timers(), spec.capabilities().code.unwrap_or_default());
    pb::RouteModel {
        name: record.name,
        family: spec.family,
        adapter_group: spec.adapter_group,
        endpoint_ids: spec.endpoints.into_iter().map(|endpoint| endpoint.id).collect(),
        client_networks: spec.client_networks.iter().map(ToString::to_string).collect(),
        limits: Some(limits),
        timers: Some(timers),
        groups: spec.groups,
        code,
    }
}

fn adapter_endpoints(model: Model, credential: &ModelCredential) -> Vec<pb::AdapterEndpoint> {
    let networks: Vec<_> = model.spec.endpoint_networks.iter().map(ToString::to_string).collect();
    let timers = model.spec.timers();
    let endpoint = |endpoint: &crate::model::EndpointSpec| pb::AdapterEndpoint {
        id: endpoint.id.clone(),
        model: model.record.name.clone(),
        provider: model.spec.provider.clone(),
        url: endpoint.url.clone(),
        identifier: model.spec.identifier.clone(),
        credential: Some(credential.clone().into_message()),
        endpoint_networks: networks.clone(),
        timers: Some(timers),
        family: model.spec.family.clone(),
        capabilities: Some(model.spec.capabilities()),
        headers: model.spec.headers(),
        ca_pem: model.spec.ca_pem.clone(),
        max_concurrency: model.spec.max_concurrency,
    };
    model.spec.endpoints.iter().map(endpoint).collect()
}

impl ConfigDoor {
    fn source(&self) -> Source {
        let partners = Arc::new(Partners::new(self.store.clone()));
        let (registry, prompts) = (self.registry.clone(), self.prompts.clone());
        Source { registry, prompts, partners, store: self.store.clone() }
    }

    /// Runs a stream until it ends by itself or the process stops, and tells the peer which.
    fn run<T: Send + 'static>(
        &self,
        answers: mpsc::Sender<Result<T, Status>>,
        stream: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        let stopping = self.lifecycle.stopping().clone();
        self.lifecycle.spawn(async move {
            let failure = tokio::select! {
                ended = stream => match ended {
                    Ok(()) => return,
                    Err(failure) => failure,
                },
                () = stopping.cancelled() => draining(),
            };
            let _ = answers.try_send(Err(refuse(failure)));
        });
    }
}

#[tonic::async_trait]
impl ConfigService for ConfigDoor {
    type WatchRoutesStream = Answers<pb::WatchRoutesResponse>;

    async fn watch_routes(
        &self,
        request: Request<pb::WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        tracing::info!(
            fleet.member = caller.principal.name,
            fleet.replica = request.get_ref().replica_id,
            "routes subscribed"
        );
        let (answers, stream) = mpsc::channel(WAITING);
        let seal = Seal { root: self.root.clone(), clock: self.clock.clone() };
        let feed = feed_routes(self.source(), seal, caller, self.versions.clone(), answers.clone());
        self.run(answers, feed);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ConnectAdapterStream = Answers<pb::ConnectAdapterResponse>;

    async fn connect_adapter(
        &self,
        request: Request<Streaming<pb::ConnectAdapterRequest>>,
    ) -> Result<Response<Self::ConnectAdapterStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let (answers, stream) = mpsc::channel(WAITING);
        let session = AdapterSession {
            member: caller.principal.name.clone(),
            group: caller.principal.adapter_group.clone().unwrap_or_default(),
            caller,
            source: self.source(),
            fleet: self.fleet.clone(),
            versions: self.versions.clone(),
            answers: answers.clone(),
        };
        self.run(answers, session.serve(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Seals routes.
struct Seal {
    root: TrustRoot,
    clock: Arc<dyn Clock>,
}

impl Seal {
    fn of(&self, snapshot: &pb::RouteSnapshot) -> ToGateway {
        let routes = pb::SealedRoutes { time: self.clock.now(), snapshot: Some(snapshot.clone()) };
        ToGateway::Seal(self.root.seal(notes::ROUTES, &routes))
    }
}

async fn feed_routes(
    source: Source,
    seal: Seal,
    member: Caller,
    mut versions: watch::Receiver<Versions>,
    answers: mpsc::Sender<Result<pb::WatchRoutesResponse, Status>>,
) -> Result<(), Failure> {
    let mut beat = tokio::time::interval(HEARTBEAT);
    let mut sent = None;
    loop {
        let known = versions.borrow_and_update().config;
        // After the version was read: a member that is removed later counts it up again.
        member.still_may(&*source.store).await?;
        let messages = match sent {
            Some(version) if version >= known => vec![ToGateway::Heartbeat(pb::RouteHeartbeat { version })],
            _ => {
                let snapshot = source.routes().await?;
                sent = Some(snapshot.version);
                let sealed = seal.of(&snapshot);
                vec![ToGateway::Snapshot(snapshot), sealed]
            }
        };
        for message in messages {
            if answers.send(Ok(pb::WatchRoutesResponse { message: Some(message) })).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            _ = beat.tick() => {}
            changed = versions.changed() => if changed.is_err() { return Ok(()) },
            () = answers.closed() => return Ok(()),
        }
    }
}

struct AdapterSession {
    member: String,
    caller: Caller,
    group: String,
    source: Source,
    fleet: Fleet,
    versions: watch::Receiver<Versions>,
    answers: mpsc::Sender<Result<pb::ConnectAdapterResponse, Status>>,
}

impl AdapterSession {
    async fn serve(mut self, mut said: Streaming<pb::ConnectAdapterRequest>) -> Result<(), Failure> {
        let mut sent = self.send_snapshot().await?;
        // Probes come only now, so that the adapter knows the endpoints by then.
        let (_place, mut probes) = self.fleet.enter_adapter(&self.group);
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            let known = self.versions.borrow_and_update().config;
            self.caller.still_may(&*self.source.store).await?;
            if known > sent {
                sent = self.send_snapshot().await?;
            }
            tokio::select! {
                message = said.next() => match message {
                    Some(Ok(message)) => self.hear(message),
                    _ => return Ok(()),
                },
                changed = self.versions.changed() => if changed.is_err() { return Ok(()) },
                Some(probe) = probes.recv() => {
                    // A probe may be for a model that was registered a moment ago.
                    if self.source.store.versions().await?.config != sent {
                        sent = self.send_snapshot().await?;
                    }
                    self.send(ToAdapter::Probe(probe)).await;
                }
                _ = beat.tick() => self.send(ToAdapter::Heartbeat(pb::RouteHeartbeat { version: sent })).await,
            }
        }
    }

    async fn send_snapshot(&self) -> Result<u64, Failure> {
        self.caller.still_may(&*self.source.store).await?;
        let snapshot = self.source.endpoints(&self.group).await?;
        let version = snapshot.version;
        self.send(ToAdapter::Snapshot(snapshot)).await;
        Ok(version)
    }

    /// A reader that is gone is noticed by the incoming half.
    async fn send(&self, message: ToAdapter) {
        let _ = self.answers.send(Ok(pb::ConnectAdapterResponse { message: Some(message) })).await;
    }

    fn hear(&self, message: pb::ConnectAdapterRequest) {
        use pb::connect_adapter_request::Message;
        match message.message {
            Some(Message::Hello(hello)) => {
                tracing::info!(fleet.member = self.member, fleet.replica = hello.replica_id, "adapter connected");
            }
            Some(Message::Acknowledgement(done)) => {
                tracing::info!(fleet.member = self.member, config.version = done.version, "endpoints acknowledged");
            }
            Some(Message::ProbeResult(mut result)) => {
                if let Some(step) = &mut result.step {
                    step.adapter.clone_from(&self.member);
                }
                self.fleet.deliver(result);
            }
            None => {}
        }
    }
}
