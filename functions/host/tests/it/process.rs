//! The host as a process.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use convex_sync_types::ServerMessage;
use serde_json::json;
use walkdir::WalkDir;

use crate::served::Socket;

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) operators: String,
    /// The host's output, read as far as the line with its address.
    _out: BufReader<std::process::ChildStdout>,
    pub(crate) directory: Arc<tempfile::TempDir>,
}

/// The functions of the demonstration.
pub(crate) const FUNCTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/convex");

impl Process {
    fn start(flags: &[&str]) -> Process {
        // The most permissive umask, under which the host's own modes must keep its files private.
        Process::start_with("umask 000", flags)
    }

    /// Runs a shell command before the host.
    pub(crate) fn start_with(before: &str, flags: &[&str]) -> Process {
        Process::start_in(Arc::new(tempfile::tempdir().unwrap()), before, flags)
    }

    /// Starts a host with the data that an earlier one left in this directory.
    pub(crate) fn start_in(
        directory: Arc<tempfile::TempDir>,
        before: &str,
        flags: &[&str],
    ) -> Process {
        Process::start_of(FUNCTIONS, directory, before, flags, &[])
    }

    /// Starts a host of these functions.
    pub(crate) fn start_of(
        functions: &str,
        directory: Arc<tempfile::TempDir>,
        before: &str,
        flags: &[&str],
        environment: &[(&str, String)],
    ) -> Process {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{before}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_functions-host"))
            .args(["serve", functions, "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(flags)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut operators = String::new();
        let url = loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "the host did not start");
            if let Some(url) = line.strip_prefix("probes and metrics are on ") {
                operators = url.trim().to_owned();
            }
            if let Some(at) = line.find("listening on ") {
                break line[at + "listening on ".len()..].trim().to_owned();
            }
        };
        Process { child, url, operators, _out: out, directory }
    }

    pub(crate) async fn create(&self, http: &reqwest::Client, text: &str) -> u16 {
        let args = json!({ "title": "x", "text": text, "orgId": "org" });
        let call = json!({ "path": "documents:create", "args": args });
        let sent = http.post(format!("{}/api/mutation", self.url)).body(call.to_string()).send();
        // 0 means that the connection was refused before it was answered.
        sent.await.map_or(0, |answer| answer.status().as_u16())
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One line on standard error must be enough for an operator to find out what is wrong.
#[cfg(target_os = "linux")]
#[test]
fn a_start_on_a_bad_machine_says_what_is_wrong() {
    use audit_core::testing::machine::{BAD_MACHINES, fails_on};
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/convex");
    let listen =
        ["listen", "operators-listen", "site-listen"].map(|name| format!("--{name}=127.0.0.1:0"));
    let [listen, operators, site] = &listen;
    let arguments = ["serve", functions, listen, operators, site];
    for (before, says) in BAD_MACHINES {
        let directory = tempfile::tempdir().unwrap();
        let program = env!("CARGO_BIN_EXE_functions-host");
        let said = fails_on(program, before, &arguments, directory.path());
        assert!(said.contains(says), "{before} {said}");
    }
}

/// A host that the demonstration leaves behind would run forever. The demonstration starts its host
/// without the settings of another one, such as its key.
#[test]
fn a_demonstration_that_is_stopped_leaves_no_host() {
    let stopped = "functions-host: the demonstration was stopped\n";
    for (signal, code, says) in [("-TERM", Some(1), stopped), ("-KILL", None, "")] {
        let (ended, said) = end_demonstration(signal);
        assert_eq!((ended.code(), &*said), (code, says), "{signal}");
    }
}

/// Ends a demonstration while its host runs. Returns what both wrote to standard error, once both
/// have ended.
fn end_demonstration(signal: &str) -> (std::process::ExitStatus, String) {
    use std::io::Read as _;
    use std::os::unix::process::CommandExt as _;
    use std::time::Duration;
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_functions-host"));
    let demo = demo.arg("demo").current_dir(directory.path()).process_group(0);
    let demo = demo.env("AUDIT_EVIDENCE_KEY", "that of another host");
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(demo.stdout.take().unwrap()).lines();
    let place = out
        .find_map(|line| Some(line.unwrap().split_once("everything is in ")?.1.trim().to_owned()));
    // The host creates this directory, and then runs for a while.
    let documents = std::path::Path::new(&place.unwrap()).join("data/documents");
    while !documents.exists() && demo.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let id = demo.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    let ended = demo.wait().unwrap();
    // Both processes write to this pipe, so it ends when both have ended.
    let mut errors = demo.stderr.take().unwrap();
    let (read, is_read) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        read.send(said).unwrap();
    });
    let said = is_read.recv_timeout(Duration::from_secs(60));
    let group = format!("-{id}");
    // Fails if no process is left.
    drop(Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status());
    (ended, said.unwrap())
}

