//! `Idempotency-Key` of a `POST` (IETF draft-ietf-httpapi-idempotency-key-header-07): a repeated
//! request gets the stored answer instead of publishing twice. Kept per channel and process; a
//! process that died or another replica does not know the key, so consumers still recognise
//! duplicates by the message's id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::message::Outgoing;
use crate::respond::Refusal;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// Answers kept at most per channel; the oldest go first.
const MOST: usize = 10_000;
/// Longest key.
pub const MAX_KEY: usize = 255;

/// The stored answers of one channel.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    answers: HashMap<Key, Answer>,
    order: VecDeque<(Instant, Key)>,
}

type Key = (Arc<str>, Box<str>);

enum Answer {
    Running([u8; 32]),
    Done([u8; 32], String),
}

/// What a request with a key meets.
pub enum Met {
    /// It is the first: it holds the key until it has an answer.
    First(Ticket),
    /// The message was published before, as this id.
    Before(String),
}

/// A key in use. Dropped without an answer, it is free again.
pub struct Ticket {
    answers: Answers,
    key: Option<Key>,
    digest: [u8; 32],
}

impl Answers {
    /// Looks the key of `client` up for `message`.
    pub fn meet(
        &self,
        client: &Arc<str>,
        key: &str,
        message: &Outgoing,
        now: Instant,
    ) -> Result<Met, Refusal> {
        let digest = digest(message);
        let key = (client.clone(), Box::from(key));
        let mut stored = self.0.lock();
        while stored
            .order
            .front()
            .is_some_and(|(at, _)| stored.order.len() >= MOST || now.saturating_duration_since(*at) > KEPT)
        {
            if let Some((_, old)) = stored.order.pop_front() {
                stored.answers.remove(&old);
            }
        }
        match stored.answers.get(&key) {
            Some(Answer::Running(known) | Answer::Done(known, _)) if *known != digest => {
                Err(Refusal::KeyReused)
            }
            Some(Answer::Running(_)) => Err(Refusal::KeyInUse),
            Some(Answer::Done(_, id)) => Ok(Met::Before(id.clone())),
            None => {
                stored.answers.insert(key.clone(), Answer::Running(digest));
                stored.order.push_back((now, key.clone()));
                Ok(Met::First(Ticket { answers: self.clone(), key: Some(key), digest }))
            }
        }
    }
}

impl Ticket {
    /// Keeps the answer if the message was published; what failed may be tried again.
    pub fn finish(mut self, result: &Result<String, Refusal>) {
        if let Ok(id) = result
            && let Some(key) = self.key.take()
        {
            let mut stored = self.answers.0.lock();
            // Unless so many came since that it was let go.
            if let Some(answer) = stored.answers.get_mut(&key) {
                *answer = Answer::Done(self.digest, id.clone());
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let mut stored = self.answers.0.lock();
            // Its place in the order is left; a key that is not there any more costs nothing.
            if matches!(stored.answers.get(&key), Some(Answer::Running(digest)) if *digest == self.digest) {
                stored.answers.remove(&key);
            }
        }
    }
}

fn digest(message: &Outgoing) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(message.payload.as_deref().unwrap_or_default());
    part(message.key.as_deref().unwrap_or_default());
    for (name, value) in &message.headers {
        // A retry has a trace of its own.
        if !matches!(&**name, "traceparent" | "tracestate") {
            part(name.as_bytes());
            part(value);
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Outgoing {
        Outgoing { payload: Some(text.into()), ..Outgoing::default() }
    }

    fn first(answers: &Answers, key: &str, now: Instant) -> Ticket {
        match answers.meet(&"c".into(), key, &message("a"), now) {
            Ok(Met::First(ticket)) => ticket,
            _ => panic!("the key was not free"),
        }
    }

    #[test]
    fn a_repeated_request_gets_the_stored_answer() {
        let (answers, now) = (Answers::default(), Instant::now());
        let ticket = first(&answers, "k", now);
        let again = |text| answers.meet(&"c".into(), "k", &message(text), now);
        assert_eq!(again("a").err(), Some(Refusal::KeyInUse));
        ticket.finish(&Ok("id".into()));
        assert!(matches!(again("a"), Ok(Met::Before(id)) if id == "id"));
        assert_eq!(again("b").err(), Some(Refusal::KeyReused));
        assert!(matches!(answers.meet(&"other".into(), "k", &message("b"), now), Ok(Met::First(_))));
    }

    #[test]
    fn what_failed_may_be_tried_again() {
        let (answers, now) = (Answers::default(), Instant::now());
        first(&answers, "k", now).finish(&Err(Refusal::NotFound));
        drop(first(&answers, "k", now));
        let _free = first(&answers, "k", now);
    }

    #[test]
    fn answers_are_forgotten_in_time_and_number() {
        let (answers, now) = (Answers::default(), Instant::now());
        first(&answers, "k", now).finish(&Ok("id".into()));
        let _again = first(&answers, "k", now + KEPT + Duration::from_secs(1));
        for number in 0..MOST + 10 {
            first(&answers, &number.to_string(), now).finish(&Ok("id".into()));
        }
        let stored = answers.0.lock();
        assert!(stored.answers.len() <= MOST && stored.order.len() <= MOST);
    }
}
