//! `postern.gateway.v1.CompletionService`, served by passing it on to a gateway. What comes back, events and failures alike,
//! is passed back as it is. Dropping the caller's stream drops the gateway's.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use postern_proto::completion::v1::{CompletionEvent, completion_event::Event};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::gateway::v1::completion_service_server::CompletionService;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::peer::{client_of, vouch};
use postern_runtime::request_id::RequestId;
use postern_runtime::{auth, grpc};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::Answers;
use crate::relay::Relay;

/// The door.
pub struct RelayDoor {
    /// The domain behind it.
    pub relay: Arc<Relay>,
}

impl RelayDoor {
    /// The gateway's client and the request to send it.
    async fn onward<T>(
        &self,
        request: Request<T>,
        features: &[Feature],
    ) -> Result<(CompletionServiceClient<Channel>, Request<T>), Status> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let id = extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate);
        let presented = auth::bearer(&headers).map_err(grpc::refuse)?;
        let caller = client_of(&extensions, &headers).map_err(grpc::refuse)?;
        let onward = self.relay.onward(presented, features, caller).await.map_err(grpc::refuse)?;
        let client = CompletionServiceClient::new(onward.channel)
            .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
        tracing::info!(relay.features = features.len(), "relaying to the gateway");
        let mut request = grpc::onward(message, &id, &onward.token, grpc::timeout_of(&headers));
        if let (Some(caller), Some(voucher)) = (caller, &onward.voucher) {
            vouch(request.metadata_mut().as_mut(), voucher, caller).map_err(grpc::refuse)?;
        }
        Ok((client, request))
    }
}

/// A gateway's failure as it is; anything else is the way to the gateway.
pub(super) fn passed_on(status: Status) -> Status {
    let failure = Failure::from_status(&status, Reason::GatewayUnavailable);
    if failure.detail.is_some() { grpc::refuse(failure) } else { status }
}

/// An answer without the gateway's own headers.
fn answer<T>(response: Response<T>) -> Response<T> {
    Response::new(response.into_inner())
}

/// A gateway's stream. One that ends without an end event is a failure, whatever its status.
fn stream<T: Send + 'static>(
    response: Response<Streaming<T>>,
    event: fn(&T) -> Option<&CompletionEvent>,
) -> Response<Answers<T>> {
    let span = tracing::Span::current();
    let items = stream::unfold(Some((response.into_inner(), false)), move |state| {
        let next = async move {
            let (mut events, ended) = state?;
            match events.next().await {
                Some(Ok(item)) => {
                    let ends = matches!(event(&item).and_then(|event| event.event.as_ref()), Some(Event::End(_)));
                    Some((Ok(item), Some((events, ended || ends))))
                }
                Some(Err(status)) => Some((Err(passed_on(status)), None)),
                None if ended => None,
                None => {
                    let failure = Failure::new(Reason::ModelStreamTruncated, "the gateway's stream broke off");
                    Some((Err(grpc::refuse(failure)), None))
                }
            }
        };
        next.instrument(span.clone())
    });
    Response::new(Box::pin(items))
}

/// The feature of a run, for which a token is minted; the gateway judges the rest.
fn feature_of(run: Option<&pb::PromptRun>) -> Result<Feature, Status> {
    let name = run.map(|run| run.feature.as_str()).unwrap_or_default();
    let feature = name.parse::<Feature>();
    feature.map_err(|error| grpc::refuse(Failure::field("feature", error.to_string())))
}

#[tonic::async_trait]
impl CompletionService for RelayDoor {
    async fn chat(&self, request: Request<pb::ChatRequest>) -> Result<Response<pb::ChatResponse>, Status> {
        let (mut gateway, request) = self.onward(request, &[Feature::Chat]).await?;
        gateway.chat(request).await.map(answer).map_err(passed_on)
    }

    type StreamChatStream = Answers<pb::StreamChatResponse>;

    async fn stream_chat(
        &self,
        request: Request<pb::StreamChatRequest>,
    ) -> Result<Response<Self::StreamChatStream>, Status> {
        let (mut gateway, request) = self.onward(request, &[Feature::Chat]).await?;
        let answer = gateway.stream_chat(request).await.map_err(passed_on)?;
        Ok(stream(answer, |item| item.event.as_ref()))
    }

    async fn complete_code(
        &self,
        request: Request<pb::CompleteCodeRequest>,
    ) -> Result<Response<pb::CompleteCodeResponse>, Status> {
        let (mut gateway, request) = self.onward(request, &[Feature::CodeCompletion]).await?;
        gateway.complete_code(request).await.map(answer).map_err(passed_on)
    }

    type StreamCompleteCodeStream = Answers<pb::StreamCompleteCodeResponse>;

    async fn stream_complete_code(
        &self,
        request: Request<pb::StreamCompleteCodeRequest>,
    ) -> Result<Response<Self::StreamCompleteCodeStream>, Status> {
        let (mut gateway, request) = self.onward(request, &[Feature::CodeCompletion]).await?;
        let answer = gateway.stream_complete_code(request).await.map_err(passed_on)?;
        Ok(stream(answer, |item| item.event.as_ref()))
    }

    async fn run_prompt(
        &self,
        request: Request<pb::RunPromptRequest>,
    ) -> Result<Response<pb::RunPromptResponse>, Status> {
        let feature = feature_of(request.get_ref().run.as_ref())?;
        let (mut gateway, request) = self.onward(request, &[feature]).await?;
        gateway.run_prompt(request).await.map(answer).map_err(passed_on)
    }

    type StreamRunPromptStream = Answers<pb::StreamRunPromptResponse>;

    async fn stream_run_prompt(
        &self,
        request: Request<pb::StreamRunPromptRequest>,
    ) -> Result<Response<Self::StreamRunPromptStream>, Status> {
        let feature = feature_of(request.get_ref().run.as_ref())?;
        let (mut gateway, request) = self.onward(request, &[feature]).await?;
        let answer = gateway.stream_run_prompt(request).await.map_err(passed_on)?;
        Ok(stream(answer, |item| item.event.as_ref()))
    }

    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedResponse>, Status> {
        let (mut gateway, request) = self.onward(request, &[Feature::Embed]).await?;
        gateway.embed(request).await.map(answer).map_err(passed_on)
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let (mut gateway, request) = self.onward(request, &Feature::ALL).await?;
        gateway.list_models(request).await.map(answer).map_err(passed_on)
    }
}
