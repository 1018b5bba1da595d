//! The encodings of one lane near the head of the ring, and the batches that shards write.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::encode::Lane;
use crate::feed::ring::{Body, Entry, GapReason, Ring};
use crate::feed::{BATCH_FRAMES, Settings};
use crate::message::{Incarnation, Position};
use crate::telemetry::trace::PushSpan;

/// Encodings a lane keeps: the newest, which most clients are about to be written. Older ones are
/// made again for who needs them.
const ENCODED_FRAMES: usize = 2 * BATCH_FRAMES;
const ENCODED_BYTES: usize = 4 << 20;

/// What is due to clients of one lane and view from one number on.
#[derive(Default)]
pub struct Batch {
    /// Number of the first entry, in the clients' view.
    pub from: u64,
    /// Number after the last.
    pub to: u64,
    /// The frames, one after the other.
    pub data: Vec<u8>,
    /// Where each frame ends in `data`, and what it is.
    pub frames: Vec<Frame>,
    /// A cursor that follows the frames in `data` (`cursor: perWrite`).
    pub tail: Option<Bytes>,
    /// Spans of sampled messages.
    pub spans: Vec<PushSpan>,
    /// A gap at `to` that this lane cannot tell: the client is closed there.
    pub stop: Option<GapReason>,
    /// Event time of the newest message.
    pub newest: Option<i64>,
}

/// One frame of a [`Batch`].
pub struct Frame {
    /// Its number in the clients' view.
    pub number: u64,
    /// Where it ends in [`Batch::data`].
    pub end: usize,
    /// Payload bytes in it.
    pub payload: usize,
    /// It tells a gap.
    pub gap: Option<GapReason>,
    /// Its bytes, shared with the lane.
    pub bytes: Bytes,
}

/// The encodings of one lane, parallel to the ring.
pub(super) struct LaneState {
    pub(super) users: usize,
    start: u64,
    frames: VecDeque<Option<Bytes>>,
    bytes: usize,
    /// Positions before the entry at `cursor_seq`: encoding mostly goes forward.
    cursor_seq: u64,
    positions: Vec<i64>,
}

impl LaneState {
    pub(super) const fn new() -> Self {
        Self {
            users: 0,
            start: 0,
            frames: VecDeque::new(),
            bytes: 0,
            cursor_seq: u64::MAX,
            positions: Vec::new(),
        }
    }

    /// The bytes at `seq`, made now if nobody needed them before.
    pub(super) fn frame(
        &mut self,
        lane: Lane,
        seq: u64,
        entry: &Entry,
        ring: &Ring,
        incarnation: &Incarnation,
        settings: &Settings,
    ) -> Option<Bytes> {
        self.trim(ring);
        let index = seq.checked_sub(self.start).and_then(|index| usize::try_from(index).ok());
        if let Some(Some(bytes)) = index.and_then(|index| self.frames.get(index)) {
            return Some(bytes.clone());
        }
        if self.cursor_seq != seq {
            self.positions = ring.positions_at(seq);
        }
        let before = std::mem::take(&mut self.positions);
        let mut after = before.clone();
        after.resize(ring.head().len(), 0);
        after[entry.partition as usize] = entry.next;
        let cursor = settings.cursors.encode(incarnation, &after);
        let bytes = match &entry.body {
            Body::Message(record) => {
                let position = Position { partition: record.partition, offset: record.offset };
                let id = incarnation.message_id(position);
                Some(settings.encoder.message(lane, &id, record, cursor.as_deref()))
            }
            Body::Gap(reason) => {
                let from = settings.cursors.encode(incarnation, &before);
                settings.encoder.gap(lane, from.as_deref(), cursor.as_deref(), *reason)
            }
        };
        self.positions = after;
        self.cursor_seq = seq + 1;
        if let (Some(index), Some(bytes)) = (index, &bytes) {
            if self.frames.len() <= index {
                self.frames.resize(index + 1, None);
            }
            self.bytes += bytes.len();
            self.frames[index] = Some(bytes.clone());
        }
        bytes
    }

    /// Lets go of what left the ring, and of what is far behind its head.
    fn trim(&mut self, ring: &Ring) {
        let oldest = ring.first().max(ring.next().saturating_sub(ENCODED_FRAMES as u64));
        while self.start < oldest || self.bytes > ENCODED_BYTES {
            match self.frames.pop_front() {
                Some(frame) => {
                    self.bytes -= frame.map_or(0, |bytes| bytes.len());
                    self.start += 1;
                }
                None => {
                    self.start = oldest;
                    break;
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

impl Batch {
    pub(super) fn clear(&mut self, from: u64) {
        self.from = from;
        self.to = from;
        self.data.clear();
        self.frames.clear();
        self.tail = None;
        self.spans.clear();
        self.stop = None;
        self.newest = None;
    }

    pub(super) fn push(&mut self, number: u64, entry: &Entry, bytes: Bytes) {
        self.data.extend_from_slice(&bytes);
        let (payload, gap) = match &entry.body {
            Body::Message(record) => {
                self.newest = record.timestamp.or(self.newest);
                (record.payload.as_ref().map_or(0, Bytes::len), None)
            }
            Body::Gap(reason) => (0, Some(*reason)),
        };
        self.frames.push(Frame { number, end: self.data.len(), payload, gap, bytes });
    }
}
