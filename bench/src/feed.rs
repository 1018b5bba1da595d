//! Puts messages into a system at a rate, each with the time it was meant to be sent: who is late
//! sends what is due as fast as it is taken, and the delay counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::client::payload;
use crate::entrant::{Inlet, Started};
use crate::http::{parse, request};
use crate::librdkafka::settings;
use crate::load::Window;
use crate::measure::now_nanos;
use crate::system::Publication;

/// How long an answer, or the last messages, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What feeds a system, on a thread of its own.
#[derive(Debug)]
pub struct Feeder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Feeder {
    /// Sends what `window` announces, `bytes` bytes each.
    pub fn start(started: &Started, window: Window, bytes: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let schedule = Schedule { window, bytes, stop: Arc::clone(&stop) };
        let thread = match &started.inlet {
            Inlet::Http => {
                let publication = started.system.publication();
                std::thread::spawn(move || http(&publication, &schedule))
            }
            Inlet::Kafka { brokers, topic } => {
                let (brokers, topic) = (brokers.clone(), topic.clone());
                std::thread::spawn(move || kafka(&brokers, &topic, &schedule))
            }
        };
        Self { stop, thread }
    }

    /// Waits until everything is sent.
    pub fn finish(self) -> Result<()> {
        self.thread.join().expect("a feeder does not panic").context("the feed failed")
    }

    /// Waits for it after a reception. What it has to say explains what clients lack.
    pub fn end<T>(self, received: Result<T>) -> Result<T> {
        match &received {
            Ok(_) => self.finish().and(received),
            Err(_) => self.stop().and(received),
        }
    }

    /// Sends no more, and waits for the message under way.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

struct Schedule {
    window: Window,
    bytes: usize,
    stop: Arc<AtomicBool>,
}

impl Schedule {
    /// Calls `send` with every payload when it is due.
    fn run(&self, mut send: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let interval = 1_000_000_000 / self.window.rate;
        let begun = now_nanos();
        for sequence in 0..self.window.messages() {
            let meant = begun + (sequence + 1) * interval;
            std::thread::sleep(Duration::from_nanos(meant.saturating_sub(now_nanos())));
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            send(&payload(meant, sequence, self.bytes))?;
        }
        Ok(())
    }
}

/// One connection, one request at a time: with several, messages could overtake each other.
fn http(publication: &Publication, schedule: &Schedule) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", publication.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    schedule.run(|payload| {
        stream.write_all(&request(publication, payload))?;
        answer.clear();
        loop {
            let length = stream.read(&mut buffer).context("no answer")?;
            ensure!(length > 0, "the server closed the publisher's connection");
            answer.extend_from_slice(&buffer[..length]);
            if let Some((status, body)) = parse(&answer)? {
                ensure!((200..300).contains(&status), "a publish failed: {status} {body}");
                return Ok(());
            }
        }
    })
}

fn kafka(brokers: &str, topic: &str, schedule: &Schedule) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = settings(brokers).create()?;
    // The first message would otherwise wait for this and the schedule with it.
    producer.client().fetch_metadata(Some(topic), PATIENCE).context("Kafka does not know the topic")?;
    schedule.run(|payload| {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(0).payload(payload);
        producer.send(record).map_err(|(error, _)| anyhow!(error))
    })?;
    Ok(producer.flush(PATIENCE)?)
}
