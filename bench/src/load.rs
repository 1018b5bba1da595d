//! Subscribing clients: thousands on one thread, and what they got in a window of time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustls::ClientConfig;

use crate::client::{Client, Seen};
use crate::epoll::Epoll;
use crate::histogram::Histogram;
use crate::measure::{cpu_micros, now_nanos};
use crate::system::{Subscription, System};

/// Connections whose opening is waited for together; a listener's backlog holds them.
const OPENING: usize = 64;
/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes read at once, for all clients.
const BUFFER: usize = 64 * 1024;

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
        self.rate * (self.warm + self.measured).as_millis() as u64 / 1000
    }
}

/// What ends a reception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Everybody has everything: what is missing makes the run void.
    Complete,
    /// The window is over, whatever is still on its way.
    Over,
}

/// What was received in a window, in order.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages times clients.
    pub deliveries: u64,
    /// CPU time of the server meanwhile.
    pub cpu_micros: u64,
    /// The same of this process: what it may have been short of.
    pub own_micros: u64,
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

/// What looks at the sockets brought.
#[derive(Default)]
struct Tally {
    latency: Option<Histogram>,
    latest: Option<u64>,
    messages: u64,
    bytes: u64,
    finished: usize,
}

impl Clients {
    /// Opens `count` streams.
    pub fn open(to: &Subscription, tls: Option<&Arc<ClientConfig>>, count: usize) -> Result<Self> {
        Self::open_each(count, tls, |_| to.clone())
    }

    /// Opens `count` streams, each a client's own.
    pub fn open_each(
        count: usize,
        tls: Option<&Arc<ClientConfig>>,
        to: impl Fn(usize) -> Subscription,
    ) -> Result<Self> {
        let mut all = Self {
            epoll: Epoll::new()?,
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            open: 0,
        };
        while all.clients.len() < count {
            for _ in 0..OPENING.min(count - all.clients.len()) {
                let client = Client::connect(&to(all.clients.len()), tls)?;
                all.epoll.add(&client, all.clients.len())?;
                all.clients.push(client);
            }
            let begun = Instant::now();
            while all.open < all.clients.len() {
                ensure!(begun.elapsed() < PATIENCE, "{} clients opened, then no more", all.open);
                all.look(u64::MAX, &mut Tally::default())?;
            }
        }
        Ok(all)
    }

    /// Receives what `window` announces from `system`, beginning with the first message to come.
    pub fn receive(&mut self, system: &dyn System, window: Window, until: Until) -> Result<Received> {
        let (mut received, mut tally) = (Received::default(), Tally::default());
        tally.finished = self.clients.iter().filter(|client| client.has(window.messages())).count();
        let (mut span, mut progress, mut before) = (None, Instant::now(), (0, 0, 0));
        let cpu =
            || Ok::<_, anyhow::Error>((cpu_micros(&system.pids()?)?, cpu_micros(&[std::process::id()])?));
        while tally.finished < self.clients.len() {
            let count = tally.messages;
            self.look(window.messages(), &mut tally)?;
            if tally.messages > count {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                let behind = self.clients.iter().map(Client::past).min().unwrap_or(0);
                bail!("lost: the slowest client has {behind} of {} messages", window.messages());
            }
            let Some(first) = tally.latest else { continue };
            let (from, to) = *span.get_or_insert_with(|| {
                let from = first + window.warm.as_nanos() as u64;
                (from, from + window.measured.as_nanos() as u64)
            });
            let now = now_nanos();
            if tally.latency.is_none() && now >= from && received.deliveries == 0 {
                let (theirs, own) = cpu()?;
                before = (theirs, own, tally.messages);
                tally.latency = Some(Histogram::default());
            }
            let over = now >= to || tally.finished == self.clients.len();
            if let Some(latency) = tally.latency.take_if(|_| over) {
                let (theirs, own) = cpu()?;
                received.latency = latency;
                received.cpu_micros = theirs - before.0;
                received.own_micros = own - before.1;
                received.deliveries = tally.messages - before.2;
                if until == Until::Over {
                    break;
                }
            }
        }
        received.frame_bytes = tally.bytes / tally.messages.max(1);
        ensure!(received.deliveries > 0, "nothing was measured");
        Ok(received)
    }

    /// Goes on answering pings for `time`.
    pub fn rest(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look(u64::MAX, &mut Tally::default())?;
        }
        Ok(())
    }

    fn look(&mut self, last: u64, tally: &mut Tally) -> Result<()> {
        for (name, _) in self.epoll.wait(10)? {
            let (mut now, mut latest, mut messages, open) = (None, None, 0, &mut self.open);
            let latency = &mut tally.latency;
            let client = &mut self.clients[name];
            let before = client.has(last);
            tally.bytes += client.read(&mut self.buffer, &mut |seen| match seen {
                Seen::Open => *open += 1,
                Seen::Message(sent) => {
                    latest = Some(sent);
                    messages += 1;
                    if let Some(latency) = latency {
                        let now = *now.get_or_insert_with(now_nanos);
                        latency.record(now.saturating_sub(sent) / 1000);
                    }
                }
            })? as u64;
            tally.latest = latest.or(tally.latest);
            tally.messages += messages;
            tally.finished += usize::from(!before && client.has(last));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::client::payload;
    use crate::system::Publication;
    use crate::wire::Wire;

    /// This process, serving at a port.
    struct Here(u16);

    impl System for Here {
        fn pids(&self) -> Result<Vec<u32>> {
            Ok(vec![std::process::id()])
        }

        fn subscription(&self) -> Subscription {
            Subscription::to_all(self.0, Wire::WebSocket, "/")
        }

        fn publication(&self) -> Publication {
            Publication { port: self.0, head: String::new(), body: <[u8]>::to_vec }
        }
    }

    /// Serves one WebSocket client the messages numbered `sequences`.
    fn serve(sequences: &'static [u64]) -> Here {
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
        Here(port)
    }

    #[test]
    fn a_run_in_which_a_message_is_missing_doubled_or_late_is_void() {
        let window = Window { warm: Duration::ZERO, measured: Duration::from_secs(1), rate: 3 };
        for (sequences, good) in
            [(&[0, 1, 2][..], true), (&[0, 2], false), (&[0, 0, 1], false), (&[1, 0, 2], false)]
        {
            let here = serve(sequences);
            // They may come with the head already, and then there is nothing left to measure.
            let outcome = Clients::open(&here.subscription(), None, 1)
                .and_then(|mut clients| clients.receive(&here, window, Until::Complete));
            let lost = outcome.as_ref().is_err_and(|error| error.to_string().contains("out of order"));
            assert_eq!(lost, !good, "{sequences:?}: {outcome:?}");
        }
    }
}
