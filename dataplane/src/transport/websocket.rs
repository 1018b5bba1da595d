//! WebSocket (RFC 6455): frames, the upgrade, and what clients send.

pub mod frame;
pub mod inbound;
pub mod protocol;
pub mod upgrade;
