//! `postern.model.v1.ModelService`: the one way to a model, over the network or inside a gateway's process. It trusts its
//! caller; the network door has a guard before it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use postern_egress::Body;
use postern_proto::completion::v1::{
    Choice, Completion, CompletionEvent, Delta, End, FinishReason, Start, Thought, TokenLogprob, ToolCall,
    ToolCallFragment, Usage, UsageProvenance, completion_event, delta,
};
use postern_proto::model::v1 as pb;
use postern_proto::model::v1::model_service_server::ModelService;
use postern_proto::{Blame, Failure, Reason};
use postern_runtime::Clock;
use postern_runtime::grpc::refuse;
use postern_runtime::request_id::RequestId;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::endpoints::{Endpoint, Endpoints};
use crate::fit::fit;
use crate::provider::embeddings::Embeddings;
use crate::provider::{Api, Call, StreamDecoder, embeddings, emit};
use crate::upstream;

/// Largest answer with embeddings, in bytes: numbers as text take a dozen each.
const MAX_EMBEDDINGS_BYTES: usize = 64 * 1024 * 1024;

/// Where Bedrock says how many tokens a model read, whatever the model itself says.
const COUNT_HEADER: &str = "x-amzn-bedrock-input-token-count";

/// Numbers in all vectors of one answer.
const MAX_NUMBERS: usize = 16 * 1024 * 1024;

/// Requests for parts of what is to be embedded that are under way at once.
const BATCHES_AT_ONCE: usize = 4;

/// Largest answer with a count, in bytes.
const MAX_COUNT_BYTES: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub struct Models {
    /// What is served.
    pub endpoints: Endpoints,
    /// For dates in `Retry-After`.
    pub clock: Arc<dyn Clock>,
}

/// Events as they come.
pub type Events = Pin<Box<dyn Stream<Item = Result<pb::StreamGenerateResponse, Status>> + Send>>;

impl Models {
    /// Embeds in as many requests as the server needs; one that fails ends the others.
    async fn embed_all(&self, asked: pb::EmbedRequest, id: &RequestId) -> Result<pb::EmbedResponse, Failure> {
        let endpoint = self.endpoint(&asked.endpoint_id)?;
        let batches = embeddings::batches(asked, endpoint.provider.most_texts(&endpoint.target()))?;
        tracing::info!(
            model.name = endpoint.model,
            endpoint.id = endpoint.id,
            requests = batches.len(),
            "calling the model"
        );
        let at_once = BATCHES_AT_ONCE.min(endpoint.at_once());
        let mut answers = stream::iter(batches.map(|batch| self.embed_batch(&endpoint, batch, id))).buffered(at_once);
        let (mut read, mut numbers) = (Vec::new(), 0);
        while let Some(part) = answers.try_next().await? {
            numbers += part.vectors.iter().map(|vector| vector.values.len()).sum::<usize>();
            if numbers > MAX_NUMBERS {
                let message = "the embeddings of so many texts are too large for one answer; ask for fewer";
                return Err(Failure::new(Reason::RequestTooLarge, message).with_blame(Blame::Client));
            }
            read.push(part);
        }
        let read = embeddings::together(read);
        let usage = Some(read.usage.unwrap_or_else(emit::absent_usage));
        Ok(pb::EmbedResponse { embeddings: read.vectors, usage, warnings: read.warnings })
    }

    async fn embed_batch(
        &self,
        endpoint: &Endpoint,
        asked: pb::EmbedRequest,
        id: &RequestId,
    ) -> Result<Embeddings, Failure> {
        let call = endpoint.provider.embed(&endpoint.target(), &asked)?;
        let warnings = call.warnings.clone();
        let response = upstream::send(endpoint, call, id, self.clock.now()).await?;
        let counted = response.headers().get(COUNT_HEADER).and_then(|count| count.to_str().ok()?.parse().ok());
        let body = upstream::read_up_to(response.into_body(), MAX_EMBEDDINGS_BYTES).await;
        // No other server would answer in less: it was asked for too much at once.
        let body = body.map_err(|failure| match failure.reason {
            Reason::ModelAnswerInvalid => {
                let message = "the embeddings of so many texts are too large for one answer; ask for fewer";
                Failure::new(Reason::RequestTooLarge, message).with_blame(Blame::Client)
            }
            _ => failure,
        })?;
        let read = embeddings::read(&body).map_err(|failure| upstream::scrubbed(endpoint, failure))?;
        if read.vectors.len() != asked.inputs.len() + asked.tokens.len() {
            return Err(emit::invalid("not one embedding for each text"));
        }
        Ok(Embeddings { usage: read.usage.or(counted.map(embeddings::reported)), warnings, ..read })
    }

