//! The task that keeps an eye on the broker: whether it answers, what became of the topics, and
//! partitions that cannot be read on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::answer::{EARLIEST, Fault, LATEST};
use super::health::Health;
use super::lookup::{Command, Lookup, Mend, Trouble};
use super::topics::Topics;

/// Between two looks while all is well.
const LOOK: Duration = Duration::from_secs(3);
/// Between two looks while a topic is missing.
const MISSING: Duration = Duration::from_secs(1);
/// Between two looks while the broker does not answer, or while there are doubts.
const SOON: Duration = Duration::from_millis(250);
/// How long a log may end below what was read of it before that counts as lost: a new leader
/// may take a moment to know its end (wire.md waits as long for a cursor).
const BEYOND: Duration = Duration::from_secs(30);
/// Between two tries to mend a partition.
const RETRY: Duration = Duration::from_millis(500);

/// What the task works with.
pub struct Keeper {
    /// Asks the broker.
    pub lookup: Lookup,
    /// Learns what is seen.
    pub health: Arc<Health>,
    /// Learns what is seen.
    pub topics: Arc<Topics>,
    /// Called after every look.
    pub tidy: Box<dyn Fn() + Send + Sync>,
}

impl Keeper {
    /// Runs until aborted.
    pub async fn run(self, mut troubles: mpsc::UnboundedReceiver<Trouble>) {
        let mut mending = JoinSet::new();
        let looking = async {
            loop {
                let pause = self.look().await;
                (self.tidy)();
                let earliest = Instant::now() + SOON;
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.health.doubted() => tokio::time::sleep_until(earliest).await,
                }
            }
        };
        let troubled = async {
            while let Some(trouble) = troubles.recv().await {
                // A partition is in trouble once at a time, so there are no more tasks than those.
                while mending.try_join_next().is_some() {}
                mending.spawn(mend(self.lookup.clone(), trouble));
            }
        };
        tokio::join!(looking, troubled);
    }

    async fn look(&self) -> Duration {
        match self.lookup.describe(self.topics.names()).await {
            Ok(found) => {
                self.topics.seen(&found);
                self.health.answered();
                let all_there = found.iter().all(|description| description.state.is_ok());
                if all_there { LOOK } else { MISSING }
            }
            Err(fault) => {
                self.health.silent(&fault);
                SOON
            }
        }
    }
}

/// Finds out why a partition cannot be read on, until it can.
async fn mend(lookup: Lookup, trouble: Trouble) {
    let Trouble { topic, id, partition, position } = trouble;
    let began = Instant::now();
    loop {
        match judge(&lookup, &topic, id, partition, position).await {
            Ok(Verdict::Mend(mend)) => {
                match mend {
                    Mend::Resume(_) => tracing::debug!(topic, partition, position, "read on"),
                    Mend::Truncated(low) => tracing::warn!(
                        topic,
                        partition,
                        position,
                        low,
                        "the broker no longer has what comes next; going on at the oldest it has"
                    ),
                    Mend::Rewound => {}
                }
                return lookup.send(Command::Mend { topic, id, partition, mend });
            }
            Ok(Verdict::Beyond(end)) if began.elapsed() >= BEYOND => {
                tracing::error!(
                    topic,
                    partition,
                    position,
                    end,
                    "the broker lost records that were read already; starting the topic anew"
                );
                return lookup.send(Command::Mend { topic, id, partition, mend: Mend::Rewound });
            }
            // Another life of the topic: the polling thread saw it too and starts anew.
            Ok(Verdict::Gone) => return,
            Ok(Verdict::Beyond(_)) | Err(_) => sleep(RETRY).await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Mend(Mend),
    Beyond(i64),
    Gone,
}

async fn judge(
    lookup: &Lookup,
    topic: &str,
    id: [u8; 16],
    partition: u32,
    position: i64,
) -> Result<Verdict, Fault> {
    match lookup.describe_one(topic).await {
        Ok(state) if state.id != id => return Ok(Verdict::Gone),
        Err(fault) if matches!(fault.code, Code::BrokerDestroy) => return Ok(Verdict::Gone),
        Err(fault) => return Err(fault),
        Ok(_) => {}
    }
    let lows = lookup.offsets(topic, std::iter::once(partition), EARLIEST).await?;
    let ends = lookup.offsets(topic, std::iter::once(partition), LATEST).await?;
    let of = |found: Vec<(u32, i64)>| found.into_iter().collect::<HashMap<_, _>>().remove(&partition);
    let missing = || Fault::of(Code::UnknownPartition);
    Ok(verdict(position, of(lows).ok_or_else(missing)?, of(ends).ok_or_else(missing)?))
}

fn verdict(position: i64, low: i64, end: i64) -> Verdict {
    if position < low {
        Verdict::Mend(Mend::Truncated(low))
    } else if position > end {
        Verdict::Beyond(end)
    } else {
        Verdict::Mend(Mend::Resume(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_judged_by_what_the_broker_has() {
        assert_eq!(verdict(10, 0, 20), Verdict::Mend(Mend::Resume(10)));
        assert_eq!(verdict(20, 0, 20), Verdict::Mend(Mend::Resume(20)));
        assert_eq!(verdict(10, 15, 20), Verdict::Mend(Mend::Truncated(15)));
        assert_eq!(verdict(21, 0, 20), Verdict::Beyond(20));
    }
}
