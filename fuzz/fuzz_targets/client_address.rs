//! The address that a trusted proxy appends is the client's, whatever precedes it in the headers.
//! An untrusted peer is the client itself.
#![no_main]

use std::net::IpAddr;

use audit_runtime::http::{ClientAddressHeader, Origin, TrustedProxies};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<u8>, [u8; 4], bool)| {
    let (lines, prefix, client, is_forwarded) = input;
    let client = IpAddr::from(client);
    let header =
        if is_forwarded { ClientAddressHeader::Forwarded } else { ClientAddressHeader::XForwardedFor };
    let proxies: TrustedProxies = "10.0.0.0/8".parse().expect("a network");
    let proxies = proxies.with_header(header);
    let read = |peer: &str, lines: &[Vec<u8>]| {
        let lines = |_: &str| lines.iter().map(Vec::as_slice);
        Origin::of(peer.parse().ok(), &proxies, "x-request-id", lines)
    };

    // Never panics, and without a trusted proxy the client is the peer.
    read("10.0.0.1", &lines);
    let untrusted = read("192.0.2.1", &lines);
    assert_eq!(untrusted.client(), "192.0.2.1".parse().ok());
    assert!(untrusted.request_id().is_none() && !untrusted.is_trusted());

    if proxies.trust(client) {
        return;
    }
    let appended = if is_forwarded { format!(", for={client}") } else { format!(", {client}") };
    let last = [&prefix[..], appended.as_bytes()].concat();
    let lines = [lines, vec![last]].concat();
    assert_eq!(read("10.0.0.1", &lines).client(), Some(client));
});
