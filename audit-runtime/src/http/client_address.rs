//! The client's address of a request, behind proxies.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::HeaderName;
use http::header::FORWARDED;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The proxies that are trusted to name the client.
///
/// A proxy appends the address of whoever connected to it to a header; what stands to the left of
/// that was sent by that party, and is believed only as far as that party is a trusted proxy
/// itself. So the client is the rightmost address that is no trusted proxy. Requests that come from
/// elsewhere can write into the header what they like: the client is then the one who connected.
///
/// An IPv4-mapped address or network (`::ffff:10.0.0.0/104`) is the IPv4 one (`10.0.0.0/8`),
/// wherever it appears: in the list, in a header, as the peer on a dual-stack socket. `::/0` is
/// every IPv6 address and no IPv4 address. Any other IPv6 network that is shorter than `/96` and
/// holds the mapped addresses is an error: IPv4 and IPv6 networks are named apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ClientAddressHeader,
}

/// The header in which the proxies write the client's address. Only one is read: a client could
/// fill in the one that its proxy leaves alone.
///
/// `FromStr` takes the header's name, in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAddressHeader {
    /// `X-Forwarded-For: 192.0.2.1, 10.0.0.7`, the common one.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=192.0.2.1, for="[2001:db8::7]:4711"` (RFC 7239).
    Forwarded,
    /// Another one that holds an address, or a list like `X-Forwarded-For`: `X-Real-IP`,
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
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| InvalidProxies::new(name, "is not the name of a header"))?;
        Ok(match name.as_str() {
            "x-forwarded-for" => ClientAddressHeader::XForwardedFor,
            "forwarded" => ClientAddressHeader::Forwarded,
            _ => ClientAddressHeader::Named(name),
        })
    }
}

impl TrustedProxies {
    /// None: the client is the one who connected.
    pub fn none() -> TrustedProxies {
        TrustedProxies { networks: Vec::new(), header: ClientAddressHeader::default() }
    }

    /// The proxies with an address in these networks, writing `X-Forwarded-For`. `FromStr` reads
    /// the same from a list such as `10.0.0.0/8, 2001:db8::1`.
    ///
    /// # Errors
    ///
    /// When a network mixes IPv6 with IPv4-mapped addresses; see the type.
    pub fn new(
        networks: impl IntoIterator<Item = IpNet>,
    ) -> Result<TrustedProxies, InvalidProxies> {
        let networks = networks.into_iter().map(canonical).collect::<Result<_, _>>()?;
        Ok(TrustedProxies { networks, ..TrustedProxies::none() })
    }

    /// The header in which these proxies write.
    #[must_use]
    pub fn with_header(self, header: ClientAddressHeader) -> TrustedProxies {
        TrustedProxies { header, ..self }
    }

    pub(super) fn header(&self) -> &ClientAddressHeader {
        &self.header
    }

    /// Whether this is the address of a trusted proxy.
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The client's address of a request from `peer`, the address at the other end of the
    /// connection. `lines` gives the lines of the header with this name, in lower case, in the
    /// order in which they came. `None` if a trusted proxy says that it does not know the client,
    /// or says it in no valid form.
    ///
    /// For hosts that need nothing but the address, whatever their headers are: actix-web, gRPC's
    /// metadata. [`Origin::of`](super::Origin::of) gives the request's id as well, and warns where
    /// the proxies are not those that were named.
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

