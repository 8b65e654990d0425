//! A receiver that is killed after it has read a request and before it answers misses nothing, and
//! recognizes the repeated records by their ids. The example `restarts` measures this for longer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::killed::{Run, receive};

const ADDRESS: &str = "AUDIT_TEST_RECEIVER";
const FILE: &str = "AUDIT_TEST_RECEIVED";

/// A tenth of a second under 10,000 records a second before and after each of three deaths.
const TICKS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_receivers_miss_nothing_and_recognize_repeats() {
    let program = std::env::current_exe().unwrap();
    let receiver = |address: &str, file: &Path| {
        let mut command = Command::new(&program);
        let this = ["--exact", "killed_receivers::receiver_process", "--ignored", "--nocapture"];
        command.args(this).env(ADDRESS, address).env(FILE, file);
        command
    };
    let run = Run::of(TICKS, Duration::ZERO, &receiver).await;
    run.print();
    run.check();
}

#[tokio::test]
#[ignore = "the process that the other test kills"]
async fn receiver_process() {
    // Run by hand, with all ignored tests.
    let (Ok(address), Some(file)) = (std::env::var(ADDRESS), std::env::var_os(FILE)) else {
        return;
    };
    receive(&address, file.as_ref()).await;
}
