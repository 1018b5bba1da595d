//! The floor: the least a server can do to bring the same bytes to the same clients. One thread,
//! one socket each, one `send` per client and message, from a timer instead of a broker.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Result, bail};

use crate::epoll::{Epoll, Ticks};
use crate::load::payload;
use crate::measure::now_nanos;

const LISTENER: usize = usize::MAX;
const TICKS: usize = usize::MAX - 1;

/// What the floor sends.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    pub port: u16,
    /// Server-sent events instead of WebSocket.
    #[arg(long)]
    pub sse: bool,
    /// Sending begins when so many clients are there.
    #[arg(long)]
    pub clients: usize,
    /// Messages per second.
    #[arg(long)]
    pub rate: u64,
    /// Messages in all.
    #[arg(long)]
    pub messages: u64,
    /// Bytes of a payload.
    #[arg(long)]
    pub bytes: usize,
    /// Bytes on the wire per message.
    #[arg(long)]
    pub frame_bytes: usize,
}

impl Options {
    fn head(&self) -> &'static str {
        if self.sse {
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        } else {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        }
    }

    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        if self.sse {
            let around = b"id: \ndata: \n\n".len() + payload.len();
            let id = vec![b'i'; self.frame_bytes.saturating_sub(around)];
            [b"id: ", id.as_slice(), b"\ndata: ", payload, b"\n\n"].concat()
        } else {
            let length = u16::try_from(payload.len()).expect("a small payload").to_be_bytes();
            [&[0x81, 126], length.as_slice(), payload].concat()
        }
    }
}

struct Client {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Client {
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
}

fn written(result: std::io::Result<usize>) -> Result<usize> {
    match result {
        Ok(length) => Ok(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Serves until the first client leaves.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER)?;
    let interval = 1_000_000_000 / options.rate;
    let mut clients: Vec<Client> = Vec::with_capacity(options.clients);
    let (mut opened, mut ticks, mut begun, mut sent) = (0, None, 0, 0);
    let mut request = [0; 4096];
    loop {
        for (name, writable) in epoll.wait(-1)? {
            match name {
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nodelay(true)?;
                        stream.set_nonblocking(true)?;
                        epoll.add(&stream, clients.len())?;
                        clients.push(Client { stream, unsent: Vec::new() });
                    }
                }
                TICKS => {
                    for _ in 0..ticks.as_ref().map_or(0, Ticks::passed) {
                        if sent == options.messages {
                            break;
                        }
                        let meant = begun + (sent + 1) * interval;
                        let frame = options.frame(&payload(meant, sent, options.bytes));
                        for (name, client) in clients.iter_mut().enumerate() {
                            client.send(name, &frame, &epoll)?;
                        }
                        sent += 1;
                    }
                }
                _ if writable => clients[name].flush(name, &epoll)?,
                // A request is small enough to come in one piece on loopback.
                _ => match clients[name].stream.read(&mut request) {
                    Ok(length) if request[..length].ends_with(b"\r\n\r\n") => {
                        clients[name].stream.write_all(options.head().as_bytes())?;
                        opened += 1;
                        if opened == options.clients {
                            let timer = Ticks::every(interval)?;
                            begun = now_nanos();
                            epoll.add(&timer, TICKS)?;
                            ticks = Some(timer);
                        }
                    }
                    Ok(0) => return Ok(()),
                    Ok(_) => bail!("a request in pieces"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(()),
                },
            }
        }
    }
}
