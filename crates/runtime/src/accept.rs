//! Accepts connections for every listener alike: bounded in number, TCP_NODELAY, the PROXY header of listed proxies, TLS, and
//! nobody waits for anybody else's handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use crate::lifecycle::Lifecycle;
use crate::peer::{AddressSource, ClientConfig, Peer, within};
use crate::proxy_protocol::{self, Announced};
use crate::tls::{self, Tls, thumbprint};

/// Connections at once on one listener.
const MAX_CONNECTIONS: usize = 4096;
/// How long a connection may take until its first request can be read: PROXY header, handshake, first byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a listener demands of its connections.
#[derive(Clone, Default)]
pub struct Demands {
    /// TLS, or plain text.
    pub tls: Option<Tls>,
    /// Who may connect, and how they are known.
    pub clients: Arc<ClientConfig>,
}

/// An accepted connection. Dropping it gives its place back.
pub struct Connection {
    stream: Stream,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Connection {
    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

/// Accepts until the process stops. Connections come ready to be served.
pub fn accept(
    listener: TcpListener,
    demands: Demands,
    lifecycle: &Lifecycle,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(64);
    let (stopping, tasks) = (lifecycle.stopping().clone(), lifecycle.clone());
    lifecycle.spawn_vital("accept", async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = one(&listener, &places) => accepted,
                () = stopping.cancelled() => break,
            };
            let Some((socket, address, place)) = accepted else { continue };
            let (demands, ready, stopping) = (demands.clone(), ready.clone(), stopping.clone());
            tasks.spawn(async move {
                let greeted = tokio::time::timeout(PATIENCE, greet(socket, address, demands, place));
                match stopping.run_until_cancelled(greeted).await {
                    Some(Ok(Ok(connection))) => drop(ready.send(Ok(connection)).await),
                    Some(Ok(Err(error))) => tracing::debug!(error = %error, "a connection was not let in"),
                    Some(Err(_)) => tracing::debug!("a connection said nothing in time"),
                    None => {}
                }
            });
        }
    });
    connections
}

async fn one(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file descriptors, usually: waiting is all that helps.
            tracing::warn!(error = %error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn greet(
    mut socket: TcpStream,
    address: SocketAddr,
    demands: Demands,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    // Without it a stream's first token waits 40 ms for two peers' delayed acknowledgements.
    socket.set_nodelay(true)?;
    let address = match demands.clients.client_address {
        AddressSource::ProxyProtocol => announced(&mut socket, address, &demands.clients).await?,
        AddressSource::Socket | AddressSource::ForwardedFor => address,
    };
    let mut peer = Peer { address, certificate: None, shown: Arc::default(), rules: demands.clients };
    let stream = match demands.tls {
        None => {
            // Who says nothing does not keep a place.
            socket.readable().await?;
            Stream::Plain(socket)
        }
        Some(own) => {
            let stream = TlsAcceptor::from(own.server()).accept(socket).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            peer.certificate = shown.map(|certificate| thumbprint(certificate).into());
            peer.shown = shown.map(|certificate| Arc::new(tls::shown(certificate))).unwrap_or_default();
            Stream::Tls(Box::new(stream))
        }
    };
    Ok(Connection { stream, peer, _place: place })
}

/// Reads a proxy's header: whom the connection is for.
async fn announced(socket: &mut TcpStream, proxy: SocketAddr, clients: &ClientConfig) -> io::Result<SocketAddr> {
    if !within(&clients.proxies, proxy.ip()) {
        return Err(io::Error::other(format!("{} is no listed proxy", proxy.ip())));
    }
    let mut head = [0; proxy_protocol::HEAD_BYTES];
    socket.read_exact(&mut head).await?;
    let mut rest = vec![0; proxy_protocol::rest_length(&head).map_err(io::Error::other)?];
    socket.read_exact(&mut rest).await?;
    match proxy_protocol::read(&head, &rest).map_err(io::Error::other)? {
        Announced::Client(client) => Ok(client),
        Announced::Local => Ok(proxy),
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
