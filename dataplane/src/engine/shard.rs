//! A shard: a thread, its clients, and the walk over them when a feed moved.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::channel::Channel;
use crate::engine::Attachment;
use crate::engine::client::{Client, Flow, Standing, Tally};
use crate::engine::mailbox::{ClientWake, Command, FeedWatch, Mail, Mailbox};
use crate::engine::shard::group::ShardFeed;
use crate::engine::shard::turns::Turns;
use crate::engine::shard::walk::Walk;
use crate::feed::ring::GapReason;
use crate::feed::{Batch, Feed, Start, View};
use crate::telemetry::DropReason;

mod group;
mod turns;
mod walk;

/// How often time-driven things are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks one sweep over all clients is spread over.
const SWEEP_TICKS: usize = 5;
/// How long a position ahead of the log waits for the log to reach it (wire.md, Cursor).
const BEYOND_PATIENCE: Duration = Duration::from_secs(30);

/// A shard.
pub struct Shard {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) main: Handle,
    pub(super) clients: Slab<Client>,
    pub(super) feeds: Slab<ShardFeed>,
    pub(super) doomed: Vec<usize>,
    pub(super) scratch: Vec<u8>,
    pub(super) draining: Option<Duration>,
    /// When the first feed that waits is to be walked.
    next_due: Option<Instant>,
    open: watch::Sender<usize>,
    /// Of each group of a feed that is walked.
    ranges: Vec<(usize, (u64, u64))>,
    batches: Vec<Batch>,
    spare: Batch,
    serial: u64,
    tick: usize,
    turns: Turns,
}

