//! The host's HTTP clients, and the limit on the connections that they keep.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::{Client, ClientBuilder};
use tokio::time::{Duration, Instant};
use url::Url;

use crate::FetchError;

/// How long an idle connection is kept for the next request. A minute covers a burst of calls.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

const MAX_IDLE_CONNECTIONS: usize = 8;

/// The maximum number of hosts with idle connections. They have 64 connections in all, a quarter of
/// the descriptors that a process with 1,024 reserves for its store, journal and bucket.
const MAX_KEPT_HOSTS: usize = 8;

/// The maximum number of concurrent fetches in a process that may open this many files: an eighth.
/// With the idle connections this leaves descriptors for everything else.
pub(crate) fn max_fetches(descriptors: usize) -> usize {
    (descriptors / 8).max(1)
}

/// The number of files that this process may open.
pub(crate) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(1 << 20, |limit| usize::try_from(limit).unwrap_or(1 << 20))
}

/// A client that keeps idle connections, for a limited number of hosts, and one that closes
/// connections after each request, for the others. Otherwise a function that fetches from many
/// hosts would use up the descriptors that logs and changes need.
#[derive(Debug)]
pub(crate) struct Clients {
    keeping: Client,
    closing: Client,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Kept {
    max_hosts: usize,
    /// By scheme, host and port.
    hosts: Mutex<HashMap<String, Usage>>,
}

#[derive(Debug)]
struct Usage {
    running: usize,
    last: Instant,
}

/// The use of a host's kept connections by one request. Dropped once the response is.
#[derive(Debug)]
pub(crate) struct Lease {
    kept: Arc<Kept>,
    host: String,
}

impl Clients {
    pub(crate) fn new(
        make: impl Fn() -> Result<ClientBuilder, FetchError>,
        descriptors: usize,
    ) -> Result<Clients, FetchError> {
        // The source describes the host's certificates, which functions must not see.
        let build = |builder: ClientBuilder| {
            let built = builder.pool_idle_timeout(IDLE_CONNECTION_TIMEOUT).build();
            built.map_err(|_| FetchError::new("the host's HTTP client cannot be created"))
        };
        let max_hosts = (descriptors / 128).clamp(1, MAX_KEPT_HOSTS);
        Ok(Clients {
            keeping: build(make()?.pool_max_idle_per_host(MAX_IDLE_CONNECTIONS))?,
            closing: build(make()?.pool_max_idle_per_host(0))?,
            kept: Arc::new(Kept { max_hosts, hosts: Mutex::default() }),
        })
    }

    /// The client for this URL. The lease must be held until the response is dropped.
    pub(crate) fn of(&self, url: &Url) -> (&Client, Option<Arc<Lease>>) {
        match self.kept.lease(url) {
            Some(host) => {
                (&self.keeping, Some(Arc::new(Lease { kept: Arc::clone(&self.kept), host })))
            }
            None => (&self.closing, None),
        }
    }
}

impl Kept {
    /// Counts a request to a host, if its connections may be kept.
    fn lease(&self, url: &Url) -> Option<String> {
        let host = url.origin().ascii_serialization();
        let mut hosts = self.hosts();
        if !hosts.contains_key(&host) && hosts.len() >= self.max_hosts {
            // The client closes idle connections within twice their time.
            let may_have_idle = |usage: &mut Usage| {
                usage.running > 0 || usage.last.elapsed() <= 2 * IDLE_CONNECTION_TIMEOUT
            };
            hosts.retain(|_, usage| may_have_idle(usage));
            if hosts.len() >= self.max_hosts {
                return None;
            }
        }
        let new = Usage { running: 0, last: Instant::now() };
        hosts.entry(host.clone()).or_insert(new).running += 1;
        Some(host)
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Usage>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(usage) = self.kept.hosts().get_mut(&self.host) {
            usage.running -= 1;
            usage.last = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_hosts_have_kept_connections() {
        let clients = Clients::new(|| Ok(Client::builder()), 1_024).unwrap();
        let lease = |n: usize| clients.of(&format!("http://{n}.example/a").parse().unwrap()).1;
        let running: Vec<_> = (0..100).map(lease).collect();
        assert_eq!(running.iter().flatten().count(), MAX_KEPT_HOSTS);
        // A long response keeps its host's place, and further requests to that host use the place.
        tokio::time::advance(10 * IDLE_CONNECTION_TIMEOUT).await;
        assert!(lease(100).is_none() && lease(0).is_some());
        drop(running);
        tokio::time::advance(2 * IDLE_CONNECTION_TIMEOUT).await;
        assert!(lease(100).is_none(), "its connections may still be open");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(lease(100).is_some());
        let few = Clients::new(|| Ok(Client::builder()), 150).unwrap();
        assert_eq!((few.kept.max_hosts, max_fetches(150)), (1, 18));
    }
}
