//! The start of a service: its settings, the check of its dependencies, and its message to the
//! supervisor.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

#[cfg(target_os = "linux")]
use audit_core::testing::machine::{BAD_MACHINES, fails_on, in_shell};
use tempfile::TempDir;

use crate::process::Service;

fn run(directory: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut service = Command::new(env!("CARGO_BIN_EXE_audit-service"));
    service.env_clear().envs(environment.iter().copied());
    service.current_dir(directory).args(flags).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const FREE: [&str; 2] = ["--listen=127.0.0.1:0", "--operators-listen=127.0.0.1:0"];

#[test]
fn printed_settings_have_sources_and_no_secrets() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("audit-service.toml");
    let written = "data_dir = \"kept\"\nlinger_ms = 7\nprovenance = true\ncompression = \"gzip\"\n\
                   database_url = \"postgres://ada:hunter2@db/app?password=hunter2\"\n";
    std::fs::write(&file, written).unwrap();
    let environment = [("AUDIT_COMPRESSION", "none"), ("AUDIT_JOURNAL", "none")];
    let flags = ["--print-config", "--linger-ms=9", "--trusted-proxies=10.0.0.0/8"];
    let printed = run(directory.path(), &flags, &environment);
    let shown = text(&printed.stdout);
    assert!(printed.status.success() && !shown.contains("hunter2"), "{shown}");
    let line = |name: &str| {
        let mut lines = shown.lines();
        let line = lines.find(|line| line.trim_start_matches("# ").starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {shown}")).split_whitespace().collect::<Vec<_>>()
    };
    let path = directory.path().display();
    for (name, expected) in [
        ("listen ", "listen = \"127.0.0.1:8080\" # default".to_owned()),
        ("data_dir ", "data_dir = \"kept\" # file audit-service.toml".to_owned()),
        ("bucket ", format!("bucket = \"file://{path}/kept/bucket\" # default")),
        ("journal ", "journal = \"none\" # environment AUDIT_JOURNAL".to_owned()),
        ("linger_ms ", "linger_ms = 9 # flag".to_owned()),
        ("compression ", "compression = \"none\" # environment AUDIT_COMPRESSION".to_owned()),
        ("provenance ", "provenance = true # file audit-service.toml".to_owned()),
        ("outcomes ", "outcomes = false # default".to_owned()),
        ("trusted_proxies ", "trusted_proxies = \"10.0.0.0/8\" # flag".to_owned()),
        (
            "database_url ",
            "# database_url = \"postgres://…@db/app?…\" # file audit-service.toml".into(),
        ),
        ("max_connections ", "# max_connections is not set # default".to_owned()),
    ] {
        assert_eq!(line(name).join(" "), expected);
    }
    // Nothing was created.
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);

    // The output is a settings file with the same settings.
    std::fs::write(&file, &shown).unwrap();
    let again = text(&run(directory.path(), &["--print-config"], &[]).stdout);
    let values = |shown: &str| -> Vec<String> {
        let lines = shown.lines().filter(|line| !line.contains("database_url"));
        lines.map(|line| line.rsplit_once(" # ").unwrap().0.trim().to_owned()).collect()
    };
    assert_eq!(values(&again), values(&shown));
    assert!(values(&again).len() > 25, "{again}");
}

