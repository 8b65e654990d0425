//! The request of a fetch, as an untrusted function describes it.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use url::Url;

use crate::FetchError;

pub(crate) const USER_AGENT: &str = "audit-functions";

/// The content codings that are decoded.
const ENCODINGS: &str = "gzip, deflate";

/// The maximum size of a URL, in bytes. Servers accept less.
const MAX_URL_BYTES: usize = 64 << 10;
/// The maximum size of all headers, in bytes. Servers accept less.
const MAX_HEADERS_BYTES: usize = 64 << 10;

/// The ports that the Fetch standard blocks: a server of another protocol, such as SMTP, may
/// mistake a request for its own.
const BLOCKED_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

/// How a fetch treats a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectMode {
    /// Requests the new location.
    Follow,
    /// Fails.
    Error,
    /// Returns the redirect as the response.
    Manual,
}

/// The request of a fetch.
#[derive(Debug)]
pub struct FetchRequest {
    pub(crate) url: Url,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) redirect: RedirectMode,
    pub(crate) body: Sending,
}

#[derive(Debug, Clone)]
pub(crate) enum Sending {
    None,
    Bytes(Bytes),
    /// A stream. It can be sent only once.
    Stream,
}

impl FetchRequest {
    /// A request without a body. The values of `headers` are Latin-1.
    ///
    /// # Errors
    ///
    /// The URL, the method or a header is invalid, not allowed or too long.
    pub fn new(
        url: &str,
        method: &str,
        headers: &[(String, String)],
        redirect: RedirectMode,
    ) -> Result<FetchRequest, FetchError> {
        if url.len() > MAX_URL_BYTES {
            let message =
                format!("the URL of {} bytes exceeds limit of {MAX_URL_BYTES} bytes", url.len());
            return Err(FetchError::new(message));
        }
        let url = Url::parse(url)
            .map_err(|error| FetchError::new(format!("the URL is invalid: {error}")))?;
        check_url(&url)?;
        let method = Method::from_bytes(method.as_bytes()).ok().filter(is_allowed);
        let method = method.ok_or_else(|| FetchError::new("the method is not allowed"))?;
        Ok(FetchRequest { url, method, headers: sent(headers)?, redirect, body: Sending::None })
    }

    pub(crate) fn get(url: Url) -> FetchRequest {
        let headers = sent(&[]).unwrap_or_default();
        let redirect = RedirectMode::Follow;
        FetchRequest { url, method: Method::GET, headers, redirect, body: Sending::None }
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(self, body: Vec<u8>) -> FetchRequest {
        FetchRequest { body: Sending::Bytes(body.into()), ..self }
    }

    /// The request with a streamed body, to be sent by [`Fetches::send`](crate::Fetches::send).
    #[must_use]
    pub fn with_stream(self) -> FetchRequest {
        FetchRequest { body: Sending::Stream, ..self }
    }
}

fn is_allowed(method: &Method) -> bool {
    let name = method.as_str();
    !["CONNECT", "TRACE", "TRACK"].iter().any(|refused| name.eq_ignore_ascii_case(refused))
}

/// Checks the scheme, credentials and port of a URL, but not its host.
pub(crate) fn check_url(url: &Url) -> Result<(), FetchError> {
    if !matches!(url.scheme(), "http" | "https") {
        let scheme = url.scheme();
        return Err(FetchError::new(format!(
            "only http: and https: can be fetched, not {scheme}:"
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::new("the URL must not contain a user name or password"));
    }
    match url.port() {
        Some(port) if BLOCKED_PORTS.contains(&port) => {
            Err(FetchError::new(format!("port {port} is blocked: it is that of another protocol")))
        }
        _ => Ok(()),
    }
}

/// The headers to send. Headers of the connection are dropped silently, as in browsers, so that a
/// function can pass on the headers of a request that it received.
fn sent(headers: &[(String, String)]) -> Result<HeaderMap, FetchError> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADERS_BYTES {
        let message =
            format!("the headers of {bytes} bytes exceed limit of {MAX_HEADERS_BYTES} bytes");
        return Err(FetchError::new(message));
    }
    let of_connection =
        [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| FetchError::new("the name of a header is invalid"))?;
        let text = name.as_str();
        if of_connection.contains(&name) || text == "keep-alive" || text.starts_with("proxy-") {
            continue;
        }
        let invalid =
            || FetchError::new(format!("the header {name} has a value that cannot be sent"));
        let value: Option<Vec<u8>> =
            value.chars().map(|it| u8::try_from(u32::from(it)).ok()).collect();
        let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
        let value = value.ok_or_else(invalid)?;
        sent.append(name, value);
    }
    if !sent.contains_key(ACCEPT_ENCODING) {
        sent.insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS));
    }
    Ok(sent)
}
