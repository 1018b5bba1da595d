//! The memory of rings: one budget of the process, of which every API has a share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that all rings of a process may hold together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// APIs that have rings.
    shares: AtomicUsize,
}

/// What the rings of one API hold of a [`Budget`].
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    used: AtomicUsize,
    rings: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), shares: AtomicUsize::new(0) }
    }

    /// Bytes allowed.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Of an API that holds nothing yet.
    pub fn of(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: budget.clone(), used: AtomicUsize::new(0), rings: AtomicUsize::new(0) })
    }

    /// Bytes are held from now on.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes are not held any more.
    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The API has one ring more.
    pub fn add_ring(&self) {
        if self.rings.fetch_add(1, Ordering::SeqCst) == 0 {
            self.budget.shares.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// And one less.
    pub fn remove_ring(&self) {
        if self.rings.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.budget.shares.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether a ring that holds `bytes` must give some back: the budget is spent, its API has more
    /// than an equal part of it, and it has more than an equal part of that.
    pub fn is_over(&self, bytes: usize) -> bool {
        if self.budget.used() <= self.budget.limit {
            return false;
        }
        let part = self.budget.limit / self.budget.shares.load(Ordering::Relaxed).max(1);
        let used = self.used.load(Ordering::Relaxed);
        used > part && bytes > part / self.rings.load(Ordering::Relaxed).max(1)
    }
}
