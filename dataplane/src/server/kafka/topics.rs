//! The topics that somebody wants of one client, and what was last seen of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::Mutex as Turn;

use super::answer::{Description, Fault};
use super::health::{Health, topic_problem};
use super::lookup::Lookup;
use crate::message::Incarnation;

/// A topic that was only published to is looked at for this long after its last use.
const KEPT: Duration = Duration::from_secs(60);
/// A topic that could not be used is looked at again, for a publish, after this long.
const STALE: Duration = Duration::from_millis(250);

/// Between two questions to a broker that does not answer.
const AGAIN: Duration = Duration::from_millis(100);

/// Topics by name.
pub struct Topics {
    lookup: Lookup,
    health: Arc<Health>,
    known: Mutex<HashMap<String, Topic>>,
    /// Publishes to a topic that is not known ask the broker one after the other; the first
    /// answer serves all.
    turn: Turn<()>,
}

struct Topic {
    watchers: usize,
    used: Instant,
    seen: Option<(Instant, Seen)>,
}

#[derive(Clone)]
enum Seen {
    Here(Incarnation),
    Not(Code),
}

impl Topic {
    fn new() -> Self {
        Self { watchers: 0, used: Instant::now(), seen: None }
    }
}

/// Why a topic cannot be published to.
pub enum Unusable {
    /// The broker answered; this is why.
    Refused(String),
    /// The broker did not answer.
    Silent(Fault),
}

impl Topics {
    /// None at first.
    pub fn new(lookup: Lookup, health: Arc<Health>) -> Self {
        Self { lookup, health, known: Mutex::default(), turn: Turn::new(()) }
    }

    /// Somebody wants `topic`.
    pub fn watch(&self, topic: &str) {
        let mut known = self.known.lock();
        known.entry(topic.to_owned()).or_insert_with(Topic::new).watchers += 1;
        drop(known);
        self.health.look_again();
    }

    /// Somebody no longer wants `topic`.
    pub fn unwatch(&self, topic: &str) {
        let mut known = self.known.lock();
        let Some(entry) = known.get_mut(topic) else { return };
        entry.watchers = entry.watchers.saturating_sub(1);
        if entry.watchers == 0 {
            known.remove(topic);
            drop(known);
            self.health.forget(topic);
        }
    }

    /// Every topic to look at. Those nobody watches and nobody used of late are forgotten.
    pub fn names(&self) -> Vec<String> {
        let mut known = self.known.lock();
        known.retain(|_, topic| topic.watchers > 0 || topic.used.elapsed() < KEPT);
        known.keys().cloned().collect()
    }

    /// Takes note of what the broker said.
    pub fn seen(&self, found: &[Description]) {
        for description in found {
            let seen = match description.state {
                Ok(state) => Seen::Here(Incarnation::new(&description.name, &state.id)),
                Err(code) => Seen::Not(code),
            };
            let mut known = self.known.lock();
            let Some(topic) = known.get_mut(&description.name) else { continue };
            topic.seen = Some((Instant::now(), seen));
            let watched = topic.watchers > 0;
            drop(known);
            if watched {
                let problem = description.state.as_ref().err();
                self.health
                    .topic(&description.name, problem.map(|code| topic_problem(&description.name, *code)));
            }
        }
    }

    /// The incarnation of `topic`, from what was seen of it or else by asking, `within` at most.
    pub async fn incarnation(&self, topic: &str, within: Duration) -> Result<Incarnation, Unusable> {
        if let Some(known) = self.remembered(topic) {
            return known;
        }
        let asked = tokio::time::timeout(within, self.ask(topic)).await;
        asked.unwrap_or_else(|_| Err(Unusable::Silent(Fault::of(Code::OperationTimedOut))))
    }

    async fn ask(&self, topic: &str) -> Result<Incarnation, Unusable> {
        let _turn = self.turn.lock().await;
        loop {
            if let Some(known) = self.remembered(topic) {
                return known;
            }
            match self.lookup.describe(vec![topic.to_owned()]).await {
                Ok(found) => self.seen(&found),
                Err(fault) if fault.code == Code::BrokerDestroy => return Err(Unusable::Silent(fault)),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn remembered(&self, topic: &str) -> Option<Result<Incarnation, Unusable>> {
        let mut known = self.known.lock();
        let entry = known.entry(topic.to_owned()).or_insert_with(Topic::new);
        entry.used = Instant::now();
        match &entry.seen {
            Some((_, Seen::Here(incarnation))) => Some(Ok(incarnation.clone())),
            Some((seen, Seen::Not(code))) if seen.elapsed() < STALE => {
                Some(Err(Unusable::Refused(topic_problem(topic, *code))))
            }
            Some((_, Seen::Not(_))) | None => None,
        }
    }
}
