//! The host as a program: `functions-host demo` and `functions-host serve DIR`.

mod check;
mod serve;
mod settings;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use audit_host::{LogFormat, Output, exit, log_and_trace, private_files};

use self::settings::{Command, CommandLine, Settings};

fn main() -> ExitCode {
    free_large_blocks();
    start()
}

/// Has the allocator of glibc return blocks of 128 KiB and more to the system when they are freed.
///
/// Otherwise it raises that threshold to the largest block that was ever freed, up to 32 MiB, and
/// keeps what is smaller: a process that had served large requests was found to hold 130 MiB more
/// than they took, and what it holds at most cannot be told. The variable is read before `main`, so
/// the program starts itself anew, under the same process id. Who sets the variable decides.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn free_large_blocks() {
    use std::os::unix::process::CommandExt;

    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    let (mut arguments, program) = (std::env::args_os(), std::env::current_exe());
    let (Some(name), Ok(program)) = (arguments.next(), program) else { return };
    if std::env::var_os(THRESHOLD).is_none() {
        let mut anew = std::process::Command::new(program);
        anew.arg0(name).args(arguments).env(THRESHOLD, (128 << 10).to_string());
        // This returns only if it fails, and then the host runs with the allocator as it is.
        drop(anew.exec());
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn free_large_blocks() {}

#[tokio::main]
async fn start() -> ExitCode {
    private_files();
    #[cfg(feature = "manual")]
    if let (Some("--write-manual"), Some(directory)) =
        (std::env::args().nth(1).as_deref(), std::env::args_os().nth(2))
    {
        use clap::CommandFactory;
        let written = audit_host::write_manual(CommandLine::command(), directory.as_ref());
        return written.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let command = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output::stdout();
    let begun = Asked::of(command).and_then(|(asked, format, collector)| {
        Ok((asked, log_and_trace("warn", format, "functions-host", collector.as_deref())?))
    });
    let (asked, (errors, traces)) = begun
        .unwrap_or_else(|error| exit("functions-host", Err(error), &Output::stderr(), &output));
    let ended = run(asked, &output).await;
    traces.finish(LAST_WORDS);
    match ended {
        Ok(true) => exit("functions-host", Ok(()), &errors, &output),
        Ok(false) => {
            output.finish(LAST_WORDS);
            std::process::exit(1)
        }
        Err(error) => exit("functions-host", Err(error), &errors, &output),
    }
}

/// How long the end of the process waits for whoever reads its output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the command line asks for, with its settings.
enum Asked {
    Demo,
    Check(Box<Settings>),
    PrintConfig(Box<Settings>),
    Serve(Box<Settings>),
}

impl Asked {
    /// With how the host logs, and where its traces go.
    fn of(command: Command) -> Result<(Asked, LogFormat, Option<String>), Box<dyn Error>> {
        let Command::Serve(serve) = command else {
            return Ok((Asked::Demo, LogFormat::Text, None));
        };
        let asked = match (serve.check, serve.print_config) {
            (true, _) => Asked::Check,
            (false, true) => Asked::PrintConfig,
            (false, false) => Asked::Serve,
        };
        let settings = Box::new(serve.settings()?);
        let (format, collector) = (settings.log_format, settings.traces.clone());
        Ok((asked(settings), format, collector))
    }
}

/// Whether all is well in the end.
async fn run(asked: Asked, output: &Output) -> Result<bool, Box<dyn Error>> {
    match asked {
        Asked::Demo => return functions_demo::run(&CommandLine::variables()).await,
        Asked::Check(settings) => check::check(&settings, output).await?,
        Asked::PrintConfig(settings) => settings.print(output),
        Asked::Serve(settings) => serve::serve(*settings, output).await?,
    }
    Ok(true)
}
