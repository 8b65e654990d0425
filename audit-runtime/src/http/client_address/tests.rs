//! The client behind proxies, and lists of proxies.

use proptest::prelude::*;

use super::elements::MAX_NODE_BYTES;
use super::*;

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
fn an_untrusted_peer_is_itself_the_client() {
    assert_eq!(x("192.0.2.9", &["1.2.3.4"]), is("192.0.2.9"));
    assert_eq!(x("192.0.2.9", &["1.2.3.4, 10.0.0.1"]), is("192.0.2.9"));
    assert_eq!(forwarded("192.0.2.9", &["for=1.2.3.4"]), is("192.0.2.9"));
}

#[test]
fn the_rightmost_untrusted_address_is_the_client() {
    assert_eq!(x("10.0.0.1", &["192.0.2.9"]), is("192.0.2.9"));
    assert_eq!(x("10.0.0.1", &["1.2.3.4, 192.0.2.9, 10.7.7.7"]), is("192.0.2.9"));
    assert_eq!(x("10.0.0.1", &["1.2.3.4", "192.0.2.9", "10.7.7.7, 2001:db8::5"]), is("192.0.2.9"));
    assert_eq!(x("10.0.0.1", &[]), is("10.0.0.1"));
    assert_eq!(x("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), is("10.0.0.3"));
}

#[test]
fn all_forms_of_addresses_are_parsed() {
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

/// How one element of the header is parsed, with `10.0.0.0/8` trusted.
#[test]
fn each_form_of_an_element_is_parsed_or_unknown() {
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
fn empty_elements_and_white_space_are_ignored() {
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

/// The longest headers that servers accept are parsed in linear time.
#[test]
fn long_lists_are_parsed_in_linear_time() {
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
        assert!(error.to_string().contains("the IPv4 and the IPv6 networks one by one"));
    }
    let all: TrustedProxies = "::/0".parse().unwrap();
    assert!(all.trust("2001:db8::1".parse().unwrap()));
    assert!(!all.trust("::ffff:1.2.3.4".parse().unwrap()));
    assert!("::1/128, ::/95, ::/97, fe80::/10, 64:ff9b::/96".parse::<TrustedProxies>().is_ok());
}

#[test]
fn header_names_are_case_insensitive() {
    for (name, header) in [
        ("X-Forwarded-For", ClientAddressHeader::XForwardedFor),
        ("FORWARDED", ClientAddressHeader::Forwarded),
        ("X-Real-IP", ClientAddressHeader::Named(HeaderName::from_static("x-real-ip"))),
    ] {
        assert_eq!(name.parse(), Ok(header));
    }
    let error = "not a name".parse::<ClientAddressHeader>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"not a name\" is not the name of a header: write one, such as x-forwarded-for"
    );
}

#[test]
fn a_client_unknown_to_a_trusted_proxy_has_no_address() {
    assert_eq!(forwarded("10.0.0.1", &["for=1.2.3.4, for=unknown"]), None);
    assert_eq!(forwarded("10.0.0.1", &["for=_hidden"]), None);
    assert_eq!(forwarded("10.0.0.1", &["proto=https"]), None);
    assert_eq!(x("10.0.0.1", &["1.2.3.4, unknown"]), None);
}

#[test]
fn clients_cannot_hide_the_proxys_address() {
    assert_eq!(forwarded("10.0.0.1", &[r#"for="x, for=192.0.2.9"#]), is("192.0.2.9"));
    assert_eq!(forwarded("10.0.0.1", &[r#"for="x\", for="192.0.2.9:80""#]), is("192.0.2.9"));
    assert_eq!(forwarded("10.0.0.1", &[r#"host="a;for=6.6.6.6";for=192.0.2.9"#]), is("192.0.2.9"));
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
    /// The address appended by the trusted proxy is the client, whatever precedes it.
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
fn invalid_lists_name_their_invalid_part() {
    let proxies: TrustedProxies = "10.0.0.0/8,192.0.2.1\n::1".parse().unwrap();
    assert!(
        proxies.trust("192.0.2.1".parse().unwrap()) && !proxies.trust("192.0.2.2".parse().unwrap())
    );
    assert_eq!("".parse(), Ok(TrustedProxies::none()));
}

#[test]
fn a_refused_network_says_why_and_what_to_write() {
    let zeros = "without zeros before them";
    for (list, part, says) in [
        ("10.0.0.0/8, nginx", "entry 2 of the list", "names are not resolved: write one such as"),
        ("hunter2", "entry 1 of the list", "10.0.0.0/8"),
        ("::1 hunter2/8", "entry 2 of the list", "10.0.0.0/8"),
        ("::/64", "\"::/64\"", "holds all IPv4 addresses"),
        ("::1,::/1", "\"::/1\"", "write the IPv4 and the IPv6 networks one by one"),
        ("::ffff:0:0/95", "\"::ffff:0.0.0.0/95\"", "such as 10.0.0.0/8,::1"),
        ("10.0.0.0/33", "\"10.0.0.0/33\"", "at most /32"),
        ("::1/129", "\"::1/129\"", "at most /128"),
        ("10.0.0.0/", "\"10.0.0.0/\"", "such as 10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "\"10.0.0.0/255.0.0.0\"", "has a mask"),
        ("10.0.0.1:443", "\"10.0.0.1:443\"", "has a port"),
        ("[::1]:443", "\"[::1]:443\"", "has a port"),
        ("[::1]", "entry 1 of the list", "has brackets"),
        ("fe80::1%eth0", "entry 1 of the list", "fe80::/10"),
        ("http://10.0.0.1", "entry 1 of the list", "is a URL"),
        ("10.0.*", "\"10.0.*\"", "is a range"),
        ("10.0.0.1-9", "\"10.0.0.1-9\"", "is a range"),
        ("10.0.0", "\"10.0.0\"", zeros),
        ("010.0.0.1", "\"010.0.0.1\"", zeros),
        ("10/8", "\"10/8\"", zeros),
    ] {
        let error = list.parse::<TrustedProxies>().unwrap_err().to_string();
        assert!(error.starts_with(part) && error.contains(says), "{list}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
