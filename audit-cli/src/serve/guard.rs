//! Access to the page: only with this run's token, from a browser that addresses this server.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use audit_core::{Random, SystemRandom};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Place;

/// The security headers of each response: nothing is loaded from elsewhere, nothing frames the
/// page, and no other site can read it.
const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) struct Guard {
    token: String,
    /// The name of the cookie. It contains the port, since cookies do not distinguish ports.
    cookie: String,
    /// The host names under which the page is served. Any other name may belong to an attacker and
    /// resolve to this address.
    hosts: Vec<String>,
    origin: String,
    is_secure: bool,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, place: &Place) -> Guard {
        let random = || SystemRandom.next_u64();
        let port = address.port();
        let mut hosts = vec![address.to_string()];
        if address.ip().is_loopback() {
            hosts.extend(["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}")));
        }
        // Browsers omit the default port of the scheme.
        let (scheme, host) = match place {
            Place::Local => ("http", address.to_string()),
            Place::Proxy(proxy) => {
                let name = proxy.host_str().unwrap_or_default();
                let port = proxy.port().map(|port| format!(":{port}")).unwrap_or_default();
                (proxy.scheme(), format!("{name}{port}"))
            }
            Place::Tls(_, name) => {
                let is_v6 = name.parse::<Ipv6Addr>().is_ok();
                let name = if is_v6 { format!("[{name}]") } else { name.clone() };
                ("https", if port == 443 { name } else { format!("{name}:{port}") })
            }
        };
        hosts.push(host.clone());
        Guard {
            token: format!("{:016x}{:016x}", random(), random()),
            cookie: format!("audit-{port}"),
            hosts,
            origin: format!("{scheme}://{host}"),
            is_secure: scheme == "https",
        }
    }

    /// The address with the token, which admits a browser.
    pub(super) fn first_url(&self) -> String {
        format!("{}/?token={}", self.origin, self.token)
    }

    fn is_token(&self, given: &str) -> bool {
        // Compared in constant time.
        let (given, token) = (given.as_bytes(), self.token.as_bytes());
        let differing = given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
        given.len() == token.len() && differing == 0
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter();
        cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(name, value)| name == self.cookie && self.is_token(value))
    }

    fn is_our_host(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::HOST).iter();
        let host = given.next().and_then(|host| host.to_str().ok());
        given.next().is_none() && host.is_some_and(|host| self.is_name(host))
    }

    fn is_name(&self, host: &str) -> bool {
        self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }

    /// Whether the page itself makes the request. Browsers send the origin with each `POST`
    /// request. They send the cookie also from pages at other ports of this machine.
    fn is_from_us(&self, headers: &HeaderMap) -> bool {
        let from = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let from = from.and_then(|origin| origin.split_once("://"));
        from.is_some_and(|(_, host)| self.is_name(host))
    }

    /// The response to a request that is not admitted, or to the first one, which sets the cookie.
    fn examine(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        let refused = |status: StatusCode, why: &'static str| Some((status, why).into_response());
        if !self.is_our_host(headers) {
            return refused(
                StatusCode::MISDIRECTED_REQUEST,
                "this page is not served under that name\n",
            );
        }
        let is_order = request.method() == Method::POST && request.uri().path() == super::VERIFY;
        if !is_order && request.method() != Method::GET && request.method() != Method::HEAD {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "this page only reads\n");
        }
        let query = request.uri().query().unwrap_or_default();
        let mut pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let token = pairs.iter().position(|(name, _)| name == "token");
        if let Some(at) = token.filter(|_| request.uri().path() == "/") {
            let (_, token) = pairs.remove(at);
            if !self.is_token(&token) {
                return refused(StatusCode::UNAUTHORIZED, UNKNOWN);
            }
            let rest =
                url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            let place = if rest.is_empty() { "/".to_owned() } else { format!("/?{rest}") };
            let secure = if self.is_secure { "; Secure" } else { "" };
            let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}", self.cookie);
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, place)];
            return Some((StatusCode::SEE_OTHER, headers).into_response());
        }
        if !self.has_cookie(headers) {
            return refused(StatusCode::UNAUTHORIZED, UNKNOWN);
        }
        let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
        let is_page = request.uri().path() == "/";
        if is_order && !self.is_from_us(headers) {
            return refused(StatusCode::FORBIDDEN, "only the page itself may ask for this\n");
        }
        if !is_page && site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return refused(StatusCode::FORBIDDEN, "only the page itself may ask for this\n");
        }
        None
    }
}

const UNKNOWN: &str = "open the address that `audit serve` printed: it has the token of this run\n";

/// Admits requests, and adds the security headers to responses.
pub(super) async fn admit(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match guard.examine(&request) {
        None => next.run(request).await,
        Some(response) => response,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
