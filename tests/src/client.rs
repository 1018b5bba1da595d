//! Clients written from the contract: they share no code with what they test.

pub mod follower;
pub mod frame;
pub mod http;
pub mod raw;
pub mod sse;
pub mod websocket;

pub use follower::Follower;
pub use frame::Frame;
pub use sse::Sse;
pub use websocket::WebSocket;
