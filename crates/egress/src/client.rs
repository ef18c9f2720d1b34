//! The HTTP client. Connections are used again; over HTTP/2 many requests share one, up to a number at which the next connection is made,
//! so that the streams that a server allows per connection are no ceiling.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::connector::Connector;

/// Requests that share a connection before another is made. Servers allow 100 as a rule (RFC 9113 §6.5.2), and rarely less.
const SHARED_BY: usize = 64;
/// Connections of HTTP/2 to one place, at most.
const CONNECTIONS: usize = 32;
/// What is read of an answer before somebody asks for it, in bytes, and the largest head.
const READ_AT_ONCE: usize = 64 * 1024;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(50);

/// An HTTP client behind one policy. Its pool is its own, so a connection made under another policy is never reused.
#[derive(Clone)]
pub struct Client {
    shards: Arc<[Shard]>,
}

/// A pool, which has at most one connection of HTTP/2.
struct Shard {
    client: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
    /// Held by each answer that is still coming.
    busy: Arc<()>,
}

impl Shard {
    fn under_way(&self) -> usize {
        Arc::strong_count(&self.busy) - 1
    }
}

impl Client {
    /// A client over this connector that keeps so many idle connections of HTTP/1.
    pub(crate) fn new(connector: &Connector, tls: &rustls::ClientConfig, idle: usize) -> Self {
        let shard = |_| {
            let https = HttpsConnectorBuilder::new()
                .with_tls_config(tls.clone())
                .https_or_http()
                .enable_all_versions()
                .wrap_connector(connector.clone());
            let client = legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                // A shard has no more under way, but where all are full.
                .pool_max_idle_per_host(idle.min(SHARED_BY))
                .http1_max_buf_size(READ_AT_ONCE)
                .build(https);
            Shard { client, busy: Arc::default() }
        };
        Self { shards: (0..CONNECTIONS).map(shard).collect() }
    }

    /// The first shard that has room, so that few connections are made; the emptiest where none has.
    fn shard(&self) -> Option<&Shard> {
        let with_room = self.shards.iter().find(|shard| shard.under_way() < SHARED_BY);
        with_room.or_else(|| self.shards.iter().min_by_key(|shard| shard.under_way()))
    }

    /// Sends a request and waits for the answer's head. Dropping the future, or the body, ends the request.
    ///
    /// # Errors
    /// The client's; its sources hold a [`crate::ConnectError`] when no connection came to be.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Body>, legacy::Error> {
        // There is always a shard.
        let Some(shard) = self.shard() else { unreachable!("a client has {CONNECTIONS} shards") };
        let place = shard.busy.clone();
        let answer = shard.client.request(request).await?;
        Ok(answer.map(|incoming| Body { incoming, _place: place }))
    }
}

/// The body of an answer, which holds its place at the connection.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    _place: Arc<()>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
