//! A task that sends at an interval, and once more when it is told to end.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Handle of such a task.
pub struct Periodic {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    last: Duration,
}

impl Periodic {
    /// Starts what `task` makes of the word to end; after that word it is given `last`. Must be
    /// called within a runtime.
    pub fn start<F>(last: Duration, task: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(task(stopped)), last }
    }

    /// Has it send once more and waits for its end.
    pub async fn shutdown(self) {
        // The task can only be gone if it panicked; then there is nothing to stop.
        let _ = self.stop.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(self.last, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Ticks that begin after one interval; late ones are not made up for.
pub fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
