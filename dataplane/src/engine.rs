//! The fan-out engine: shards, each a thread that owns its clients' sockets and walks them inline.
//! No task is woken and nothing is allocated per client and message; a client is a position in a
//! ring, a socket and a few words of state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::channel::{Channel, Connection};
use crate::encode::Lane;
use crate::engine::mailbox::{Command, Mailbox};
use crate::engine::shard::Shard;
use crate::feed::{Feed, Selector, Start};
use crate::policy::Principal;

#[cfg(any(test, feature = "bed"))]
pub mod bed;
mod client;
mod goodbye;
mod inbox;
pub mod mailbox;
mod shard;
#[cfg(test)]
mod tests;

/// Any other stream of bytes: TLS, a later request of a kept-alive connection, HTTP/2.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A client's stream of bytes.
pub enum Stream {
    /// Straight to the kernel.
    Tcp(TcpStream),
    /// Through something else.
    Other(Box<dyn Io>),
}

/// A client as it is handed to a shard.
pub struct Attachment {
    /// Its stream.
    pub stream: Stream,
    /// The answer to its request, which is written first.
    pub head: Bytes,
    /// What it sent after its request.
    pub received: Bytes,
    /// Its channel.
    pub channel: Arc<Channel>,
    /// Who it is.
    pub principal: Principal,
    /// Limits and metrics name it so: the key's id or its address.
    pub name: Arc<str>,
    /// Holds its place in the channel's connection limit.
    pub connection: Connection,
    /// [`Channel::version`] when it was let in.
    pub version: u64,
    /// What it is written.
    pub lane: Lane,
    /// What it reads and from where; `None` if it only publishes.
    pub reading: Option<(Arc<Feed>, Start)>,
    /// What it gets of that; everything without.
    pub selector: Option<Selector>,
    /// The web origin that the channel's policy let in; `None` for this host's own and for
    /// everything that is no browser.
    pub origin: Option<Box<str>>,
    /// The cursor it brought.
    pub cursor: Option<String>,
    /// Time between pings or heartbeats.
    pub interval: Duration,
}

/// A shard that is gone would leave its clients without a word; a new process serves them.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// All shards.
pub struct Engine {
    shards: Vec<Arc<Mailbox>>,
    next: AtomicUsize,
    open: watch::Sender<usize>,
}

impl Engine {
    /// Starts `count` shards; publishes of WebSocket clients run on `main`.
    pub fn start(count: usize, main: &Handle) -> std::io::Result<Arc<Self>> {
        let open = watch::Sender::new(0);
        let mut shards = Vec::with_capacity(count);
        for index in 0..count {
            let mailbox = Arc::new(Mailbox::default());
            let shard = Shard::new(mailbox.clone(), main.clone(), open.clone());
            std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                let _guard = AbortOnPanic;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .expect("a runtime needs nothing but memory");
                runtime.block_on(tokio::task::unconstrained(shard.run()));
            })?;
            shards.push(mailbox);
        }
        Ok(Arc::new(Self { shards, next: AtomicUsize::new(0), open }))
    }

    /// Hands a client over.
    pub fn attach(&self, attachment: Box<Attachment>) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        self.open.send_modify(|open| *open += 1);
        self.shards[index].send(Command::Attach(attachment));
    }

    /// Judges every open stream anew.
    pub fn recheck(&self) {
        for shard in &self.shards {
            shard.send(Command::Recheck);
        }
    }

    /// Says goodbye to every client, spread over `spread`; resolves when all are gone.
    pub async fn drain(&self, spread: Duration) {
        for shard in &self.shards {
            shard.send(Command::Drain(spread));
        }
        let mut open = self.open.subscribe();
        // The sender lives in `self`: it cannot be closed.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    /// Streams open now.
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }
}
