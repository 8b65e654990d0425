//! Limits on connections.

use std::io;
use std::time::Duration;

/// Open files that are reserved for the database, the journal and the bucket: 256, or half of them
/// if the process may have few.
const MAX_DESCRIPTORS_KEPT: usize = 256;

/// Connections of operators at once: a few probes and scrapers.
const OPERATORS_CONNECTIONS: usize = 16;

/// Limits on connections. Each default has its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// From accepting a connection to the end of its first request's header. 10 seconds: a header
    /// is one packet or a few.
    pub header_timeout: Duration,
    /// From one response to the end of the next request's header. 75 seconds: longer than load
    /// balancers keep an idle connection (60 seconds by default on AWS), so that they never send a
    /// request into one that is about to be closed.
    pub idle_timeout: Duration,
    /// How long a client may receive more slowly than [`min_send_rate`](Self::min_send_rate). 30
    /// seconds: longer than a phone is without network in a tunnel.
    pub send_timeout: Duration,
    /// The least average rate at which a client must receive, in bytes a second. 4,096: slower than
    /// a phone on the slowest network. Until a response is received it takes the host's memory.
    pub min_send_rate: u32,
    /// Connections at once; more are answered 503. `None`: as many as there are file descriptors
    /// for, with 256 of them kept back (or half of them, where there are few) for the database,
    /// the journal and the bucket.
    pub max_connections: Option<usize>,
    /// Connections at once from one address (of IPv6, from one /64); more are answered 429. 256: an
    /// office behind one address, and not the whole of a host.
    pub max_connections_per_address: usize,
    /// How long connections have to end once the host is told to stop. 10 seconds: together with
    /// 15 seconds for the sink it fits into the 30 that Kubernetes allows by default.
    pub drain_timeout: Duration,
}

impl Default for ServeLimits {
    fn default() -> ServeLimits {
        ServeLimits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_secs(30),
            min_send_rate: 4_096,
            max_connections: None,
            max_connections_per_address: 256,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl ServeLimits {
    /// The limits of a listener that only operators reach: 16 connections, from any address. They
    /// use reserved descriptors.
    pub fn for_operators(self) -> ServeLimits {
        ServeLimits {
            max_connections: Some(OPERATORS_CONNECTIONS),
            max_connections_per_address: OPERATORS_CONNECTIONS,
            ..self
        }
    }

    /// The most connections of this process.
    pub(super) fn connections(&self) -> io::Result<usize> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.map_or(1 << 20, |limit| usize::try_from(limit).unwrap_or(1 << 20));
        let kept = descriptors_kept(descriptors);
        let most = descriptors - kept;
        match self.max_connections {
            None => Ok(most),
            Some(set) if set <= most => Ok(set),
            Some(set) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "max_connections is {set}, and this process may have {descriptors} open \
                     files, of which {kept} are kept for the database, the journal and the \
                     bucket: set it to at most {most}, or raise the limit (ulimit -n, LimitNOFILE)"
                ),
            )),
        }
    }
}

fn descriptors_kept(descriptors: usize) -> usize {
    (descriptors / 2).min(MAX_DESCRIPTORS_KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_back_however_few_there_are() {
        assert_eq!([0, 1, 150, 512, 1_024].map(descriptors_kept), [0, 0, 75, 256, 256]);
        let set = |max_connections| {
            ServeLimits { max_connections, ..ServeLimits::default() }.connections()
        };
        let most = set(None).unwrap();
        assert_eq!(set(Some(most)).unwrap(), most);
        let refused = set(Some(most + 1)).unwrap_err().to_string();
        assert!(refused.ends_with("or raise the limit (ulimit -n, LimitNOFILE)"), "{refused}");
    }
}
