//! What is known of the broker: whether it answers, if not why, and which topics cannot be used.
//! Keeps the server's [`Status`] and logs its changes, and only those.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::Notify;

use super::answer::Fault;
use super::settings::Settings;
use crate::server::Status;

/// Requests that must fail in a row before a broker that answered is called down, unless a
/// connection failed too.
const MISSES: u32 = 2;
/// An error explains later failures for this long; then weaker ones may take its place.
const EXPLAINS: Duration = Duration::from_secs(60);
/// Topics named in the reason.
const NAMED: usize = 5;
/// Between two warnings of librdkafka that reach the log.
const QUIET: Duration = Duration::from_secs(30);

/// Shared by the polling threads and the tasks of one client.
pub struct Health {
    settings: Settings,
    status: Arc<Status>,
    look: Notify,
    /// Whether `unwritable` holds anything; spares acknowledgements the lock.
    refusals: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    up: bool,
    misses: u32,
    /// What explains a failure best, and when it was seen.
    cause: Option<Cause>,
    /// Why topics cannot be used, by topic.
    topics: BTreeMap<String, String>,
    /// Why topics cannot be read although they are there.
    unreadable: BTreeMap<String, String>,
    /// Why topics cannot be written to although they are there.
    unwritable: BTreeMap<String, String>,
    warned: Option<Instant>,
}

/// An error that explains why the broker does not answer.
struct Cause {
    seen: Instant,
    rank: Rank,
    /// librdkafka's words; they name brokers, so they are for operators only.
    detail: String,
}

/// Kinds of errors; the later explains more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Silence,
    Closed,
    Connection,
    Name,
    Tls,
    Login,
    Broken,
}

impl Rank {
    const fn words(self) -> &'static str {
        match self {
            Self::Silence => "the broker does not answer in time",
            Self::Closed => "the broker closes the connection; it may want `tls` or `sasl`",
            Self::Connection => "the broker cannot be reached",
            Self::Name => "the broker's name cannot be resolved",
            Self::Tls => "TLS to the broker fails",
            Self::Login => "the broker refuses the login; check mechanism, user name and password",
            Self::Broken => "reading stopped by a fault of this program; restart it",
        }
    }
}

