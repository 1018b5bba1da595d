//! What every server under test has in common: how clients subscribe to its one channel and how a
//! message gets in.

use anyhow::Result;

use crate::client::Share;
use crate::wire::Wire;

/// A server that runs, on the server's core. Dropping it stops it.
pub trait System {
    /// Its processes, whose CPU time and memory are its own.
    fn pids(&self) -> Result<Vec<u32>>;

    /// How a client subscribes.
    fn subscription(&self) -> Subscription;

    /// How a message is published by HTTP.
    fn publication(&self) -> Publication;
}

/// What a client does to subscribe.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// How messages come.
    pub wire: Wire,
    /// The whole request that opens the stream.
    pub request: String,
    /// What comes.
    pub share: Share,
}

impl Subscription {
    /// To every message, at `path`.
    pub fn to_all(port: u16, wire: Wire, path: &str) -> Self {
        Self { port, wire, request: wire.request(path), share: Share::ALL }
    }
}

/// What a publisher sends on a kept-alive connection.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Request line and headers, without `Content-Length` and the empty line.
    pub head: String,
    /// The body that carries a payload of plain ASCII text without quotes.
    pub body: fn(&[u8]) -> Vec<u8>,
}
