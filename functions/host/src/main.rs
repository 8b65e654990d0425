//! The `functions-host` executable: `functions-host demo` and `functions-host serve DIR`.

mod check;
mod serve;
mod settings;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use audit_host::{LogFormat, Output, Shutdown, exit, log_and_trace, print_usage, private_files};

use self::settings::{Command, CommandLine, Settings};

fn main() -> ExitCode {
    free_large_blocks();
    // JavaScript has as many threads of its own as there are processors. A second thread for each
    // would make clients slower and no more of them: a thread that wakes may wait some milliseconds
    // for one that polls connections without a pause.
    let workers = audit_host::processors().div_ceil(2);
    let runtime = audit_host::check_clock().and_then(|()| audit_host::runtime(FILES, workers));
    runtime.unwrap_or_else(|error| error.exit("functions-host")).block_on(start())
}

/// The files that a start needs: of the runtime, the store, the journal and the listeners.
const FILES: usize = 24;

/// Makes glibc's allocator return blocks of 128 KiB and more to the system when they are freed.
///
/// By default, glibc raises this threshold to the size of the largest block freed so far, up to
/// 32 MiB, and keeps smaller blocks. A process that had served large requests was measured to hold
/// 130 MiB more than it used, so its memory use could not be bounded. glibc reads the variable
/// before `main`, so the program executes itself again, under the same process id. A value that is
/// already set is left alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn free_large_blocks() {
    use std::os::unix::process::CommandExt;

    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    let (mut arguments, program) = (std::env::args_os(), std::env::current_exe());
    let (Some(name), Ok(program)) = (arguments.next(), program) else { return };
    if std::env::var_os(THRESHOLD).is_none() {
        let mut again = std::process::Command::new(program);
        again.arg0(name).args(arguments).env(THRESHOLD, (128 << 10).to_string());
        // `exec` returns only on failure. The host then runs with the allocator's defaults.
        drop(again.exec());
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn free_large_blocks() {}

async fn start() -> ExitCode {
    private_files();
    #[cfg(feature = "manual")]
    audit_host::write_manual_if_asked(<CommandLine as clap::CommandFactory>::command());
    let command = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line.command,
        Err(error) => {
            return ExitCode::from(print_usage(&error, "functions-host", 1));
        }
    };
    let output = Output::stdout();
    let started = Task::of(command).and_then(|(task, format, collector)| {
        Ok((task, log_and_trace("warn", format, "functions-host", collector.as_deref())?))
    });
    let (task, (errors, traces)) = started
        .unwrap_or_else(|error| exit("functions-host", Err(error), &Output::stderr(), &output));
    let ended = run(task, &output).await;
    traces.finish(OUTPUT_TIMEOUT);
    match ended {
        Ok(true) => exit("functions-host", Ok(()), &errors, &output),
        Ok(false) => {
            output.finish(OUTPUT_TIMEOUT);
            std::process::exit(1)
        }
        Err(error) => exit("functions-host", Err(error), &errors, &output),
    }
}

/// How long the process waits at its end for its output to be read.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What to run, with its settings.
enum Task {
    Demo,
    Check(Box<Settings>),
    PrintConfig(Box<Settings>),
    Serve(Box<Settings>),
}

impl Task {
    /// The task of a command, the format of the host's log, and the collector of traces.
    fn of(command: Command) -> Result<(Task, LogFormat, Option<String>), Box<dyn Error>> {
        let Command::Serve(serve) = command else {
            return Ok((Task::Demo, LogFormat::Text, None));
        };
        let task = match (serve.check, serve.print_config) {
            (true, _) => Task::Check,
            (false, true) => Task::PrintConfig,
            (false, false) => Task::Serve,
        };
        let settings = Box::new(serve.settings()?);
        let (format, collector) = (settings.log_format, settings.traces.clone());
        Ok((task(settings), format, collector))
    }
}

/// Runs a task. Returns `false` if the demonstration found a promise broken.
async fn run(task: Task, output: &Output) -> Result<bool, Box<dyn Error>> {
    match task {
        Task::Demo => {
            let (shutdown, variables) = (Shutdown::on_signals()?, CommandLine::variables());
            tokio::select! {
                played = functions_demo::run(&variables) => return played,
                // Dropping the demonstration ends its host.
                () = shutdown.told() => return Err("the demonstration was stopped".into()),
            }
        }
        Task::Check(settings) => {
            check::check(&settings, output).await?;
            output.complete(OUTPUT_TIMEOUT)?;
        }
        Task::PrintConfig(settings) => {
            settings.print(output);
            output.complete(OUTPUT_TIMEOUT)?;
        }
        Task::Serve(settings) => serve::serve(*settings, output).await?,
    }
    Ok(true)
}
