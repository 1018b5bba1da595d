//! The thread that owns the consumer: it alone touches the handle, takes records out of it in
//! batches, and does what it is told between two batches. So nothing that was fetched before a
//! change reaches a reader after it.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::oneshot;

use super::answer::{Answer, Description, Fault};
use super::event::{Event, Partition};
use super::health::Health;
use super::lookup::{Command, Join, Mend, Trouble};
use super::native::Handle;
use super::route::{Names, Route};

/// Events taken before readers see them.
const BATCH: usize = 1000;
/// How long the thread sleeps if nothing happens; commands wake it.
const IDLE: Duration = Duration::from_secs(10);
/// How long the broker may take to describe topics; much longer is as good as away.
const DESCRIBE: Duration = Duration::from_secs(2);
/// How often readers are told how much there is to read.
const TELL: Duration = Duration::from_secs(1);
/// How long the broker may take to look up offsets.
const OFFSETS: Duration = Duration::from_secs(5);

/// The thread's state. Fields are dropped in order: topics before their handle.
pub struct Poller {
    routes: HashMap<usize, Route>,
    keys: HashMap<String, usize>,
    names: Names,
    unreadable: HashSet<String>,
    asked: HashMap<usize, Reply>,
    requests: usize,
    told: Instant,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    ends: Ends,
}

/// Who hears of what the poller sees.
pub struct Ends {
    /// Errors of connections and of reading.
    pub health: Arc<Health>,
    /// Partitions that cannot be read on.
    pub troubles: tokio::sync::mpsc::UnboundedSender<Trouble>,
    /// Events that wait, as of the last look.
    pub waiting: Arc<AtomicUsize>,
}

enum Reply {
    Topics(oneshot::Sender<Result<Vec<Description>, Fault>>),
    Offsets(oneshot::Sender<Result<Vec<(u32, i64)>, Fault>>),
}

impl Poller {
    /// Nothing runs before [`Poller::run`].
    pub fn new(handle: Handle, commands: mpsc::Receiver<Command>, ends: Ends) -> Self {
        Self {
            routes: HashMap::new(),
            keys: HashMap::new(),
            names: Names::default(),
            unreadable: HashSet::new(),
            asked: HashMap::new(),
            requests: 0,
            told: Instant::now(),
            handle,
            commands,
            ends,
        }
    }

    /// Runs until told to stop, then frees the consumer, which may take a while.
    pub fn run(mut self) {
        loop {
            let mut event = self.handle.poll(IDLE);
            for _ in 1..BATCH {
                let Some(taken) = event else { break };
                self.take(taken);
                event = self.handle.poll(Duration::ZERO);
            }
            if let Some(last) = event {
                self.take(last);
            }
            self.routes.values_mut().for_each(Route::flush);
            self.ends.waiting.store(self.handle.waiting(), Ordering::Relaxed);
            if self.told.elapsed() >= TELL {
                self.told = Instant::now();
                self.tell_lags();
            }
            if self.obey().is_break() {
                self.routes.values().for_each(Route::stop_all);
                return;
            }
        }
    }

