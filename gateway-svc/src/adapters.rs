//! The way to the models: one adapter per group, over the network or inside this process, behind the same service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use postern_proto::completion::v1::CompletionEvent;
use postern_proto::model::v1::model_service_client::ModelServiceClient;
use postern_proto::model::v1::model_service_server::ModelService;
use postern_proto::model::v1::{Generation, StreamGenerateRequest, StreamGenerateResponse};
use postern_proto::{Failure, Reason};
use postern_runtime::grpc;
use postern_runtime::instance::KeptToken;
use postern_runtime::request_id::RequestId;
use tonic::Status;
use tonic::transport::Channel;

/// Events of an answer, or why it ended otherwise.
pub type Events = Pin<Box<dyn Stream<Item = Result<CompletionEvent, Failure>> + Send>>;
type Responses = Pin<Box<dyn Stream<Item = Result<StreamGenerateResponse, Status>> + Send>>;

/// An adapter.
#[derive(Clone)]
pub enum Adapter {
    /// Its own process.
    Remote {
        /// The way there.
        channel: Channel,
        /// What to show there.
        token: KeptToken,
    },
    /// In this process, with no serialisation between.
    Embedded(Arc<dyn ModelService<StreamGenerateStream = Responses>>),
}

impl Adapter {
    /// Asks for a generation: one attempt. Dropping the events, or this future, stops the model.
    ///
    /// # Errors
    /// The adapter's failure, or ADAPTER_UNAVAILABLE.
    pub async fn generate(&self, generation: Generation, request_id: &RequestId) -> Result<Events, Failure> {
        let message = StreamGenerateRequest { generation: Some(generation) };
        let responses: Responses = match self {
            Self::Remote { channel, token } => {
                let token = token.get().ok_or_else(|| {
                    Failure::new(
                        Reason::AdapterUnavailable,
                        "the gateway has no token for its adapter; the instance gives it one",
                    )
                })?;
                let request = grpc::onward(message, request_id, &token, None);
                let mut client = ModelServiceClient::new(channel.clone())
                    .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
                Box::pin(client.stream_generate(request).await.map_err(|status| lost(&status))?.into_inner())
            }
            Self::Embedded(service) => service
                .stream_generate(grpc::onward(message, request_id, "", None))
                .await
                .map_err(|status| lost(&status))?
                .into_inner(),
        };
        let read = |response: Result<StreamGenerateResponse, Status>| match response {
            Ok(response) => response.event.ok_or_else(|| Failure::internal("the adapter sent an empty event")),
            Err(status) => Err(lost(&status)),
        };
        Ok(Box::pin(responses.map(read)))
    }
}

/// What the adapter said, or that it could not be reached. Its refusal of our own token is not the caller's fault.
fn lost(status: &Status) -> Failure {
    let failure = Failure::from_status(status, Reason::AdapterUnavailable);
    if matches!(failure.reason.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied) {
        return Failure::new(Reason::AdapterUnavailable, "the adapter does not accept this gateway")
            .with_detail(failure);
    }
    if failure.reason == Reason::EndpointNotFound {
        // The adapter is behind the routes, or could not open the credential: nothing that the caller could mend.
        return Failure::new(
            Reason::AdapterUnavailable,
            "the adapter does not serve the model's endpoint at the moment",
        )
        .with_retry_after(Duration::from_secs(1))
        .with_detail(failure);
    }
    failure
}

/// The adapters by group.
#[derive(Clone, Default)]
pub struct Adapters(pub Arc<HashMap<String, Adapter>>);

impl Adapters {
    /// The adapter of a group.
    ///
    /// # Errors
    /// ADAPTER_UNAVAILABLE when the gateway knows none.
    pub fn of(&self, group: &str) -> Result<&Adapter, Failure> {
        self.0.get(group).ok_or_else(|| {
            Failure::new(Reason::AdapterUnavailable, format!("this gateway knows no adapter of the group `{group}`"))
        })
    }
}
