//! The relay's timers and attempts, in paused time, over an adapter that does as it is told.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use futures_util::Stream;
use futures_util::stream::{self, BoxStream};
use http::HeaderMap;
use postern_proto::completion::v1::{CompletionEvent, Delta, End, FinishReason, Start, completion_event, delta};
use postern_proto::model::v1::model_service_server::ModelService;
use postern_proto::model::v1::{
    ChatPrompt, GenerateRequest, GenerateResponse, StreamGenerateRequest, StreamGenerateResponse, generation,
};
use postern_runtime::Verifier;
use postern_runtime::lifecycle::Lifecycle;
use postern_runtime::readiness::Readiness;
use postern_runtime::verifier::TrustChange;
use postern_token::{IssuerProfile, PublicKey, Revocation, thumbprint};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::*;
use crate::adapters::Adapter;
use crate::pipeline::{Admission, Bearer, Sessions};
use crate::prompt::{Prompt, Prompts};
use crate::routes::{Model, Routes};

/// What the scripted adapter does with one call.
#[derive(Clone)]
enum Play {
    /// Answers at once with this failure.
    Refuse(Failure),
    /// Never answers.
    Hang,
    /// Streams these, each after its pause; then ends, or hangs.
    Stream(Vec<(Duration, Event)>, bool),
}

#[derive(Default)]
struct Scripted {
    /// Streams that were dropped.
    dropped: Arc<AtomicUsize>,
    plays: Mutex<VecDeque<Play>>,
    asked: Mutex<Vec<String>>,
}

/// Counts when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<StreamGenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ModelService for Scripted {
    async fn embed(
        &self,
        _: tonic::Request<postern_proto::model::v1::EmbedRequest>,
    ) -> Result<tonic::Response<postern_proto::model::v1::EmbedResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn count_tokens(
        &self,
        _: tonic::Request<postern_proto::model::v1::CountTokensRequest>,
    ) -> Result<tonic::Response<postern_proto::model::v1::CountTokensResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    type StreamGenerateStream = Responses;

    async fn stream_generate(
        &self,
        request: Request<StreamGenerateRequest>,
    ) -> Result<Response<Self::StreamGenerateStream>, Status> {
        let endpoint = request.into_inner().generation.unwrap().endpoint_id;
        self.asked.lock().unwrap().push(endpoint);
        let play = self.plays.lock().unwrap().pop_front().unwrap();
        match play {
            Play::Refuse(failure) => Err(failure.into()),
            Play::Hang => std::future::pending().await,
            Play::Stream(events, hangs) => {
                let state = (events.into_iter(), Dropped(self.dropped.clone()));
                let paced = stream::unfold(state, |(mut events, dropped)| async move {
                    let (pause, event) = events.next()?;
                    sleep(pause).await;
                    let event = Some(CompletionEvent { event: Some(event) });
                    Some((Ok(StreamGenerateResponse { event }), (events, dropped)))
                });
                let rest: BoxStream<'static, _> =
                    if hangs { Box::pin(stream::pending()) } else { Box::pin(stream::empty()) };
                Ok(Response::new(Box::pin(paced.chain(rest))))
            }
        }
    }

    async fn generate(&self, _: Request<GenerateRequest>) -> Result<Response<GenerateResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn start() -> Event {
    Event::Start(Start { model: "m".to_owned(), ..Start::default() })
}

fn text(text: &str) -> Event {
    Event::Delta(Delta { choice_index: 0, delta: Some(delta::Delta::Text(text.to_owned())), logprobs: Vec::new() })
}

fn end() -> Event {
    completion_event::Event::End(End { finish_reason: FinishReason::Stop as i32, choices: Vec::new() })
}

fn model() -> Arc<Model> {
    let timers = Timers { first_content: 60 * SECOND, idle: 20 * SECOND, total: 600 * SECOND };
    Arc::new(Model { timers, ..crate::routes::tests::model("m", &[]) })
}

