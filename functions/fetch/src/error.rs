//! [`FetchError`].

use std::error::Error;
use std::io;

use audit_egress::PrivateAddress;
use url::Url;

/// A failed fetch. The message may reach the function's author and its callers, so it repeats only
/// what the function named, never an address that a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    message: String,
}

impl FetchError {
    pub(crate) fn new(message: impl Into<String>) -> FetchError {
        FetchError { message: message.into() }
    }
}

/// The error for a failure of the HTTP client.
pub(crate) fn failed(error: &reqwest::Error, url: &Url) -> FetchError {
    let host = url.host_str().unwrap_or_default();
    let mut kind = None;
    let mut certificate = None;
    let mut is_resolving = false;
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.is::<PrivateAddress>() {
            return FetchError::new(format!(
                "{host} resolves to no public address, and this host's settings do not allow others"
            ));
        }
        if let Some(fetch) = cause.downcast_ref::<FetchError>() {
            return fetch.clone();
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            kind = Some(io.kind());
            // An I/O error may wrap the error of a request body.
            if let Some(fetch) = io.get_ref().and_then(|inner| inner.downcast_ref::<FetchError>()) {
                return fetch.clone();
            }
        }
        let text = cause.to_string();
        is_resolving |= text.contains("dns error") || text.contains("failed to lookup address");
        if text.contains("invalid peer certificate") {
            certificate = Some(text);
        }
        next = cause.source();
    }
    if let Some(text) = certificate {
        return FetchError::new(format!("the TLS certificate of {host} is refused: {text}"));
    }
    if is_resolving {
        return FetchError::new(format!("the name {host} could not be resolved"));
    }
    let port = url.port_or_known_default().unwrap_or_default();
    let why = match kind {
        Some(kind) if kind != io::ErrorKind::Other => format!(": {kind}"),
        _ if error.is_timeout() => ": timed out".to_owned(),
        _ => String::new(),
    };
    if error.is_connect() {
        return FetchError::new(format!("no connection to {host}:{port}{why}"));
    }
    FetchError::new(format!(
        "the connection to {host}:{port} failed before the response was complete{why}"
    ))
}
