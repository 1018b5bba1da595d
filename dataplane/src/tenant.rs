//! What each API takes of the process that serves it, and what the others may rely on.
//!
//! Memory: rings and request bodies have budgets that all APIs share. An API may take more than an equal
//! part as long as nobody misses it. CPU: who took less of the engine lately goes first
//! ([`Tenant::lately`]). Connections: as many as the StreamGateway's owner lets each API have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::feed::budget::{Budget, Share};
use crate::respond::Refusal;

/// After this time what an API took of the engine counts half.
const HALF_LIFE: Duration = Duration::from_millis(100);

/// What all APIs of a process share.
pub struct Commons {
    /// Of all rings.
    pub rings: Arc<Budget>,
    /// Of all request bodies.
    bodies: Arc<Semaphore>,
    body_kib: usize,
    tenants: AtomicUsize,
}

impl Commons {
    /// So many bytes for rings and for request bodies.
    pub fn new(ring_bytes: usize, body_bytes: usize) -> Arc<Self> {
        let body_kib = (body_bytes / 1024).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            rings: Arc::new(Budget::new(ring_bytes)),
            bodies: Arc::new(Semaphore::new(body_kib)),
            body_kib,
            tenants: AtomicUsize::new(0),
        })
    }
}

/// One API of a process.
pub struct Tenant {
    /// `namespace/name`.
    pub api: Arc<str>,
    /// What its rings hold.
    pub rings: Arc<Share>,
    commons: Arc<Commons>,
    body_kib: AtomicUsize,
    connections: AtomicU32,
    most_connections: AtomicU32,
    spent: Mutex<Spent>,
    /// `engine_seconds_total`.
    seconds: Counter,
}

/// Time of the engine that an API took lately.
struct Spent {
    seconds: f64,
    at: Instant,
}

impl Spent {
    fn at(&self, now: Instant) -> f64 {
        let halvings = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.seconds * (-halvings).exp2()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.commons.tenants.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenant {
    /// `api` begins to be served.
    pub fn new(api: &str, commons: &Arc<Commons>, seconds: Counter) -> Arc<Self> {
        commons.tenants.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            api: api.into(),
            rings: Share::of(&commons.rings),
            commons: commons.clone(),
            body_kib: AtomicUsize::new(0),
            connections: AtomicU32::new(0),
            most_connections: AtomicU32::new(u32::MAX),
            spent: Mutex::new(Spent { seconds: 0.0, at: Instant::now() }),
            seconds,
        })
    }

    /// At most so many streams from now on; those that are open stay.
    pub fn limit_connections(&self, most: Option<u32>) {
        self.most_connections.store(most.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Takes one of the API's connections; tells how many there may be if there is none left.
    pub fn connect(&self) -> Result<(), u32> {
        let most = self.most_connections.load(Ordering::Relaxed);
        let take = |open: u32| (open < most).then_some(open + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).map(drop).map_err(|_| most)
    }

    /// Gives one back.
    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Makes room for a request body of at most `bytes`, until it is dropped. While less than half of
    /// the room is left, every API has an equal part of all of it and no more.
    pub fn hold_body(self: &Arc<Self>, bytes: u64) -> Result<HeldBody, Refusal> {
        let Commons { bodies, body_kib, tenants, .. } = &*self.commons;
        let kib = usize::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(usize::MAX);
        let part = body_kib / tenants.load(Ordering::Relaxed).max(1);
        let is_tight = bodies.available_permits() < body_kib / 2;
        // The first body of an API is always let in if there is room at all: its part may be less than a message.
        let held = self.body_kib.load(Ordering::Relaxed);
        if is_tight && held > 0 && held.saturating_add(kib) > part {
            return Err(Refusal::Overload);
        }
        let permits = u32::try_from(kib).unwrap_or(u32::MAX);
        let permit = bodies.clone().try_acquire_many_owned(permits).map_err(|_| Refusal::Overload)?;
        self.body_kib.fetch_add(kib, Ordering::Relaxed);
        Ok(HeldBody { tenant: self.clone(), kib, _permit: permit })
    }

    /// The engine worked for it.
    pub fn charge(&self, time: Duration, now: Instant) {
        let mut spent = self.spent.lock();
        *spent = Spent { seconds: spent.at(now) + time.as_secs_f64(), at: now };
        self.seconds.inc_by(time.as_secs_f64());
    }

    /// Seconds that the engine worked for it lately, the more recent the more they count.
    pub fn lately(&self, now: Instant) -> f64 {
        self.spent.lock().at(now)
    }
}

/// Room for a request body.
pub struct HeldBody {
    tenant: Arc<Tenant>,
    kib: usize,
    _permit: OwnedSemaphorePermit,
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.tenant.body_kib.fetch_sub(self.kib, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants<const N: usize>(body_bytes: usize) -> [Arc<Tenant>; N] {
        let commons = Commons::new(1 << 20, body_bytes);
        std::array::from_fn(|n| {
            Tenant::new(&format!("n/{n}"), &commons, Counter::new("s", "S").expect("a counter"))
        })
    }

    #[tokio::test]
    async fn who_fills_the_room_for_bodies_leaves_others_their_part() {
        let [greedy, modest] = tenants(100 << 10);
        let taken: Vec<_> = (0..100).map_while(|_| greedy.hold_body(1 << 10).ok()).collect();
        assert_eq!(taken.len(), 51, "half of all, and it is not tight before");
        let mut held: Vec<_> = (0..100).map_while(|_| modest.hold_body(1 << 10).ok()).collect();
        assert_eq!(held.len(), 49, "what is left, which is its part");
        assert!(matches!(greedy.hold_body(1), Err(Refusal::Overload)));
        held.clear();
        drop(taken);
        assert!(greedy.hold_body(100 << 10).is_ok(), "all of it, while nobody needs any");
    }

    #[tokio::test]
    async fn one_api_alone_may_hold_all() {
        let [only] = tenants(100 << 10);
        let taken: Vec<_> = (0..200).map_while(|_| only.hold_body(1 << 10).ok()).collect();
        assert_eq!(taken.len(), 100);
    }

    #[tokio::test]
    async fn connections_end_at_the_limit_and_come_back() {
        let [api] = tenants(1 << 20);
        api.limit_connections(Some(2));
        assert_eq!([api.connect(), api.connect(), api.connect()], [Ok(()), Ok(()), Err(2)]);
        api.disconnect();
        assert_eq!(api.connect(), Ok(()));
        api.limit_connections(None);
        assert_eq!(api.connect(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_is_forgotten_by_halves() {
        let [api] = tenants(1 << 20);
        api.charge(Duration::from_millis(8), Instant::now());
        tokio::time::advance(HALF_LIFE).await;
        api.charge(Duration::from_millis(2), Instant::now());
        tokio::time::advance(HALF_LIFE).await;
        assert!((api.lately(Instant::now()) - 0.003).abs() < 1e-9);
    }
}
