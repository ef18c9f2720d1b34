//! OAuth over HTTP: tokens (RFC 6749 §4.4, RFC 8693), introspection (RFC 7662), revocation (RFC 7009). Their errors are the RFCs'.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_proto::{Failure, Reason};
use postern_runtime::Clock;
use postern_runtime::peer::{certificate_of, client_of, shown_by};
use postern_runtime::tls::Shown as Certificate;
use serde_json::{Value, json};

use super::audit::of_head;
use super::token::{ACCESS_TOKEN_TYPE, CREDENTIAL_TYPE, MAX_SCOPES, shown};
use crate::audit::{Audit, Event};
use crate::exchange::{self, Asked, Exchange, Exchanged};
use crate::identity::Shown;
use crate::introspection::{Introspection, Reach};
use crate::store::{Found, Purpose};

/// RFC 6749 §4.4.2.
pub(super) const CLIENT_CREDENTIALS: &str = "client_credentials";
/// RFC 8693 §2.1.
pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// How clients may say who they are.
pub(super) const AUTH_METHODS: [&str; 4] =
    ["client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"];
/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Largest body, in bytes: two tokens and some room.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The door.
pub struct OAuthDoor {
    /// Exchanges.
    pub exchange: Arc<Exchange>,
    /// Introspects and revokes.
    pub introspection: Arc<Introspection>,
    /// The log.
    pub audit: Audit,
    /// For `expires_in`.
    pub clock: Arc<dyn Clock>,
}

/// The routes.
pub(super) fn router(door: OAuthDoor) -> Router {
    Router::new()
        .route("/oauth/token", post(token))
        .route("/oauth/introspect", post(introspect))
        .route("/oauth/revoke", post(revoke))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(door))
}

/// An error in the form of RFC 6749 §5.2.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    retry_after: Option<u64>,
}

impl OAuthError {
    fn bad(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into(), retry_after: None }
    }

    fn client(description: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::bad("invalid_client", description) }
    }

    /// What a failure of the domain is called here. `invalid_credential` is what a credential that does not hold is called.
    fn of(failure: Failure, invalid_credential: &'static str) -> Self {
        let about = |field: &str| failure.fields.iter().any(|(name, _)| name == field);
        let (status, error) = match failure.reason {
            Reason::CredentialInvalid if invalid_credential == "invalid_client" => (401, "invalid_client"),
            Reason::CredentialInvalid => (400, invalid_credential),
            Reason::AudienceDenied => (400, "invalid_target"),
            Reason::RequestInvalid if about("audience") => (400, "invalid_target"),
            Reason::ScopeDenied => (400, "invalid_scope"),
            Reason::RequestInvalid if about("scope") => (400, "invalid_scope"),
            Reason::RequestInvalid => (400, "invalid_request"),
            Reason::AttemptsLimited => (429, "temporarily_unavailable"),
            Reason::StoreUnavailable | Reason::TrustUnavailable => (503, "temporarily_unavailable"),
            _ => (500, "server_error"),
        };
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error,
            retry_after: failure.retry_after.map(|wait| wait.as_secs().max(1)),
            description: failure.message,
        }
    }

    fn response(self) -> Response {
        tracing::info!(reason = self.error, message = self.description, "request refused");
        // RFC 6749 §5.2 leaves quotes, backslashes and everything beyond ASCII out of a description.
        let printable = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let description: String = self.description.chars().filter(printable).collect();
        let mut response =
            (self.status, Json(json!({ "error": self.error, "error_description": description }))).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"postern\""));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A request's form and what its head says of the client.
struct Form {
    members: BTreeMap<String, String>,
    basic: Option<(String, String)>,
    address: Option<IpAddr>,
    certificate: Option<String>,
    holder: Arc<Certificate>,
}

