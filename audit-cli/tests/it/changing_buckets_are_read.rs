//! Objects that are removed or replaced while commands read them are named, accuse nobody, and stop
//! nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use audit_core::testing::SeededRandom;
use audit_core::{FileLock, Random};
use audit_evidence::{Remembered, State};
use s3_testserver::{Fault, RequestInfo, S3TestServer, StoredObject};

use crate::hostile_buckets_are_read::{COMMANDS, HOURS, Kind, Must, Sample, codes, run};
use crate::hostile_buckets_are_served::{Page, lines};
use crate::support::{command, environment, url};

/// The hour whose object changes.
const CHANGED: usize = 5;

/// Where the connection is lost: after the head of a response, within its body.
const LOST_AFTER_BYTES: usize = 6_000;

/// What happens to the object when it is requested for the nth time.
type Change = fn(usize, &S3TestServer, &str) -> Fault;

/// The description of a change, the message that must name it, whether requests for metadata alone
/// count as reads too, and the change itself.
type Row = (&'static str, &'static str, bool, Change);

const CHANGES: [Row; 4] = [
    ("removed after it was listed", "was removed after it was listed", true, |_, server, name| {
        server.delete_object(name);
        Fault::None
    }),
    ("removed while it is read", "was removed after it was listed", false, |nth, server, name| {
        lost(nth, || drop(server.delete_object(name)))
    }),
    ("replaced by a shorter one", "was replaced while it was read", false, |nth, server, name| {
        lost(nth, || {
            let mut object = server.objects()[name].clone();
            object.bytes.truncate(object.bytes.len() / 2);
            server.put_object(name, object);
        })
    }),
    ("replaced by one as long", "was replaced while it was read", false, |nth, server, name| {
        lost(nth, || {
            let mut object = server.objects()[name].clone();
            let mut bytes = object.bytes.to_vec();
            bytes.reverse();
            object.bytes = bytes.into();
            server.put_object(name, object);
        })
    }),
];

/// Loses the connection of the first response. The client asks for the rest.
fn lost(nth: usize, change: impl FnOnce()) -> Fault {
    match nth {
        0 => return Fault::CutInResponse { after_bytes: LOST_AFTER_BYTES },
        1 => change(),
        _ => {}
    }
    Fault::None
}

struct Changing {
    server: Arc<S3TestServer>,
    objects: BTreeMap<String, StoredObject>,
    /// The name of the object that changes.
    name: String,
}

