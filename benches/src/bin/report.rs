//! Compares everything on this machine in about ten minutes: see the crate's documentation.
//!
//! ```text
//! cargo run --release -p audit-benches --bin report   # about ten minutes
//! ```
//!
//! After `--`: `quick` takes a few seconds, only to see whether it works; `only WORD` makes the
//! comparisons whose names contain a word; `drain` measures the rate at which a backlog is
//! delivered; `routes` measures commits and memory with a thousand customers.
//!
//! Its files are written below the directory that `AUDIT_BENCH_DIR` names, or the build's own: it
//! should be on the disk to measure. With `DATABASE_URL`, PostgreSQL is measured too. The exit
//! status tells whether all targets hold, or for a quick run, whether it completed.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use audit_benches::contest::{Contest, Row, Spread, Target, Unit};
use audit_benches::report::{self, Machine};
use audit_benches::stages::drain::{Baselines, Logs, Served};
use audit_benches::stages::{
    backlog, commit, delivery, drain, evidence, functions, outcomes, release, routes, templates,
};

/// The numbers of the baseline and ours, measured one after the other.
type Pair = (Vec<f64>, Vec<f64>);

#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: Duration,
    backlog_mib: u64,
    releases: u32,
    hits: Duration,
    hits_rounds: u32,
    instructions: bool,
    verified_mib: usize,
    heads: u64,
    drains: u32,
}

const FULL: Effort = Effort {
    rounds: Duration::from_secs(75),
    backlog_mib: 1024,
    releases: 100,
    hits: Duration::from_secs(2),
    hits_rounds: 3,
    instructions: true,
    verified_mib: 512,
    heads: 100_000,
    drains: 3,
};
const QUICK: Effort = Effort {
    rounds: Duration::from_secs(1),
    backlog_mib: 32,
    releases: 3,
    hits: Duration::from_millis(200),
    hits_rounds: 1,
    instructions: false,
    verified_mib: 32,
    heads: 1_000,
    drains: 1,
};

fn main() -> ExitCode {
    if std::env::var_os(evidence::AS_AUDIT).is_some() {
        let code = audit_cli::main();
        eprintln!("\n{}", backlog::peak_memory());
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(FULL, true),
        ["quick"] => compare(QUICK, false),
        ["only", word] => compare_only(word),
        ["drain"] => judge_rows(&drains(FULL, directory().path())),
        ["routes"] => judge_rows(&routes(FULL, directory().path())),
        ["part", ref part @ ..] => run_part(part),
        _ => {
            eprintln!("usage: report [quick | only WORD | drain | routes]");
            ExitCode::FAILURE
        }
    }
}

