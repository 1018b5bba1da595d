//! Many clients with random stalls, joins, leaves, resumes, reloads and ring wraps. What each one
//! saw must be what the reference says.

use std::time::Duration;

use sluice_config::channel::CursorPlacement;
use sluice_config::policy::Limits;

use crate::encode::Lane;
use crate::engine::bed::{Bed, PARTITIONS, Peer, Positions};
use crate::engine::tests::LANES;
use crate::engine::tests::reference::{End, History, Reference, Selection};
use crate::feed::Selector;

/// Steps of one run.
const STEPS: usize = 600;
/// Messages held at first.
const WINDOW: u32 = 64;
/// What the socket of a quick client holds: it never fills.
const ROOMY: usize = 1 << 20;

/// A client, and what it should be.
struct Client {
    peer: Peer,
    reference: Reference,
    /// Its socket never fills.
    quick: bool,
}

/// What happened, so that a test can tell that what it is about did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happened {
    /// Clients at once.
    pub most: usize,
    /// Clients that came with a cursor between those of this ring.
    pub ahead: usize,
    /// Clients whose cursor had expired.
    pub expired: usize,
    /// Clients that were told that they fell behind.
    pub fell_behind: usize,
    /// Clients that were closed as slow.
    pub slow: usize,
    /// Clients that were closed for a gap.
    pub untold: usize,
    /// Clients that got a selection.
    pub selecting: usize,
    /// Reloads.
    pub reloads: usize,
}

/// One seed's run.
pub struct Model {
    name: String,
    random: fastrand::Rng,
    drops_oldest: bool,
    bed: Bed,
    history: History,
    clients: Vec<Client>,
    happened: Happened,
}

impl Model {
    /// A run whose chances are those of `seed`.
    pub fn new(seed: u64, slow_consumer: &str) -> Self {
        Self {
            name: format!("seed {seed}, {slow_consumer}"),
            random: fastrand::Rng::with_seed(seed),
            drops_oldest: slow_consumer == "dropOldest",
            bed: Bed::new(WINDOW, slow_consumer),
            history: History::new(u64::from(WINDOW)),
            clients: Vec::new(),
            happened: Happened::default(),
        }
    }

    /// Runs, with `crowd` clients that are there from the start on.
    pub async fn run(mut self, crowd: usize) -> Happened {
        for _ in 0..crowd {
            self.join().await;
        }
        self.turn().await;
        for _ in 0..STEPS {
            match self.random.u8(..20) {
                0..=2 => self.join().await,
                3 => self.join_from_elsewhere().await,
                4 | 5 if !self.clients.is_empty() => self.leave().await,
                6..=12 => self.publish(),
                13 => self.reload(),
                _ => self.read().await,
            }
            self.turn().await;
            self.happened.most = self.happened.most.max(*self.bed.open.borrow());
        }
        self.finish().await
    }

    /// Lets the shard do all it can.
    async fn turn(&mut self) {
        self.bed.settle().await;
        self.history.look();
    }

    async fn join(&mut self) {
        self.join_at(None, self.history.heads()).await;
    }

    /// A client comes with a cursor of a process that had read the partitions in another order.
    async fn join_from_elsewhere(&mut self) {
        let number = self.history.next().saturating_sub(self.random.u64(..100));
        let (mut start, heads) = (self.history.before(number), self.history.heads());
        for partition in 0..PARTITIONS {
            start[partition] = (start[partition] + self.random.i64(-5..20)).clamp(0, heads[partition]);
        }
        self.join_at(Some(self.bed.cursor(&start)), start).await;
    }

    async fn join_at(&mut self, cursor: Option<String>, start: Positions) {
        let lane = LANES[self.random.usize(..LANES.len())];
        let quick = self.random.bool();
        let pipe = if quick { ROOMY } else { self.random.usize(10..2000) };
        let selection = self.selection();
        let mut reference = Reference::joined(&self.history, start, selection);
        if quick && lane != Lane::WsRaw {
            reference = reference.written_at_once(&self.history);
        }
        self.happened.expired += usize::from(reference.expired);
        self.happened.ahead += usize::from(reference.is_ahead);
        let selector = (selection.by > 1).then(|| selector(selection));
        self.happened.selecting += usize::from(selector.is_some());
        let peer = self.bed.join_selecting(lane, cursor, pipe, selector).await;
        self.clients.push(Client { peer, reference, quick });
    }

