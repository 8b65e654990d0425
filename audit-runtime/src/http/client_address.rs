//! Who sent a request, behind proxies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The proxies whose word is taken for whom they forward.
///
/// A proxy appends the address of whoever connected to it to a header; what stands to the left of
/// that was sent by that party, and is believed only as far as that party is a trusted proxy
/// itself. So the client is the rightmost address that is no trusted proxy. Requests that come from
/// elsewhere can write into the header what they like: the client is then the one who connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ForwardedHeader,
}

/// The header in which the proxies write. Only one is read: a client could fill in the one that its
/// proxy leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 192.0.2.1, 10.0.0.7`, the common one.
    XForwardedFor,
    /// `Forwarded: for=192.0.2.1, for="[2001:db8::7]:4711"` (RFC 7239).
    Forwarded,
}

impl TrustedProxies {
    /// None: the client is the one who connected.
    pub fn none() -> TrustedProxies {
        TrustedProxies::new([])
    }

    /// The proxies with an address in these networks, writing `X-Forwarded-For`. `FromStr` reads
    /// the same from a list such as `10.0.0.0/8, 2001:db8::1`.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> TrustedProxies {
        TrustedProxies {
            networks: networks.into_iter().collect(),
            header: ForwardedHeader::XForwardedFor,
        }
    }

    /// The header in which these proxies write.
    pub fn with_header(self, header: ForwardedHeader) -> TrustedProxies {
        TrustedProxies { header, ..self }
    }

    pub(super) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that came from `peer`. `None` if a trusted proxy says that it does
    /// not know.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = peer;
        let name = match self.header {
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
        let mut hops = lines.into_iter().rev().flat_map(elements_from_the_right);
        // If all are trusted, the client is one of them: the first.
        while self.trust(client) {
            let Some(hop) = hops.next() else { break };
            client = match self.header {
                ForwardedHeader::XForwardedFor => node(hop)?,
                ForwardedHeader::Forwarded => node(forwarded_for(hop)?)?,
            };
        }
        Some(client)
    }
}

/// The parts between the commas of a header line, the last first.
///
/// Read from the right, because the right end was written by a proxy that is trusted, and what
/// stands left of it by somebody who may have opened a quote to swallow it.
fn elements_from_the_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut quoted = false;
        let comma = (0..line.len()).rev().find(|at| {
            quoted ^= is_quote(line, *at);
            line[*at] == b',' && !quoted
        });
        let (before, element) = match comma {
            Some(comma) => (Some(&line[..comma]), &line[comma + 1..]),
            None => (None, line),
        };
        rest = before;
        Some(element.trim_ascii())
    })
    // An empty element says nothing (RFC 9110, section 5.6.1).
    .filter(|element| !element.is_empty())
}

/// Whether a quoted string begins or ends here: at a quote that no backslash escapes.
fn is_quote(line: &[u8], at: usize) -> bool {
    let backslashes = line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
    line[at] == b'"' && backslashes % 2 == 0
}

/// The value of `for` in one element of a `Forwarded` header (RFC 7239, section 4).
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    let (mut start, mut quoted) = (0, false);
    let ends = (0..=element.len()).filter(|at| {
        let Some(byte) = element.get(*at) else { return true };
        quoted ^= is_quote(element, *at);
        *byte == b';' && !quoted
    });
    for end in ends {
        let pair = &element[start..end];
        start = end + 1;
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        if pair[..equals].trim_ascii().eq_ignore_ascii_case(b"for") {
            return Some(pair[equals + 1..].trim_ascii());
        }
    }
    None
}

/// An address, with or without quotes, brackets and port. `None` for `unknown`, obfuscated names
/// and everything else.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxies;

    /// Networks in CIDR notation or single addresses, separated by commas or white space.
    fn from_str(list: &str) -> Result<TrustedProxies, InvalidProxies> {
        let parts = list.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network =
                part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| InvalidProxies { part: part.to_owned() })
        };
        Ok(TrustedProxies::new(parts.map(network).collect::<Result<Vec<_>, _>>()?))
    }
}

/// A list of trusted proxies that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidProxies {
    part: String,
}

impl fmt::Display for InvalidProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither an address nor a network such as 10.0.0.0/8", self.part)
    }
}

