//! Accepts connections, speaks TLS, and reads the first request head: a stream goes straight to the
//! engine with its socket, everything else to the HTTP library with the bytes already read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{Response, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::engine::{Io, Stream};
use crate::gateway::{Gateway, Opened, Peer, is_stream_request};
use crate::http::handle;

/// How long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Longest request head.
const MAX_HEAD: usize = 32 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Streams of one HTTP/2 connection.
const MAX_H2_STREAMS: u32 = 200;

/// The certificate of new connections.
pub type TlsConfig = Arc<ArcSwap<Option<Arc<rustls::ServerConfig>>>>;

/// What accepted connections need.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Speaks TLS with this.
    pub tls: Option<TlsConfig>,
    /// Serves.
    pub gateway: Arc<Gateway>,
}

impl Listener {
    /// Accepts until it is dropped.
    pub async fn run(self, graceful: Arc<GracefulShutdown>) {
        loop {
            let (socket, address) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.gateway.metrics.refused_connections.with_label_values(&["accept"]).inc();
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Messages leave when they are written.
            let _ = socket.set_nodelay(true);
            let gateway = self.gateway.clone();
            let watcher = graceful.watcher();
            let tls = self.tls.clone();
            tokio::spawn(async move {
                gateway.metrics.handshakes.inc();
                let outcome = match tls {
                    None => {
                        let peer = Peer { address, scheme: "http" };
                        first_request(socket, peer, &gateway).await
                    }
                    Some(tls) => first_tls_request(socket, address, &tls, &gateway).await,
                };
                gateway.metrics.handshakes.dec();
                match outcome {
                    Ok(Next::Http(io, peer)) => serve_http(io, peer, gateway, watcher).await,
                    Ok(Next::Done) => {}
                    Err(reason) => {
                        gateway.metrics.refused_connections.with_label_values(&[reason]).inc();
                    }
                }
            });
        }
    }
}

enum Next {
    Http(Rewound, Peer),
    Done,
}

async fn first_tls_request(
    socket: TcpStream,
    address: std::net::SocketAddr,
    tls: &TlsConfig,
    gateway: &Arc<Gateway>,
) -> Result<Next, &'static str> {
    let config = tls.load().as_ref().clone().ok_or("noCertificate")?;
    let peer = Peer { address, scheme: "https" };
    let handshake = tokio::time::timeout(HANDSHAKE_PATIENCE, TlsAcceptor::from(config).accept(socket));
    let stream = tokio::select! {
        stream = handshake => stream.map_err(|_| "handshakeTimeout")?.map_err(|_| "handshake")?,
        () = gateway.draining.cancelled() => return Err("drain"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return Ok(Next::Http(Rewound::new(Stream::Other(Box::new(stream)), Bytes::new()), peer));
    }
    first_request(stream, peer, gateway).await
}

/// Reads the first request head and acts on it if it is for the engine.
async fn first_request<S>(mut socket: S, peer: Peer, gateway: &Arc<Gateway>) -> Result<Next, &'static str>
where
    S: IntoStream,
{
    let mut received = BytesMut::new();
    // Who has asked for nothing yet is let go by a drain; a request that began is answered.
    tokio::select! {
        biased;
        begun = tokio::time::timeout(HEAD_PATIENCE, socket.read_buf(&mut received)) => {
            begun.map_err(|_| "headTimeout")?.map_err(|_| "headGone")?;
        }
        () = gateway.draining.cancelled() => return Err("drain"),
    }
    let head = tokio::time::timeout(HEAD_PATIENCE, read_head(&mut socket, &mut received));
    let length = head.await.map_err(|_| "headTimeout")?.map_err(|_| "headGone")?;
    let parts = length.and_then(|length| parse_head(&received[..length]));
    // What is not a well-formed head is the HTTP library's to refuse.
    let (Some(length), Some(parts)) = (length, parts.filter(is_stream_request)) else {
        return Ok(Next::Http(Rewound::new(socket.into_stream(), received.freeze()), peer));
    };
    let rest = received.split_off(length).freeze();
    match gateway.open(&parts, peer).await {
        Opened::Stream(response, opening) => {
            let head = head_bytes(&response);
            opening.attach(&gateway.engine, socket.into_stream(), head, rest);
        }
        Opened::Closed(response, last_words) => {
            let mut bytes = BytesMut::from(&*head_bytes(&response));
            bytes.extend_from_slice(&last_words);
            say_and_close(socket, &bytes).await;
        }
        Opened::Answer(response) => {
            let (mut parts, body) = response.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map_err(|_| "answer")?.to_bytes();
            parts.headers.insert(http::header::CONTENT_LENGTH, body.len().into());
            let mut bytes = BytesMut::from(&*head_bytes(&Response::from_parts(parts, ())));
            bytes.extend_from_slice(&body);
            say_and_close(socket, &bytes).await;
        }
    }
    Ok(Next::Done)
}

