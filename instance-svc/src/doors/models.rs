//! `postern.instance.v1.ModelRegistryService`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::model_registry_service_server::ModelRegistryService;
use postern_proto::{Failure, Reason};
use postern_runtime::grpc::refuse;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answers, acted, timestamp};
use crate::fleet::Fleet;
use crate::model_credential::ModelCredential;
use crate::registry::{Model, Registry};

/// How long a check may take, all endpoints together.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// The door.
pub struct ModelDoor {
    /// The domain behind it.
    pub registry: Arc<Registry>,
    /// The adapters that probe.
    pub fleet: Fleet,
}

fn model(Model { record, spec }: Model) -> pb::Model {
    let credential_kind = ModelCredential::kind_of(&record.credential_kind);
    let (limits, timers, headers) = (spec.limits(), spec.timers(), spec.headers());
    let endpoint = |endpoint: crate::model::EndpointSpec| pb::Endpoint { id: endpoint.id, url: endpoint.url };
    pb::Model {
        name: record.name,
        family: spec.family,
        provider: spec.provider,
        endpoints: spec.endpoints.into_iter().map(endpoint).collect(),
        identifier: spec.identifier,
        client_networks: spec.client_networks.iter().map(ToString::to_string).collect(),
        endpoint_networks: spec.endpoint_networks.iter().map(ToString::to_string).collect(),
        adapter_group: spec.adapter_group,
        limits: Some(limits),
        timers: Some(timers),
        groups: spec.groups,
        credential_kind: credential_kind as i32,
        version: record.version,
        create_time: timestamp(record.created_at),
        update_time: timestamp(record.updated_at),
        capabilities: Some(spec.said).filter(|said| *said != pb::Capabilities::default()),
        headers,
        ca_pem: spec.ca_pem,
    }
}

fn given(model: Option<pb::Model>) -> Result<pb::Model, Failure> {
    model.ok_or_else(|| Failure::field("model", "is missing"))
}

#[tonic::async_trait]
impl ModelRegistryService for ModelDoor {
    async fn create_model(
        &self,
        request: Request<pb::CreateModelRequest>,
    ) -> Result<Response<pb::CreateModelResponse>, Status> {
        let pb::CreateModelRequest { model: wanted, credential: secret } = request.into_inner();
        let secret = secret.map(ModelCredential::check).transpose().map_err(refuse)?;
        let secret = secret.unwrap_or_else(ModelCredential::none);
        let made = self.registry.create(given(wanted).map_err(refuse)?, secret).await.map_err(refuse)?;
        tracing::info!(model.name = made.record.name, "model registered");
        Ok(acted(made.record.name.clone(), pb::CreateModelResponse { model: Some(model(made)) }))
    }

    async fn get_model(&self, request: Request<pb::GetModelRequest>) -> Result<Response<pb::GetModelResponse>, Status> {
        let found = self.registry.get(&request.into_inner().name).await.map_err(refuse)?;
        Ok(Response::new(pb::GetModelResponse { model: Some(model(found)) }))
    }

    async fn list_models(&self, _: Request<pb::ListModelsRequest>) -> Result<Response<pb::ListModelsResponse>, Status> {
        let models = self.registry.models().await.map_err(refuse)?;
        Ok(Response::new(pb::ListModelsResponse { models: models.into_iter().map(model).collect() }))
    }

    async fn update_model(
        &self,
        request: Request<pb::UpdateModelRequest>,
    ) -> Result<Response<pb::UpdateModelResponse>, Status> {
        let pb::UpdateModelRequest { model: wanted, credential: secret } = request.into_inner();
        let secret = secret.map(ModelCredential::check).transpose().map_err(refuse)?;
        let changed = self.registry.update(given(wanted).map_err(refuse)?, secret).await.map_err(refuse)?;
        tracing::info!(model.name = changed.record.name, model.version = changed.record.version, "model changed");
        Ok(acted(changed.record.name.clone(), pb::UpdateModelResponse { model: Some(model(changed)) }))
    }

    async fn delete_model(
        &self,
        request: Request<pb::DeleteModelRequest>,
    ) -> Result<Response<pb::DeleteModelResponse>, Status> {
        let name = request.into_inner().name;
        self.registry.remove(&name).await.map_err(refuse)?;
        tracing::info!(model.name = name, "model removed");
        Ok(acted(name, pb::DeleteModelResponse {}))
    }

    type CheckModelStream = Answers<pb::CheckModelResponse>;

    async fn check_model(
        &self,
        request: Request<pb::CheckModelRequest>,
    ) -> Result<Response<Self::CheckModelStream>, Status> {
        let found = self.registry.get(&request.into_inner().name).await.map_err(refuse)?;
        let endpoints = found.spec.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        let steps = self.fleet.probe(&found.spec.adapter_group, endpoints).map_err(refuse)?;
        let steps = ReceiverStream::new(steps).map(|step| Ok(pb::CheckModelResponse { step: Some(step) }));
        let late = async {
            tokio::time::sleep(CHECK_PATIENCE).await;
            Err(refuse(Failure::new(Reason::DeadlineExceeded, "the adapter did not finish the check in time")))
        };
        Ok(Response::new(Box::pin(until(steps, late))))
    }
}

/// The items of a stream, or a last item when that comes first.
fn until<T: Send>(
    items: impl futures_util::Stream<Item = T> + Send,
    last: impl Future<Output = T> + Send,
) -> impl futures_util::Stream<Item = T> + Send {
    let over = items.map(Some).chain(futures_util::stream::iter([None]));
    let late = futures_util::stream::once(last).map(Some).chain(futures_util::stream::iter([None]));
    // Whichever says that it is over ends both.
    futures_util::stream::select(Box::pin(over), Box::pin(late))
        .take_while(|item| std::future::ready(item.is_some()))
        .filter_map(std::future::ready)
}