/// How a client says who it is.
enum Client<'a> {
    /// By its id and secret (RFC 6749 §2.3.1).
    Secret(&'a str, &'a str),
    /// By an assertion that its key signs (RFC 7523 §2.2).
    Assertion(&'a str),
    /// By its id and the connection's certificate (RFC 8705 §2.1).
    Certificate(&'a str),
}

impl Form {
    async fn read(request: Request) -> Result<Self, OAuthError> {
        let invalid = |text: &str| OAuthError::bad("invalid_request", text);
        let address = client_of(request.extensions(), request.headers()).map_err(|failure| OAuthError {
            status: StatusCode::FORBIDDEN,
            ..OAuthError::bad("access_denied", failure.message)
        })?;
        let certificate = certificate_of(request.extensions()).map(str::to_owned);
        let holder = shown_by(request.extensions());
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
        {
            return Err(invalid("the body must be application/x-www-form-urlencoded"));
        }
        let basic = basic(request.headers())?;
        use axum::extract::FromRequest as _;
        let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
        let body = body.map_err(|_| OAuthError {
            status: StatusCode::REQUEST_TIMEOUT,
            ..invalid("the body did not come in time")
        })?;
        let body = body.map_err(|_| invalid("the body is too large or broke off"))?;
        let mut members = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&body) {
            // RFC 6749 §3.2: none may come twice, and an empty one counts as absent.
            if !value.is_empty() && members.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(invalid("a parameter is given twice"));
            }
        }
        Ok(Self { members, basic, address, certificate, holder })
    }

    fn get(&self, name: &str) -> &str {
        self.members.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The client, by one way of authentication and no more (RFC 6749 §2.3).
    fn client(&self) -> Result<Option<Client<'_>>, OAuthError> {
        let (id, secret, assertion) = (self.get("client_id"), self.get("client_secret"), self.get("client_assertion"));
        if !assertion.is_empty() && self.get("client_assertion_type") != ASSERTION_TYPE {
            return Err(OAuthError::bad("invalid_request", format!("client_assertion_type must be {ASSERTION_TYPE}")));
        }
        match (&self.basic, secret, assertion) {
            (Some((id, secret)), "", "") => Ok(Some(Client::Secret(id, secret))),
            (None, "", "") if id.is_empty() || self.holder.names.is_empty() => Ok(None),
            (None, "", "") => Ok(Some(Client::Certificate(id))),
            (None, secret, "") => Ok(Some(Client::Secret(id, secret))),
            (None, "", assertion) => Ok(Some(Client::Assertion(assertion))),
            _ => Err(OAuthError::bad("invalid_request", "two ways of client authentication at once")),
        }
    }

    fn asked(&self) -> Result<Asked, OAuthError> {
        let scope: Vec<String> =
            self.get("scope").split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        if scope.len() > MAX_SCOPES {
            return Err(OAuthError::bad("invalid_scope", format!("at most {MAX_SCOPES} scopes")));
        }
        let lifetime = match self.get("lifetime") {
            "" => None,
            text => Some(text.parse().map_err(|_| OAuthError::bad("invalid_request", "lifetime is in whole seconds"))?),
        };
        let audience = self.get("audience").to_owned();
        let (address, certificate) = (self.address, self.certificate.clone());
        Ok(Asked { audience, scope, lifetime, address, certificate, ..Asked::default() })
    }
}

/// Basic credentials, each half form-encoded (RFC 6749 §2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, OAuthError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let read = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (id, secret) = text.split_once(':')?;
        let decode = |half: &str| {
            let whole = format!("x={half}");
            form_urlencoded::parse(whole.as_bytes()).next().map(|(_, value)| value.into_owned())
        };
        Some((decode(id)?, decode(secret)?))
    };
    read().map(Some).ok_or_else(|| OAuthError::client("the authorization must be Basic with client id and secret"))
}

fn answered(answer: Result<Value, OAuthError>) -> Response {
    match answer {
        Ok(value) => ([(CACHE_CONTROL, "no-store")], Json(value)).into_response(),
        Err(error) => error.response(),
    }
}

