//! Whatever lies in a bucket, each command that reads it ends in bounded time and memory, reads
//! everything else, and says by its exit code and by name what is strange.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use audit_core::testing::machine::in_shell;
use audit_core::{AuditSink, Batch};
use audit_sink_s3::{Bucket, EvidenceSettings, S3Sink, Settings};
use s3_testserver::{S3TestServer, StoredObject};

use crate::hostile_buckets_are_served::{self, Expected};
pub(crate) use crate::support::Ran;
use crate::support::{self, DAY, HOUR_MS};

/// The hours of the bucket, each with one object of two records.
pub(crate) const HOURS: usize = 24;

/// Nothing happens to the records of the last hour. Each row has one of the hours before it, except
/// the first: records missing from the beginning count as expired.
const LAST: usize = HOURS - 1;

/// A bucket in a directory, a copy of one that a sink wrote with evidence, and the part of it that
/// belongs to a row.
struct Place<'a> {
    sample: &'a Sample,
    root: &'a Path,
    /// The number of the row's hour and of its stream.
    row: usize,
}

/// The bucket before anything happens to it.
pub(crate) struct Sample {
    /// Its subdirectory `bucket` holds a copy of the objects.
    pub(crate) directory: tempfile::TempDir,
    /// The objects, by hour.
    pub(crate) objects: Vec<String>,
    pub(crate) stream: String,
    pub(crate) key: String,
}

/// Writes the records of a sample. Each has this text beside other members.
async fn write_records(bucket: Bucket, directory: &Path, text: &str) -> (String, String) {
    let key_file = Some(directory.join("host.key"));
    let evidence = Some(EvidenceSettings { key_file, ..EvidenceSettings::new("example.com/api") });
    let settings = Settings { linger_ms: 0, evidence, ..Settings::default() };
    let sink = S3Sink::builder(bucket).with_settings(settings).open().await.unwrap();
    let mut stream = String::new();
    for hour in 0..HOURS {
        let time = DAY + HOUR_MS * hour as i64;
        let line = |n| {
            format!(
                "{{\"n\":{n},\"user\":\"ada\",\"$audit\":{{\"execution\":\"e{hour}\"}},\
                 \"text\":\"{text}\",\"at\":{time}}}\n"
            )
        };
        let lines = line(100 + 2 * hour) + &line(101 + 2 * hour);
        let batch = Batch::from_lines(time, lines.into()).unwrap();
        stream = sink.persist(batch).await.unwrap().place.unwrap().stream.to_string();
    }
    sink.close().await.unwrap();
    (stream, sink.verifier_key().unwrap().to_string())
}

impl Sample {
    async fn write() -> Sample {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("bucket");
        let bucket = Bucket::open(&format!("file://{}", root.display())).unwrap();
        let (stream, key) = write_records(bucket, directory.path(), "").await;
        Sample::of(directory, stream, key)
    }

    /// Writes a sample to a server.
    pub(crate) async fn write_to(server: &S3TestServer, text: &str) -> Sample {
        let directory = tempfile::tempdir().unwrap();
        let (stream, key) = write_records(support::bucket(server), directory.path(), text).await;
        for (name, object) in server.objects() {
            let name = name.strip_prefix("logs/").unwrap();
            put(&directory.path().join("bucket").join(name), &object.bytes);
        }
        Sample::of(directory, stream, key)
    }

    fn of(directory: tempfile::TempDir, stream: String, key: String) -> Sample {
        let root = directory.path().join("bucket");
        let object = |hour: usize| {
            let hour = format!("dt=2023-11-14/hour={hour:02}");
            let file = fs::read_dir(root.join(&hour)).unwrap().next().unwrap().unwrap();
            format!("{hour}/{}", file.file_name().to_str().unwrap())
        };
        let objects = (0..HOURS).map(object).collect();
        Sample { directory, objects, stream, key }
    }

    /// The arguments of a command on a bucket, with this prefix for the names of its files.
    pub(crate) fn arguments(&self, command: &[&str], bucket: &str, files: &str) -> Vec<String> {
        let sequence = self.objects[LAST].rsplit_once('-').unwrap().1;
        let sequence = sequence.split_once('.').unwrap().0;
        let argument = |argument: &&str| {
            let argument = argument.replace("BUCKET-", &format!("{files}-"));
            let argument = argument.replace("BUCKET", bucket).replace("KEY", &self.key);
            argument.replace("STREAM", &self.stream).replace("SEQUENCE", sequence)
        };
        command.iter().map(argument).collect()
    }
}

