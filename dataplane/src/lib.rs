//! The data plane: carries messages between brokers and clients under the rules of a [`Config`].
//!
//! In reading order: [`config`] (what is loaded) → `runtime` (owns what runs; applies a new config
//! as a difference) → `server` (brokers) → `feed` (ring, cursors) → `policy` → `transport` →
//! `respond`, `drain`, `admin`, `telemetry`. `serve` puts them together.
//!
//! [`Config`]: sluice_config::Config

pub mod config;
pub mod serve;

pub use config::{CursorKey, Loaded, Refused, TlsMaterial};
pub use serve::{Options, ServeError, Server};
