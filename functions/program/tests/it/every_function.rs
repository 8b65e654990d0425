//! The time limit ends calls of every built-in function.
//!
//! Every function reachable from the global object is called in one of 32 cases, chosen so that
//! neighbouring functions use different ones. With `AUDIT_EVERY_FUNCTION_SHARE=1`, the test makes
//! all 190,000 calls, which takes minutes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use super::*;

const MODULE: &str = include_str!("every_function.js");

/// How far a call may exceed the time limit before the test considers it endless.
const PATIENCE: Duration = Duration::from_secs(60);

const LIMIT: Duration = Duration::from_millis(10);

/// The number of functions in a part of the test.
const PART: usize = 40;

/// Reports the progress of a run.
struct Noting(mpsc::Sender<[usize; 2]>);

impl Syscalls for Noting {
    fn syscall(&mut self, op: &str, args: &str) -> Result<String, SyscallError> {
        if op == "at" {
            // The receiver is gone if the run was considered endless.
            let _ = self.0.send(serde_json::from_str(args).unwrap());
        }
        Ok("null".to_owned())
    }

    fn async_syscall(&mut self, _: &str, _: &str, _: Later) -> Answer {
        Answer::Now(Ok("null".to_owned()))
    }
}

#[derive(serde::Deserialize)]
struct Described {
    functions: Vec<String>,
    cases: Vec<(String, String)>,
}

#[test]
fn the_time_limit_ends_every_built_in_function() {
    let fixture = Arc::new(fixture(MODULE));
    let described = fixture.value("messages:described", "[{}]");
    let described: Described = serde_json::from_str(&described).unwrap();
    let functions = described.functions.len();
    assert!(functions > 600, "{functions}");
    let share = std::env::var("AUDIT_EVERY_FUNCTION_SHARE").ok();
    let share: usize = share.map_or(32, |share| share.parse().unwrap());
    // The parts run at once, small ones so that no processor waits for a slow one at the end.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next_part = AtomicUsize::new(0);
    let endless = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut endless = Vec::new();
                    loop {
                        let from = next_part.fetch_add(PART, Ordering::Relaxed);
                        if from >= functions {
                            return endless;
                        }
                        let part = from..functions.min(from + PART);
                        endless.append(&mut endless_of(&fixture, &described, part, share));
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(endless.is_empty(), "{endless:#?}");
}

/// Calls a part of the functions. Returns the calls that do not end.
fn endless_of(
    fixture: &Arc<Fixture>,
    described: &Described,
    part: Range<usize>,
    share: usize,
) -> Vec<String> {
    let Described { functions, cases } = described;
    let (mut from, to) = ([part.start, 0], part.end);
    let mut limits = Limits { time: LIMIT, ..Limits::default() };
    // The cases of the current function that the time limit ended.
    let mut stopped: Vec<usize> = Vec::new();
    let mut endless = Vec::new();
    let mut runs = runner(fixture);
    while from[0] < to {
        // A receiver or argument list that the time limit ended twice is assumed to end so in all
        // cases.
        let is_tried = |case: &(String, String)| {
            let like = |same: &dyn Fn(&(String, String)) -> bool| {
                stopped.iter().filter(|stopped| same(&cases[**stopped])).count() >= 2
            };
            like(&|stopped| stopped.0 == case.0) || like(&|stopped| stopped.1 == case.1)
        };
        let skipped: Vec<usize> = (0..cases.len()).filter(|i| is_tried(&cases[*i])).collect();
        let args = format!(
            "[{{\"from\":{from:?},\"to\":{to},\"skipped\":{skipped:?},\"share\":{share}}}]"
        );
        let (said, heard) = mpsc::channel();
        runs.send((args, limits, Noting(said))).unwrap();
        let mut at = None;
        let has_ended = loop {
            match heard.recv_timeout(PATIENCE) {
                Ok(reached) => at = Some(reached),
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        let Some(mut at) = at else {
            assert!(has_ended, "the start of a run is endless");
            // The machine is busy, and the run did not get past its start.
            limits.time *= 2;
            continue;
        };
        limits.time = LIMIT;
        if at[0] != from[0] {
            stopped.clear();
        }
        if at[0] < to && (at == from || !has_ended) {
            if !has_ended {
                endless.push(format!("{} {:?}", functions[at[0]], cases[at[1]]));
                runs = runner(fixture);
            }
            stopped.push(at[1]);
            at[1] += 1;
        }
        from = at;
    }
    endless
}

/// Starts a thread that makes one run after the other, in an engine that it keeps.
fn runner(fixture: &Arc<Fixture>) -> mpsc::Sender<(String, Limits, Noting)> {
    let (runs, asked) = mpsc::channel::<(String, Limits, Noting)>();
    let fixture = Arc::clone(fixture);
    let run = move || {
        for (args, limits, mut noting) in asked {
            fixture.run_with("messages:call", &args, &SEED, &limits, &mut noting);
        }
    };
    std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
    runs
}