/// Where the commands find a bucket.
pub(crate) struct Store<'a> {
    pub(crate) bucket: &'a str,
    /// The prefix of the names of files that they write.
    pub(crate) files: &'a str,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Adds an object while commands run, and removes it.
    pub(crate) put: &'a dyn Fn(&str, &[u8]),
    pub(crate) remove: &'a dyn Fn(&str),
}

impl Place<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn hour(&self) -> String {
        format!("dt=2023-11-14/hour={:02}", self.row)
    }

    /// The host's object of the row.
    fn ours(&self) -> PathBuf {
        self.at(&self.sample.objects[self.row])
    }

    fn sidecar(&self) -> PathBuf {
        self.at(&format!("_audit/heads/{}.head", self.sample.objects[self.row]))
    }

    /// An object of a stream that no host knows.
    fn strange(&self, first: u64, suffix: &str) -> PathBuf {
        self.at(&strange_key(&self.hour(), self.row, first, suffix))
    }

    fn put(&self, suffix: &str, content: &[u8]) {
        put(&self.strange(0, suffix), content);
    }

    /// An object of system records that the host did not write.
    fn system(&self, first: u64) -> PathBuf {
        let Sample { stream, .. } = self.sample;
        self.at(&format!("_audit/{}/{stream}-{first:012}.system", self.hour()))
    }
}

fn strange_key(hour: &str, row: usize, first: u64, suffix: &str) -> String {
    format!("{hour}/000000000000000000000000{row:02}-{first:012}.ndjson{suffix}")
}

fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
}

fn gone(path: PathBuf) -> PathBuf {
    fs::remove_file(&path).unwrap();
    path
}

fn pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn link(to: impl AsRef<Path>, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(to, path).unwrap();
}

/// A file of a tebibyte that takes no space.
fn huge(path: &Path) {
    if !path.exists() {
        put(path, b"");
    }
    File::options().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
}

fn unreadable(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o0)).unwrap();
}

