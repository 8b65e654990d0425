//! Reads bodies of responses up to a limit, since a store, or a server that poses as one, may send
//! any number of bytes.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use object_store::client::{HttpError, HttpResponseBody};

/// The limit on a body that is neither an object's nor a listing's, in bytes: the errors of stores
/// are far shorter. The rest is not read.
pub(super) const MAX_ERROR_BYTES: usize = 64 << 10;

/// Reads at most `most` bytes of a body. Returns them, and the error that ended the body early, if
/// there was one.
pub(super) async fn start_of(
    mut body: HttpResponseBody,
    most: usize,
) -> (Bytes, Result<(), HttpError>) {
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return (text.freeze(), Err(error)),
        };
        text.extend_from_slice(&data[..data.len().min(most - text.len())]);
        if text.len() == most {
            break;
        }
    }
    (text.freeze(), Ok(()))
}

/// Replaces invalid UTF-8, since the client drops the status of a response that has any in its
/// body.
pub(super) fn readable(text: Bytes) -> Bytes {
    match String::from_utf8_lossy(&text) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(replaced) => replaced.into(),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use audit_core::async_trait;
    use futures::{FutureExt, stream};
    use http_body_util::{Full, StreamBody};
    use object_store::client::{HttpErrorKind, HttpRequest, HttpResponse, HttpService};

    use super::*;

    /// A server with one response. A piece of its body that is `None` is where the connection ends.
    #[derive(Debug)]
    pub(crate) struct Server(pub(crate) u16, pub(crate) Vec<Option<&'static [u8]>>);

    #[async_trait]
    impl HttpService for Server {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            let frames = self.1.iter().filter_map(|piece| match *piece {
                Some(piece) => {
                    let mut whole = Full::new(Bytes::from_static(piece)).map_err(|n| match n {});
                    whole.frame().now_or_never().unwrap()
                }
                None => {
                    let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    Some(Err(HttpError::new(HttpErrorKind::Interrupted, cut)))
                }
            });
            let frames = stream::iter(frames.collect::<Vec<_>>());
            let body = HttpResponseBody::new(StreamBody::new(frames));
            let response = http::Response::builder().status(self.0).header("content-length", "9");
            Ok(response.body(body).unwrap())
        }
    }
}
