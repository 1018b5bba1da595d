//! What a subscribing client reads: WebSocket frames, SSE blocks or Centrifuge's replies in frames, in
//! whatever pieces they come.

use anyhow::{Result, bail, ensure};

/// Head of a request or answer that is not whole within this many bytes is not one.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a client of Centrifuge sends first: a text frame, whose mask is zeros.
const CONNECT: &[u8] = b"\x81\x95\0\0\0\0{\"id\":1,\"connect\":{}}";
/// What it answers to a ping, which is the same text.
const PONG: &[u8] = b"\x81\x82\0\0\0\0{}";

/// How messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// WebSocket without a subprotocol: payloads only.
    WebSocket,
    /// Server-sent events.
    Sse,
    /// Centrifuge's JSON protocol in WebSocket frames: payloads are JSON strings in envelopes.
    Centrifuge,
}

impl Wire {
    /// Its name in commands and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "WebSocket",
            Self::Sse => "SSE",
            Self::Centrifuge => "WebSocket, Centrifuge's JSON",
        }
    }

    /// The request that opens a stream at `path`.
    pub fn request(self, path: &str) -> String {
        let accept = match self {
            Self::WebSocket | Self::Centrifuge => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: c2x1aWNlIGJlbmNobWFyaw==\r\n"
            }
            Self::Sse => "Accept: text/event-stream\r\n",
        };
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{accept}\r\n")
    }
}

/// Something a client read.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The stream is open and the client subscribed.
    Open,
    /// A message's payload.
    Message(&'a [u8]),
    /// The client must send these bytes: a first command, or a pong.
    Answer(&'a [u8]),
}

/// One client's place in its stream. Holds no buffer between whole frames.
#[derive(Debug)]
pub struct Decoder {
    wire: Wire,
    stage: Stage,
    rest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Plain,
    Chunked(Chunk),
}

/// Where a chunked body (RFC 9112 §7.1) stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In a size line that says this much so far (the server sends no extensions).
    Size(usize),
    /// In data, with so many bytes to come.
    Data(usize),
    /// In the line end after data.
    End,
}

impl Decoder {
    /// A client that has just sent its request.
    pub fn new(wire: Wire) -> Self {
        Self { wire, stage: Stage::Head, rest: Vec::new() }
    }