fn dated(path: &Path, time: SystemTime) {
    let times = FileTimes::new().set_modified(time);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

const GOOD: &[u8] = b"{\"strange\":1}\n";

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A zstd frame of uncompressed blocks.
fn zstd(content: &[u8]) -> Vec<u8> {
    let window_of_2_mib = 11 << 3;
    let mut frame = [&MAGIC[..], &[0, window_of_2_mib]].concat();
    let blocks: Vec<&[u8]> = content.chunks(128 << 10).collect();
    for (n, block) in blocks.iter().enumerate() {
        let is_last = u32::from(n + 1 == blocks.len());
        frame.extend_from_slice(&(is_last | (block.len() as u32) << 3).to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// A zstd frame of this many blocks of 128 KiB of one byte.
fn repeated(byte: u8, blocks: usize) -> Vec<u8> {
    let mut frame = [&MAGIC[..], &[0, 11 << 3]].concat();
    for n in 0..blocks {
        let is_last = u32::from(n + 1 == blocks);
        frame.extend_from_slice(&(is_last | 1 << 1 | (128 << 10) << 3).to_le_bytes()[..3]);
        frame.push(byte);
    }
    frame
}

/// The required behaviour of commands for the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Must {
    PassOver,
    /// Name an object that is damaged.
    Name,
    /// Find that records are missing, where a command looks for gaps.
    FindMissing,
    /// Accuse, where a command needs evidence.
    Accuse,
    /// Say that something could not be read.
    SayIncomplete,
    /// Say that evidence could not be read, where a command needs it.
    SayUnproven,
}

type Row = (&'static str, fn(&Place<'_>));

const PASSED_OVER: [Row; 18] = [
    ("the first and the last hour of all", |place| {
        put(&place.at(&strange_key("dt=0001-01-01/hour=00", place.row, 0, "")), GOOD);
        put(&place.at(&strange_key("dt=9999-12-31/hour=23", place.row, 1, "")), GOOD);
    }),
    ("a pipe", |place| pipe(&place.strange(0, ".zst"))),
    ("a socket", |place| drop(UnixListener::bind(short(&place.strange(0, ""))).unwrap())),
    ("a device by a link", |place| link("/dev/zero", &place.strange(0, ".zst"))),
    ("a link to our object", |place| link(place.ours(), &place.strange(0, ".zst"))),
    ("a directory", |place| put(&place.strange(0, ".zst").join("x"), b"")),
    ("a pipe for an hour", |place| pipe(&place.at("dt=2023-11-15/hour=00"))),
    ("a file for a day", |place| put(&place.at("dt=2023-11-16"), b"")),
    ("a loop for a day", |place| link("dt=2023-11-17", &place.at("dt=2023-11-17"))),
    ("an hour that does not exist", |place| {
        put(&place.at(&strange_key("dt=2023-11-14/hour=25", place.row, 0, "")), GOOD);
        put(&place.at(&strange_key("dt=2023-11-14/hour=-1", place.row, 0, "")), GOOD);
    }),
    ("dates that do not exist", |place| {
        for day in ["2023-02-30", "0000-01-01", "-0001-01-01", "+10000-01-01", "2023-1-1"] {
            put(&place.at(&strange_key(&format!("dt={day}/hour=00"), place.row, 0, "")), GOOD);
        }
    }),
    ("a number that does not exist", |place| {
        put(&place.at(&format!("{}/x-18446744073709551616.ndjson", place.hour())), GOOD);
        let key = strange_key(&place.hour(), place.row, 0, ".zst");
        put(&place.at(&key.replace("-000000000000", "-18446744073709551616")), GOOD);
    }),
    ("names that are not UTF-8", |place| {
        put(&place.at(&place.hour()).join(OsStr::from_bytes(b"\xff\xfe\x1b[2J")), b"");
    }),
    ("a pipe among unfinished objects", |place| pipe(&place.at("_audit/unfinished/x"))),
    ("pipes and loops beside the days", |place| {
        pipe(&place.at("pipe"));
        link(".", &place.at("loop"));
        link("/", &place.at("root"));
    }),
    ("a file from before 1970", |place| {
        dated(&place.ours(), SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 30));
    }),
    ("a file from the far future", |place| {
        dated(&place.ours(), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    }),
    ("a foreign directory that is unreadable", |place| {
        let directory = place.at(&format!("{}/theirs", place.hour()));
        fs::create_dir(&directory).unwrap();
        unreadable(&directory);
    }),
];

const NAMED: [Row; 22] = [
    ("nothing", |place| place.put(".zst", b"")),
    ("text", |place| place.put(".zst", b"hello\n")),
    ("a frame that is cut off", |place| place.put(".zst", &zstd(GOOD)[..12])),
    ("a gigabyte of one line", |place| place.put(".zst", &repeated(b'x', 8 << 10))),
    ("lines without end", |place| place.put(".zst", &repeated(b'\n', 1 << 20))),
    ("a dictionary", |place| {
        place.put(".zst", &[&MAGIC[..], &[0x21, 5, 8, 0x41, 0, 0], GOOD].concat());
    }),
    ("a skippable frame", |place| {
        place.put(".zst", &[b"\x50\x2a\x4d\x18\x04\0\0\0abcd", &zstd(GOOD)[..]].concat());
    }),
    ("two frames", |place| place.put(".zst", &zstd(GOOD).repeat(2))),
    ("a frame of nothing", |place| place.put(".zst", &[&MAGIC[..], &[0, 88, 1, 0, 0]].concat())),
    ("a gzip member that is none", |place| place.put(".gz", &zstd(GOOD))),
    ("no line feed", |place| place.put("", b"{}")),
    ("other bytes than UTF-8", |place| place.put("", b"{\"a\":\"\xff\"}\n")),
    ("an array", |place| place.put("", b"[1]\n")),
    ("control sequences", |place| place.put("", "\u{1b}[2J\u{9b}31m\u{202e}\n".as_bytes())),
    ("zeros", |place| place.put("", &[&[0; 1 << 20][..], b"\n"].concat())),
    ("a tebibyte", |place| huge(&place.strange(0, ""))),
    ("a tebibyte, compressed", |place| huge(&place.strange(0, ".zst"))),
    ("a line that is too long", |place| {
        place.put("", &[b"{\"a\":\"", &vec![b'x'; 40 << 20][..], b"\"}\n"].concat());
    }),
    ("the highest number", |place| put(&place.strange(u64::MAX, ""), GOOD)),
    ("numbers beyond the highest", |place| {
        put(&place.strange(u64::MAX - 1, ""), &GOOD.repeat(3));
        let ours = format!("{}/{}-{}.ndjson", place.hour(), place.sample.stream, u64::MAX);
        put(&place.at(&ours), GOOD);
    }),
    ("our records twice", |place| {
        let ours = place.ours();
        fs::copy(&ours, ours.to_str().unwrap().replace(".zst", ".gz")).unwrap();
    }),
    ("our number in a later hour", |place| {
        let name = place.ours().file_name().unwrap().to_owned();
        put(&place.at("dt=2023-11-18/hour=23").join(name), b"x");
    }),
];

const MISSED: [Row; 3] = [
    ("a pipe", |place| pipe(&gone(place.ours()))),
    ("a directory", |place| put(&gone(place.ours()).join("x"), b"")),
    ("a link", |place| link("/dev/zero", &gone(place.ours()))),
];

const ACCUSED: [Row; 13] = [
    ("no sidecar", |place| drop(gone(place.sidecar()))),
    ("a pipe for a sidecar", |place| pipe(&gone(place.sidecar()))),
    ("a directory for a sidecar", |place| put(&gone(place.sidecar()).join("x"), b"")),
    ("a device for a sidecar", |place| link("/dev/zero", &gone(place.sidecar()))),
    ("a loop for a sidecar", |place| {
        let sidecar = gone(place.sidecar());
        link(sidecar.file_name().unwrap(), &sidecar);
    }),
    ("an empty sidecar", |place| put(&place.sidecar(), b"")),
    ("half a sidecar", |place| {
        let whole = fs::read(place.sidecar()).unwrap();
        put(&place.sidecar(), &whole[..whole.len() / 2]);
    }),
    ("a flipped sidecar", |place| {
        let mut whole = fs::read(place.sidecar()).unwrap();
        let middle = whole.len() / 2;
        whole[middle] ^= 1;
        put(&place.sidecar(), &whole);
    }),
    ("a binary sidecar", |place| put(&place.sidecar(), &[0, 0x1b, 0x9b, 0xff].repeat(64))),
    ("a sidecar of a tebibyte", |place| huge(&place.sidecar())),
    ("a system record that is none", |place| put(&place.system(99), b"\x1b[2J\n")),
    ("a system object of a tebibyte", |place| huge(&place.system(98))),
    ("the highest system record", |place| put(&place.system(u64::MAX), GOOD)),
];

const INCOMPLETE: [Row; 4] = [
    ("an object", |place| unreadable(&place.ours())),
    ("another object", |place| unreadable(&place.ours())),
    ("an hour", |place| unreadable(&place.at(&place.hour()))),
    ("a later day", |place| {
        put(&place.at(&strange_key("dt=2023-11-20/hour=00", place.row, 0, "")), GOOD);
        unreadable(&place.at("dt=2023-11-20"));
    }),
];

/// The evidence of objects, which are read nevertheless.
const UNPROVEN: [Row; 3] = [
    ("a sidecar", |place| unreadable(&place.sidecar())),
    ("another sidecar", |place| unreadable(&place.sidecar())),
    ("the sidecars of an hour", |place| unreadable(place.sidecar().parent().unwrap())),
];

/// The kinds of commands, by what they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Listing,
    /// Records, which are printed.
    Records,
    /// Records with their evidence.
    Copies,
    Gaps,
    /// The evidence of all objects.
    Evidence,
    /// One record of an hour to which nothing happens.
    Proof,
    /// One execution, which is searched for in all records.
    Search,
    All,
    Settings,
}

pub(crate) const COMMANDS: [(Kind, &[&str]); 21] = [
    (Kind::Listing, &["ls", "BUCKET"]),
    (Kind::Listing, &["ls", "BUCKET", "--objects"]),
    (Kind::Records, &["cat", "BUCKET"]),
    (Kind::Records, &["cat", "BUCKET", "--outcomes"]),
    (Kind::Records, &["search", "ada", "BUCKET"]),
    (Kind::Records, &["tail", "BUCKET", "-n", "1000"]),
    (Kind::Records, &["export", "BUCKET", "--format", "ndjson"]),
    (Kind::Records, &["export", "BUCKET", "--format", "csv"]),
    (Kind::Records, &["export", "BUCKET", "--format", "parquet", "--columns", "/n"]),
    (Kind::Records, &["who", "ada", "BUCKET"]),
    (Kind::Records, &["stats", "BUCKET", "--by", "/n"]),
    (Kind::Copies, &["compact", "BUCKET", "--to", "BUCKET-parquet"]),
    (Kind::Gaps, &["stats", "BUCKET"]),
    (Kind::Gaps, &["stats", "BUCKET", "--heads"]),
    (Kind::Evidence, &["verify", "BUCKET", "--key", "KEY"]),
    (Kind::Evidence, &["verify", "BUCKET", "--key", "KEY", "--heads"]),
    (
        Kind::Proof,
        &["prove", "BUCKET", "--stream", "STREAM", "--sequence", "SEQUENCE", "-o", "BUCKET-proof"],
    ),
    (Kind::Search, &["prove", "BUCKET", "--execution", "e23", "-o", "BUCKET-proof"]),
    (
        Kind::All,
        &[
            "report",
            "BUCKET",
            "--key",
            "KEY",
            "--from",
            "1960-01-01",
            "--to",
            "2100-01-01",
            "-o",
            "BUCKET-report",
        ],
    ),
    (Kind::Settings, &["doctor", "BUCKET", "--role", "reader"]),
    (Kind::Settings, &["doctor", "BUCKET"]),
];

pub(crate) fn codes(must: Must, kind: Kind) -> &'static [i32] {
    match (must, kind) {
        (_, Kind::Settings | Kind::Proof) => &[0],
        // A listing does not read objects.
        (Must::SayIncomplete, Kind::Listing) => &[0, 3],
        (Must::SayIncomplete, _) => &[3],
        (Must::SayUnproven, Kind::Evidence | Kind::All) => &[3],
        // Neither kind needs the evidence of every object.
        (Must::SayUnproven, Kind::Gaps | Kind::Copies) => &[0, 3],
        (Must::SayUnproven, Kind::Listing | Kind::Records | Kind::Search) => &[0],
        (_, Kind::Listing) => &[0],
        (Must::PassOver, Kind::Records | Kind::Copies | Kind::Gaps | Kind::Search) => &[0],
        // The hosts' own heartbeats are overdue, and foreign objects are found.
        (Must::PassOver, Kind::Evidence | Kind::All) => &[4],
        (Must::Name, Kind::Records | Kind::Copies | Kind::Gaps | Kind::Search) => &[1],
        (Must::FindMissing | Must::Accuse, Kind::Records | Kind::Copies | Kind::Search) => &[0],
        (Must::Accuse, Kind::Gaps) => &[0, 1],
        (Must::FindMissing, Kind::Gaps) => &[1],
        // An object of a stranger is unproven, one of the host's stream accuses.
        (Must::Name, Kind::Evidence) => &[1, 4],
        (Must::Name, Kind::All) => &[1],
        (Must::FindMissing | Must::Accuse, Kind::Evidence | Kind::All) => &[1],
    }
}

