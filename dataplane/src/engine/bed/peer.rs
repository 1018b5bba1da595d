//! The other end of a client's stream, and what came through it.

use serde_json::Value;
use tokio::io::{AsyncReadExt, DuplexStream};

use crate::encode::Lane;
use crate::engine::Stream;
use crate::engine::bed::Bed;
use crate::feed::Selector;
use crate::transport::websocket::frame::{self, Opcode};

impl Bed {
    /// A client whose socket holds `pipe` bytes.
    pub async fn join(&self, lane: Lane, cursor: Option<String>, pipe: usize) -> Peer {
        self.join_selecting(lane, cursor, pipe, None).await
    }

    /// The same, that gets only what `selector` says.
    pub async fn join_selecting(
        &self,
        lane: Lane,
        cursor: Option<String>,
        pipe: usize,
        selector: Option<Selector>,
    ) -> Peer {
        let (ours, theirs) = tokio::io::duplex(pipe);
        self.attach(lane, cursor, selector, Stream::Other(Box::new(ours)), "").await;
        Peer { stream: theirs, lane, bytes: Vec::new(), events: Vec::new(), ended: false }
    }
}

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message with this number, and its cursor.
    Message(u64, Option<String>),
    /// A gap was told: why, and the cursor behind it.
    Gap(String, String),
    /// A WebSocket's greeting.
    Ready,
    /// A cursor without a message.
    Position(String),
    /// A ping.
    Ping,
    /// A WebSocket's end.
    Close(u16),
    /// An event stream's end.
    Goodbye(String),
}

/// The other end of a client's stream.
pub struct Peer {
    /// Its socket.
    pub stream: DuplexStream,
    /// What it is written.
    pub lane: Lane,
    bytes: Vec<u8>,
    /// What it saw, in order.
    pub events: Vec<Seen>,
    /// Its stream came to an end.
    pub ended: bool,
}

impl Peer {
    /// Reads at most `most` bytes of what is there.
    pub async fn read(&mut self, most: usize) -> usize {
        let mut buffer = vec![0; most];
        let read = tokio::select! {
            biased;
            read = self.stream.read(&mut buffer) => read.unwrap_or(0),
            () = tokio::task::yield_now() => return 0,
        };
        self.ended |= read == 0;
        self.bytes.extend_from_slice(&buffer[..read]);
        if self.lane.is_websocket() {
            self.parse_frames()
        } else {
            self.parse_events()
        }
        read
    }

    /// Reads until nothing more comes.
    pub async fn read_all(&mut self, bed: &Bed) {
        let mut idle = 0;
        while idle < 3 && !self.ended {
            bed.settle().await;
            idle = if self.read(1 << 16).await == 0 { idle + 1 } else { 0 };
        }
    }

    fn parse_frames(&mut self) {
        loop {
            let (start, length) = match self.bytes.get(1).map(|byte| byte & 0x7f) {
                Some(126) if self.bytes.len() >= 4 => {
                    (4, usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]])))
                }
                Some(length) if length < 126 => (2, usize::from(length)),
                _ => return,
            };
            if self.bytes.len() < start + length {
                return;
            }
            let whole: Vec<u8> = self.bytes.drain(..start + length).collect();
            let (opcode, payload) = frame::tests::split(&whole);
            match opcode {
                Opcode::Ping => self.events.push(Seen::Ping),
                Opcode::Close => self.events.push(Seen::Close(u16::from_be_bytes([payload[0], payload[1]]))),
                _ if self.lane == Lane::WsRaw => self.events.push(Seen::Message(number(&payload), None)),
                _ => self.see_frame(&serde_json::from_slice(&payload).expect("JSON")),
            }
        }
    }

    fn see_frame(&mut self, frame: &Value) {
        let cursor = frame["cursor"].as_str().map(str::to_owned);
        match frame["type"].as_str().expect("typed") {
            "message" => self.events.push(Seen::Message(number(text(&frame["data"]).as_bytes()), cursor)),
            "gap" => self.events.push(gap(frame)),
            "ready" => {
                self.events.push(Seen::Ready);
                self.events.extend(cursor.map(Seen::Position));
            }
            "cursor" => self.events.extend(cursor.map(Seen::Position)),
            "error" | "drain" => {}
            other => panic!("unexpected {other}"),
        }
    }

    fn parse_events(&mut self) {
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("UTF-8");
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(": ").to_owned())
            };
            let (id, data, event) = (field("id"), field("data"), field("event"));
            let json = |data: &str| -> Value { serde_json::from_str(data).expect("JSON") };
            match (event.as_deref(), id, data) {
                (Some("gap"), _, Some(data)) => self.events.push(gap(&json(&data))),
                (None, id, Some(data)) if self.lane == Lane::SseRaw => {
                    self.events.push(Seen::Message(number(data.as_bytes()), id));
                }
                (None, id, Some(data)) => {
                    self.events.push(Seen::Message(number(text(&json(&data)["data"]).as_bytes()), id));
                }
                (None, Some(id), None) => self.events.push(Seen::Position(id)),
                (Some("throttled" | "drain" | "problem"), id, Some(data)) => {
                    self.events.extend(id.map(Seen::Position));
                    self.events.push(Seen::Goodbye(text(&json(&data)["code"]).to_owned()));
                }
                other => panic!("unexpected {other:?} in {block:?}"),
            }
        }
    }

    /// The numbers it saw.
    pub fn numbers(&self) -> Vec<u64> {
        let number = |seen: &Seen| if let Seen::Message(number, _) = seen { Some(*number) } else { None };
        self.events.iter().filter_map(number).collect()
    }

    /// Where it stands, as far as it was told.
    pub fn last_cursor(&self) -> Option<String> {
        self.events.iter().rev().find_map(|seen| match seen {
            Seen::Message(_, cursor) => cursor.clone(),
            Seen::Position(cursor) => Some(cursor.clone()),
            _ => None,
        })
    }

    /// Numbers go up by one, except where a gap was told.
    pub fn check_order(&self, seed: u64) {
        let (mut last, mut gap) = (None, false);
        for seen in &self.events {
            match seen {
                Seen::Message(number, _) => {
                    if let Some(last) = last {
                        let follows = *number == last + 1 || (gap && *number > last);
                        assert!(follows, "seed {seed}: {number} after {last} on {:?}", self.lane);
                    }
                    (last, gap) = (Some(*number), false);
                }
                Seen::Gap(..) => gap = true,
                _ => {}
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn gap(fields: &Value) -> Seen {
    Seen::Gap(text(&fields["reason"]).to_owned(), text(&fields["to"]).to_owned())
}

fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).expect("text");
    text.split(' ').next().expect("a number").parse().expect("a number")
}
