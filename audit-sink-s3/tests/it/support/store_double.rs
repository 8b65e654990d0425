//! Test doubles of stores. A double implements only the calls that a sink makes.
#![allow(unreachable_pub, reason = "shared by tests of the crate and beside it")]

use std::fmt;
use std::sync::Arc;

use audit_core::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The calls of a store that a sink makes.
#[async_trait]
pub trait StoreDouble: fmt::Debug + Send + Sync + 'static {
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult>;

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult>;

    /// Empty unless the test also reads the bucket.
    fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    /// As [`list`](Self::list), one level of the hierarchy.
    async fn list_level(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        unreachable!("a sink lists no level")
    }
}

/// The store of a double. Panics on any other call.
#[derive(Debug)]
pub struct Double<D>(pub Arc<D>);

impl<D: StoreDouble> fmt::Display for Double<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Double")
    }
}

#[async_trait]
impl<D: StoreDouble> ObjectStore for Double<D> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("a sink writes an object with one put")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get(location, options).await
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        unreachable!("a sink deletes nothing")
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_level(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("a sink copies nothing")
    }
}