impl Changing {
    /// From now on, the object changes when it is read. Returns the number of its reads.
    fn arm(&self, (_, _, by_head, change): Row) -> Arc<AtomicUsize> {
        self.server.faults().none();
        for name in self.server.objects().into_keys() {
            self.server.delete_object(&name);
        }
        for (name, object) in &self.objects {
            self.server.put_object(name, object.clone());
        }
        let reads = Arc::new(AtomicUsize::new(0));
        let (server, name) = (Arc::downgrade(&self.server), self.name.clone());
        let counted = Arc::clone(&reads);
        self.server.faults().plan(move |request: &RequestInfo| {
            if request.key != name {
                return Fault::None;
            }
            let is_head = request.method == http::Method::HEAD;
            if is_head && !by_head {
                return Fault::None;
            }
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            server.upgrade().map_or(Fault::None, |server| change(nth, &server, &name))
        });
        reads
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changes_while_it_is_read_is_named_and_stops_nothing() {
    let server = Arc::new(S3TestServer::start().await);
    let random = SeededRandom::new(7);
    let text: String = (0..1_000).map(|_| format!("{:016x}", random.next_u64())).collect();
    let sample = Sample::write_to(&server, &text).await;
    let (key, objects) = (sample.objects[CHANGED].clone(), server.objects());
    let changing = Changing { server, objects, name: format!("logs/{key}") };
    assert!(changing.objects[&changing.name].bytes.len() > LOST_AFTER_BYTES);
    let (url, environment) = (url(&changing.server), environment(&changing.server));
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("of");
    let others: Vec<usize> = (0..HOURS)
        .filter(|hour| *hour != CHANGED)
        .flat_map(|hour| [100 + 2 * hour, 101 + 2 * hour])
        .collect();
    let mut faults = Vec::new();
    for row in CHANGES {
        let (what, says, ..) = row;
        let mut unread = 0;
        for (kind, command) in COMMANDS {
            // Parquet files of an earlier run hold the object, so `compact` would not read it
            // again.
            let _ = std::fs::remove_dir_all(directory.path().join("of-parquet"));
            let reads = changing.arm(row);
            let ran = run(&sample.arguments(command, &url, files.to_str().unwrap()), &environment);
            let is_read = reads.load(Ordering::SeqCst) > 0;
            let (is_twice, is_replaced) = (command.contains(&"csv"), what.starts_with("replaced"));
            let says = if is_twice && is_replaced { "" } else { says };
            unread += usize::from(is_read);
            let expected: &[i32] = match (is_read, kind) {
                // The credentials of this server may do more than a reader's.
                (false, Kind::Settings) => &[0, 1],
                (false, Kind::Evidence) => &[0],
                (false, _) => codes(Must::PassOver, kind),
                // The export reads each object twice. The second time it reads the whole
                // replacement, which is damaged.
                (true, _) if is_twice && is_replaced => &[1, 3],
                (true, _) => &[3],
            };
            let mut fault = |what: String| faults.push(format!("{command:?}: {what}: {}", ran.err));
            if !ran.code.is_some_and(|code| expected.contains(&code)) {
                fault(format!("{what}: {:?} is not one of {expected:?}", ran.code));
            }
            // `report` names the object in its page instead.
            if is_read && kind != Kind::All && !(ran.err.contains(&key) && ran.err.contains(says)) {
                fault(format!("{what}: is not named"));
            }
            if kind == Kind::Evidence && !ran.out.contains("findings  0 tampered, ") {
                fault(format!("{what}: accuses: {}", ran.out));
            }
            let has_lines =
                ["cat", "search", "tail"].contains(&command[0]) || command.contains(&"ndjson");
            let found: Vec<usize> = lines(ran.out.as_bytes())
                .iter()
                .filter_map(|line| usize::try_from(line["n"].as_u64()?).ok())
                .collect();
            let count = |number: &usize| found.iter().filter(|found| *found == number).count();
            if has_lines && (others.iter().any(|n| count(n) != 1) || found.len() > 2 * HOURS) {
                fault(format!("{what}: {found:?}"));
            }
        }
        assert!(unread >= 14, "{what}: only {unread} commands read the object");
        if let Err(fault) = serves(&changing, row, &sample, &url, &key, &others) {
            faults.push(format!("{what}: serve: {fault}"));
        }
    }
    changing.server.faults().none();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Checks the page.
fn serves(
    changing: &Changing,
    row: Row,
    sample: &Sample,
    url: &str,
    key: &str,
    others: &[usize],
) -> Result<(), String> {
    changing.arm(row);
    let page = Page::open(url, &sample.key, &environment(&changing.server))?;
    let integrity = page.integrity();
    if integrity["unread"] != 1 || integrity["state"] != "done" {
        return Err(format!("integrity: {integrity}"));
    }
    changing.arm(row);
    let scanned = lines(&page.get("/api/scan?rows=1000&column=/n").body);
    let end = scanned.last().ok_or("no answer")?;
    let named = scanned.iter().any(|line| line["kind"] == "damage" && line["object"] == *key);
    if end["incomplete"] != true || !named {
        return Err(format!("scan: {end}"));
    }
    changing.arm(row);
    if page.get("/api/export?format=ndjson").is_whole {
        return Err("export: is whole".to_owned());
    }
    changing.arm(row);
    let file = page.get("/api/export?format=ndjson&partial=1");
    let found = lines(&file.body);
    let has = |number: &usize| found.iter().any(|line| line["n"] == *number);
    match others.iter().find(|number| !has(number)) {
        Some(missing) => Err(format!("export lacks {missing}")),
        None => Ok(()),
    }
}

/// The footer of a Parquet file holds the offsets of its other parts, which must not be read from a
/// file that replaced it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pieces_of_two_parquet_files_are_not_taken_for_one() {
    let server = Arc::new(S3TestServer::start().await);
    let sample = Sample::write_to(&server, "").await;
    let (bucket, environment) = (url(&server), environment(&server));
    let to = format!("s3://{}/parquet", server.bucket());
    let compact = ["compact", &bucket, "--to", &to];
    let ran = run(&compact, &environment);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let objects = server.objects();
    let (file, _) = objects.iter().find(|(name, _)| name.starts_with("parquet/")).unwrap();
    let changing = Changing { server, objects: objects.clone(), name: file.clone() };
    let longer: Change = |nth, server, name| {
        let mut object = server.objects()[name].clone();
        if nth == 1 {
            object.bytes = [&object.bytes[..], &object.bytes[..]].concat().into();
            server.put_object(name, object);
        }
        Fault::None
    };
    let other: Change = |nth, server, name| {
        let mut object = server.objects()[name].clone();
        if nth == 1 {
            let mut bytes = object.bytes.to_vec();
            bytes.reverse();
            object.bytes = bytes.into();
            server.put_object(name, object);
        }
        Fault::None
    };
    for change in [longer, other] {
        let reads = changing.arm(("", "", false, change));
        let ran = run(&compact, &environment);
        assert!(reads.load(Ordering::SeqCst) > 1, "{ran:?}");
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("it was replaced while it was read"), "{ran:?}");
        assert!(ran.err.contains("dt=2023-11-14/000000.parquet"), "{ran:?}");
    }
    // `verify` holds a whole file in memory, so it refuses one that is larger than listed.
    let verify = ["verify", &bucket, "--key", &sample.key, "--parquet", &to];
    let grows: Change = |nth, server, name| {
        let mut object = server.objects()[name].clone();
        if nth == 0 {
            object.bytes = [&object.bytes[..], &object.bytes[..]].concat().into();
            server.put_object(name, object);
        }
        Fault::None
    };
    let reads = changing.arm(("", "", false, grows));
    let ran = run(&verify, &environment);
    assert!(reads.load(Ordering::SeqCst) > 0, "{ran:?}");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let says = "000000.parquet: it was replaced while it was read";
    assert!(ran.err.contains(says) && ran.out.contains("findings  0 tampered, "), "{ran:?}");
    let reads = changing.arm(("", "", false, |_, server, name| {
        server.delete_object(name);
        Fault::None
    }));
    let ran = run(&verify, &environment);
    assert!(reads.load(Ordering::SeqCst) > 0, "{ran:?}");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("dt=2023-11-14/000000.parquet"), "{ran:?}");
    changing.server.faults().none();
}

