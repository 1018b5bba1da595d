//! Walks: a feed moved, and its clients are written what is due.

use std::sync::Arc;

use sluice_config::channel::SlowConsumer;
use tokio::time::Instant;

use super::turns::Turn;
use super::{Shard, ShardFeed};
use crate::encode::Lane;
use crate::engine::client::{Flow, Standing, Tally};
use crate::feed::ring::GapReason;
use crate::feed::{Batch, Feed, View, Watcher, wall_clock};
use crate::respond::Refusal;
use crate::telemetry::DropReason;

/// Different starting points that one walk keeps encoded batches for.
const CACHED_BATCHES: usize = 8;
/// Batches one client may be written before others get their turn.
const TURN_BATCHES: usize = 8;

impl Shard {
    /// A feed moved: its clients are written to now, or a little later together with what follows.
    pub(super) fn on_moved(&mut self, slot: usize) {
        let Some(shard_feed) = self.feeds.get_mut(slot) else { return };
        shard_feed.watch.rearm();
        let wait = shard_feed.feed.may_wait(shard_feed.watch.walked());
        let due = shard_feed.written.map(|written| written + wait);
        let Some(due) = due.filter(|due| *due > Instant::now()) else { return self.walk(slot) };
        shard_feed.due = Some(due);
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }

    pub(super) fn walk_due(&mut self) {
        let now = Instant::now();
        let due = |feed: &ShardFeed| feed.due.is_some_and(|due| due <= now);
        let slots: Vec<usize> =
            self.feeds.iter().filter(|(_, feed)| due(feed)).map(|(slot, _)| slot).collect();
        self.give_turns(slots.into_iter().map(Turn::Due));
        self.next_due = self.feeds.iter().filter_map(|(_, feed)| feed.due).min();
    }

    /// Writes what is due to every client of a feed that can take it.
    pub(super) fn walk(&mut self, slot: usize) {
        let shard_feed = &mut self.feeds[slot];
        let (feed, begun) = (shard_feed.feed.clone(), Instant::now());
        shard_feed.written = Some(begun);
        shard_feed.due = None;
        if shard_feed.waiting > 0 {
            self.place_waiting(slot);
        }
        let (mut ranges, mut left_out) = (std::mem::take(&mut self.ranges), [0; 2]);
        ranges.clear();
        let groups = &self.feeds[slot].groups;
        let (views, mut keys) =
            (groups.iter().map(|(_, group)| group.view), groups.iter().map(|(key, _)| key));
        let next = feed.ranges(views, |range| ranges.extend(keys.next().map(|key| (key, range))));
        // Nobody comes or goes during a walk, not even while others have their turn in between.
        for (key, range) in ranges.iter().copied() {
            let group = &mut self.feeds[slot].groups[key];
            let due = group.walk(range.1, next);
            left_out[usize::from(group.lane.is_websocket())] += group.take_left_out();
            if due {
                self.walk_group(slot, key, &feed, range);
            }
        }
        self.ranges = ranges;
        self.count_left_out(slot, left_out);
        self.feeds[slot].watch.set_walked(next);
        self.feeds[slot].took = begun.elapsed();
        feed.walked();
    }

    /// Counts what selections left out, of SSE clients and of WebSocket clients.
    fn count_left_out(&self, slot: usize, counts: [u64; 2]) {
        let mut groups = self.feeds[slot].groups.iter();
        let Some((_, group)) = groups.next().filter(|_| counts != [0; 2]) else { return };
        let metrics = &self.clients[group.clients[0]].channel.metrics;
        for (count, metrics) in counts.into_iter().zip([&metrics.sse, &metrics.websocket]) {
            let mut tally = Tally::default();
            tally.leave_out(count);
            tally.add_to(metrics);
        }
    }

    fn place_waiting(&mut self, slot: usize) {
        let tenant = self.feeds[slot].tenant.clone();
        for key in self.feeds[slot].clients() {
            if matches!(self.clients[key].standing, Standing::Waiting(_))
                && self.clients[key].closing.is_none()
            {
                self.place(key, true);
                self.settle(key);
                self.pass(&tenant);
            }
        }
    }

    fn walk_group(&mut self, slot: usize, group: usize, feed: &Arc<Feed>, (oldest, end): (u64, u64)) {
        let Some(first) = self.feeds[slot].groups[group].clients.first().copied() else { return };
        let channel = self.clients[first].channel.clone();
        let (lane, view) = (self.clients[first].lane, self.clients[first].view);
        let batches = std::mem::take(&mut self.batches);
        let mut walk = Walk { view, oldest, end, now: Instant::now(), batches, used: 0 };
        let mut tally = Tally::default();
        for index in 0..self.feeds[slot].groups[group].clients.len() {
            self.pass(&channel.tenant);
            let key = self.feeds[slot].groups[group].clients[index];
            if self.clients[key].is_receiving() {
                self.advance(key, feed, &mut tally, &mut walk);
            }
        }
        let metrics = if lane.is_websocket() { &channel.metrics.websocket } else { &channel.metrics.sse };
        tally.add_to(metrics);
        let batches = &mut walk.batches[..walk.used];
        let newest = batches.iter().filter_map(|batch| batch.newest).max();
        if let Some(newest) = newest.filter(|_| tally.written() > 0) {
            let age = wall_clock().saturating_sub(newest).max(0);
            metrics.delivery_age.observe(age as f64 / 1000.0);
        }
        let clients = usize::try_from(tally.written()).unwrap_or(usize::MAX);
        for span in batches.iter_mut().flat_map(|batch| batch.spans.drain(..)) {
            span.written(clients);
        }
        self.batches = walk.batches;
    }

