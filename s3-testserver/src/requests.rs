//! A log of all requests, in order of arrival, whatever their outcome.

use std::collections::BTreeMap;

use http::{Method, Request, header};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// A request as it arrived, before the signature check and before any fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The HTTP method.
    pub method: Method,
    /// The object's key without the bucket. Empty for a request to the bucket itself.
    pub key: String,
    /// The prefix of a listing.
    pub prefix: Option<String>,
    /// Whether the request carried `If-None-Match`.
    pub if_none_match: bool,
    /// Whether it is a request for a role from STS rather than a request to the bucket.
    pub is_sts: bool,
    /// The headers of AWS and Google, except authentication.
    pub headers: BTreeMap<String, String>,
    /// The request's number on this server; the first is 1.
    pub ordinal: u64,
    /// The request's number among those of its method; the first is 1.
    pub method_ordinal: u64,
}

impl RequestInfo {
    /// Whether this is a listing of the bucket.
    pub fn is_list(&self) -> bool {
        self.method == Method::GET && self.key.is_empty()
    }
}

/// Every request since the server started.
#[derive(Debug)]
pub(crate) struct RequestLog(watch::Sender<Vec<RequestInfo>>);

impl RequestLog {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    pub(crate) fn record<B>(&self, request: &Request<B>) -> RequestInfo {
        let (_bucket, key) =
            request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
        let prefix = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .find_map(|p| p.strip_prefix("prefix="));
        let mut info = RequestInfo {
            method: request.method().clone(),
            key: decode(key),
            prefix: prefix.map(decode),
            if_none_match: request.headers().contains_key(header::IF_NONE_MATCH),
            is_sts: request.method() == Method::POST && request.uri().path() == "/",
            headers: headers(request),
            ordinal: 1,
            method_ordinal: 1,
        };
        self.0.send_modify(|log| {
            info.ordinal += log.len() as u64;
            info.method_ordinal +=
                log.iter().filter(|earlier| earlier.method == info.method).count() as u64;
            log.push(info.clone());
        });
        info
    }

    pub(crate) fn all(&self) -> Vec<RequestInfo> {
        self.0.borrow().clone()
    }

    pub(crate) async fn wait(&self, count: usize) {
        // The sender is borrowed, so the channel cannot close while this waits.
        let _ = self.0.subscribe().wait_for(|log| log.len() >= count).await;
    }
}

/// The headers that determine how an object is stored, and the expected owner.
fn headers<B>(request: &Request<B>) -> BTreeMap<String, String> {
    let is_of_store = |name: &str| name.starts_with("x-amz-") || name.starts_with("x-goog-");
    let of_store = request
        .headers()
        .iter()
        .filter(|(name, _)| is_of_store(name.as_str()) && name.as_str() != "x-amz-security-token");
    of_store
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}

pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
