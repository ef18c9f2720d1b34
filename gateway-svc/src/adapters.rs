//! The way to the models: one adapter per group, over the network or inside this process, behind the same service.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use postern_proto::completion::v1::CompletionEvent;
use postern_proto::model::v1::model_service_client::ModelServiceClient;
use postern_proto::model::v1::model_service_server::ModelService;
use postern_proto::model::v1::{
    CountTokensRequest, CountTokensResponse, EmbedRequest, EmbedResponse, Generation, StreamGenerateRequest,
    StreamGenerateResponse,
};
use postern_proto::{Failure, Reason};
use postern_runtime::grpc;
use postern_runtime::instance::KeptToken;
use postern_runtime::request_id::RequestId;
use tokio::time::Instant;
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
                let client = ModelServiceClient::new(channel.clone())
                    .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
                let ask = |token: Arc<str>| {
                    let request = grpc::onward(message.clone(), request_id, &token, None);
                    let mut client = client.clone();
                    async move { client.stream_generate(request).await }
                };
                Box::pin(introduced(token, ask).await?.into_inner())
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

impl Adapter {
    /// Asks for embeddings: one attempt. Dropping this future stops the model.
    ///
    /// # Errors
    /// The adapter's failure, or ADAPTER_UNAVAILABLE.
    pub async fn embed(&self, message: EmbedRequest, request_id: &RequestId) -> Result<EmbedResponse, Failure> {
        match self {
            Self::Remote { channel, token } => {
                let client = ModelServiceClient::new(channel.clone())
                    .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
                let ask = |token: Arc<str>| {
                    let request = grpc::onward(message.clone(), request_id, &token, None);
                    let mut client = client.clone();
                    async move { client.embed(request).await }
                };
                introduced(token, ask).await.map(tonic::Response::into_inner)
            }
            Self::Embedded(service) => {
                let request = grpc::onward(message, request_id, "", None);
                service.embed(request).await.map(tonic::Response::into_inner).map_err(|status| lost(&status))
            }
        }
    }
}

impl Adapter {
    /// Asks how many tokens a prompt has: one attempt.
    ///
    /// # Errors
    /// The adapter's failure, or ADAPTER_UNAVAILABLE.
    pub async fn count_tokens(
        &self,
        message: CountTokensRequest,
        request_id: &RequestId,
    ) -> Result<CountTokensResponse, Failure> {
        match self {
            Self::Remote { channel, token } => {
                let client =
                    ModelServiceClient::new(channel.clone()).max_encoding_message_size(grpc::MAX_MESSAGE_BYTES);
                let ask = |token: Arc<str>| {
                    let request = grpc::onward(message.clone(), request_id, &token, None);
                    let mut client = client.clone();
                    async move { client.count_tokens(request).await }
                };
                introduced(token, ask).await.map(tonic::Response::into_inner)
            }
            Self::Embedded(service) => {
                let request = grpc::onward(message, request_id, "", None);
                service.count_tokens(request).await.map(tonic::Response::into_inner).map_err(|status| lost(&status))
            }
        }
    }
}

/// How long a gateway whose token an adapter does not know (any more, or yet) goes on introducing itself.
const INTRODUCTION: Duration = Duration::from_secs(2);
const INTRODUCTION_PAUSE: Duration = Duration::from_millis(50);

/// Asks an adapter over the network. When keys are revoked, the adapter may hear of it before this gateway has another token,
/// or after; it has tried nothing then, so it is asked again.
async fn introduced<T, F>(token: &KeptToken, ask: impl Fn(Arc<str>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Status>>,
{
    let given_up = Instant::now() + INTRODUCTION;
    loop {
        let shown = token.get().ok_or_else(|| {
            let message = "the gateway has no token for its adapter; the instance gives it one";
            Failure::new(Reason::AdapterUnavailable, message)
        })?;
        let status = match ask(shown.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let refusal = Failure::from_status(&status, Reason::AdapterUnavailable).reason;
        if !matches!(refusal, Reason::KeyUnknown | Reason::TokenRevoked) || Instant::now() > given_up {
            return Err(lost(&status));
        }
        token.refused(&shown);
        tokio::time::sleep(INTRODUCTION_PAUSE).await;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use postern_runtime::SystemClock;
    use postern_runtime::instance::Minted;

    fn kept() -> KeptToken {
        let kept = KeptToken::new(Arc::new(SystemClock));
        kept.put(Minted { token: "old".into(), expires: u64::MAX });
        kept
    }

    #[tokio::test(start_paused = true)]
    async fn an_adapter_that_does_not_know_the_gateways_key_is_asked_again_with_the_token_of_the_moment() {
        let (kept, asked) = (kept(), AtomicUsize::new(0));
        let answer = introduced(&kept, async |token: Arc<str>| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Err(grpc::refuse(Failure::new(Reason::KeyUnknown, "the key was revoked"))),
            1 => {
                kept.put(Minted { token: "new".into(), expires: u64::MAX });
                Err(grpc::refuse(Failure::new(Reason::TokenRevoked, "so was the token")))
            }
            _ => Ok(token),
        });
        assert_eq!(&*answer.await.unwrap(), "new");
    }

    #[tokio::test(start_paused = true)]
    async fn an_adapter_that_never_accepts_the_gateway_is_given_up_and_one_that_refuses_the_request_is_not_asked_again()
    {
        for (refusal, told, most) in [
            (Reason::KeyUnknown, Reason::AdapterUnavailable, 50),
            (Reason::ModelRefusedRequest, Reason::ModelRefusedRequest, 1),
        ] {
            let (kept, asked) = (kept(), AtomicUsize::new(0));
            let answer = introduced(&kept, async |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                Err::<(), _>(grpc::refuse(Failure::new(refusal, "no")))
            });
            assert_eq!(answer.await.unwrap_err().reason, told);
            let asked = asked.into_inner();
            assert!((1..=most).contains(&asked), "{refusal:?}: {asked}");
        }
    }
}
