//! How the rest of the process talks to a shard: commands, sockets that became ready, and feeds
//! that moved. One wake-up covers all that came before the shard looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::engine::Attachment;
use crate::feed::Watcher;
use crate::respond::Refusal;

/// What a shard is told.
pub enum Command {
    /// A client comes.
    Attach(Box<Attachment>),
    /// A client's publish was answered.
    Published {
        /// The client.
        client: usize,
        /// And which of those that had this number.
        serial: u64,
        /// The client's own id of the message.
        id: Option<String>,
        /// The message's id, or why there is none.
        result: Result<String, Refusal>,
    },
    /// A reload: judge every stream anew.
    Recheck,
    /// Say goodbye to every client, spread over this time.
    Drain(Duration),
}

/// A shard's mailbox.
#[derive(Default)]
pub struct Mailbox {
    commands: Mutex<Vec<Command>>,
    ready: Mutex<Vec<usize>>,
    moved: Mutex<Vec<usize>>,
    pending: AtomicBool,
    waker: AtomicWaker,
}

/// All that came since the shard last looked.
#[derive(Default)]
pub struct Mail {
    /// Commands in order.
    pub commands: Vec<Command>,
    /// Clients whose sockets became ready.
    pub ready: Vec<usize>,
    /// Feeds that moved.
    pub moved: Vec<usize>,
}

impl Mailbox {
    /// Sends a command.
    pub fn send(&self, command: Command) {
        self.commands.lock().push(command);
        self.notify();
    }

    /// A client wants a turn without anything having happened on its socket.
    pub fn again(&self, client: usize) {
        self.ready.lock().push(client);
        self.notify();
    }

    fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready when there is mail.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.pending.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the mail.
    pub fn take(&self, mail: &mut Mail) {
        mail.commands.append(&mut self.commands.lock());
        self.take_turns(mail);
    }

    /// Takes of the mail what wants a turn; commands wait.
    pub fn take_turns(&self, mail: &mut Mail) {
        mail.ready.append(&mut self.ready.lock());
        mail.moved.append(&mut self.moved.lock());
    }
}

/// Wakes one client of a shard.
pub struct ClientWake {
    mailbox: Arc<Mailbox>,
    client: usize,
    queued: AtomicBool,
}

impl ClientWake {
    /// For `client`.
    pub fn new(mailbox: Arc<Mailbox>, client: usize) -> Arc<Self> {
        Arc::new(Self { mailbox, client, queued: AtomicBool::new(false) })
    }

    /// The client gets its turn now: what happens from here on needs another wake-up.
    pub fn rearm(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// As a waker.
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }
}

impl Wake for ClientWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.mailbox.again(self.client);
        }
    }
}

/// Tells a shard that one of its feeds moved.
pub struct FeedWatch {
    mailbox: Arc<Mailbox>,
    feed: usize,
    queued: AtomicBool,
    walked: AtomicU64,
}

impl FeedWatch {
    /// For the feed that the shard knows as `feed`.
    pub const fn new(mailbox: Arc<Mailbox>, feed: usize, walked: u64) -> Self {
        Self { mailbox, feed, queued: AtomicBool::new(false), walked: AtomicU64::new(walked) }
    }

    /// The shard looks at the feed now.
    pub fn rearm(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }

    /// Every client was given its turn up to `seq`.
    pub fn set_walked(&self, seq: u64) {
        self.walked.store(seq, Ordering::SeqCst);
    }
}

impl Watcher for FeedWatch {
    fn moved(&self) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.mailbox.moved.lock().push(self.feed);
            self.mailbox.notify();
        }
    }

    fn walked(&self) -> u64 {
        self.walked.load(Ordering::SeqCst)
    }
}
