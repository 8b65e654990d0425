//! Parts that are measured in processes of their own, so that the memory of one part is not counted
//! for another.

use std::io::{self, BufRead};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use audit_benches::stages::drain::{Baselines, Logs, Served};
use audit_benches::stages::routes::Customers;
use audit_benches::stages::{backlog, drain, release, routes, templates};

/// Runs a part that is measured in a separate process. Its result is the last line that it prints.
pub(crate) fn run(part: &[&str]) -> ExitCode {
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
        ["routes", directory, routes, dead, followed, seconds, ref served @ ..] => {
            let served = drain::Served::parse(&served.join(" "));
            let customers = Customers::parse([routes, dead, followed]);
            let lasts = Duration::from_secs(seconds.parse().expect("a number"));
            routes::commits(&served, Path::new(directory), customers, lasts).to_vec()
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
pub(crate) fn part(wrapper: &[&str], arguments: &[&str]) -> Vec<f64> {
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

fn logs_of(text: &str) -> Logs {
    Logs::parse(text).expect("a size of logs")
}

/// Runs `measure` beside a server in a process of its own. Returns also the server's processor
/// time, in seconds.
pub(crate) fn beside_server<T>(measure: impl FnOnce(&Served) -> T) -> (T, f64) {
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
    // The server ends when its standard input is closed.
    drop(server.stdin.take());
    let seconds = line().parse().expect("a number");
    server.wait().expect("the server ends");
    (measured, seconds)
}
