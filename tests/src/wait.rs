//! Waiting for a condition with a deadline; there are no sleeps in tests.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long the harness waits for anything that has no tighter bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(15);

/// Looks until `look` gives a value, at most `patience`.
///
/// # Panics
/// If it never does; `what` says what was waited for.
pub async fn within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// [`within`] the harness' usual patience.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    within(PATIENCE, what, look).await
}

/// Awaits `future` for at most `patience`.
///
/// # Panics
/// If it takes longer.
pub async fn at_most<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience, future).await {
        Ok(value) => value,
        Err(_) => panic!("took longer than {patience:?}: {what}"),
    }
}
