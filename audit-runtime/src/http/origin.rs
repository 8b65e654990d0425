//! What trusted headers say about the sender of a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use audit_vars::RequestId;
use http::HeaderName;
use http::header::FORWARDED;

use super::{ClientAddressHeader, TrustedProxies};

/// The sender of a request, as far as its headers can be trusted.
///
/// The [layer](super::RequestContextLayer) puts it into the extensions of each request. Read any
/// header that identifies a user through [`asserted`](Self::asserted): a client can send every
/// header that a proxy can.
///
/// # Example
///
/// For a host without tower, from headers of any type:
///
/// ```
/// use audit_runtime::http::{Origin, TrustedProxies};
///
/// let proxies: TrustedProxies = "10.0.0.0/8".parse()?;
/// let headers = [("x-forwarded-for", "192.0.2.9"), ("x-request-id", "a-1"), ("x-user", "ada")];
/// let lines = |name: &str| {
///     let name = name.to_owned();
///     headers.iter().filter(move |(of, _)| *of == name).map(|(_, line)| line.as_bytes())
/// };
///
/// let origin = Origin::of("10.1.2.3".parse().ok(), &proxies, "x-request-id", lines);
/// assert_eq!(origin.client(), "192.0.2.9".parse().ok());
/// assert_eq!(origin.request_id().map(|id| id.as_str()), Some("a-1"));
/// assert_eq!(origin.asserted(lines("x-user")), Some(&b"ada"[..]));
///
/// let origin = Origin::of("203.0.113.1".parse().ok(), &proxies, "x-request-id", lines);
/// assert_eq!(origin.client(), "203.0.113.1".parse().ok());
/// assert_eq!((origin.request_id(), origin.asserted(lines("x-user"))), (None, None));
/// # Ok::<(), audit_runtime::http::InvalidProxies>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    client: Option<IpAddr>,
    request_id: Option<RequestId>,
    is_trusted: bool,
}

impl Origin {
    /// Reads the headers of a request from `peer`, the address at the other end of the connection.
    ///
    /// `lines` returns the lines of the header with the given lower-case name, in order of arrival.
    ///
    /// Logs each of these warnings once per process: there is no peer; a private address that is
    /// not a trusted proxy sends a proxy header; a trusted proxy sends none.
    pub fn of<'a, L>(
        peer: Option<IpAddr>,
        proxies: &TrustedProxies,
        request_id_header: &str,
        lines: impl Fn(&str) -> L,
    ) -> Origin
    where
        L: IntoIterator<Item = &'a [u8]>,
    {
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
            WARNINGS.no_peer();
            return Origin { client: None, request_id: None, is_trusted: false };
        };
        let header = proxies.header();
        let is_sent = |name: &HeaderName| lines(name.as_str()).into_iter().next().is_some();
        let mut origin = Origin { client: Some(peer), request_id: None, is_trusted: false };
        if !proxies.trust(peer) {
            let written_by_proxies = [header.name(), X_FORWARDED_FOR, FORWARDED];
            if is_private(peer) && written_by_proxies.iter().any(is_sent) {
                WARNINGS.unnamed_proxy(peer);
            }
            return origin;
        }
        if !is_sent(&header.name()) {
            WARNINGS.silent_proxy(peer, header);
        }
        origin.is_trusted = true;
        origin.client = proxies.client(peer, lines(header.name().as_str()));
        let id = origin.asserted(lines(request_id_header));
        // The lines of a header form one list, in which the last id is the proxy's.
        let id = id.and_then(|id| id.rsplit(|byte| *byte == b',').next());
        let id = id.and_then(|id| std::str::from_utf8(id.trim_ascii()).ok());
        origin.request_id = id.and_then(|id| RequestId::new(id).ok());
        origin
    }

    /// The client's address. `None` if a trusted proxy does not know it, or there is no peer.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The request id assigned by a trusted proxy.
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// Whether the request came from a trusted proxy.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// The value that a trusted proxy set in the header with these lines: the last one, since a
    /// client may have sent others. `None` if the peer is not trusted.
    ///
    /// A proxy must set such a header in **every** request, or remove the client's.
    pub fn asserted<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
        if self.is_trusted { lines.into_iter().last() } else { None }
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether the address could be that of the host's own proxy.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            // 100.64.0.0/10: shared addresses (RFC 6598), as in some clusters.
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The warnings logged so far. Clients can provoke them, so each is logged once.
struct Warnings {
    no_peer: AtomicBool,
    unnamed_proxy: AtomicBool,
    silent_proxy: AtomicBool,
}

static WARNINGS: Warnings = Warnings {
    no_peer: AtomicBool::new(false),
    unnamed_proxy: AtomicBool::new(false),
    silent_proxy: AtomicBool::new(false),
};

fn is_first(said: &AtomicBool) -> bool {
    !said.load(Ordering::Relaxed) && !said.swap(true, Ordering::Relaxed)
}

impl Warnings {
    fn no_peer(&self) {
        if is_first(&self.no_peer) {
            tracing::warn!(
                "requests have no peer address, so that their logs have no ip; with axum, serve \
                 with into_make_service_with_connect_info::<SocketAddr>()"
            );
        }
    }

    fn unnamed_proxy(&self, peer: IpAddr) {
        if is_first(&self.unnamed_proxy) {
            tracing::warn!(
                %peer,
                "a peer that is not a trusted proxy sends a header of proxies, which is ignored: \
                 the peer's own address is logged as the client's; if it is a proxy of yours, name \
                 its network in the trusted proxies"
            );
        }
    }

    fn silent_proxy(&self, peer: IpAddr, header: &ClientAddressHeader) {
        if is_first(&self.silent_proxy) {
            tracing::warn!(
                %peer,
                header = %header.name(),
                "a trusted proxy sends no header with its client's address: its own is logged as \
                 the client's; if it writes another header, name that one"
            );
        }
    }
}

impl fmt::Display for ClientAddressHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().as_str())
    }
}
