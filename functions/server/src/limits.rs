//! Limits on connections and requests.

use std::time::Duration;

use audit_host::ServeLimits;

/// Limits on connections and requests, with the reason of each default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Limits on connections. [`idle_timeout`](ServeLimits::idle_timeout) also limits how long a
    /// WebSocket may go without a heartbeat: its default of 75 seconds is five pings.
    pub serve: ServeLimits,
    /// The memory of all requests together, in bytes: incomplete bodies, parsed calls, and
    /// responses until they are written. JavaScript engines are limited separately, by their
    /// number. The default is 512 MiB, which leaves a host of 2 GiB room for its cache and its
    /// engines.
    pub request_memory_bytes: usize,
    /// The maximum number of values in the JSON of one request. The default is 1,000,000; arguments
    /// of 16 MiB have fewer, unless they are made to be expensive.
    pub max_request_values: usize,
    /// The time limit for receiving a body. The default is 60 seconds, in which 16 MiB arrive at
    /// 2.3 Mbit/s.
    pub body_timeout: Duration,
    /// How long a new WebSocket may be silent. The default is 10 seconds; clients send `Connect`
    /// immediately.
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
