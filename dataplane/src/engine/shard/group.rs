//! A feed with clients on a shard, and its groups: clients of one lane and view, which are written
//! the same.

use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::encode::Lane;
use crate::engine::client::Seat;
use crate::engine::mailbox::FeedWatch;
use crate::feed::{Feed, Placed, View, Watcher};
use crate::tenant::Tenant;

/// A feed with clients on a shard.
pub(in crate::engine) struct ShardFeed {
    pub(in crate::engine) feed: Arc<Feed>,
    /// The API that it is of.
    pub(super) tenant: Arc<Tenant>,
    pub(super) watch: Arc<FeedWatch>,
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) groups: Slab<Group>,
    /// Clients that are not placed yet.
    pub(super) waiting: usize,
    /// When its clients were last written what was due.
    pub(super) written: Option<Instant>,
    /// When they are to be next, if something waits.
    pub(super) due: Option<Instant>,
    /// How long the last walk took.
    pub(super) took: Duration,
}

/// Clients of one lane and view.
pub(super) struct Group {
    pub(super) lane: Lane,
    pub(super) view: View,
    pub(super) clients: Vec<usize>,
    /// How far the view was when they were last given their turn, by its numbers and by the ring's.
    walked: u64,
    passed: u64,
    /// Messages that they were not written because their selection leaves them out, and that are
    /// not counted yet.
    left_out: i64,
}

impl ShardFeed {
    /// Nobody reads it here yet.
    pub(super) fn new(feed: &Arc<Feed>, tenant: &Arc<Tenant>, watch: FeedWatch) -> Self {
        let watch = Arc::new(watch);
        let watcher: Arc<dyn Watcher> = watch.clone();
        feed.watch(watcher.clone());
        let (feed, tenant, groups) = (feed.clone(), tenant.clone(), Slab::new());
        Self {
            feed,
            tenant,
            watch,
            watcher,
            groups,
            waiting: 0,
            written: None,
            due: None,
            took: Duration::ZERO,
        }
    }

    /// A client sits down with those that are written the same. `slot` is the feed's.
    pub(super) fn seat(&mut self, slot: usize, key: usize, lane: Lane, view: View) -> Seat {
        let same = |(_, group): &(usize, &Group)| group.lane == lane && group.view == view;
        let known = self.groups.iter().find(same).map(|(group, _)| group);
        let group = known.unwrap_or_else(|| {
            let mut range = (0, 0);
            let passed = self.feed.ranges(std::iter::once(view), |found| range = found);
            let clients = Vec::new();
            self.groups.insert(Group { lane, view, clients, walked: range.1, passed, left_out: 0 })
        });
        let clients = &mut self.groups[group].clients;
        clients.push(key);
        Seat { feed: slot, group, index: clients.len() - 1 }
    }

    /// The client in `seat` leaves; tells who sits there now.
    pub(super) fn vacate(&mut self, seat: Seat) -> Option<usize> {
        let clients = &mut self.groups[seat.group].clients;
        clients.swap_remove(seat.index);
        let moved = clients.get(seat.index).copied();
        if clients.is_empty() {
            self.groups.remove(seat.group);
        }
        moved
    }

    /// Keys of all clients.
    pub(super) fn clients(&self) -> Vec<usize> {
        self.groups.iter().flat_map(|(_, group)| &group.clients).copied().collect()
    }
}

impl Group {
    /// A client starts: what its selection leaves out from there to where the others are.
    pub(super) const fn start(&mut self, placed: &Placed) {
        let all = self.passed.cast_signed() - placed.seq.cast_signed();
        self.left_out += all - (self.walked.cast_signed() - placed.number.cast_signed());
    }

    /// The clients are about to be given their turn. Whether there is anything for them; what is not
    /// is counted.
    pub(super) fn walk(&mut self, next: u64, passed: u64) -> bool {
        let due = next != self.walked;
        let left_out = (passed - self.passed) - (next - self.walked);
        (self.walked, self.passed) = (next, passed);
        self.left_out += (left_out * self.clients.len() as u64).cast_signed();
        due
    }

    /// What was left out since this was asked last.
    pub(super) fn take_left_out(&mut self) -> u64 {
        u64::try_from(std::mem::take(&mut self.left_out)).unwrap_or(0)
    }
}
