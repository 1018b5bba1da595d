//! One client: its socket, its position, and what is half written. It writes; what to write and
//! when is the shard's.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::channel::{Channel, Connection, Hold};
use crate::encode::Lane;
use crate::engine::mailbox::ClientWake;
use crate::engine::{Attachment, Stream};
use crate::feed::ring::GapReason;
use crate::feed::{Batch, Feed, Start, View};
use crate::message::Outgoing;
use crate::policy::Principal;
use crate::respond::Refusal;
use crate::telemetry::{DropReason, TransportMetrics};
use crate::transport::websocket::inbound::Inbound;

/// Most bytes of answers and control frames that wait for a client.
const MAX_CONTROL_BYTES: usize = 256 << 10;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything was taken.
    Open,
    /// The socket is full; the client is woken when it is not.
    Full,
    /// The peer is gone.
    Gone,
}

/// Where a client stands.
pub enum Standing {
    /// It only publishes.
    Publisher,
    /// The window is not filled yet.
    Waiting(Box<Start>),
    /// In the ring.
    At {
        /// Number of the next entry, in its view.
        number: u64,
        /// See [`crate::feed::ring::Place::skip`].
        skip: Option<Box<[i64]>>,
    },
}

/// A client's place in its shard.
#[derive(Clone, Copy)]
pub struct Seat {
    /// Slot of its feed.
    pub feed: usize,
    /// Slot of the group in the feed.
    pub group: usize,
    /// Place in the group.
    pub index: usize,
}

/// How a client is going.
pub struct Closing {
    /// Why, for metrics.
    pub reason: &'static str,
    /// When it is dropped whatever it does.
    pub deadline: Instant,
    /// The goodbye is in `out`.
    pub said: bool,
}

/// The rest of a message's frame.
struct Partial {
    bytes: Bytes,
    payload: usize,
    gap: Option<GapReason>,
}

/// Counts of one walk, added to the metrics at its end.
#[derive(Default)]
pub struct Tally {
    due: u64,
    written: u64,
    bytes: u64,
    too_large: u64,
    slow: u64,
    closed: u64,
    gap: u64,
    filtered: u64,
}

impl Tally {
    /// `count` messages that a client will not get.
    pub const fn drop(&mut self, reason: DropReason, count: u64) {
        self.due += count;
        match reason {
            DropReason::Slow => self.slow += count,
            DropReason::Closed => self.closed += count,
            DropReason::TooLarge => self.too_large += count,
            DropReason::Gap => self.gap += count,
        }
    }

    /// `count` messages that clients' selections leave out.
    pub const fn leave_out(&mut self, count: u64) {
        self.due += count;
        self.filtered += count;
    }

    const fn write(&mut self, payload: usize, gap: Option<GapReason>) {
        match gap {
            None => {
                self.written += 1;
                self.bytes += payload as u64;
            }
            Some(GapReason::TooLarge) => self.too_large += 1,
            Some(_) => self.gap += 1,
        }
    }

    /// Messages written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Adds everything to `metrics`.
    pub fn add_to(&self, metrics: &TransportMetrics) {
        for (count, counter) in [
            (self.due, &metrics.due),
            (self.written, &metrics.written),
            (self.filtered, &metrics.filtered),
            (self.bytes, &metrics.bytes_out),
            (self.too_large, metrics.dropped(DropReason::TooLarge)),
            (self.slow, metrics.dropped(DropReason::Slow)),
            (self.closed, metrics.dropped(DropReason::Closed)),
            (self.gap, metrics.dropped(DropReason::Gap)),
        ] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }
}

