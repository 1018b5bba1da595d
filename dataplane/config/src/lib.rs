//! What the operator writes and the data plane reads: specs, their checks, and the rendered
//! [`Config`]. This crate does no I/O and depends on serde and schemars only.

pub mod asyncapi;
pub mod channel;
pub mod check;
pub mod config;
pub mod kafka;
pub mod placement;
pub mod policy;
pub mod server;
pub mod shown;
pub mod span;

pub use channel::{Channel, Lifecycle, LifecycleState, StreamApiSpec};
pub use check::Problem;
pub use config::{Config, Entry, Material};
pub use policy::ChannelPolicy;
pub use span::Span;
