//! Rows that are measured once or a few times, in processes of their own.

use std::path::Path;
use std::process::Command;

use audit_benches::contest::{Row, Spread, Target, Unit};
use audit_benches::stages::drain::Logs;
use audit_benches::stages::routes::Customers;
use audit_benches::stages::{backlog, drain};

use crate::Effort;
use crate::parts::{beside_server, part};

/// The numbers of the baseline and ours, measured one after the other.
type Pair = (Vec<f64>, Vec<f64>);

pub(crate) fn backlog(Effort { backlog_mib, .. }: Effort, directory: &Path) -> Vec<Row> {
    let path = directory.join("backlog");
    let journal = path.to_str().expect("a path of text");
    let one = |numbers: Vec<f64>| numbers[0];
    part(&[], &["fill", journal, &backlog_mib.to_string()]);
    let warm: Vec<_> = (0..3)
        .map(|_| (one(part(&[], &["recover", journal])), one(part(&[], &["read", journal]))))
        .collect();
    let is_cold = backlog::forget(&path);
    let cold: Vec<_> = (0..2)
        .map(|_| {
            backlog::forget(&path);
            let recovered = one(part(&[], &["recover", journal]));
            backlog::forget(&path);
            (recovered, one(part(&[], &["read", journal])))
        })
        .collect();
    let recovery = |stage: String, times: &[(f64, f64)]| {
        let middle = |times: Vec<f64>| Spread::of(times).median;
        let ours = middle(times.iter().map(|(ours, _)| *ours).collect());
        let read = middle(times.iter().map(|(_, read)| *read).collect());
        Row::counted(stage, ours, Unit::Seconds)
            .beside("reading the files", read)
            .with_target(Target::Seconds(2.0))
    };
    let mut rows = vec![recovery(format!("recover {backlog_mib} MiB, files in memory"), &warm)];
    if is_cold {
        rows.push(recovery(format!("recover {backlog_mib} MiB, files on disk"), &cold));
    }
    let empty = directory.join("empty");
    let idle = part(&[], &["drain", empty.to_str().expect("a path of text")]);
    let drained = part(&[], &["drain", journal]);
    if idle[1].is_finite() && drained[1].is_finite() {
        let above = drained[1] - idle[1];
        let row = Row::counted(
            format!("memory above idle to drain {backlog_mib} MiB"),
            above,
            Unit::Mebibytes,
        );
        let note = format!(
            "{:.1} MiB idle; drained in {:.1} s into a bucket 300 ms away",
            idle[1], drained[0]
        );
        // The budget of deliveries is 48 MiB, and compressors and readers are beside it.
        rows.push(row.with_target(Target::AtMost(64.0)).with_note(note));
    }
    rows
}

pub(crate) fn drains(
    Effort { drains, backlog_mib: mib, .. }: Effort,
    directory: &Path,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for logs in Logs::ALL {
        println!("draining {mib} MiB of logs of {} …", logs.as_str());
        let path = directory.join("drained");
        let journal = path.to_str().expect("a path of text");
        let (size, amount) = (logs.as_str(), mib.to_string());
        let rounds: Vec<_> = (0..drains)
            .map(|_| {
                let (baselines, _) = beside_server(|served| {
                    let arguments = ["drain-baselines", size, &amount];
                    part(&[], &[&arguments[..], &served.arguments()].concat())
                });
                part(&[], &["drain-fill", journal, size, &amount]);
                let (drained, served) = beside_server(|served| {
                    part(&[], &[&["drain-into", journal][..], &served.arguments()].concat())
                });
                std::fs::remove_dir_all(&path).expect("a journal");
                Drained::of(mib, &baselines, &drained, served)
            })
            .collect();
        rows.push(drain_row(logs, mib, &rounds));
    }
    rows
}

