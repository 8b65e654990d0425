//! The host as a program: `functions-host demo` and `functions-host serve DIR`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use audit_host::{Output, log_to_stderr};
use functions_host::settings::{Command, CommandLine};
use functions_host::{demo, serve};

#[tokio::main]
async fn main() -> ExitCode {
    private_umask();
    let command = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let (output, errors) = (Output::stdout(), log_to_stderr("warn"));
    let ended = run(command, &output).await;
    let code = match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            errors.line(&format!("functions-host: {error}"));
            let mut source = error.source();
            while let Some(error) = source {
                errors.line(&format!("  because {error}"));
                source = error.source();
            }
            // So that a supervisor can tell it.
            if error.is::<audit_host::StoppedError>() {
                return u8::try_from(audit_host::EXIT_STOPPED)
                    .map_or(ExitCode::FAILURE, ExitCode::from);
            }
            ExitCode::FAILURE
        }
    };
    output.finish(LAST_WORDS);
    errors.finish(LAST_WORDS);
    code
}

/// How long the end of the process waits for whoever reads its output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// All that the host writes is for its owner alone: documents, journal, bucket, whoever creates the
/// files.
fn private_umask() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Whether all is well in the end.
async fn run(command: Command, output: &Output) -> Result<bool, Box<dyn Error>> {
    match command {
        Command::Demo => demo::run().await,
        Command::Serve(serve) => {
            serve::serve(serve.settings()?, output).await?;
            Ok(true)
        }
    }
}
