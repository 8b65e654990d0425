//! A delivery that reads its files again, and commits that begin and name streams meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use audit_core::testing::{ManualClock, SeededRandom};
use audit_core::{BufferPool, UniqueId, async_trait};

use super::*;
use crate::commit::own_records::{self, OwnRecords, prepare_stream};
use crate::destination::{
    Delivery, Destination, Encoded, Encoding, Link, NewStream, Plan, Records, Unsealed,
};
use crate::disk::DiskFile;
use crate::format::{EncodedBatch, RouteStream};
use crate::progress::{ChainProgress, Progress, read_progress, write_progress};
use crate::routes::MAX_PLACES;
use crate::simulation::disk::SimulatedDisk;
use crate::simulation::vouching;

type Step = Box<dyn FnOnce(&SimulatedDisk) + Send>;

/// A disk that runs a step of another task in the middle of a call.
struct Interrupted {
    inner: SimulatedDisk,
    at: Call,
    step: Mutex<Option<Step>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    List,
    Create,
}

impl Interrupted {
    fn new(
        inner: &SimulatedDisk,
        at: Call,
        step: impl FnOnce(&SimulatedDisk) + Send + 'static,
    ) -> Interrupted {
        Interrupted { inner: inner.clone(), at, step: Mutex::new(Some(Box::new(step))) }
    }

    fn interrupt(&self, at: Call) {
        let step = self.step.lock().unwrap().take_if(|_| self.at == at);
        if let Some(step) = step {
            step(&self.inner);
        }
    }
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupted")
    }
}

impl Disk for Interrupted {
    /// Each file that is added while a directory is listed may be listed or not.
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.inner.list()?;
        self.interrupt(Call::List);
        let is_added = |name: &String| name.ends_with(".secret") && !names.contains(name);
        let added: Vec<_> = self.inner.list()?.into_iter().filter(is_added).collect();
        names.extend(added);
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.interrupt(Call::Create);
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }
}

#[derive(Debug)]
struct Vouching;

#[async_trait]
impl Destination for Vouching {
    fn encoding(&self) -> Encoding {
        Encoding::new(*b"none")
    }

    fn accepts(&self, _: Encoding) -> bool {
        true
    }

    fn encode(&self, _: &Plan, _: Option<&Link>, _: Records<'_>, _: &BufferPool) -> Unsealed {
        unreachable!()
    }

    async fn send(&self, _: &Plan, _: Encoded) -> Delivery {
        unreachable!()
    }

    fn begin_stream(&self, stream: UniqueId) -> Option<NewStream> {
        Some(vouching::begin(stream))
    }

    fn backoff_after_panic(&self, _: u32) -> Duration {
        Duration::ZERO
    }
}

/// Opens a route in which an earlier opening left a closed stream. Returns that stream, the state
/// of all streams, and the records of the new one.
fn opened(
    disk: &SimulatedDisk,
    route: u32,
) -> (UniqueId, Arc<Streams>, Arc<LiveSegments>, OwnRecords) {
    let [closed, stream] = [1_u128, 2].map(|n| UniqueId::from_bits(n << 64));
    let chain = ChainProgress { state: "end".into(), is_closed: true, ..Default::default() };
    let progress = Progress { route, next: 3, chain: Some(chain) };
    write_progress(disk, closed, &progress).unwrap();
    let decided = plan::recover(disk, |_| true, |_| false).unwrap();
    let streams = Arc::new(Streams::recovered(&decided));
    let live = LiveSegments::recovered(&[], &BTreeMap::new(), MAX_PLACES).unwrap();
    if route > 0 {
        [closed, stream].iter().for_each(|stream| live.routes().add_stream(*stream, route));
    }
    let NewStream { secret, records } = vouching::begin(stream);
    prepare_stream(disk, route, stream, Some(&secret)).unwrap();
    streams.begin(stream, Some(secret));
    let parts = own_records::Parts {
        route: (route > 0).then_some(RouteStream { route, stream }),
        destination: Arc::new(Vouching),
        clock: Arc::new(ManualClock::at(7)),
        random: Arc::new(SeededRandom::new(1)),
        streams: Arc::clone(&streams),
    };
    (closed, streams, live, OwnRecords::new(records, parts))
}

/// Otherwise the next opening would name the stream too, as if there were two copies of the
/// journal.
#[test]
fn a_stream_that_is_named_while_the_files_are_read_stays_named() {
    for route in [0, 3] {
        let disk = SimulatedDisk::new(1);
        let (closed, streams, live, own) = opened(&disk, route);
        let own = Arc::new(Mutex::new(own));
        let names = move |record: &EncodedBatch| {
            let line = String::from_utf8(record.batch().lines().to_vec()).unwrap();
            line.contains(&closed.to_string())
        };
        let told = Arc::new(Mutex::new(false));
        let (of_step, tells) = (Arc::clone(&own), Arc::clone(&told));
        let interrupted = Interrupted::new(&disk, Call::Create, move |disk| {
            *tells.lock().unwrap() = names(&of_step.lock().unwrap().opened(disk));
        });
        read_again(&interrupted, &live, &streams, route).unwrap();
        assert!(interrupted.step.lock().unwrap().is_none(), "a file is written again");
        let is_noted = || {
            let progress = read_progress(&disk, &format!("{closed}.delivered")).unwrap();
            progress.chain.unwrap().is_told
        };
        assert_eq!(is_noted(), *told.lock().unwrap(), "route {route}");
        // If the first record did not name the stream, the next heartbeat does.
        let is_told = *told.lock().unwrap() || names(&own.lock().unwrap().heartbeat(&disk));
        assert!(is_told && is_noted(), "route {route}");
    }
}

/// Otherwise nobody could complete the stream, and the journal would be refused as damaged.
#[test]
fn a_stream_that_begins_while_the_files_are_read_keeps_its_secret() {
    let disk = SimulatedDisk::new(1);
    let (_, streams, live, own) = opened(&disk, 0);
    let begun = Arc::new(Mutex::new(None));
    let (of_step, own) = (Arc::clone(&begun), Arc::new(Mutex::new(own)));
    let changes = Arc::clone(&own);
    let interrupted = Interrupted::new(&disk, Call::List, move |disk| {
        *of_step.lock().unwrap() = changes.lock().unwrap().change_stream(disk);
    });
    read_again(&interrupted, &live, &streams, 0).unwrap();
    let begun = begun.lock().unwrap().take();
    let begun = begun.or_else(|| own.lock().unwrap().change_stream(&disk)).unwrap();
    let files = disk.files();
    for ending in ["delivered", "secret"] {
        assert!(files.contains_key(&format!("{begun}.{ending}")), "{:?}", files.keys());
    }
}
