//! The commands in the documents are run, and their lists are compared with the sources.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_host::{BucketEnv, RouteSettings, RoutesFile};
use audit_journal::{JournalReader, JournalSettings};
use audit_sink_http::LogStream;
use audit_sink_s3::{Bucket, EvidenceSettings, S3Sink, Settings, WitnessSettings};
use s3_testserver::{ErrorAnswer, Fault, RequestInfo, S3TestServer};
use serde_json::Value;

use crate::support::{HOUR_MS, bucket, object_for_each_batch, write};

const COMPLIANCE: &str = include_str!("../../../docs/COMPLIANCE.md");
const CONFIGURATION: &str = include_str!("../../../docs/CONFIGURATION.md");
const DESTINATIONS: &str = include_str!("../../../docs/DESTINATIONS.md");
const EVIDENCE: &str = include_str!("../../../docs/EVIDENCE.md");
const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");
/// The sources that describe metrics: of the sinks, and of the runtime.
const METRICS: [&str; 5] = [
    include_str!("../../../audit-journal/src/followers/metrics.rs"),
    include_str!("../../../audit-journal/src/health/metrics.rs"),
    include_str!("../../../audit-sink-http/src/delivery.rs"),
    include_str!("../../../audit-sink-s3/src/witness/mod.rs"),
    include_str!("../../../audit-runtime/src/metrics.rs"),
];
const RULES: &str = include_str!("../../../deploy/prometheus/audit.rules.yml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/audit.json");
const TERRAFORM: &str = include_str!("../../../deploy/aws/main.tf");

/// The blocks of a document that are fenced with this word.
fn blocks<'a>(document: &'a str, word: &str) -> Vec<&'a str> {
    let opening = format!("\n```{word}\n");
    document.split(&opening).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// 2026-11-20T09:00:00Z.
const BEGIN_MS: i64 = 1_795_165_200_000;

fn record(action: &str, user: &str, outcome: &str, request: &str, time_ms: i64) -> String {
    let ip = if user == "ada" { "10.0.0.1" } else { "10.0.0.3" };
    format!(
        "{{\"action\":\"{action}\",\"document\":\"plan\",\"outcome\":\"{outcome}\",\"user\":\"{user}\",\"client\":\
         {{\"ip\":\"{ip}\",\"userAgent\":null,\"requestId\":\"{request}\"}},\"at\":{time_ms}}}\n"
    )
}

/// The bucket and the journal of the documents.
async fn scene(directory: &Path) {
    let batch = |time_ms, lines: String| Batch::from_lines(time_ms, lines.into()).unwrap();
    let update = |request: &str, time_ms| {
        record("documents.update", "ada", "to be committed", request, time_ms)
    };
    let view = |user: &str, outcome: &str, request: &str, time_ms| {
        record("documents.view", user, outcome, request, time_ms)
    };
    let (second, third) = (BEGIN_MS + 24 * HOUR_MS, BEGIN_MS + 48 * HOUR_MS);
    let first = [
        update("r1", BEGIN_MS),
        view("eve", "shown", "r2", BEGIN_MS + 60_000),
        view("bob", "not found", "r3", BEGIN_MS + 90_000),
    ];
    let batches = vec![
        batch(BEGIN_MS, first.concat()),
        batch(second, view("bob", "shown", "r4", second)),
        batch(third, update("r5", third)),
    ];
    let url = format!("file://{}/bucket", directory.display());
    write(Bucket::open(&url).unwrap(), object_for_each_batch(), batches).await;

    // A host that died before its bucket answered.
    let server = S3TestServer::start().await;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let journal = Some(JournalSettings::new(directory.join("journal")));
    let settings = Settings { journal, ..Settings::default() };
    let open = S3Sink::builder(bucket(&server)).with_settings(settings).open();
    let sink = runtime.spawn(open).await.unwrap().unwrap();
    server.faults().plan(|_: &RequestInfo| Fault::Refused(ErrorAnswer::SLOW_DOWN));
    let late = third + HOUR_MS;
    let lines = update("r6", late) + &view("eve", "shown", "r7", late);
    sink.persist(batch(late, lines)).await.unwrap();
    runtime.shutdown_background();
    drop(sink);
    // The host's threads may still be preparing a segment.
    while JournalReader::open(&directory.join("journal"))
        .map_or(true, |reader| reader.state().in_use)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether lines match those of a document: any run of blanks matches any other, `…` matches
/// anything within a line, and alone any number of lines.
fn matches(shown: &[&str], found: &[&str]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((&"…", rest)) => (0..=found.len()).any(|at| matches(rest, &found[at..])),
        Some((first, rest)) => found
            .split_first()
            .is_some_and(|(line, more)| is_like(first, line) && matches(rest, more)),
    }
}

