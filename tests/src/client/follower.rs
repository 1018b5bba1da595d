//! A client as a user would write it: it stays on a stream, comes back with its cursor whenever it
//! is cut, waits as long as it is told, and counts everything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::frame::Frame;
use super::sse::Sse;
use super::websocket::{Event, JSON, WebSocket};
use crate::ledger::{Ledger, Reader};
use crate::wait::within;

/// Wait before the next attempt, if the server asked for nothing else.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest wait that a follower lets itself be told.
const LONGEST: Duration = Duration::from_secs(3);

/// How a follower is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `sluice.v1.json`.
    WebSocket,
    /// Raw payloads.
    Sse,
}

/// What a follower has seen.
#[derive(Debug)]
pub struct Seen {
    /// Messages.
    pub reader: Reader,
    /// Reasons of the gaps it was told.
    pub gaps: Vec<String>,
    /// Streams opened.
    pub connections: usize,
    /// Codes of the close frames, or 0 where there was none (and for the end of an SSE stream).
    pub closes: Vec<u16>,
    /// Statuses of refusals.
    pub refusals: Vec<u16>,
    /// `drain` frames and events.
    pub drains: usize,
    /// Whether it is connected now.
    pub open: bool,
    cursor: Option<String>,
}

/// A following client. Dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    name: String,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Follows `url`, and is connected when this returns.
    pub async fn start(name: &str, transport: Transport, url: &str, ledger: &Ledger) -> Self {
        Self::with_key(name, transport, &[url], ledger, None).await
    }

    /// Follows one of `urls`, the next one whenever it is cut, with the API key `key`.
    pub async fn with_key(
        name: &str,
        transport: Transport,
        urls: &[&str],
        ledger: &Ledger,
        key: Option<&str>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            reader: Reader::new(ledger),
            gaps: Vec::new(),
            connections: 0,
            closes: Vec::new(),
            refusals: Vec::new(),
            drains: 0,
            open: false,
            cursor: None,
        }));
        let client = Client {
            seen: seen.clone(),
            authorization: key.map(|key| format!("Bearer {key}")),
            pause: PAUSE,
        };
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        let task = tokio::spawn(client.follow(transport, urls));
        let follower = Self { name: name.into(), seen, task };
        within(Duration::from_secs(30), "the follower connects", || async {
            follower.seen().cursor.is_some().then_some(())
        })
        .await;
        follower
    }

    /// What it has seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything accepted has come.
    ///
    /// # Panics
    /// If it does not, or the follower broke.
    pub async fn caught_up(&self, patience: Duration) {
        let begun = std::time::Instant::now();
        while !self.seen().reader.lost().is_empty() {
            assert!(!self.task.is_finished(), "{}: the follower broke", self.name);
            assert!(begun.elapsed() < patience, "{} after {patience:?}: {}", self.name, self.report());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until everything has come and checks that nothing is wrong and no gap was told.
    pub async fn check(&self, patience: Duration) {
        self.caught_up(patience).await;
        let seen = self.seen();
        seen.reader.check(&self.name);
        assert!(seen.gaps.is_empty(), "{}: gaps {:?}", self.name, seen.gaps);
        drop(seen);
        println!("{}: {}", self.name, self.report());
    }

    /// Waits until it is connected.
    pub async fn connected(&self) {
        within(Duration::from_secs(20), "the follower comes back", || async {
            self.seen().open.then_some(())
        })
        .await;
    }

    /// A line about it.
    pub fn report(&self) -> String {
        let seen = self.seen();
        format!(
            "{}; {} connections, closes {:?}, refusals {:?}, gaps {:?}",
            seen.reader, seen.connections, seen.closes, seen.refusals, seen.gaps
        )
    }
}

struct Client {
    seen: Arc<Mutex<Seen>>,
    authorization: Option<String>,
    pause: Duration,
}

impl Client {
    async fn follow(mut self, transport: Transport, urls: Vec<String>) {
        for url in urls.iter().cycle() {
            self.pause = PAUSE;
            match transport {
                Transport::WebSocket => self.websocket(url).await,
                Transport::Sse => self.sse(url).await,
            }
            self.seen().open = false;
            tokio::time::sleep(self.pause.min(LONGEST)).await;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) {
        let mut seen = self.seen();
        seen.connections += 1;
        seen.open = true;
    }

    async fn websocket(&mut self, url: &str) {
        let cursor = self.seen().cursor.clone();
        let url = cursor.map_or_else(|| url.to_owned(), |cursor| format!("{url}?cursor={cursor}"));
        let mut request = WebSocket::request(&url).protocol(JSON);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut socket = match request.attempt().await {
            Some(Ok(socket)) => socket,
            Some(Err(answer)) => return self.seen().refusals.push(answer.status),
            None => return,
        };
        self.opened();
        loop {
            let text = match socket.event().await {
                Event::Text(text) => text,
                Event::Ping | Event::Pong(_) => continue,
                Event::Close(code, _) => return self.seen().closes.push(code),
                Event::End => return self.seen().closes.push(0),
                Event::Binary(bytes) => panic!("a binary frame: {bytes:?}"),
            };
            self.frame(&Frame::parse(&text));
        }
    }

    fn frame(&mut self, frame: &Frame) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match frame.kind.as_str() {
            "message" => {
                let payload = frame.payload().expect("no tombstones here");
                seen.reader.take(&payload, frame.id.as_deref());
            }
            "gap" => seen.gaps.push(frame.reason.clone().unwrap_or_default()),
            "drain" => {
                seen.drains += 1;
                self.pause = Duration::from_millis(frame.retry_after_ms.unwrap_or_default());
            }
            _ => {}
        }
        let cursor = frame.cursor.clone().or_else(|| frame.to.clone());
        seen.cursor = cursor.or_else(|| seen.cursor.take());
    }

    async fn sse(&mut self, url: &str) {
        let mut request = Sse::request(url);
        if let Some(cursor) = self.seen().cursor.clone() {
            request = request.last_event_id(&cursor);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut stream = match request.attempt().await {
            Some(Ok(stream)) => stream,
            Some(Err(answer)) => return self.seen().refusals.push(answer.status),
            None => return,
        };
        self.opened();
        while let Some(block) = stream.next().await {
            if let Some(retry) = block.retry {
                self.pause = Duration::from_millis(retry);
            }
            let mut seen = self.seen();
            match (block.event.as_str(), &block.data) {
                ("", Some(data)) => seen.reader.take(data.as_bytes(), None),
                ("gap", _) => seen.gaps.push(block.frame().reason.unwrap_or_default()),
                ("drain", _) => seen.drains += 1,
                _ => {}
            }
            if let Some(id) = block.id {
                seen.cursor = Some(id);
            }
        }
        self.seen().closes.push(0);
    }
}
