//! A receiver that is killed and restarted under 10,000 records a second misses none, and
//! recognizes every repeated record by its id. Prints the rate, the repeats and the latency.
//!
//! ```sh
//! cargo run --release -p audit-sink-http --example restarts -- 20
//! ```
//!
//! The argument is the duration in seconds. The receiver is another process, which writes records
//! to a file before it answers. It is killed three times, each time after it has read a request and
//! before it answers, and is away for 300 ms. The tests run a short share of this.
#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

mod killed;

use std::process::Command;
use std::time::Duration;

use killed::Run;

const AWAY: Duration = Duration::from_millis(300);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match &arguments[..] {
        [mode, address, file] if mode == "receive" => {
            runtime.block_on(killed::receive(address, file.as_ref()));
        }
        rest => {
            let seconds: u64 = rest.first().map_or(20, |text| text.parse().unwrap());
            let program = std::env::current_exe().unwrap();
            let receiver = |address: &str, file: &std::path::Path| {
                let mut command = Command::new(&program);
                command.args(["receive", address]).arg(file);
                command
            };
            let run = runtime.block_on(Run::of(seconds * 100, AWAY, &receiver));
            run.print();
            run.check();
        }
    }
}
