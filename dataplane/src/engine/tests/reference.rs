//! What a client may see, worked out the naive way: from the list of what was published, the place
//! where it joined, and the window. It knows nothing of sequence numbers, lanes, batches or sockets.

use std::collections::BTreeSet;

use crate::engine::bed::{PARTITIONS, Positions, Seen};

/// What was published, and what of it was held.
pub struct History {
    /// Partition and offset of every number.
    published: Vec<(usize, i64)>,
    /// The place before every number, and behind the last one.
    before: Vec<Positions>,
    window: u64,
    /// The oldest number that is held.
    oldest: u64,
    /// Whether each message carries its cursor: now, and when each number was published.
    per_message: bool,
    carried: Vec<bool>,
    /// Every `oldest` that a client may have met: shards do not look within a burst.
    met: BTreeSet<u64>,
}

impl History {
    /// Nothing was published yet; `window` messages will be held.
    pub fn new(window: u64) -> Self {
        let before = vec![[0; PARTITIONS]];
        let (published, carried, met) = (Vec::new(), Vec::new(), BTreeSet::from([0]));
        Self { published, before, window, oldest: 0, per_message: true, carried, met }
    }

    /// The next number went to `partition`.
    pub fn publish(&mut self, partition: usize) {
        let mut place = self.heads();
        self.published.push((partition, place[partition]));
        self.carried.push(self.per_message);
        place[partition] += 1;
        self.before.push(place);
        self.oldest = self.oldest.max(self.next().saturating_sub(self.window));
    }

    /// Another window and place for cursors, from the next number on.
    pub const fn reload(&mut self, window: u64, per_message: bool) {
        (self.window, self.per_message) = (window, per_message);
    }

    /// The shard had its turn.
    pub fn look(&mut self) {
        self.met.insert(self.oldest);
    }

    /// The number to come.
    pub const fn next(&self) -> u64 {
        self.published.len() as u64
    }

    /// The place behind everything.
    pub fn heads(&self) -> Positions {
        self.before[self.published.len()]
    }

    /// The place before `number`.
    pub fn before(&self, number: u64) -> Positions {
        self.before[number as usize]
    }

    /// Whether a client that joined at `start` wants `number`.
    fn wants(&self, start: &Positions, number: u64) -> bool {
        let (partition, offset) = self.published[number as usize];
        offset >= start[partition]
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It fell off the ring.
    Slow,
    /// There was a gap that it cannot be told.
    Untold,
}

/// Which numbers a client gets: those that leave this rest.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// What is divided by.
    pub by: u64,
    /// What is left.
    pub rest: u64,
}

impl Selection {
    /// Everything.
    pub const ALL: Self = Self { by: 1, rest: 0 };

    /// Whether it has `number`.
    pub const fn has(self, number: u64) -> bool {
        number % self.by == self.rest
    }
}

/// One client, as it should be.
pub struct Reference {
    selection: Selection,
    /// Where it joined, or what a gap moved it to.
    start: Positions,
    /// `start` is not a place between two numbers: what lies behind may be no concern of the client's.
    pub is_ahead: bool,
    /// The first number that it was not past.
    at: u64,
    /// For one that is written everything at once and can be told cursors: what it met when it joined.
    at_once: Option<(u64, bool)>,
    /// What it needs next had left the window when it joined.
    pub expired: bool,
    /// It was told that it fell behind.
    pub fell_behind: bool,
    /// It ended.
    pub end: Option<End>,
}

impl Reference {
    /// A client joins at `start`.
    pub fn joined(history: &History, start: Positions, selection: Selection) -> Self {
        let expired = (0..history.oldest).any(|number| history.wants(&start, number));
        let is_ahead = !history.before.contains(&start);
        let (at, fell_behind) = (history.oldest, false);
        Self { selection, start, is_ahead, at, at_once: None, expired, fell_behind, end: None }
    }

    /// It is written everything at once, on a lane that has cursors: so it must see them as they
    /// were asked for at that moment.
    pub fn written_at_once(mut self, history: &History) -> Self {
        self.at_once = Some((history.next(), history.per_message));
        self
    }

    /// The number that it must see next, if it is published.
    pub fn due(&self, history: &History) -> Option<u64> {
        (self.at..history.next()).find(|number| self.gets(history, *number))
    }

