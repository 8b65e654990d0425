//! Restricts the addresses that a host connects to when somebody else chooses the URL or its host
//! name.
//!
//! [`Egress`] is a resolver for reqwest's `ClientBuilder::dns_resolver`. The client connects only
//! to the addresses that it returns, so a name cannot resolve to one address when it is checked and
//! to another when it is used. A client does not resolve an IP address in a URL: check it with
//! [`Egress::allows`] before each request, including redirects. A proxy resolves names itself, so
//! use no proxy where this check matters.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The allowed addresses: public ones, and those of allowed networks. Cheap to clone.
#[derive(Clone, Default)]
pub struct Egress {
    allowed: Arc<[IpNet]>,
    /// `None` stands for the system's resolver.
    resolver: Option<Arc<dyn Resolve>>,
}

impl Egress {
    /// Allows only public addresses.
    pub fn public() -> Egress {
        Egress::default()
    }

    /// Allows public addresses and those of these networks. An IPv4-mapped address or network
    /// (`::ffff:10.0.0.0/104`) is the IPv4 one, and no other IPv6 network has IPv4 addresses.
    pub fn allowing(networks: impl IntoIterator<Item = IpNet>) -> Egress {
        Egress { allowed: networks.into_iter().map(canonical).collect(), resolver: None }
    }

    /// Resolves names with `resolver` instead of the system's. Its results are checked.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Egress {
        Egress { resolver: Some(resolver), ..self }
    }

    /// Whether a connection may be made to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|network| network.contains(&canonical))
    }
}

fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len()) {
        (Some(v4), length @ 96..) => Ipv4Net::new_assert(v4, length - 96).into(),
        (_, _) => network,
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = match &egress.resolver {
                Some(resolver) => resolver.resolve(name).await?.collect(),
                None => tokio::net::lookup_host((&*host, 0)).await?.collect(),
            };
            let (allowed, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.into_iter().partition(|found| egress.allows(found.ip()));
            if let (true, Some(other)) = (allowed.is_empty(), others.first()) {
                return Err(PrivateAddress { host, address: other.ip() }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A name that resolves only to addresses that are not allowed. `Display` does not show them, since
/// they may be confidential.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host} resolves to no public address")]
pub struct PrivateAddress {
    host: String,
    address: IpAddr,
}

impl PrivateAddress {
    /// The name that was resolved.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// One of the addresses, for the operator.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// Whether an address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The address of Azure's services for its own machines, which is not reachable from elsewhere.
const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // "This network".
        || a == 0
        // Shared by carriers for their NATs.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, relays, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        // Azure serves each of its machines the machine's own settings at this address.
        || address == AZURE
        // Reserved, and broadcast.
        || a >= 240;
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let segments = address.segments();
    let [a, b, c, ..] = segments;
    // Translated addresses (NAT64, 6to4) lead to the embedded IPv4 address.
    let embedded = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match a {
        0x2002 => embedded(b, c),
        0x64 if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => embedded(segments[6], segments[7]),
        // Protocol assignments with Teredo, and documentation.
        0x2001 if b < 0x200 || b == 0xdb8 => false,
        0x3fff if b < 0x1000 => false,
        // Global unicast. Everything else is local, multicast or unassigned.
        0x2000..0x4000 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resolves every name to the same addresses.
    struct Fixed(Vec<SocketAddr>);

    impl Resolve for Fixed {
        fn resolve(&self, _: Name) -> Resolving {
            let found = self.0.clone();
            Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }

    async fn resolved(egress: Egress) -> Result<Vec<String>, PrivateAddress> {
        match egress.resolve("name.example".parse().unwrap()).await {
            Ok(found) => Ok(found.map(|found| found.ip().to_string()).collect()),
            Err(error) => Err(*error.downcast::<PrivateAddress>().unwrap()),
        }
    }

    fn fixed(addresses: &[&str]) -> Arc<Fixed> {
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 0);
        Arc::new(Fixed(addresses.iter().map(address).collect()))
    }

    #[tokio::test]
    async fn names_of_private_addresses_are_refused() {
        let Err(error) = Egress::public().resolve("localhost".parse().unwrap()).await else {
            panic!("localhost is taken for public");
        };
        let error = error.downcast::<PrivateAddress>().unwrap();
        assert!(error.address().is_loopback() && error.host() == "localhost", "{error}");
        assert!(!error.to_string().contains(&error.address().to_string()), "{error}");
    }

    #[tokio::test]
    async fn names_resolve_to_allowed_addresses_only() {
        let resolver = fixed(&["10.1.2.3", "8.8.8.8", "::ffff:10.9.9.9", "fd00::1"]);
        let public = Egress::public().with_resolver(Arc::clone(&resolver) as _);
        assert_eq!(resolved(public).await.unwrap(), ["8.8.8.8"]);
        let networks = ["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let allowing = Egress::allowing(networks).with_resolver(resolver);
        let all = ["10.1.2.3", "8.8.8.8", "::ffff:10.9.9.9", "fd00::1"];
        assert_eq!(resolved(allowing).await.unwrap(), all);
        let private = Egress::allowing(networks).with_resolver(fixed(&["192.168.0.1"]));
        assert_eq!(resolved(private).await.unwrap_err().address().to_string(), "192.168.0.1");
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let allows = |network: &str, address: &str| {
            Egress::allowing([network.parse().unwrap()]).allows(address.parse().unwrap())
        };
        for network in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
            for (address, is_allowed) in
                [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("::10.1.2.3", false)]
            {
                assert_eq!(allows(network, address), is_allowed, "{network} {address}");
            }
        }
        for network in ["::/0", "::/64", "::/96"] {
            assert!(allows(network, "::1"), "{network}");
            for address in ["10.1.2.3", "::ffff:10.1.2.3"] {
                assert!(!allows(network, address), "{network} {address}");
            }
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        let public =
            ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1"];
        let public_v6 = ["2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808", "::ffff:8.8.8.8"];
        for address in public.iter().chain(&public_v6) {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        let others = [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "192.0.2.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "::7f00:1",
            "4000::1",
        ];
        for address in others {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