fn is_like(shown: &str, found: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    fn like(pattern: &str, text: &str) -> bool {
        let Some((head, tail)) = pattern.split_once('…') else { return pattern == text };
        let Some(rest) = text.strip_prefix(head) else { return false };
        (0..=rest.len()).any(|at| rest.is_char_boundary(at) && like(tail, &rest[at..]))
    }
    like(&plain(shown), &plain(found))
}

#[tokio::test(flavor = "multi_thread")]
async fn console_blocks_show_what_the_commands_print() {
    let directory = tempfile::tempdir().unwrap();
    scene(directory.path()).await;
    let binaries = Path::new(env!("CARGO_BIN_EXE_audit")).parent().unwrap().to_str().unwrap();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap());
    let run = |command: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(directory.path());
        shell.env_clear().env("PATH", &path).env("TZ", "UTC");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut count = 0;
    for block in blocks(OPERATIONS, "console") {
        for step in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, shown) = step.split_once('\n').unwrap_or((step, ""));
            let found = run(command);
            let (shown, lines): (Vec<_>, Vec<_>) =
                (shown.lines().collect(), found.lines().collect());
            assert!(matches(&shown, &lines), "$ {command}\n{found}\nand not\n{}", shown.join("\n"));
            count += 1;
        }
    }
    assert_eq!(count, 21, "commands that are shown");
    // Commands that are not run, since they would access AWS: only our parts of them are checked.
    let policies = blocks(OPERATIONS, "sh").concat();
    let commands: Vec<_> =
        policies.lines().filter(|line| line.starts_with("audit policy ")).collect();
    assert_eq!(commands.len(), 5);
    for command in commands {
        let ours = command.split(['>', '#']).next().unwrap();
        serde_json::from_str::<Value>(&run(ours)).unwrap();
    }
}

#[test]
fn the_auditors_session_matches_the_document() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let vectors = include_str!("../../../audit-evidence/tests/vectors/buckets.json");
    let vectors: Value = serde_json::from_str(vectors).unwrap();
    for object in vectors["objects"].as_array().unwrap() {
        let key = object["key"].as_str().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lines = object["lines"].as_array().unwrap().iter();
        let members = object["metadata"].as_object().unwrap().iter();
        for (key, content) in [
            (key.to_owned(), lines.map(|line| text(line) + "\n").collect::<String>()),
            (
                audit_evidence::Sidecar::key_of(key),
                members.map(|(name, value)| format!("{name} {}\n", text(value))).collect(),
            ),
        ] {
            let file = root.join("bucket").join(key);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
    }
    let key = vectors["cases"][0]["keys"][0].as_str().unwrap();
    std::fs::write(root.join("host.pub"), key).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_audit")).parent().unwrap().to_str().unwrap();
    let path = format!("{binaries}:{}", std::env::var("PATH").unwrap());
    let mut count = 0;
    for step in blocks(EVIDENCE, "console").iter().flat_map(|block| block.split("$ ")).skip(1) {
        let (command, shown) = step.split_once('\n').unwrap_or((step, ""));
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(root).env_clear().env("PATH", &path);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let found = String::from_utf8(output.stdout).unwrap();
        let (shown, lines): (Vec<_>, Vec<_>) = (shown.lines().collect(), found.lines().collect());
        assert!(matches(&shown, &lines), "$ {command}\n{found}\nand not\n{}", shown.join("\n"));
        count += 1;
    }
    assert_eq!(count, 8, "commands that are shown");
}

