//! The host as a program: `functions-host demo` and `functions-host serve DIR`.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use functions_host::settings::{Command, CommandLine};
use functions_host::{demo, serve};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    match run(CommandLine::parse().command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("functions-host: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("  because {error}");
                source = error.source();
            }
            // So that a supervisor can tell it.
            if error.is::<audit_host::StoppedError>() {
                return u8::try_from(audit_host::EXIT_STOPPED)
                    .map_or(ExitCode::FAILURE, ExitCode::from);
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well in the end.
async fn run(command: Command) -> Result<bool, Box<dyn Error>> {
    match command {
        Command::Demo => demo::run().await,
        Command::Serve(serve) => {
            serve::serve(serve.settings()?).await?;
            Ok(true)
        }
    }
}
