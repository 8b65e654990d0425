//! The address of a request's client, behind proxies.

mod elements;
mod networks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderName;
use http::header::FORWARDED;
use ipnet::IpNet;

use self::elements::{elements_from_the_right, forwarded_for, node};

/// The proxies that are trusted to name the client.
///
/// A proxy appends the address of its peer to a header. The addresses to the left of it were sent
/// by that peer, and are trusted only if the peer is a trusted proxy itself. So the client is the
/// rightmost address that is not a trusted proxy's. The header of a request from any other peer is
/// ignored: the peer is the client.
///
/// An IPv4-mapped address or network (`::ffff:10.0.0.0/104`) is the IPv4 one (`10.0.0.0/8`),
/// wherever it appears: in the list, in a header, as the peer on a dual-stack socket. `::/0` is
/// every IPv6 address and no IPv4 address. Any other IPv6 network that is shorter than `/96` and
/// holds the mapped addresses is an error: name IPv4 and IPv6 networks separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ClientAddressHeader,
}

/// The header in which the proxies write the client's address. Only one header is read: a client
/// could set the one that its proxy does not write.
///
/// `FromStr` parses the header's name, in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAddressHeader {
    /// `X-Forwarded-For: 192.0.2.1, 10.0.0.7`, the most common one.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=192.0.2.1, for="[2001:db8::7]:4711"` (RFC 7239).
    Forwarded,
    /// Another header that holds an address, or a list like `X-Forwarded-For`: `X-Real-IP`,
    /// `CF-Connecting-IP`.
    Named(HeaderName),
}

impl ClientAddressHeader {
    pub(super) fn name(&self) -> HeaderName {
        match self {
            ClientAddressHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ClientAddressHeader::Forwarded => FORWARDED,
            ClientAddressHeader::Named(name) => name.clone(),
        }
    }
}

impl FromStr for ClientAddressHeader {
    type Err = InvalidProxies;

    fn from_str(name: &str) -> Result<ClientAddressHeader, InvalidProxies> {
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| InvalidProxies {
            part: format!("{name:?}"),
            problem: "is not the name of a header: write one, such as x-forwarded-for",
        })?;
        Ok(match name.as_str() {
            "x-forwarded-for" => ClientAddressHeader::XForwardedFor,
            "forwarded" => ClientAddressHeader::Forwarded,
            _ => ClientAddressHeader::Named(name),
        })
    }
}

/// The networks, as `FromStr` parses them.
impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, network) in self.networks.iter().enumerate() {
            write!(f, "{}{network}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TrustedProxies {
    /// No proxies: the peer is the client.
    pub fn none() -> TrustedProxies {
        TrustedProxies { networks: Vec::new(), header: ClientAddressHeader::default() }
    }

    /// The proxies with an address in these networks, which write `X-Forwarded-For`. `FromStr`
    /// parses them from a list such as `10.0.0.0/8, 2001:db8::1`.
    ///
    /// # Errors
    ///
    /// If a network mixes IPv6 with IPv4-mapped addresses; see [`TrustedProxies`].
    pub fn new(
        networks: impl IntoIterator<Item = IpNet>,
    ) -> Result<TrustedProxies, InvalidProxies> {
        let networks = networks.into_iter().map(networks::canonical).collect::<Result<_, _>>()?;
        Ok(TrustedProxies { networks, ..TrustedProxies::none() })
    }

    /// Their networks. IPv4-mapped ones are IPv4.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// The header in which these proxies write.
    #[must_use]
    pub fn with_header(self, header: ClientAddressHeader) -> TrustedProxies {
        TrustedProxies { header, ..self }
    }

    /// The header in which these proxies write the client's address.
    pub fn header(&self) -> &ClientAddressHeader {
        &self.header
    }

    /// Whether this is the address of a trusted proxy.
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The client's address of a request from `peer`, the address at the other end of the
    /// connection. `lines` returns the lines of the header with the given lower-case name, in order
    /// of arrival. `None` if a trusted proxy does not know the client, or sends an invalid address.
    ///
    /// For hosts that need only the address and have their own header types, such as actix-web and
    /// gRPC metadata. [`Origin::of`](super::Origin::of) gives the request's id as well, and warns
    /// if the named proxies are not the actual ones.
    ///
    /// ```
    /// use audit_runtime::http::TrustedProxies;
    ///
    /// let proxies: TrustedProxies = "10.0.0.0/8".parse()?;
    /// let metadata = [("x-forwarded-for", "203.0.113.9, 192.0.2.9")];
    /// let lines = |name: &str| {
    ///     let name = name.to_owned();
    ///     metadata.iter().filter(move |(of, _)| *of == name).map(|(_, line)| line.as_bytes())
    /// };
    /// let client = |peer: [u8; 4]| proxies.client_address(peer.into(), lines);
    /// assert_eq!(client([10, 1, 2, 3]), Some([192, 0, 2, 9].into()));
    /// assert_eq!(client([198, 51, 100, 1]), Some([198, 51, 100, 1].into()));
    /// # Ok::<(), audit_runtime::http::InvalidProxies>(())
    /// ```
    pub fn client_address<'a, L>(
        &self,
        peer: IpAddr,
        lines: impl FnOnce(&str) -> L,
    ) -> Option<IpAddr>
    where
        L: IntoIterator<Item = &'a [u8]>,
    {
        self.client(peer, lines(self.header.name().as_str()))
    }

    /// As [`client_address`](Self::client_address), with the lines of the proxies' header.
    pub(super) fn client<'a>(
        &self,
        peer: IpAddr,
        lines: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let mut client = peer.to_canonical();
        if !self.trust(client) {
            return Some(client);
        }
        let lines: Vec<&[u8]> = lines.into_iter().collect();
        let mut hops = lines.into_iter().rev().flat_map(elements_from_the_right);
        // If all addresses are those of trusted proxies, the client is the leftmost of them.
        while self.trust(client) {
            let Some(hop) = hops.next() else { break };
            client = match self.header {
                ClientAddressHeader::XForwardedFor | ClientAddressHeader::Named(_) => node(hop)?,
                ClientAddressHeader::Forwarded => node(forwarded_for(hop)?)?,
            };
        }
        Some(client)
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxies;

    /// Networks in CIDR notation or single addresses, separated by commas or white space.
    fn from_str(list: &str) -> Result<TrustedProxies, InvalidProxies> {
        Ok(TrustedProxies { networks: networks::parse(list)?, ..TrustedProxies::none() })
    }
}

/// A list of networks that cannot be read, or the name of a header. The error says why, and what to
/// write instead. It shows an entry of a list only if that resembles an address: anything else may
/// be a misplaced secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} {problem}")]
pub struct InvalidProxies {
    part: String,
    problem: &'static str,
}