impl Health {
    /// The state starts as [`Status`] does: not up, connecting.
    pub fn new(settings: Settings, status: Arc<Status>) -> Self {
        Self {
            settings,
            status,
            look: Notify::new(),
            refusals: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Waits until somebody has reason to doubt what is known.
    pub async fn doubted(&self) {
        self.look.notified().await;
    }

    /// What is known may be wrong.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// An error of a connection or of the client.
    pub fn error(&self, code: Code, reason: &str) {
        tracing::debug!(target: "librdkafka", ?code, "{}", self.settings.scrub(reason));
        let all_down = code == Code::AllBrokersDown;
        let mut state = self.state.lock();
        if !all_down {
            let (rank, detail) = explain(code, &self.settings.scrub(reason));
            state.note(rank, detail);
        }
        if all_down && state.up {
            state.up = false;
        }
        self.publish(&state);
        drop(state);
        self.look_again();
    }

    /// The broker answered.
    pub fn answered(&self) {
        let mut state = self.state.lock();
        state.up = true;
        state.misses = 0;
        state.cause = None;
        self.publish(&state);
    }

    /// The broker did not answer.
    pub fn silent(&self, fault: &Fault) {
        let mut state = self.state.lock();
        let (rank, detail) = explain(fault.code, &self.settings.scrub(&fault.reason));
        state.note(rank, detail);
        state.misses += 1;
        if state.misses >= MISSES || state.cause.as_ref().is_some_and(|cause| cause.rank > Rank::Silence) {
            state.up = false;
        }
        self.publish(&state);
    }

    /// What keeps `topic` from being used, if anything.
    pub fn topic(&self, topic: &str, problem: Option<String>) {
        let mut state = self.state.lock();
        match problem {
            Some(problem) => state.topics.insert(topic.to_owned(), problem),
            None => state.topics.remove(topic),
        };
        self.publish(&state);
    }

    /// `topic` is no longer of interest.
    pub fn forget(&self, topic: &str) {
        let mut state = self.state.lock();
        state.topics.remove(topic);
        state.unreadable.remove(topic);
        state.unwritable.remove(topic);
        self.publish(&state);
    }

    /// A partition cannot be fetched although the topic is there.
    pub fn unreadable(&self, topic: &str, code: Code, partition: u32, position: i64) {
        let problem = match code {
            Code::TopicAuthorizationFailed => {
                format!("the broker does not let this user read topic `{topic}`; grant Read on it")
            }
            code => format!(
                "topic `{topic}` cannot be read at offset {position} of partition {partition}: {}",
                words(code)
            ),
        };
        let mut state = self.state.lock();
        state.unreadable.insert(topic.to_owned(), problem);
        self.publish(&state);
    }

    /// Records of `topic` arrive.
    pub fn readable(&self, topic: &str) {
        let mut state = self.state.lock();
        if state.unreadable.remove(topic).is_some() {
            self.publish(&state);
        }
    }

    /// A message for `topic` was refused for a reason that stays until somebody changes something.
    pub fn unwritable(&self, topic: &str, problem: &str) {
        let mut state = self.state.lock();
        state.unwritable.insert(topic.to_owned(), problem.to_owned());
        self.refusals.store(true, Ordering::Relaxed);
        self.publish(&state);
    }

    /// A message for `topic` was acknowledged.
    pub fn writable(&self, topic: &str) {
        if !self.refusals.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if state.unwritable.remove(topic).is_some() {
            self.refusals.store(!state.unwritable.is_empty(), Ordering::Relaxed);
            self.publish(&state);
        }
    }

    /// The polling thread is gone.
    pub fn broken(&self) {
        let mut state = self.state.lock();
        state.up = false;
        state.note(Rank::Broken, String::new());
        self.publish(&state);
    }

    /// Why the broker does not answer, if it does not, in words for everybody.
    pub fn down(&self) -> Option<&'static str> {
        let state = self.state.lock();
        let cause = state.cause.as_ref().filter(|_| !state.up);
        cause.map(|cause| cause.rank.words())
    }

    /// `text` without user name and password.
    pub fn scrubbed(&self, text: &str) -> String {
        self.settings.scrub(text)
    }

    /// A log line of librdkafka. Lost connections are its daily bread and told by the status.
    pub fn log(&self, level: i32, facility: &str, text: &str) {
        let text = self.settings.scrub(text);
        // A connection closed by the broker is no error to librdkafka, even if each one is.
        if facility == "FAIL" && text.contains("Disconnected") && !text.contains("SSL") {
            self.closed(&text);
        }
        let passing = ["FAIL", "ERROR", "GETPID", "REQTMOUT", "REBOOTSTRAP"];
        if level > 4 || passing.contains(&facility) || !self.may_warn() {
            tracing::debug!(target: "librdkafka", level, facility, "{text}");
        } else {
            tracing::warn!(target: "librdkafka", facility, brokers = self.settings.brokers(), "{text}");
        }
    }

    fn closed(&self, line: &str) {
        let line = line.split_once("]: ").map_or(line, |(_, line)| line);
        let line = line.split(" (after ").next().unwrap_or(line);
        let mut state = self.state.lock();
        if !state.up {
            state.note(Rank::Closed, line.to_owned());
            self.publish(&state);
        }
    }

    fn may_warn(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let may = state.warned.is_none_or(|last| now.duration_since(last) >= QUIET);
        if may {
            state.warned = Some(now);
        }
        may
    }

    fn publish(&self, state: &State) {
        let reason = state.reason();
        if !self.status.set(state.up, reason.clone()) {
            return;
        }
        let brokers = self.settings.brokers();
        match (state.up, reason) {
            (true, None) => tracing::info!(brokers, "Kafka answers"),
            (true, Some(reason)) => tracing::warn!(brokers, "Kafka answers, but {reason}"),
            (false, reason) => {
                let reason = reason.unwrap_or_default();
                tracing::warn!(brokers, "Kafka does not answer: {reason}");
            }
        }
    }
}

impl State {
    fn note(&mut self, rank: Rank, detail: String) {
        let seen = Instant::now();
        match &mut self.cause {
            // The first of equals stays: brokers take turns in failing, and each has its own words.
            Some(known) if known.rank == rank => known.seen = seen,
            Some(known) if known.rank > rank => {
                let outdated = seen.duration_since(known.seen) > EXPLAINS && known.rank < Rank::Broken;
                if outdated && rank > Rank::Silence {
                    self.cause = Some(Cause { seen, rank, detail });
                }
            }
            Some(_) | None => self.cause = Some(Cause { seen, rank, detail }),
        }
    }