/// A supervisor may stop a host as soon as it says that it listens.
#[test]
fn a_signal_right_after_the_start_ends_the_host_in_order() {
    (0..3).for_each(|_| Process::start(&[]).stop());
}

/// A terminal that closes may send the signal several times.
#[test]
fn hangups_end_the_host_in_order() {
    let mut host = Process::start(&[]);
    (0..3).for_each(|_| host.signal("-HUP"));
    assert!(host.child.wait().unwrap().success());
}

/// `nohup` starts a process with hangups ignored.
#[cfg(target_os = "linux")]
#[test]
fn ignored_hangups_stay_ignored() {
    let mut host = Process::start_with("trap '' HUP", &[]);
    let status = format!("/proc/{}/status", host.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1, 1);
    host.signal("-HUP");
    host.stop();
}

#[tokio::test]
async fn a_stalled_output_reader_stalls_nothing() {
    let mut host = Process::start(&["--show-logs"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    // More than fits into a pipe, and each log shown contains its title.
    for _ in 0..40 {
        let args = json!({ "title": "t".repeat(10_000), "text": "", "orgId": "org" });
        let call = json!({ "path": "documents:create", "args": args });
        let sent = http.post(format!("{}/api/mutation", host.url)).body(call.to_string()).send();
        assert_eq!(sent.await.unwrap().status().as_u16(), 200);
    }
    let healthz = http.get(format!("{}/healthz", host.url)).send().await.unwrap();
    assert_eq!(healthz.status().as_u16(), 200);
    host.stop();
}

#[tokio::test]
async fn files_of_a_host_are_private_to_its_owner() {
    let mut host = Process::start(&[]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(host.create(&http, "text").await, 200);
    host.stop();
    let mut files = 0;
    for entry in WalkDir::new(host.directory.path().join("data")) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
        files += usize::from(entry.file_type().is_file());
    }
    assert!(files > 5, "{files} files: documents, journal and bucket");
}

#[tokio::test]
async fn idle_sockets_leave_descriptors_for_delivery() {
    let flags = ["--header-timeout-ms", "2000", "--cut-after-ms", "10"];
    let mut host = Process::start_with("ulimit -n 150", &flags);
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build().unwrap();
    assert_eq!(host.create(&http, "before").await, 200);
    let address = host.url.strip_prefix("http://").unwrap().to_owned();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    // Over the open connection, or once the idle ones are closed.
    while host.create(&http, "during").await != 200 {
        tokio::task::yield_now().await;
    }
    let verbose = http.get(format!("{}/healthz?verbose", host.operators)).send().await.unwrap();
    let verbose: serde_json::Value = verbose.json().await.unwrap();
    let sink = &verbose["sink"];
    assert_eq!((&sink["delivery"], &sink["lastError"]), (&json!("ok"), &json!(null)), "{verbose}");
    drop(idle);
    host.stop();
}

/// The peak memory of the process so far, in bytes.
#[cfg(target_os = "linux")]
fn most_memory(id: u32, clear: bool) -> usize {
    if clear {
        std::fs::write(format!("/proc/{id}/clear_refs"), "5").unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// The memory budget of all requests, and the allowance for the rest of the process: allocators and
/// engines.
#[cfg(target_os = "linux")]
const BUDGET_MIB: usize = 256;
#[cfg(target_os = "linux")]
const BEYOND_MIB: usize = 64;

/// Sends 64 requests at once, each of the kind that takes the most memory for its size. They must
/// not take the host beyond its budget.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_most_expensive_requests_stay_in_budget() {
    let host = Process::start(&["--request-memory-mib", &BUDGET_MIB.to_string()]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(host.create(&http, "text").await, 200);
    let objects = |count: usize| format!("[{}0]", "{\"a\":1},".repeat(count));
    let bodies = [
        objects(25_000),
        objects(50_000),
        objects(2_000_000),
        format!("[{}0]", "[],".repeat(300_000)),
        format!("[{}0]", "\"a\",".repeat(300_000)),
        format!(
            "{{{}\"z\":0}}",
            (0..150_000).map(|n| format!("\"k{n}\":{n},")).collect::<String>()
        ),
        // The longest that the budget has room for.
        format!("\"{}\"", "x".repeat(10 << 20)),
        format!("\"{}\"", "\\n".repeat(5 << 20)),
        format!("\"{}\"", "\u{101}".repeat(5 << 20)),
    ];
    let idle = most_memory(host.child.id(), true);
    let calls = (0..64).map(|number| {
        let args = &bodies[number % bodies.len()];
        let body = format!("{{\"path\":\"documents:list\",\"args\":{{\"orgId\":{args}}}}}");
        let request = http.post(format!("{}/api/query", host.url)).body(body);
        tokio::spawn(
            async move { request.send().await.map_or(0, |answer| answer.status().as_u16()) },
        )
    });
    let mut answers = std::collections::BTreeMap::<u16, usize>::new();
    for call in calls.collect::<Vec<_>>() {
        *answers.entry(call.await.unwrap()).or_default() += 1;
    }
    let most = most_memory(host.child.id(), false);
    let taken = most.saturating_sub(idle) >> 20;
    println!("idle {} MiB, {taken} MiB above it, answers {answers:?}", idle >> 20);
    assert!(taken <= BUDGET_MIB + BEYOND_MIB, "{taken} MiB above idle; {answers:?}");
    assert!(
        answers.keys().all(|status| [0, 200, 400, 408, 413, 503, 560].contains(status)),
        "{answers:?}"
    );
    assert_eq!(host.create(&http, "after").await, 200);
}

/// The client sends without waiting for answers. Each mutation is answered, or the connection is
/// closed for lack of memory.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_one_socket_stay_within_the_budget() {
    let host = Process::start(&["--request-memory-mib", &BUDGET_MIB.to_string()]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(host.create(&http, "text").await, 200);
    let idle = most_memory(host.child.id(), true);
    let mut socket = Socket::connect(&host.url).await;
    let text = "x".repeat(3 << 20);
    let mut sent = 0;
    for number in 0..24 {
        let mutation = format!(
            "{{\"type\":\"Mutation\",\"requestId\":{number},\"udfPath\":\"documents:create\",\
             \"args\":[{{\"title\":\"x\",\"orgId\":\"org\",\"text\":\"{text}\"}}]}}"
        );
        if !socket.try_say_text(mutation).await {
            break;
        }
        sent += 1;
    }
    let mut answered = 0;
    let end = loop {
        match socket.receive().await {
            Ok(ServerMessage::MutationResponse { .. }) => answered += 1,
            Ok(_) => {}
            Err(end) => break end,
        }
        if answered == 24 {
            break "all are answered".to_owned();
        }
    };
    let taken = most_memory(host.child.id(), false).saturating_sub(idle) >> 20;
    println!("{taken} MiB above idle, {sent} sent, {answered} answered, {end}");
    assert!(answered > 0, "{end}");
    assert!(taken <= BUDGET_MIB + BEYOND_MIB, "{taken} MiB above idle");
    assert_eq!(host.create(&http, "after").await, 200);
}

#[tokio::test]
async fn outcomes_are_in_the_bucket_after_shutdown() {
    let mut host = Process::start(&["--outcomes", "--compression", "none"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for text in ["one", "two", "three"] {
        assert_eq!(host.create(&http, text).await, 200);
    }
    host.stop();
    let entries = WalkDir::new(host.directory.path().join("data/bucket")).into_iter();
    let files = entries.map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let objects = files.filter(|entry| entry.path().extension().is_some_and(|it| it == "ndjson"));
    let text: String =
        objects.map(|object| std::fs::read_to_string(object.path()).unwrap()).collect();
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let committed = |execution: &serde_json::Value| {
        let of = |record: &&serde_json::Value| {
            record["$audit"]["outcome"] == "committed"
                && record["$audit"]["execution"] == *execution
        };
        records.iter().filter(of).count()
    };
    let created = records.iter().filter(|record| record["action"] == "document.created");
    let created: Vec<_> = created.map(|record| committed(&record["$audit"]["execution"])).collect();
    assert_eq!(created, [1, 1, 1], "{records:?}");
}

#[test]
fn check_covers_everything_a_start_needs() {
    let directory = tempfile::tempdir().unwrap();
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/convex");
    let check = |functions: &str, flags: &[&str]| {
        let host = Command::new(env!("CARGO_BIN_EXE_functions-host"))
            .args(["serve", functions, "--check", "--listen=127.0.0.1:0"])
            .args(flags)
            .current_dir(directory.path())
            .env("LOG_FORMAT", "json")
            .output()
            .unwrap();
        for line in String::from_utf8(host.stderr).unwrap().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(event.as_object().unwrap().values().all(|member| *member != ""), "{line}");
        }
        (host.status.code(), String::from_utf8(host.stdout).unwrap())
    };
    let (code, shown) = check(functions, &[]);
    assert_eq!(code, Some(0), "{shown}");
    // The free space of this machine's disk decides whether the journal's line is a warning.
    for name in
        ["functions", "clients", "HTTP actions", "operators", "data directory", "bucket", "journal"]
    {
        assert!(shown.contains(&format!("{name:<14} ")), "{name}: {shown}");
    }
    for name in ["evidence key", "store", "issuers"] {
        assert!(shown.contains(&format!("ok       {name:<14} ")), "{name}: {shown}");
    }
    assert!(!directory.path().join("audit-data/documents").exists(), "nothing is made");
    std::fs::write(directory.path().join("file"), "").unwrap();
    let flags = ["--data-dir=file", "--bucket=memory:///", "--evidence=off"];
    let (code, shown) = check("nowhere", &flags);
    assert_eq!(code, Some(1), "{shown}");
    for name in ["functions", "data directory", "journal"] {
        assert!(shown.contains(&format!("problem  {name}")), "{name}: {shown}");
    }
    // Functions that load, and are refused when they are to be served.
    for (file, text, says) in [
        (
            "schema.js",
            "import { defineSchema, defineTable } from 'convex/server';
             export default defineSchema({ t: defineTable({}).index('by_id', ['a']) });",
            "by_id",
        ),
        (
            "crons.js",
            "import { cronJobs, makeFunctionReference } from 'convex/server';
             const crons = cronJobs();
             crons.hourly('x', { minuteUTC: 0 }, makeFunctionReference('no:where'));
             export default crons;",
            "there is no function no:where",
        ),
    ] {
        let functions = tempfile::tempdir().unwrap();
        std::fs::write(functions.path().join(file), text).unwrap();
        let functions = functions.path().to_str().unwrap();
        let (code, shown) = check(functions, &["--data-dir=of-no-host"]);
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("problem  functions") && shown.contains(says), "{shown}");
    }
}
