//! Stands before every gRPC method of a process and lets a request in, or not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::{Request, Response, request};
use postern_proto::{Failure, Reason};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::grpc::{self, refuse};
use crate::peer::client_of;

/// Decides on a request by its head. What handlers need to know of the caller goes into the extensions.
#[async_trait]
pub trait Admit: Send + Sync + 'static {
    /// Lets the request in.
    ///
    /// # Errors
    /// Why it is not let in.
    async fn admit(&self, head: &mut request::Parts) -> Result<(), Failure>;
}

/// Puts an [`Admit`] before a service.
pub struct GuardLayer<A>(Arc<A>);

impl<A> GuardLayer<A> {
    /// A guard of this mind.
    #[must_use]
    pub fn new(admit: A) -> Self {
        Self(Arc::new(admit))
    }
}

impl<A> Clone for GuardLayer<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, A> Layer<S> for GuardLayer<A> {
    type Service = Guarded<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, admit: self.0.clone() }
    }
}

/// The service of [`GuardLayer`].
pub struct Guarded<S, A> {
    inner: S,
    admit: Arc<A>,
}

/// A message over the size limit is refused below us, with a bare status; it leaves with a reason like any other refusal.
fn typed(response: Response<Body>) -> Response<Body> {
    let bare = response.headers().get("grpc-status").is_some_and(|status| status == "11")
        && !response.headers().contains_key("grpc-status-details-bin");
    if !bare {
        return response;
    }
    let message = format!("the message is larger than {} MiB", grpc::MAX_MESSAGE_BYTES >> 20);
    refuse(Failure::new(Reason::RequestTooLarge, message)).into_http()
}

impl<S: Clone, A> Clone for Guarded<S, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), admit: self.admit.clone() }
    }
}

impl<S, A: Admit> Service<Request<Body>> for Guarded<S, A>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was made ready is the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let admit = self.admit.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            // A listener's networks hold for every method of it.
            let client = client_of(&head.extensions, &head.headers).map(drop);
            let admitted = match client {
                Ok(()) => admit.admit(&mut head).await,
                Err(failure) => Err(failure),
            };
            match admitted {
                Ok(()) => inner.call(Request::from_parts(head, body)).await.map(typed),
                Err(failure) => Ok(refuse(failure).into_http()),
            }
        })
    }
}
