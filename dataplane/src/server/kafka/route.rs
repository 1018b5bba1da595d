//! One topic that is being read: its partitions, where they stand, and the readers that share them.
//! Lives on the polling thread.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::answer::TopicState;
use super::event::Fetched;
use super::lookup::{Join, Mend, Ties};
use super::native::{Handle, Topic};
use crate::message::{Headers, Position, Record};
use crate::server::Inlet;

/// Header names kept so that records share them; beyond, names are allocated.
const NAMES: usize = 1024;

/// A topic in one of its lives.
pub struct Route {
    topic: Topic,
    id: [u8; 16],
    partitions: Vec<Cursor>,
    readers: Vec<Reader>,
    /// Read, and not yet pushed.
    pending: Vec<Record>,
    /// The largest limit of any reader.
    limit: usize,
    suspended: bool,
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Not started.
    Idle,
    /// The next offset.
    Reading(i64),
    /// Cannot be read on at this offset; somebody is finding out why.
    Halted(i64),
}

struct Reader {
    number: u64,
    inlet: Inlet,
    ties: Arc<Ties>,
}

impl Route {
    /// Nothing is read before the first reader.
    pub const fn new(topic: Topic, id: [u8; 16]) -> Self {
        Self {
            topic,
            id,
            partitions: Vec::new(),
            readers: Vec::new(),
            pending: Vec::new(),
            limit: 0,
            suspended: false,
        }
    }

    /// What its records carry.
    pub fn key(&self) -> usize {
        self.topic.key()
    }

    /// The life of the topic.
    pub const fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Adds a reader. What others have read already is read again if it starts lower.
    pub fn join(&mut self, join: Join, handle: &Handle) {
        let Join { state, reader, inlet, opening, wipe, ties, .. } = join;
        let starts = opening.starts.clone();
        if let Some(wipe) = wipe {
            inlet.open(wipe);
        }
        inlet.open(opening);
        self.observe(state, handle);
        if self.partitions.len() > starts.len() {
            inlet.grow(self.partitions.len());
        }
        self.readers.push(Reader { number: reader, inlet, ties });
        self.refresh_limit();
        for partition in 0..self.partitions.len() {
            let start = starts.get(partition).copied().unwrap_or(0);
            match self.partitions[partition] {
                Cursor::Idle => self.start(partition, start, handle),
                Cursor::Reading(next) if start < next => {
                    self.topic.stop(partition as u32);
                    self.start(partition, start, handle);
                }
                Cursor::Reading(_) | Cursor::Halted(_) => {}
            }
        }
    }

    /// Removes a reader; `true` if it was the last.
    pub fn leave(&mut self, number: u64) -> bool {
        self.readers.retain(|reader| reader.number != number);
        self.refresh_limit();
        self.readers.is_empty()
    }

    /// Takes note of the topic as described now: partitions that were added are read from their
    /// beginning, and reading goes on if the topic had seemed gone.
    pub fn observe(&mut self, state: TopicState, handle: &Handle) {
        if std::mem::take(&mut self.suspended) {
            for partition in 0..self.partitions.len() {
                if let Cursor::Reading(next) = self.partitions[partition] {
                    self.start(partition, next, handle);
                }
            }
        }
        let (before, now) = (self.partitions.len(), state.partitions as usize);
        if now <= before {
            return;
        }
        self.flush();
        self.partitions.resize(now, Cursor::Idle);
        for reader in &self.readers {
            reader.inlet.grow(now);
        }
        // Without readers this is the first to join, and it knows where to start.
        for partition in before..now {
            if !self.readers.is_empty() {
                self.start(partition, 0, handle);
            }
        }
    }

    /// The topic seems gone: nothing more is read until it is seen again. Without this the next
    /// topic of the name would be read on at the positions of this one.
    pub fn suspend(&mut self) {
        self.flush();
        if !std::mem::replace(&mut self.suspended, true) {
            self.stop_all();
        }
    }

    /// Ends the route; every reader has to start again.
    pub fn abandon(mut self, rewound: bool) {
        self.flush();
        self.stop_all();
        for reader in &self.readers {
            reader.ties.start_again(rewound);
        }
    }

    /// Stops every partition that is read.
    pub fn stop_all(&self) {
        for (partition, cursor) in self.partitions.iter().enumerate() {
            if matches!(cursor, Cursor::Reading(_)) {
                self.topic.stop(partition as u32);
            }
        }
    }

    /// Takes a record.
    pub fn record(&mut self, fetched: &Fetched, names: &mut Names) {
        let (partition, offset) = (fetched.partition(), fetched.offset());
        let Some(cursor @ Cursor::Reading(_)) = self.partitions.get_mut(partition as usize) else { return };
        *cursor = Cursor::Reading(offset + 1);
        if let Some(record) = names.record(fetched, self.limit) {
            self.pending.push(record);
        } else {
            self.flush();
            for reader in &self.readers {
                reader.inlet.skip(Position { partition, offset });
            }
        }
    }

