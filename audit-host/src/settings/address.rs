//! Addresses to listen on, and why one is refused.

use std::net::{IpAddr, SocketAddr};

/// Parses an address to listen on, such as `127.0.0.1:8080`. For clap's `value_parser`.
///
/// # Errors
///
/// If it is invalid. The error says why and what to write instead. It shows nothing of the text but
/// numbers, since anything else may be a misplaced secret.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse().map_err(|_| problem(text))
}

fn problem(text: &str) -> String {
    if text.is_empty() {
        return "it is empty: write an address with a port, such as 127.0.0.1:8080".to_owned();
    }
    if text.contains("://") {
        return "it is a URL: write an address with a port alone, such as 127.0.0.1:8080"
            .to_owned();
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => return format!("it has no port: write {address}:8080"),
        Ok(IpAddr::V6(_)) => {
            return "an IPv6 address with a port has brackets: write it as in [::1]:8080"
                .to_owned();
        }
        Err(_) => {}
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) => (address, port),
        None if is_number(text) => ("", text),
        None => (text, "8080"),
    };
    let Ok(port) = port.parse::<u16>() else {
        return match is_number(port) {
            true => "its port is greater than 65535: write one from 0 to 65535".to_owned(),
            false => "its port is no number: write one from 0 to 65535, such as 127.0.0.1:8080"
                .to_owned(),
        };
    };
    let is_like_an_address = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:[]".contains(&byte))
            && text.contains(['.', ':'])
    };
    match address {
        "" | "*" => format!(
            "it has no address: write 127.0.0.1:{port} for programs of this machine, or \
             0.0.0.0:{port} for all"
        ),
        "localhost" => format!("names are not resolved: write 127.0.0.1:{port}"),
        address if address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => {
            format!("an IPv6 address with a port has brackets: write it as in [::1]:{port}")
        }
        address if is_like_an_address(address) => {
            format!("its address is invalid: write one such as 127.0.0.1:{port} or [::1]:{port}")
        }
        _ => format!(
            "it has no address, and names are not resolved: write one such as 127.0.0.1:{port} or \
             [::1]:{port}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_address_says_why_and_what_to_write() {
        for fine in ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:80", " [fe80::1%2]:80\n"] {
            assert!(listen_address(fine).is_ok(), "{fine}");
        }
        for (text, says) in [
            ("", "is empty: write an address with a port"),
            ("8080", "no address: write 127.0.0.1:8080"),
            (":80", "write 127.0.0.1:80 for programs of this machine, or 0.0.0.0:80 for all"),
            ("*:80", "0.0.0.0:80"),
            ("localhost:80", "names are not resolved: write 127.0.0.1:80"),
            ("localhost", "write 127.0.0.1:8080"),
            ("hunter2:80", "names are not resolved: write one such as 127.0.0.1:80"),
            ("hunter2", "127.0.0.1:8080"),
            ("hunter2:hunter2", "its port is no number"),
            ("127.0.0.1", "no port: write 127.0.0.1:8080"),
            ("::1", "write it as in [::1]:8080"),
            ("::1:80", "write it as in [::1]:8080"),
            ("1:2:3:4:5:6:7:8:80", "write it as in [::1]:80"),
            ("[::1]", "its port is no number"),
            ("127.0.0.1:65536", "greater than 65535"),
            ("127.0.0.1:http", "its port is no number"),
            ("127.0.0:80", "its address is invalid: write one such as 127.0.0.1:80"),
            ("256.0.0.1:80", "its address is invalid"),
            ("[::g]:80", "no address, and names are not resolved"),
            ("http://127.0.0.1:80", "it is a URL"),
            ("none", "127.0.0.1:8080"),
        ] {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
