//! Limits on connections and requests.

use std::time::Duration;

use audit_host::ServeLimits;

/// Limits on connections and requests, with the reason of each default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Limits on connections. [`idle_timeout`](ServeLimits::idle_timeout) also bounds how long a
    /// WebSocket gives no sign of life: 75 seconds are five pings.
    pub serve: ServeLimits,
    /// Memory for all requests together, in bytes: what arrives, what calls take once they are
    /// parsed, and answers until they are written. JavaScript engines are bounded apart, by their
    /// number. 512 MiB: a host of 2 GiB has room for its cache and its engines beside it.
    pub request_memory_bytes: usize,
    /// The most values in the JSON of one request. 1,000,000: arguments of 16 MiB have fewer,
    /// unless they are meant to be expensive.
    pub max_request_values: usize,
    /// How long a body may take. 60 seconds: 16 MiB at 2.3 Mbit/s.
    pub body_timeout: Duration,
    /// How long a new WebSocket may be silent. 10 seconds: clients send `Connect` at once.
    pub first_message_timeout: Duration,
}

impl Default for NetworkLimits {
    fn default() -> NetworkLimits {
        NetworkLimits {
            serve: ServeLimits::default(),
            request_memory_bytes: 512 << 20,
            max_request_values: 1_000_000,
            body_timeout: Duration::from_secs(60),
            first_message_timeout: Duration::from_secs(10),
        }
    }
}