#[test]
fn the_matcher_names_differences() {
    assert!(matches(&["a … c", "…", "z"], &["a  b c", "1", "2", "z"]));
    assert!(!matches(&["a … c"], &["a b d"]));
    assert!(!matches(&["a"], &["a", "b"]));
    assert!(!matches(&["…", "z"], &["y"]));
}

#[test]
fn every_setting_is_in_the_documents_with_its_default() {
    let section = |name: &str| {
        let (_, rest) = CONFIGURATION.split_once(&format!("\n## {name}")).unwrap();
        rest.split("\n## ").next().unwrap()
    };
    let rows = |section: &str| -> Vec<(String, String)> {
        let cells = section.lines().filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").collect();
            Some((cells[0].trim_end_matches('`').to_owned(), cells[1].trim_matches('`').to_owned()))
        });
        cells.collect()
    };
    let check = |name: &str, value: Value, without: &str| {
        let settings = value.as_object().unwrap();
        let shown = rows(section(name));
        assert_eq!(shown.len(), settings.len(), "{name}: {shown:?}");
        for (setting, default) in shown.iter().filter(|(setting, _)| setting != without) {
            let value = settings.get(setting).unwrap_or_else(|| panic!("{name} has no {setting}"));
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            assert_eq!(default, &value, "{setting}");
        }
    };
    check("The sink", serde_json::to_value(Settings::default()).unwrap(), "");
    check("The journal", serde_json::to_value(JournalSettings::new("x")).unwrap(), "directory");
    let stream = audit_sink_http::Settings::new("—", audit_sink_http::Format::Webhook);
    check("Log streams", serde_json::to_value(stream).unwrap(), "");
    check("Evidence", serde_json::to_value(EvidenceSettings::new("x")).unwrap(), "name");
    let witness = WitnessSettings {
        url: "—".to_owned(),
        key: "—".to_owned(),
        allow_private_addresses: false,
    };
    check("Witnesses", serde_json::to_value(witness).unwrap(), "");
}