/// Runs an act to its end: a caller that goes away in the middle does not part it from its entry in the log.
async fn whole(act: impl Future<Output = Response> + Send + 'static) -> Response {
    let failed = |panic| OAuthError::of(Failure::internal(panic), "").response();
    tokio::spawn(act).await.unwrap_or_else(failed)
}

async fn token(State(door): State<Arc<OAuthDoor>>, request: Request) -> Response {
    whole(async move { mint(&door, request).await }).await
}

async fn mint(door: &OAuthDoor, request: Request) -> Response {
    let (request, event) = told(request);
    let answer = door.token(request).await;
    let (answer, outcome, target) = match answer {
        Ok((answer, target)) => (Ok(answer), "OK".to_owned(), target),
        Err(error) => (Err(error.clone()), error.error.to_owned(), String::new()),
    };
    match door.record(Event { outcome, target, ..event }).await {
        Ok(()) => answered(answer),
        Err(error) => error.response(),
    }
}

/// A request with what the log is told of its head.
fn told(request: Request) -> (Request, Event) {
    let (head, body) = request.into_parts();
    let event = of_head(&head);
    (Request::from_parts(head, body), event)
}

async fn introspect(State(door): State<Arc<OAuthDoor>>, request: Request) -> Response {
    answered(door.introspect(request).await)
}

async fn revoke(State(door): State<Arc<OAuthDoor>>, request: Request) -> Response {
    whole(async move { revoked(&door, request).await }).await
}

async fn revoked(door: &OAuthDoor, request: Request) -> Response {
    let (request, event) = told(request);
    let revoked = door.revoke(request).await;
    let recorded = match &revoked {
        Ok(None) => Ok(()),
        Ok(Some(target)) => door.record(Event { outcome: "OK".to_owned(), target: target.clone(), ..event }).await,
        Err(error) => door.record(Event { outcome: error.error.to_owned(), ..event }).await,
    };
    match revoked.and(recorded) {
        // RFC 7009 §2.2: the status is the answer.
        Ok(()) => (StatusCode::OK, [(CACHE_CONTROL, "no-store")]).into_response(),
        Err(error) => error.response(),
    }
}

impl OAuthDoor {
    async fn record(&self, event: Event) -> Result<(), OAuthError> {
        let recorded = match event.outcome.as_str() {
            "OK" => self.audit.record(event).await,
            _ => self.audit.record_refusal(event).await,
        };
        recorded.map_err(|failure| OAuthError::of(failure, ""))
    }

    /// The answer, and what the log is told of it.
    async fn token(&self, request: Request) -> Result<(Value, String), OAuthError> {
        let form = Form::read(request).await?;
        match form.get("grant_type") {
            CLIENT_CREDENTIALS => {
                let client = form.client()?.ok_or_else(|| OAuthError::client("client authentication is missing"))?;
                let asked = form.asked()?;
                let found = self.client(&client, &form, exchange::purpose(&asked.scope)).await?;
                let answer = self.exchange.exchange_for(found, asked).await;
                let exchanged = answer.map_err(|failure| OAuthError::of(failure, "invalid_client"))?;
                let target = exchanged.told();
                Ok((self.minted(exchanged), target))
            }
            TOKEN_EXCHANGE => {
                let mut asked = form.asked()?;
                if let Some(client) = form.client()? {
                    self.client(&client, &form, exchange::purpose(&asked.scope)).await?;
                }
                asked.actor_token = form.get("actor_token").to_owned();
                if !matches!(form.get("actor_token_type"), "" | CREDENTIAL_TYPE) {
                    let problem = format!("actor_token_type must be {CREDENTIAL_TYPE}");
                    return Err(OAuthError::bad("invalid_request", problem));
                }
                if !matches!(form.get("requested_token_type"), "" | ACCESS_TOKEN_TYPE) {
                    return Err(OAuthError::bad("invalid_request", "only access tokens are issued"));
                }
                // RFC 8693 §2.2.2: a subject token that does not hold makes the request invalid.
                let invalid = |failure| OAuthError::of(failure, "invalid_request");
                let subject = shown(form.get("subject_token"), form.get("subject_token_type"), &form.holder);
                let answer = self.exchange.exchange(subject.map_err(invalid)?, asked).await;
                let exchanged = answer.map_err(invalid)?;
                let target = exchanged.told();
                let mut answer = self.minted(exchanged);
                answer["issued_token_type"] = ACCESS_TOKEN_TYPE.into();
                Ok((answer, target))
            }
            "" => Err(OAuthError::bad("invalid_request", "grant_type is missing")),
            _ => Err(OAuthError::bad("unsupported_grant_type", "client_credentials and token exchange are offered")),
        }
    }