    /// Takes what was read.
    pub fn take(&mut self, mut input: &[u8], sink: &mut impl FnMut(Event<'_>)) -> Result<()> {
        if self.stage == Stage::Head {
            let held = self.rest.len();
            self.rest.extend_from_slice(input);
            let Some(end) = find(&self.rest, b"\r\n\r\n") else {
                ensure!(self.rest.len() < MAX_HEAD_BYTES, "the answer's head is too long");
                return Ok(());
            };
            let head = String::from_utf8_lossy(&self.rest[..end]).to_ascii_lowercase();
            let wanted = if self.wire == Wire::Sse { "http/1.1 200" } else { "http/1.1 101" };
            ensure!(head.starts_with(wanted), "refused: {}", head.lines().next().unwrap_or_default());
            let chunked = self.wire == Wire::Sse && head.contains("transfer-encoding: chunked");
            self.stage = if chunked { Stage::Chunked(Chunk::Size(0)) } else { Stage::Plain };
            self.rest = Vec::new();
            input = &input[end + 4 - held..];
            sink(if self.wire == Wire::Centrifuge { Event::Answer(CONNECT) } else { Event::Open });
        }
        let Stage::Chunked(mut chunk) = self.stage else { return self.plain(input, sink) };
        while let Some(&first) = input.first() {
            let taken = match chunk {
                Chunk::Data(left) => left.min(input.len()),
                Chunk::Size(_) | Chunk::End => 1,
            };
            chunk = match chunk {
                Chunk::Data(left) => {
                    self.plain(&input[..taken], sink)?;
                    if taken < left { Chunk::Data(left - taken) } else { Chunk::End }
                }
                Chunk::Size(0) if first == b'\n' => bail!("the server ended the stream"),
                Chunk::Size(size) if first == b'\n' => Chunk::Data(size),
                Chunk::Size(size) => {
                    let digit = char::from(first).to_digit(16);
                    Chunk::Size(digit.map_or(size, |digit| size * 16 + digit as usize))
                }
                Chunk::End if first == b'\n' => Chunk::Size(0),
                Chunk::End => Chunk::End,
            };
            input = &input[taken..];
        }
        self.stage = Stage::Chunked(chunk);
        Ok(())
    }

    fn plain(&mut self, input: &[u8], sink: &mut impl FnMut(Event<'_>)) -> Result<()> {
        let whole = match self.wire {
            Wire::WebSocket => frames,
            Wire::Sse => blocks,
            Wire::Centrifuge => replies,
        };
        if self.rest.is_empty() {
            let used = whole(input, sink)?;
            self.rest.extend_from_slice(&input[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(input);
            let used = whole(&rest, sink)?;
            if used < rest.len() {
                rest.drain(..used);
                self.rest = rest;
            }
        }
        Ok(())
    }
}

/// Takes the whole frames at the front of `input` and says how many bytes they were.
fn frames<F: FnMut(Event<'_>)>(input: &[u8], sink: &mut F) -> Result<usize> {
    let mut at = 0;
    loop {
        let rest = &input[at..];
        let (start, length) = match rest {
            [_, 127, b @ ..] => match b.first_chunk() {
                Some(length) => (10, usize::try_from(u64::from_be_bytes(*length))?),
                None => return Ok(at),
            },
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            [_, 126, ..] | [] | [_] => return Ok(at),
            [_, length, ..] => (2, usize::from(*length)),
        };
        let Some(payload) = rest.get(start..start + length) else { return Ok(at) };
        match rest[0] {
            0x81 | 0x82 => sink(Event::Message(payload)),
            // A ping has at most 125 bytes; the mask of the pong is zeros.
            0x89 => sink(Event::Answer(&[&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat())),
            0x88 => {
                bail!("the server closed: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default()))
            }
            other => bail!("the server sent a frame that starts with {other:#04x}"),
        }
        at += start + length;
    }
}

/// The same for frames of Centrifuge's, each of which may hold several lines.
fn replies<F: FnMut(Event<'_>)>(input: &[u8], sink: &mut F) -> Result<usize> {
    let mut outcome = Ok(());
    let used = frames(input, &mut |event| match event {
        Event::Message(lines) => {
            for line in lines.split(|&byte| byte == b'\n') {
                if outcome.is_ok() {
                    outcome = reply(line, sink);
                }
            }
        }
        other => sink(other),
    })?;
    outcome.map(|()| used)
}

/// One of Centrifuge's replies. What is published is text that needs no escapes.
fn reply<F: FnMut(Event<'_>)>(line: &[u8], sink: &mut F) -> Result<()> {
    const DATA: &[u8] = b"\"data\":\"";
    if line == b"{}" {
        sink(Event::Answer(PONG));
    } else if line.starts_with(b"{\"push\":")
        && let Some(start) = find(line, DATA).map(|at| at + DATA.len())
        && let Some(length) = line[start..].iter().position(|&byte| byte == b'"')
    {
        sink(Event::Message(&line[start..start + length]));
    } else if line.starts_with(b"{\"id\":1,\"connect\":") {
        sink(Event::Open);
    } else {
        bail!("the server told: {}", String::from_utf8_lossy(line));
    }
    Ok(())
}

/// The same for SSE blocks; the payload is what the first `data` line says.
fn blocks<F: FnMut(Event<'_>)>(input: &[u8], sink: &mut F) -> Result<usize> {
    let mut at = 0;
    while let Some(length) = find(&input[at..], b"\n\n") {
        let block = &input[at..at + length];
        let mut lines = block.split(|&byte| byte == b'\n');
        ensure!(!block.starts_with(b"event:"), "the server told: {}", String::from_utf8_lossy(block));
        if let Some(data) = lines.find_map(|line| line.strip_prefix(b"data:")) {
            sink(Event::Message(data.strip_prefix(b" ").unwrap_or(data)));
        }
        at += length + 2;
    }
    Ok(at)
}

pub(crate) fn find(input: &[u8], wanted: &[u8]) -> Option<usize> {
    input.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces, the events are the same.
    fn check(wire: Wire, stream: &[u8], wanted: &[&str]) {
        for piece in 1..=stream.len() {
            let (mut decoder, mut seen) = (Decoder::new(wire), Vec::new());
            for bytes in stream.chunks(piece) {
                let mut sink = |event: Event<'_>| {
                    seen.push(match event {
                        Event::Open => "open".to_owned(),
                        Event::Message(payload) => String::from_utf8_lossy(payload).into_owned(),
                        Event::Answer(frame) => format!("answer {}", String::from_utf8_lossy(&frame[6..])),
                    });
                };
                decoder.take(bytes, &mut sink).expect("a good stream");
            }
            assert_eq!(seen, wanted, "in pieces of {piece}");
            assert!(decoder.rest.is_empty());
        }
    }

    #[test]
    fn web_socket_frames_come_in_any_pieces() {
        let long = "x".repeat(200);
        let mut stream =
            b"HTTP/1.1 101 Switching Protocols\r\na: b\r\n\r\n\x81\x02hi\x89\x01?\x82\x7e\x00\xc8".to_vec();
        stream.extend_from_slice(long.as_bytes());
        stream.extend_from_slice(b"\x81\x7f\0\0\0\0\0\0\0\x03end");
        check(Wire::WebSocket, &stream, &["open", "hi", "answer ?", &long, "end"]);
    }

    #[test]
    fn sse_blocks_come_in_any_pieces() {
        let stream = b"HTTP/1.1 200 OK\r\n\r\nretry: 1\nid: 0\n\nid: 1\ndata: one\n\nid: 1\n\ndata: two\ndata: more\n\n";
        check(Wire::Sse, stream, &["open", "one", "two"]);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nid: 0\r\n2\r\n\n\n\r\n0b\r\ndata: one\n\n\r\n";
        check(Wire::Sse, chunked, &["open", "one"]);
    }

    #[test]
    fn replies_of_centrifuge_come_in_any_pieces() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        let push = |text| format!("{{\"push\":{{\"channel\":\"bench\",\"pub\":{{\"data\":\"{text}\"}}}}}}");
        let long = "x".repeat(100);
        for text in [
            "{\"id\":1,\"connect\":{\"client\":\"c\",\"version\":\"\",\"subs\":{\"bench\":{}}}}",
            &push("one"),
            "{}",
            &[push("two"), "{}".into(), push(&long)].join("\n"),
        ] {
            match u8::try_from(text.len()) {
                Ok(length) if length < 126 => stream.extend([0x81, length]),
                _ => stream.extend([0x81, 126, 0, text.len() as u8]),
            }
            stream.extend_from_slice(text.as_bytes());
        }
        let (connect, pong) = ("answer {\"id\":1,\"connect\":{}}", "answer {}");
        check(Wire::Centrifuge, &stream, &[connect, "open", "one", pong, "two", pong, &long]);
    }

    #[test]
    fn refusals_and_closes_are_errors() {
        let taken =
            |wire, stream: &[u8]| Decoder::new(wire).take(stream, &mut |_| {}).map_err(|e| e.to_string());
        assert!(taken(Wire::Sse, b"HTTP/1.1 404 Not Found\r\n\r\n").expect_err("a refusal").contains("404"));
        let closed = b"HTTP/1.1 101 x\r\n\r\n\x88\x06\x03\xf4slow";
        assert!(taken(Wire::WebSocket, closed).expect_err("a refusal").contains("slow"));
        assert!(taken(Wire::Sse, b"HTTP/1.1 200 x\r\n\r\nevent: gap\ndata: {}\n\n").is_err());
        let refused = b"HTTP/1.1 101 x\r\n\r\n\x81\x16{\"id\":1,\"error\":{\"a\"}}";
        assert!(taken(Wire::Centrifuge, refused).expect_err("a refusal").contains("error"));
        let ended = b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert!(taken(Wire::Sse, ended).is_err());
    }
}
