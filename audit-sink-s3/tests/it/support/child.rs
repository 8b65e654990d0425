//! Child processes with a sink, to be killed or measured.
//!
//! A child is the test's own binary, started to run only its test `child`, which otherwise does
//! nothing. The processes exchange lines. The child flushes each line before it continues, so that
//! the parent can read all of them even after killing it. A child whose parent is gone exits.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use s3_testserver::S3TestServer;
use tokio::sync::mpsc;

/// The prefix of the child's lines; all other output is the test harness's.
const MARK: &str = "@ ";
const VARIABLE: &str = "AUDIT_SINK_S3_CHILD_";

/// A running child. Killed when dropped.
pub struct ChildProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl ChildProcess {
    /// Starts the test `child` of this module with a bucket on `server` and these parameters,
    /// wrapped in a command if one is given.
    pub fn start(
        module: &str,
        server: &S3TestServer,
        wrapper: &[String],
        parameters: &[(&str, String)],
    ) -> ChildProcess {
        let binary = std::env::current_exe().unwrap();
        let mut command = match wrapper {
            [] => Command::new(binary),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
        };
        // The path of a test begins below the crate.
        let test =
            module.split_once("::").map_or("child".to_owned(), |(_, at)| format!("{at}::child"));
        command.args([&test, "--exact", "--nocapture", "--test-threads=2"]);
        command.env(format!("{VARIABLE}ENDPOINT"), server.endpoint());
        command.env(format!("{VARIABLE}BUCKET"), server.bucket());
        command.env(format!("{VARIABLE}ACCESS_KEY"), server.access_key());
        command.env(format!("{VARIABLE}SECRET_KEY"), server.secret_key());
        for (name, value) in parameters {
            command.env(format!("{VARIABLE}{name}"), value);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(at) = line.find(MARK) {
                    let _ = sender.send(line[at + MARK.len()..].to_owned());
                }
            }
        });
        ChildProcess { child, stdin: Some(stdin), lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its next line. `None` once it has ended.
    pub async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Waits for this line, skipping others.
    pub async fn wait_for(&mut self, what: &str) -> String {
        loop {
            let line = self
                .line()
                .await
                .unwrap_or_else(|| panic!("the child ended without saying {what:?}"));
            if let Some(rest) = line.strip_prefix(what) {
                return rest.trim_start().to_owned();
            }
        }
    }

    pub fn tell(&mut self, what: &str) {
        let mut stdin = self.stdin.as_ref().unwrap();
        // A killed child does not read.
        let _ = writeln!(stdin, "{what}");
    }

    /// Sends SIGKILL. If that kills only a wrapper, the child exits because its parent is gone.
    pub fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        self.stdin = None;
    }

    /// Waits for its end. Call it once [`line`](Self::line) returns `None`.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Runs the child's part in a runtime of two threads. Does nothing in a process that is no child.
pub fn run(part: impl Future<Output = ()>) {
    if parameter("ENDPOINT").is_none() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(part);
}

/// A parameter of this process, if it is a child.
pub fn parameter(name: &str) -> Option<String> {
    std::env::var(format!("{VARIABLE}{name}")).ok()
}

/// A parameter from the parent.
pub fn required<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> T {
    parameter(name).unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// The bucket of the parent's server, below `prefix`.
pub fn bucket(prefix: &str) -> audit_sink_s3::Bucket {
    super::bucket_at(
        &format!("s3://{}/{prefix}", required::<String>("BUCKET")),
        required("ENDPOINT"),
        required("ACCESS_KEY"),
        required("SECRET_KEY"),
    )
}

/// Sends a line to the parent.
pub fn say(what: &str) {
    // One write per line. It does not matter here if the parent is gone.
    let _ = std::io::stdout().lock().write_all(format!("{MARK}{what}\n").as_bytes());
}

/// The lines from the parent. The process exits when the parent does.
pub fn listen() -> mpsc::UnboundedReceiver<String> {
    let (sender, told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        std::process::exit(1);
    });
    told
}
