//! One reading of a topic: finds out where to start, as often as it has to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::answer::{EARLIEST, Fault, LATEST, TopicState};
use super::lookup::{Command, Join, Lookup, Ties};
use super::window::Search;
use crate::message::Incarnation;
use crate::server::{Inlet, Opening};

/// First and longest pause after a failed try.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
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
        let (lookup, topic) = (&self.lookup, self.topic.as_str());
        let state = lookup.describe_one(topic).await?;
        let incarnation = Incarnation::new(topic, &state.id);
        let (lows, ends) = tokio::try_join!(
            lookup.offsets(topic, 0..state.partitions, EARLIEST),
            lookup.offsets(topic, 0..state.partitions, LATEST),
        )?;
        let (lows, ends) = (by_partition(&lows, state), by_partition(&ends, state));
        let resume = self.inlet.resume().filter(|resume| !rewound && resume.incarnation == incarnation);
        let starts = match resume {
            Some(resume) => resumed(&resume.positions, &lows),
            None => self.window(lows, ends.clone()).await?,
        };
        Ok((state, Opening { incarnation, starts, ends }))
    }

    async fn window(&self, lows: Vec<i64>, ends: Vec<i64>) -> Result<Vec<i64>, Fault> {
        let mut search = Search::new(&self.inlet.window(), lows, ends, now());
        while let Some(time) = search.ask() {
            let partitions: Vec<u32> = search.partitions().collect();
            let found = self.lookup.offsets(&self.topic, partitions.into_iter(), time).await?;
            search.answer(&found);
        }
        Ok(search.starts())
    }
}

/// Where a feed that holds everything below `positions` goes on. What the broker no longer has is
/// told by the feed; partitions it has never seen are read from their beginning.
fn resumed(positions: &[i64], lows: &[i64]) -> Vec<i64> {
    let known = positions.iter().copied().chain(std::iter::repeat(0));
    lows.iter().zip(known).map(|(low, position)| position.max(*low)).collect()
}

fn by_partition(found: &[(u32, i64)], state: TopicState) -> Vec<i64> {
    let mut offsets = vec![0; state.partitions as usize];
    for (partition, offset) in found {
        if let Some(place) = offsets.get_mut(*partition as usize) {
            *place = (*offset).max(0);
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
