//! A running service, and the records in its bucket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use walkdir::WalkDir;

/// A service in its own process. Killed when dropped.
pub(crate) struct Service {
    process: Child,
    url: String,
    operators: String,
    client: reqwest::Client,
}

impl Service {
    /// Starts a service with its files in `directory` and without a journal: after a response, its
    /// logs are in the bucket.
    pub(crate) fn start(
        directory: &TempDir,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Service {
        Service::start_with_journal(
            directory,
            &[&["--journal", "none"], flags].concat(),
            environment,
        )
    }

    /// Starts a service with its files in `directory` and a journal: after a response, its logs are
    /// in the journal.
    pub(crate) fn start_with_journal(
        directory: &TempDir,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Service {
        Service::start_with_errors(directory, flags, environment, Stdio::inherit())
    }

    /// Like `start_with_journal`, with another standard error.
    pub(crate) fn start_with_errors(
        directory: &TempDir,
        flags: &[&str],
        environment: &[(&str, &str)],
        errors: Stdio,
    ) -> Service {
        let mut process = Command::new(env!("CARGO_BIN_EXE_audit-service"))
            .args(["--listen", "127.0.0.1:0", "--operators-listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path())
            .args(flags)
            // Without system records, the sequence numbers of logs have no gaps.
            .env("AUDIT_EVIDENCE", "off")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = |what: &str| {
            let mut lines = lines.by_ref().map_while(Result::ok);
            lines.find_map(|line| Some(line.strip_prefix(what)?.to_owned()))
        };
        let operators = said("probes are answered on ").expect("the service says where");
        let url = said("listening on ").expect("the service says where it listens");
        // The further output of the service must be read, so that the service does not block.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Service { process, url, operators, client: reqwest::Client::new() }
    }

    pub(crate) async fn view(&self, id: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        self.send(self.client.get(self.document(id)), headers).await.unwrap()
    }

    pub(crate) async fn update(
        &self,
        id: &str,
        change: Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        self.try_update(id, change, headers).await.unwrap()
    }

    /// Like `update`, but the connection may break.
    pub(crate) async fn try_update(
        &self,
        id: &str,
        change: Value,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<(u16, Value)> {
        self.send(self.client.put(self.document(id)).json(&change), headers).await
    }

    pub(crate) async fn healthz(&self) -> u16 {
        self.probe(&self.url, "/healthz").await.0
    }

    /// The responses to clients and operators.
    pub(crate) async fn probes(&self, path: &str) -> [(u16, String); 2] {
        [self.probe(&self.url, path).await, self.probe(&self.operators, path).await]
    }

    /// The receipt of a committed change, for operators.
    pub(crate) async fn receipt(&self, query: &str) -> Option<Value> {
        let (status, text) = self.probe(&self.operators, &format!("/receipts?{query}")).await;
        match status {
            200 => Some(serde_json::from_str(&text).unwrap()),
            404 => None,
            _ => panic!("{status} {text}"),
        }
    }

    /// Has the service read its file of routes again.
    pub(crate) async fn reload(&self, headers: &[(&str, &str)]) -> (u16, Value) {
        self.try_reload(headers).await.unwrap()
    }

    /// Like `reload`, but the connection may break.
    pub(crate) async fn try_reload(
        &self,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<(u16, Value)> {
        self.send(self.client.post(format!("{}/routes/reload", self.operators)), headers).await
    }

    async fn probe(&self, url: &str, path: &str) -> (u16, String) {
        let response = self.client.get(format!("{url}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// The peak memory of the process in bytes, since it was last cleared.
    #[cfg(target_os = "linux")]
    pub(crate) fn most_memory(&self, clear: bool) -> usize {
        let process = format!("/proc/{}", self.process.id());
        if clear {
            std::fs::write(format!("{process}/clear_refs"), "5").unwrap();
        }
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn exit_code(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }

    /// Sends SIGKILL. [`wait`](Self::wait) waits until the process has ended.
    pub(crate) fn kill(&self) {
        self.signal("KILL");
    }

    /// Sends SIGTERM and waits for the end, by which pending logs are delivered.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn wait(&mut self) {
        self.process.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn document(&self, id: &str) -> String {
        format!("{}/documents/{id}", self.url)
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<(u16, Value)> {
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The test may have ended it already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// An id that no other test uses, even in a shared database.
pub(crate) fn new_id(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let random = TempDir::new().unwrap();
    let random = random.path().file_name().unwrap().to_string_lossy().replace('.', "");
    format!("{name}-{random}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn change(text: &str) -> Value {
    json!({ "title": "A title", "text": text })
}

/// The records in the local bucket, by stream and sequence number: each once, without gaps.
pub(crate) fn records(directory: &TempDir) -> Vec<Value> {
    let records = records_after_crash(directory);
    check_numbers(&records);
    records.into_values().collect()
}

/// The records in the local bucket, by stream and sequence number. A crash leaves gaps for
/// unacknowledged objects before others that had arrived.
pub(crate) fn records_after_crash(directory: &TempDir) -> Records {
    records_at(&directory.path().join("bucket"))
}

/// The records in a bucket that is a directory, by stream and sequence number.
pub(crate) fn records_at(bucket: &Path) -> Records {
    let objects = WalkDir::new(bucket).into_iter().map(Result::unwrap);
    // `object#1` is an object that was being written when the service was killed, before its
    // rename.
    let is_object = |path: &Path| !name(path).contains('#');
    let objects = objects.filter(|entry| entry.file_type().is_file() && is_object(entry.path()));
    records_in(objects.map(|entry| (name(entry.path()), std::fs::read(entry.path()).unwrap())))
}

/// Records by stream and number.
pub(crate) type Records = BTreeMap<(String, u64), Value>;

/// The records in these objects, each given by its name without the partition and its bytes. Fails
/// if a record occurs twice.
pub(crate) fn records_in(objects: impl IntoIterator<Item = (String, Vec<u8>)>) -> Records {
    let mut records = Records::new();
    for (name, bytes) in objects {
        let Some((stream, first)) =
            name.strip_suffix(".ndjson.zst").and_then(|name| name.split_once('-'))
        else {
            assert_eq!(name, "probe", "nothing else is in the bucket");
            continue;
        };
        let lines = zstd::decode_all(&bytes[..]).unwrap();
        let lines = lines.strip_suffix(b"\n").expect("each line ends");
        for (sequence, line) in (first.parse().unwrap()..).zip(lines.split(|byte| *byte == b'\n')) {
            let record = serde_json::from_slice(line).unwrap();
            let twice = records.insert((stream.to_owned(), sequence), record);
            assert!(twice.is_none(), "record {sequence} of stream {stream} is in two objects");
        }
    }
    records
}

/// Checks that each stream is numbered from 0 without a gap.
pub(crate) fn check_numbers(records: &Records) {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for (stream, sequence) in records.keys() {
        let next = next.entry(stream).or_default();
        assert_eq!(sequence, next, "stream {stream} has no gap");
        *next += 1;
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
