//! How a stream begins and ends: greetings, gaps, heartbeats, and every way of saying goodbye.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::encode::Encoder;
use crate::engine::client::{Client, Closing, Standing, Tally};
use crate::engine::shard::{Shard, has_positions};
use crate::feed::ring::GapReason;
use crate::respond::{Refusal, jitter};
use crate::transport::sse;
use crate::transport::websocket::frame::{self, Opcode};

/// How long a client may take to read its goodbye.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a WebSocket's close is left unanswered before the socket is dropped.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a socket may take nothing at all.
const STALL_PATIENCE: Duration = Duration::from_secs(60);
/// How long one message may take to arrive.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long publishes under way hold up a goodbye.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(15);
/// Pings that may go unanswered.
const MAX_UNANSWERED: u8 = 2;
/// Clients are looked at twice a second: rather a little early than half a second late.
const SLACK: Duration = Duration::from_millis(250);
/// `retry:` of a stream that opens.
const RETRY: Duration = Duration::from_secs(1);

impl Shard {
    /// Says the first words: where the client stands, or what it missed.
    pub(super) fn greet(&mut self, key: usize) {
        let client = &mut self.clients[key];
        if !client.lane.is_websocket() {
            client.say(sse::retry(milliseconds(jitter(RETRY))).into());
        }
        let encoder = client.channel.state().encoder.clone();
        let Some(seat) = client.seat else {
            let fields = serde_json::json!({"resumable": false});
            return say_control(client, &encoder, "ready", None, fields);
        };
        let feed = self.feeds[seat.feed].feed.clone();
        let known = match &client.standing {
            Standing::Waiting(start) if has_positions(start) => feed.cursor_of(start),
            _ => None,
        };
        let cursor = known.or_else(|| client.cursor.as_deref().map(str::to_owned));
        let gap_next = matches!(&client.standing, Standing::Waiting(start)
            if feed.place(client.view, start).is_some_and(|placed| placed.gap.is_some()));
        if gap_next {
            if client.lane.is_websocket() {
                say_control(client, &encoder, "ready", None, serde_json::json!({"resumable": true}));
            }
        } else if client.lane.is_websocket() {
            let mut fields = serde_json::json!({"resumable": cursor.is_some()});
            if let Some(cursor) = &cursor {
                fields["cursor"] = cursor.as_str().into();
            }
            say_control(client, &encoder, "ready", cursor.as_deref(), fields);
        } else if let Some(cursor) = &cursor {
            client.say(sse::id_only(cursor));
        }
        self.place(key, false);
    }

    /// Tells a client what it missed; one that cannot be told is closed.
    pub(super) fn tell_gap(&mut self, key: usize, from: Option<&str>, reason: GapReason, _greeted: bool) {
        let client = &mut self.clients[key];
        let (Some(seat), Standing::At { number, skip }) = (client.seat, &client.standing) else { return };
        let feed = &self.feeds[seat.feed].feed;
        let to = feed.cursor_at(client.view, *number, skip.as_deref());
        // A cursor that cannot be read says nothing to the client either.
        let from = from.filter(|_| reason != GapReason::UnknownCursor);
        match feed.encoder().gap(client.lane, from, to.as_deref(), reason) {
            Some(bytes) => client.say(bytes),
            None => self.close(key, &Refusal::Gap(reason)),
        }
    }

    /// Judges an open stream after a reload.
    pub(super) fn judge(&mut self, key: usize) {
        let client = &mut self.clients[key];
        client.version = client.channel.version();
        let feed = client.seat.map(|seat| self.feeds[seat.feed].feed.clone());
        if let Err(refusal) = client.channel.state().reevaluate(&client.hold(feed.as_ref())) {
            self.close(key, &refusal);
            self.settle(key);
        }
    }

    /// Every client is told to go, at a moment of its own within `spread`.
    pub(super) fn on_drain(&mut self, spread: Duration) {
        self.draining = Some(spread);
        for key in self.keys() {
            self.schedule_goodbye(key, spread);
        }
    }

    pub(super) fn schedule_goodbye(&mut self, key: usize, spread: Duration) {
        let refusal = Refusal::Drain { retry_after: jitter(Duration::from_millis(100)) };
        self.clients[key].goodbye = Some((Instant::now() + spread.mul_f64(fastrand::f64()), refusal));
    }

    /// Starts the end of a stream: what is half written is finished, then the reason is told.
    pub(super) fn close(&mut self, key: usize, refusal: &Refusal) {
        let client = &mut self.clients[key];
        if client.closing.is_some() {
            return;
        }
        let cursor = match (&client.standing, client.seat) {
            (Standing::At { number, skip }, Some(seat)) => {
                self.feeds[seat.feed].feed.cursor_at(client.view, *number, skip.as_deref())
            }
            _ => client.cursor.as_deref().map(str::to_owned),
        };
        let encoder = client.channel.state().encoder.clone();
        for bytes in goodbye(client, &encoder, refusal, cursor.as_deref()) {
            client.say(bytes);
        }
        client.closing =
            Some(Closing { reason: refusal.name(), deadline: Instant::now() + GOODBYE_PATIENCE, said: true });
        // Whatever was under way when this was decided, the words get a turn.
        self.mailbox.again(key);
    }

    /// The client said goodbye itself: its publishes are answered first.
    pub(super) fn close_answer(&mut self, key: usize, code: Option<u16>) {
        let client = &mut self.clients[key];
        match &mut client.closing {
            // It answers our own close: that is the end.
            Some(closing) if closing.said => self.doomed.push(key),
            Some(_) => {}
            None => {
                let said = client.pending == 0;
                if said {
                    client.say(frame::close(code.unwrap_or(1000), ""));
                }
                let patience = if said { CLOSE_PATIENCE } else { PUBLISH_PATIENCE };
                client.closing =
                    Some(Closing { reason: "client", deadline: Instant::now() + patience, said });
            }
        }
    }