/// A client of a shard.
pub struct Client {
    stream: Stream,
    wake: Arc<ClientWake>,
    waker: Waker,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    partial: Option<Partial>,
    /// Tells clients apart that had the same slot.
    pub serial: u64,
    /// Its channel.
    pub channel: Arc<Channel>,
    /// Who it is.
    pub principal: Principal,
    /// Limits name it so.
    pub name: Arc<str>,
    _connection: Connection,
    /// [`Channel::version`] under which it was last judged.
    pub version: u64,
    /// What it is written.
    pub lane: Lane,
    /// Where its shard finds it among those that read the same.
    pub seat: Option<Seat>,
    /// What it sees of its feed.
    pub view: View,
    /// Where it stands.
    pub standing: Standing,
    /// The cursor it brought.
    pub cursor: Option<Box<str>>,
    /// Unread bytes.
    pub inbound: Inbound,
    /// Time between pings or heartbeats.
    pub interval: Duration,
    /// When it was last pinged or written to.
    pub quiet_since: Instant,
    /// Pings without an answer.
    pub unanswered: u8,
    /// It asked for silence.
    pub paused: bool,
    /// Its socket is full.
    pub full: bool,
    /// Since when its socket takes nothing.
    pub full_since: Option<Instant>,
    /// Publishes without an answer.
    pub pending: usize,
    /// Takes its publishes in order; made with the first.
    pub publisher: Option<mpsc::Sender<(Option<String>, Outgoing)>>,
    /// Bytes it sent wait until its answers are read.
    pub held: bool,
    /// What it sends is thrown away: it broke the protocol and is being told.
    pub deaf: bool,
    /// Since when a message of its is unfinished.
    pub partial_since: Option<Instant>,
    /// The web origin that the channel's policy let in.
    pub origin: Option<Box<str>>,
    /// When a position ahead of the log is given up.
    pub beyond_until: Option<Instant>,
    /// When it is told to go.
    pub goodbye: Option<(Instant, Refusal)>,
    /// It is going.
    pub closing: Option<Closing>,
}

impl Client {
    /// Takes a client over.
    pub fn new(attachment: Attachment, wake: Arc<ClientWake>, serial: u64, now: Instant) -> Self {
        let waker = wake.waker();
        let mut inbound = Inbound::default();
        // What an event stream's client sends besides is not looked at.
        if attachment.lane.is_websocket() && !attachment.received.is_empty() {
            inbound.push(&attachment.received);
        }
        let standing = match attachment.reading {
            None => Standing::Publisher,
            Some((_, start)) => Standing::Waiting(Box::new(start)),
        };
        let mut client = Self {
            stream: attachment.stream,
            wake,
            waker,
            out: VecDeque::new(),
            out_bytes: 0,
            partial: None,
            serial,
            channel: attachment.channel,
            principal: attachment.principal,
            name: attachment.name,
            _connection: attachment.connection,
            version: attachment.version,
            lane: attachment.lane,
            seat: None,
            view: View::ALL,
            standing,
            cursor: attachment.cursor.map(Into::into),
            inbound,
            interval: attachment.interval,
            quiet_since: now,
            unanswered: 0,
            paused: false,
            full: false,
            full_since: None,
            pending: 0,
            publisher: None,
            held: false,
            deaf: false,
            partial_since: None,
            origin: attachment.origin,
            beyond_until: None,
            goodbye: None,
            closing: None,
        };
        client.say(attachment.head);
        client
    }

    /// Its transport's metrics.
    pub fn metrics(&self) -> &TransportMetrics {
        if self.lane.is_websocket() { &self.channel.metrics.websocket } else { &self.channel.metrics.sse }
    }

    /// The client gets its turn: a later change of its socket wakes it again.
    pub fn rearm(&self) {
        self.wake.rearm();
    }