#[test]
fn every_flag_of_the_service_is_in_the_documents() {
    let source = include_str!("../../../hosts/service/src/settings.rs");
    let variables: Vec<_> =
        source.split("env = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(variables.len() > 8, "{variables:?}");
    for variable in variables {
        assert!(CONFIGURATION.contains(&format!("| `{variable}` |")), "{variable}");
    }
}

/// A document's files are read as a host reads them, its flags are those of the commands, and its
/// table has every format.
#[test]
fn destinations_are_as_the_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.toml");
    let mut read = (0, 0);
    for block in blocks(DESTINATIONS, "toml") {
        std::fs::write(&file, block).unwrap();
        if block.contains("[[route]]") {
            let routes = RoutesFile::read(&file).unwrap().route;
            assert_eq!(routes.len(), 4, "{routes:?}");
            assert_eq!(routes[0].followers().count(), 1);
            assert!(routes[1..3].iter().all(|route| route.env != BucketEnv::default()));
            assert!(routes[3].bucket.is_none() && routes[3].followers().count() == 0);
            read.0 += 1;
        } else {
            let url = "https://example.com";
            let stream = audit_sink_http::Settings::new(url, audit_sink_http::Format::Ocsf);
            let mapping = Some(file.clone());
            LogStream::open(audit_sink_http::Settings { mapping, ..stream }).unwrap();
            read.1 += 1;
        }
    }
    assert_eq!(read, (1, 1), "files of routes, and of mappings");

    let commands = blocks(DESTINATIONS, "sh").join("\n").replace("\\\n", " ");
    let mut count = 0;
    for command in commands.lines().filter_map(|line| line.strip_prefix("audit ")) {
        let name = command.split(' ').next().unwrap();
        let help = Command::new(env!("CARGO_BIN_EXE_audit")).args([name, "--help"]).output();
        let help = String::from_utf8(help.unwrap().stdout).unwrap();
        for flag in command.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.split([' ', '\n', ',']).any(|word| word == flag), "{name}: {flag}");
        }
        count += 1;
    }
    assert_eq!(count, 4, "commands");

    let (_, table) = DESTINATIONS.split_once("\n## Formats").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let formats: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| *name != "format")
        .collect();
    let known = |name: &str| serde_json::from_value::<audit_sink_http::Format>(name.into());
    for name in &formats {
        known(name).unwrap();
    }
    for row in table.lines().filter(|line| line.starts_with("| `") && !line.contains("`format`")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        let format = known(cells[0].trim().trim_matches('`')).unwrap();
        let limits = audit_sink_http::Settings::new("https://example.com", format).limits();
        let shown: Vec<_> = cells[3].trim().split(", ").collect();
        let number = |text: &str, unit: &str, times: usize| {
            let number = text.strip_suffix(unit).unwrap_or_else(|| panic!("{text} in {unit}"));
            number.replace(',', "").parse::<usize>().unwrap() * times
        };
        assert_eq!(number(shown[0], " records", 1), limits.records, "{row}");
        assert_eq!(number(shown[1], " MB", 1_000_000), limits.bytes, "{row}");
        // A record may be as large as its request, unless the table says otherwise.
        let one = shown.get(2).map_or(limits.bytes, |one| number(one, " MB for one", 1_000_000));
        assert_eq!(one, limits.record_bytes, "{row}");
    }
    // The message for an unknown format lists all.
    let all = known("nothing").unwrap_err().to_string();
    assert_eq!(all.matches('`').count() / 2 - 1, formats.len(), "{all}");
}

/// The members that a bucket's URL may have are those that the document marks.
#[test]
fn members_of_a_buckets_url_are_as_the_document_says() {
    let (_, table) = CONFIGURATION.split_once("\n| variable | in the URL | default").unwrap();
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 8, "{rows:?}");
    for (scheme, prefix) in [("s3", "AWS_"), ("gs", "GOOGLE_"), ("az", "AZURE_")] {
        let mut shown = BTreeSet::new();
        for row in &rows {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let is_in_url = match cells[1] {
                "yes" => true,
                "no" => false,
                other => panic!("{other}: {row}"),
            };
            let variables = cells[0].split('`').skip(1).step_by(2);
            let members = variables.filter_map(|variable| variable.strip_prefix(prefix));
            shown.extend(members.filter(|_| is_in_url).map(str::to_ascii_lowercase));
        }
        // The message for an unknown member lists all.
        let url = format!("{scheme}://bucket/prefix?nothing=1");
        let error = Bucket::open(&url).unwrap_err().to_string();
        let (_, known) = error.split_once("can only have ").unwrap();
        let known = known.split(':').next().unwrap().split(", ").map(ToOwned::to_owned);
        assert_eq!(shown, known.collect(), "{scheme}");
    }
}

/// The settings of a route are those that the document lists.
#[test]
fn settings_of_routes_are_as_the_document_says() {
    let (_, section) = CONFIGURATION.split_once("\n## The web service: routes").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let shown: BTreeSet<_> = rows
        .map(|name| name.trim_matches(['[', ']']))
        .map(|name| name.strip_prefix("route.").unwrap_or(name).to_owned())
        .collect();
    // The message for an unknown setting lists all.
    let unknown = serde_json::json!({"nothing": 1});
    let error = serde_json::from_value::<RouteSettings>(unknown).unwrap_err().to_string();
    let known = error.split('`').skip(1).step_by(2).skip(1).map(ToOwned::to_owned);
    assert_eq!(shown, known.collect(), "{error}");
}

