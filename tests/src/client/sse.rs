//! Server-sent events, parsed as WHATWG HTML §9.2.6 says, with the blocks that a browser would
//! swallow (id only) kept visible.

use std::time::Duration;

use ::http::HeaderMap;
use tokio::time::timeout;

use super::frame::Frame;
use super::http::{self, Answer};

/// How long a stream may be silent before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// One block: what stands between two blank lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The `event` field; empty for messages.
    pub event: String,
    /// The `data` lines joined by LF; `None` if there was none.
    pub data: Option<String>,
    /// The `id` field, if this block has one.
    pub id: Option<String>,
    /// The `retry` field.
    pub retry: Option<u64>,
}

impl Block {
    /// The data of a named event.
    pub fn frame(&self) -> Frame {
        Frame::parse(self.data.as_deref().unwrap_or_else(|| panic!("no data: {self:?}")))
    }

    /// Whether it is a message for `onmessage`.
    pub fn is_message(&self) -> bool {
        self.event.is_empty() && self.data.is_some()
    }
}

/// Turns bytes into blocks.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    block: Block,
    any: bool,
    after_cr: bool,
    begun: bool,
}

impl Parser {
    /// Takes `bytes` and gives the blocks they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for &byte in bytes {
            let follows_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if follows_cr => {}
                b'\r' | b'\n' => blocks.extend(self.end_of_line()),
                byte => self.line.push(byte),
            }
        }
        blocks
    }

    fn end_of_line(&mut self) -> Option<Block> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = String::from_utf8(bytes).expect("an event stream is UTF-8");
        if !std::mem::replace(&mut self.begun, true) && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        if line.is_empty() {
            let any = std::mem::take(&mut self.any);
            return any.then(|| std::mem::take(&mut self.block));
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        self.any |= !field.is_empty();
        match field {
            "event" => value.clone_into(&mut self.block.event),
            "data" => match &mut self.block.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.block.data = Some(value.into()),
            },
            "id" if !value.contains('\0') => self.block.id = Some(value.into()),
            "retry" => self.block.retry = value.parse().ok(),
            _ => {}
        }
        None
    }
}

/// A request for a stream.
#[derive(Clone, Debug)]
pub struct Request {
    url: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Resumes after `id`.
    #[must_use]
    pub fn last_event_id(self, id: &str) -> Self {
        self.header("last-event-id", id)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends it; an answer that is no event stream is an error.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn open(self) -> Result<Sse, Answer> {
        self.attempt().await.expect("the request is answered")
    }

    /// Like [`Request::open`]; `None` if nobody answers.
    pub async fn attempt(self) -> Option<Result<Sse, Answer>> {
        let mut request = http::client().get(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = timeout(PATIENCE, request.send()).await.expect("answered in time").ok()?;
        let kind =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if response.status() != 200 || !kind.starts_with("text/event-stream") {
            return Some(Err(Answer::read(response).await.ok()?));
        }
        let headers = response.headers().clone();
        Some(Ok(Sse {
            response,
            headers,
            parser: Parser::default(),
            blocks: Vec::new().into(),
            last_id: None,
        }))
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Sse {
    response: reqwest::Response,
    /// The answer's headers.
    pub headers: HeaderMap,
    parser: Parser,
    blocks: std::collections::VecDeque<Block>,
    last_id: Option<String>,
}

impl Sse {
    /// A request for the stream at `url`, asking for event streams.
    pub fn request(url: &str) -> Request {
        Request { url: url.into(), headers: vec![("accept".into(), "text/event-stream".into())] }
    }

    /// Opens the stream at `url`.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(url: &str) -> Self {
        Self::request(url).open().await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }

    /// Opens the stream at `url` and reads up to the first block with an id: from then on,
    /// nothing is missed.
    pub async fn begin(url: &str) -> Self {
        let mut stream = Self::open(url).await;
        while stream.last_id.is_none() {
            stream.block().await;
        }
        stream
    }

    /// The last id seen: what an EventSource would send to resume.
    pub fn last_id(&self) -> &str {
        self.last_id.as_deref().unwrap_or_else(|| panic!("no id yet"))
    }

    /// The next block, `None` at the end of the stream.
    ///
    /// # Panics
    /// If none comes in time.
    pub async fn next(&mut self) -> Option<Block> {
        timeout(PATIENCE, self.wait()).await.expect("a stream is not silent that long")
    }

    /// The next block if it comes within `patience`.
    pub async fn within(&mut self, patience: Duration) -> Option<Block> {
        timeout(patience, self.wait()).await.ok().flatten()
    }

    async fn wait(&mut self) -> Option<Block> {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                if let Some(id) = &block.id {
                    self.last_id = Some(id.clone());
                }
                return Some(block);
            }
            let bytes = self.response.chunk().await.ok().flatten()?;
            self.blocks.extend(self.parser.push(&bytes));
        }
    }

    /// The next block.
    ///
    /// # Panics
    /// If the stream ends.
    pub async fn block(&mut self) -> Block {
        self.next().await.expect("the stream goes on")
    }

    /// The next message; id-only blocks are passed over.
    ///
    /// # Panics
    /// If a named event or the end comes first.
    pub async fn message(&mut self) -> Block {
        loop {
            let block = self.block().await;
            if block.is_message() {
                return block;
            }
            assert!(block.event.is_empty(), "a message was expected: {block:?}");
        }
    }

    /// The next named event; messages and id-only blocks are passed over.
    pub async fn event(&mut self) -> Block {
        loop {
            let block = self.block().await;
            if !block.event.is_empty() {
                return block;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[Block]) {
        let mut whole = Parser::default();
        assert_eq!(whole.push(text.as_bytes()), expected, "{text:?}");
        let mut parts = Parser::default();
        let blocks: Vec<Block> = text.as_bytes().iter().flat_map(|byte| parts.push(&[*byte])).collect();
        assert_eq!(blocks, expected, "{text:?} byte by byte");
    }

    fn message(data: &str) -> Block {
        Block { data: Some(data.into()), ..Block::default() }
    }

    #[test]
    fn blocks_are_parsed_as_the_standard_says() {
        check("data: a\ndata:b\n\n", &[message("a\nb")]);
        check("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c\n\n", &[message("a"), message("b"), message("c")]);
        check(": comment\n\n", &[]);
        check("data\n\n", &[message("")]);
        check("data:  two\n\ndata: unfinished", &[message(" two")]);
        check("id: 1\n\n", &[Block { id: Some("1".into()), ..Block::default() }]);
        check(
            "event: gap\nid: x\ndata: {}\nretry: 30\n\n",
            &[Block { event: "gap".into(), data: Some("{}".into()), id: Some("x".into()), retry: Some(30) }],
        );
    }
}
