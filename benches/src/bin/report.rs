//! Compares everything on this machine in about two minutes: see the crate's documentation.
//!
//! ```text
//! cargo run --release -p audit-benches --bin report            # about two minutes
//! cargo run --release -p audit-benches --bin report -- quick   # a few seconds, only to see whether it works
//! cargo run --release -p audit-benches --bin report -- only outcomes   # the comparisons whose names contain a word
//! ```
//!
//! Its files are written below the directory that `AUDIT_BENCH_DIR` names, or the build's own: it
//! should be on the disk to measure. With `DATABASE_URL`, PostgreSQL is measured too. The exit
//! status tells whether all targets hold, or for a quick run, whether it completed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use audit_benches::contest::{Contest, Row, Spread, Target, Unit};
use audit_benches::report::{self, Machine};
use audit_benches::stages::{
    backlog, commit, delivery, evidence, functions, outcomes, release, templates,
};

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
        ["part", ref part @ ..] => run_part(part),
        _ => {
            eprintln!("usage: report [quick | only WORD]");
            ExitCode::FAILURE
        }
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
    let build = build_directory();
    let directory = tempfile::Builder::new()
        .prefix("audit-report-")
        .tempdir_in(measured_directory())
        .expect("a directory");
    let machine = Machine::here();
    println!("{}, {} cores, {}", machine.processor, machine.cores, machine.system);

    println!("backlog of {} MiB …", effort.backlog_mib);
    let mut last = backlog(effort, directory.path());
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
    let directory = tempfile::Builder::new()
        .prefix("audit-report-")
        .tempdir_in(measured_directory())
        .expect("a directory");
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
    contests.extend(evidence::contests(directory));
    contests.extend(outcomes::contests(directory));
    contests.extend(functions::contests(directory));
    contests
}

/// The directory for files, on the disk to measure.
fn measured_directory() -> PathBuf {
    std::env::var_os("AUDIT_BENCH_DIR").map_or_else(build_directory, PathBuf::from)
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
        rows.push(row.with_target(Target::AtMost(32.0)).with_note(note));
    }
    rows
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
