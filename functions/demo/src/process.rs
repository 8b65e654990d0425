//! The host as a process.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// A running host. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Host {
    child: Child,
    url: String,
    operators: String,
    /// Reads and discards the host's output, so that the host never waits for a reader.
    printed: JoinHandle<()>,
}

impl Host {
    /// Starts this executable with `serve`, without the variables in `unset`, and waits until it
    /// listens.
    pub(super) async fn start(
        functions: &Path,
        data: &Path,
        options: &[&str],
        unset: &[OsString],
    ) -> Result<Host, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .arg(functions)
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            // This process has the other end of the host's input, so the host stops if this process
            // is killed.
            .arg("--until-input-ends")
            .stdin(Stdio::piped());
        command.args([
            "--trusted-proxies",
            "127.0.0.0/8",
            "--deployment-name",
            "demo",
            "--cut-after-ms",
            "200",
        ]);
        // Long timeouts, since only a busy machine is slow here.
        command.args(["--function-timeout-ms", "60000", "--idle-timeout-ms", "600000"]);
        command.args(["--header-timeout-ms", "600000", "--body-timeout-ms", "600000"]);
        if !options.contains(&"--persist-timeout-ms") {
            command.args(["--persist-timeout-ms", "120000"]);
        }
        // Settings that the environment has for another host do not apply.
        for name in unset {
            command.env_remove(name);
        }
        // Failures are deliberate, so the host's own log is off.
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()));
        command.args(options).current_dir(data.parent().unwrap_or(data));
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let out = child.stdout.take().ok_or("the host has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let Some((operators, url)) = addresses(&mut lines).await? else {
            let status = child.wait().await?;
            return Err(format!("the host did not start: {status}").into());
        };
        let printed =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Host { child, url, operators, printed })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL of its metrics.
    pub(super) fn operators(&self) -> &str {
        &self.operators
    }

    /// Kills the process immediately, like the operating system when memory runs out.
    pub(super) async fn kill(mut self) -> Result<(), Box<dyn Error>> {
        self.child.kill().await?;
        self.printed.await?;
        Ok(())
    }

    /// Tells the host to stop, and waits until it has, with its logs in the bucket.
    pub(super) async fn stop(mut self) -> Result<(), Box<dyn Error>> {
        if let Some(id) = self.child.id() {
            let asked = Command::new("kill").args(["-TERM", &id.to_string()]).status().await?;
            if !asked.success() {
                return Err("the host could not be asked to stop".into());
            }
        }
        let status = self.child.wait().await?;
        self.printed.await?;
        if status.success() { Ok(()) } else { Err(format!("the host ended with {status}").into()) }
    }
}

/// The addresses for operators and clients, as the host prints them when it starts.
async fn addresses(
    lines: &mut Lines<BufReader<ChildStdout>>,
) -> Result<Option<(String, String)>, Box<dyn Error>> {
    let mut operators = String::new();
    while let Some(line) = lines.next_line().await? {
        let Some(at) = line.find("http://") else { continue };
        let url = line[at..].trim().to_owned();
        if line.contains("listening on") {
            return Ok(Some((operators, url)));
        }
        if line.starts_with("probes and metrics") {
            operators = url;
        }
    }
    Ok(None)
}