    /// The tokens of a prompt, by the server's own count; `None` where it does not count.
    async fn count_once(&self, mut generation: pb::Generation, id: &RequestId) -> Result<Option<u64>, Failure> {
        let endpoint = self.endpoint(&generation.endpoint_id)?;
        let target = endpoint.target();
        fit(target.capabilities, &mut generation)?;
        endpoint.take_back(&mut generation);
        let Some(call) = endpoint.provider.count(&target, &generation)? else { return Ok(None) };
        tracing::info!(model.name = endpoint.model, endpoint.id = endpoint.id, "asking the model's server to count");
        let response = upstream::send(&endpoint, call, id, self.clock.now()).await?;
        let body = upstream::read_up_to(response.into_body(), MAX_COUNT_BYTES).await?;
        endpoint.provider.read_count(&body).map(Some).map_err(|failure| upstream::scrubbed(&endpoint, failure))
    }

    fn endpoint(&self, id: &str) -> Result<Arc<Endpoint>, Failure> {
        self.endpoints.get(id).ok_or_else(|| {
            Failure::new(Reason::EndpointNotFound, "this adapter does not serve that endpoint (yet)")
                .with_blame(Blame::Adapter)
        })
    }

    async fn stream(&self, generation: pb::Generation, id: &RequestId) -> Result<Answer, Failure> {
        let endpoint = self.endpoint(&generation.endpoint_id)?;
        let likely = asked_likely(&generation);
        let call = call(&endpoint, generation, true)?;
        tracing::info!(model.name = endpoint.model, endpoint.id = endpoint.id, "calling the model");
        let (kind, warnings) = (call.api, call.warnings.clone());
        let response = upstream::send(&endpoint, call, id, self.clock.now()).await?;
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let start = Start { model: endpoint.model.clone(), warnings, prompt: String::new() };
        let mut answer = Answer {
            ready: VecDeque::from([event(completion_event::Event::Start(start))]),
            rest: None,
            failure: None,
            endpoint,
            likely,
            has_begun: false,
        };
        match media_type.as_str() {
            "text/event-stream"
            | "application/x-ndjson"
            | "application/stream+json"
            | "application/vnd.amazon.eventstream" => {
                let decoder = answer.endpoint.provider.stream_decoder(kind);
                answer.rest = Some(Rest { body: response.into_body(), decoder });
            }
            // A server that does not stream answers in one piece; one that fails may say so under status 200.
            "application/json" => {
                let whole = self.read(&answer.endpoint, kind, response.into_body()).await?;
                answer.take(pieces(whole).map(event));
            }
            other => {
                let failure =
                    Failure::new(Reason::ModelAnswerInvalid, "the model's server sent something that is not an answer");
                return Err(failure.with_blame(Blame::Upstream).with_detail(format_args!("content type `{other}`")));
            }
        }
        Ok(answer)
    }

    async fn read(&self, endpoint: &Endpoint, kind: Api, body: Body) -> Result<Completion, Failure> {
        let body = upstream::read_all(body).await?;
        endpoint.provider.read(kind, &body).map_err(|failure| upstream::scrubbed(endpoint, failure))
    }

    pub(crate) async fn generate_once(
        &self,
        generation: pb::Generation,
        id: &RequestId,
    ) -> Result<Completion, Failure> {
        let endpoint = self.endpoint(&generation.endpoint_id)?;
        let likely = asked_likely(&generation);
        let call = call(&endpoint, generation, false)?;
        let (kind, warnings) = (call.api, call.warnings.clone());
        let response = upstream::send(&endpoint, call, id, self.clock.now()).await?;
        let mut answer = self.read(&endpoint, kind, response.into_body()).await?;
        for choice in &mut answer.choices {
            keep_asked(&mut choice.logprobs, likely);
            choice.thoughts.iter_mut().for_each(|thought| endpoint.mark(&mut thought.signature));
            choice.tool_calls.iter_mut().for_each(|call| endpoint.mark(&mut call.signature));
        }
        Ok(Completion { model: endpoint.model.clone(), warnings, ..answer })
    }
}