/// A test and the file that it is in, as a document links them: [`name`](../path.rs).
fn named_tests(document: &str) -> Vec<(&str, &str)> {
    let links = document.split("[`").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("`](../")?;
        let (path, _) = rest.split_once(')')?;
        path.ends_with(".rs").then_some((name, path))
    });
    links.collect()
}

fn has_test(source: &str, name: &str) -> bool {
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let of = |attribute: &str| line.starts_with(attribute);
        if of("#[test]") || of("#[tokio::test") {
            is_test = true;
        } else if is_test && (of("fn ") || of("async fn ")) {
            if line.contains(&format!("fn {name}(")) {
                return true;
            }
            is_test = false;
        }
    }
    false
}

#[test]
fn tests_named_by_compliance_exist() {
    let tests = named_tests(COMPLIANCE);
    assert!(tests.len() > 20, "{tests:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, path) in tests {
        let source = std::fs::read_to_string(root.join(path)).expect(path);
        assert!(has_test(&source, name), "{path} has no test {name}");
    }
    // Each rule names a test, or a rule 10.x that does.
    let rules: Vec<_> = COMPLIANCE.lines().filter(|line| line.starts_with("| **")).collect();
    assert_eq!(rules.len(), 17);
    for rule in rules {
        let cells: Vec<_> = rule.trim_matches('|').split(" | ").collect();
        let [_, met, yours] = cells[..] else { panic!("{rule}") };
        let rests = !named_tests(met).is_empty() || met.contains("as 10.");
        assert!(rests && yours.trim().len() > 20, "{rule}");
    }
    let helper = "#[test]\nfn a() {\n}\nfn b() {}\n";
    assert!(has_test(helper, "a") && !has_test(helper, "b") && !has_test(helper, "c"));
}

fn metrics(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("audit_") && word.len() > 6);
    let base = |word: &str| {
        let histogram = ["audit_commit_seconds", "audit_group_batches", "audit_group_bytes"];
        let found = histogram.iter().find(|name| {
            word.strip_prefix(**name).is_some_and(|rest| ["_sum", "_count"].contains(&rest))
        });
        found.map_or(word, |name| name).to_owned()
    };
    words.map(base).collect()
}

#[test]
fn alerts_dashboard_and_documents_name_the_same_metrics() {
    // Names are in string literals; those of crates are not.
    let literals = METRICS.into_iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let known: BTreeSet<String> = literals.flat_map(metrics).collect();
    assert_eq!(known.len(), 22, "{known:?}");
    let documented =
        metrics(OPERATIONS.split("\n## Alerts").nth(1).unwrap().split("\n## ").next().unwrap());
    assert_eq!(documented, known);
    for (text, what) in [(RULES, "rules"), (DASHBOARD, "dashboard")] {
        let used = metrics(text);
        assert!(used.is_subset(&known), "{what}: {:?}", used.difference(&known));
    }
    assert_eq!(metrics(DASHBOARD), known, "everything is on the dashboard");
    serde_json::from_str::<Value>(DASHBOARD).unwrap();
}

#[test]
fn terraform_uses_the_printed_policies() {
    for file in ["host-policy", "reader-policy", "bucket-policy"] {
        assert!(TERRAFORM.contains(&format!("\"{file}\"")), "{file}");
    }
    assert!(TERRAFORM.contains("file(\"${path.module}/${name}.json\")"));
    let lock: Value =
        serde_json::from_str(include_str!("../../../deploy/aws/object-lock.json")).unwrap();
    let rule: Value =
        serde_json::from_str(include_str!("../../../deploy/aws/lifecycle.json")).unwrap();
    let days = lock["Rule"]["DefaultRetention"]["Days"].as_u64().unwrap();
    // Locked objects cannot expire earlier.
    assert!(rule["Rules"][0]["Expiration"]["Days"].as_u64().unwrap() > days);
    assert!(TERRAFORM.contains(&format!("default     = {days}")));
}