struct Bench {
    adapter: Arc<Scripted>,
    pipeline: Pipeline,
    token: String,
}

/// A verifier that knows one key, and a token of that key.
fn trusted() -> (Verifier, String) {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let pair = Ed25519KeyPair::generate().unwrap();
    let mut jwk = serde_json::json!({
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "x": B64.encode(pair.public_key().as_ref()),
    });
    jwk["kid"] = thumbprint(&serde_json::from_value(jwk.clone()).unwrap()).unwrap().into();
    let key = PublicKey::own(&jwk.to_string()).unwrap();
    let clock = postern_runtime::SystemClock;
    let now = postern_runtime::Clock::now(&clock);
    let claims = serde_json::json!({
        "iss": "i", "sub": "usr", "aud": "a", "exp": now + 300, "nbf": now, "iat": now, "jti": "j", "client_id": "usr",
        "scope": "", "postern_instance": "ins", "postern_realm": "self-managed", "postern_credential": "crd",
    });
    let signed = format!("{}.{}", key.header(), B64.encode(claims.to_string()));
    let token = format!("{signed}.{}", B64.encode(pair.sign(signed.as_bytes())));
    let verifier = Verifier::new(Arc::new(clock));
    let profile = IssuerProfile::own("i".to_owned(), "ins".to_owned(), "a".to_owned(), 900);
    verifier.replace_own(profile, vec![key], []);
    (verifier, token)
}

impl Bench {
    fn playing(plays: impl IntoIterator<Item = Play>) -> Self {
        let adapter = Arc::new(Scripted { plays: Mutex::new(plays.into_iter().collect()), ..Default::default() });
        let service: Arc<dyn ModelService<StreamGenerateStream = Responses>> = adapter.clone();
        let adapters = HashMap::from([("default".to_owned(), Adapter::Embedded(service))]);
        let (verifier, token) = trusted();
        let pipeline = Pipeline {
            verifier,
            prompts: Prompts::follow(&Default::default(), &Lifecycle::new(&Readiness::default())).unwrap(),
            issuers: Default::default(),
            routes: Routes::default(),
            adapters: Adapters(Arc::new(adapters)),
            admission: Admission::new(10),
            sessions: Sessions::default(),
            ending: Default::default(),
        };
        Self { adapter, pipeline, token }
    }

    async fn begin(&self, endpoints: &[&str], timeout: Option<Duration>) -> Result<Completion, Failure> {
        let attempt = |endpoint: &&str| Attempt {
            model: model(),
            endpoint: (*endpoint).to_owned(),
            prompt: Prompt {
                prompt: generation::Prompt::Chat(ChatPrompt::default()),
                parameters: Default::default(),
                warnings: vec!["a warning".to_owned()],
                template: "chat/base/1.0.0".to_owned(),
                cleaner: None,
            },
        };
        let permit = Permit::of(("ours", "usr"), vec![model()]);
        let place = self.pipeline.admission.admit(&permit)?;
        let session = self.pipeline.sessions.enter(&permit, None);
        let standing = self.pipeline.verifier.standing(self.pipeline.verifier.verify(&self.token, None)?);
        let ending = self.pipeline.ending.clone();
        let held = Held { _place: place, session, permit, standing, ending };
        let headers = HeaderMap::new();
        let caller = Caller {
            headers: &headers,
            peer: None,
            request_id: RequestId::generate(),
            timeout,
            bearer: Bearer::AccessToken,
        };
        begin(&self.pipeline, endpoints.iter().map(attempt).collect(), held, &caller).await
    }
}

/// Reads to the end: the text, the time it took, and how it ended.
async fn drain(mut completion: Completion) -> (String, Result<(), Reason>) {
    let mut text = String::new();
    while let Some(event) = completion.next().await {
        match event {
            Ok(Event::Delta(Delta { delta: Some(delta::Delta::Text(piece)), .. })) => text.push_str(&piece),
            Ok(_) => {}
            Err(failure) => return (text, Err(failure.reason)),
        }
    }
    (text, Ok(()))
}

