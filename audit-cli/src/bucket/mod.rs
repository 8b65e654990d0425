//! Reading a bucket: its listings, and their order.

mod passed;
mod unlisted;
mod wanted;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use audit_core::UniqueId;
use audit_sink_s3::Bucket;
pub(crate) use audit_sink_s3::layout::ListedObject as Listed;
use audit_sink_s3::layout::{
    Level, Listed as Found, Metadata, ObjectKey, Partition, SYSTEM_PREFIX,
};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Attributes, ObjectStore};
use tokio::sync::mpsc;

pub(crate) use self::passed::Others;
use self::passed::{Passed, Top};
use self::unlisted::Unlisted;
pub(crate) use self::wanted::Wanted;
use crate::arguments::{Common, Source};
use crate::failure::Failure;
use crate::in_order::in_order;
use crate::output;
use crate::units::counted;

/// A bucket to read from. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    bucket: Bucket,
    pub(crate) parallel: usize,
    /// For how long requests are retried.
    pub(crate) retry_for: Duration,
    /// Whether only the hosts' own records are listed.
    is_system: bool,
    passed: Arc<Passed>,
    unlisted: Arc<Unlisted>,
}

/// The maximum number of nearby names that are shown if a prefix has no days.
const NEARBY_SHOWN: usize = 8;

/// How many objects the listing of a partition may be ahead of its reader: one page of S3.
const PAGE: usize = 1_000;

impl Reader {
    pub(crate) fn open(source: &Source, common: &Common) -> Result<Reader, Failure> {
        let url = to_url(&source.bucket)?;
        let (seconds, told) = (common.retry_for, AtomicBool::new(false));
        let on_retry = move |why: &str| {
            // If one request fails, many do: the note is printed once.
            if seconds > 0 && !told.swap(true, Ordering::Relaxed) {
                let text = format!("the bucket does not answer ({why}): retrying for {seconds} s");
                output::note(&text);
            }
        };
        let bucket = Bucket::open_to_read_with(&url, Duration::from_secs(seconds), on_retry)?;
        Ok(Reader {
            bucket,
            parallel: usize::from(common.parallel),
            retry_for: Duration::from_secs(seconds),
            is_system: false,
            passed: Arc::default(),
            unlisted: Arc::default(),
        })
    }

