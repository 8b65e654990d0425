//! The elements of a header in which proxies write addresses.

use std::net::IpAddr;

/// The parts between the commas of a header line, from last to first.
///
/// Read from the right, because a trusted proxy wrote the right end, and a client may have opened a
/// quote to the left of it to swallow that part.
pub(super) fn elements_from_the_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
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
    // Empty elements are ignored (RFC 9110, section 5.6.1).
    .filter(|element| !element.is_empty())
}

/// Whether a quoted string begins or ends here: at a quote that no backslash escapes. Backslashes
/// are counted only before a quote, so that a line of backslashes does not take quadratic time.
fn is_quote(line: &[u8], at: usize) -> bool {
    let backslashes = || line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
    line[at] == b'"' && backslashes() % 2 == 0
}

/// The value of `for` in one element of a `Forwarded` header (RFC 7239, section 4). `None` also if
/// there are two, which the RFC forbids: a client may have smuggled one into another parameter.
pub(super) fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
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
pub(super) const MAX_NODE_BYTES: usize = 256;

/// An address, with or without quotes, brackets, zone and port. `None` for `unknown`, obfuscated
/// identifiers and everything else.
pub(super) fn node(text: &[u8]) -> Option<IpAddr> {
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
        // A zone names an interface of the proxy (RFC 4007), which means nothing here.
        Some((address, zone)) if !zone.is_empty() => IpAddr::V6(address.parse().ok()?),
        Some(_) => return None,
        None => address.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// The content of a quoted string (RFC 9110, section 5.6.4).
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
