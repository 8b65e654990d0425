//! Listing a bucket, for readers.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, FileType};
use std::future::ready;
use std::io;
use std::path;

use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::mpsc;

use super::directory::{directory_below, generic, kind, modified};
use super::repeats::Repeats;
use crate::object::key::SYSTEM_PREFIX;
use crate::{Bucket, ObjectKey, Partition, is_leftover};

/// An entry in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listed {
    /// An object with a key that a sink writes.
    Object(ListedObject),
    /// Any other entry. It holds no records that a sink acknowledged.
    Other {
        /// Its key or path, with invalid UTF-8 replaced.
        name: String,
        /// Whether it is the [leftover](crate::layout::is_leftover) of a dead writer.
        is_leftover: bool,
    },
}

/// A listed object of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key below the bucket's prefix.
    pub key: ObjectKey,
    /// Its path in the store.
    pub location: Path,
    /// Its stored size in bytes.
    pub bytes: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// The entries directly below the prefix or below a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Level {
    /// The partitions, in order.
    pub partitions: Vec<Partition>,
    /// All other entries, in order: objects, and directories with a trailing slash.
    pub others: Vec<String>,
}

impl Bucket {
    /// Lists the entries directly below a day, or below the prefix.
    ///
    /// # Errors
    ///
    /// If the store cannot list them.
    pub async fn level(&self, day: Option<&Partition>) -> object_store::Result<Level> {
        self.level_below("", day).await
    }

    /// Like [`level`](Self::level), for system objects. The level is empty if there are none.
    ///
    /// # Errors
    ///
    /// If the store cannot list them.
    pub async fn system_level(&self, day: Option<&Partition>) -> object_store::Result<Level> {
        self.level_below(SYSTEM_PREFIX, day).await
    }

    async fn level_below(
        &self,
        part: &str,
        day: Option<&Partition>,
    ) -> object_store::Result<Level> {
        let below = |name: &str| match day {
            Some(day) => format!("{day}/{name}"),
            None => name.to_owned(),
        };
        if let Some(root) = self.as_directory() {
            let day = day.map_or_else(String::new, ToString::to_string);
            let (root, directory) = (root.to_owned(), format!("{part}{day}"));
            let listed = blocking(move || match directory_below(&root, &directory)? {
                Some(directory) => level_of_directory(&directory),
                None => Ok(Vec::new()),
            });
            let listed = listed.await?;
            return Ok(Level::of(listed.into_iter(), |name| below(name).parse().ok()));
        }
        let path = self.path_of(part, day);
        let listed = self.store().list_with_delimiter(Some(&path)).await?;
        let directories = listed.common_prefixes.iter().map(|path| self.shown(path) + "/");
        let files = listed.objects.iter().map(|meta| self.shown(&meta.location));
        Ok(Level::of(directories.chain(files), |name| below(name).parse().ok()))
    }

    /// Lists the entries in and below a partition. A store lists them in the order of their keys, a
    /// directory in any order. An object that the store lists again is returned once.
    ///
    /// # Errors
    ///
    /// If the store cannot list the partition, or lists objects in another order. After an error in
    /// the directory of one hour, the listing continues with the other hours.
    ///
    /// No key, however malformed, stops the listing. In a directory, only regular files are
    /// objects: links are not followed.
    pub fn list(&self, partition: &Partition) -> BoxStream<'static, object_store::Result<Listed>> {
        self.list_below("", partition)
    }

    /// Like [`list`](Self::list), for the system objects in a partition.
    pub fn list_system(
        &self,
        partition: &Partition,
    ) -> BoxStream<'static, object_store::Result<Listed>> {
        self.list_below(SYSTEM_PREFIX, partition)
    }

    fn list_below(
        &self,
        part: &'static str,
        partition: &Partition,
    ) -> BoxStream<'static, object_store::Result<Listed>> {
        let Some(root) = self.as_directory() else {
            let bucket = self.clone();
            let listed = self.store().list(Some(&self.path_of(part, Some(partition))));
            let mut repeats = Repeats::default();
            let once = listed.filter_map(move |meta| {
                let entry = meta.map(|meta| bucket.recognize(meta));
                let is_new = match &entry {
                    Ok(Listed::Object(object)) => repeats.is_new_object(&object.location),
                    Ok(Listed::Other { name, .. }) => repeats.is_new_other(name),
                    Err(_) => Ok(true),
                };
                ready(match is_new {
                    Ok(is_new) => is_new.then_some(entry),
                    Err(error) => Some(Err(error)),
                })
            });
            return once.boxed();
        };
        let (sender, receiver) = mpsc::channel(1_000);
        let (root, partition) = (root.to_owned(), *partition);
        let walk = async move {
            let last = sender.clone();
            if let Err(error) = blocking(move || walk(&root, part, &partition, &sender)).await {
                // An error means that the receiver of the listing is gone.
                let _ = last.send(Err(error)).await;
            }
        };
        let mut walk = Some(Box::pin(walk));
        let listed =
            stream::unfold((receiver, walk.take()), |(mut receiver, mut walk)| async move {
                // The walk runs on a separate thread; polling it here only waits for its end.
                let next = match &mut walk {
                    None => receiver.recv().await,
                    Some(running) => tokio::select! {
                        biased;
                        next = receiver.recv() => next,
                        () = running => {
                            walk = None;
                            receiver.recv().await
                        }
                    },
                };
                Some((next?, (receiver, walk)))
            });
        listed.boxed()
    }

    fn path_of(&self, part: &str, partition: Option<&Partition>) -> Path {
        let below = partition.map_or_else(String::new, ToString::to_string);
        let below = format!("{part}{below}");
        let below = below.trim_end_matches('/');
        if below.is_empty() { self.prefix().clone() } else { self.path(below) }
    }

    fn recognize(&self, meta: ObjectMeta) -> Listed {
        let ObjectMeta { location, last_modified, size, e_tag: _, version: _ } = meta;
        let modified_ms = last_modified.timestamp_millis();
        match self.key(&location) {
            Some(key) => Listed::Object(ListedObject { key, location, bytes: size, modified_ms }),
            None => Listed::Other { name: self.shown(&location), is_leftover: false },
        }
    }

    /// The object's key in the store, below the prefix.
    fn shown(&self, location: &Path) -> String {
        #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
        if let Some(original) = super::read_client::original(location) {
            let prefix = format!("{}/", self.prefix());
            return original.strip_prefix(&prefix).unwrap_or(&original).to_owned();
        }
        self.below_prefix(location).unwrap_or_else(|| location.to_string())
    }
}

