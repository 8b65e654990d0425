//! The addresses that requests may go to: a URL, or the name in it, may be controlled by others,
//! and must not lead into this host's own network.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Whether an address is in the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        // "This network".
        || a == 0
        // Shared by carriers.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, relays, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
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
    // Translated addresses (NAT64, 6to4) lead to what they hold.
    let held = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match a {
        0x2002 => held(b, c),
        0x64 if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => held(segments[6], segments[7]),
        // Protocol assignments with Teredo, and documentation.
        0x2001 if b < 0x200 || b == 0xdb8 => false,
        0x3fff if b < 0x1000 => false,
        // Global unicast; all else is local, multicast, or not assigned.
        0x2000..0x4000 => true,
        _ => false,
    }
}

/// A name or an address that must not be sent to.
#[derive(Debug, Clone)]
pub(crate) struct PrivateAddress {
    pub(crate) host: String,
    pub(crate) address: IpAddr,
}

impl fmt::Display for PrivateAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PrivateAddress { host, address } = self;
        if *host == address.to_string() {
            write!(f, "{host} is no public address")?;
        } else {
            write!(f, "{host} resolves to {address}, which is no public address")?;
        }
        f.write_str(" (set allow_private_addresses if it is meant to be reached)")
    }
}

impl Error for PrivateAddress {}

/// The system's resolver, without addresses that are not public. A client connects to what this
/// gives and nothing else, so that a name cannot resolve to one address when it is checked and to
/// another when it is used.
#[derive(Debug)]
pub(crate) struct PublicAddresses;

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (public, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.partition(|found| is_public(found.ip()));
            if let (true, Some(other)) = (public.is_empty(), others.first()) {
                let host = name.as_str().to_owned();
                return Err(PrivateAddress { host, address: other.ip() }.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_resolve_to_private_addresses_are_refused() {
        let Err(error) = PublicAddresses.resolve("localhost".parse().unwrap()).await else {
            panic!("localhost is taken for public");
        };
        let error = error.downcast::<PrivateAddress>().unwrap();
        assert!(error.address.is_loopback() && error.to_string().contains("localhost"), "{error}");
    }

    #[test]
    fn only_public_addresses_are_public() {
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
