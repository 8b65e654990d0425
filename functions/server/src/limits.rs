//! What the network may take of a host.

use std::time::Duration;

/// Limits on connections and requests. The defaults say why they are what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Memory for all requests together, in bytes: what arrives, and what calls take once they are
    /// parsed. JavaScript engines are bounded apart, by their number. 512 MiB: a host of 2 GiB has
    /// room for its cache and its engines beside it.
    pub request_memory_bytes: usize,
    /// How many values the JSON of one request may have. 1,000,000: arguments of 16 MiB have fewer
    /// unless they are made to be expensive.
    pub max_request_values: usize,
    /// How many connections there may be. `None`: as many as there are file descriptors for, with
    /// [some kept back](descriptors_kept_back) for the sink and the store.
    pub max_connections: Option<usize>,
    /// How many there may be from one address (of IPv6, from one /64), unless it is a trusted
    /// proxy's. 256: an office behind one address, and not the whole of a host.
    pub max_connections_per_address: usize,
    /// How long the headers of a request may take, and how long a connection may be idle before
    /// them. 30 seconds: longer than any client takes, and than a lost packet.
    pub header_timeout: Duration,
    /// How long a body may take. 60 seconds: 16 MiB at 2.3 Mbit/s.
    pub body_timeout: Duration,
    /// How long a WebSocket may say nothing at first. 10 seconds: clients send `Connect` at once.
    pub first_message_timeout: Duration,
    /// How long a client may give no sign of life: on a WebSocket an answer to a ping counts, on
    /// any connection that it takes what it is sent. 60 seconds: four pings.
    pub idle_timeout: Duration,
    /// How long calls and sessions in flight have to end once the host is told to stop. 10 seconds:
    /// with 15 for the sink it fits into the 30 that Kubernetes allows by default.
    pub drain_timeout: Duration,
}

impl Default for NetworkLimits {
    fn default() -> NetworkLimits {
        NetworkLimits {
            request_memory_bytes: 512 << 20,
            max_request_values: 1_000_000,
            max_connections: None,
            max_connections_per_address: 256,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            first_message_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Of this many file descriptors, how many are kept for the sink, the journal and the store: 256,
/// or half of them where there are few.
pub fn descriptors_kept_back(descriptors: usize) -> usize {
    (descriptors / 2).min(256)
}

impl NetworkLimits {
    /// How many connections there may be in this process.
    ///
    /// # Errors
    ///
    /// If more are set than there are file descriptors for.
    pub fn connections(&self) -> Result<usize, String> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.map_or(1 << 20, |limit| usize::try_from(limit).unwrap_or(1 << 20));
        let most = descriptors - descriptors_kept_back(descriptors);
        match self.max_connections {
            None => Ok(most),
            Some(set) if set <= most => Ok(set),
            Some(set) => Err(format!(
                "max_connections is {set}, and this process may have {descriptors} open files, of which {} are kept for the journal, \
                 the bucket and the store: set it to at most {most}, or raise the limit (ulimit -n, LimitNOFILE)",
                descriptors - most
            )),
        }
    }
}