    /// A reader of the hosts' records about their streams.
    pub(crate) fn system(&self) -> Reader {
        Reader { is_system: true, passed: Arc::default(), ..self.clone() }
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(crate) fn location(&self, key: &str) -> Path {
        self.bucket.path(key)
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        self.bucket.store()
    }

    /// The metadata of the object at `key`, given the attributes that the store returned.
    pub(crate) async fn metadata(
        &self,
        key: &ObjectKey,
        attributes: Attributes,
    ) -> object_store::Result<Metadata> {
        self.bucket.metadata(key, attributes).await
    }

    /// The store's own time at its last response.
    pub(crate) fn store_time_ms(&self) -> Option<i64> {
        self.bucket.store_time_ms()
    }

    /// Whether the bucket is a directory, which is not listed in the order of the keys.
    pub(crate) fn is_directory(&self) -> bool {
        self.bucket.is_directory()
    }

    /// The store's message, without XML and without the queries of URLs, which may hold signatures.
    pub(crate) fn describe(&self, error: &object_store::Error) -> String {
        self.bucket.describe(error)
    }

    pub(crate) fn name(&self) -> String {
        self.bucket.to_string()
    }

    /// The partitions that may hold selected records, in order. Whole days are not split into
    /// hours, unless their objects would otherwise be out of order.
    pub(crate) async fn partitions(&self, wanted: &Wanted) -> Result<Vec<Partition>, Failure> {
        let split = self.days(wanted).await?.into_iter().map(|day| async move {
            if !self.is_directory() && wanted.covers(&day) {
                return Ok(vec![day]);
            }
            self.hours(&day).await
        });
        let split: Vec<Vec<Partition>> =
            stream::iter(split).buffered(self.parallel).try_collect().await?;
        Ok(split.into_iter().flatten().filter(|partition| wanted.overlaps(partition)).collect())
    }

    /// The hours that may hold selected records, in order.
    pub(crate) async fn hours_of(&self, wanted: &Wanted) -> Result<Vec<Partition>, Failure> {
        let days = self.days(wanted).await?;
        let hours = days.into_iter().map(|day| async move { self.hours(&day).await });
        let hours: Vec<Vec<Partition>> =
            stream::iter(hours).buffered(self.parallel).try_collect().await?;
        Ok(hours.into_iter().flatten().filter(|partition| wanted.overlaps(partition)).collect())
    }

    /// The days that may hold selected records, in order.
    pub(crate) async fn days(&self, wanted: &Wanted) -> Result<Vec<Partition>, Failure> {
        let Level { partitions, others } = match self.level(None).await {
            Ok(level) => level,
            Err(error) if self.is_system => {
                self.leave_out(None, &error).map(|()| Level::default())?
            }
            Err(error) => return Err(self.cannot_list(&error)),
        };
        let days: Vec<Partition> = partitions.into_iter().filter(Partition::is_day).collect();
        let ends = days.first().copied().zip(days.last().copied());
        // Query engines look for records by this pattern of names.
        others.iter().filter(|name| name.starts_with("dt=")).for_each(|name| {
            self.passed.add_foreign(name);
        });
        self.passed.set_top(Top { ends, beside: others });
        Ok(days.into_iter().filter(|day| wanted.overlaps(day)).collect())
    }

    /// The hours of a day, in order.
    pub(crate) async fn hours(&self, day: &Partition) -> Result<Vec<Partition>, Failure> {
        let Level { partitions, others } = match self.level(Some(day)).await {
            Ok(level) => level,
            Err(error) => self.leave_out(Some(day), &error).map(|()| Level::default())?,
        };
        for name in others {
            let name = format!("{day}/{name}");
            if name.ends_with('/') {
                self.passed.add_foreign(&name);
            }
            self.passed.add(name, false);
        }
        Ok(partitions)
    }

    async fn level(&self, day: Option<&Partition>) -> object_store::Result<Level> {
        match self.is_system {
            false => self.bucket.level(day).await,
            true => self.bucket.system_level(day).await,
        }
    }

    /// The objects of one or all streams in these partitions, in the order of their keys if the
    /// store lists in that order or is a directory.
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
                    if !ours {
                        reader.passed.add_of_other_stream();
                    }
                    if ours && sender.send(object).await.is_err() {
                        return;
                    }
                }
            }
        };
        in_order(futures::stream::iter(partitions), self.parallel, PAGE, list)
    }

    /// The same objects as [`objects_in`](Self::objects_in) in reverse order, given reversed
    /// partitions. It holds the names of one hour's objects in memory.
    pub(crate) fn newest_in(
        &self,
        partitions: Vec<Partition>,
        stream: Option<UniqueId>,
    ) -> impl Stream<Item = Result<Listed, Failure>> + use<> {
        let reader = self.clone();
        let list = move |partition| {
            let reader = reader.clone();
            async move {
                let mut objects = std::pin::pin!(reader.objects_in(vec![partition], stream));
                let mut all = Vec::new();
                while let Some(object) = objects.next().await {
                    all.push(object);
                }
                all.reverse();
                stream::iter(all)
            }
        };
        stream::iter(partitions).then(list).flatten()
    }

    pub(crate) async fn objects_of(
        &self,
        partition: &Partition,
    ) -> impl Stream<Item = Result<Listed, Failure>> + use<> {
        let reader = self.clone();
        let (listed, partition) = match self.is_system {
            false => (self.bucket.list(partition), *partition),
            true => (self.bucket.list_system(partition), *partition),
        };
        let listed = listed.filter_map(move |listed| {
            std::future::ready(match listed {
                Ok(Found::Object(object)) => Some(Ok(object)),
                Ok(Found::Other { name, is_leftover }) => {
                    reader.passed.add(name, is_leftover);
                    None
                }
                // Later versions of the sink's crate may list other kinds of entries: skip them.
                Ok(_) => None,
                Err(error) => reader.leave_out(Some(&partition), &error).err().map(Err),
            })
        });
        if !self.is_directory() {
            return listed.left_stream();
        }
        let mut objects: Vec<_> = listed.collect().await;
        objects.sort_by_key(|object| object.as_ref().ok().map(|object| object.key));
        stream::iter(objects).right_stream()
    }

    /// The listed objects that hold no records, if there are any.
    pub(crate) fn others(&self) -> Option<Others> {
        self.passed.others()
    }

    /// An example and the number of the listed foreign objects: those where query engines look for
    /// records, written by neither a sink nor a dead writer. A directory counts as one object.
    pub(crate) fn foreign(&self) -> Option<(String, u64)> {
        self.passed.foreign()
    }

    /// A reader of the same bucket that has listed nothing and met no refusal yet.
    pub(crate) fn anew(&self) -> Reader {
        Reader { passed: Arc::default(), unlisted: Arc::default(), ..self.clone() }
    }

    /// The likely reason why no object was found.
    pub(crate) async fn why_nothing(&self, wanted: &Wanted) -> String {
        let of_other_streams = self.passed.of_other_streams();
        if let (Some(stream), 1..) = (wanted.stream, of_other_streams) {
            return format!(
                "no object is of stream {stream}; {} of other streams",
                counted(of_other_streams, "object")
            );
        }
        let name = self.name();
        let Top { ends, beside: mut nearby } = self.passed.top();
        if let Some((first, last)) = ends {
            let others = self.others().map(|others| format!("; {others}")).unwrap_or_default();
            let what = if wanted.times_ms == (i64::MIN..i64::MAX) { "" } else { " that is wanted" };
            return format!("no object{what} is in {name}: its days are {first} to {last}{others}");
        }
        if nearby.is_empty() {
            nearby = self.beside_prefix().await;
        }
        let nearby = match &nearby[..] {
            [] => String::new(),
            names => {
                let shown = names.iter().take(NEARBY_SHOWN).map(String::as_str);
                let shown = shown.collect::<Vec<_>>().join(", ");
                let more = names.len().saturating_sub(NEARBY_SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!(" Nearby are {shown}{more}")
            }
        };
        format!("no days dt=YYYY-MM-DD are in {name}: is it mistyped?{nearby}")
    }

    /// The entries one level above the prefix, if the credentials may list them.
    async fn beside_prefix(&self) -> Vec<String> {
        let Some(parent) = self.bucket.prefix().parent() else { return Vec::new() };
        let Ok(listed) = self.store().list_with_delimiter(Some(&parent)).await else {
            return Vec::new();
        };
        let directories = listed.common_prefixes.iter().map(|path| format!("{path}/"));
        directories.chain(listed.objects.iter().map(|meta| meta.location.to_string())).collect()
    }

    fn cannot_list(&self, error: &object_store::Error) -> Failure {
        Failure::new(format!("cannot list {}", self.name())).because(self.describe(error))
    }

    /// Records that the store refuses to list a partition, so that the command continues without
    /// it. Fails on other errors.
    fn leave_out(
        &self,
        partition: Option<&Partition>,
        error: &object_store::Error,
    ) -> Result<(), Failure> {
        if !self.is_refusal(error) {
            return Err(self.cannot_list(error));
        }
        let above = if self.is_system { SYSTEM_PREFIX } else { "" };
        let partition = partition.map_or_else(String::new, ToString::to_string);
        self.unlisted.add(format!("{above}{partition}"), &self.describe(error))
    }

    /// Whether the store responded and refuses to return a part of the bucket. It may return
    /// others.
    pub(crate) fn is_refusal(&self, error: &object_store::Error) -> bool {
        self.bucket.is_refusal(error)
    }

    /// Fails if partitions could not be listed, since what was read is then incomplete.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.unlisted.end()
    }
}

/// Returns a URL unchanged, and the path of a directory as a URL.
pub(crate) fn to_url(bucket: &str) -> Result<String, Failure> {
    if bucket.contains("://") {
        return Ok(bucket.to_owned());
    }
    let path = FilePath::new(bucket);
    let path = path.canonicalize().map_err(|error| {
        Failure::new(format!(
            "{bucket:?} is neither a bucket URL, such as s3://bucket/prefix, nor a directory"
        ))
        .because(error)
    })?;
    match url::Url::from_directory_path(&path) {
        Ok(url) => Ok(url.into()),
        Err(()) => Err(Failure::new(format!("{} cannot be written as a URL", path.display()))),
    }
}