impl Shard {
    /// A shard that is told things through `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>, main: Handle, open: watch::Sender<usize>) -> Self {
        Self {
            mailbox,
            main,
            clients: Slab::new(),
            feeds: Slab::new(),
            doomed: Vec::new(),
            scratch: vec![0; 64 << 10],
            draining: None,
            next_due: None,
            open,
            ranges: Vec::new(),
            batches: Vec::new(),
            spare: Batch::default(),
            serial: 0,
            tick: 0,
            turns: Turns::default(),
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mail = Mail::default();
        loop {
            let mailbox = self.mailbox.clone();
            tokio::select! {
                () = poll_fn(|context| mailbox.poll(context)) => {}
                () = wait_until(self.next_due) => self.walk_due(),
                _ = ticks.tick() => self.on_tick(),
            }
            self.mailbox.take(&mut mail);
            self.deliver(&mut mail);
            self.bury();
        }
    }

    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Attach(attachment) => self.attach(*attachment),
            Command::Published { client, serial, id, result } => {
                self.on_published(client, serial, id, result)
            }
            Command::Recheck => {
                for key in self.keys() {
                    self.judge(key);
                }
            }
            Command::Drain(spread) => self.on_drain(spread),
        }
    }

    pub(super) fn keys(&self) -> Vec<usize> {
        self.clients.iter().map(|(key, _)| key).collect()
    }

    // --- coming ---------------------------------------------------------------------------------

    fn attach(&mut self, mut attachment: Attachment) {
        let now = Instant::now();
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        let feed = attachment.reading.as_ref().map(|(feed, _)| feed.clone());
        let selector = attachment.selector.take();
        let cursor = attachment.cursor.take();
        attachment.cursor.clone_from(&cursor);
        let wake = ClientWake::new(self.mailbox.clone(), key);
        self.serial += 1;
        let client = entry.insert(Client::new(attachment, wake, self.serial, now));
        self.turns.enter(&client.channel.tenant);
        client.metrics().opened.inc();
        client.metrics().connections.inc();
        if let Some(feed) = feed {
            let lane = client.lane;
            let view = feed.enter(lane, selector.as_ref());
            let slot = self.feed_slot(&feed, key);
            let seat = self.feeds[slot].seat(slot, key, lane, view);
            self.feeds[slot].waiting += 1;
            (self.clients[key].seat, self.clients[key].view) = (Some(seat), view);
        }
        self.greet(key);
        if let Some(spread) = self.draining {
            self.schedule_goodbye(key, spread);
        }
        self.on_ready(key);
    }

    fn feed_slot(&mut self, feed: &Arc<Feed>, client: usize) -> usize {
        if let Some((slot, _)) = self.feeds.iter().find(|(_, known)| Arc::ptr_eq(&known.feed, feed)) {
            return slot;
        }
        let entry = self.feeds.vacant_entry();
        let slot = entry.key();
        let walked = feed.range(View::ALL).1;
        let tenant = &self.clients[client].channel.tenant;
        entry.insert(ShardFeed::new(feed, tenant, FeedWatch::new(self.mailbox.clone(), slot, walked)));
        slot
    }

    /// Places a waiting client as soon as its feed can tell where, and tells it a gap.
    pub(super) fn place(&mut self, key: usize, greeted: bool) -> bool {
        let client = &mut self.clients[key];
        let (Some(seat), Standing::Waiting(start)) = (client.seat, &client.standing) else {
            return true;
        };
        let shard_feed = &mut self.feeds[seat.feed];
        let Some(placed) = shard_feed.feed.place(client.view, start) else { return false };
        shard_feed.waiting -= 1;
        shard_feed.groups[seat.group].start(&placed);
        if placed.beyond {
            client.beyond_until = Some(Instant::now() + BEYOND_PATIENCE);
        }
        client.standing = Standing::At { number: placed.number, skip: placed.skip };
        if let Some(reason) = placed.gap {
            let from = client.cursor.take();
            self.tell_gap(key, from.as_deref(), reason, greeted);
        }
        true
    }

    // --- a client's turn --------------------------------------------------------------------------

    /// A client's socket became ready, or it wants another turn.
    pub(super) fn on_ready(&mut self, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.rearm();
        client.full = false;
        self.receive(key);
        self.settle(key);
    }

    /// Writes all that can be written to a client now.
    pub(super) fn settle(&mut self, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let mut tally = Tally::default();
        let flow = client.flush(&mut tally);
        let feed = client.seat.map(|seat| self.feeds[seat.feed].feed.clone());
        match (flow, feed) {
            (Flow::Gone, _) => self.doomed.push(key),
            (Flow::Open, Some(feed)) if client.is_receiving() => {
                let view = client.view;
                self.advance(key, &feed, &mut tally, &mut Walk::alone(&feed, view));
            }
            (Flow::Open | Flow::Full, _) => {}
        }
        if let Some(client) = self.clients.get_mut(key) {
            tally.add_to(client.metrics());
            // Its answers were read: what it sent meanwhile is looked at now.
            if std::mem::take(&mut client.held) && client.is_flushed() {
                self.mailbox.again(key);
            }
        }
        self.finish_if_said(key);
    }

    fn on_tick(&mut self) {
        self.tick += 1;
        let now = Instant::now();
        let phase = self.tick % SWEEP_TICKS;
        for key in 0..self.clients.capacity() {
            let Some(client) = self.clients.get(key) else { continue };
            let urgent = client.goodbye.is_some() || client.closing.is_some();
            if urgent || key % SWEEP_TICKS == phase {
                self.sweep(key, now);
            }
        }
        self.forget_feeds();
    }

    fn sweep(&mut self, key: usize, now: Instant) {
        if self.clients[key].version != self.clients[key].channel.version() {
            self.judge(key);
        }
        self.check_deadlines(key, now);
        if self.clients[key].closing.is_none() {
            self.check_stalled(key, now);
            self.check_partial(key, now);
            self.check_beyond(key, now);
            self.keep_alive(key, now);
        }
    }

    fn check_beyond(&mut self, key: usize, now: Instant) {
        let client = &mut self.clients[key];
        let Some(seat) = client.seat else { return };
        let feed = self.feeds[seat.feed].feed.clone();
        let late = client.beyond_until.is_some_and(|until| now >= until);
        let Standing::At { number, skip } = &mut client.standing else { return };
        if skip.as_ref().is_none_or(|wanted| feed.has_reached(wanted)) {
            client.beyond_until = None;
        } else if late {
            client.beyond_until = None;
            *number = feed.range(client.view).0;
            *skip = None;
            let from = client.cursor.take();
            self.tell_gap(key, from.as_deref(), GapReason::Recreated, true);
            self.settle(key);
        }
    }

    // --- going ----------------------------------------------------------------------------------

    /// Drops the clients that are gone.
    fn bury(&mut self) {
        while let Some(key) = self.doomed.pop() {
            let Some(mut client) = self.clients.try_remove(key) else { continue };
            let mut tally = Tally::default();
            client.abandon_partial(&mut tally);
            if let Some(seat) = client.seat {
                let shard_feed = &mut self.feeds[seat.feed];
                match &client.standing {
                    Standing::At { number, skip } => {
                        let unread = shard_feed.feed.unread(client.view, *number, skip.as_deref());
                        tally.drop(DropReason::Closed, unread);
                    }
                    Standing::Waiting(_) => shard_feed.waiting -= 1,
                    Standing::Publisher => {}
                }
                if let Some(moved) = shard_feed.vacate(seat) {
                    self.clients[moved].seat = Some(seat);
                }
                shard_feed.feed.leave(client.lane, client.view);
                shard_feed.feed.release();
            }
            client.shut_down();
            let metrics = client.metrics();
            tally.add_to(metrics);
            metrics.connections.dec();
            let reason = client.closing.as_ref().map_or("gone", |closing| closing.reason);
            client.channel.metrics.closed(metrics, reason);
            let Channel { tenant, name, .. } = &*client.channel;
            self.turns.leave(tenant);
            tracing::debug!(api = %tenant.api, channel = %name, reason, "stream closed");
            drop(client);
            self.open.send_modify(|open| *open -= 1);
        }
    }

    fn forget_feeds(&mut self) {
        let idle: Vec<usize> =
            self.feeds.iter().filter(|(_, feed)| feed.groups.is_empty()).map(|(slot, _)| slot).collect();
        for slot in idle {
            let shard_feed = self.feeds.remove(slot);
            shard_feed.feed.unwatch(&shard_feed.watcher);
        }
    }
}

/// Resolves at `instant`; never if there is none.
async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Used by greetings: whether a start is one that a cursor can be made of.
pub(super) fn has_positions(start: &Start) -> bool {
    matches!(start, Start::At { .. })
}
