//! The bytes of an object. A reader may pause, and a large object takes long: both outlast the time
//! limit of a request and the time for which the client retries it, and a store may close a
//! connection that nobody reads from. So the rest of an object is requested again.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};
use tokio::time::Instant;

use super::{REPLACED, ReadError, is_same};
use crate::bucket::Reader;

/// A store that sends less than this while it is waited for as long as requests are retried, is not
/// asked for more.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The bytes of an object, as they arrive. All are of one version of the object.
pub(crate) fn chunks(
    reader: &Reader,
    found: GetResult,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + Unpin {
    let (meta, rest) = (found.meta.clone(), found.range.clone());
    let bytes = found.into_stream();
    let progress = (rest.start, Duration::ZERO);
    let body = Body { reader: reader.clone(), meta, rest, bytes, progress };
    let next = |mut body: Body| async move {
        let bytes = body.next().await?;
        Ok(bytes.map(|bytes| (bytes, body)))
    };
    stream::try_unfold(body, next).boxed()
}

struct Body {
    reader: Reader,
    meta: ObjectMeta,
    /// The range that has not arrived.
    rest: Range<u64>,
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
    /// A place in the object, and for how long the store was waited for since.
    progress: (u64, Duration),
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let begin = Instant::now();
            let read = self.bytes.next().await;
            let (since, waited) = &mut self.progress;
            *waited += begin.elapsed();
            match read.transpose() {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    self.rest.start += bytes.len() as u64;
                    if self.rest.start - *since >= PROGRESS_BYTES {
                        self.progress = (self.rest.start, Duration::ZERO);
                    }
                    return Ok(Some(bytes));
                }
                Err(error) if self.may_go_on(&error) => self.go_on().await?,
                Err(error) => return Err(self.broken_off(error).await),
            }
        }
    }

    fn may_go_on(&self, error: &object_store::Error) -> bool {
        let (_, waited) = self.progress;
        waited < self.reader.retry_for
            && !self.rest.is_empty()
            && !self.reader.is_directory()
            && !self.reader.is_refusal(error)
    }

    async fn go_on(&mut self) -> Result<(), ReadError> {
        let range = Some(GetRange::Bounded(self.rest.clone()));
        let options = GetOptions { range, ..GetOptions::default() };
        let begin = Instant::now();
        let found = self.reader.store().get_opts(&self.meta.location, options).await;
        self.progress.1 += begin.elapsed();
        match found {
            Ok(found) if is_same(&found.meta, &self.meta) && found.range == self.rest => {
                self.bytes = found.into_stream();
                Ok(())
            }
            Ok(_) => Err(ReadError::Refused(REPLACED.to_owned())),
            Err(error) => Err(self.broken_off(error).await),
        }
    }

    /// Why the object could not be read to its end. If the connection breaks and the object is
    /// replaced before the client resumes, the client reports only the broken connection. The
    /// object's metadata tells the cause.
    async fn broken_off(&mut self, error: object_store::Error) -> ReadError {
        let head = GetOptions::new().with_head(true);
        match self.reader.store().get_opts(&self.meta.location, head).await {
            Ok(now) if !is_same(&now.meta, &self.meta) => ReadError::Refused(REPLACED.to_owned()),
            Err(object_store::Error::NotFound { .. }) => ReadError::Gone,
            Ok(_) | Err(_) => ReadError::of(&self.reader, &error),
        }
    }
}
