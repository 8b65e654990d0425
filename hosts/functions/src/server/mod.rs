//! HTTP and WebSocket.

pub mod auth;
