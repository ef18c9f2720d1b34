//! `postern.instance.v1.AuditService`, and the layer that writes the log: every act on the instance that is not a mere look.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::audit_service_server::AuditService;
use postern_proto::{Failure, Reason};
use postern_runtime::grpc::refuse;
use postern_runtime::request_id::RequestId;
use tonic::body::Body;
use tonic::{Request, Response, Status};
use tower::{Layer, Service};

use super::guard::{Caller, address_of};
use super::{Answers, millis, timestamp};
use crate::audit::{self, Audit, Event, NothingDone, Target};
use crate::store::{AuditPlace, AuditRow, Store};

/// The door.
pub struct AuditDoor {
    /// The log.
    pub store: Arc<dyn Store>,
}

const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 100;

fn event(row: AuditRow) -> pb::AuditEvent {
    let event: Event = serde_json::from_str(&row.event).unwrap_or_default();
    pb::AuditEvent {
        chain: row.chain,
        number: row.number,
        time: timestamp(row.time),
        action: event.action,
        actor: event.actor,
        target: event.target,
        address: event.address.map(|address| address.to_string()).unwrap_or_default(),
        outcome: event.outcome,
        request_id: event.request_id,
        hash: row.hash,
    }
}

/// A page's end, as its caller keeps it.
fn token(last: &AuditRow) -> String {
    format!("{}.{}.{}", last.time, last.chain, last.number)
}

fn place(token: &str) -> Option<AuditPlace> {
    let mut parts = token.split('.');
    let (time, chain, number) = (parts.next()?.parse().ok()?, parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(AuditPlace { time, chain, number })
}

impl AuditDoor {
    async fn list(&self, request: pb::ListAuditEventsRequest) -> Result<pb::ListAuditEventsResponse, Failure> {
        let pb::ListAuditEventsRequest { before, limit, page_token } = request;
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        if limit > MAX_LIMIT {
            return Err(Failure::field("limit", format!("must be at most {MAX_LIMIT}")));
        }
        let place = match page_token.as_str() {
            "" => AuditPlace::before(before.map_or(i64::MAX, millis)),
            token => place(token).ok_or_else(|| Failure::field("page_token", "is not one that was given"))?,
        };
        let mut rows = self.store.audit_before(&place, limit + 1).await?;
        let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next_page_token = rows.last().filter(|_| more).map(token).unwrap_or_default();
        Ok(pb::ListAuditEventsResponse { events: rows.into_iter().map(event).collect(), next_page_token })
    }
}

#[tonic::async_trait]
impl AuditService for AuditDoor {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await.map_err(refuse)?))
    }

    type VerifyAuditLogStream = Answers<pb::VerifyAuditLogResponse>;

    async fn verify_audit_log(
        &self,
        _: Request<pb::VerifyAuditLogRequest>,
    ) -> Result<Response<Self::VerifyAuditLogStream>, Status> {
        let verdicts = audit::verify(&*self.store).await.map_err(refuse)?;
        let answers = verdicts.into_iter().map(|audit::Verdict { chain, events, fault }| {
            Ok(pb::VerifyAuditLogResponse { chain, events, fault: fault.unwrap_or_default() })
        });
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }
}

/// Whether calls of a method are written down: all but those that only look, follow or relay.
pub(super) fn is_an_act(method: &str) -> bool {
    let name = method.rsplit('/').next().unwrap_or_default();
    let looks = ["List", "Get", "Watch", "Connect", "Check", "Verify", "Query", "Introspect", "Lint"];
    let is_own = method.starts_with("/postern.instance.v1.") && !looks.iter().any(|look| name.starts_with(look));
    // A token is made in somebody's name to ask with.
    is_own || name == "ExplainRequest"
}

/// Writes acts down, behind the guard.
#[derive(Clone)]
pub struct AuditLayer(pub Audit);

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, audit: self.0.clone() }
    }
}

/// The service of [`AuditLayer`].
#[derive(Clone)]
pub struct Audited<S> {
    inner: S,
    audit: Audit,
}

/// An event of a request's head.
pub(super) fn of_head(head: &http::request::Parts) -> Event {
    let (caller, action) = (head.extensions.get::<Caller>(), head.uri.path());
    let own = ["/postern.instance.v1.", "/postern.gateway.v1."];
    Event {
        action: own.iter().find_map(|own| action.strip_prefix(own)).unwrap_or(action).to_owned(),
        actor: caller.map(|caller| format!("{} {}", caller.principal.id, caller.principal.name)).unwrap_or_default(),
        address: address_of(&head.extensions, &head.headers).ok().flatten(),
        request_id: head.extensions.get::<RequestId>().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        ..Event::default()
    }
}

impl<S> Service<http::Request<Body>> for Audited<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The one that was made ready is the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let audit = self.audit.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let event = is_an_act(head.uri.path()).then(|| of_head(&head));
            let request = http::Request::from_parts(head, body);
            let Some(event) = event else { return inner.call(request).await };
            // A caller that goes away in the middle does not part the act from its entry.
            let act = tokio::spawn(recorded(inner, request, event, audit));
            act.await.unwrap_or_else(|panic| Ok(refuse(Failure::internal(panic)).into_http()))
        })
    }
}

/// Runs an act and writes it down. What is not in the log is not answered.
async fn recorded<S>(
    mut inner: S,
    request: http::Request<Body>,
    mut event: Event,
    audit: Audit,
) -> Result<http::Response<Body>, S::Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    let response = inner.call(request).await?;
    if response.extensions().get::<NothingDone>().is_some() {
        return Ok(response);
    }
    let status = Status::from_header_map(response.headers());
    event.outcome = match status.filter(|status| status.code() != tonic::Code::Ok) {
        Some(status) => Failure::from_status(&status, Reason::Internal).reason.name().to_owned(),
        None => "OK".to_owned(),
    };
    event.target = response.extensions().get::<Target>().map(|target| target.0.clone()).unwrap_or_default();
    let recorded = match event.outcome.as_str() {
        "OK" => audit.record(event).await,
        _ => audit.record_refusal(event).await,
    };
    match recorded {
        Ok(()) => Ok(response),
        Err(failure) => Ok(refuse(failure).into_http()),
    }
}
