//! `postern.gateway.v1.CompletionService`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use postern_proto::completion::v1::{CompletionEvent, completion_event::Event};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_server::CompletionService;
use postern_proto::model::v1::ChatPrompt;
use postern_proto::{Failure, Feature, UnknownFeature};
use postern_runtime::grpc::{refuse, timeout_of};
use postern_runtime::peer::Peer;
use postern_runtime::request_id::RequestId;
use postern_token::Verified;
use tonic::{Request, Response, Status};

use crate::ask::{Ask, Task, Texts};
use crate::collect::collect;
use crate::pipeline::{Bearer, Caller, Completion, Embedded, Pipeline};
use crate::policy::Identified;

/// The door.
pub struct GrpcDoor {
    /// What is behind it.
    pub pipeline: Pipeline,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn chat(given: Option<pb::Chat>) -> Result<Ask, Failure> {
    let given = given.ok_or_else(|| Failure::field("chat", "is missing"))?;
    let pb::Chat { model, messages, parameters, tools, tool_choice, response_format } = given;
    Ok(Ask {
        model: Some(model).filter(|model| !model.is_empty()),
        task: Task::Chat(ChatPrompt { messages, tools, tool_choice, response_format }),
        parameters: parameters.unwrap_or_default(),
        session: None,
        warnings: Vec::new(),
    })
}

fn code(given: Option<pb::Code>) -> Result<Ask, Failure> {
    let given = given.ok_or_else(|| Failure::field("code", "is missing"))?;
    let pb::Code { model, prefix, suffix, file_path, parameters, editing_session_id, related_files } = given;
    Ok(Ask {
        model: Some(model).filter(|model| !model.is_empty()),
        task: Task::Code { prefix, suffix, file_path, files: related_files },
        parameters: parameters.unwrap_or_default(),
        session: Some(editing_session_id).filter(|session| !session.is_empty()),
        warnings: Vec::new(),
    })
}

const MAX_VERSION_BYTES: usize = 64;

fn run(given: Option<pb::PromptRun>) -> Result<Ask, Failure> {
    let given = given.ok_or_else(|| Failure::field("run", "is missing"))?;
    let pb::PromptRun { feature, model, variables, prompt_version, parameters } = given;
    let feature: Feature =
        feature.parse().map_err(|error: UnknownFeature| Failure::field("feature", error.to_string()))?;
    if !feature.is_run_by_prompt() {
        return Err(Failure::field("feature", format!("`{feature}` has a call of its own")));
    }
    if prompt_version.len() > MAX_VERSION_BYTES {
        return Err(Failure::field("prompt_version", format!("is longer than {MAX_VERSION_BYTES} bytes")));
    }
    let version = Some(prompt_version).filter(|version| !version.is_empty());
    let version = version.map(|version| version.parse()).transpose();
    let version = version.map_err(|_| Failure::field("prompt_version", "is not a version such as 1.0.0"))?;
    Ok(Ask {
        model: Some(model).filter(|model| !model.is_empty()),
        task: Task::Run { feature, variables: variables.into_iter().collect(), version },
        parameters: parameters.unwrap_or_default(),
        session: None,
        warnings: Vec::new(),
    })
}

impl GrpcDoor {
    async fn complete<T>(
        &self,
        request: Request<T>,
        ask: impl FnOnce(T) -> Result<Ask, Failure>,
    ) -> Result<Completion, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let ask = ask(message).map_err(refuse)?;
        let verified = identified(&extensions).map_err(refuse)?;
        self.pipeline.complete(verified, caller(&headers, &extensions), ask).await.map_err(refuse)
    }
}

/// The caller that the guard found.
pub(super) fn identified(extensions: &http::Extensions) -> Result<Arc<Verified>, Failure> {
    let found = extensions.get::<Identified>().cloned();
    let Identified(verified) =
        found.ok_or_else(|| Failure::internal("a guarded method was reached without a caller"))?;
    Ok(verified)
}

/// Who calls, by a request's head.
pub(crate) fn caller<'a>(headers: &'a http::HeaderMap, extensions: &http::Extensions) -> Caller<'a> {
    Caller {
        headers,
        peer: extensions.get::<Peer>().cloned(),
        request_id: extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate),
        timeout: timeout_of(headers),
        bearer: Bearer::AccessToken,
    }
}

