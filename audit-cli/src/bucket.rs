//! A bucket that is read: what is listed of it, and in which order.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_core::UniqueId;
use audit_sink_s3::{Bucket, ObjectKey, Partition};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::mpsc;

use crate::arguments::{Common, Selection, Source};
use crate::failure::Failure;
use crate::in_order::in_order;

/// A bucket to read from. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    bucket: Bucket,
    /// Whether the store lists in the order of the keys. A directory does not.
    lists_in_order: bool,
    pub(crate) parallel: usize,
    strangers: Arc<Strangers>,
}

/// Objects in partitions that no sink wrote.
#[derive(Debug, Default)]
struct Strangers {
    count: AtomicU64,
    first: Mutex<Option<Path>>,
}

/// An object in a bucket, as it was listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) key: ObjectKey,
    pub(crate) location: Path,
    pub(crate) bytes: u64,
    /// When the store took it, in milliseconds since the Unix epoch.
    pub(crate) modified_ms: i64,
}

/// The times that are asked for, and one stream if not all.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) times_ms: Range<i64>,
    pub(crate) stream: Option<UniqueId>,
}

impl Wanted {
    pub(crate) fn new(selection: &Selection) -> Wanted {
        let Selection { since, until, stream } = selection;
        let times_ms =
            since.map_or(i64::MIN, |since| since.0)..until.map_or(i64::MAX, |until| until.0);
        Wanted { times_ms, stream: *stream }
    }

    fn overlaps(&self, partition: &Partition) -> bool {
        partition.begin_ms() < self.times_ms.end && self.times_ms.start < partition.end_ms()
    }

    fn covers(&self, partition: &Partition) -> bool {
        self.times_ms.start <= partition.begin_ms() && partition.end_ms() <= self.times_ms.end
    }
}

/// How many listed objects a partition may be ahead of its reader: a page of S3.
const PAGE: usize = 1_000;

impl Reader {
    pub(crate) fn open(source: &Source, common: &Common) -> Result<Reader, Failure> {
        let url = to_url(&source.bucket)?;
        let bucket = Bucket::open_to_read(&url, Bucket::READ_RETRY)?;
        let lists_in_order = !url.starts_with("file:");
        Ok(Reader {
            bucket,
            lists_in_order,
            parallel: usize::from(common.parallel),
            strangers: Arc::default(),
        })
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        self.bucket.store()
    }

    pub(crate) fn name(&self) -> String {
        self.bucket.to_string()
    }

    /// The partitions that may hold what is wanted, in order. Days that are wanted whole are not
    /// asked for their hours, unless what is in them would not come in order.
    pub(crate) async fn partitions(&self, wanted: &Wanted) -> Result<Vec<Partition>, Failure> {
        let split = self.days(wanted).await?.into_iter().map(|day| async move {
            if self.lists_in_order && wanted.covers(&day) {
                return Ok(vec![day]);
            }
            self.hours(&day).await
        });
        let split: Vec<Vec<Partition>> =
            stream::iter(split).buffered(self.parallel).try_collect().await?;
        Ok(split.into_iter().flatten().filter(|partition| wanted.overlaps(partition)).collect())
    }

    /// The days that may hold what is wanted, in order.
    pub(crate) async fn days(&self, wanted: &Wanted) -> Result<Vec<Partition>, Failure> {
        let days = self.below(None).await?;
        Ok(days.into_iter().filter(|day| day.is_day() && wanted.overlaps(day)).collect())
    }

    /// The hours of a day, in order.
    pub(crate) async fn hours(&self, day: &Partition) -> Result<Vec<Partition>, Failure> {
        self.below(Some(day)).await
    }

