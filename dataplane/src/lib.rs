//! The data plane: carries messages between brokers and clients under the rules of a [`Config`].
//!
//! In reading order: [`config`] (what is loaded) → `runtime` (owns what runs; applies a new config
//! as a difference) → `server` (brokers) → `feed` (ring, cursors) → `policy` → `transport` →
//! `respond`, `drain`, `admin`, `telemetry`. `serve` puts them together.
//!
//! [`Config`]: sluice_config::Config

mod admin;
mod asyncapi;
mod channel;
pub mod config;
mod console;
mod cursor;
mod encode;
mod engine;
mod feed;
mod gateway;
#[cfg(test)]
mod guard;
mod http;
mod idempotency;
mod listener;
mod message;
mod negotiate;
mod payload;
mod policy;
mod publish;
mod respond;
mod runtime;
pub mod serve;
mod server;
mod telemetry;
mod tenant;
mod tls;
mod transport;

pub use config::pod::{Mount, PodError, PodSource, Watch};
pub use config::{CursorKey, Loaded, Refused, TlsMaterial};
#[cfg(feature = "bed")]
#[doc(hidden)]
pub use engine::bed;
pub use serve::{Options, ServeError, Server};
