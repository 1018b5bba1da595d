//! One subscribing client: a socket, with or without TLS, its place in the stream, and the check
//! that every message comes once and in order.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sluice_tests::certs;

use crate::system::Subscription;
use crate::wire::{Decoder, Event};

/// Least bytes of a payload: the intended time, a space, the sequence, a space.
const STAMP_BYTES: usize = 32;

/// A payload of `bytes` bytes of text that was meant to be sent at `nanos`.
pub fn payload(nanos: u64, sequence: u64, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{nanos:020} {sequence:010} ").into_bytes();
    payload.resize(bytes.max(STAMP_BYTES), b'x');
    payload
}

/// The time and the sequence in a payload.
pub fn stamp(payload: &[u8]) -> Option<(u64, u64)> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    Some((number(payload.get(..20)?)?, number(payload.get(21..31)?)?))
}

/// A client whose request is sent.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    decoder: Decoder,
    /// The sequence it waits for.
    next: u64,
    share: Share,
}

/// Which of the messages a client gets: those whose sequence leaves this rest.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The rest, which is also the first sequence.
    pub which: u64,
    /// What is divided by.
    pub of: u64,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { which: 0, of: 1 };
}

/// The sequence that somebody waits for who may come at any time.
const ANY: u64 = u64::MAX;

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What a client tells of what it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The stream is open.
    Open,
    /// The next message, and when it was meant to be sent.
    Message(u64),
}

impl Client {
    /// Connects and asks for the stream from its beginning.
    pub fn connect(to: &Subscription, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", to.port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        Self::over(stream, to, tls)
    }

    /// The same over a connection.
    pub fn over(stream: TcpStream, to: &Subscription, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut socket = match tls {
            None => Socket::Plain(stream),
            Some(config) => {
                let session = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
                Socket::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        // A TLS handshake is done here, while the socket still waits.
        socket.write_all(to.request.as_bytes())?;
        socket.tcp().set_nonblocking(true)?;
        Ok(Self { socket, decoder: Decoder::new(to.wire), next: to.share.which, share: to.share })
    }

    /// It may come late: any message can be its first.
    pub fn late(self) -> Self {
        Self { next: ANY, ..self }
    }

    /// Whether it has what it gets of so many messages.
    pub const fn has(&self, messages: u64) -> bool {
        self.next != ANY && self.next >= messages
    }

    /// Sequences that it is past.
    pub const fn past(&self) -> u64 {
        self.next
    }

    /// Reads what is there and says how many bytes that were.
    pub fn read(&mut self, buffer: &mut [u8], sink: &mut impl FnMut(Seen)) -> Result<usize> {
        let Self { socket, decoder, next, share } = self;
        let length = match socket.read(buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut wrong = None;
        decoder.take(&buffer[..length], &mut |event| match event {
            Event::Open => sink(Seen::Open),
            // A few bytes fit an idle socket's buffer.
            Event::Answer(bytes) => drop(socket.write_all(bytes)),
            Event::Message(payload) => match stamp(payload) {
                Some((sent, sequence)) if sequence == *next || *next == ANY => {
                    *next = sequence + share.of;
                    sink(Seen::Message(sent));
                }
                found => wrong = wrong.or(Some((found, *next))),
            },
        })?;
        if let Some((found, wanted)) = wrong {
            bail!("lost, doubled or out of order: got (time, sequence) {found:?} instead of {wanted}");
        }
        Ok(length)
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> i32 {
        self.socket.tcp().as_raw_fd()
    }
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// Trusts the certificates of the harness.
pub fn trusting() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(certs::bundle().ca.as_bytes()).expect("it was just made");
    roots.add(authority).expect("it is an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.expect("the provider knows them").with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_carries_its_time_and_number() {
        let text = payload(1_795_265_823_249_145_845, 42, 200);
        assert_eq!((text.len(), stamp(&text)), (200, Some((1_795_265_823_249_145_845, 42))));
        assert_eq!(stamp(b"short"), None);
    }
}
