//! One reading of a topic: finds out where to start, as often as it has to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::answer::{EARLIEST, Fault, LATEST, TopicState};
use super::lookup::{Command, Join, Lookup, Ties};
use super::window::{Answer, Search};
use crate::message::Incarnation;
use crate::server::{Inlet, Opening};

/// First and longest pause after a failed try. While the broker is away a try itself waits for it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a topic that was just left for another life may still be described as before, by a
/// broker that has not heard of it.
const LAGGING: Duration = Duration::from_secs(5);

/// What the task works with.
pub struct Reader {
    /// Asks the broker.
    pub lookup: Lookup,
    /// Topic.
    pub topic: String,
    /// Number, unique within the client.
    pub number: u64,
    /// Where records go.
    pub inlet: Inlet,
    /// The ties to the polling thread.
    pub ties: Arc<Ties>,
}

impl Reader {
    /// Runs until aborted.
    pub async fn run(self) {
        let mut left = None;
        loop {
            let rewound = self.ties.rewound.swap(false, Ordering::Relaxed);
            let (state, opening) = self.prepare(left, rewound).await;
            let wipe = rewound.then(|| Opening {
                incarnation: Incarnation::new(&self.topic, b"rewound"),
                ..opening.clone()
            });
            self.lookup.send(Command::Join(Box::new(Join {
                topic: self.topic.clone(),
                state,
                reader: self.number,
                inlet: self.inlet.clone(),
                opening,
                wipe,
                ties: self.ties.clone(),
            })));
            self.ties.restart.notified().await;
            left = (!self.ties.rewound.load(Ordering::Relaxed)).then_some((Instant::now(), state.id));
        }
    }

    async fn prepare(&self, left: Option<(Instant, [u8; 16])>, rewound: bool) -> (TopicState, Opening) {
        let mut pause = BACKOFF.0;
        loop {
            match self.opening(rewound).await {
                Ok((state, opening)) => {
                    let lagging =
                        |(since, id): (Instant, [u8; 16])| id == state.id && since.elapsed() < LAGGING;
                    if !left.is_some_and(lagging) {
                        return (state, opening);
                    }
                }
                // The status tells; this is only why the reading does not start.
                Err(fault) => tracing::debug!(topic = self.topic, "cannot start to read: {fault}"),
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn opening(&self, rewound: bool) -> Result<(TopicState, Opening), Fault> {
        let topic = self.topic.as_str();
        let state = self.lookup.describe_one(topic).await?;
        let incarnation = Incarnation::new(topic, &state.id);
        let resume = self.inlet.resume().filter(|resume| !rewound && resume.incarnation == incarnation);
        let bounds = async { tokio::try_join!(self.offsets(state, EARLIEST), self.offsets(state, LATEST)) };
        let (starts, ends) = if let Some(resume) = resume {
            let (lows, ends) = bounds.await?;
            (resumed(&resume.positions, &lows), ends)
        } else {
            let (replay, now) = (self.inlet.window(), now());
            let times = Search::first(&replay, now);
            let ((lows, ends), first) = tokio::try_join!(bounds, self.offsets_at(state, times))?;
            let mut search = Search::new(&replay, lows, ends.clone(), now, first);
            search.narrow(self.offsets_at(state, search.second()).await?);
            (search.starts(), ends)
        };
        Ok((state, Opening { incarnation, starts, ends }))
    }

    async fn offsets_at(&self, state: TopicState, times: Vec<i64>) -> Result<Vec<Answer>, Fault> {
        let answers = times.into_iter().map(|time| async move {
            let found = self.lookup.offsets(&self.topic, 0..state.partitions, time).await?;
            Ok(Answer { time, offsets: by_partition(&found, state) })
        });
        futures::future::try_join_all(answers).await
    }

    async fn offsets(&self, state: TopicState, spec: i64) -> Result<Vec<i64>, Fault> {
        let found = self.lookup.offsets(&self.topic, 0..state.partitions, spec).await?;
        Ok(by_partition(&found, state))
    }
}

/// Where a feed that holds everything below `positions` goes on. What the broker no longer has is
/// told by the feed; partitions it has never seen are read from their beginning.
fn resumed(positions: &[i64], lows: &[i64]) -> Vec<i64> {
    let known = positions.iter().copied().chain(std::iter::repeat(0));
    lows.iter().zip(known).map(|(low, position)| position.max(*low)).collect()
}

fn by_partition(found: &[(u32, i64)], state: TopicState) -> Vec<i64> {
    let mut offsets = vec![-1; state.partitions as usize];
    for (partition, offset) in found {
        if let Some(place) = offsets.get_mut(*partition as usize) {
            *place = *offset;
        }
    }
    offsets
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resuming_feed_goes_on_where_it_is_or_at_the_oldest_left() {
        assert_eq!(resumed(&[5, 50], &[0, 60]), vec![5, 60]);
        assert_eq!(resumed(&[5], &[0, 0, 3]), vec![5, 0, 3]);
    }
}
