//! What tests on a real cluster share: the cluster that `scripts/e2e` started, a namespace per
//! test, Kafka on the host, and traffic that counts every message. Clients, Kafka and ledgers are
//! those of `sluice-tests`.

pub mod kubernetes;
pub mod namespace;
pub mod prometheus;
pub mod traffic;

pub use kubernetes::{host, kubectl};
pub use namespace::{Namespace, Pod};
pub use traffic::{Traffic, kafka};
