//! The settings of fetches.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

/// The limits of fetches, and where they may go.
#[derive(Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// How long a response may take to begin, and how long the next bytes of its body may take. The
    /// default is 5 minutes, as in Node.js: models answer slowly. The whole has the action's time.
    pub timeout: Duration,
    /// The most bytes of a request's body. The default is 20 MiB, the most that an HTTP action may
    /// respond with.
    pub max_request_bytes: usize,
    /// The most bytes of a response's body, as it arrives and as it is decompressed. The default is
    /// 64 MiB, which is a function's memory.
    pub max_response_bytes: usize,
    /// The memory of all fetches together, in bytes. Each takes 1 MiB while it is under way, and
    /// the body of its request; a response that was received and not read takes its bytes. One call
    /// may take a quarter, or one fetch if that is more. What finds no room waits. The default is
    /// 128 MiB.
    pub memory_bytes: usize,
    /// Networks that may be fetched from though they are not public. None by default: the URL may
    /// be a user's.
    pub networks: Vec<IpNet>,
    /// A proxy for all fetches. It resolves names and decides where they lead; addresses that are
    /// written in a URL are checked all the same. None by default, whatever the environment says.
    pub proxy: Option<Url>,
    /// The addresses where the host serves its own HTTP actions, which may be fetched from.
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

/// Without the proxy's URL, which can hold a password.
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