    /// The partitions one level below a day, or below the prefix.
    async fn below(&self, day: Option<&Partition>) -> Result<Vec<Partition>, Failure> {
        let path = match day {
            Some(day) => self.bucket.path(&day.to_string()),
            None => self.bucket.prefix().clone(),
        };
        let listed = self.bucket.store().list_with_delimiter(Some(&path)).await;
        let listed = listed.map_err(|error| self.cannot_list(error))?;
        let parse = |path: &Path| self.bucket.below_prefix(path)?.parse::<Partition>().ok();
        let mut partitions: Vec<Partition> =
            listed.common_prefixes.iter().filter_map(parse).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// The objects that are wanted.
    pub(crate) async fn objects(
        &self,
        wanted: &Wanted,
    ) -> Result<impl Stream<Item = Result<Listed, Failure>> + use<>, Failure> {
        let partitions = self.partitions(wanted).await?;
        Ok(self.objects_in(partitions, wanted.stream))
    }

    /// The objects of these partitions, of one stream if not of all, in the order of their keys
    /// where the store lists in that order, or is a directory.
    pub(crate) fn objects_in(
        &self,
        partitions: Vec<Partition>,
        stream: Option<UniqueId>,
    ) -> impl Stream<Item = Result<Listed, Failure>> + use<> {
        let reader = self.clone();
        let list = move |partition, sender: mpsc::Sender<Result<Listed, Failure>>| {
            let reader = reader.clone();
            async move {
                let mut objects = std::pin::pin!(reader.objects_of(&partition).await);
                while let Some(object) = objects.next().await {
                    let ours = object
                        .as_ref()
                        .map_or(true, |object| stream.is_none_or(|id| id == object.key.stream()));
                    if ours && sender.send(object).await.is_err() {
                        return;
                    }
                }
            }
        };
        in_order(futures::stream::iter(partitions), self.parallel, PAGE, list)
    }

    /// The objects of one partition.
    pub(crate) async fn objects_of(
        &self,
        partition: &Partition,
    ) -> impl Stream<Item = Result<Listed, Failure>> + use<> {
        let reader = self.clone();
        let path = self.bucket.path(&partition.to_string());
        let listed = self.bucket.store().list(Some(&path)).filter_map(move |meta| {
            std::future::ready(match meta {
                Ok(meta) => reader.recognize(meta).map(Ok),
                Err(error) => Some(Err(reader.cannot_list(error))),
            })
        });
        if self.lists_in_order {
            return listed.left_stream();
        }
        let mut objects: Vec<_> = listed.collect().await;
        objects.sort_by_key(|object| object.as_ref().ok().map(|object| object.key));
        stream::iter(objects).right_stream()
    }

    fn recognize(&self, meta: ObjectMeta) -> Option<Listed> {
        let ObjectMeta { location, last_modified, size, e_tag: _, version: _ } = meta;
        let Some(key) = self.bucket.key(&location) else {
            if self.strangers.count.fetch_add(1, Ordering::Relaxed) == 0 {
                *self.strangers.first.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(location);
            }
            return None;
        };
        Some(Listed { key, location, bytes: size, modified_ms: last_modified.timestamp_millis() })
    }

    /// How many objects were listed that no sink wrote, and one of them.
    pub(crate) fn strangers(&self) -> Option<(u64, Path)> {
        let first = self.strangers.first.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some((self.strangers.count.load(Ordering::Relaxed), first?))
    }

    fn cannot_list(&self, error: object_store::Error) -> Failure {
        Failure::new(format!("cannot list {}", self.name())).because(in_one_line(&error))
    }
}

/// A URL as it is, and a path as the URL of a directory.
pub(crate) fn to_url(bucket: &str) -> Result<String, Failure> {
    if bucket.contains("://") {
        return Ok(bucket.to_owned());
    }
    let path = FilePath::new(bucket);
    let path = path.canonicalize().map_err(|error| {
        Failure::new(format!(
            "{bucket} is neither a bucket URL, such as s3://bucket/prefix, nor a directory"
        ))
        .because(error)
    })?;
    match url::Url::from_directory_path(&path) {
        Ok(url) => Ok(url.into()),
        Err(()) => Err(Failure::new(format!("{} cannot be written as a URL", path.display()))),
    }
}

/// What a store said, without the XML and the queries of URLs, which may hold signatures.
pub(crate) fn in_one_line(error: &object_store::Error) -> String {
    audit_sink_s3::describe(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::HOUR_MS;

    #[test]
    fn a_partition_is_wanted_if_any_of_it_is() {
        let hour = Partition::hour_of(0);
        let wanted = |times_ms| Wanted { times_ms, stream: None };
        assert!(wanted(0..1).overlaps(&hour) && !wanted(0..1).covers(&hour));
        assert!(wanted(HOUR_MS - 1..HOUR_MS).overlaps(&hour));
        assert!(!wanted(HOUR_MS..HOUR_MS + 1).overlaps(&hour));
        assert!(!wanted(-5..0).overlaps(&hour));
        assert!(wanted(i64::MIN..i64::MAX).covers(&hour) && wanted(0..HOUR_MS).covers(&hour));
    }
}