#[test]
fn a_check_names_each_problem_and_its_remedy() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let good = run(root, &[&FREE[..], &["--check"]].concat(), &[]);
    let shown = text(&good.stdout);
    assert!(good.status.success(), "{shown}{}", text(&good.stderr));
    for name in ["clients", "operators", "data directory", "bucket", "evidence key"] {
        assert!(shown.contains(&format!("ok       {name:<14} ")), "{name}: {shown}");
    }
    // The free space of this machine's disk decides whether that is a warning.
    assert!(shown.contains(" journal        audit-data/journal: will be created"), "{shown}");
    assert!(
        shown.contains("ok       database       ") && !root.join("audit-data/journal").exists()
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    std::fs::write(root.join("file"), "").unwrap();
    std::fs::write(root.join("key"), "no key\n").unwrap();
    std::fs::set_permissions(root.join("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let stream = format!(
        "[[log_stream]]\nname = \"siem\"\nurl = \"http://{taken}\"\n\
                          allow_http = true\nallow_private_addresses = true\nsecrets = [\"env:NO\"]\n"
    );
    std::fs::write(root.join("streams.toml"), stream).unwrap();
    let flags = [
        "--check",
        &format!("--listen={taken}"),
        "--operators-listen=127.0.0.1:0",
        "--journal=file",
        "--evidence-key=key",
        "--log-streams=streams.toml",
        "--database-url=sqlite:///nowhere/at/all.db?mode=ro",
        "--bucket=s3://bucket/prefix",
    ];
    let wrong = run(root, &flags, &[("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "half")]);
    let shown = text(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(1), "{shown}");
    for name in ["clients", "journal", "evidence key", "log stream siem", "bucket"] {
        let line = shown.lines().find(|line| line.starts_with(&format!("problem  {name}")));
        let line = line.unwrap_or_else(|| panic!("{name}: {shown}"));
        assert!(line.matches(": ").count() > 0, "it says what to do: {line}");
    }
    assert!(text(&wrong.stderr).contains("the host cannot be started; problems: "));
}

/// Each odd setting takes the place of the default settings file, or is in a variable.
#[test]
fn odd_settings_are_named_and_not_passed_over() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let file = root.join("audit-service.toml");
    let print = |environment: &[(&str, &str)]| run(root, &["--print-config"], environment);
    let refused = |says: &str| {
        let ran = print(&[]);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert!(text(&ran.stderr).contains(says), "{ran:?}");
    };
    std::os::unix::fs::symlink("nowhere", &file).unwrap();
    refused("the settings file audit-service.toml cannot be read: No such file");
    // The exit code is right even if the error cannot be written.
    let mut service = Command::new(env!("CARGO_BIN_EXE_audit-service"));
    service.env_clear().current_dir(root).arg("--print-config").stdout(Stdio::null());
    let full = if cfg!(target_os = "linux") { "/dev/full" } else { "/dev/null" };
    let full = std::fs::OpenOptions::new().write(true).open(full).unwrap();
    assert_eq!(service.stderr(full).status().unwrap().code(), Some(1));
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused("the settings file audit-service.toml cannot be read: Is a directory");
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, b"l\0i\0").unwrap();
    refused("line 1: it is not valid TOML");
    std::fs::write(&file, b"\xff\xfel\0").unwrap();
    refused("it is not UTF-8 text");
    std::fs::write(&file, "\u{feff}linger_ms = 7\r\n").unwrap();
    let printed = text(&print(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")]).stdout);
    assert!(printed.contains("linger_ms = 7"), "{printed}");
    assert!(printed.contains("# traces is not set"), "{printed}");
    for (variable, value) in [
        ("LISTEN", ""),
        ("AUDIT_PROVENANCE", "1"),
        ("AUDIT_SHOW_LOGS", "yes"),
        ("MAX_CONNECTIONS", "1e3"),
        ("DRAIN_TIMEOUT_MS", "-1"),
        ("MIN_SEND_RATE", "18446744073709551616"),
        ("AUDIT_ROUTES", ""),
    ] {
        let ran = print(&[(variable, value)]);
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
        let says = format!("set by the variable {variable}'");
        assert!(text(&ran.stderr).contains(&says), "{ran:?}");
    }
}

#[test]
fn what_stands_where_files_will_be_is_found_by_the_check() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let at = |name: &str| root.join(name);
    for name in ["key", "text", "db"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("file"), "").unwrap();
    std::fs::write(at("text/documents.db"), "no database, but some text").unwrap();
    std::fs::create_dir(at("db/documents.db")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("key/evidence.key")).unwrap();
    for (data_dir, problem, says) in [
        ("file", "data directory", "Not a directory"),
        ("file", "database", "Not a directory"),
        ("dangling", "data directory", "it is a link that leads nowhere"),
        ("dangling", "database", "it is a link that leads nowhere"),
        ("key", "evidence key", "key/evidence.key is a link that leads nowhere"),
        ("text", "database", "file is not a database"),
        ("db", "database", "unable to open database file"),
    ] {
        let flag = format!("--data-dir={data_dir}");
        let ran = run(root, &[&FREE[..], &["--check", &flag]].concat(), &[]);
        let shown = text(&ran.stdout);
        assert_eq!(ran.status.code(), Some(1), "{shown}");
        let line = shown.lines().find(|line| line.starts_with(&format!("problem  {problem:<14} ")));
        assert!(line.is_some_and(|line| line.contains(says)), "{data_dir} {problem}: {shown}");
        // The check is right: the service does not start.
        let started = run(root, &[&FREE[..], &[&flag]].concat(), &[]);
        assert_eq!(started.status.code(), Some(1), "{started:?}");
    }
}

#[test]
fn settings_that_can_never_work_are_refused() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let bucket = format!("--bucket=file://{}", root.join("logs").display());
    let free = [("LISTEN", "127.0.0.1:0"), ("OPERATORS_LISTEN", "127.0.0.1:0")];
    // Reserves a port that no other process is given meanwhile, but that the service may listen on.
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.set_reuseaddr(true).unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = reserved.local_addr().unwrap();
    let [listen, operators] = ["listen", "operators-listen"].map(|it| format!("--{it}={port}"));
    for (flags, says) in [
        (&["--journal="][..], "journal is empty"),
        (&["--bucket= "], "bucket is empty"),
        (&["--evidence=on"], "evidence is \"on\", and must be the name"),
        (&["--persist-timeout-ms=0"], "0 is not in 1..=86400000"),
        (&["--drain-timeout-ms=18446744073709551615"], "is not in 1..=86400000"),
        (&["--max-connections=0"], "0 is not in 1..="),
        (&["--trusted-proxies=::1,::/64"], "\"::/64\" holds all IPv4 addresses"),
        (&["--trusted-proxies=::1,nginx"], "entry 2 of the list is neither an address nor a"),
        (&["--trusted-proxies=10.0.0.1:80"], "has a port: write the address alone"),
        (&["--listen=localhost:1"], "names are not resolved: write 127.0.0.1:1"),
        (&["--operators-listen=9"], "write 127.0.0.1:9 for programs of this machine"),
        (&["--min-send-rate=0"], "0 is not in 1..="),
        (&[&bucket, "--journal=logs/journal"], "within the bucket"),
        (&[&bucket, "--evidence-key=logs/key"], "within the bucket"),
        (&[&listen, &operators], "give each of this host's listeners a port of its own"),
    ] {
        let refused = run(root, &[&["--check"], flags].concat(), &free);
        let said = text(&refused.stdout) + &text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(says), "{flags:?}: {said}");
    }
    std::fs::write(root.join("audit-service.toml"), "\njournal = \"\"").unwrap();
    let refused = run(root, &["--check"], &free);
    assert!(text(&refused.stderr).contains("journal is empty"), "{refused:?}");
    let lists = "trusted_proxies = \"10.0.0.0/33, hunter2\"\n";
    for (file, says) in [
        (
            lists,
            "line 1: trusted_proxies: its value is invalid: \"10.0.0.0/33\" has a prefix of more",
        ),
        (&lists.replace("/33", "/8"), "entry 2 of the list is neither an address nor a network"),
        ("listen = \"hunter2:80\"", "line 1: listen: its value is invalid: it has no address, and"),
    ] {
        std::fs::write(root.join("audit-service.toml"), file).unwrap();
        let said = text(&run(root, &["--check"], &[]).stderr);
        assert!(said.contains(says) && !said.contains("hunter2"), "{file}: {said}");
    }
}

#[test]
fn a_check_beside_a_running_service_disturbs_nothing() {
    let directory = TempDir::new().unwrap();
    let service = Service::start_with_journal(&directory, &[], &[]);
    let data = format!("--data-dir={}", directory.path().display());
    let listen = format!("--listen={}", service.address());
    let flags = ["--check", &data, &listen, "--operators-listen=none", "--evidence=off"];
    let checked = run(directory.path(), &flags, &[]);
    let shown = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{shown}");
    assert!(shown.contains("problem  clients        cannot listen on"), "{shown}");
    assert!(shown.contains("another process has the journal in"), "{shown}");
    assert!(shown.contains("ok       database"), "{shown}");
    service.stop();
    let checked = run(directory.path(), &flags, &[]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));
}