fn upstream(reason: Reason) -> Failure {
    Failure::new(reason, "x").with_blame(Blame::Upstream)
}

fn good() -> Play {
    Play::Stream(vec![(Duration::ZERO, start()), (SECOND, text("a")), (SECOND, text("b")), (SECOND, end())], false)
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_passed_on_with_the_prompts_warnings() {
    let bench = Bench::playing([good()]);
    let mut completion = bench.begin(&["e1"], None).await.unwrap();
    let Some(Ok(Event::Start(start))) = completion.next().await else { panic!("a start comes first") };
    assert_eq!(start.warnings, ["a warning"]);
    assert_eq!(start.prompt, "chat/base/1.0.0");
    assert_eq!(drain(completion).await, ("ab".to_owned(), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_first_content_covers_all_attempts() {
    let slow = Play::Stream(vec![(50 * SECOND, start())], true);
    for plays in [vec![Play::Hang], vec![slow], vec![Play::Refuse(upstream(Reason::ModelFailed)), Play::Hang]] {
        let bench = Bench::playing(plays);
        let begun = Instant::now();
        let failure = bench.begin(&["e1", "e2"], None).await.err().unwrap();
        assert!(matches!(failure.reason, Reason::FirstContentTimeout));
        assert_eq!(begun.elapsed(), 60 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_is_no_content_and_does_not_stop_the_clock() {
    let bench = Bench::playing([Play::Stream(vec![(59 * SECOND, start()), (2 * SECOND, text("late"))], true)]);
    assert_eq!(bench.begin(&["e1"], None).await.err().unwrap().reason, Reason::FirstContentTimeout);
}

#[tokio::test(start_paused = true)]
async fn content_that_stops_coming_is_given_up() {
    let bench = Bench::playing([Play::Stream(
        vec![(Duration::ZERO, start()), (SECOND, text("a")), (19 * SECOND, text("b"))],
        true,
    )]);
    let completion = bench.begin(&["e1"], None).await.unwrap();
    let begun = Instant::now();
    assert_eq!(drain(completion).await, ("ab".to_owned(), Err(Reason::IdleTimeout)));
    assert_eq!(begun.elapsed(), (19 + 20) * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_whole_answer_has_an_end() {
    let drip = std::iter::repeat_n((10 * SECOND, text(".")), 100);
    let events = [(Duration::ZERO, start())].into_iter().chain(drip).collect();
    let bench = Bench::playing([Play::Stream(events, false)]);
    let begun = Instant::now();
    let (text, ended) = drain(bench.begin(&["e1"], None).await.unwrap()).await;
    assert_eq!((text.len(), ended), (59, Err(Reason::DeadlineExceeded)));
    assert_eq!(begun.elapsed(), 600 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_is_over_all_of_it() {
    let bench = Bench::playing([Play::Hang]);
    let failure = bench.begin(&["e1"], Some(5 * SECOND)).await.err().unwrap();
    assert_eq!(failure.reason, Reason::DeadlineExceeded);
    let bench = Bench::playing([Play::Stream(vec![(SECOND, start()), (SECOND, text("a"))], true)]);
    let begun = Instant::now();
    let completion = bench.begin(&["e1"], Some(5 * SECOND)).await.unwrap();
    assert_eq!(drain(completion).await, ("a".to_owned(), Err(Reason::DeadlineExceeded)));
    assert_eq!(begun.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_another_endpoint_may_do_better_is_tried_there_before_the_first_content() {
    let no_content = Play::Stream(vec![(SECOND, start())], false);
    let elsewhere = [
        Play::Refuse(upstream(Reason::ModelRateLimited)),
        Play::Refuse(Failure::new(Reason::ModelCredentialRejected, "x").with_blame(Blame::Adapter)),
        Play::Refuse(Failure::new(Reason::AdapterUnavailable, "x")),
        no_content,
    ];
    for first in elsewhere {
        let bench = Bench::playing([first, good()]);
        let completion = bench.begin(&["e1", "e2"], None).await.unwrap();
        assert_eq!(drain(completion).await.0, "ab");
        assert_eq!(*bench.adapter.asked.lock().unwrap(), ["e1", "e2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_callers_fault_and_a_failure_after_content_are_final() {
    let refused = Failure::new(Reason::ModelRefusedRequest, "x").with_blame(Blame::Client);
    let bench = Bench::playing([Play::Refuse(refused), good()]);
    assert_eq!(bench.begin(&["e1", "e2"], None).await.err().unwrap().reason, Reason::ModelRefusedRequest);
    assert_eq!(bench.adapter.asked.lock().unwrap().len(), 1);
    let bench = Bench::playing([Play::Stream(vec![(SECOND, start()), (SECOND, text("a"))], false), good()]);
    let completion = bench.begin(&["e1", "e2"], None).await.unwrap();
    assert_eq!(drain(completion).await, ("a".to_owned(), Err(Reason::ModelStreamTruncated)));
    assert_eq!(bench.adapter.asked.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_first_choices_failure_is_told() {
    let first = upstream(Reason::ModelRateLimited).with_retry_after(7 * SECOND);
    let bench = Bench::playing([Play::Refuse(first), Play::Refuse(upstream(Reason::ModelFailed))]);
    let failure = bench.begin(&["e1", "e2"], None).await.err().unwrap();
    assert_eq!((failure.reason, failure.retry_after), (Reason::ModelRateLimited, Some(7 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn revoking_the_token_ends_what_it_was_admitted_with() {
    let revoke = |bench: &Bench| {
        let verifier = bench.pipeline.verifier.clone();
        tokio::spawn(async move {
            sleep(3 * SECOND).await;
            let revocation = Revocation::Credential { id: "crd".to_owned(), until: u64::MAX >> 1 };
            verifier.apply(TrustChange::Revoked(revocation));
        })
    };
    let bench = Bench::playing([Play::Hang, good()]);
    let _revoking = revoke(&bench);
    let begun = Instant::now();
    assert_eq!(bench.begin(&["e1", "e2"], None).await.err().unwrap().reason, Reason::TokenRevoked);
    assert_eq!((begun.elapsed(), bench.adapter.asked.lock().unwrap().len()), (3 * SECOND, 1));

    let bench = Bench::playing([Play::Stream(vec![(SECOND, start()), (SECOND, text("a"))], true)]);
    let completion = bench.begin(&["e1"], None).await.unwrap();
    let _revoking = revoke(&bench);
    let begun = Instant::now();
    assert_eq!(drain(completion).await, ("a".to_owned(), Err(Reason::TokenRevoked)));
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert_eq!(bench.begin(&["e1"], None).await.err().unwrap().reason, Reason::TokenRevoked, "nor does it begin anew");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_stopped_holds_nothing_for_longer_than_the_idle_time() {
    let drip = std::iter::repeat_n((Duration::ZERO, text(".")), 100);
    let bench = Bench::playing([Play::Stream([(Duration::ZERO, start())].into_iter().chain(drip).collect(), false)]);
    let mut completion = bench.begin(&["e1"], None).await.unwrap();
    assert!(matches!(completion.next().await, Some(Ok(Event::Start(_)))));
    sleep(19 * SECOND).await;
    assert_eq!(bench.pipeline.admission.outstanding("e1"), 1);
    sleep(2 * SECOND).await;
    assert_eq!(bench.pipeline.admission.outstanding("e1"), 0, "the place is given back");
    assert_eq!(bench.adapter.dropped.load(Ordering::SeqCst), 1, "and the model is let go");
    let (text, ended) = drain(completion).await;
    assert!(text.len() <= 2, "one event waits, no more: {text}");
    assert_eq!(ended, Err(Reason::CallerStalled));
}
