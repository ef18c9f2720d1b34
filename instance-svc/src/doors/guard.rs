//! Stands before every gRPC method of the instance: finds its row in the policy table, checks the token, and reads the
//! caller's roles from the database, each time, so that a role that was taken away is gone at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use postern_proto::{Failure, Reason};
use postern_runtime::auth::{self, Verifier};
use postern_runtime::grpc::refuse;
use postern_runtime::instance::FLEET_SCOPE;
use postern_runtime::policy::Access;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::exchange::ADMIN_SCOPE;
use crate::policy::TABLE;
use crate::store::{PrincipalRecord, Purpose, Role, Store};

/// Who calls, as an extension of the request.
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<PrincipalRecord>);

impl Caller {
    /// The caller that the guard found.
    ///
    /// # Errors
    /// INTERNAL when the method was reached without the guard.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Failure> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Failure::internal("a guarded method was reached without a caller"))
    }
}

/// The guard.
#[derive(Clone)]
pub struct GuardLayer {
    guard: Arc<Guard>,
}

struct Guard {
    store: Arc<dyn Store>,
    verifier: Verifier,
}

impl GuardLayer {
    /// A guard that believes tokens of this verifier.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, verifier: Verifier) -> Self {
        Self { guard: Arc::new(Guard { store, verifier }) }
    }
}

impl Guard {
    async fn admit(&self, method: &str, headers: &HeaderMap) -> Result<Option<Caller>, Failure> {
        let roles = match TABLE.access(method) {
            None => return Err(Failure::new(Reason::Unimplemented, "the instance does not offer this method")),
            Some(Access::Open | Access::Pipeline) => return Ok(None),
            Some(Access::Roles(roles)) => roles,
        };
        let verified = self.verifier.verify(auth::bearer(headers)?)?;
        let claims = verified.claims();
        let found = self.store.credential_by_id(&claims.postern_credential).await?;
        let now = self.store.now().await?;
        let found = found
            .filter(|found| found.is_live(now) && found.principal.id == claims.sub)
            .ok_or_else(|| Failure::new(Reason::CredentialInvalid, "the credential behind the token is revoked or ended"))?;
        let scope = match found.credential.purpose {
            Purpose::Fleet => FLEET_SCOPE,
            Purpose::Inference | Purpose::Administration => ADMIN_SCOPE,
        };
        if !claims.has_scope(scope) {
            return Err(Failure::new(Reason::ScopeMissing, format!("the token lacks the scope {scope}")));
        }
        if !found.principal.roles.iter().any(|role| roles.contains(role)) {
            let needed: Vec<_> = roles.iter().map(role_name).collect();
            return Err(Failure::new(Reason::RoleMissing, format!("this needs the role {}", needed.join(" or "))));
        }
        Ok(Some(Caller(Arc::new(found.principal))))
    }
}

const fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::ModelManager => "model manager",
        Role::Gateway => "gateway",
        Role::Adapter => "adapter",
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.guard.clone() }
    }
}

/// The service of [`GuardLayer`].
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone that was made ready is the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let guard = self.guard.clone();
        Box::pin(async move {
            match guard.admit(request.uri().path(), request.headers()).await {
                Ok(Some(caller)) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Ok(None) => inner.call(request).await,
                Err(failure) => Ok(refuse(failure).into_http()),
            }
        })
    }
}
