//! Subscribing clients: thousands on one thread, each of which checks that it gets every message
//! once and in order, and tells how old it was.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::epoll::Epoll;
use crate::histogram::Histogram;
use crate::measure::{cpu_micros, now_nanos};
use crate::wire::{Decoder, Event, Wire};

/// Connections whose opening is waited for together; a listener's backlog holds them.
const OPENING: usize = 64;
/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes read at once, for all clients.
const BUFFER: usize = 64 * 1024;
/// Least bytes of a payload: the intended time, a space, the sequence, a space.
const STAMP_BYTES: usize = 32;

/// A payload of `bytes` bytes of text that was meant to be sent at `nanos`.
pub fn payload(nanos: u64, sequence: u64, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{nanos:020} {sequence:010} ").into_bytes();
    payload.resize(bytes.max(STAMP_BYTES), b'x');
    payload
}

fn stamp(payload: &[u8]) -> Option<(u64, u64)> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    Some((number(payload.get(..20)?)?, number(payload.get(21..31)?)?))
}

/// When to measure, and how much comes.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Messages are received but not measured for so long.
    pub warm: Duration,
    /// Then they are measured for so long.
    pub measured: Duration,
    /// Messages per second, over both.
    pub rate: u64,
}

impl Window {
    /// How many messages are sent, numbered from 0.
    pub fn messages(&self) -> u64 {
        self.rate * (self.warm + self.measured).as_secs()
    }
}

/// What was received in a window, complete and in order.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages times clients.
    pub deliveries: u64,
    /// CPU time of the server meanwhile.
    pub cpu_micros: u64,
    /// From the intended time of sending.
    pub latency: Histogram,
    /// Bytes on the wire per message and client, over the whole run.
    pub frame_bytes: u64,
}

/// Open clients.
#[derive(Debug)]
pub struct Clients {
    epoll: Epoll,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    open: usize,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    decoder: Decoder,
    next: u64,
}

/// What a look at the sockets brought.
#[derive(Default)]
struct Seen {
    latest: Option<u64>,
    messages: u64,
    bytes: u64,
    finished: usize,
}

impl Clients {
    /// Opens `count` streams at `path`.
    pub fn open(port: u16, path: &str, wire: Wire, count: usize) -> Result<Self> {
        let request = wire.request(path);
        let mut all = Self {
            epoll: Epoll::new()?,
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            open: 0,
        };
        while all.clients.len() < count {
            for _ in 0..OPENING.min(count - all.clients.len()) {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect")?;
                stream.set_nodelay(true)?;
                stream.write_all(request.as_bytes())?;
                stream.set_nonblocking(true)?;
                all.epoll.add(&stream, all.clients.len())?;
                all.clients.push(Client { stream, decoder: Decoder::new(wire), next: 0 });
            }
            let begun = Instant::now();
            while all.open < all.clients.len() {
                ensure!(begun.elapsed() < PATIENCE, "{} clients opened, then no more", all.open);
                all.look(u64::MAX, &mut None, &mut Seen::default())?;
            }
        }
        Ok(all)
    }

    /// Receives everything `window` announces from the process `pid`, beginning with the first
    /// message to come.
    pub fn receive(&mut self, pid: u32, window: Window) -> Result<Received> {
        let (mut received, mut seen, mut latency) = (Received::default(), Seen::default(), None);
        seen.finished = self.clients.iter().filter(|client| client.next == window.messages()).count();
        let (mut span, mut progress) = (None, Instant::now());
        let mut before = (0, 0);
        while seen.finished < self.clients.len() {
            let count = seen.messages;
            self.look(window.messages(), &mut latency, &mut seen)?;
            if seen.messages > count {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                let behind = self.clients.iter().map(|client| client.next).min().unwrap_or(0);
                bail!("lost: the slowest client has {behind} of {} messages", window.messages());
            }
            let Some(first) = seen.latest else { continue };
            let (from, to) = *span.get_or_insert_with(|| {
                let from = first + window.warm.as_nanos() as u64;
                (from, from + window.measured.as_nanos() as u64)
            });
            let now = now_nanos();
            if latency.is_none() && now >= from && received.deliveries == 0 {
                before = (cpu_micros(pid)?, seen.messages);
                latency = Some(Histogram::default());
            }
            let over = now >= to || seen.finished == self.clients.len();
            if let Some(latency) = latency.take_if(|_| over) {
                received.latency = latency;
                received.cpu_micros = cpu_micros(pid)? - before.0;
                received.deliveries = seen.messages - before.1;
            }
        }
        received.frame_bytes = seen.bytes / seen.messages.max(1);
        ensure!(received.deliveries > 0, "nothing was measured");
        Ok(received)
    }

    fn look(&mut self, last: u64, latency: &mut Option<Histogram>, seen: &mut Seen) -> Result<()> {
        for (name, _) in self.epoll.wait(10)? {
            let Client { stream, decoder, next } = &mut self.clients[name];
            let length = match stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let now = now_nanos();
            let (mut wrong, open) = (None, &mut self.open);
            decoder.take(&self.buffer[..length], &mut |event| match event {
                Event::Open => *open += 1,
                // A few bytes fit an idle socket's buffer.
                Event::Answer(bytes) => drop(stream.write(bytes)),
                Event::Message(payload) => match stamp(payload) {
                    Some((sent, sequence)) if sequence == *next => {
                        *next += 1;
                        seen.latest = Some(sent);
                        seen.messages += 1;
                        seen.finished += usize::from(*next == last);
                        if let Some(latency) = latency {
                            latency.record(now.saturating_sub(sent) / 1000);
                        }
                    }
                    found => wrong = Some((found, *next)),
                },
            })?;
            seen.bytes += length as u64;
            if let Some((found, wanted)) = wrong {
                bail!("lost, doubled or out of order: got (time, sequence) {found:?} instead of {wanted}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_payload_carries_its_time_and_number() {
        let text = payload(1_795_265_823_249_145_845, 42, 200);
        assert_eq!((text.len(), stamp(&text)), (200, Some((1_795_265_823_249_145_845, 42))));
        assert_eq!(stamp(b"short"), None);
    }

    /// Serves one WebSocket client the messages numbered `sequences`.
    fn serve(sequences: &'static [u64]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = b"HTTP/1.1 101 x\r\n\r\n".to_vec();
            for sequence in sequences {
                bytes.extend([0x81, 126, 0, 200]);
                bytes.extend(payload(now_nanos(), *sequence, 200));
            }
            stream.write_all(&bytes).expect("it reads");
            // Until the client leaves.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        port
    }

    #[test]
    fn a_run_in_which_a_message_is_missing_doubled_or_late_is_void() {
        let window = Window { warm: Duration::ZERO, measured: Duration::from_secs(1), rate: 3 };
        for (sequences, good) in
            [(&[0, 1, 2][..], true), (&[0, 2], false), (&[0, 0, 1], false), (&[1, 0, 2], false)]
        {
            // They may come with the head already, and then there is nothing left to measure.
            let outcome = Clients::open(serve(sequences), "/", Wire::WebSocket, 1)
                .and_then(|mut clients| clients.receive(std::process::id(), window));
            let lost = outcome.as_ref().is_err_and(|error| error.to_string().contains("out of order"));
            assert_eq!(lost, !good, "{sequences:?}: {outcome:?}");
        }
    }
}