    /// The client's credential, if it is the one of that name or id.
    async fn client(&self, client: &Client<'_>, form: &Form, purpose: Purpose) -> Result<Found, OAuthError> {
        let (shown, id) = match *client {
            Client::Secret(id, secret) => (Shown::Secret(secret), id),
            Client::Certificate(id) => (Shown::Certificate(&form.holder), id),
            Client::Assertion(assertion) => (Shown::Jwt(assertion), form.get("client_id")),
        };
        let claimed = matches!(shown, Shown::Secret(_)).then_some(id);
        let found = self.exchange.recognise(shown, purpose, claimed, form.address).await;
        let found = found.map_err(|failure| OAuthError::of(failure, "invalid_client"))?;
        let named = id == found.principal.name || id == found.principal.id;
        // An assertion says whose it is by itself (RFC 7523 §2.2).
        if named || (id.is_empty() && matches!(client, Client::Assertion(_))) {
            return Ok(found);
        }
        Err(OAuthError::client("that is not this client's"))
    }

    fn minted(&self, exchanged: Exchanged) -> Value {
        let Exchanged { minted, audience, scope, .. } = exchanged;
        json!({
            "access_token": minted.token,
            "token_type": "Bearer",
            "expires_in": minted.expires.saturating_sub(self.clock.now()),
            "scope": scope.join(" "),
            "audience": audience,
        })
    }

    async fn introspect(&self, request: Request) -> Result<Value, OAuthError> {
        let form = Form::read(request).await?;
        let client = form.client()?.ok_or_else(|| OAuthError::client("client authentication is missing"))?;
        let found = self.client(&client, &form, Purpose::Administration).await?;
        // What a credential for inference gives is for gateways, whoever holds it.
        let reach = Reach::of(&found.principal).filter(|_| found.credential.purpose != Purpose::Inference);
        let claims = match reach {
            Some(reach) => self.introspection.introspect(form.get("token"), &reach).await,
            None => Ok(None),
        };
        let claims = claims.map_err(|failure| OAuthError::of(failure, "invalid_client"))?;
        let Some(claims) = claims else { return Ok(json!({ "active": false })) };
        let mut told = serde_json::to_value(claims).map_err(|error| OAuthError::of(Failure::internal(error), ""))?;
        told["active"] = true.into();
        told["token_type"] = "Bearer".into();
        Ok(told)
    }

    /// What was revoked, in the log's words; `None` for what was no good anyway.
    async fn revoke(&self, request: Request) -> Result<Option<String>, OAuthError> {
        let form = Form::read(request).await?;
        if form.get("token").is_empty() {
            return Err(OAuthError::bad("invalid_request", "token is missing"));
        }
        self.introspection.revoke(form.get("token")).await.map_err(|failure| OAuthError::of(failure, "invalid_request"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up() {
        let body =
            axum::body::Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>());
        let request = Request::post("/oauth/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let begun = tokio::time::Instant::now();
        let refused = Form::read(request.body(body).unwrap()).await.err().unwrap();
        assert_eq!((refused.status.as_u16(), refused.error), (408, "invalid_request"));
        assert_eq!(begun.elapsed(), BODY_TIMEOUT);
    }
}