    fn reason(&self) -> Option<String> {
        if !self.up {
            return Some(match &self.cause {
                None => "connecting".into(),
                Some(cause) if cause.detail.is_empty() => cause.rank.words().into(),
                Some(cause) => format!("{} ({})", cause.rank.words(), cause.detail),
            });
        }
        let problems: Vec<&str> = [&self.topics, &self.unreadable, &self.unwritable]
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(String::as_str)
            .collect();
        match problems.len() {
            0 => None,
            count if count <= NAMED => Some(problems.join("; ")),
            count => Some(format!("{}; and {} more", problems[..NAMED].join("; "), count - NAMED)),
        }
    }
}

/// Words for why a topic cannot be used, for the status and for who publishes.
pub fn topic_problem(topic: &str, code: Code) -> String {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => {
            format!("topic `{topic}` does not exist at the broker; create it")
        }
        Code::TopicAuthorizationFailed => {
            format!("the broker does not let this user see topic `{topic}`; grant Read or Write on it")
        }
        code => format!("topic `{topic}` cannot be used: {}", words(code)),
    }
}

/// librdkafka's words for `code`, without rdkafka's name for it.
pub fn words(code: Code) -> String {
    let text = code.to_string();
    let words = text.split_once(" (").and_then(|(_, words)| words.strip_suffix(')'));
    words.map_or(text.clone(), |words| {
        words.trim_start_matches("Local: ").trim_start_matches("Broker: ").to_owned()
    })
}

/// What kind of error it is, with librdkafka's words. It appends how long something took; without
/// that the same failure keeps the same words.
fn explain(code: Code, reason: &str) -> (Rank, String) {
    let reason = reason.split(" (after ").next().unwrap_or(reason).trim_end_matches([' ', ':']);
    let rank = match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => Rank::Login,
        // A broker that does not like our certificate says so only after the handshake.
        _ if code == Code::SSL || reason.contains("SSL ") => Rank::Tls,
        Code::Resolve => Rank::Name,
        Code::OperationTimedOut | Code::TimedOutQueue | Code::RequestTimedOut => {
            return (Rank::Silence, String::new());
        }
        _ => Rank::Connection,
    };
    (rank, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_cause_is_told_and_words_do_not_flap() {
        let mut state = State::default();
        let fail = |state: &mut State, code, reason| {
            let (rank, text) = explain(code, reason);
            state.note(rank, text);
        };
        fail(&mut state, Code::OperationTimedOut, "x");
        fail(&mut state, Code::BrokerTransportFailure, "a:1: refused (after 0ms in state CONNECT)");
        let first = state.reason();
        assert_eq!(first.as_deref(), Some("the broker cannot be reached (a:1: refused)"));
        fail(&mut state, Code::BrokerTransportFailure, "b:1: refused (after 3ms in state CONNECT)");
        fail(&mut state, Code::OperationTimedOut, "x");
        assert_eq!(state.reason(), first);
        fail(&mut state, Code::Authentication, "SASL failed");
        assert!(state.reason().is_some_and(|reason| reason.contains("refuses the login")));
        fail(&mut state, Code::BrokerTransportFailure, "a:1: refused");
        assert!(state.reason().is_some_and(|reason| reason.contains("refuses the login")));
    }

    #[test]
    fn codes_read_as_words() {
        assert_eq!(words(Code::PurgeInflight), "Purged in flight");
        assert_eq!(words(Code::InvalidRecord), "Broker failed to validate record");
    }

    #[test]
    fn problems_of_topics_show_while_up() {
        let mut state = State { up: true, ..State::default() };
        assert_eq!(state.reason(), None);
        for n in 0..7 {
            let topic = format!("t{n}");
            let problem = topic_problem(&topic, Code::UnknownTopicOrPartition);
            state.topics.insert(topic, problem);
        }
        let reason = state.reason().expect("problems");
        assert!(reason.starts_with("topic `t0` does not exist at the broker; create it; "), "{reason}");
        assert!(reason.ends_with("and 2 more"), "{reason}");
    }
}