/// While a verification runs, another one or `audit heads` may extend the state. What they added
/// must be kept: it reveals a tail that is cut later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_that_grows_meanwhile_forgets_nothing() {
    let server = Arc::new(S3TestServer::start().await);
    let sample = Sample::write_to(&server, "").await;
    let (url, environment) = (url(&server), environment(&server));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let verify = ["verify", &url, "--key", &sample.key, "--state", file.to_str().unwrap()];
    let ran = run(&verify, &environment);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let first = State::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let (known, seen) = first.streams().next().unwrap();
    let mut later = first.clone();
    later.remember(known.to_owned(), Remembered { size: seen.size + 5, ..seen });
    later.remember("01M86YQH3BN92MTRKE2RS1CKJ5".to_owned(), seen);
    let (written, text) = (file.clone(), later.to_string());
    server.faults().plan(move |request: &RequestInfo| {
        if request.key.contains("dt=") {
            std::fs::write(&written, &text).unwrap();
        }
        Fault::None
    });
    let ran = run(&verify, &environment);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    server.faults().none();
    assert_eq!(State::parse(&std::fs::read_to_string(&file).unwrap()), Ok(later));
    // The bucket lacks records that were seen according to the state.
    assert_eq!(run(&verify, &environment).code, Some(1));
}

