//! Traffic in the background while something breaks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::producer::FutureRecord;
use tokio::task::JoinHandle;

use crate::client::http;
use crate::kafka::Cluster;
use crate::ledger::{Ledger, Payload};

/// Time between two messages of one worker, so that a load lasts longer than what happens to it.
const PACE: Duration = Duration::from_millis(8);

/// How long one message may be tried again and again.
const STUBBORN: Duration = Duration::from_secs(60);

/// Most of what went wrong is told by its number only.
const MOST_TROUBLES: usize = 5;

/// How long a whole load may take.
const WHOLE: Duration = Duration::from_secs(150);
/// How long one may last that somebody has to stop.
const UNSTOPPED: Duration = Duration::from_secs(300);

/// Messages on their way. Dropping it stops it.
#[derive(Debug)]
pub struct Load {
    accepted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    unknown: Arc<AtomicUsize>,
    troubles: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

impl Load {
    fn new() -> Self {
        let (accepted, refused, unknown, troubles, stopped, workers) = Default::default();
        Self { accepted, refused, unknown, troubles, stopped, workers }
    }

    /// `count` messages straight into `topic`, each worker with one of `keys` and its partition.
    pub fn kafka(
        cluster: &Cluster,
        topic: &str,
        ledger: &Ledger,
        count: usize,
        keys: &[(&str, i32)],
    ) -> Self {
        let mut load = Self::new();
        let producer = cluster.producer();
        for (key, partition) in keys {
            let (producer, ledger, topic) = (producer.clone(), ledger.clone(), topic.to_owned());
            let (key, partition, accepted) = ((*key).to_owned(), *partition, load.accepted.clone());
            let share = count.div_ceil(keys.len());
            load.workers.push(tokio::spawn(async move {
                for _ in 0..share {
                    let payload = ledger.offer_with_key(&key);
                    let record = FutureRecord::to(&topic)
                        .key(&payload.key)
                        .payload(&payload.bytes)
                        .partition(partition);
                    let sent = producer.send(record, STUBBORN).await;
                    sent.map_err(|(error, _)| error).expect("the cluster comes back in time");
                    ledger.accept(&payload.ident);
                    accepted.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(PACE).await;
                }
            }));
        }
        load
    }

    /// `count` messages by `POST`, from `workers` clients at once with a key each. Whoever gets
    /// 503, or no answer, sends the same message again, as a careful client does.
    pub fn http(url: &str, ledger: &Ledger, count: usize, workers: usize) -> Self {
        Self::posting(url, ledger, Some(count.div_ceil(workers)), workers)
    }

    /// The same until [`Load::stop`].
    pub fn http_until_stopped(url: &str, ledger: &Ledger, workers: usize) -> Self {
        Self::posting(url, ledger, None, workers)
    }

    fn posting(url: &str, ledger: &Ledger, share: Option<usize>, workers: usize) -> Self {
        let mut load = Self::new();
        for worker in 0..workers {
            let sender = Sender {
                url: format!("{url}?key=w{worker}"),
                ledger: ledger.clone(),
                accepted: load.accepted.clone(),
                refused: load.refused.clone(),
                unknown: load.unknown.clone(),
                troubles: load.troubles.clone(),
                stopped: load.stopped.clone(),
            };
            load.workers.push(tokio::spawn(sender.send(format!("w{worker}"), share)));
        }
        load
    }

    /// How many were acknowledged.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many answers said that nothing was written.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// How many requests had no answer or an unknown outcome.
    pub fn unknown(&self) -> usize {
        self.unknown.load(Ordering::SeqCst)
    }

    /// What went wrong with the first of the refused and the unknown.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().expect("no worker panics with it").clone()
    }

    /// Waits until `count` were acknowledged.
    pub async fn reaches(&self, count: usize) {
        let begun = Instant::now();
        while self.accepted() < count {
            let broken = self.workers.iter().any(JoinHandle::is_finished) && self.accepted() == 0;
            assert!(!broken && begun.elapsed() < WHOLE, "{} of {count} acknowledged", self.accepted());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it: every worker sees its message through. Fails if one had ended before.
    pub async fn stop(self) -> usize {
        assert!(!self.workers.iter().any(JoinHandle::is_finished), "a worker ended before it was told to");
        self.stopped.store(true, Ordering::SeqCst);
        self.done().await
    }

    /// Waits for the end of it. Gives how many were refused or unknown.
    pub async fn done(mut self) -> usize {
        let begun = Instant::now();
        for worker in std::mem::take(&mut self.workers) {
            let left = WHOLE.saturating_sub(begun.elapsed());
            let ended = tokio::time::timeout(left, worker).await;
            ended.expect("the load ends in time").expect("a worker does not panic");
        }
        println!(
            "load: {} accepted, {} refused, {} unknown {:?}",
            self.accepted(),
            self.refused(),
            self.unknown(),
            self.troubles()
        );
        self.refused() + self.unknown()
    }
}

struct Sender {
    url: String,
    ledger: Ledger,
    accepted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    unknown: Arc<AtomicUsize>,
    troubles: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl Sender {
    /// Sends `share` messages; without, until it is stopped.
    async fn send(self, key: String, share: Option<usize>) {
        let (begun, mut sent) = (Instant::now(), 0);
        let client = http::builder().http1_only().build().expect("a client can be made");
        while share.map_or_else(|| !self.stopped.load(Ordering::SeqCst), |share| sent < share) {
            assert!(share.is_some() || begun.elapsed() < UNSTOPPED, "nobody stopped it in {UNSTOPPED:?}");
            let payload = self.ledger.offer_with_key(&key);
            let begun = Instant::now();
            while !self.offer(&client, &payload).await {
                assert!(begun.elapsed() < STUBBORN, "{} is not taken", payload.ident);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.ledger.accept(&payload.ident);
            self.accepted.fetch_add(1, Ordering::SeqCst);
            sent += 1;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Whether it was acknowledged.
    async fn offer(&self, client: &reqwest::Client, payload: &Payload) -> bool {
        let request = client.post(&self.url).header("content-type", "application/json");
        let answer = request.body(payload.bytes.clone()).timeout(Duration::from_secs(20)).send().await;
        let outcome = answer.map(|answer| answer.status().as_u16());
        let mut troubles = self.troubles.lock().expect("no worker panics with it");
        if troubles.len() < MOST_TROUBLES && !matches!(outcome, Ok(200)) {
            troubles.push(format!("{}: {outcome:?}", payload.ident));
        }
        drop(troubles);
        match outcome {
            Ok(200) => return true,
            Ok(503) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                self.ledger.refuse(&payload.ident);
            }
            Ok(504) | Err(_) => {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                self.ledger.resend(&payload.ident);
            }
            Ok(status) => panic!("{status} to {}", payload.ident),
        }
        false
    }
}