/// A drain and its baselines. Rates are in MiB of lines a second.
struct Drained {
    ours: f64,
    /// The rate at which all cores encode while nothing else runs.
    encode: f64,
    /// The rate at which those cores encode that the server left free during the drain.
    free: f64,
    /// The rate at which a plain client stores.
    store: f64,
    /// The size of the encoded objects, in MiB.
    encoded: f64,
    /// The peak memory of the process, in MiB.
    memory: f64,
}

impl Drained {
    fn of(mib: u64, baselines: &[f64], drained: &[f64], server_seconds: f64) -> Drained {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let encode = mebibytes(baselines[0]);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let served = server_seconds / (drained[0] * cores as f64);
        Drained {
            ours: mib as f64 / drained[0],
            encode,
            free: encode * (1.0 - served.min(1.0)),
            store: mebibytes(baselines[1]),
            encoded: mebibytes(baselines[2]),
            memory: drained[1],
        }
    }
}

/// The rate of a drain in MiB of lines a second, compared with the lower of its baselines.
fn drain_row(logs: Logs, mib: u64, rounds: &[Drained]) -> Row {
    let column = |value: &dyn Fn(&Drained) -> f64| Spread::of(rounds.iter().map(value).collect());
    let (free, store) = (column(&|round| round.free), column(&|round| round.store));
    let ours = column(&|round| round.ours);
    let (name, lower) = if free.median < store.median {
        ("all free cores encode", free.median)
    } else {
        ("a plain client, 16 at once", store.median)
    };
    let stage = format!("drain {mib} MiB, logs of {}, MiB a second", logs.as_str());
    let mut row = Row::counted(stage, ours.median, Unit::PerSecond)
        .beside(name, lower)
        .with_target(Target::TimesAsFast(0.8))
        .with_note(format!(
            "encoded {:.0} MiB; all cores encode {:.0} MiB a second, those that the server leaves \
             {:.0}, a plain client stores {:.0}; the process took {:.1} MiB; a server that \
             responds in {} ms",
            rounds[0].encoded,
            column(&|round| round.encode).median,
            free.median,
            store.median,
            rounds.iter().map(|round| round.memory).fold(0.0, f64::max),
            drain::RESPONDS_IN.as_millis(),
        ));
    row.ours.spread = ours;
    row.ratio = Some(column(&|round| round.free.min(round.store) / round.ours));
    row
}

/// Commits and memory with many customers, compared with one, measured in pairs: first without log
/// streams, then with one for each customer.
pub(crate) fn routes(effort: Effort, directory: &Path) -> Vec<Row> {
    [false, true].into_iter().flat_map(|followed| customers(effort, directory, followed)).collect()
}

fn customers(effort: Effort, directory: &Path, followed: bool) -> Vec<Row> {
    let Effort { drains: rounds, routes, dead_routes, commits, .. } = effort;
    let all = match followed {
        true => format!("{routes} routes with a log stream each"),
        false => format!("{routes} routes"),
    };
    let named = format!("{all}, {dead_routes} of them dead");
    println!("{named} …");
    let measure = |routes: u32, dead: u32| {
        let path = directory.join("customers");
        let (numbers, _) = beside_server(|served| {
            let customers = Customers { routes, dead, followed }.arguments();
            let seconds = commits.as_secs().to_string();
            let mut arguments = vec!["routes", path.to_str().expect("a path of text")];
            arguments.extend(customers.iter().map(String::as_str));
            arguments.push(&seconds);
            part(&[], &[arguments, served.arguments()].concat())
        });
        std::fs::remove_dir_all(&path).expect("a journal");
        numbers
    };
    let pairs: Vec<_> =
        (0..rounds).map(|_| (measure(1, 0), measure(routes, dead_routes))).collect();
    let spread = |of: &dyn Fn(&Pair) -> f64| Spread::of(pairs.iter().map(of).collect());
    let (ours, one) = (spread(&|(_, many)| many[0]), spread(&|(one, _)| one[0]));
    let mut commit = Row::counted(
        format!("commit to a healthy one of {named}, median"),
        ours.median,
        Unit::Seconds,
    )
    .beside("to a single route", one.median)
    .with_target(Target::AtMostTimes(1.1));
    commit.ours.spread = ours;
    commit.ratio = Some(spread(&|(one, many)| many[0] / one[0]));
    let idle = spread(&|(one, many)| many[1] - one[1]).median;
    let idle = Row::counted(format!("memory of {all} that are idle"), idle, Unit::Mebibytes)
        .with_target(Target::AtMost(IDLE_MIB))
        .with_note(format!("{:.1} MiB with a single route", spread(&|(one, _)| one[1]).median));
    let above = pairs.iter().map(|(_, many)| many[2] - many[1]).fold(0.0, f64::max);
    let memory = Row::counted(format!("memory above idle, {named}"), above, Unit::Mebibytes)
        .with_target(Target::AtMost(64.0))
        .with_note(format!("{:.1} MiB idle", spread(&|(_, many)| many[1]).median));
    vec![commit, idle, memory]
}

