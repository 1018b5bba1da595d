//! Selections: which of a feed's messages a client gets. A selection is worked out once per message,
//! however many clients share it, and held as the sequence numbers of what is in it.
//!
//! What is in a selection has numbers of its own, without holes: to its clients it is a ring in
//! which the rest does not exist.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::feed::ring::{Body, Entry, GapReason, Ring};
use crate::message::Record;

/// Says which messages are in a selection.
pub type Predicate = dyn Fn(&Record) -> bool + Send + Sync;

/// What a client wants to be selected. Selectors of one name select the same, so that their clients
/// share what is worked out.
#[derive(Clone)]
pub struct Selector {
    name: Arc<str>,
    predicate: Arc<Predicate>,
}

impl Selector {
    /// Selects what `predicate` is true for.
    pub fn new(name: &str, predicate: impl Fn(&Record) -> bool + Send + Sync + 'static) -> Self {
        Self { name: name.into(), predicate: Arc::new(predicate) }
    }

    /// Whether `record` is in the selection.
    pub fn selects(&self, record: &Record) -> bool {
        (self.predicate)(record)
    }
}

/// What a client sees of a feed: everything, or a selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View(Option<usize>);

impl View {
    /// Everything.
    pub const ALL: Self = Self(None);
}

/// The selections of a feed that have clients.
#[derive(Default)]
pub(super) struct Selections(Slab<Selection>);

struct Selection {
    selector: Selector,
    users: usize,
    /// Number of the oldest.
    first: u64,
    /// Number of the first since the ring's life began.
    life: u64,
    /// Their sequence numbers in the ring.
    held: VecDeque<u64>,
}

impl Selection {
    /// Where everybody misses something, so does everybody who selects.
    fn take(&mut self, seq: u64, entry: &Entry) {
        let selected = match &entry.body {
            Body::Message(record) => self.selector.selects(record),
            Body::Gap(_) => true,
        };
        if selected {
            self.held.push_back(seq);
        }
    }

    /// Lets go of what left the ring.
    fn trim(&mut self, oldest: u64) {
        while self.held.pop_front_if(|seq| *seq < oldest).is_some() {
            self.first += 1;
        }
    }

    fn next(&self) -> u64 {
        self.first + self.held.len() as u64
    }
}

impl Selections {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A client came.
    pub(super) fn enter(&mut self, selector: &Selector, ring: &Ring) -> View {
        let known = self.0.iter_mut().find(|(_, known)| known.selector.name == selector.name);
        if let Some((key, selection)) = known {
            selection.users += 1;
            return View(Some(key));
        }
        let (selector, held) = (selector.clone(), VecDeque::new());
        let mut selection = Selection { selector, users: 1, first: 0, life: 0, held };
        for (seq, entry) in (ring.first()..).zip(ring.entries()) {
            selection.take(seq, entry);
        }
        View(Some(self.0.insert(selection)))
    }

    /// A client went; the last one takes its selection along.
    pub(super) fn leave(&mut self, view: View) {
        let Some(key) = view.0 else { return };
        let Some(selection) = self.0.get_mut(key) else { return };
        selection.users -= 1;
        if selection.users == 0 {
            self.0.remove(key);
        }
    }

    /// The ring took an entry.
    pub(super) fn take(&mut self, seq: u64, entry: &Entry, oldest: u64) {
        for (_, selection) in &mut self.0 {
            selection.take(seq, entry);
            selection.trim(oldest);
        }
    }

    /// The ring began a new life. A hole in the numbers tells clients that had read everything.
    pub(super) fn restart(&mut self) {
        for (_, selection) in &mut self.0 {
            selection.first = selection.next() + 1;
            selection.life = selection.first;
            selection.held.clear();
        }
    }

    /// `ring` as it is seen in `view`.
    pub(super) fn seen<'a>(&'a mut self, view: View, ring: &'a Ring) -> Seen<'a> {
        let selection = view.0.and_then(|key| self.0.get_mut(key));
        let selection = selection.map(|selection| {
            selection.trim(ring.first());
            &*selection
        });
        Seen { ring, selection }
    }
}

/// A ring as a client sees it, by the numbers of its view.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    ring: &'a Ring,
    selection: Option<&'a Selection>,
}

impl<'a> Seen<'a> {
    /// The whole ring.
    pub(super) const fn ring(self) -> &'a Ring {
        self.ring
    }

    /// Number of the oldest entry.
    pub(super) fn first(self) -> u64 {
        self.selection.map_or_else(|| self.ring.first(), |selection| selection.first)
    }

    /// Number of the next entry to come.
    pub(super) fn next(self) -> u64 {
        self.selection.map_or_else(|| self.ring.next(), Selection::next)
    }

    /// The entry numbered `number`, and its place in the ring.
    pub(super) fn entry(self, number: u64) -> Option<(u64, &'a Entry)> {
        let seq = match self.selection {
            None => number,
            Some(selection) => {
                *selection.held.get(usize::try_from(number.checked_sub(selection.first)?).ok()?)?
            }
        };
        Some((seq, self.ring.entry(seq)?))
    }

    /// The place in the ring of who stands at `number`: everything before it is past.
    pub(super) fn seq(self, number: u64) -> u64 {
        let Some(selection) = self.selection else { return number };
        let held = number.checked_sub(selection.first).and_then(|index| usize::try_from(index).ok());
        let held = held.and_then(|index| selection.held.get(index).copied());
        held.unwrap_or(if number < selection.first { self.ring.first() } else { self.ring.next() })
    }

    /// The number of the first entry at or behind `seq`.
    pub(super) fn number(self, seq: u64) -> u64 {
        let Some(selection) = self.selection else { return seq };
        selection.first + selection.held.partition_point(|held| *held < seq) as u64
    }

    /// Why somebody at `number` misses something.
    pub(super) fn lost(self, number: u64) -> Option<GapReason> {
        match self.selection {
            None => self.ring.lost(number),
            Some(selection) if number >= selection.first => None,
            Some(selection) if number < selection.life => Some(GapReason::Recreated),
            Some(_) => Some(GapReason::Slow),
        }
    }
}
