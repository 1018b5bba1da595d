//! Pods that came, went or changed, for whoever asks them.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::world::Name;

/// What nobody has looked at yet: bounded by what there is, without order and without repetition.
#[derive(Default)]
pub struct ChangedPods {
    since: Mutex<Option<Changed>>,
    told: Notify,
}

/// Which pods to look at.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// It cannot be told.
    All,
    /// Those of these names.
    Some(BTreeSet<Name>),
}

impl ChangedPods {
    /// A pod came, went or changed.
    pub fn one(&self, name: Name) {
        match self.since.lock().get_or_insert_with(|| Changed::Some(BTreeSet::new())) {
            Changed::Some(names) => drop(names.insert(name)),
            Changed::All => {}
        }
        self.told.notify_one();
    }

    /// Any of them may have.
    pub fn all(&self) {
        *self.since.lock() = Some(Changed::All);
        self.told.notify_one();
    }

    /// Waits until there is something to look at. Nothing is lost if the wait is given up.
    pub async fn next(&self) -> Changed {
        loop {
            if let Some(changed) = self.since.lock().take() {
                return changed;
            }
            self.told.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_changed_is_told_once_and_all_is_more_than_some() {
        let changed = ChangedPods::default();
        let next = || changed.next().now_or_never();
        let name = |pod: &str| ("a".to_owned(), pod.to_owned());
        assert_eq!(next(), None);
        for pod in ["one", "two", "one"] {
            changed.one(name(pod));
        }
        assert_eq!(next(), Some(Changed::Some([name("one"), name("two")].into())));
        assert_eq!(next(), None);
        changed.one(name("one"));
        changed.all();
        changed.one(name("two"));
        assert_eq!(next(), Some(Changed::All));
        assert_eq!(next(), None);
    }
}
