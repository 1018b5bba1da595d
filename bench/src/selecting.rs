//! The engine alone, with clients that each get a selection of what one feed reads: a message in
//! [`SHARES`], by its key. What is around the engine elsewhere, HTTP and the channel's rules, is not
//! here, as nothing asks for a selection there yet.

use std::rc::Rc;

use anyhow::{Context, Result};
use bytes::Bytes;
use sluice_dataplane::bed::{Bed, Lane, Selector, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::LocalSet;

use crate::client::{Share, stamp};
use crate::entrant::{Inlet, Started};
use crate::fanout::values;
use crate::feed::Feeder;
use crate::http::{Asked, NO_CONTENT_ANSWER, SWITCHING, asked};
use crate::load::{Clients, Until};
use crate::measure::{peak_bytes, resident_bytes};
use crate::part::Part;
use crate::report::{PEAK, Values};
use crate::scenario::{BYTES, Scale};
use crate::system::{Publication, Subscription, System};
use crate::wire::Wire;

/// Every client gets one message in so many.
pub const SHARES: u64 = 500;
/// Messages per second.
pub const RATE: u64 = 5000;
/// Messages that the ring holds.
const WINDOW: u32 = 10_000;
/// What clients that only stay add, with their selections.
pub const WITH_CLIENTS: &str = "KiB per client, with its selection";

/// What the part serves.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long)]
    pub port: u16,
}

/// Serves until it is killed: `GET /<share>` subscribes, `POST /` publishes.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(options.port))
}

async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (bed, shard) = Bed::with_shard(WINDOW, "disconnect");
    std::thread::Builder::new().name("shard".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("it needs nothing but memory").block_on(tokio::task::unconstrained(shard.run()));
    })?;
    let bed = Rc::new(Mutex::new(bed));
    loop {
        let (stream, _) = listener.accept().await?;
        let bed = Rc::clone(&bed);
        tokio::task::spawn_local(async move {
            if let Err(error) = talk(stream, &bed).await {
                eprintln!("a connection ends: {error:#}");
            }
        });
    }
}

/// One connection: a client's until it asked for its stream, or a publisher's.
async fn talk(mut stream: TcpStream, bed: &Mutex<Bed>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
        while let Some((asked, whole)) = asked(&request)? {
            match asked {
                Asked::Stream(path) => {
                    let share = path.trim_start_matches('/').parse().context("no share")?;
                    let bed = bed.lock().await;
                    let stream = Stream::Tcp(stream);
                    bed.attach(Lane::WsRaw, None, Some(selector(share)), stream, SWITCHING).await;
                    return Ok(());
                }
                Asked::Post(payload) => {
                    let (_, sequence) = stamp(payload).context("no number")?;
                    let payload = Bytes::copy_from_slice(payload);
                    bed.lock().await.put(Some(key(sequence % SHARES)), payload);
                    stream.write_all(NO_CONTENT_ANSWER).await?;
                }
            }
            request.drain(..whole);
        }
    }
}

fn key(share: u64) -> Bytes {
    format!("customer-{share}").into()
}

fn selector(share: u64) -> Selector {
    let key = key(share);
    Selector::new(&format!("key {share}"), move |record| record.key.as_ref() == Some(&key))
}

/// The part, running.
struct Selecting(Part);

impl System for Selecting {
    fn pids(&self) -> Result<Vec<u32>> {
        Ok(vec![self.0.pid()])
    }

    fn subscription(&self) -> Subscription {
        self.share(0)
    }

    fn publication(&self) -> Publication {
        let head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n".into();
        Publication { port: self.0.port, head, body: <[u8]>::to_vec }
    }
}

impl Selecting {
    fn share(&self, which: u64) -> Subscription {
        let request = Wire::WebSocket.request(&format!("/{which}"));
        let share = Share { which, of: SHARES };
        Subscription { port: self.0.port, wire: Wire::WebSocket, request, share }
    }
}

/// `count` clients with `distinct` selections between them.
pub fn measure(scale: &Scale, count: usize, distinct: u64) -> Result<Values> {
    let (count, window) = (scale.clients(count), scale.window(RATE));
    let part = Selecting(Part::start("selecting", &[])?);
    let pids = part.pids()?;
    let before = resident_bytes(&pids)?;
    let mut clients = Clients::open_each(count, None, |index| part.share(index as u64 % distinct))?;
    let added = resident_bytes(&pids)?.saturating_sub(before);
    let started = Started { system: Box::new(part), inlet: Inlet::Http };
    let feeder = Feeder::start(&started, window, BYTES);
    let received = clients.receive(started.system.as_ref(), window, Until::Complete);
    let received = feeder.end(received)?;
    let mut values = values(&received, window.measured.as_secs_f64());
    values.push((PEAK, peak_bytes(&pids)? as f64 / (1024.0 * 1024.0)));
    values.push((WITH_CLIENTS, added as f64 / 1024.0 / count as f64));
    Ok(values)
}
