//! Whose turn it is. APIs that share a thread do not wait for each other's thousands of clients: whoever
//! took less of the thread lately goes first, also in the middle of a walk of somebody who took more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shard;
use crate::engine::mailbox::Mail;
use crate::tenant::Tenant;

/// For how long an API has the thread before it is looked whether another one waits. A test's clock
/// stands still, and there it is looked every time.
const SLICE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_micros(250) };
/// How many APIs may be interrupted by one another.
const DEPTH: usize = 4;

/// What is to be done next.
#[derive(Clone, Copy)]
pub(super) enum Turn {
    /// A feed moved.
    Moved(usize),
    /// A feed has waited for more to come.
    Due(usize),
    /// A client's socket became ready.
    Ready(usize),
}

/// Who has the thread.
#[derive(Default)]
pub(super) struct Turns {
    /// Whether clients of several APIs are here: a thread that is one's own is not watched.
    shared: bool,
    /// Since when nobody was charged, and since when nobody looked for others.
    since: Option<(Instant, Instant)>,
    /// The APIs that were interrupted, and the one that has the thread.
    under_way: Vec<Arc<Tenant>>,
    /// What came in the middle of a walk, of APIs that do not go first.
    later: Mail,
}

impl Turns {
    /// Whether `tenant` was interrupted: its walk goes on where it is.
    fn has(&self, tenant: &Arc<Tenant>) -> bool {
        self.under_way.iter().any(|other| Arc::ptr_eq(other, tenant))
    }
}

impl Shard {
    /// Looks again whether several APIs have clients here.
    pub(super) fn look_who_shares(&mut self) {
        let mut tenants = self.feeds.iter().map(|(_, feed)| &feed.tenant);
        let first = tenants.next();
        self.turns.shared = first.is_some_and(|first| tenants.any(|tenant| !Arc::ptr_eq(first, tenant)));
    }

    /// Gives all that came its turn, and what was put off before.
    pub(super) fn give_all(&mut self, mail: &mut Mail) {
        mail.moved.append(&mut self.turns.later.moved);
        mail.ready.append(&mut self.turns.later.ready);
        let moved = mail.moved.drain(..).map(Turn::Moved);
        self.give_turns(moved.chain(mail.ready.drain(..).map(Turn::Ready)));
    }

    /// Gives `turns`, of several APIs those first that took least lately.
    pub(super) fn give_turns(&mut self, turns: impl Iterator<Item = Turn>) {
        if !self.turns.shared {
            return turns.for_each(|turn| self.give(turn));
        }
        let now = Instant::now();
        let mut ranked: Vec<(f64, Turn)> =
            turns.filter_map(|turn| Some((self.tenant(turn)?.lately(now), turn))).collect();
        ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        self.turns.since = Some((now, now));
        for (_, turn) in ranked {
            self.give_charged(turn);
        }
        self.turns.since = None;
    }

    fn give(&mut self, turn: Turn) {
        match turn {
            Turn::Moved(feed) => self.on_moved(feed),
            Turn::Due(feed) => self.walk(feed),
            Turn::Ready(client) => self.on_ready(client),
        }
    }

    fn give_charged(&mut self, turn: Turn) {
        let Some(tenant) = self.tenant(turn).cloned() else { return };
        self.turns.under_way.push(tenant.clone());
        self.give(turn);
        self.charge(&tenant);
        self.let_others(&tenant);
        self.turns.under_way.pop();
    }

    fn tenant(&self, turn: Turn) -> Option<&Arc<Tenant>> {
        match turn {
            Turn::Moved(feed) | Turn::Due(feed) => self.feeds.get(feed).map(|feed| &feed.tenant),
            Turn::Ready(client) => self.clients.get(client).map(|client| &client.channel.tenant),
        }
    }

    /// What passed since somebody was charged was `tenant`'s.
    fn charge(&mut self, tenant: &Tenant) {
        let now = Instant::now();
        if let Some((since, _)) = &mut self.turns.since {
            tenant.charge(now - std::mem::replace(since, now), now);
        }
    }

    /// In the middle of what is `tenant`'s: gives those their turn that took less of the thread lately.
    pub(super) fn let_others(&mut self, tenant: &Tenant) {
        let Some((_, looked)) = &mut self.turns.since else { return };
        if looked.elapsed() < SLICE || self.turns.under_way.len() > DEPTH {
            return;
        }
        *looked = Instant::now();
        self.charge(tenant);
        // With fewer cores than threads, what there is for others may still be on its way here.
        std::thread::yield_now();
        let mut came = Mail::default();
        self.mailbox.take_turns(&mut came);
        let moved = came.moved.into_iter().map(Turn::Moved);
        let (now, mut first) = (Instant::now(), Vec::new());
        let most = tenant.lately(now);
        for turn in moved.chain(came.ready.into_iter().map(Turn::Ready)) {
            let other = self.tenant(turn).filter(|other| !self.turns.has(other));
            let lately = other.map(|other| other.lately(now));
            match (lately.filter(|lately| *lately < most), turn) {
                (Some(lately), _) => first.push((lately, turn)),
                (None, Turn::Moved(feed) | Turn::Due(feed)) => self.turns.later.moved.push(feed),
                (None, Turn::Ready(client)) => self.turns.later.ready.push(client),
            }
        }
        first.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for (_, turn) in first {
            self.give_charged(turn);
        }
    }
}