impl std::error::Error for InvalidProxies {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(
        proxies: &str,
        header: ForwardedHeader,
        peer: &str,
        lines: &[&[u8]],
    ) -> Option<String> {
        let proxies = proxies.parse::<TrustedProxies>().unwrap().with_header(header);
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.to_vec().try_into().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).map(|ip| ip.to_string())
    }

    fn x(peer: &str, lines: &[&str]) -> Option<String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client("10.0.0.0/8, 2001:db8::/32", ForwardedHeader::XForwardedFor, peer, &lines)
    }

    fn forwarded(peer: &str, lines: &[&str]) -> Option<String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client("10.0.0.0/8", ForwardedHeader::Forwarded, peer, &lines)
    }

    fn is(ip: &str) -> Option<String> {
        Some(ip.to_owned())
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(x("192.0.2.9", &["1.2.3.4"]), is("192.0.2.9"));
        assert_eq!(x("192.0.2.9", &["1.2.3.4, 10.0.0.1"]), is("192.0.2.9"));
        assert_eq!(forwarded("192.0.2.9", &["for=1.2.3.4"]), is("192.0.2.9"));
    }

    #[test]
    fn behind_trusted_proxies_the_rightmost_other_is_the_client() {
        assert_eq!(x("10.0.0.1", &["192.0.2.9"]), is("192.0.2.9"));
        assert_eq!(x("10.0.0.1", &["1.2.3.4, 192.0.2.9, 10.7.7.7"]), is("192.0.2.9"));
        assert_eq!(
            x("10.0.0.1", &["1.2.3.4", "192.0.2.9", "10.7.7.7, 2001:db8::5"]),
            is("192.0.2.9")
        );
        assert_eq!(x("10.0.0.1", &[]), is("10.0.0.1"));
        assert_eq!(x("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), is("10.0.0.3"));
    }

    #[test]
    fn addresses_come_in_all_their_forms() {
        assert_eq!(x("10.0.0.1", &["192.0.2.9:4711"]), is("192.0.2.9"));
        assert_eq!(x("10.0.0.1", &["[2001:db9::1]:443"]), is("2001:db9::1"));
        assert_eq!(x("10.0.0.1", &["[2001:db9::1]"]), is("2001:db9::1"));
        assert_eq!(x("10.0.0.1", &["::ffff:192.0.2.9"]), is("192.0.2.9"));
        assert_eq!(x("::ffff:10.0.0.1", &["192.0.2.9"]), is("192.0.2.9"));
        assert_eq!(
            forwarded("10.0.0.1", &[r#"For="[2001:db9::1]:4711";proto=https"#]),
            is("2001:db9::1")
        );
        assert_eq!(
            forwarded("10.0.0.1", &[r#"host="a,b";for=192.0.2.9 , by=x;for=10.0.0.2"#]),
            is("192.0.2.9")
        );
    }

    #[test]
    fn who_is_unknown_to_a_trusted_proxy_has_no_address() {
        assert_eq!(forwarded("10.0.0.1", &["for=1.2.3.4, for=unknown"]), None);
        assert_eq!(forwarded("10.0.0.1", &["for=_hidden"]), None);
        assert_eq!(forwarded("10.0.0.1", &["proto=https"]), None);
        assert_eq!(x("10.0.0.1", &["1.2.3.4, unknown"]), None);
    }

    #[test]
    fn what_a_client_sends_cannot_swallow_what_its_proxy_appends() {
        assert_eq!(forwarded("10.0.0.1", &[r#"for="x, for=192.0.2.9"#]), is("192.0.2.9"));
        assert_eq!(forwarded("10.0.0.1", &[r#"for="x\", for="192.0.2.9:80""#]), is("192.0.2.9"));
        assert_eq!(
            forwarded("10.0.0.1", &[r#"host="a;for=6.6.6.6";for=192.0.2.9"#]),
            is("192.0.2.9")
        );
        assert_eq!(
            forwarded("10.0.0.1", &[r#"host="\";for=6.6.6.6, for=7.7.7.7";for=192.0.2.9"#]),
            is("192.0.2.9")
        );
        assert_eq!(x("10.0.0.1", &["\"1.2.3.4, 192.0.2.9"]), is("192.0.2.9"));
        let lines: &[&[u8]] = &[b"\xff\xfe, 192.0.2.9"];
        assert_eq!(
            client("10.0.0.0/8", ForwardedHeader::XForwardedFor, "10.0.0.1", lines),
            is("192.0.2.9")
        );
    }

    proptest! {
        /// Whatever stands before it, what the trusted proxy appended is the client.
        #[test]
        fn the_appended_address_is_the_client(
            garbage in prop::collection::vec(0x20u8..=0xff, 0..40), last: [u8; 4], quoted: bool,
        ) {
            let garbage: Vec<u8> = garbage.into_iter().filter(|byte| *byte != 0x7f).collect();
            prop_assume!(last[0] != 10);
            let last = std::net::Ipv4Addr::from(last).to_string();
            for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                let appended = match (header, quoted) {
                    (ForwardedHeader::XForwardedFor, _) => format!(", {last}"),
                    (ForwardedHeader::Forwarded, false) => format!(", for={last};proto=https"),
                    (ForwardedHeader::Forwarded, true) => format!(", proto=https;for=\"{last}:80\""),
                };
                let line = [&garbage[..], appended.as_bytes()].concat();
                prop_assert_eq!(client("10.0.0.0/8", header, "10.9.9.9", &[&line]), is(&last));
            }
        }
    }

    #[test]
    fn lists_are_read_or_refused_with_the_part_that_is_wrong() {
        let proxies: TrustedProxies = "10.0.0.0/8,192.0.2.1\n::1".parse().unwrap();
        assert!(
            proxies.trust("192.0.2.1".parse().unwrap())
                && !proxies.trust("192.0.2.2".parse().unwrap())
        );
        assert_eq!("".parse(), Ok(TrustedProxies::none()));
        let error = "10.0.0.0/8, nginx".parse::<TrustedProxies>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"nginx\" is neither an address nor a network such as 10.0.0.0/8"
        );
    }
}
