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

mod parts;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use audit_benches::contest::{Contest, Row};
use audit_benches::report::{self, Machine};
use audit_benches::stages::{
    backlog, commit, delivery, evidence, functions, outcomes, release, routes, templates,
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
    drains: u32,
    routes: u32,
    dead_routes: u32,
    /// How long commits to routes are measured. The figure means something only if this is longer
    /// than a request to a dead bucket keeps its memory.
    commits: Duration,
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
    routes: 1_000,
    dead_routes: 100,
    commits: Duration::from_secs(40),
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
    routes: 30,
    dead_routes: 3,
    commits: Duration::from_secs(1),
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
        ["drain"] => judge_rows(&rows::drains(FULL, directory().path())),
        ["routes"] => judge_rows(&rows::routes(FULL, directory().path())),
        ["part", ref part @ ..] => parts::run(part),
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

fn compare(effort: Effort, judge: bool) -> ExitCode {
    let (build, directory) = (build_directory(), directory());
    let machine = Machine::here();
    println!("{}, {} cores, {}", machine.processor, machine.cores, machine.system);

    println!("backlog of {} MiB …", effort.backlog_mib);
    let mut last = rows::backlog(effort, directory.path());
    last.extend(rows::drains(effort, directory.path()));
    last.extend(rows::routes(effort, directory.path()));
    println!("releases into a journal …");
    last.extend(rows::releases(effort, directory.path()));
    println!("verifying {} MiB and {} heads …", effort.verified_mib, effort.heads);
    last.extend(evidence::full(directory.path(), effort.verified_mib, effort.hits_rounds));
    last.push(evidence::heads(effort.heads));
    println!("cache hits of the functions host …");
    last.push(functions::cache_hits(directory.path(), effort.hits, effort.hits_rounds));
    println!("mutations of the functions host …");
    last.extend(functions::mutations(directory.path(), effort.hits, effort.hits_rounds));
    last.extend(templates::allocations());
    if effort.instructions {
        last.extend(rows::instructions());
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

/// Compares only the stages whose names contain this word, for as long as a full report measures
/// all.
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