    /// Mostly everything; else every so many, down to almost nothing.
    fn selection(&mut self) -> Selection {
        if self.random.bool() {
            return Selection::ALL;
        }
        let by = [2, 3, 10, 1000][self.random.usize(..4)];
        Selection { by, rest: self.random.u64(..by.min(4)) }
    }

    /// A client goes, and mostly comes back with the last cursor that it was told.
    async fn leave(&mut self) {
        let mut client = self.clients.swap_remove(self.random.usize(..self.clients.len()));
        let all = client.quick || self.random.bool();
        if all {
            client.peer.read_all(&self.bed).await;
        }
        self.check(&mut client, all);
        let cursor = client.peer.last_cursor();
        drop(client);
        self.turn().await;
        if let Some(cursor) = cursor {
            let start = self.bed.positions(&cursor);
            self.join_at(Some(cursor), start).await;
        }
    }

    fn publish(&mut self) {
        let most = if self.random.u8(..10) == 0 { 40 } else { 8 };
        for _ in 0..self.random.usize(1..most) {
            let partition = self.bed.publish(self.random.usize(..200));
            self.history.publish(partition);
        }
    }

    fn reload(&mut self) {
        self.happened.reloads += 1;
        let window = self.random.u32(40..200);
        let cursor = [CursorPlacement::PerMessage, CursorPlacement::PerWrite][self.random.usize(..2)];
        let limits = Limits { connections: Some(self.random.u32(1..50)), ..Limits::default() };
        self.bed.reload(|state| {
            let subscribe = state.spec.subscribe.as_mut().expect("it has clients");
            (subscribe.replay.messages, subscribe.cursor) = (window, cursor);
            state.policy.limits = limits;
        });
        self.history.reload(u64::from(window), cursor == CursorPlacement::PerMessage);
    }

    async fn read(&mut self) {
        for Client { peer, quick, .. } in &mut self.clients {
            if *quick {
                while peer.read(1 << 16).await > 0 {}
            } else if self.random.u8(..4) == 0 {
                peer.read(self.random.usize(1..300)).await;
            }
        }
    }

    /// Compares what a client saw with what it should have seen: `all` that was due, or a part of it.
    fn check(&mut self, client: &mut Client, all: bool) {
        let Client { peer, reference, quick } = client;
        let name = format!("{}, {:?}, quick: {quick}", self.name, peer.lane);
        for (index, seen) in peer.events.iter().enumerate() {
            if let Err(reason) = reference.see(&self.history, seen, |cursor| self.bed.positions(cursor)) {
                let from = index.saturating_sub(3);
                panic!("{name}: {reason}; it saw {:?}", &peer.events[from..=index]);
            }
        }
        assert!(!*quick || !reference.fell_behind, "{name}: told that it fell behind");
        let behind = !*quick && reference.is_behind(&self.history);
        let untold = peer.lane == Lane::WsRaw && (reference.expired || self.drops_oldest && behind);
        match reference.end {
            Some(End::Slow) => assert!(behind && !self.drops_oldest, "{name}: closed as slow"),
            Some(End::Untold) => assert!(untold, "{name}: closed for a gap"),
            None if all => assert_eq!(reference.due(&self.history), None, "{name}: not written"),
            None => {}
        }
        self.happened.fell_behind += usize::from(reference.fell_behind);
        self.happened.slow += usize::from(reference.end == Some(End::Slow));
        self.happened.untold += usize::from(reference.end == Some(End::Untold));
    }

    async fn finish(mut self) -> Happened {
        for mut client in std::mem::take(&mut self.clients) {
            client.peer.read_all(&self.bed).await;
            self.check(&mut client, true);
        }
        for _ in 0..200 {
            self.bed.settle().await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let name = &self.name;
        assert_eq!(*self.bed.open.borrow(), 0, "{name}: a client was left behind");
        let (due, written, without) = self.bed.books();
        assert_eq!(due, written + without, "{name}: the books do not balance");
        assert!(written > 1000, "{name}: {written} messages are no test");
        self.happened
    }
}

/// Selects by the number that a message begins with.
pub fn selector(selection: Selection) -> Selector {
    let Selection { by, rest } = selection;
    Selector::new(&format!("{rest} of {by}"), move |record| {
        let payload = record.payload.as_deref().expect("numbered");
        let digits = payload.split(|byte| *byte == b' ').next().expect("a number");
        selection.has(std::str::from_utf8(digits).expect("digits").parse().expect("a number"))
    })
}