fn judge_rows(rows: &[Row]) -> ExitCode {
    println!("\n{}", report::table(rows));
    match rows.iter().any(|row| row.holds() == Some(false)) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Runs a part that is measured in a separate process. Its result is the last line that it prints.
fn run_part(part: &[&str]) -> ExitCode {
    let numbers = match *part {
        ["fill", directory, mib] => {
            backlog::fill(Path::new(directory), mib.parse().expect("a number"));
            Vec::new()
        }
        ["recover", directory] => vec![backlog::recover(Path::new(directory))],
        ["read", directory] => vec![backlog::read(Path::new(directory))],
        ["drain", directory] => {
            let (seconds, mib) = backlog::drain(Path::new(directory));
            vec![seconds, mib]
        }
        ["serve"] => {
            drain::serve();
            Vec::new()
        }
        ["drain-fill", directory, logs, mib] => {
            drain::fill(Path::new(directory), logs_of(logs), mib.parse().expect("a number"));
            Vec::new()
        }
        ["drain-baselines", logs, mib, ref served @ ..] => {
            let served = drain::Served::parse(&served.join(" "));
            let mib = mib.parse().expect("a number");
            let Baselines { encode, store, encoded } =
                drain::baselines(&served, logs_of(logs), mib);
            vec![encode, store, encoded]
        }
        ["drain-into", directory, ref served @ ..] => {
            let served = drain::Served::parse(&served.join(" "));
            let (seconds, mib) = drain::drain(&served, Path::new(directory));
            vec![seconds, mib]
        }
        ["routes", directory, routes, dead, ref served @ ..] => {
            let served = drain::Served::parse(&served.join(" "));
            let number = |text: &str| text.parse().expect("a number");
            let (routes, dead) = (number(routes), number(dead));
            routes::commits(&served, Path::new(directory), routes, dead).to_vec()
        }
        ["release", directory, rounds] => {
            let rounds =
                release::into_journal(Path::new(directory), rounds.parse().expect("a number"));
            rounds.iter().flat_map(|r| [r.seconds, r.preparing, r.elapsed, r.raw]).collect()
        }
        ["count", stage, calls] => {
            templates::repeat(stage, calls.parse().expect("a number"));
            Vec::new()
        }
        _ => return ExitCode::FAILURE,
    };
    let numbers: Vec<_> = numbers.iter().map(f64::to_string).collect();
    println!("{}", numbers.join(" "));
    // Exits without closing, since the rest of a journal is measured next.
    std::process::exit(0)
}

/// Runs a part in a separate process, under this wrapper command if there is one.
fn part(wrapper: &[&str], arguments: &[&str]) -> Vec<f64> {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    let output =
        command.arg("part").args(arguments).stderr(Stdio::inherit()).output().expect("a process");
    assert!(output.status.success(), "{arguments:?} failed");
    let text = String::from_utf8(output.stdout).expect("text");
    let last = text.lines().last().unwrap_or_default();
    last.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn compare(effort: Effort, judge: bool) -> ExitCode {
    let (build, directory) = (build_directory(), directory());
    let machine = Machine::here();
    println!("{}, {} cores, {}", machine.processor, machine.cores, machine.system);

    println!("backlog of {} MiB …", effort.backlog_mib);
    let mut last = backlog(effort, directory.path());
    last.extend(drains(effort, directory.path()));
    last.extend(routes(effort, directory.path()));
    println!("releases into a journal …");
    last.extend(releases(effort, directory.path()));
    println!("verifying {} MiB and {} heads …", effort.verified_mib, effort.heads);
    last.extend(evidence::full(directory.path(), effort.verified_mib, effort.hits_rounds));
    last.push(evidence::heads(effort.heads));
    println!("cache hits of the functions host …");
    last.push(functions::cache_hits(directory.path(), effort.hits, effort.hits_rounds));
    println!("mutations of the functions host …");
    last.extend(functions::mutations(directory.path(), effort.hits, effort.hits_rounds));
    last.extend(templates::allocations());
    if effort.instructions {
        last.extend(instructions());
    }
    println!("rounds, for {} s …", effort.rounds.as_secs());
    let mut rows = report::run(contests(directory.path()), effort.rounds);
    rows.extend(last);

    println!("\n{}", report::table(&rows));
    let folder = build.join("report");
    report::write(&folder, &machine, &rows).expect("a directory for the report");
    println!("written to {}", folder.display());
    let missed = rows.iter().filter(|row| row.holds() == Some(false)).count();
    let judged = rows.iter().filter(|row| row.holds().is_some()).count();
    println!("{} of {judged} targets hold", judged - missed);
    if missed == 0 || !judge { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Compares for as long as everything takes, but only the stages whose names contain this word.
fn compare_only(word: &str) -> ExitCode {
    let directory = directory();
    let mut contests = contests(directory.path());
    contests.retain(|contest| contest.stage().contains(word));
    if contests.is_empty() {
        eprintln!("no comparison has {word:?} in its name");
        return ExitCode::FAILURE;
    }
    println!("{}", report::table(&report::run(contests, FULL.rounds)));
    ExitCode::SUCCESS
}

/// The contests, which are measured in rounds.
fn contests(directory: &Path) -> Vec<Contest> {
    let mut contests = templates::contests();
    contests.extend(release::contests());
    contests.extend(delivery::contests(directory));
    contests.extend(commit::contests(directory));
    contests.extend(routes::contests(directory));
    contests.extend(evidence::contests(directory));
    contests.extend(outcomes::contests(directory));
    contests.extend(functions::contests(directory));
    contests
}

/// A directory on the disk to measure.
fn directory() -> tempfile::TempDir {
    let root = std::env::var_os("AUDIT_BENCH_DIR").map_or_else(build_directory, PathBuf::from);
    tempfile::Builder::new().prefix("audit-report-").tempdir_in(root).expect("a directory")
}

fn build_directory() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.ancestors().nth(2).expect("it is built below a directory").to_owned()
}

fn backlog(Effort { backlog_mib, .. }: Effort, directory: &Path) -> Vec<Row> {
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

fn logs_of(text: &str) -> Logs {
    Logs::parse(text).expect("a size of logs")
}

/// Runs `measure` beside a server in a process of its own. Returns also the server's processor
/// time, in seconds.
fn beside_server<T>(measure: impl FnOnce(&Served) -> T) -> (T, f64) {
    let program = std::env::current_exe().expect("the path of this program");
    let mut server = Command::new(program)
        .args(["part", "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = io::BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let measured = measure(&Served::parse(&line()));
    // It ends with its standard input.
    drop(server.stdin.take());
    let seconds = line().parse().expect("a number");
    server.wait().expect("the server ends");
    (measured, seconds)
}

fn drains(Effort { drains, backlog_mib: mib, .. }: Effort, directory: &Path) -> Vec<Row> {
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

/// A drain and its baselines, in MiB of lines a second.
struct Drained {
    ours: f64,
    /// All cores encode, and nothing else runs.
    encode: f64,
    /// The cores encode that the server left during the drain.
    free: f64,
    /// A plain client stores.
    store: f64,
    /// MiB of encoded objects.
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

/// The rate of a drain in MiB of lines a second, beside the lower one of the baselines.
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

/// Commits and memory with a thousand customers, beside one, in pairs.
fn routes(Effort { drains: rounds, .. }: Effort, directory: &Path) -> Vec<Row> {
    use routes::{DEAD, MANY};

    println!("{MANY} routes, {DEAD} of them dead …");
    let measure = |routes: u32, dead: u32| {
        let path = directory.join("customers");
        let journal = path.to_str().expect("a path of text");
        let (numbers, _) = beside_server(|served| {
            let (routes, dead) = (routes.to_string(), dead.to_string());
            part(&[], &[&["routes", journal, &routes, &dead][..], &served.arguments()].concat())
        });
        std::fs::remove_dir_all(&path).expect("a journal");
        numbers
    };
    let pairs: Vec<_> = (0..rounds).map(|_| (measure(1, 0), measure(MANY, DEAD))).collect();
    let spread = |of: &dyn Fn(&Pair) -> f64| Spread::of(pairs.iter().map(of).collect());
    let (ours, one) = (spread(&|(_, many)| many[0]), spread(&|(one, _)| one[0]));
    let named = format!("{MANY} routes, {DEAD} of them dead");
    let mut commit = Row::counted(
        format!("commit to a healthy one of {named}, median"),
        ours.median,
        Unit::Seconds,
    )
    .beside("to a single route", one.median)
    .with_target(Target::AtMostTimes(1.1));
    commit.ours.spread = ours;
    commit.ratio = Some(spread(&|(one, many)| many[0] / one[0]));
    let above = pairs.iter().map(|(_, many)| many[2] - many[1]).fold(0.0, f64::max);
    let memory = Row::counted(format!("memory above idle, {named}"), above, Unit::Mebibytes)
        .with_target(Target::AtMost(64.0))
        .with_note(format!("{:.1} MiB idle", spread(&|(_, many)| many[1]).median));
    vec![commit, memory]
}

fn releases(Effort { releases, .. }: Effort, directory: &Path) -> Vec<Row> {
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
fn instructions() -> Vec<Row> {
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