fn events<T: Send + 'static>(
    completion: Completion,
    wrap: impl Fn(Option<CompletionEvent>) -> T + Send + 'static,
) -> Response<Answers<T>> {
    let events = stream::unfold(completion, |mut completion| async move {
        let item: Result<Event, Failure> = completion.next().await?;
        Some((item, completion))
    });
    let answers = events.map(move |item| match item {
        Ok(event) => Ok(wrap(Some(CompletionEvent { event: Some(event) }))),
        // The flow's own record has logged it.
        Err(failure) => Err(failure.into()),
    });
    Response::new(Box::pin(answers))
}

#[tonic::async_trait]
impl CompletionService for GrpcDoor {
    async fn chat(&self, request: Request<pb::ChatRequest>) -> Result<Response<pb::ChatResponse>, Status> {
        let begun = self.complete(request, |message| chat(message.chat)).await?;
        let completion = Some(collect(begun).await.map_err(refuse)?);
        Ok(Response::new(pb::ChatResponse { completion }))
    }

    type StreamChatStream = Answers<pb::StreamChatResponse>;

    async fn stream_chat(
        &self,
        request: Request<pb::StreamChatRequest>,
    ) -> Result<Response<Self::StreamChatStream>, Status> {
        let begun = self.complete(request, |message| chat(message.chat)).await?;
        Ok(events(begun, |event| pb::StreamChatResponse { event }))
    }

    async fn complete_code(
        &self,
        request: Request<pb::CompleteCodeRequest>,
    ) -> Result<Response<pb::CompleteCodeResponse>, Status> {
        let begun = self.complete(request, |message| code(message.code)).await?;
        let completion = Some(collect(begun).await.map_err(refuse)?);
        Ok(Response::new(pb::CompleteCodeResponse { completion }))
    }

    type StreamCompleteCodeStream = Answers<pb::StreamCompleteCodeResponse>;

    async fn stream_complete_code(
        &self,
        request: Request<pb::StreamCompleteCodeRequest>,
    ) -> Result<Response<Self::StreamCompleteCodeStream>, Status> {
        let begun = self.complete(request, |message| code(message.code)).await?;
        Ok(events(begun, |event| pb::StreamCompleteCodeResponse { event }))
    }

    async fn run_prompt(
        &self,
        request: Request<pb::RunPromptRequest>,
    ) -> Result<Response<pb::RunPromptResponse>, Status> {
        let begun = self.complete(request, |message| run(message.run)).await?;
        let completion = Some(collect(begun).await.map_err(refuse)?);
        Ok(Response::new(pb::RunPromptResponse { completion }))
    }

    type StreamRunPromptStream = Answers<pb::StreamRunPromptResponse>;

    async fn stream_run_prompt(
        &self,
        request: Request<pb::StreamRunPromptRequest>,
    ) -> Result<Response<Self::StreamRunPromptStream>, Status> {
        let begun = self.complete(request, |message| run(message.run)).await?;
        Ok(events(begun, |event| pb::StreamRunPromptResponse { event }))
    }

    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let given = message.embedding.ok_or_else(|| refuse(Failure::field("embedding", "is missing")))?;
        let pb::Embedding { model, inputs, dimensions, tokens, extra_json } = given;
        let ask =
            Texts { model: Some(model).filter(|model| !model.is_empty()), inputs, tokens, dimensions, extra_json };
        let verified = identified(&extensions).map_err(refuse)?;
        let answered = self.pipeline.embed(verified, caller(&headers, &extensions), ask).await.map_err(refuse)?;
        let Embedded { model, vectors, usage, warnings } = answered;
        let vectors = vectors.into_iter().map(|values| pb::Vector { values }).collect();
        Ok(Response::new(pb::EmbedResponse { model, vectors, usage: Some(usage), warnings }))
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let (metadata, extensions, pb::ListModelsRequest {}) = request.into_parts();
        let headers = metadata.into_headers();
        let models = self.pipeline.models(caller(&headers, &extensions)).await.map_err(refuse)?;
        let available = |(model, features): (std::sync::Arc<crate::routes::Model>, Vec<Feature>)| pb::AvailableModel {
            name: model.name.clone(),
            features: features.iter().map(|feature| feature.name().to_owned()).collect(),
            context_length: model.context_length,
        };
        Ok(Response::new(pb::ListModelsResponse { models: models.into_iter().map(available).collect() }))
    }
}
