//! Whose turn it is. APIs that share a thread do not wait for each other's thousands of clients: whoever
//! took less of the thread lately goes first, also in the middle of a walk of somebody who took more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shard;
use crate::engine::mailbox::{Command, Mail};
use crate::tenant::Tenant;

/// For how long an API has the thread before it is looked whether another one waits. A test's clock
/// stands still, and there it is looked every time.
const SLICE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_micros(250) };
/// Clients between two looks at the time.
const CLIENTS_AT_ONCE: usize = 16;
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

/// Who has the thread, and who waits for it.
#[derive(Default)]
pub(super) struct Turns {
    /// How many clients each API has here: a thread that is one's own is not watched.
    clients: HashMap<usize, usize>,
    /// Since when nobody was charged, and since when nobody looked for others.
    since: Option<(Instant, Instant)>,
    /// The APIs that were interrupted, and the one that has the thread.
    under_way: Vec<Arc<Tenant>>,
    /// Clients since the last look at the time.
    passed: usize,
    /// What each API waits for, in order.
    waiting: HashMap<usize, (Arc<Tenant>, Vec<Turn>)>,
}

/// Names an API as long as it is there.
fn key(tenant: &Arc<Tenant>) -> usize {
    Arc::as_ptr(tenant).addr()
}

impl Turns {
    /// A client of `tenant` comes.
    pub(super) fn enter(&mut self, tenant: &Arc<Tenant>) {
        *self.clients.entry(key(tenant)).or_default() += 1;
    }

    /// And leaves.
    pub(super) fn leave(&mut self, tenant: &Arc<Tenant>) {
        if let Some(count) = self.clients.get_mut(&key(tenant)) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&key(tenant));
            }
        }
    }

    /// Whether nobody has to wait for another API.
    fn are_nobodys(&self) -> bool {
        self.clients.len() <= 1 && self.waiting.is_empty()
    }

    /// Those who wait, by what they took lately.
    fn ranked(&self, now: Instant) -> Vec<(f64, Arc<Tenant>)> {
        let waiting = self.waiting.values().map(|(tenant, _)| (tenant.lately(now), tenant.clone()));
        let mut ranked: Vec<_> = waiting.collect();
        ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        ranked
    }

    /// Whether `tenant` was interrupted: its walk goes on where it is.
    fn has(&self, tenant: &Arc<Tenant>) -> bool {
        self.under_way.iter().any(|other| Arc::ptr_eq(other, tenant))
    }
}

impl Shard {
    /// Does what the mail asks for: commands first, then turns.
    pub(super) fn deliver(&mut self, mail: &mut Mail) {
        if self.turns.are_nobodys() {
            mail.commands.drain(..).for_each(|command| self.on_command(command));
            mail.moved.drain(..).for_each(|feed| self.on_moved(feed));
            mail.ready.drain(..).for_each(|client| self.on_ready(client));
            return;
        }
        self.queue(mail);
        self.turns.since = Some((Instant::now(), Instant::now()));
        for command in mail.commands.drain(..) {
            let tenant = match &command {
                Command::Attach(attachment) => Some(attachment.channel.tenant.clone()),
                _ => None,
            };
            self.on_command(command);
            if let Some(tenant) = tenant {
                self.look(&tenant);
            }
        }
        self.give_turns(std::iter::empty());
    }

    /// Gives `turns` and all that wait, of several APIs those first that took least lately.
    pub(super) fn give_turns(&mut self, turns: impl Iterator<Item = Turn>) {
        if self.turns.are_nobodys() {
            return turns.for_each(|turn| self.give(turn));
        }
        turns.for_each(|turn| self.put_off(turn));
        let now = Instant::now();
        self.turns.since = Some((now, now));
        // What comes meanwhile and does not go first has its turn after the next mail, which it came with.
        for (_, tenant) in self.turns.ranked(now) {
            self.give_all(&tenant);
        }
        self.turns.since = None;
    }

    fn queue(&mut self, mail: &mut Mail) {
        mail.moved.drain(..).for_each(|feed| self.put_off(Turn::Moved(feed)));
        mail.ready.drain(..).for_each(|client| self.put_off(Turn::Ready(client)));
    }

    fn put_off(&mut self, turn: Turn) {
        let tenant = match turn {
            Turn::Moved(feed) | Turn::Due(feed) => self.feeds.get(feed).map(|feed| &feed.tenant),
            Turn::Ready(client) => self.clients.get(client).map(|client| &client.channel.tenant),
        };
        // Who is gone needs none.
        let Some(tenant) = tenant else { return };
        let none = || (tenant.clone(), Vec::new());
        self.turns.waiting.entry(key(tenant)).or_insert_with(none).1.push(turn);
    }

    /// Gives all turns that `tenant` waits for now.
    fn give_all(&mut self, tenant: &Arc<Tenant>) {
        let Some((_, turns)) = self.turns.waiting.remove(&key(tenant)) else { return };
        self.turns.under_way.push(tenant.clone());
        for turn in turns {
            self.give(turn);
            self.look(tenant);
        }
        self.charge(tenant);
        self.turns.under_way.pop();
    }

    fn give(&mut self, turn: Turn) {
        match turn {
            Turn::Moved(feed) => self.on_moved(feed),
            Turn::Due(feed) => self.walk(feed),
            Turn::Ready(client) => self.on_ready(client),
        }
    }

    /// What passed since somebody was charged was `tenant`'s.
    fn charge(&mut self, tenant: &Tenant) {
        let now = Instant::now();
        if let Some((since, _)) = &mut self.turns.since {
            tenant.charge(now - std::mem::replace(since, now), now);
        }
    }

    /// Another client of `tenant` was looked after: now and then others have their turn in between.
    pub(super) fn pass(&mut self, tenant: &Arc<Tenant>) {
        self.turns.passed += 1;
        if self.turns.passed >= CLIENTS_AT_ONCE {
            self.look(tenant);
        }
    }

    /// Whether others are to have their turn now.
    fn look(&mut self, tenant: &Arc<Tenant>) {
        self.turns.passed = 0;
        if self.turns.since.is_some_and(|(_, looked)| looked.elapsed() >= SLICE) {
            self.let_others(tenant);
        }
    }

    /// In the middle of what is `tenant`'s: gives those their turn that took less of the thread lately, and
    /// will have when they are done.
    fn let_others(&mut self, tenant: &Arc<Tenant>) {
        self.charge(tenant);
        // With fewer cores than threads, what there is for others may still be on its way here.
        std::thread::yield_now();
        let now = Instant::now();
        // What other threads took is nobody's here.
        self.turns.since = Some((now, now));
        let mut came = Mail::default();
        self.mailbox.take_turns(&mut came);
        self.queue(&mut came);
        if self.turns.under_way.len() > DEPTH {
            return;
        }
        let most = tenant.lately(now);
        for (lately, other) in self.turns.ranked(now) {
            if lately + self.cost(&other) < most && !self.turns.has(&other) {
                self.give_all(&other);
            }
        }
    }

    /// Seconds that the walks took last for which `tenant` waits.
    fn cost(&self, tenant: &Arc<Tenant>) -> f64 {
        let Some((_, turns)) = self.turns.waiting.get(&key(tenant)) else { return 0.0 };
        let cost = |turn: &Turn| match turn {
            Turn::Moved(feed) | Turn::Due(feed) => self.feeds.get(*feed).map(|feed| feed.took.as_secs_f64()),
            Turn::Ready(_) => None,
        };
        turns.iter().filter_map(cost).sum()
    }
}
