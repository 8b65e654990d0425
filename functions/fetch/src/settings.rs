//! [`FetchSettings`].

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

/// The limits of fetches, and the addresses that they may connect to.
#[derive(Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// The time limit for a response to begin, and for each further part of its body to arrive. The
    /// default is 5 minutes, as in Node.js, since AI models answer slowly. The action's own limit
    /// applies to the whole fetch.
    pub timeout: Duration,
    /// The maximum size of a request body, in bytes. The default is 20 MiB, which is also the limit
    /// of an HTTP action's response.
    pub max_request_bytes: usize,
    /// The maximum size of a response body, in bytes, both compressed and decompressed. The default
    /// is 64 MiB, the memory of a function.
    pub max_response_bytes: usize,
    /// The memory of all fetches together, in bytes. A running fetch takes 1 MiB and its request
    /// body; a response that is complete but unread takes its size. One call may take a quarter of
    /// the total, or enough for one fetch if that is more. Fetches wait for memory. The default is
    /// 128 MiB.
    pub memory_bytes: usize,
    /// Private networks that functions may fetch from. None by default, since a URL may come from a
    /// user.
    pub networks: Vec<IpNet>,
    /// A proxy for all fetches. The proxy resolves names and decides which addresses are allowed;
    /// an address written in a URL is still checked here. None by default, whatever the environment
    /// says.
    pub proxy: Option<Url>,
    /// The addresses of the host's own HTTP actions, which functions may fetch from.
    pub own_addresses: Vec<SocketAddr>,
}

impl Default for FetchSettings {
    fn default() -> FetchSettings {
        FetchSettings {
            timeout: Duration::from_secs(300),
            max_request_bytes: 20 << 20,
            max_response_bytes: 64 << 20,
            memory_bytes: 128 << 20,
            networks: Vec::new(),
            proxy: None,
            own_addresses: Vec::new(),
        }
    }
}

/// Leaves out the proxy's URL, which may contain a password.
impl fmt::Debug for FetchSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchSettings")
            .field("timeout", &self.timeout)
            .field("max_request_bytes", &self.max_request_bytes)
            .field("max_response_bytes", &self.max_response_bytes)
            .field("memory_bytes", &self.memory_bytes)
            .field("networks", &self.networks)
            .field("has_proxy", &self.proxy.is_some())
            .field("own_addresses", &self.own_addresses)
            .finish()
    }
}
