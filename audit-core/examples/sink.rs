//! A custom sink, run through the suite that every sink must pass.
//!
//! ```toml
//! [dependencies]
//! audit-core = "0.1"
//!
//! [dev-dependencies]
//! audit-core = { version = "0.1", features = ["test-util"] } # the suite
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! `cargo run -p audit-core --example sink`
//!
//! The sink writes each batch as a file of its own in a directory: whole or not at all, and once.

use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{
    AuditSink, Batch, Durability, Place, Receipt, SinkError, SinkErrorKind, SystemClock,
    SystemRandom, UniqueId, async_trait,
};

/// Files in a directory.
#[derive(Debug)]
struct FileSink(Arc<Mutex<Stream>>);

#[derive(Debug)]
struct Stream {
    directory: PathBuf,
    /// The stream's id. Each opening of the sink has a stream of its own.
    id: UniqueId,
    next_sequence: u64,
    closed: bool,
}

impl FileSink {
    fn open(directory: &Path) -> FileSink {
        let id = UniqueId::generate(&SystemClock, &SystemRandom);
        let directory = directory.to_owned();
        FileSink(Arc::new(Mutex::new(Stream { directory, id, next_sequence: 0, closed: false })))
    }
}

impl Stream {
    fn write(&mut self, batch: &Batch) -> Result<Receipt, SinkError> {
        if self.closed {
            return Err(SinkError::closed());
        }
        let first_sequence = self.next_sequence;
        let name = format!("{}-{first_sequence:012}.ndjson", self.id);
        let (path, unfinished) = (self.directory.join(&name), self.directory.join("unfinished"));
        // Readers ignore the file until it is renamed, so an error here means: not persisted.
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(batch.lines())?;
            file.sync_all()
        });
        written.map_err(|error| {
            SinkError::not_persisted(SinkErrorKind::Unavailable, "the file was not written")
                .with_source(error)
        })?;
        // From here on the batch may be stored even if an error follows, so its sequence numbers
        // are not used again.
        self.next_sequence += u64::from(batch.count());
        let named =
            fs::rename(&unfinished, &path).and_then(|()| File::open(&self.directory)?.sync_all());
        named.map_err(|error| {
            SinkError::indeterminate(SinkErrorKind::Unavailable, "the file may have no name")
                .with_source(error)
        })?;
        let place = Place { stream: self.id, first_sequence, count: batch.count() };
        Ok(Receipt { durability: Durability::Delivered, place: Some(place) })
    }
}

#[async_trait]
impl AuditSink for FileSink {
    async fn persist(&self, batch: Batch) -> Result<Receipt, SinkError> {
        let stream = Arc::clone(&self.0);
        // Writing blocks. The task finishes even if the caller drops this future.
        let written = tokio::task::spawn_blocking(move || {
            stream.lock().unwrap_or_else(PoisonError::into_inner).write(&batch)
        });
        written.await.unwrap_or_else(|panic| {
            Err(SinkError::indeterminate(SinkErrorKind::Unavailable, "the writer panicked")
                .with_source(panic))
        })
    }

    async fn flush(&self) -> Result<(), SinkError> {
        // Every batch with a receipt is already at its destination.
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        Ok(())
    }
}

impl fmt::Display for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "FileSink({})", stream.directory.display())
    }
}

/// Tells the suite how to open the sink, and how to read the records without it.
struct Directory(PathBuf);

#[async_trait]
impl Destination for Directory {
    async fn open(&self) -> Arc<dyn AuditSink> {
        // Sinks open at the same time must not share the name `unfinished`.
        let own = self.0.join(UniqueId::generate(&SystemClock, &SystemRandom).to_string());
        fs::create_dir_all(&own).expect("a directory");
        Arc::new(FileSink::open(&own))
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        let mut records = Vec::new();
        for path in files(&self.0).expect("a directory can be read") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Some((stream, first)) = name.split_once('-') else { continue };
            let (stream, first) =
                (stream.parse().expect("an id"), first.parse().expect("a number"));
            let lines = fs::read(&path).expect("a file can be read");
            let lines = lines.split_inclusive(|byte| *byte == b'\n');
            records.extend((first..).zip(lines).map(|(sequence, line)| {
                let line = line.strip_suffix(b"\n").expect("each line ends").to_vec().into();
                StoredRecord { stream, sequence, line }
            }));
        }
        records
    }

    fn durability(&self) -> Durability {
        Durability::Delivered
    }
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = tempfile::tempdir()?;
    conformance::run(&Directory(root.path().join("suite"))).await;
    println!("the sink passes the suite");

    let directory = root.path().join("logs");
    fs::create_dir(&directory)?;
    let sink = FileSink::open(&directory);
    let batch = Batch::from_lines(1_700_000_000_000, "{\"event\":\"login\"}\n".into())?;
    let receipt = sink.persist(batch).await?;
    println!("{:?}, {} record in {} file", receipt.durability, 1, files(&directory)?.len());
    sink.close().await?;
    println!("closed: {}", sink.persist(Batch::from_lines(0, "{}\n".into())?).await.is_err());
    Ok(())
}