    /// Queues bytes that are not a message; they go out between messages.
    pub fn say(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.out_bytes += bytes.len();
            self.out.push_back(bytes);
        }
    }

    /// Whether more answers wait than a client may leave unread.
    pub const fn is_overloaded(&self) -> bool {
        self.out_bytes > MAX_CONTROL_BYTES
    }

    /// Whether nothing waits to be written but messages.
    pub fn is_flushed(&self) -> bool {
        self.partial.is_none() && self.out.is_empty()
    }

    /// Whether messages may be written now.
    pub const fn is_receiving(&self) -> bool {
        !self.full && !self.paused && self.closing.is_none() && matches!(self.standing, Standing::At { .. })
    }

    /// What keeps its stream open.
    pub fn hold<'a>(&'a self, feed: Option<&'a Arc<Feed>>) -> Hold<'a> {
        Hold { principal: &self.principal, origin: self.origin.as_deref(), lane: self.lane, feed }
    }

    /// Whether it should have been told to go already, and only waits for answers.
    pub fn goodbye_is_due(&self) -> bool {
        self.goodbye.as_ref().is_some_and(|(at, _)| Instant::now() >= *at)
    }

    /// Writes what is half written and what waits.
    pub fn flush(&mut self, tally: &mut Tally) -> Flow {
        while let Some(mut partial) = self.partial.take() {
            match self.write(&partial.bytes) {
                Ok(count) if count == partial.bytes.len() => tally.write(partial.payload, partial.gap),
                Ok(count) => {
                    partial.bytes = partial.bytes.slice(count..);
                    self.partial = Some(partial);
                }
                Err(flow) => {
                    self.partial = Some(partial);
                    return flow;
                }
            }
        }
        while let Some(front) = self.out.pop_front() {
            match self.write(&front) {
                Ok(count) => {
                    self.out_bytes -= count;
                    if count < front.len() {
                        self.out.push_front(front.slice(count..));
                    }
                }
                Err(flow) => {
                    self.out.push_front(front);
                    return flow;
                }
            }
        }
        if self.out.capacity() > 0 {
            self.out = VecDeque::new();
        }
        self.flush_stream()
    }

    /// Writes a batch that starts where the client stands, which has nothing else to write.
    pub fn write_batch(&mut self, batch: &Batch, tally: &mut Tally, now: Instant) -> Flow {
        let Standing::At { number, .. } = &mut self.standing else { return Flow::Open };
        if batch.data.is_empty() {
            *number = batch.to;
            return Flow::Open;
        }
        let count = match self.write(&batch.data) {
            Ok(count) => count,
            Err(flow) => return flow,
        };
        if !self.lane.is_websocket() {
            // A message is a sign of life; only a pong is one of the peer's.
            self.quiet_since = now;
        }
        let messages_end = batch.frames.last().map_or(0, |frame| frame.end);
        let whole = if count >= messages_end {
            batch.frames.len()
        } else {
            batch.frames.partition_point(|frame| frame.end <= count)
        };
        for frame in &batch.frames[..whole] {
            tally.due += 1;
            tally.write(frame.payload, frame.gap);
        }
        let reached = if count >= messages_end {
            if let Some(tail) = &batch.tail {
                self.say(tail.slice(count - messages_end..));
            }
            batch.to
        } else {
            let start = if whole == 0 { 0 } else { batch.frames[whole - 1].end };
            let cut = &batch.frames[whole];
            if count > start {
                tally.due += 1;
                let rest = cut.bytes.slice(count - start..);
                self.partial = Some(Partial { bytes: rest, payload: cut.payload, gap: cut.gap });
                cut.number + 1
            } else {
                cut.number
            }
        };
        if let Standing::At { number, .. } = &mut self.standing {
            *number = reached;
        }
        self.flush(tally)
    }

    /// A frame that was begun and will not be finished.
    pub fn abandon_partial(&mut self, tally: &mut Tally) {
        if self.partial.take().is_some() {
            // It was counted as due when it was begun.
            tally.closed += 1;
        }
    }

    /// Reads what the client sent: how much, or what stopped it.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Flow> {
        let mut into = ReadBuf::new(buffer);
        let mut context = Context::from_waker(&self.waker);
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(&mut context, &mut into),
            Stream::Other(stream) => Pin::new(stream).poll_read(&mut context, &mut into),
        };
        match polled {
            Poll::Pending => Err(Flow::Open),
            Poll::Ready(Ok(())) if into.filled().is_empty() => Err(Flow::Gone),
            Poll::Ready(Ok(())) => Ok(into.filled().len()),
            Poll::Ready(Err(_)) => Err(Flow::Gone),
        }
    }

    /// Ends the stream's writing side.
    pub fn shut_down(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        // The socket is dropped next, whatever this says.
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(&mut context),
            Stream::Other(stream) => Pin::new(stream).poll_shutdown(&mut context),
        };
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Flow> {
        // Mostly the kernel takes everything; only if it does not is anybody to be woken.
        if let Stream::Tcp(stream) = &self.stream
            && !self.full
            && let Ok(count) = SockRef::from(stream).send(bytes)
            && count > 0
        {
            self.full_since = None;
            return Ok(count);
        }
        let mut context = Context::from_waker(&self.waker);
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(&mut context, bytes),
            Stream::Other(stream) => Pin::new(stream).poll_write(&mut context, bytes),
        };
        match polled {
            Poll::Ready(Ok(count)) if count > 0 => {
                self.full_since = None;
                Ok(count)
            }
            Poll::Ready(_) => Err(Flow::Gone),
            Poll::Pending => {
                self.full = true;
                Err(Flow::Full)
            }
        }
    }

    /// A kernel socket has nothing to flush; TLS has.
    fn flush_stream(&mut self) -> Flow {
        let Stream::Other(stream) = &mut self.stream else { return Flow::Open };
        let mut context = Context::from_waker(&self.waker);
        match Pin::new(stream).poll_flush(&mut context) {
            Poll::Ready(Ok(())) => Flow::Open,
            Poll::Ready(Err(_)) => Flow::Gone,
            Poll::Pending => {
                self.full = true;
                Flow::Full
            }
        }
    }
}
