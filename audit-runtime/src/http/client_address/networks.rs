//! Lists of networks, and why an entry of one is refused.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::InvalidProxies;

/// Parses networks in CIDR notation or single addresses, separated by commas or white space.
pub(super) fn parse(list: &str) -> Result<Vec<IpNet>, InvalidProxies> {
    let parts = list
        .split(|char: char| char == ',' || char.is_ascii_whitespace())
        .filter(|part| !part.is_empty());
    let network = |(number, part): (usize, &str)| {
        let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        let invalid = |_| InvalidProxies { part: shown(part, number + 1), problem: problem(part) };
        canonical(network.map_err(invalid)?)
    };
    parts.enumerate().map(network).collect()
}

/// The network with IPv4-mapped addresses as IPv4.
pub(super) fn canonical(network: IpNet) -> Result<IpNet, InvalidProxies> {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    let IpNet::V6(v6) = network else { return Ok(network) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len()) {
        (Some(v4), length @ 96..) => Ok(Ipv4Net::new_assert(v4, length - 96).into()),
        (_, 0) => Ok(Ipv6Net::default().into()),
        (_, 1..96) if v6.contains(&MAPPED) => Err(InvalidProxies {
            part: format!("{:?}", network.to_string()),
            problem: "holds all IPv4 addresses (as ::ffff:0:0/96) beside IPv6 ones: write the IPv4 \
                      and the IPv6 networks one by one, such as 10.0.0.0/8,::1",
        }),
        (_, _) => Ok(network),
    }
}

/// An entry, if it resembles an address, and otherwise its number.
fn shown(part: &str, number: usize) -> String {
    let is_number = |byte: u8| byte.is_ascii_digit() || b"./*-".contains(&byte);
    let address = part.split_once('/').map_or(part, |(address, _)| address);
    let is_address = address.parse::<IpAddr>().is_ok() || part.parse::<SocketAddr>().is_ok();
    match is_address || part.bytes().all(is_number) {
        true => format!("{part:?}"),
        false => format!("entry {number} of the list"),
    }
}

/// Why an entry is no network, and what to write instead.
fn problem(part: &str) -> &'static str {
    if part.contains("://") {
        return "is a URL: write the address of its host alone, such as 10.0.0.1";
    }
    if let Some((address, length)) = part.split_once('/')
        && let Ok(address) = address.parse::<IpAddr>()
    {
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        return match (is_number, length.parse::<IpAddr>(), address) {
            (true, _, IpAddr::V4(_)) => "has a prefix of more than 32 bits: write at most /32",
            (true, _, IpAddr::V6(_)) => "has a prefix of more than 128 bits: write at most /128",
            (false, Ok(_), _) => "has a mask: write the length of its prefix, such as 10.0.0.0/8",
            (false, Err(_), _) => "has no length of its prefix: write it, such as 10.0.0.0/8",
        };
    }
    if part.parse::<SocketAddr>().is_ok() {
        return "has a port: write the address alone, such as 10.0.0.1 or 2001:db8::1";
    }
    if part.starts_with('[') {
        return "has brackets: write the address alone, such as 2001:db8::1";
    }
    if part.split_once('%').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok()) {
        return "has a zone: write the address without it, or its network, such as fe80::/10";
    }
    if part.bytes().all(|byte| byte.is_ascii_digit() || b"./*-".contains(&byte)) {
        return match part.contains(['*', '-']) {
            true => "is a range: write networks, such as 10.0.0.0/8",
            false => {
                "is no whole address: write four numbers from 0 to 255, without zeros before \
                      them, such as 10.0.0.1 or 10.0.0.0/8"
            }
        };
    }
    "is neither an address nor a network, and names are not resolved: write one such as 10.0.0.1 \
     or 10.0.0.0/8"
}