impl Listed {
    /// An entry of a directory that is not an object.
    fn other(name: String) -> Listed {
        let is_leftover = is_leftover(&name);
        Listed::Other { name, is_leftover }
    }
}

impl Level {
    fn of(
        names: impl Iterator<Item = String>,
        partition: impl Fn(&str) -> Option<Partition>,
    ) -> Level {
        let mut others = BTreeSet::new();
        let mut partitions = BTreeSet::new();
        for name in names {
            let last = name.trim_end_matches('/');
            let last = last.rsplit_once('/').map_or(last, |(_, last)| last);
            match partition(last).filter(|_| name.ends_with('/')) {
                Some(partition) => drop(partitions.insert(partition)),
                None => drop(others.insert(name)),
            }
        }
        Level { partitions: partitions.into_iter().collect(), others: others.into_iter().collect() }
    }
}

/// The names in a directory. Those of directories end with a slash. A directory that was removed
/// has none.
fn level_of_directory(directory: &path::Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(kind) = kind(&entry)? else { continue };
        let slash = if kind.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    Ok(names)
}

type Sender = mpsc::Sender<object_store::Result<Listed>>;

/// Lists a partition of a directory without following links.
fn walk(root: &path::Path, part: &str, partition: &Partition, sender: &Sender) -> io::Result<()> {
    let below_root = format!("{part}{partition}");
    let Some(top) = directory_below(root, &below_root)? else { return Ok(()) };
    // Entries below the partition may belong to anybody and need not be readable, except the hours,
    // which hold the objects.
    let is_ours = |directory: &path::Path| {
        let below = below(root, directory);
        let name = below.as_deref().and_then(|name| name.strip_prefix(part));
        name.is_some_and(|name| name.parse::<Partition>().is_ok())
    };
    let mut directories = vec![top];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // The directory was removed after it was found.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // The other hours are still listed.
            Err(error) if is_ours(&directory) => {
                if sender.blocking_send(Err(generic(error.into()))).is_err() {
                    return Ok(());
                }
                continue;
            }
            Err(_unreadable) => {
                let name = directory.strip_prefix(root).unwrap_or(&directory).to_string_lossy();
                if sender.blocking_send(Ok(Listed::other(format!("{name}/")))).is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let Some(kind) = kind(&entry)? else { continue };
            if kind.is_dir() {
                directories.push(entry.path());
                continue;
            }
            let Some(found) = of_entry(root, &entry, kind)? else { continue };
            if sender.blocking_send(Ok(found)).is_err() {
                // The receiver is gone.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Recognizes an entry. Returns `None` if it was removed meanwhile.
fn of_entry(root: &path::Path, entry: &DirEntry, kind: FileType) -> io::Result<Option<Listed>> {
    let path = entry.path();
    let key = below(root, &path).and_then(|name| name.parse::<ObjectKey>().ok());
    let Some(key) = key.filter(|_| kind.is_file()) else {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        return Ok(Some(Listed::other(name)));
    };
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Listed::Object(ListedObject {
        key,
        location: Path::from(key.to_string()),
        bytes: metadata.len(),
        modified_ms: modified(&metadata).timestamp_millis(),
    })))
}

/// The path of a file below the root, with `/` as the separator.
fn below(root: &path::Path, file: &path::Path) -> Option<String> {
    let parts: Option<Vec<_>> =
        file.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| generic(error.into()))
}