/// Two concurrent verifications that saw different histories of one size would overwrite each
/// other's; the files of two concurrent reports would match neither note.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_or_a_report_has_one_writer_at_a_time() {
    let server = Arc::new(S3TestServer::start().await);
    let sample = Sample::write_to(&server, "").await;
    let (url, environment) = (url(&server), environment(&server));
    let directory = tempfile::tempdir().unwrap();
    let (state, report) = (directory.path().join("state"), directory.path().join("report"));
    let verify = ["verify", &url, "--key", &sample.key, "--state", state.to_str().unwrap()];
    let period = ["--from", "2023-11-14", "--to", "2023-11-15"];
    let write = [&["report", &url, "-o", report.to_str().unwrap()][..], &period].concat();
    for (what, file, arguments) in [("state", &state, &verify[..]), ("report", &report, &write[..])]
    {
        let lock = FileLock::beside(file, || {}).unwrap();
        let mut child = command()
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let waiting = format!("waiting for another process that has the {what}");
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.map(Result::unwrap).any(|line| line.contains(&waiting)), "{what}");
        drop(lock);
        assert!(child.wait().unwrap().code().is_some_and(|code| code < 2), "{what}");
    }
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["report.html", "report.json", "state"]);
}

/// A proof reads its object several times. The last reading takes the lines, which must be as many
/// as in the reading that was compared with the root.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replaced_records_are_not_said_to_be_missing() {
    // A zstd frame without content.
    const EMPTY: &[u8] = b"\x28\xb5\x2f\xfd\x24\0\x01\0\0\x99\xe9\xd8\x51";
    let server = Arc::new(S3TestServer::start().await);
    let sample = Sample::write_to(&server, "").await;
    let (url, environment) = (url(&server), environment(&server));
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("of");
    for (kind, command) in COMMANDS.iter().filter(|(_, command)| command[0] == "prove") {
        let arguments = sample.arguments(command, &url, files.to_str().unwrap());
        let requested = Arc::new(parking_lot::Mutex::new(BTreeMap::new()));
        let noted = Arc::clone(&requested);
        server.faults().plan(move |request: &RequestInfo| {
            *noted.lock().entry(request.key.clone()).or_insert(0) += 1;
            Fault::None
        });
        let ran = run(&arguments, &environment);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let requested = std::mem::take(&mut *requested.lock());
        let objects = requested.into_iter().filter(|(name, _)| name.ends_with(".zst"));
        let (name, reads) = objects.max_by_key(|(_, reads)| *reads).unwrap();
        assert!(reads > 2, "{reads}");
        let objects = server.objects();
        let whole = objects[&name].clone();
        let has_name = |other: &&String| **other != name && other.ends_with(".zst");
        let another = objects[objects.keys().find(has_name).unwrap()].bytes.clone();
        for replacement in [bytes::Bytes::from_static(EMPTY), another] {
            // A change before the first reading cannot be noticed, so it is left out.
            for at in 1..reads {
                server.put_object(&name, whole.clone());
                let nth = AtomicUsize::new(0);
                let (into, name) = (Arc::downgrade(&server), name.clone());
                let bytes = replacement.clone();
                server.faults().plan(move |request: &RequestInfo| {
                    if request.key == name && nth.fetch_add(1, Ordering::SeqCst) == at {
                        let server = into.upgrade().unwrap();
                        let object = server.objects()[&name].clone();
                        server.put_object(&name, StoredObject { bytes: bytes.clone(), ..object });
                    }
                    Fault::None
                });
                let ran = run(&arguments, &environment);
                assert_eq!(ran.code, Some(3), "{kind:?} {at} of {reads}: {ran:?}");
                assert!(ran.err.contains("proves nothing"), "{at} of {reads}: {ran:?}");
                let says_none = ran.err.contains("no record of that execution");
                assert!(!says_none, "{at} of {reads}: {ran:?}");
            }
        }
        server.put_object(&name, whole);
    }
    server.faults().none();
}