#[test]
fn logs_are_json_to_the_last_word() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let environment =
        [("LOG_FORMAT", "json"), ("RUST_LOG", "audit_sink_s3=info,audit_journal=info")];
    // A failed check has no cause beyond what it printed.
    for (flag, has_cause) in [("--check", false), ("--provenance", true)] {
        let flags = [&FREE[..], &["--journal=file", flag]].concat();
        let ended = run(directory.path(), &flags, &environment);
        assert_eq!(ended.status.code(), Some(1));
        let lines: Vec<_> = text(&ended.stderr).lines().map(ToOwned::to_owned).collect();
        assert!(!lines.is_empty());
        for line in &lines {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let level = event["level"].as_str().unwrap();
            assert!(["INFO", "WARN", "ERROR"].contains(&level) && event["timestamp"].is_string());
            assert!(event.as_object().unwrap().values().all(|member| *member != ""), "{line}");
        }
        let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        let message = (last["message"].as_str(), last["code"].as_i64());
        assert_eq!(message, (Some("the host ends"), Some(1)));
        assert_eq!(last.get("because").is_some(), has_cause, "{last}");
    }
}

#[test]
fn readiness_is_reported_once_the_sink_is_open() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    std::fs::write(directory.path().join("file"), "").unwrap();
    let flags = [&FREE[..], &["--journal=file"]].concat();
    assert!(!run(directory.path(), &flags, &environment).status.success());
    socket.set_nonblocking(true).unwrap();
    let mut said = [0; 64];
    assert!(socket.recv(&mut said).is_err(), "nothing is ready whose sink does not open");
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(600))).unwrap();

    let service = Service::start_with_journal(&directory, &[], &environment);
    let received = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..received], b"READY=1");
    service.stop();
    let received = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..received], b"STOPPING=1");
}

