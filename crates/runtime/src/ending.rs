//! The last word to calls of gRPC that are still open when the grace of a stopping process is over: a status that says so, not a broken
//! connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use postern_proto::{Failure, Reason};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// What is told then.
#[must_use]
pub fn draining() -> Failure {
    Failure::new(Reason::Draining, "the process is stopping and its grace is over")
}

/// Puts the last word after a service.
#[derive(Clone)]
pub struct EndingLayer(CancellationToken);

impl EndingLayer {
    /// Speaks it when this is cancelled.
    #[must_use]
    pub const fn new(ending: CancellationToken) -> Self {
        Self(ending)
    }
}

impl<S> Layer<S> for EndingLayer {
    type Service = Ending<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Ending { inner, ending: self.0.clone() }
    }
}

/// The service of [`EndingLayer`].
#[derive(Clone)]
pub struct Ending<S> {
    inner: S,
    ending: CancellationToken,
}

impl<S> Service<Request<Body>> for Ending<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Send,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answering, ending) = (self.inner.call(request), self.ending.clone());
        Box::pin(async move {
            tokio::select! {
                biased;
                answered = answering => answered.map(|response| response.map(|body| Body::new(EndingBody::of(body, ending)))),
                () = ending.cancelled() => Ok(Status::from(draining()).into_http()),
            }
        })
    }
}

/// A body that ends in the last word where it does not end by itself.
struct EndingBody {
    inner: UnsyncBoxBody<Bytes, Status>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
}

impl EndingBody {
    fn of(body: Body, ending: CancellationToken) -> Self {
        Self { inner: UnsyncBoxBody::new(body), ending: Box::pin(ending.cancelled_owned()), is_over: false }
    }
}

impl HttpBody for EndingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.ending.as_mut().poll(cx).map(|()| {
            self.is_over = true;
            let mut trailers = Status::from(draining()).into_http::<Body>().into_parts().0.headers;
            trailers.remove(CONTENT_TYPE);
            Some(Ok(Frame::trailers(trailers)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.inner.size_hint()
    }
}