    /// The same with the lines of the proxies' own header.
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
        // If all are trusted, the client is one of them: the first.
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

/// The network with IPv4-mapped addresses as what they stand for.
fn canonical(network: IpNet) -> Result<IpNet, InvalidProxies> {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    let IpNet::V6(v6) = network else { return Ok(network) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len()) {
        (Some(v4), length @ 96..) => Ok(Ipv4Net::new_assert(v4, length - 96).into()),
        (_, 0) => Ok(Ipv6Net::default().into()),
        (_, 1..96) if v6.contains(&MAPPED) => Err(InvalidProxies::new(
            &network.to_string(),
            "holds IPv4-mapped addresses among others; name the IPv4 and the IPv6 networks apart",
        )),
        (_, _) => Ok(network),
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

/// Whether a quoted string begins or ends here: at a quote that no backslash escapes. Backslashes
/// are counted only before a quote, so that a line of them takes no quadratic time.
fn is_quote(line: &[u8], at: usize) -> bool {
    let backslashes = || line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
    line[at] == b'"' && backslashes() % 2 == 0
}

/// The value of `for` in one element of a `Forwarded` header (RFC 7239, section 4). `None` also
/// where there are two, which the RFC forbids: one of them may be what a client put into another
/// parameter.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    let (mut start, mut quoted, mut found) = (0, false, None);
    let ends = (0..=element.len()).filter(|at| {
        let Some(byte) = element.get(*at) else { return true };
        quoted ^= is_quote(element, *at);
        *byte == b';' && !quoted
    });
    for end in ends {
        let pair = &element[start..end];
        start = end + 1;
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        if !pair[..equals].trim_ascii().eq_ignore_ascii_case(b"for") {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(pair[equals + 1..].trim_ascii());
    }
    found
}

/// The longest text of a node: an IPv6 address, a zone, a port, and room for escapes.
const MAX_NODE_BYTES: usize = 256;

/// An address, with or without quotes, brackets, zone and port. `None` for `unknown`, obfuscated
/// identifiers and everything else.
fn node(text: &[u8]) -> Option<IpAddr> {
    if text.len() > MAX_NODE_BYTES {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let text = match text.strip_prefix('"') {
        Some(quoted) => unescaped(quoted.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    let text = text.trim();
    let (address, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']')?;
        let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
        (address, port)
    } else {
        // More than one colon is an IPv6 address without brackets, which has no port.
        match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            Some(_) | None => (text, None),
        }
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    let address: IpAddr = match address.split_once('%') {
        // A zone names an interface of the proxy (RFC 4007): to the host it means nothing.
        Some((address, zone)) if !zone.is_empty() => IpAddr::V6(address.parse().ok()?),
        Some(_) => return None,
        None => address.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// What stands in a quoted string (RFC 9110, section 5.6.4).
fn unescaped(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let mut unescaped = String::with_capacity(text.len());
    while let Some(char) = chars.next() {
        match char {
            '"' => return None,
            '\\' => unescaped.push(chars.next()?),
            char => unescaped.push(char),
        }
    }
    Some(unescaped)
}

/// Whether this is a port, or an obfuscated one (RFC 7239, section 6). Some proxies write an empty
/// one.
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(is_plain)
        }
        None => {
            let is_number = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.is_empty() || (is_number && text.parse::<u16>().is_ok())
        }
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidProxies;

    /// Networks in CIDR notation or single addresses, separated by commas or white space.
    fn from_str(list: &str) -> Result<TrustedProxies, InvalidProxies> {
        let parts = list
            .split(|char: char| char == ',' || char.is_ascii_whitespace())
            .filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network =
                part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                InvalidProxies::new(part, "is neither an address nor a network such as 10.0.0.0/8")
            })
        };
        TrustedProxies::new(parts.map(network).collect::<Result<Vec<_>, _>>()?)
    }
}

/// A list of trusted proxies, or the name of their header, that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidProxies {
    part: String,
    problem: &'static str,
}

impl InvalidProxies {
    fn new(part: &str, problem: &'static str) -> InvalidProxies {
        InvalidProxies { part: part.to_owned(), problem }
    }
}

impl fmt::Display for InvalidProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.part, self.problem)
    }
}