/// The most memory of a thousand idle routes in MiB: some 32 KiB for each, with its log stream.
const IDLE_MIB: f64 = 32.0;

pub(crate) fn releases(Effort { releases, .. }: Effort, directory: &Path) -> Vec<Row> {
    let memory = Path::new("/dev/shm");
    let (place, note) = if memory.is_dir() {
        (memory, "in a directory in memory, where a sync costs nothing")
    } else {
        (directory, "on a disk: there is no directory in memory here")
    };
    let place =
        tempfile::Builder::new().prefix("audit-report-").tempdir_in(place).expect("a directory");
    let path = place.path().to_str().expect("a path of text");
    let numbers = part(&[], &["release", path, &releases.to_string()]);
    let column = |n: usize| Spread::of(numbers.chunks_exact(4).map(|round| round[n]).collect());
    let [seconds, preparing, elapsed, raw] = [0, 1, 2, 3].map(column);
    let mut row = Row::counted(
        "release_all to 10,000 into the journal, records a second of one core",
        1.0 / seconds.median,
        Unit::PerSecond,
    )
    .beside("write of the same bytes", 1.0 / raw.median)
    .with_target(Target::PerSecond(1_000_000.0))
    .with_note(format!(
        "{note}; by the clock {:.0} ns a record; segments that are prepared ahead take {:.0} ns more of another core",
        elapsed.median * 1e9,
        preparing.median * 1e9
    ));
    row.ours.spread = Spread {
        lower: 1.0 / seconds.upper,
        median: 1.0 / seconds.median,
        upper: 1.0 / seconds.lower,
    };
    vec![row]
}

/// Instructions counted by valgrind, if available, since virtual machines often have no hardware
/// counters.
pub(crate) fn instructions() -> Vec<Row> {
    let count = |stage: &str, calls: u64| {
        let program = std::env::current_exe().ok()?;
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
        valgrind.arg(program).args(["part", "count", stage, &calls.to_string()]);
        let text = String::from_utf8(valgrind.output().ok()?.stderr).ok()?;
        let line =
            text.lines().find(|line| line.contains("I refs:") || line.contains("I   refs:"))?;
        line.rsplit(' ').next()?.replace(',', "").parse::<f64>().ok()
    };
    // The cost of one more call, without the cost of starting.
    let of_one = |stage: &str| Some((count(stage, 1_100)? - count(stage, 100)?) / 1_000.0);
    let rows = [
        ("instructions to replay a cached log, 1.2 KB", "replay", "memcpy", "copy"),
        (
            "instructions to compile from a Rust value, 1.2 KB",
            "compile",
            "serde_json::to_vec",
            "to_vec",
        ),
        (
            "instructions to compile from JSON text, 1.2 KB",
            "from_json",
            "serde_json, into a tree",
            "to_tree",
        ),
    ];
    let row = |(title, ours, name, theirs): (&str, &str, &str, &str)| {
        Some(
            Row::counted(title, of_one(ours)?.round(), Unit::Count)
                .beside(name, of_one(theirs)?.round()),
        )
    };
    rows.into_iter().filter_map(row).collect()
}