    /// The last answer went out: what waited for it goes on.
    pub(super) fn after_answers(&mut self, key: usize) {
        let client = &mut self.clients[key];
        if client.pending == 0
            && let Some(closing) = &mut client.closing
            && !closing.said
        {
            closing.said = true;
            closing.deadline = Instant::now() + CLOSE_PATIENCE;
            client.say(frame::close(1000, ""));
        }
    }

    /// A stream whose goodbye is written ends: SSE at once, a WebSocket once the peer answers.
    pub(super) fn finish_if_said(&mut self, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let flushed = client.is_flushed();
        let Some(closing) = &mut client.closing else { return };
        if closing.said && flushed {
            if client.lane.is_websocket() && closing.reason != "client" {
                let soon = Instant::now() + CLOSE_PATIENCE;
                closing.deadline = closing.deadline.min(soon);
            } else {
                self.doomed.push(key);
            }
        }
    }

    pub(super) fn check_deadlines(&mut self, key: usize, now: Instant) {
        let client = &mut self.clients[key];
        if client.closing.as_ref().is_some_and(|closing| now >= closing.deadline) {
            return self.doomed.push(key);
        }
        let due = client.goodbye.as_ref().is_some_and(|(at, _)| now >= *at);
        // Publishes under way are answered before their client goes; none are taken meanwhile.
        let answered = client.pending == 0
            || client.goodbye.as_ref().is_some_and(|(at, _)| now >= *at + PUBLISH_PATIENCE);
        if due
            && answered
            && let Some((_, refusal)) = client.goodbye.take()
        {
            self.close(key, &refusal);
            self.settle(key);
        }
    }

    /// A client whose socket takes nothing meets the slow-consumer rule too, once it is off the
    /// ring; under `dropOldest` it may stay so long, but not for ever.
    pub(super) fn check_stalled(&mut self, key: usize, now: Instant) {
        let client = &mut self.clients[key];
        if !client.full {
            client.full_since = None;
            return;
        }
        let since = *client.full_since.get_or_insert(now);
        let (Some(seat), Standing::At { number, .. }) = (client.seat, &client.standing) else {
            if now >= since + STALL_PATIENCE {
                self.close(key, &Refusal::Slow);
            }
            return;
        };
        let feed = self.feeds[seat.feed].feed.clone();
        if feed.lost(client.view, *number).is_some() && self.closes_slow(key) {
            let mut tally = Tally::default();
            self.advance_lost(key, &feed, &mut tally);
            tally.add_to(self.clients[key].metrics());
        } else if now >= since + STALL_PATIENCE {
            self.close(key, &Refusal::Slow);
        }
    }

    /// A message that a client takes too long to finish holds memory for nothing.
    pub(super) fn check_partial(&mut self, key: usize, now: Instant) {
        let client = &mut self.clients[key];
        if !client.inbound.is_partial() || client.held {
            client.partial_since = None;
        } else if now >= *client.partial_since.get_or_insert(now) + MESSAGE_PATIENCE {
            let seconds = MESSAGE_PATIENCE.as_secs();
            self.close(key, &Refusal::BadRequest(format!("a message took longer than {seconds} s")));
        }
    }

    /// Pings and heartbeats.
    pub(super) fn keep_alive(&mut self, key: usize, now: Instant) {
        let client = &mut self.clients[key];
        if now + SLACK < client.quiet_since + client.interval || client.full {
            return;
        }
        client.quiet_since = now;
        if client.lane.is_websocket() {
            if client.unanswered >= MAX_UNANSWERED {
                self.close(key, &Refusal::Silent);
            } else {
                client.unanswered += 1;
                client.say(frame::whole(Opcode::Ping, 0, |_| {}));
            }
        } else {
            let cursor = match (&client.standing, client.seat) {
                (Standing::At { number, skip }, Some(seat)) => {
                    self.feeds[seat.feed].feed.cursor_at(client.view, *number, skip.as_deref())
                }
                _ => client.cursor.as_deref().map(str::to_owned),
            };
            // Without a cursor a comment has to do as a sign of life.
            client.say(cursor.map_or_else(|| Bytes::from_static(b":\n\n"), |cursor| sse::id_only(&cursor)));
        }
        self.settle(key);
    }
}

fn say_control(
    client: &mut Client,
    encoder: &Encoder,
    kind: &str,
    cursor: Option<&str>,
    fields: serde_json::Value,
) {
    if let Some(bytes) = encoder.control(client.lane, kind, cursor, fields) {
        client.say(bytes);
    }
}

/// The last words of a stream, in the words of its transport.
fn goodbye(client: &Client, encoder: &Encoder, refusal: &Refusal, cursor: Option<&str>) -> Vec<Bytes> {
    let mut fields = refusal.fields();
    let mut words = Vec::new();
    if client.lane.is_websocket() {
        let drain = matches!(refusal, Refusal::Drain { .. } | Refusal::Changed);
        if drain && let Some(cursor) = cursor {
            fields["cursor"] = cursor.into();
        }
        let kind = if drain { "drain" } else { "error" };
        words.extend(encoder.control(client.lane, kind, cursor.filter(|_| drain), fields));
        words.push(frame::close(refusal.close_code(), &refusal.detail()));
    } else {
        if let Some(retry_after) = refusal.retry_after() {
            words.push(sse::retry(milliseconds(retry_after)).into());
        }
        if let Some(cursor) = cursor {
            fields["cursor"] = cursor.into();
        }
        words.extend(encoder.control(client.lane, refusal.event(), cursor, fields));
    }
    words
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