impl std::error::Error for InvalidProxies {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(
        proxies: &str,
        header: ClientAddressHeader,
        peer: &str,
        lines: &[&[u8]],
    ) -> Option<String> {
        let proxies = proxies.parse::<TrustedProxies>().unwrap().with_header(header);
        proxies.client(peer.parse().unwrap(), lines.iter().copied()).map(|ip| ip.to_string())
    }

    fn x(peer: &str, lines: &[&str]) -> Option<String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client("10.0.0.0/8, 2001:db8::/32", ClientAddressHeader::XForwardedFor, peer, &lines)
    }

    fn forwarded(peer: &str, lines: &[&str]) -> Option<String> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client("10.0.0.0/8", ClientAddressHeader::Forwarded, peer, &lines)
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

    /// What one element of the header says, with `10.0.0.0/8` trusted.
    #[test]
    fn every_form_of_an_element_is_read_or_unknown() {
        let zone = "a".repeat(MAX_NODE_BYTES);
        let forms: &[(&str, Option<&str>)] = &[
            ("192.0.2.9", Some("192.0.2.9")),
            ("192.0.2.9:4711", Some("192.0.2.9")),
            ("192.0.2.9:", Some("192.0.2.9")),
            ("192.0.2.9:0", Some("192.0.2.9")),
            ("192.0.2.9:_port", Some("192.0.2.9")),
            ("192.0.2.9:65536", None),
            ("192.0.2.9:000080", None),
            ("192.0.2.9:http", None),
            ("192.0.2.9:_", None),
            ("192.0.2.9:+80", None),
            ("192.0.2.9%eth0", None),
            ("192.0.2.009", None),
            ("192.0.2", None),
            ("192.0.2.9/32", None),
            ("fe80::1", Some("fe80::1")),
            ("FE80::ABCD", Some("fe80::abcd")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("fe80::1%25eth0", Some("fe80::1")),
            ("fe80::1%", None),
            (&format!("fe80::1%{zone}"), None),
            ("[fe80::1]", Some("fe80::1")),
            ("[fe80::1]:", Some("fe80::1")),
            ("[fe80::1]:443", Some("fe80::1")),
            ("[fe80::1%eth0]:443", Some("fe80::1")),
            ("[fe80::1", None),
            ("[fe80::1]443", None),
            ("fe80::1]", None),
            ("[]", None),
            (":443", None),
            (":", None),
            ("::ffff:192.0.2.9", Some("192.0.2.9")),
            ("[::FFFF:192.0.2.9]:80", Some("192.0.2.9")),
            ("::ffff:c000:209", Some("192.0.2.9")),
            ("\"192.0.2.9:80\"", Some("192.0.2.9")),
            ("\"[fe80::1]:80\"", Some("fe80::1")),
            ("\"192\\.0.2.9\"", Some("192.0.2.9")),
            ("\"192.0.2.9", None),
            ("\"\"", None),
            ("unknown", None),
            ("UNKNOWN", None),
            ("_hidden", None),
            ("localhost", None),
        ];
        for (form, expected) in forms {
            assert_eq!(x("10.0.0.1", &[form]).as_deref(), *expected, "{form}");
            for element in [
                format!("for={form}"),
                format!("FOR={form};proto=https"),
                format!("by=10.0.0.2; host=\"a,b;c\" ;For={form}"),
            ] {
                let read = forwarded("10.0.0.1", &[&element]);
                assert_eq!(read.as_deref(), *expected, "{element}");
            }
        }
    }

    #[test]
    fn empty_elements_and_white_space_say_nothing() {
        for line in ["192.0.2.9,", ", 192.0.2.9 , ,", "\t192.0.2.9\t", "192.0.2.9,10.0.0.2,,"] {
            assert_eq!(x("10.0.0.1", &[line]), is("192.0.2.9"), "{line:?}");
            assert_eq!(x("10.0.0.1", &["6.6.6.6", line, "", " , "]), is("192.0.2.9"), "{line:?}");
        }
        assert_eq!(x("10.0.0.1", &["", ",", " "]), is("10.0.0.1"));
    }

    #[test]
    fn two_clients_in_one_element_are_unknown() {
        assert_eq!(forwarded("10.0.0.1", &["host=x;for=6.6.6.6;for=192.0.2.9"]), None);
    }

    /// The longest headers that servers take are read in a time that grows with their length.
    #[test]
    fn long_lists_are_read() {
        let trusted = "10.0.0.2,".repeat(100_000);
        assert_eq!(x("10.0.0.1", &[&format!("192.0.2.9,{trusted}")]), is("192.0.2.9"));
        for filler in ["\\", "\"", "\\\"", ","] {
            let line = format!("{},10.0.0.2", filler.repeat(500_000));
            x("10.0.0.1", &[&line]);
            forwarded("10.0.0.1", &[&format!("for={line}"), "for=10.0.0.2"]);
        }
    }

    #[test]
    fn mapped_networks_are_the_ipv4_networks() {
        let same = [
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:127.0.0.1/128", "127.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::FFFF:0a00:0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ];
        for (mapped, v4) in same {
            let [mapped, v4] = [mapped, v4].map(|list| list.parse::<TrustedProxies>().unwrap());
            assert_eq!(mapped, v4);
        }
        let proxies: TrustedProxies = "::ffff:10.0.0.0/104".parse().unwrap();
        for (peer, trusted) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("::1", false)]
        {
            assert_eq!(proxies.trust(peer.parse().unwrap()), trusted, "{peer}");
        }
        for mixed in ["::/1", "::/80", "::ffff:0:0/95", "::ffff:10.0.0.0/8"] {
            let error = mixed.parse::<TrustedProxies>().unwrap_err();
            assert!(error.to_string().ends_with("name the IPv4 and the IPv6 networks apart"));
        }
        let all: TrustedProxies = "::/0".parse().unwrap();
        assert!(all.trust("2001:db8::1".parse().unwrap()));
        assert!(!all.trust("::ffff:1.2.3.4".parse().unwrap()));
        assert!("::1/128, ::/95, ::/97, fe80::/10, 64:ff9b::/96".parse::<TrustedProxies>().is_ok());
    }

    #[test]
    fn a_header_is_named_in_any_case() {
        for (name, header) in [
            ("X-Forwarded-For", ClientAddressHeader::XForwardedFor),
            ("FORWARDED", ClientAddressHeader::Forwarded),
            ("X-Real-IP", ClientAddressHeader::Named(HeaderName::from_static("x-real-ip"))),
        ] {
            assert_eq!(name.parse(), Ok(header));
        }
        let error = "not a name".parse::<ClientAddressHeader>().unwrap_err();
        assert_eq!(error.to_string(), "\"not a name\" is not the name of a header");
    }

    #[test]
    fn a_client_unknown_to_a_trusted_proxy_has_no_address() {
        assert_eq!(forwarded("10.0.0.1", &["for=1.2.3.4, for=unknown"]), None);
        assert_eq!(forwarded("10.0.0.1", &["for=_hidden"]), None);
        assert_eq!(forwarded("10.0.0.1", &["proto=https"]), None);
        assert_eq!(x("10.0.0.1", &["1.2.3.4, unknown"]), None);
    }

    #[test]
    fn a_clients_header_cannot_swallow_what_its_proxy_appends() {
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
            client("10.0.0.0/8", ClientAddressHeader::XForwardedFor, "10.0.0.1", lines),
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
            for header in [ClientAddressHeader::XForwardedFor, ClientAddressHeader::Forwarded] {
                let appended = match (&header, quoted) {
                    (ClientAddressHeader::XForwardedFor | ClientAddressHeader::Named(_), _) => format!(", {last}"),
                    (ClientAddressHeader::Forwarded, false) => format!(", for={last};proto=https"),
                    (ClientAddressHeader::Forwarded, true) => format!(", proto=https;for=\"{last}:80\""),
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