    /// Whether what it needs next may have left the window.
    pub fn is_behind(&self, history: &History) -> bool {
        (self.at..history.oldest).any(|number| self.selection.has(number))
    }

    /// Whether it gets `number`.
    fn gets(&self, history: &History, number: u64) -> bool {
        self.selection.has(number) && history.wants(&self.start, number)
    }

    /// Numbers between which and `number` it gets nothing: who stands at one stands at all.
    fn same(&self, history: &History, number: u64) -> impl Iterator<Item = u64> + use<> {
        let next = (number..history.next()).find(|number| self.gets(history, *number));
        number..=next.unwrap_or_else(|| history.next())
    }

    /// It saw this; `read` tells what a cursor says.
    pub fn see(
        &mut self,
        history: &History,
        seen: &Seen,
        read: impl Fn(&str) -> Positions,
    ) -> Result<(), String> {
        if let Some(end) = self.end {
            return Err(format!("{seen:?} after its end, {end:?}"));
        }
        match seen {
            Seen::Ping | Seen::Ready => Ok(()),
            Seen::Message(number, cursor) => {
                let due = self.due(history);
                if due != Some(*number) || self.expired {
                    return Err(format!("{number} where {due:?} was due, a gap before it: {}", self.expired));
                }
                self.at = number + 1;
                self.check_cursor(history, *number, cursor.as_deref().map(read))
            }
            Seen::Position(cursor) => self.check_place(history, &read(cursor)),
            Seen::Gap(reason, to) if self.expired && reason == "expired" => {
                self.expired = false;
                self.check_place(history, &read(to))
            }
            Seen::Gap(reason, to) if reason == "slow" => self.fall_behind(history, read(to)),
            Seen::Gap(reason, _) => Err(format!("a gap that is none: {reason}")),
            Seen::Close(4408) => self.end(End::Slow),
            Seen::Close(4409) => self.end(End::Untold),
            Seen::Goodbye(reason) if reason == "slow" => self.end(End::Slow),
            Seen::Close(_) | Seen::Goodbye(_) => Err(format!("an end without a reason: {seen:?}")),
        }
    }

    /// A message's own cursor is the same for all clients of the lane, whatever they are past already.
    fn check_cursor(&self, history: &History, number: u64, told: Option<Positions>) -> Result<(), String> {
        let there = history.before(number + 1);
        if told.is_some_and(|told| told != there) {
            return Err(format!("the cursor {told:?} on {number}, behind which is {there:?}"));
        }
        let Some((joined, carried)) = self.at_once else { return Ok(()) };
        let carried = if number < joined { carried } else { history.carried[number as usize] };
        if carried == told.is_some() { Ok(()) } else { Err(format!("the cursor {told:?} on {number}")) }
    }

    /// Who resumes at `place` gets what it would have got here, and nothing twice that it had here.
    fn check_place(&self, history: &History, place: &Positions) -> Result<(), String> {
        let right = self.same(history, self.at).any(|number| {
            let there = history.before(number);
            (0..PARTITIONS).all(|partition| {
                let expected = there[partition].max(self.start[partition]);
                // A write's cursor is shared with those who are not ahead.
                let shared = self.is_ahead && there[partition] <= self.start[partition];
                place[partition] == expected || shared && place[partition] < expected
            })
        });
        if right {
            return Ok(());
        }
        let there = history.before(self.at);
        Err(format!("the cursor {place:?} at {}, where {there:?} is, started at {:?}", self.at, self.start))
    }

    /// A gap moves it to the oldest number that was held when it was told; what it was past stays so.
    fn fall_behind(&mut self, history: &History, to: Positions) -> Result<(), String> {
        let place = |oldest| {
            let there = history.before(oldest);
            std::array::from_fn::<_, PARTITIONS, _>(|partition| there[partition].max(self.start[partition]))
        };
        let told = |oldest: u64| self.same(history, oldest).any(|number| place(number) == to);
        let oldest = history.met.iter().find(|oldest| **oldest > self.at && told(**oldest));
        let Some(oldest) = oldest else { return Err(format!("a gap to {to:?} at {}", self.at)) };
        (self.is_ahead, self.at) = (!history.before.contains(&to), *oldest);
        (self.start, self.expired, self.fell_behind) = (to, false, true);
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<(), String> {
        self.end = Some(end);
        Ok(())
    }
}