/// Binds a socket by a name that is short enough.
fn short(path: &Path) -> PathBuf {
    let directory = File::open(path.parent().unwrap()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    std::mem::forget(directory);
    Path::new(&format!("/proc/self/fd/{number}")).join(path.file_name().unwrap())
}

/// Runs the command with three gigabytes of memory, and without the right of root to read what
/// others may not. It is killed after two minutes.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S], environment: &[(&'static str, String)]) -> Ran {
    let output = restricted(arguments, environment).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The command of [`run`].
pub(crate) fn restricted<S: AsRef<OsStr>>(
    arguments: &[S],
    environment: &[(&'static str, String)],
) -> Command {
    let program = env!("CARGO_BIN_EXE_audit");
    let mut command = in_shell(program, "ulimit -v 3000000;");
    command.args(arguments).env("WITHIN", "timeout -s KILL 120").env("MALLOC_ARENA_MAX", "2");
    command.stdin(Stdio::null()).envs(environment.iter().cloned());
    command
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Makes what is below a directory removable.
fn readable(path: &Path) {
    if !fs::symlink_metadata(path).unwrap().is_dir() {
        return;
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    fs::read_dir(path).unwrap().for_each(|entry| readable(&entry.unwrap().path()));
}

/// Runs each command on a bucket with these rows. Returns the first fault.
async fn check(sample: &Sample, must: Must, rows: &[(usize, Row)]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("bucket");
    copy(&sample.directory.path().join("bucket"), &root);
    for (row, (_, change)) in rows {
        change(&Place { sample, root: &root, row: *row });
    }
    let bucket = root.to_str().unwrap();
    let store = Store {
        bucket,
        files: bucket,
        environment: Vec::new(),
        put: &|key, content| {
            let path = root.join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let unfinished = path.with_file_name("unfinished");
            fs::write(&unfinished, content).unwrap();
            fs::rename(unfinished, path).unwrap();
        },
        remove: &|key| {
            let hour = root.join(key).parent().unwrap().to_owned();
            fs::remove_dir_all(&hour).unwrap();
            // Removes the day too, unless it still has hours of the table's rows.
            let _ = fs::remove_dir(hour.parent().unwrap());
        },
    };
    let checked = check_commands(sample, must, rows, &store).await;
    readable(&root);
    checked
}

async fn check_commands(
    sample: &Sample,
    must: Must,
    rows: &[(usize, Row)],
    store: &Store<'_>,
) -> Result<(), String> {
    let hidden: &[(usize, Row)] = match must {
        Must::PassOver | Must::Name | Must::Accuse | Must::SayUnproven => &[],
        Must::FindMissing | Must::SayIncomplete => rows,
    };
    let whole = (0..HOURS).filter(|hour| hidden.iter().all(|(row, _)| row != hour));
    let numbers: Vec<usize> = whole.flat_map(|hour| [100 + 2 * hour, 101 + 2 * hour]).collect();
    for (kind, command) in COMMANDS {
        // The credentials of a store have other findings.
        if kind == Kind::Settings && !store.environment.is_empty() {
            continue;
        }
        let arguments = sample.arguments(command, store.bucket, store.files);
        let ran = run(&arguments, &store.environment);
        let fault = |what: String| Err(format!("{command:?}: {what}: {ran:?}"));
        let expected = codes(must, kind);
        if !ran.code.is_some_and(|code| expected.contains(&code)) {
            return fault(format!("not one of {expected:?}"));
        }
        let is_binary = command.contains(&"parquet");
        let shown = if is_binary { String::new() } else { ran.out.clone() } + &ran.err;
        if shown.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}') {
            return fault("raw control characters".to_owned());
        }
        if matches!(kind, Kind::Records | Kind::Copies)
            && must == Must::Name
            && let Some((_, (what, _))) = rows.iter().find(|(row, _)| {
                let names = [format!("hour={row:02}/"), "dt=2023-11-18/".to_owned()];
                names.iter().all(|name| !ran.err.contains(name))
            })
        {
            return fault(format!("does not name {what:?}"));
        }
        let has_lines =
            ["cat", "search", "tail"].contains(&command[0]) || command.contains(&"ndjson");
        if let Some(missing) = numbers
            .iter()
            .find(|number| has_lines && !ran.out.contains(&format!("{{\"n\":{number},")))
        {
            return fault(format!("lacks {missing}"));
        }
        // What cannot be read must not count as tampered.
        let is_unread = matches!(must, Must::SayIncomplete | Must::SayUnproven);
        if kind == Kind::Evidence && is_unread && !ran.out.contains("findings  0 tampered, ") {
            return fault("does not say what it found".to_owned());
        }
        if command.contains(&"csv") && ran.out.lines().count() < 1 + numbers.len() {
            return fault("lacks rows".to_owned());
        }
    }
    let damaged = rows.iter().filter(|_| must == Must::Name).map(|(row, (what, _))| match *what {
        "our number in a later hour" => "dt=2023-11-18/".to_owned(),
        _ => format!("hour={row:02}/"),
    });
    hostile_buckets_are_served::check(Expected {
        store,
        key: &sample.key,
        stream: &sample.stream,
        numbers: &numbers,
        damaged: damaged.collect(),
        lacks: must == Must::SayIncomplete,
        lacks_evidence: must == Must::SayUnproven,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reads_what_it_can_and_says_what_it_cannot() {
    let sample = Sample::write().await;
    let tables: [(Must, &[Row]); 6] = [
        (Must::PassOver, &PASSED_OVER),
        (Must::Name, &NAMED),
        (Must::FindMissing, &MISSED),
        (Must::Accuse, &ACCUSED),
        (Must::SayIncomplete, &INCOMPLETE),
        (Must::SayUnproven, &UNPROVEN),
    ];
    for (must, table) in tables {
        let rows: Vec<(usize, Row)> = (1..LAST).zip(table.iter().copied()).collect();
        assert_eq!(rows.len(), table.len());
        // Checks all rows at once. If that fails, checks each alone, to name the one that fails.
        let Err(all) = check(&sample, must, &rows).await else { continue };
        for row in &rows {
            if let Err(fault) = check(&sample, must, std::slice::from_ref(row)).await {
                panic!("{must:?}, {:?}: {fault}; all at once: {all}", row.1.0);
            }
        }
        panic!("{must:?}: {all}");
    }
}

/// Tests the damaged objects of [`NAMED`] in an object store instead of a directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_damaged_in_a_store_is_named() {
    let server = S3TestServer::start().await;
    let sample = Sample::write_to(&server, "").await;
    let bucket = sample.directory.path().join("bucket");
    // The server cannot hold an object of a tebibyte.
    let rows = NAMED.iter().filter(|(what, _)| !what.starts_with("a tebibyte"));
    let rows: Vec<(usize, Row)> = (1..LAST).zip(rows.copied()).collect();
    let changed = tempfile::tempdir().unwrap();
    let root = changed.path().join("bucket");
    copy(&bucket, &root);
    for (row, (_, change)) in &rows {
        change(&Place { sample: &sample, root: &root, row: *row });
    }
    let before = server.objects();
    upload(&server, &root, &root);
    assert!(server.objects().len() > before.len() + 20);
    let url = support::url(&server);
    let name = |key: &str| format!("logs/{key}");
    let store = Store {
        bucket: &url,
        files: root.to_str().unwrap(),
        environment: support::environment(&server),
        put: &|key, content| {
            let bytes = content.to_vec().into();
            server.put_object(&name(key), StoredObject { bytes, ..StoredObject::default() });
        },
        remove: &|key| drop(server.delete_object(&name(key))),
    };
    check_commands(&sample, Must::Name, &rows, &store).await.unwrap();
}

/// Puts the files that the server does not have.
fn upload(server: &S3TestServer, root: &Path, directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            upload(server, root, &path);
            continue;
        }
        let name = format!("logs/{}", path.strip_prefix(root).unwrap().to_str().unwrap());
        if !server.objects().contains_key(&name) {
            let bytes = fs::read(path).unwrap().into();
            server.put_object(&name, StoredObject { bytes, ..StoredObject::default() });
        }
    }
}

/// Entries in the place of a day's first Parquet file.
const PARQUET: [Row; 8] = [
    ("a pipe", |place| pipe(&place.at("dt=2023-11-14/000000.parquet"))),
    ("a device", |place| link("/dev/zero", &place.at("dt=2023-11-14/000000.parquet"))),
    ("a directory", |place| put(&place.at("dt=2023-11-14/000000.parquet/x"), b"")),
    ("nothing", |place| put(&place.at("dt=2023-11-14/000000.parquet"), b"")),
    ("text", |place| put(&place.at("dt=2023-11-14/000000.parquet"), &[b'x'; 1_000])),
    ("a footer that is too long", |place| {
        let file = [b"PAR1", &[0xff; 4][..], b"PAR1"].concat();
        put(&place.at("dt=2023-11-14/000000.parquet"), &file);
    }),
    ("a tebibyte", |place| huge(&place.at("dt=2023-11-14/000000.parquet"))),
    ("the highest number", |place| {
        put(&place.at("dt=2023-11-14/4294967295.parquet"), b"x");
    }),
];

/// A day with such an entry is not compacted until somebody removes it. Other days are.
#[tokio::test(flavor = "multi_thread")]
async fn strange_parquet_files_are_named_and_stop_no_other_day() {
    let sample = Sample::write().await;
    let bucket = sample.directory.path().join("bucket");
    put(&bucket.join(strange_key("dt=2023-11-16/hour=00", 0, 0, "")), GOOD);
    for (what, change) in PARQUET {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        link(".", &root.join("dt=2023-11-14/loop"));
        change(&Place { sample: &sample, root, row: 0 });
        let (from, to) = (bucket.to_str().unwrap(), root.to_str().unwrap());
        let ran = run(&["compact", from, "--to", to], &[]);
        assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
        assert!(ran.err.contains("dt=2023-11-14"), "{what}: {ran:?}");
        assert!(ran.out.contains("dt=2023-11-16/000000.parquet"), "{what}: {ran:?}");
        let ran = run(&["verify", from, "--key", &sample.key, "--parquet", to], &[]);
        assert!(matches!(ran.code, Some(1 | 4)), "{what}: {ran:?}");
    }
    for unread in ["dt=2023-11-14", "dt=2023-11-14/000000.parquet"] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        put(&root.join("dt=2023-11-14/000000.parquet"), &[b'x'; 1_000]);
        unreadable(&root.join(unread));
        let (from, to) = (bucket.to_str().unwrap(), root.to_str().unwrap());
        let ran = run(&["compact", from, "--to", to], &[]);
        assert_eq!(ran.code, Some(3), "{unread}: {ran:?}");
        assert!(ran.err.contains("dt=2023-11-14"), "{unread}: {ran:?}");
        assert!(ran.out.contains("dt=2023-11-16/000000.parquet"), "{unread}: {ran:?}");
        let ran = run(&["verify", from, "--key", &sample.key, "--parquet", to], &[]);
        assert_eq!(ran.code, Some(3), "{unread}: {ran:?}");
        assert!(ran.err.contains("dt=2023-11-14"), "{unread}: {ran:?}");
        assert!(ran.out.contains("parquet   1 file, 1 object"), "{unread}: {ran:?}");
        readable(root);
    }
}

/// All system records and all metadata of objects are lost.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_even_if_their_evidence_is_lost() {
    let sample = Sample::write().await;
    let changes: [Row; 5] = [
        ("a file", |place| put(&place.at("_audit"), b"")),
        ("a pipe", |place| pipe(&place.at("_audit"))),
        ("a loop", |place| link("_audit", &place.at("_audit"))),
        ("a link to elsewhere", |place| link("/", &place.at("_audit"))),
        ("nothing", |_| {}),
    ];
    for (what, change) in changes {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("bucket");
        copy(&sample.directory.path().join("bucket"), &root);
        fs::remove_dir_all(root.join("_audit")).unwrap();
        change(&Place { sample: &sample, root: &root, row: 0 });
        let bucket = root.to_str().unwrap();
        for command in ["ls", "cat", "tail"] {
            let ran = run(&[command, bucket], &[]);
            assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        }
        // The lost opening record has the first number, so `stats` may find a gap.
        let ran = run(&["stats", bucket], &[]);
        assert!(matches!(ran.code, Some(0 | 1)), "{what}: {ran:?}");
        let ran = run(&["verify", bucket, "--key", &sample.key], &[]);
        assert!(matches!(ran.code, Some(1 | 3 | 4)), "{what}: {ran:?}");
    }
}

/// An opening host removes the unfinished objects of dead writers, and nothing that is elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_elsewhere_loses_no_file_there() {
    for linked in ["_audit", "_audit/unfinished"] {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(&elsewhere.path().join("precious"), b"x");
        put(&elsewhere.path().join("unfinished/precious"), b"x");
        link(elsewhere.path(), &directory.path().join(linked));
        let _ = Bucket::open(&format!("file://{}", directory.path().display()));
        let left = ["precious", "unfinished/precious"].map(|name| elsewhere.path().join(name));
        assert!(left.iter().all(|file| file.exists()), "{linked}");
    }
}
