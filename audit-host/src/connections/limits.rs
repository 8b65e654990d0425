//! Limits on connections.

use std::io;
use std::time::Duration;

/// File descriptors reserved for the database, the journal and the bucket: 256, or half of all if
/// the process has few.
const MAX_RESERVED_DESCRIPTORS: usize = 256;

/// The maximum number of operators' connections: enough for a few probes and scrapers.
const OPERATORS_CONNECTIONS: usize = 16;

/// Limits on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// The time from accepting a connection to the end of its first request's header. Default: 10
    /// seconds, since a header is a few packets at most.
    pub header_timeout: Duration,
    /// The time from one response to the end of the next request's header. Default: 75 seconds.
    /// Load balancers keep idle connections for less time (60 seconds by default on AWS), so they
    /// never send a request on a connection that is about to be closed.
    pub idle_timeout: Duration,
    /// How long a client may receive more slowly than [`min_send_rate`](Self::min_send_rate).
    /// Default: 30 seconds, enough for a phone in a tunnel.
    pub send_timeout: Duration,
    /// The minimum average rate at which a client must receive, in bytes a second. Default: 4,096,
    /// less than a phone on the slowest network. A response takes the host's memory until it is
    /// received.
    pub min_send_rate: u32,
    /// The maximum number of connections; further ones are answered 503. Default: `None`, which
    /// allows as many as there are file descriptors, minus 256 (or half of them, if there are few)
    /// for the database, the journal and the bucket.
    pub max_connections: Option<usize>,
    /// The maximum number of connections from one address (for IPv6, from one /64); further ones
    /// are answered 429. An address that has as many connections as are still free gets no more
    /// either, so that a few addresses never take all. `usize::MAX` is no limit. Default: 256,
    /// enough for an office behind one address.
    pub max_connections_per_address: usize,
    /// How long connections have to end once the host is told to stop. Default: 10 seconds.
    /// Together with 15 seconds for the sink, this fits into the 30 seconds that Kubernetes allows
    /// by default.
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
    /// The limits for operators: 16 connections, from any address. They use the reserved
    /// descriptors.
    pub(super) fn for_operators(self) -> ServeLimits {
        ServeLimits {
            max_connections: Some(OPERATORS_CONNECTIONS),
            max_connections_per_address: OPERATORS_CONNECTIONS,
            ..self
        }
    }

    /// The maximum number of connections of this process.
    pub(super) fn connections(&self) -> io::Result<usize> {
        let descriptors = descriptors();
        let kept = reserved_descriptors(descriptors);
        let most = descriptors - kept;
        match self.max_connections {
            None => Ok(most),
            Some(set) if set <= most => Ok(set),
            Some(set) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{set} connections are to be allowed (max_connections), but this process may \
                     have {descriptors} open files, of which {kept} are reserved for the database, \
                     the journal and the bucket: allow at most {most}, or raise the limit \
                     (ulimit -n, LimitNOFILE)"
                ),
            )),
        }
    }
}

/// The number of files that this process may open.
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(1 << 20, |limit| usize::try_from(limit).unwrap_or(1 << 20))
}

/// The process cannot even serve operators.
pub(super) fn too_few_files() -> io::Error {
    let (descriptors, least) = (descriptors(), 2 * OPERATORS_CONNECTIONS);
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "this process may have {descriptors} open files, and a host needs at least {least}: \
             raise the limit (ulimit -n, LimitNOFILE)"
        ),
    )
}

fn reserved_descriptors(descriptors: usize) -> usize {
    (descriptors / 2).min(MAX_RESERVED_DESCRIPTORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_reserved_even_if_there_are_few() {
        assert_eq!([0, 1, 150, 512, 1_024].map(reserved_descriptors), [0, 0, 75, 256, 256]);
        let set = |max_connections| {
            ServeLimits { max_connections, ..ServeLimits::default() }.connections()
        };
        let most = set(None).unwrap();
        assert_eq!(set(Some(most)).unwrap(), most);
        let refused = set(Some(most + 1)).unwrap_err().to_string();
        assert!(refused.ends_with("raise the limit (ulimit -n, LimitNOFILE)"), "{refused}");
    }
}
