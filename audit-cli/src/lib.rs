//! The `audit` command: for the owners of a bucket of audit logs, and the operators of hosts.
//!
//! - `audit ls`, `cat`, `search`, `who`, `export`, `tail`, `stats` read a bucket, with the rights
//!   to list and to get.
//! - `audit compact` creates Parquet files of a bucket's records, for frequent queries.
//! - `audit verify` proves with hosts' public keys that a bucket holds exactly what they wrote, and
//!   names what was altered or removed.
//! - `audit report` writes an auditor's report for a period.
//! - `audit prove` writes proofs of single records, `audit check` checks one offline, `audit key`
//!   shows and creates keys, `audit witness` cosigns hosts' checkpoints, and `audit heads` shows
//!   what a witness saw.
//! - `audit journal` reads the journal of a host, and delivers that of a host that is gone,
//!   including records that were since deleted from the bucket.
//! - `audit log-stream` tests the log streams of a host, and resends records that a receiver
//!   rejected. `audit replay` sends what a log stream misses from the bucket.
//! - `audit doctor` checks, with a host's own credentials, what must work and what must not, and
//!   `audit policy` prints the policies that it advises.
//!
//! A bucket of any size is read in bounded memory: only the selected partitions are listed, objects
//! are read in pieces and several at once, and the output is in the order of the keys.
//!
//! `audit --help` lists the exit codes.

mod arguments;
mod bucket;
mod cat;
mod check;
mod condition;
mod decimal;
mod doctor;
mod escape;
mod export;
mod failure;
mod follow;
mod followers;
mod in_order;
mod journal;
mod key;
mod keys;
mod lock;
mod log_stream;
mod ls;
mod man;
mod object;
mod outcomes;
mod output;
mod parquet;
mod plain;
mod printer;
mod progress;
mod prove;
mod query;
mod ranges;
mod refused;
mod replay;
mod report;
mod scan;
mod serve;
mod sieve;
mod signals;
mod stats;
mod tail;
mod units;
mod usage;
mod verify;
mod witness;

/// The examples in `docs/HOSTS.md`, which run as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/HOSTS.md")]
mod hosts {}

use std::process::ExitCode;

use crate::arguments::{Arguments, Command};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match usage::read() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let output = Output::new(arguments.common.color, arguments.common.json);
    let output = output.outliving_reader(arguments.command.outlives_reader());
    let runtime = match audit_host::runtime(FILES, audit_host::processors()) {
        Ok(runtime) => runtime,
        Err(error) => return output.failed(&Failure::new(error.to_string())),
    };
    let code = runtime.block_on(async {
        let stopped = signals::stopped();
        tokio::select! {
            biased;
            outcome = run(arguments, &output) => match outcome {
                Ok(outcome) => ExitCode::from(outcome.code()),
                Err(failure) => output.failed(&failure),
            },
            code = stopped => ExitCode::from(code),
        }
    });
    // Do not wait for reads in progress.
    runtime.shutdown_background();
    code
}

/// The files that every command needs: of the runtime, of signals, and of one request.
const FILES: usize = 12;

async fn run(arguments: Arguments, output: &Output) -> Result<Outcome, Failure> {
    let Arguments { common, command } = arguments;
    let outcome = match command {
        Command::Ls(arguments) => ls::run(&arguments, &common, output).await,
        Command::Cat(arguments) => cat::run(&arguments, &common, output).await,
        Command::Search(arguments) => cat::search(&arguments, &common, output).await,
        Command::Who(arguments) => stats::who(&arguments, &common, output).await,
        Command::Export(arguments) => export::run(&arguments, &common, output).await,
        Command::Compact(arguments) => parquet::run(&arguments, &common, output).await,
        Command::Tail(arguments) => tail::run(&arguments, &common, output).await,
        Command::Stats(arguments) => stats::run(&arguments, &common, output).await,
        Command::Serve(arguments) => serve::run(&arguments, &common, output).await,
        Command::Verify(arguments) => verify::run(&arguments, &common, output).await,
        Command::Report(arguments) => report::run(&arguments, &common, output).await,
        Command::Prove(arguments) => prove::run(&arguments, &common, output).await,
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Key(arguments) => key::run(&arguments, output),
        Command::Witness(arguments) => witness::run(&arguments, output).await,
        Command::Heads(arguments) => witness::show::run(&arguments, output).await,
        Command::Journal { command } => journal::run(&command, &common, output).await,
        Command::Replay(arguments) => replay::run(&arguments, &common, output).await,
        Command::LogStream { command } => log_stream::run(&command, output).await,
        Command::Doctor(arguments) => doctor::run(&arguments, &common, output).await,
        Command::Policy { policy, source } => doctor::print_policy(policy, &source.bucket, output),
        Command::Completions { shell } => man::completions(shell, output),
        Command::Man { directory } => man::man(directory.as_deref(), output),
    };
    let flushed = output.flush();
    let outcome = outcome?;
    match flushed {
        // The command has ended, so its outcome is known.
        Err(failure) if failure.is_closed_pipe() => Ok(outcome),
        flushed => flushed.map(|()| outcome),
    }
}
