//! How clients are spoken to.

pub mod sse;
pub mod websocket;
