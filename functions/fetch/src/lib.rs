//! `fetch` for functions: requests to addresses that a function chooses.
//!
//! Neither the function nor the server that it fetches from is trusted. So every connection is
//! checked by its actual address ([`audit_egress`]), redirects are followed here hop by hop, and
//! time and bytes are limited. Memory is shared out, per call and in total; a fetch waits for its
//! share.
//!
//! [`Fetcher`] is the host's client. [`Fetches`] holds the fetches of one call; dropping it cancels
//! them.

mod body;
mod clients;
mod decode;
mod error;
mod fetches;
mod memory;
mod redirect;
mod request;
mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use audit_egress::Egress;
use bytes::{Bytes, BytesMut};
use reqwest::dns::Resolve;
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Body, Client, ClientBuilder, Method, Response};
use tokio::time::timeout;
use url::{Host, Url};

pub use error::FetchError;
pub use fetches::{Canceller, Fetches, Head};
pub use request::{FetchRequest, RedirectMode};
pub use settings::FetchSettings;

use body::Incoming;
use clients::{Clients, descriptors, max_fetches};
use error::failed;
use memory::{FETCH_BYTES, Memory};
use redirect::{Hop, next_hop};
use request::Sending;

/// The time limit for connecting. A server that has not accepted in this time rarely does later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of redirects of one fetch, as in the Fetch standard.
const MAX_REDIRECTS: usize = 20;

/// The host's client. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    settings: FetchSettings,
    egress: Egress,
    /// Created on first use, since that reads the system's certificates.
    clients: OnceLock<Result<Clients, FetchError>>,
    memory: Memory,
}

/// A response whose body is still to be read. Its extensions hold the lease of its connection.
struct Reached {
    response: Response,
    url: Url,
    method: Method,
    redirected: bool,
}

impl Fetcher {
    /// A client with these settings.
    pub fn new(settings: FetchSettings) -> Fetcher {
        let egress = Egress::allowing(settings.networks.iter().copied());
        Fetcher::with_egress(settings, egress)
    }

    /// As [`new`](Self::new), with names resolved by `resolver` instead of the system's.
    pub fn with_resolver(settings: FetchSettings, resolver: Arc<dyn Resolve>) -> Fetcher {
        let egress = Egress::allowing(settings.networks.iter().copied()).with_resolver(resolver);
        Fetcher::with_egress(settings, egress)
    }

    fn with_egress(settings: FetchSettings, egress: Egress) -> Fetcher {
        // Each fetch takes memory and a descriptor, so a limit of memory also limits the
        // descriptors.
        let most = max_fetches(descriptors()).saturating_mul(FETCH_BYTES);
        let memory = Memory::new(
            settings.memory_bytes.min(most),
            settings.memory_bytes.min(settings.max_request_bytes + FETCH_BYTES),
        );
        let clients = OnceLock::new();
        Fetcher { inner: Arc::new(Inner { settings, egress, clients, memory }) }
    }

    /// Sends a `GET` request and returns the response body of at most `max_bytes`.
    ///
    /// # Errors
    ///
    /// The request failed, the body is larger, or the status is not 2xx.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request.
    pub async fn get(&self, url: Url, max_bytes: usize) -> Result<Bytes, FetchError> {
        let read = async {
            let Reached { response, method, .. } = self.reach(FetchRequest::get(url), None).await?;
            if !response.status().is_success() {
                let status = response.status();
                return Err(FetchError::new(format!("the response has the status {status}")));
            }
            let mut incoming = Incoming::new(response, &method, max_bytes)?;
            let mut all = BytesMut::new();
            while let Some(piece) = incoming.next().await? {
                all.extend_from_slice(&piece);
            }
            Ok(all.freeze())
        };
        let limit = self.inner.settings.timeout;
        timeout(limit, Box::pin(read)).await.unwrap_or_else(|_| Err(too_slow(limit)))
    }

    /// Sends a request and follows redirects, without a time limit.
    async fn reach(
        &self,
        request: FetchRequest,
        mut stream: Option<Body>,
    ) -> Result<Reached, FetchError> {
        let clients = self.inner.clients()?;
        let FetchRequest { url, method, headers, redirect, body } = request;
        let mut hop = Hop { url, method, headers, body };
        let mut redirects = 0;
        loop {
            self.inner.check(&hop.url)?;
            let mut headers = hop.headers.clone();
            let has_none = matches!(hop.body, Sending::None);
            if has_none && [Method::POST, Method::PUT, Method::PATCH].contains(&hop.method) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            let (client, lease) = clients.of(&hop.url);
            let builder = client.request(hop.method.clone(), hop.url.clone()).headers(headers);
            let builder = match &hop.body {
                Sending::None => builder,
                Sending::Bytes(bytes) => builder.body(bytes.clone()),
                Sending::Stream => match stream.take() {
                    Some(stream) => builder.body(stream),
                    None => builder,
                },
            };
            let mut response = builder.send().await.map_err(|error| failed(&error, &hop.url))?;
            response.extensions_mut().insert(lease);
            let status = response.status();
            if status.is_informational() {
                let message =
                    format!("the response has the status {status}, which fetch does not support");
                return Err(FetchError::new(message));
            }
            match next_hop(&hop, status, response.headers(), redirect)? {
                Some(next) => hop = next,
                None => {
                    let Hop { url, method, .. } = hop;
                    return Ok(Reached { response, url, method, redirected: redirects > 0 });
                }
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                let message = format!("the redirects exceed limit of {MAX_REDIRECTS}");
                return Err(FetchError::new(message));
            }
        }
    }
}

fn too_slow(limit: Duration) -> FetchError {
    FetchError::new(format!("there was no response within {} ms", limit.as_millis()))
}

impl Inner {
    fn clients(&self) -> Result<&Clients, FetchError> {
        let make = || Clients::new(|| self.client(), descriptors());
        self.clients.get_or_init(make).as_ref().map_err(FetchError::clone)
    }

    fn client(&self) -> Result<ClientBuilder, FetchError> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // The environment's proxies are for the host, and would resolve names themselves.
            .no_proxy()
            // HTTP/2's windows would hold more of a body than is counted.
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            // A request that is sent twice may take effect twice.
            .retry(reqwest::retry::never())
            .user_agent(request::USER_AGENT);
        match &self.settings.proxy {
            None => Ok(client.dns_resolver(self.egress.clone())),
            Some(proxy) => {
                let proxy = reqwest::Proxy::all(proxy.clone());
                let proxy = proxy.map_err(|_| FetchError::new("the proxy's URL is invalid"))?;
                Ok(client.proxy(proxy))
            }
        }
    }

    /// Checks a URL before connecting. Names are checked when they are resolved.
    fn check(&self, url: &Url) -> Result<(), FetchError> {
        request::check_url(url)?;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(FetchError::new("the URL names no host")),
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let is_own = self.settings.own_addresses.contains(&SocketAddr::new(address, port));
        if is_own || self.egress.allows(address) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default();
        Err(FetchError::new(format!(
            "{host} is not a public address, and this host's settings do not allow it"
        )))
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}
