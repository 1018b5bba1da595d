//! The floor: the least a server can do to bring messages to clients. One thread, one socket each,
//! one `send` per client and message. What is posted to it goes to everybody.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Result, bail, ensure};

use crate::epoll::Epoll;
use crate::http::{Asked, MAX_POST, NO_CONTENT_ANSWER, SWITCHING, asked};
use crate::part::Part;
use crate::system::{Publication, Subscription, System};
use crate::wire::Wire;

const LISTENER: usize = usize::MAX;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Characters of an event's id: as many as a cursor of Sluice has, so that both write the same.
const ID: &str = "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii";

/// What the floor serves.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    pub port: u16,
    /// Server-sent events instead of WebSocket.
    #[arg(long)]
    pub sse: bool,
}

impl Options {
    fn head(&self) -> &'static [u8] {
        if self.sse {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        } else {
            SWITCHING.as_bytes()
        }
    }

    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        if self.sse {
            return [b"id: ", ID.as_bytes(), b"\ndata: ", payload, b"\n\n"].concat();
        }
        let length = u16::try_from(payload.len()).expect("a small payload");
        match u8::try_from(length) {
            Ok(length) if length < 126 => [&[0x81, length], payload].concat(),
            _ => [&[0x81, 126], length.to_be_bytes().as_slice(), payload].concat(),
        }
    }
}

/// A connection: a client once it asked for the stream, a publisher while it posts.
struct Peer {
    stream: TcpStream,
    subscribed: bool,
    request: Vec<u8>,
    unsent: Vec<u8>,
}

impl Peer {
    fn send(&mut self, name: usize, frame: &[u8], epoll: &Epoll) -> Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(frame);
            return Ok(());
        }
        let sent = written(self.stream.write(frame))?;
        if sent < frame.len() {
            self.unsent.extend_from_slice(&frame[sent..]);
            epoll.want_write(&self.stream, name, true)?;
        }
        Ok(())
    }

    fn flush(&mut self, name: usize, epoll: &Epoll) -> Result<()> {
        let sent = written(self.stream.write(&self.unsent))?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            epoll.want_write(&self.stream, name, false)?;
        }
        Ok(())
    }

    /// The next posted payload, once it is whole. Answers what is whole.
    fn posted(&mut self, options: &Options) -> Result<Option<Vec<u8>>> {
        let Some((asked, whole)) = asked(&self.request)? else { return Ok(None) };
        match asked {
            Asked::Stream(_) => {
                self.request = Vec::new();
                self.stream.write_all(options.head())?;
                self.subscribed = true;
                Ok(None)
            }
            Asked::Post(payload) => {
                let payload = payload.to_vec();
                self.request.drain(..whole);
                self.stream.write_all(NO_CONTENT_ANSWER)?;
                Ok(Some(payload))
            }
        }
    }
}

fn written(result: std::io::Result<usize>) -> Result<usize> {
    match result {
        Ok(length) => Ok(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Everybody who is connected, by place.
struct Room<'a> {
    options: &'a Options,
    epoll: Epoll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
}

impl Room<'_> {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let name = self.free.pop().unwrap_or(self.peers.len());
            self.epoll.add(&stream, name)?;
            let peer = Peer { stream, subscribed: false, request: Vec::new(), unsent: Vec::new() };
            match self.peers.get_mut(name) {
                Some(place) => *place = Some(peer),
                None => self.peers.push(Some(peer)),
            }
        }
        Ok(())
    }

    /// Writes and reads what the peer `name` has. An error means that it is gone.
    fn serve(&mut self, name: usize, writable: bool, buffer: &mut [u8]) -> Result<()> {
        let Some(peer) = &mut self.peers[name] else { return Ok(()) };
        if writable && !peer.unsent.is_empty() {
            peer.flush(name, &self.epoll)?;
        }
        match peer.stream.read(buffer) {
            Ok(0) => bail!("it left"),
            Ok(length) => peer.request.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        while let Some(peer) = &mut self.peers[name]
            && let Some(payload) = peer.posted(self.options)?
        {
            self.broadcast(&self.options.frame(&payload));
        }
        Ok(())
    }

    fn broadcast(&mut self, frame: &[u8]) {
        for (name, place) in self.peers.iter_mut().enumerate() {
            if let Some(peer) = place
                && peer.subscribed
                && peer.send(name, frame, &self.epoll).is_err()
            {
                *place = None;
                self.free.push(name);
            }
        }
    }
}

/// Serves until it is killed.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    // SAFETY: the descriptor is open; a second `listen` only changes the backlog.
    ensure!(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } == 0, "no backlog");
    listener.set_nonblocking(true)?;
    let mut room = Room { options, epoll: Epoll::new()?, peers: Vec::new(), free: Vec::new() };
    room.epoll.add(&listener, LISTENER)?;
    let mut buffer = vec![0; MAX_POST];
    loop {
        for (name, writable) in room.epoll.wait(-1)? {
            if name == LISTENER {
                room.accept(&listener)?;
            } else if room.serve(name, writable, &mut buffer).is_err() && room.peers[name].take().is_some() {
                room.free.push(name);
            }
        }
    }
}

/// A running floor.
#[derive(Debug)]
pub struct Floor {
    part: Part,
    wire: Wire,
}

impl Floor {
    /// Starts one and waits until it listens.
    pub fn start(wire: Wire) -> Result<Self> {
        let sse = (wire == Wire::Sse).then(|| "--sse".to_owned());
        Ok(Self { part: Part::start("floor", sse.as_slice())?, wire })
    }
}

impl System for Floor {
    fn pids(&self) -> Result<Vec<u32>> {
        Ok(vec![self.part.pid()])
    }

    fn subscription(&self) -> Subscription {
        Subscription::to_all(self.part.port, self.wire, "/")
    }

    fn publication(&self) -> Publication {
        let head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n".into();
        Publication { port: self.part.port, head, body: <[u8]>::to_vec }
    }
}
