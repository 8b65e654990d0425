//! The HTTP client of a sink: an object counts as created only if the response is a store's.
//!
//! `object_store` takes any 2xx response with an `ETag` as a success. A proxy or another server at
//! the store's address may send one too: a page, or an error in the body of a 200. A store's
//! response to a successful PUT has an empty body and the status 200 or 201. After any other 2xx
//! response the outcome is unknown, and a retry determines it.

use std::fmt;

use audit_core::{Clock, SystemClock, async_trait};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};

use super::http_client;
use super::response_body::{MAX_ERROR_BYTES, readable, start_of};
use super::store_clock::StoreClock;
use crate::one_line::scrub;

/// The header of a request for a token of an instance's metadata service (IMDSv2).
const TOKEN_REQUEST: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// The most that is shown of an unexpected body, in bytes.
const MAX_SHOWN_BYTES: usize = 200;

/// Creates clients that check responses.
#[derive(Debug)]
pub(crate) struct WriteConnector {
    /// Updated by each response.
    pub(crate) clock: StoreClock,
}

impl HttpConnector for WriteConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = http_client::connect(options)?;
        Ok(HttpClient::new(WriteService { inner, clock: self.clock.clone() }))
    }
}

#[derive(Debug)]
struct WriteService {
    inner: HttpClient,
    clock: StoreClock,
}

#[async_trait]
impl HttpService for WriteService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // The metadata service of an instance issues its token in response to a PUT.
        let is_put =
            request.method().as_str() == "PUT" && !request.headers().contains_key(TOKEN_REQUEST);
        let (mut parts, body) = self.inner.execute(request).await?.into_parts();
        let date = parts.headers.get("date").and_then(|date| date.to_str().ok());
        self.clock.note(date, SystemClock.now_ms());
        let (status, is_success) = (parts.status.as_u16(), parts.status.is_success());
        if is_success && !is_put {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let (text, end) = start_of(body, MAX_ERROR_BYTES).await;
        if is_success {
            end?;
            if !matches!(status, 200 | 201) || !text.is_empty() {
                let failure = NotCreated { status, body: scrub(&shown(&text)) };
                return Err(HttpError::new(HttpErrorKind::Unknown, failure));
            }
        }
        // An error counts by its status, even if its body is cut off.
        parts.headers.remove("content-length");
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(readable(text))))
    }
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(MAX_SHOWN_BYTES)]).into_owned()
}

/// A 2xx response to a PUT that no store would send.
#[derive(Debug)]
struct NotCreated {
    status: u16,
    body: String,
}

impl fmt::Display for NotCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotCreated { status, body } = self;
        write!(f, "the response to PUT is {status}")?;
        if !body.is_empty() {
            write!(f, " with the body {body:?}")?;
        }
        f.write_str(
            ", which is not a store's: is there a proxy, or another server, at its address?",
        )
    }
}

impl std::error::Error for NotCreated {}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::response_body::testing::Server;
    use super::*;

    async fn response(
        method: &str,
        status: u16,
        body: Vec<Option<&'static [u8]>>,
    ) -> Result<(u16, Bytes), String> {
        let inner = HttpClient::new(Server(status, body));
        let service = WriteService { inner, clock: StoreClock::default() };
        let request = http::Request::builder().method(method).uri("http://store/bucket/key");
        let response = service.call(request.body(Vec::new().into()).unwrap()).await;
        let response = response.map_err(|error| {
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        })?;
        let (parts, body) = response.into_parts();
        Ok((parts.status.as_u16(), body.bytes().await.map_err(|error| error.to_string())?))
    }

    #[tokio::test]
    async fn a_put_succeeds_with_a_response_of_a_store() {
        for status in [200, 201] {
            for body in [vec![], vec![Some(&b""[..]), Some(b"")]] {
                assert_eq!(response("PUT", status, body).await, Ok((status, Bytes::new())));
            }
        }
        for (status, body) in [
            (200, vec![Some(&b"<html>sign in</html>"[..])]),
            (200, vec![Some(b""), Some(b"<Error>"), Some(b"</Error>")]),
            (201, vec![Some(b"{}")]),
            (200, vec![Some(b"\xff")]),
            (202, vec![]),
            (203, vec![]),
            (204, vec![]),
            (206, vec![]),
        ] {
            let failure = response("PUT", status, body.clone()).await.unwrap_err();
            let expected = format!("the response to PUT is {status}");
            assert!(failure.starts_with(&expected), "{status} {body:?}: {failure}");
        }
        assert!(response("PUT", 200, vec![None]).await.is_err(), "the body may still have come");
    }

    #[tokio::test]
    async fn the_status_of_an_error_survives_its_body() {
        const PIECE: [u8; 4096] = [b'x'; 4096];
        for (method, status) in [("PUT", 412), ("PUT", 503), ("GET", 404), ("HEAD", 403)] {
            for (body, expected) in [
                (vec![Some(&b"<Error/>"[..])], "<Error/>"),
                (vec![Some(b"<Err"), None], "<Err"),
                (vec![None], ""),
                (vec![Some(b"\xff")], "\u{fffd}"),
                (vec![Some(&PIECE); 1000], std::str::from_utf8(&[b'x'; 64 << 10]).unwrap()),
            ] {
                let (said, body) = response(method, status, body).await.unwrap();
                assert_eq!((said, &body[..]), (status, expected.as_bytes()));
            }
        }
    }

    #[tokio::test]
    async fn objects_are_read_whole() {
        const PIECE: [u8; 4096] = [0xff; 4096];
        let (_, body) = response("GET", 200, vec![Some(&PIECE); 100]).await.unwrap();
        assert_eq!(body.len(), 100 * PIECE.len());
    }
}