    fn tell_lags(&self) {
        for (name, key) in &self.keys {
            if let (Some(route), Ok(name)) = (self.routes.get(key), CString::new(name.as_str())) {
                route.tell_lag(&name, &self.handle);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Record(fetched) => {
                if let Some(route) = self.routes.get_mut(&fetched.topic()) {
                    route.record(&fetched, &mut self.names);
                }
            }
            Event::Partition(partition) => self.partition(&partition),
            Event::Client { code, reason } => self.ends.health.error(code, &reason),
            Event::Reborn(topic) => {
                // Whether it is, and as what, is for the next look to tell.
                if let Some(route) = self.keys.get(&topic).and_then(|key| self.routes.get_mut(key)) {
                    route.suspend();
                }
                self.ends.health.look_again();
            }
            Event::Log { level, facility, text } => self.ends.health.log(level, &facility, &text),
            Event::Answer { request, answer } => self.answer(request, answer),
            Event::Other => {}
        }
    }

    fn partition(&mut self, at: &Partition) {
        let Some(key) = self.keys.get(at.topic()) else { return };
        let Some(route) = self.routes.get_mut(key) else { return };
        match at.code {
            Code::PartitionEOF => {
                route.reached(at.partition(), at.position());
                if !self.unreadable.is_empty() && self.unreadable.remove(at.topic()) {
                    self.ends.health.readable(at.topic());
                }
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => {
                let id = route.id();
                if let Some(position) = route.halt(at.partition()) {
                    let (topic, partition) = (at.topic().to_owned(), at.partition());
                    // Nobody mends once the client goes.
                    let _ = self.ends.troubles.send(Trouble { topic, id, partition, position });
                }
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                route.suspend();
                self.ends.health.look_again();
            }
            code => {
                self.unreadable.insert(at.topic().to_owned());
                self.ends.health.unreadable(at.topic(), code, at.partition(), at.position());
            }
        }
    }

    fn answer(&mut self, request: usize, answer: Answer) {
        if let Answer::Topics(Ok(found)) = &answer {
            found.iter().for_each(|description| self.observe(description));
        }
        // An answer nobody waits for any more is no error.
        match (self.asked.remove(&request), answer) {
            (Some(Reply::Topics(reply)), Answer::Topics(answer)) => drop(reply.send(answer)),
            (Some(Reply::Offsets(reply)), Answer::Offsets(answer)) => drop(reply.send(answer)),
            _ => {}
        }
    }

    fn observe(&mut self, found: &Description) {
        let Some(key) = self.keys.get(&found.name) else { return };
        let Some(route) = self.routes.get_mut(key) else { return };
        match found.state {
            Ok(state) if state.id == route.id() => route.observe(state, &self.handle),
            Ok(_) => self.abandon(&found.name, false),
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => route.suspend(),
            Err(_) => {}
        }
    }

    fn abandon(&mut self, topic: &str, rewound: bool) {
        if let Some(route) = self.keys.remove(topic).and_then(|key| self.routes.remove(&key)) {
            route.abandon(rewound);
        }
    }

    fn obey(&mut self) -> ControlFlow<()> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Describe { topics, reply } => {
                    let number = self.ask(Reply::Topics(reply));
                    self.handle.describe(&topics, number, DESCRIBE);
                }
                Command::Offsets { topic, wanted, reply } => {
                    let number = self.ask(Reply::Offsets(reply));
                    self.handle.offsets(&topic, &wanted, number, OFFSETS);
                }
                Command::Join(join) => self.join(*join),
                Command::Leave { topic, reader } => self.leave(&topic, reader),
                Command::Mend { topic, id, partition, mend } => self.mend(&topic, id, partition, mend),
                Command::Stop => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    fn ask(&mut self, reply: Reply) -> usize {
        self.requests = self.requests.wrapping_add(1);
        self.asked.insert(self.requests, reply);
        self.requests
    }

    fn join(&mut self, join: Join) {
        if join.ties.dropped.load(Ordering::Acquire) {
            return;
        }
        let known = self.keys.get(&join.topic).and_then(|key| self.routes.get(key));
        if known.is_some_and(|route| route.id() != join.state.id) {
            self.abandon(&join.topic, false);
        }
        let key = match self.keys.get(&join.topic) {
            Some(key) => *key,
            None => {
                let Some(topic) = self.handle.topic(&join.topic) else { return };
                let route = Route::new(topic, join.state.id);
                self.keys.insert(join.topic.clone(), route.key());
                let key = route.key();
                self.routes.insert(key, route);
                key
            }
        };
        if let Some(route) = self.routes.get_mut(&key) {
            route.join(join, &self.handle);
        }
    }

    fn leave(&mut self, topic: &str, reader: u64) {
        let Some(key) = self.keys.get(topic).copied() else { return };
        if self.routes.get_mut(&key).is_some_and(|route| route.leave(reader)) {
            self.abandon(topic, false);
        }
    }

    fn mend(&mut self, topic: &str, id: [u8; 16], partition: u32, mend: Mend) {
        let Some(route) = self.keys.get(topic).and_then(|key| self.routes.get_mut(key)) else { return };
        if route.id() != id {
            return;
        }
        match mend {
            Mend::Rewound => self.abandon(topic, true),
            Mend::Resume(_) | Mend::Truncated(_) => route.mend(partition, mend, &self.handle),
        }
    }
}
