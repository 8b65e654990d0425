//! A slow bucket that stores nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit_core::async_trait;
use audit_sink_s3::Bucket;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A store that only remembers the names of objects.
#[derive(Debug)]
pub struct FarStore {
    /// The duration of a put. `None` if it never ends.
    takes: Option<Duration>,
    keys: Mutex<BTreeSet<String>>,
}

impl FarStore {
    /// A bucket in which each put takes this long.
    pub fn bucket(takes: Duration) -> Bucket {
        FarStore::reached(Some(takes))
    }

    /// A bucket that a sink can be opened on, but that accepts no object.
    pub fn silent_bucket() -> Bucket {
        FarStore::reached(None)
    }

    fn reached(takes: Option<Duration>) -> Bucket {
        Bucket::from_store(Arc::new(FarStore { takes, keys: Mutex::default() }), "")
    }

    fn missing(location: &Path) -> Error {
        Error::NotFound { path: location.to_string(), source: "this store keeps nothing".into() }
    }
}

impl fmt::Display for FarStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FarStore")
    }
}

#[async_trait]
impl ObjectStore for FarStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        _: PutOptions,
    ) -> Result<PutResult> {
        // A sink that is opened puts a probe there, which must succeed.
        if !location.as_ref().starts_with("_audit/") {
            match self.takes {
                Some(takes) => tokio::time::sleep(takes).await,
                None => std::future::pending().await,
            }
        }
        drop(payload);
        let is_new =
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(location.to_string());
        if !is_new {
            let source = "it was put before".into();
            return Err(Error::AlreadyExists { path: location.to_string(), source });
        }
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        Err(FarStore::missing(location))
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        paths
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Ok(ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(FarStore::missing(from))
    }
}
