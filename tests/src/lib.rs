//! The harness of Sluice's tests: the real binary, a real Kafka, a real collector, and clients
//! that count what they get. It knows the product by its contract only (`docs/WIRE.md`): nothing
//! here links to the crates under test.
//!
//! Nothing outlives a test process: children die with it, its directory goes with it.

pub mod certs;
pub mod client;
pub mod cluster;
pub mod curve;
pub mod documents;
pub mod kafka;
pub mod ledger;
pub mod load;
pub mod logs;
pub mod metrics;
pub mod otel;
pub mod parts;
pub mod process;
pub mod proxy;
pub mod seed;
pub mod sluice;
pub mod wait;

pub use client::{Sse, WebSocket};
pub use cluster::ControlPlane;
pub use documents::{Api, Documents};
pub use kafka::Cluster;
pub use ledger::{Ledger, Reader};
pub use load::Load;
pub use sluice::Sluice;
pub use wait::{eventually, within};
