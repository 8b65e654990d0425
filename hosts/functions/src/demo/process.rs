//! The host as a process.

use std::error::Error;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// A host that runs. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Host {
    child: Child,
    url: String,
    /// Reads on what the host prints, so that it never waits for a reader.
    printed: JoinHandle<()>,
}

impl Host {
    /// Starts this program with `serve` and waits until it listens.
    pub(super) async fn start(
        functions: &Path,
        data: &Path,
        options: &[&str],
    ) -> Result<Host, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .arg(functions)
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data);
        command.args([
            "--trusted-proxies",
            "127.0.0.0/8",
            "--deployment-name",
            "demo",
            "--cut-after-ms",
            "200",
        ]);
        // A machine whose owner has set these for another host is not to mislead this one.
        for name in [
            "LISTEN",
            "AUDIT_BUCKET",
            "AUDIT_JOURNAL",
            "AUDIT_COMPRESSION",
            "AUDIT_PROVENANCE",
            "FUNCTIONS_HOST_CONFIG",
        ] {
            command.env_remove(name);
        }
        // What is made to go wrong is shown by what it comes to.
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()));
        command.args(options).current_dir(data.parent().unwrap_or(data));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let out = child.stdout.take().ok_or("the host has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let Some(url) = address(&mut lines).await? else {
            let status = child.wait().await?;
            return Err(format!("the host did not start: {status}").into());
        };
        let printed =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Host { child, url, printed })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it as the operating system ends a process that it has no room for: at once, in the
    /// midst of whatever it does.
    pub(super) async fn kill(mut self) -> Result<(), Box<dyn Error>> {
        self.child.kill().await?;
        self.printed.await?;
        Ok(())
    }

    /// Asks it to end, which it does once its logs are in the bucket.
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

async fn address(
    lines: &mut Lines<BufReader<ChildStdout>>,
) -> Result<Option<String>, Box<dyn Error>> {
    while let Some(line) = lines.next_line().await? {
        if let Some(at) = line.find("listening on http://") {
            let url = line[at..].trim_start_matches("listening on ").trim();
            return Ok(Some(url.to_owned()));
        }
    }
    Ok(None)
}