    /// Writes one client what is due to it.
    pub(super) fn advance(&mut self, key: usize, feed: &Arc<Feed>, tally: &mut Tally, walk: &mut Walk) {
        for _ in 0..TURN_BATCHES {
            let client = &mut self.clients[key];
            if !client.is_flushed() {
                match client.flush(tally) {
                    Flow::Open => {}
                    Flow::Full => return,
                    Flow::Gone => return self.doomed.push(key),
                }
            }
            let Standing::At { number, skip } = &client.standing else { return };
            if *number < walk.oldest {
                self.advance_lost(key, feed, tally);
                if !self.clients[key].is_receiving() {
                    return;
                }
                continue;
            }
            let (lane, from, now) = (client.lane, *number, walk.now);
            let batch = match walk.batch(feed, lane, from, skip.as_deref()) {
                Some(batch) => batch,
                None => {
                    feed.collect(lane, walk.view, from, skip.as_deref(), &mut self.spare);
                    &mut self.spare
                }
            };
            if batch.to == from && batch.stop.is_none() {
                return;
            }
            let (to, stop) = (batch.to, batch.stop);
            let flow = client.write_batch(batch, tally, now);
            match flow {
                Flow::Gone => return self.doomed.push(key),
                Flow::Full => return,
                Flow::Open => {}
            }
            self.forget_skip(key, feed);
            let Standing::At { number, .. } = self.clients[key].standing else { return };
            if let Some(reason) = stop.filter(|_| number == to) {
                return self.close(key, &Refusal::Gap(reason));
            }
            // What came since the walk began has its own.
            if number >= walk.end {
                return;
            }
        }
        // Others first; the rest of what is due follows.
        self.mailbox.again(key);
    }

    fn forget_skip(&mut self, key: usize, feed: &Arc<Feed>) {
        let client = &mut self.clients[key];
        let view = client.view;
        if let Standing::At { number, skip } = &mut client.standing
            && skip.as_ref().is_some_and(|wanted| feed.is_past(view, *number, wanted))
        {
            *skip = None;
            client.beyond_until = None;
        }
    }

    /// A client that fell off the ring meets its channel's rule.
    pub(in crate::engine) fn advance_lost(&mut self, key: usize, feed: &Arc<Feed>, tally: &mut Tally) {
        let closes = self.closes_slow(key);
        let client = &mut self.clients[key];
        let Standing::At { number, .. } = &client.standing else { return };
        let Some(reason) = feed.lost(client.view, *number) else { return };
        let first = feed.range(client.view).0;
        // A new life begins behind a hole in the numbers that was never a message.
        let hole = u64::from(reason == GapReason::Recreated);
        let lost = first.saturating_sub(*number).saturating_sub(hole);
        let slow = reason == GapReason::Slow;
        tally.drop(if slow { DropReason::Slow } else { DropReason::Gap }, lost);
        if slow && closes {
            // Its last cursor is where it stopped reading, so that it is told the gap when it is back.
            self.close(key, &Refusal::Slow);
        }
        if let Standing::At { number, skip } = &mut self.clients[key].standing {
            *number = first;
            // What it brought as read stays read, unless it was of another life.
            if reason == GapReason::Recreated {
                *skip = None;
            }
        }
        if !(slow && closes) {
            self.tell_gap(key, None, reason, true);
        }
    }

    /// Whether the channel closes clients that fall behind.
    pub(in crate::engine) fn closes_slow(&self, key: usize) -> bool {
        let state = self.clients[key].channel.state();
        state
            .spec
            .subscribe
            .as_ref()
            .is_some_and(|subscribe| subscribe.slow_consumer == SlowConsumer::Disconnect)
    }
}

/// What clients of one group that get their turn together share.
pub(super) struct Walk {
    view: View,
    /// The view's oldest entry when the walk began: who stands before it lost something.
    oldest: u64,
    /// The view's end at that moment.
    end: u64,
    now: Instant,
    batches: Vec<Batch>,
    used: usize,
}

impl Walk {
    /// A turn of one client alone.
    pub(super) fn alone(feed: &Feed, view: View) -> Self {
        let (oldest, end) = feed.range(view);
        Self { view, oldest, end, now: Instant::now(), batches: Vec::new(), used: CACHED_BATCHES }
    }

    /// The batch from `from` on, collected once and then shared; `None` if it is nobody else's, or
    /// there are as many already as are kept.
    fn batch(&mut self, feed: &Feed, lane: Lane, from: u64, skip: Option<&[i64]>) -> Option<&mut Batch> {
        if skip.is_some() {
            return None;
        }
        let known = self.batches.iter().take(self.used).position(|batch| batch.from == from);
        if let Some(index) = known {
            return Some(&mut self.batches[index]);
        }
        if self.used == CACHED_BATCHES {
            return None;
        }
        if self.batches.len() == self.used {
            self.batches.push(Batch::default());
        }
        let index = self.used;
        self.used += 1;
        feed.collect(lane, self.view, from, None, &mut self.batches[index]);
        Some(&mut self.batches[index])
    }
}