#[test]
fn routes_are_shown_and_each_bucket_is_checked() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let route =
        |name: &str, bucket: &str| format!("[[route]]\nname = \"{name}\"\nbucket = \"{bucket}\"\n");
    let acme = route("acme", &format!("file://{}/tenants/acme", root.display()));
    let away = route("away", "s3://away/logs?region=eu-central-1");
    let siem = "[[route.log_stream]]\nname = \"siem\"\nurl = \"http://127.0.0.1:1\"\n\
                allow_http = true\nallow_private_addresses = true\n";
    let alone = format!("[[route]]\nname = \"alone\"\n{siem}required = true\n");
    let streams = format!("{acme}{siem}{away}{siem}{alone}");
    std::fs::write(root.join("routes.toml"), format!("{acme}{away}")).unwrap();
    std::fs::write(root.join("audit-service.toml"), "routes = \"routes.toml\"\n").unwrap();
    // Nothing listens at this endpoint.
    let environment = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_ENDPOINT", "http://127.0.0.1:1"),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    let printed = text(&run(root, &["--print-config"], &environment).stdout);
    for line in [
        "routes = \"routes.toml\" ",
        "# route acme to file://",
        "# route away to s3://away/logs?… ",
    ] {
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{line}: {printed}");
    }
    let check = |flags: &[&str]| {
        let checked = run(root, &[&FREE[..], &["--check"], flags].concat(), &environment);
        (checked.status.code(), text(&checked.stdout))
    };
    let (code, shown) = check(&[]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("ok       route acme     file://"), "{shown}");
    let away = shown.lines().find(|line| line.starts_with("warning  route away"));
    assert!(away.is_some_and(|line| line.contains("logs wait in the journal")), "{shown}");

    let within = format!("--bucket=file://{}/tenants/acme/own", root.display());
    let around = format!("--bucket=file://{}/tenants", root.display());
    let other = "--bucket=s3://away/logs/".to_owned();
    for (flags, expected) in [
        (&[&*within][..], "of the route \"acme\" contains the bucket"),
        (&[&around], "of the route \"acme\" is within the bucket"),
        (&[&other], "of the route \"away\" is the bucket s3://away/logs/ of the host"),
        (&["--journal", "none"], "set a bucket and a journal"),
        (&["--bucket", "none"], "set a bucket and a journal"),
    ] {
        let (code, shown) = check(flags);
        assert!(code == Some(1) && shown.contains(expected), "{flags:?}: {shown}");
        let start = run(root, &[&FREE[..], flags].concat(), &environment);
        let said = text(&start.stderr);
        assert!(start.status.code() == Some(1) && said.contains(expected), "{flags:?}: {said}");
    }
    std::fs::write(root.join("routes.toml"), streams).unwrap();
    let printed = text(&run(root, &["--print-config"], &environment).stdout);
    for line in ["# route away to s3://away/logs?… and siem ", "# route alone to siem "] {
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{printed}");
    }
    let (code, shown) = check(&[]);
    for name in ["acme", "away", "alone"] {
        let problem = format!("problem  log stream siem of route {name}");
        assert!(code == Some(1) && shown.contains(&problem), "{shown}");
    }
    let within = "[[route.log_stream]]\nurl = \"https://example.com\"\ndead_letters = ";
    let within = format!("{acme}{within}\"{}/tenants/acme/aside\"\n", root.display());
    std::fs::write(root.join("routes.toml"), within).unwrap();
    let (code, shown) = check(&[]);
    let expected = "dead_letters of \"stream\" of the route \"acme\" is ";
    assert!(code == Some(1) && shown.contains(expected), "{shown}");

    let wrong = route("acme", "s3://acme?password=hunter2");
    std::fs::write(root.join("routes.toml"), wrong).unwrap();
    let (code, shown) = check(&[]);
    let line = shown.lines().find(|line| line.starts_with("problem  route acme"));
    assert!(code == Some(1) && line.is_some() && !shown.contains("hunter2"), "{shown}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_lack_of_files_is_reported_in_one_line() {
    let directory = TempDir::new().unwrap();
    for files in 4..12 {
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_audit-service"), "--check"]);
        let ran = shell.env_clear().current_dir(directory.path()).output().unwrap();
        let said = text(&ran.stderr);
        assert_eq!((ran.status.code(), said.lines().count()), (Some(1), 1), "{files}: {said}");
        assert!(said.starts_with("audit-service: this process can open only "), "{said}");
        assert!(said.contains("raise the limit of open files: ulimit -n, LimitNOFILE"), "{said}");
    }
}