    /// The end of a partition was reached at `position`.
    pub fn reached(&mut self, partition: u32, position: i64) {
        let Some(cursor @ Cursor::Reading(_)) = self.partitions.get_mut(partition as usize) else { return };
        *cursor = Cursor::Reading(position);
        self.flush();
        for reader in &self.readers {
            reader.inlet.reached(partition, position);
        }
    }

    /// A partition cannot be read on; gives where it stood, unless that is known already.
    pub fn halt(&mut self, partition: u32) -> Option<i64> {
        self.flush();
        let cursor = self.partitions.get_mut(partition as usize)?;
        let Cursor::Reading(position) = *cursor else { return None };
        *cursor = Cursor::Halted(position);
        self.topic.stop(partition);
        Some(position)
    }

    /// A halted partition goes on.
    pub fn mend(&mut self, partition: u32, mend: Mend, handle: &Handle) {
        if !matches!(self.partitions.get(partition as usize), Some(Cursor::Halted(_))) {
            return;
        }
        let start = match mend {
            Mend::Resume(position) => position,
            Mend::Truncated(low) => {
                for reader in &self.readers {
                    reader.inlet.truncated(partition, low);
                }
                low
            }
            Mend::Rewound => return,
        };
        self.start(partition as usize, start, handle);
    }

    /// Hands what was read to the readers.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Some((last, others)) = self.readers.split_last() {
            for reader in others {
                push(&reader.inlet, &mut self.pending.clone());
            }
            push(&last.inlet, &mut self.pending);
        }
        self.pending.clear();
        self.refresh_limit();
    }

    /// Tells the readers how much of `topic` there is to read.
    pub fn tell_lag(&self, topic: &CStr, handle: &Handle) {
        let behind = |(partition, cursor): (usize, &Cursor)| match cursor {
            Cursor::Reading(position) | Cursor::Halted(position) => {
                let end = handle.end(topic, partition as u32)?;
                u64::try_from(end - position).ok()
            }
            Cursor::Idle => None,
        };
        let lag = self.partitions.iter().enumerate().filter_map(behind).sum();
        for reader in &self.readers {
            reader.inlet.lag(lag);
        }
    }

    fn start(&mut self, partition: usize, offset: i64, handle: &Handle) {
        self.partitions[partition] = Cursor::Reading(offset);
        if !self.suspended && !self.topic.start(partition as u32, offset, handle) {
            tracing::error!(partition, offset, "librdkafka refuses to read");
        }
    }

    fn refresh_limit(&mut self) {
        let limits = self.readers.iter().map(|reader| reader.inlet.max_message_bytes());
        self.limit = limits.max().unwrap_or(0);
    }
}

/// Pushes `records`, leaving out those over the inlet's limit.
fn push(inlet: &Inlet, records: &mut Vec<Record>) {
    let limit = inlet.max_message_bytes();
    if records.iter().all(|record| weight(record) <= limit) {
        inlet.push(records);
        return;
    }
    let mut within = Vec::new();
    for record in records.drain(..) {
        if weight(&record) <= limit {
            within.push(record);
            continue;
        }
        if !within.is_empty() {
            inlet.push(&mut within);
        }
        inlet.skip(Position { partition: record.partition, offset: record.offset });
    }
    if !within.is_empty() {
        inlet.push(&mut within);
    }
}

/// What is held against the limit: the payload, or key and headers if they are larger.
fn weight(record: &Record) -> usize {
    let key = record.key.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.payload.as_ref().map_or(0, Bytes::len).max(key + headers)
}

/// Header names seen, so that records share them.
#[derive(Default)]
pub struct Names(HashMap<Box<[u8]>, Arc<str>>);

impl Names {
    fn share(&mut self, name: &[u8]) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let shared: Arc<str> = String::from_utf8_lossy(name).into();
        if self.0.len() < NAMES {
            self.0.insert(name.into(), shared.clone());
        }
        shared
    }

    /// Copies a record out of librdkafka's memory, in one allocation for all its bytes; `None` if
    /// it weighs more than `limit`.
    fn record(&mut self, fetched: &Fetched, limit: usize) -> Option<Record> {
        let (payload, key) = (fetched.payload(), fetched.key());
        let (mut names, mut values) = (0, 0);
        for (name, value) in fetched.headers() {
            names += name.len();
            values += value.len();
        }
        let (payload_size, key_size) = (payload.map_or(0, <[u8]>::len), key.map_or(0, <[u8]>::len));
        if payload_size.max(key_size + names + values) > limit {
            return None;
        }
        let mut all = BytesMut::with_capacity(payload_size + key_size + values);
        for part in [payload, key].into_iter().flatten() {
            all.extend_from_slice(part);
        }
        fetched.headers().for_each(|(_, value)| all.extend_from_slice(value));
        let mut all = all.freeze();
        let payload = payload.map(|payload| all.split_to(payload.len()));
        let key = key.map(|key| all.split_to(key.len()));
        let headers: Headers =
            fetched.headers().map(|(name, value)| (self.share(name), all.split_to(value.len()))).collect();
        Some(Record {
            partition: fetched.partition(),
            offset: fetched.offset(),
            timestamp: fetched.timestamp(),
            key,
            headers,
            payload,
        })
    }
}