/// The request to the model's server, as far as the model can do what is asked.
fn call(endpoint: &Endpoint, mut generation: pb::Generation, stream: bool) -> Result<Call, Failure> {
    let target = endpoint.target();
    let mut warnings = fit(target.capabilities, &mut generation)?;
    endpoint.take_back(&mut generation);
    let mut call = endpoint.provider.call(&target, &generation, stream)?;
    warnings.append(&mut call.warnings);
    Ok(Call { warnings, ..call })
}

/// How many of the likeliest tokens were asked for; `None` where nobody asked for any.
fn asked_likely(generation: &pb::Generation) -> Option<usize> {
    let top = generation.parameters.as_ref()?.top_logprobs?;
    usize::try_from(top).ok()
}

/// Keeps what was asked for: some servers say more.
fn keep_asked(said: &mut Vec<TokenLogprob>, asked: Option<usize>) {
    match asked {
        None => said.clear(),
        Some(most) => said.iter_mut().for_each(|token| token.top.truncate(most)),
    }
}

/// The id of the caller's request, which the model server is told too.
fn id_of<T>(request: &Request<T>) -> RequestId {
    RequestId::from_headers(request.metadata().as_ref()).unwrap_or_else(RequestId::generate)
}

fn given(generation: Option<pb::Generation>) -> Result<pb::Generation, Failure> {
    generation.ok_or_else(|| Failure::field("generation", "is missing"))
}

#[tonic::async_trait]
impl ModelService for Models {
    type StreamGenerateStream = Events;

    async fn stream_generate(&self, request: Request<pb::StreamGenerateRequest>) -> Result<Response<Events>, Status> {
        let id = id_of(&request);
        let generation = given(request.into_inner().generation).map_err(refuse)?;
        let answer = self.stream(generation, &id).await.map_err(refuse)?;
        Ok(Response::new(Box::pin(answer.into_stream())))
    }

    async fn embed(&self, request: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedResponse>, Status> {
        let id = id_of(&request);
        self.embed_all(request.into_inner(), &id).await.map(Response::new).map_err(refuse)
    }

    async fn count_tokens(
        &self,
        request: Request<pb::CountTokensRequest>,
    ) -> Result<Response<pb::CountTokensResponse>, Status> {
        let id = id_of(&request);
        let generation = given(request.into_inner().generation).map_err(refuse)?;
        let counted = self.count_once(generation, &id).await.map_err(refuse)?;
        let reported = |input_tokens| Usage {
            input_tokens: Some(input_tokens),
            provenance: UsageProvenance::Reported as i32,
            ..Usage::default()
        };
        Ok(Response::new(pb::CountTokensResponse { usage: counted.map(reported) }))
    }

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        let id = id_of(&request);
        let generation = given(request.into_inner().generation).map_err(refuse)?;
        let completion = self.generate_once(generation, &id).await.map_err(refuse)?;
        Ok(Response::new(pb::GenerateResponse { completion: Some(completion) }))
    }
}

fn event(event: completion_event::Event) -> CompletionEvent {
    CompletionEvent { event: Some(event) }
}

/// An answer that is still coming. It reads from the model only when it is asked for more, so a slow reader slows the model,
/// and holds no more than one read's events. Dropping it closes the connection.
struct Answer {
    endpoint: Arc<Endpoint>,
    ready: VecDeque<CompletionEvent>,
    rest: Option<Rest>,
    failure: Option<Failure>,
    /// How many of the likeliest tokens were asked for.
    likely: Option<usize>,
    /// Content has come.
    has_begun: bool,
}

struct Rest {
    body: Body,
    decoder: Box<dyn StreamDecoder>,
}

impl Answer {
    fn into_stream(self) -> impl Stream<Item = Result<pb::StreamGenerateResponse, Status>> + Send {
        // What happens after the head still belongs to the request.
        let span = tracing::Span::current();
        stream::unfold(self, move |mut answer| {
            let next = async move {
                let item = answer.next().await?;
                let item = item.map(|event| pb::StreamGenerateResponse { event: Some(event) }).map_err(refuse);
                Some((item, answer))
            };
            next.instrument(span.clone())
        })
    }

