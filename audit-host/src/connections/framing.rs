//! Refuses requests whose end or target a proxy may read differently.
//!
//! Hyper rejects what it cannot parse, and leaves these rules of RFC 9112 to servers. If a proxy in
//! front applied other rules than the host, a client could reach what the proxy guards, or a
//! request could have another end for the host than for the proxy.

use std::net::Ipv6Addr;

use axum::body::Body;
use axum::http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use axum::response::IntoResponse;

/// A request that must not be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    status: StatusCode,
    why: &'static str,
}

const fn bad(why: &'static str) -> Malformed {
    Malformed { status: StatusCode::BAD_REQUEST, why }
}

const fn not_implemented(why: &'static str) -> Malformed {
    Malformed { status: StatusCode::NOT_IMPLEMENTED, why }
}

impl Malformed {
    /// The response. The connection ends with it, since what follows may not be a request.
    pub(super) fn response(self) -> Response<Body> {
        let mut response = (self.status, format!("{}\n", self.why)).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Checks a request. If its target names a host, sets `Host` to it.
///
/// # Errors
///
/// If it must be refused.
pub(super) fn check<B>(request: &mut Request<B>) -> Result<(), Malformed> {
    check_codings(request.headers())?;
    if request.method() == Method::CONNECT {
        return Err(not_implemented("this is no proxy"));
    }
    let host = host(request.headers())?;
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(bad("the request has no Host"));
    }
    let uri = request.uri();
    let Some(target) = uri.authority() else { return Ok(()) };
    // Without a scheme, the target is not in the absolute form, but a path that lacks its slash.
    if uri.scheme().is_none() {
        return Err(bad("the target is no path"));
    }
    if !is_host(target.as_str()) {
        return Err(bad("the target names no host"));
    }
    // The target counts, and the header is ignored (RFC 9112, 3.2.2).
    let target = HeaderValue::from_str(target.as_str());
    let target = target.map_err(|_| bad("the target names no host"))?;
    request.headers_mut().insert(HOST, target);
    Ok(())
}

/// Hyper checks that the last coding is `chunked`, and that the request is not of HTTP/1.0.
fn check_codings(headers: &HeaderMap) -> Result<(), Malformed> {
    let mut chunked = 0;
    for line in headers.get_all(TRANSFER_ENCODING) {
        for coding in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match coding {
                // Empty elements of a list are ignored (RFC 9110, 5.6.1).
                [] => {}
                _ if coding.eq_ignore_ascii_case(b"chunked") => chunked += 1,
                _ => return Err(not_implemented("the only transfer coding here is chunked")),
            }
        }
    }
    if chunked > 1 { Err(bad("the request is chunked twice")) } else { Ok(()) }
}

/// The host that the header names, if there is one.
fn host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Malformed> {
    let mut lines = headers.get_all(HOST).iter();
    let host = lines.next();
    if lines.next().is_some() {
        return Err(bad("the request has more than one Host"));
    }
    match host.map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(name)) if is_host(name) => Ok(host),
        Some(_) => Err(bad("the Host of the request is invalid")),
    }
}

/// Whether this is a host with an optional port, and without a user.
fn is_host(name: &str) -> bool {
    let Ok(authority) = name.parse::<Authority>() else { return false };
    let host = authority.host();
    let literal = host.strip_prefix('[').map(|rest| rest.trim_end_matches(']'));
    let is_name = literal.map_or(!host.is_empty(), |address| address.parse::<Ipv6Addr>().is_ok());
    // With a user before the host, the host is not a prefix of the name.
    let is_end = match name.strip_prefix(host) {
        None => false,
        Some("" | ":") => true,
        Some(end) => end.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }),
    };
    is_name && is_end
}
