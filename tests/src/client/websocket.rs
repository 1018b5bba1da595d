//! WebSocket clients on tokio-tungstenite, with the handshake's answer kept.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::frame::Frame;
use super::http::Answer;
use crate::certs;

/// How long a connection may be silent before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The subprotocol with typed frames.
pub const JSON: &str = "sluice.v1.json";
/// The subprotocol of payloads alone.
pub const RAW: &str = "sluice.v1.raw";
/// The subprotocol of CloudEvents.
pub const CLOUDEVENTS: &str = "cloudevents.json";

/// What a connection is made of.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Io for T {}

/// What came on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Vec<u8>),
    /// A ping.
    Ping,
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame: code (0 if it has none) and reason.
    Close(u16, String),
    /// The connection ended without a close frame.
    End,
}

/// A request to upgrade.
#[derive(Clone, Debug)]
pub struct Request {
    url: String,
    headers: HeaderMap,
    protocols: Vec<String>,
}

impl Request {
    /// Offers a subprotocol.
    #[must_use]
    pub fn protocol(mut self, name: &str) -> Self {
        self.protocols.push(name.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        self
    }

    /// Upgrades; a plain answer is an error.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn open(self) -> Result<WebSocket, Answer> {
        self.attempt().await.expect("the upgrade is answered")
    }

    /// Like [`Request::open`]; `None` if nobody answers.
    pub async fn attempt(self) -> Option<Result<WebSocket, Answer>> {
        let mut request = self.url.replacen("http", "ws", 1).into_client_request().expect("a URL");
        request.headers_mut().extend(self.headers);
        if !self.protocols.is_empty() {
            let offer = HeaderValue::from_str(&self.protocols.join(", ")).expect("a header value");
            request.headers_mut().insert("sec-websocket-protocol", offer);
        }
        let io = connect(request.uri()).await?;
        let config =
            WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
        let shaken = timeout(PATIENCE, client_async_with_config(request, io, Some(config))).await;
        match shaken.expect("the upgrade is answered in time") {
            Ok((stream, response)) => {
                let header = response.headers().get("sec-websocket-protocol");
                let protocol = header.map(|value| value.to_str().expect("text").to_owned());
                Some(Ok(WebSocket { stream, protocol, headers: response.headers().clone() }))
            }
            Err(Error::Http(response)) => {
                let (head, body) = response.into_parts();
                let body = body.unwrap_or_default().into();
                Some(Err(Answer { status: head.status.as_u16(), headers: head.headers, body }))
            }
            Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => None,
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }
}

async fn connect(uri: &::http::Uri) -> Option<Box<dyn Io>> {
    let host = uri.host().filter(|host| *host != "localhost").unwrap_or("127.0.0.1");
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.ok()?;
    stream.set_nodelay(true).expect("a socket option");
    if uri.scheme_str() != Some("wss") {
        return Some(Box::new(stream));
    }
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(certs::bundle().ca.as_bytes());
    roots.add(ca.expect("our own authority")).expect("our own authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Some(Box::new(tls.expect("the certificate is trusted")))
}

/// An open connection.
#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Io>>,
    /// The subprotocol that the server selected.
    pub protocol: Option<String>,
    /// The answer's headers.
    pub headers: HeaderMap,
}

impl WebSocket {
    /// A request to upgrade at `url` (`http://` or `https://`).
    pub fn request(url: &str) -> Request {
        Request { url: url.into(), headers: HeaderMap::new(), protocols: Vec::new() }
    }

    /// Connects with `protocol`.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(url: &str, protocol: &str) -> Self {
        let opened = Self::request(url).protocol(protocol).open().await;
        opened.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    /// Connects with typed frames and reads `ready`; gives the cursor of it.
    pub async fn begin(url: &str) -> (Self, String) {
        let mut socket = Self::open(url, JSON).await;
        let ready = socket.frame().await;
        assert_eq!(ready.kind, "ready", "{ready:?}");
        let cursor = ready.cursor.unwrap_or_default();
        (socket, cursor)
    }

    /// Whatever comes next.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.wait()).await.expect("a connection is not silent that long")
    }

    /// Whatever comes within `patience`.
    pub async fn within(&mut self, patience: Duration) -> Option<Event> {
        timeout(patience, self.wait()).await.ok()
    }

    async fn wait(&mut self) -> Event {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Event::Text(text.to_string()),
            Some(Ok(Message::Binary(bytes))) => Event::Binary(bytes.to_vec()),
            Some(Ok(Message::Ping(_))) => Event::Ping,
            Some(Ok(Message::Pong(bytes))) => Event::Pong(bytes.to_vec()),
            Some(Ok(Message::Close(Some(frame)))) => {
                Event::Close(frame.code.into(), frame.reason.to_string())
            }
            Some(Ok(Message::Close(None))) => Event::Close(0, String::new()),
            Some(Ok(Message::Frame(_)) | Err(_)) | None => Event::End,
        }
    }

    /// The next text, binary or close frame.
    pub async fn payload_or_close(&mut self) -> Event {
        loop {
            match self.event().await {
                Event::Ping | Event::Pong(_) => {}
                event => return event,
            }
        }
    }

    /// The next text or binary frame.
    ///
    /// # Panics
    /// If the connection closes first.
    pub async fn payload(&mut self) -> Event {
        match self.payload_or_close().await {
            event @ (Event::Text(_) | Event::Binary(_)) => event,
            event => panic!("a payload was expected: {event:?}"),
        }
    }

    /// The next typed frame.
    pub async fn frame(&mut self) -> Frame {
        match self.payload().await {
            Event::Text(text) => Frame::parse(&text),
            event => panic!("a text frame was expected: {event:?}"),
        }
    }

    /// The next frame of the type `message`.
    ///
    /// # Panics
    /// If another comes first.
    pub async fn message(&mut self) -> Frame {
        let frame = self.frame().await;
        assert_eq!(frame.kind, "message", "{frame:?}");
        frame
    }

    /// The close frame, past whatever comes before it.
    pub async fn close_code(&mut self) -> (u16, String) {
        loop {
            match self.event().await {
                Event::Close(code, reason) => {
                    assert!(reason.len() <= 123, "a reason has at most 123 bytes: {reason}");
                    // The answer to a close frame.
                    let _ = timeout(PATIENCE, self.stream.flush()).await;
                    return (code, reason);
                }
                Event::End => panic!("ended without a close frame"),
                _ => {}
            }
        }
    }

    /// Sends a typed frame.
    pub async fn send(&mut self, frame: &Value) {
        self.send_message(Message::text(frame.to_string())).await;
    }

    /// Sends any message; that the other side has closed is for reading to tell.
    pub async fn send_message(&mut self, message: Message) {
        let _ = self.stream.send(message).await;
    }

    /// Closes with 1000 and waits for the answer.
    pub async fn close(mut self) {
        let _ = self.stream.close(None).await;
        while !matches!(self.event().await, Event::Close(..) | Event::End) {}
    }
}
