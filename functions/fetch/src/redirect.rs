//! Redirects, by section "HTTP-redirect fetch" of the Fetch standard.

use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, COOKIE,
    HeaderMap, LOCATION,
};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::request::Sending;
use crate::{FetchError, RedirectMode};

/// One request of a fetch.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) url: Url,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Sending,
}

/// The next request, if this response redirects to one.
pub(crate) fn next_hop(
    hop: &Hop,
    status: StatusCode,
    response: &HeaderMap,
    mode: RedirectMode,
) -> Result<Option<Hop>, FetchError> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) || mode == RedirectMode::Manual {
        return Ok(None);
    }
    if mode == RedirectMode::Error {
        let message = format!(
            "the response is a redirect (status {}), and redirect is \"error\"",
            status.as_u16()
        );
        return Err(FetchError::new(message));
    }
    let Some(location) = response.get(LOCATION) else { return Ok(None) };
    // Servers send UTF-8 here.
    let location = String::from_utf8_lossy(location.as_bytes());
    let mut url = hop
        .url
        .join(&location)
        .map_err(|_| FetchError::new("the response redirects to an invalid URL"))?;
    if url.fragment().is_none() {
        url.set_fragment(hop.url.fragment());
    }
    crate::request::check_url(&url)
        .map_err(|error| FetchError::new(format!("the response redirects: {error}")))?;
    let mut next = Hop {
        method: hop.method.clone(),
        headers: hop.headers.clone(),
        body: hop.body.clone(),
        url,
    };
    let is_post = next.method == Method::POST;
    let becomes_get = match status.as_u16() {
        301 | 302 => is_post,
        303 => next.method != Method::GET && next.method != Method::HEAD,
        _ => false,
    };
    if becomes_get {
        next.method = Method::GET;
        next.body = Sending::None;
        for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE] {
            next.headers.remove(name);
        }
    }
    if matches!(next.body, Sending::Stream) {
        let message = "the response redirects a request whose streamed body cannot be sent twice";
        return Err(FetchError::new(message));
    }
    if next.url.origin() != hop.url.origin() {
        next.headers.remove(AUTHORIZATION);
        next.headers.remove(COOKIE);
    }
    Ok(Some(next))
}
