//! The host as a program: `functions-host demo` and `functions-host serve DIR`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use audit_host::{Output, exit, log_to_stderr, private_files};
use functions_host::settings::{Command, CommandLine};
use functions_host::{demo, serve};

#[tokio::main]
async fn main() -> ExitCode {
    private_files();
    let command = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let (output, errors) = (Output::stdout(), log_to_stderr("warn"));
    match run(command, &output).await {
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