/// Reads until a head is whole: its length, or `None` if these bytes are for the HTTP library.
async fn read_head<S: AsyncRead + Unpin>(
    socket: &mut S,
    received: &mut BytesMut,
) -> io::Result<Option<usize>> {
    let mut seen = 0;
    loop {
        if received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !received.starts_with(&b"GET "[..received.len().min(4)]) {
            return Ok(None);
        }
        let from = usize::saturating_sub(seen, 3);
        if let Some(end) = received[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(from + end + 4));
        }
        seen = received.len();
        if seen > MAX_HEAD {
            return Ok(None);
        }
        if socket.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse_head(bytes: &[u8]) -> Option<Parts> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(bytes).ok()?.is_complete() || request.version != Some(1) {
        return None;
    }
    let mut builder =
        http::Request::builder().method(request.method?).uri(request.path?).version(Version::HTTP_11);
    for header in request.headers.iter() {
        builder = builder.header(header.name, header.value);
    }
    let (parts, ()) = builder.body(()).ok()?.into_parts();
    // A body has no place in a request for a stream: the HTTP library knows what to do with one.
    let has_body = parts.headers.contains_key(http::header::CONTENT_LENGTH)
        || parts.headers.contains_key(http::header::TRANSFER_ENCODING);
    (!has_body).then_some(parts)
}

/// An HTTP/1.1 head. All but an upgrade end with the connection.
fn head_bytes(response: &Response<()>) -> Bytes {
    let status = response.status();
    let mut out =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !response.headers().contains_key(http::header::CONNECTION) {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

/// Writes the last bytes and waits a little for the peer to close, so that they are not lost to a
/// reset.
pub async fn say_and_close<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, bytes: &[u8]) {
    let goodbye = async {
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        let mut sink = [0; 1024];
        while socket.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the peer read it is its own affair.
    let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
}

async fn serve_http(io: Rewound, peer: Peer, gateway: Arc<Gateway>, watcher: Watcher) {
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let refused = gateway.metrics.refused_connections.clone();
    let service = service_fn(move |request| {
        begins.store(true, Ordering::Relaxed);
        handle(gateway.clone(), peer, request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_H2_STREAMS)
        .keep_alive_interval(Duration::from_secs(20))
        .max_header_list_size(MAX_HEAD as u32);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service).into_owned();
    // The HTTP library waits for ever for the bytes that tell HTTP/1 from HTTP/2.
    let silent = async {
        tokio::time::sleep(HEAD_PATIENCE).await;
        if begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = watcher.watch(connection) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = silent => refused.with_label_values(&["headTimeout"]).inc(),
    }
}

/// What can become a stream of the engine.
trait IntoStream: AsyncRead + AsyncWrite + Unpin + Send {
    fn into_stream(self) -> Stream;
}

impl IntoStream for TcpStream {
    fn into_stream(self) -> Stream {
        Stream::Tcp(self)
    }
}

impl IntoStream for tokio_rustls::server::TlsStream<TcpStream> {
    fn into_stream(self) -> Stream {
        Stream::Other(Box::new(self))
    }
}

/// A stream whose first bytes were read already.
pub struct Rewound {
    stream: Box<dyn Io>,
    received: Bytes,
}

impl Rewound {
    fn new(stream: Stream, received: Bytes) -> Self {
        let stream = match stream {
            Stream::Tcp(stream) => Box::new(stream),
            Stream::Other(stream) => stream,
        };
        Self { stream, received }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.has_remaining() {
            let count = self.received.len().min(buffer.remaining());
            let bytes = self.received.split_to(count);
            buffer.put_slice(&bytes);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