    async fn next(&mut self) -> Option<Result<CompletionEvent, Failure>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(failure) = self.failure.take() {
                self.rest = None;
                return Some(Err(upstream::scrubbed(&self.endpoint, failure)));
            }
            if self.rest.as_ref()?.decoder.is_done() {
                self.close();
                return None;
            }
            self.read().await;
        }
    }

    /// Reads once. Events that came before a failure are given out before it.
    async fn read(&mut self) {
        let Some(Rest { body, decoder }) = &mut self.rest else { return };
        let mut out = Vec::new();
        let fed = match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => decoder.feed(&bytes, &mut out),
                Err(_trailers) => Ok(()),
            },
            Some(Err(error)) => Err(upstream::broken(&error)),
            None => decoder.finish(&mut out),
        };
        let failure = fed.err();
        let usage = failure.as_ref().and_then(|_| decoder.usage());
        self.take(out.into_iter());
        // Of an answer that breaks off, what it has cost is told before the failure; of one that never began another may take the place.
        if let Some(usage) = usage.filter(|_| self.has_begun) {
            self.ready.push_back(event(completion_event::Event::Usage(usage)));
        }
        self.failure = failure;
    }

    /// Takes events: what is signed as this endpoint's, and of what is likely what was asked for.
    fn take(&mut self, events: impl Iterator<Item = CompletionEvent>) {
        for mut event in events {
            if let Some(completion_event::Event::Delta(said)) = &mut event.event {
                self.has_begun = true;
                keep_asked(&mut said.logprobs, self.likely);
                match &mut said.delta {
                    Some(delta::Delta::ReasoningSignature(signature)) => self.endpoint.mark(signature),
                    Some(delta::Delta::ToolCall(call)) => self.endpoint.mark(&mut call.signature),
                    _ => {}
                }
            }
            self.ready.push_back(event);
        }
    }

    /// Takes the end of the body when it has come with the answer's last bytes, so that the connection can be used again.
    fn close(&mut self) {
        if let Some(mut rest) = self.rest.take() {
            while let Some(Some(Ok(_))) = rest.body.frame().now_or_never() {}
        }
    }
}

/// The events of an answer that came in one piece.
fn pieces(whole: Completion) -> impl Iterator<Item = completion_event::Event> {
    let reasons: Vec<i32> = whole.choices.iter().map(|choice| choice.finish_reason).collect();
    let end = End {
        finish_reason: reasons.first().copied().unwrap_or(FinishReason::Other as i32),
        choices: if reasons.len() > 1 { reasons } else { Vec::new() },
    };
    let deltas = whole.choices.into_iter().zip(0..).flat_map(|(choice, choice_index)| {
        let Choice { text, reasoning, tool_calls, finish_reason: _, thoughts, logprobs } = choice;
        let piece = |delta| Delta { choice_index, delta: Some(delta), logprobs: Vec::new() };
        let (signed, unsigned) = match thoughts.is_empty() {
            true => (Vec::new(), Some(reasoning).filter(|text| !text.is_empty()).map(delta::Delta::Reasoning)),
            false => (thoughts, None),
        };
        let thought = |Thought { text, signature }: Thought| {
            let text = Some(text).filter(|text| !text.is_empty()).map(delta::Delta::Reasoning);
            text.into_iter().chain([delta::Delta::ReasoningSignature(signature)])
        };
        let thoughts: Vec<_> = unsigned.into_iter().chain(signed.into_iter().flat_map(thought)).map(piece).collect();
        let has_text = !text.is_empty() || !logprobs.is_empty();
        let text = has_text.then_some(Delta { logprobs, ..piece(delta::Delta::Text(text)) });
        let calls = tool_calls.into_iter().zip(0..).map(|(call, index)| {
            let ToolCall { id, name, arguments_json, signature } = call;
            piece(delta::Delta::ToolCall(ToolCallFragment { index, id, name, arguments_json, signature }))
        });
        let deltas: Vec<_> = thoughts.into_iter().chain(text).chain(calls).collect();
        deltas.into_iter().map(completion_event::Event::Delta)
    });
    let usage = whole.usage.map(completion_event::Event::Usage);
    deltas.chain(usage).chain([completion_event::Event::End(end)])
}