/// One line must tell an operator what is wrong.
#[cfg(target_os = "linux")]
#[test]
fn a_start_on_a_bad_machine_says_what_is_wrong() {
    // A value may be of any length.
    const LONG: &str = "export MIN_SEND_RATE=$(head -c 100000 /dev/zero | tr '\\0' 9);";
    for (before, says) in BAD_MACHINES.into_iter().chain([(LONG, " characters left out) …")]) {
        let directory = TempDir::new().unwrap();
        let program = env!("CARGO_BIN_EXE_audit-service");
        let said = fails_on(program, before, &FREE, directory.path());
        assert!(said.contains(says) && said.len() < 10_000, "{before} {said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_no_success() {
    for flag in ["--print-config", "--check", "--help", "--version"] {
        let directory = TempDir::new().unwrap();
        let flags = [&FREE[..], &[flag]].concat();
        let program = env!("CARGO_BIN_EXE_audit-service");
        let said = fails_on(program, "exec >/dev/full;", &flags, directory.path());
        assert!(said.contains("the output cannot be written"), "{flag}: {said}");
    }
}

/// Each setting that names a file is given an endless device.
#[cfg(target_os = "linux")]
#[test]
fn endless_files_end_a_start() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let stream = |more: &str| {
        let file = root.join("streams.toml");
        let begin = "[[log_stream]]\nname = \"a\"\nurl = \"https://example.com/\"\n";
        std::fs::write(&file, format!("{begin}{more}")).unwrap();
        "--log-streams=streams.toml"
    };
    for (flag, more) in [
        ("--config=/dev/zero", ""),
        ("--evidence-key=/dev/zero", ""),
        ("--log-streams=/dev/zero", ""),
        ("--routes=/dev/zero", ""),
        ("", "format = \"webhook\"\nsecrets = [\"file:/dev/zero\"]"),
        ("", "format = \"ndjson\"\nca_file = \"/dev/zero\""),
        ("", "format = \"ocsf\"\nmapping = \"/dev/zero\""),
    ] {
        let flag = if more.is_empty() { flag } else { stream(more) };
        let ran = run(root, &[&FREE[..], &["--check", flag]].concat(), &[]);
        let said = text(&ran.stdout) + &text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{flag} {more} {said}");
        assert!(said.contains("it exceeds limit of 67108864 bytes"), "{flag} {more} {said}");
    }
}

/// A file that is opened later must not get the descriptor of a closed output, and with it the
/// bytes of the output.
#[cfg(target_os = "linux")]
#[test]
fn closed_and_full_outputs_change_no_file_and_end_nothing() {
    for outputs in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"] {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
        let flags = [&FREE[..], &["--show-logs=true"]].concat();
        let before = format!("exec {outputs};");
        let mut service = in_shell(env!("CARGO_BIN_EXE_audit-service"), &before);
        service.args(&flags).current_dir(directory.path());
        service.env("NOTIFY_SOCKET", directory.path().join("notify"));
        let mut service = service.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = [0; 64];
        let received = socket.recv(&mut said).unwrap();
        assert_eq!(&said[..received], b"READY=1", "{outputs}");
        let id = service.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(service.wait().unwrap().success(), "{outputs}");
        let mut directories = vec![directory.path().join("audit-data")];
        let mut files = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                    continue;
                }
                files += 1;
                let content = std::fs::read(entry.path()).unwrap();
                let has_output = memchr::memmem::find(&content, b"listening on").is_some();
                assert!(!has_output, "{outputs}: {}", entry.path().display());
            }
        }
        assert!(files > 3, "{outputs}: {files}");
    }
}
