use std::time::Duration;

use audit_runtime::http::{ClientAddressHeader, TrustedProxies};
use audit_sink_s3::Compression;
use clap::{CommandFactory, Parser};

use super::*;

/// Settings from a command line, with a data directory and, optionally, a file.
fn settings(file: Option<&str>, flags: &[&str]) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut line = vec!["functions-host", "serve", "convex"];
    line.extend(flags);
    let path = directory.path().join("set.toml");
    if let Some(file) = file {
        std::fs::write(&path, file).unwrap();
        line.extend(["--config", path.to_str().unwrap()]);
    }
    if !file.is_some_and(|file| file.contains("data_dir")) {
        line.extend(["--data-dir", data.to_str().unwrap()]);
    }
    let CommandLine { command } = CommandLine::read(line).map_err(|error| error.to_string())?;
    let Command::Serve(serve) = command else { panic!("that was serve") };
    serve.settings().map_err(|error| error.to_string())
}

fn bucket(settings: &Settings) -> (&str, &audit_sink_s3::Settings) {
    let (url, settings) = settings.destinations.bucket.as_ref().expect("a bucket");
    (url, settings)
}

#[test]
fn the_command_line_definition_is_valid() {
    CommandLine::command().debug_assert();
}

#[test]
fn every_setting_has_a_default() {
    let settings = settings(None, &[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:3210");
    assert_eq!(settings.limits, FunctionLimits::default());
    assert_eq!(settings.deployment, Deployment::default());
    assert!(
        !settings.provenance
            && !settings.outcomes
            && settings.auth.is_empty()
            && settings.env.0.is_empty()
    );
    let (url, sink) = bucket(&settings);
    assert!(url.starts_with("file:///") && url.ends_with("/data/bucket"), "{url}");
    assert!(sink.journal.as_ref().unwrap().directory.ends_with("data/journal"));
    assert_eq!((sink.linger_ms, sink.persist_timeout_ms), (0, 10_000));
    let evidence = sink.evidence.as_ref().unwrap();
    assert_eq!(evidence.name, "functions-host");
    assert!(evidence.key_file.as_ref().unwrap().ends_with("data/evidence.key"));
}

#[test]
fn flags_override_the_file_and_the_file_overrides_defaults() {
    let file = r#"
        listen = "0.0.0.0:80"
        bucket = "memory:///"
        journal = "none"
        compression = "gzip"
        evidence = "off"
        trusted_proxies = "10.0.0.0/8"
        client_address_header = "Forwarded"
        provenance = true
        outcomes = true
        function_timeout_ms = 5
        function_memory_mib = 2
        query_cache_mib = 3
        store_reserve_mib = 5
        fetch_timeout_ms = 6
        fetch_networks = "10.0.0.0/8, fd00::1"
        kept_engines_mib = 4
        drain_timeout_ms = 4
        close_timeout_ms = 5
        deployment_name = "file"
        deployment_class = "s256"
        [env]
        A = "file"
        B = "file"
    "#;
    let flags = [
        "--listen=127.0.0.1:81",
        "--provenance=false",
        "--drain-timeout-ms=6",
        "--env",
        "B=flag",
        "--env",
        "C=a=b",
    ];
    let settings = settings(Some(file), &flags).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:81");
    let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let proxies = proxies.with_header(ClientAddressHeader::Forwarded);
    assert_eq!(settings.trusted_proxies, proxies);
    assert!(!settings.provenance && settings.outcomes);
    assert_eq!(settings.limits.time, Duration::from_millis(5));
    assert_eq!(settings.limits.memory_bytes, 2 << 20);
    assert_eq!(settings.query_cache_bytes, 3 << 20);
    assert_eq!(settings.store_reserve_bytes, 5 << 20);
    assert_eq!(settings.kept_engine_bytes, 4 << 20);
    assert_eq!(settings.network.serve.drain_timeout, Duration::from_millis(6));
    assert_eq!(settings.close_timeout, Duration::from_millis(5));
    assert_eq!(settings.deployment.name, "file");
    assert_eq!(settings.deployment.class, DeploymentClass::S256);
    let env: Vec<_> =
        settings.env.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=file", "B=flag", "C=a=b"]);
    let (url, sink) = bucket(&settings);
    assert_eq!(url, "memory:///");
    assert_eq!((sink.compression, &sink.journal), (Compression::Gzip, &None));
    assert_eq!(sink.evidence, None);
}

#[test]
fn the_bucket_none_means_no_bucket() {
    let settings = settings(None, &["--bucket", "none"]).unwrap();
    assert!(settings.destinations.bucket.is_none() && settings.destinations.log_streams.is_empty());
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let file = r#"
        data_dir = "kept"
        journal = "journal"
        bucket = "memory:///"
        [[auth]]
        issuer = "https://issuer"
        audience = "app"
        jwks = "keys.json"
    "#;
    let settings = settings(Some(file), &[]).unwrap();
    let (_, sink) = bucket(&settings);
    let jwks = settings.auth[0].jwks.clone().unwrap();
    for path in [settings.data_dir.clone(), sink.journal.clone().unwrap().directory, jwks] {
        assert!(path.is_absolute(), "{path:?}");
    }
}

#[test]
fn invalid_settings_are_rejected_by_name() {
    let rejected = |file: &str, flags: &[&str], says: &str| {
        let error = settings(Some(file), flags).unwrap_err();
        assert!(error.contains(says), "{error}");
    };
    rejected("lisen = '127.0.0.1:1'", &[], "unknown field `lisen`");
    rejected("[[auth]]\nissuer = 'a'\naudience = 'b'\njwk = 'c'", &[], "unknown field `jwk`");
    rejected(
        "compression = 'lz4'",
        &[],
        "line 1: compression: a value is invalid, expected one of",
    );
    for (line, says) in [
        ("function_timeout_ms = '1s'", "a whole number from 0 on"),
        ("min_send_rate = 4294967296", "a whole number from 0 to 4294967295"),
        ("data_dir = 7", "a path as a string"),
        ("log_format = 7", "a string"),
    ] {
        let name = line.split(' ').next().unwrap();
        rejected(line, &[], &format!("line 1: {name}: a value is invalid, expected {says}"));
    }
    rejected("[env]\n1A = 'x'", &[], "the name of a variable");
    rejected(
        "client_address_header = 'a b'",
        &[],
        "line 1: client_address_header: the name of a header",
    );
    rejected("", &["--env", "novalue"], "NAME=VALUE");
    rejected("function_timeout_ms = 0", &[], "function_timeout_ms is 0");
    rejected("function_memory_mib = 0", &[], "function_memory_mib is 0");
    rejected("fetch_memory_mib = 3", &[], "fetch_memory_mib is 3, and must be at least 4");
    rejected("fetch_proxy = \"secret\"", &[], "fetch_proxy is not an http or https URL: write one");
    rejected("persist_timeout_ms = 0", &[], "persist_timeout_ms");
    let missing = CommandLine::try_parse_from([
        "functions-host",
        "serve",
        "x",
        "--config",
        "/nowhere/set.toml",
    ]);
    let Command::Serve(serve) = missing.unwrap().command else { panic!("that was serve") };
    assert!(serve.settings().unwrap_err().to_string().contains("/nowhere/set.toml"));
}

#[test]
fn a_refused_address_or_network_says_why_and_what_to_write() {
    let proxies = ("trusted_proxies", "--trusted-proxies");
    let fetches = ("fetch_networks", "--fetch-networks");
    let listens = ("listen", "--listen");
    for ((name, flag), value, says) in [
        (proxies, "::/64", "\"::/64\" holds all IPv4 addresses"),
        (fetches, "::/64", "write the IPv4 and the IPv6 networks one by one"),
        (proxies, "10.0.0.1:443", "has a port: write the address alone"),
        (fetches, "10.0.0.0/33", "write at most /32"),
        (proxies, "::1, hunter2", "entry 2 of the list is neither an address nor a network"),
        (fetches, "hunter2", "entry 1 of the list is neither an address nor a network"),
        (listens, "localhost:1", "names are not resolved: write 127.0.0.1:1"),
        (listens, "hunter2:1", "write one such as 127.0.0.1:1"),
        (("operators_listen", "--operators-listen"), "9", "write 127.0.0.1:9 for programs"),
        (("site_listen", "--site-listen"), "hunter2", "such as 127.0.0.1:8080 or [::1]:8080, or"),
    ] {
        let in_file = settings(Some(&format!("{name} = \"{value}\"")), &[]).unwrap_err();
        let in_flag = settings(None, &[&format!("{flag}={value}")]).unwrap_err();
        for error in [in_file, in_flag] {
            let is_named = error.contains(name) || error.contains(flag);
            assert!(is_named && error.contains(says), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
    let error = settings(Some("listen = 3210"), &[]).unwrap_err();
    assert!(error.contains("line 1: listen: an address with a port is expected as a string"));
}

#[test]
fn debug_output_hides_values_of_variables() {
    let settings = settings(Some("[env]\nA = 'hidden'"), &["--env", "B=hidden"]).unwrap();
    assert!(!format!("{settings:?}").contains("hidden"));
    let line =
        CommandLine::try_parse_from(["functions-host", "serve", "x", "--env", "B=hidden"]).unwrap();
    assert!(!format!("{line:?}").contains("hidden"));
}

#[test]
fn printed_settings_are_complete_and_say_the_same_in_a_file() {
    let flags = ["--site-listen=none", "--deployment-region=eu", "--show-logs", "--listen=[::1]:9"];
    let file = "trusted_proxies = '10.0.0.0/8, ::1'\ncut_after_ms = 7\n[env]\nA = 'hunter2'\n";
    let settings_of = |file: &str, flags: &[&str]| settings(Some(file), flags).unwrap();
    let printed = |settings: &Settings| -> Vec<String> {
        let set = settings.shown().into_iter().filter(|(_, value)| !value.is_null());
        set.map(|(name, value)| format!("{name} = {value}")).collect()
    };
    let first = settings_of(file, &flags);
    let names: Vec<_> = first.shown().into_iter().map(|(name, _)| name).collect();
    let serve = CommandLine::serve();
    let settings = serve.get_arguments().filter(|argument| argument.get_env().is_some());
    for setting in settings.filter(|setting| setting.get_id() != "config") {
        assert!(names.contains(&setting.get_id().as_str()), "{} is not shown", setting.get_id());
    }
    let lines = printed(&first);
    let data_dir = first.data_dir.to_str().unwrap();
    assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:?}");
    let second = settings_of(&lines.join("\n"), &[]);
    assert_eq!(printed(&second), lines);
    assert_eq!(second.data_dir.to_str(), Some(data_dir));
    let source = |name| first.sources.of_setting(name).to_string();
    assert_eq!((source("listen"), source("journal")), ("flag".into(), "default".into()));
    assert!(source("cut_after_ms").starts_with("file /") && source("env").starts_with("file /"));
}

#[test]
fn no_error_shows_a_value() {
    const SECRET: &str = "hunter2-marker";
    let files_with = |value: &str| {
        let mut files: Vec<_> = CommandLine::command()
            .find_subcommand("serve")
            .unwrap()
            .get_arguments()
            .map(|argument| format!("{} = {value}", argument.get_id()))
            .collect();
        files.extend([
            format!("unknown = {value}"),
            format!("[env]\nA = {value}"),
            format!("[env]\nA = 'x'\nA = {value}"),
            format!("[env]\nA.B = {value}"),
            format!("env = {value}"),
            format!("[[auth]]\nissuer = {value}"),
            format!("[[auth]]\nissuer = 'a'\naudience = 'b'\nunknown = {value}"),
            format!("auth = {value}"),
            format!("[[log_stream]]\nurl = {value}"),
            format!("[[log_stream]]\nurl = 'https://a.example'\nsecrets = [{value}]"),
            format!("[[log_stream]]\nurl = 'https://a.example'\nformat = {value}"),
        ]);
        files
    };
    let values = [
        format!("\"{SECRET}\""),
        format!("\"\"\"\nlisten = {SECRET}\n\"\"\""),
        format!("[\"{SECRET}\"]"),
        format!("{{ {SECRET} = \"{SECRET}\", b = \"{SECRET}\" }}"),
        SECRET.to_owned(),
        format!("\"{SECRET}"),
        format!("\"{SECRET}\\q\""),
        format!("\"{SECRET}\" \"{SECRET}\""),
    ];
    let mut rejected = 0;
    for file in values.iter().flat_map(|value| files_with(value)) {
        if let Err(error) = settings(Some(&file), &[]) {
            // The name of an unknown field is shown: it is not a value.
            let shown = error.replace(&format!("unknown field `{SECRET}`"), "");
            assert!(!shown.contains(SECRET), "{file}\n{error}");
            rejected += 1;
        }
    }
    assert!(rejected > 150, "{rejected}");
    let arguments = CommandLine::command();
    let arguments = arguments.find_subcommand("serve").unwrap().get_arguments();
    let flags = arguments.filter_map(|argument| argument.get_long());
    let mut lines: Vec<Vec<String>> = flags
        .filter(|flag| !matches!(*flag, "config" | "bucket" | "journal" | "data-dir"))
        .map(|flag| vec!["serve".into(), "x".into(), format!("--{flag}={SECRET}")])
        .collect();
    lines.push(vec!["serve".into(), "x".into(), SECRET.into()]);
    lines.push(vec![SECRET.into()]);
    lines.push(vec!["serve".into(), "x".into(), format!("--unknown={SECRET}")]);
    for line in lines {
        let all = ["functions-host".to_owned()].into_iter().chain(line.clone());
        let read = CommandLine::read(all).map_err(|error| error.to_string());
        let settings = read.and_then(|line| match line.command {
            Command::Serve(serve) => serve.settings().map_err(|error| error.to_string()),
            Command::Demo => Err(String::new()),
        });
        if let Err(error) = settings {
            assert!(!error.contains(SECRET), "{line:?}\n{error}");
        }
    }
}

#[test]
fn log_streams_come_from_the_file_and_a_file_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("streams.toml");
    std::fs::write(&own, "[[log_stream]]\nname = \"second\"\nurl = \"https://b.example\"").unwrap();
    let file = r#"
        bucket = "none"
        deployment_name = "happy-animal-123"
        [[log_stream]]
        name = "siem"
        url = "https://a.example/hook"
        secrets = ["env:SECRET"]
    "#;
    let settings = settings(Some(file), &["--log-streams", own.to_str().unwrap()]).unwrap();
    let streams = &settings.destinations.log_streams;
    let told: Vec<_> = streams.iter().map(|s| (s.name.as_str(), s.journal.is_some())).collect();
    assert_eq!(told, [("siem", true), ("second", false)]);
    assert_eq!(streams[0].origin.deployment_name, "happy-animal-123");
    assert!(streams[0].dead_letters.as_ref().unwrap().ends_with("dead-letters/siem"));
}

#[test]
fn a_log_stream_for_development_is_the_only_destination_unless_a_bucket_is_set() {
    let dev = ["--dev-log-stream", "http://127.0.0.1:8000/logs", "--deployment-name", "mine"];
    let settings = |more: &[&str]| settings(None, &[&dev[..], more].concat()).unwrap();
    let alone = settings(&[]);
    assert!(alone.destinations.bucket.is_none());
    let [stream] = &alone.destinations.log_streams[..] else { panic!("one log stream") };
    assert!(stream.journal.is_some() && stream.check().is_ok());
    assert_eq!((&*stream.name, &*stream.origin.deployment_name), ("dev", "mine"));
    let both = settings(&["--bucket", "memory:///"]);
    assert!(both.destinations.bucket.is_some() && both.destinations.log_streams.len() == 1);
}

#[test]
fn secrets_in_the_place_of_their_sources_are_not_shown() {
    let file = "[[log_stream]]\nurl = \"https://a.example\"\nsecrets = [\"hunter2\"]";
    let error = settings(Some(file), &[]).unwrap_err();
    assert!(error.contains("line 3") && !error.contains("hunter2"), "{error}");
}

#[test]
fn settings_that_can_never_work_are_refused() {
    let times = [
        "header_timeout_ms",
        "body_timeout_ms",
        "first_message_timeout_ms",
        "idle_timeout_ms",
        "send_timeout_ms",
        "drain_timeout_ms",
        "close_timeout_ms",
        "persist_timeout_ms",
        "function_timeout_ms",
        "action_timeout_ms",
        "fetch_timeout_ms",
    ];
    let sizes = [
        "min_send_rate",
        "function_memory_mib",
        "fetch_request_mib",
        "fetch_response_mib",
        "fetch_memory_mib",
        "request_memory_mib",
        "max_request_values",
        "max_connections",
        "max_connections_per_address",
    ];
    let zeros = times.iter().chain(&sizes).map(|name| (format!("{name} = 0"), *name));
    // These may be 0.
    let switches = ["query_cache_mib", "kept_engines_mib", "store_reserve_mib"];
    let others = ["cut_after_ms", "linger_ms"];
    let most = times.iter().chain(&sizes).chain(&switches).chain(&others);
    let most = most.map(|name| (format!("{name} = {}", i64::MAX), *name));
    let texts = [
        ("deployment_name = \" \"", "deployment_name is empty"),
        ("deployment_region = \"\"", "deployment_region is empty"),
        ("journal = \"\"", "journal is empty"),
        ("data_dir = \"\"", "data_dir is empty"),
        ("evidence_key = \"\"", "evidence_key is empty"),
        ("log_streams = \"\"", "log_streams is empty"),
        ("[[auth]]\nissuer = \"x\"\naudience = \"x\"\njwks = \"\"", "jwks is empty"),
        ("bucket = \" \"", "bucket is empty"),
        ("evidence = \"on\"", "evidence is \"on\""),
        ("site_listen = \"\"", "site_listen: it is empty: write an address with a port"),
        (
            "operators_listen = \"3211\"",
            "operators_listen: it has no address: write 127.0.0.1:3211",
        ),
        ("fetch_proxy = \"ftp://x\"", "fetch_proxy is not an http or https URL"),
        ("fetch_memory_mib = 8\nfetch_response_mib = 9", "fetch_response_mib is 9, more than"),
        ("fetch_request_mib = 1000", "fetch_request_mib is 1000, more than fetch_memory_mib"),
    ];
    let texts = texts.map(|(file, says)| (file.to_owned(), says));
    for (file, says) in zeros.chain(most).chain(texts) {
        let error = settings(Some(&file), &[]).unwrap_err();
        assert!(error.contains(says), "{file}: {error}");
    }
    for name in switches.iter().chain(&others) {
        settings(Some(&format!("{name} = 0")), &[]).unwrap();
    }
}

#[test]
fn an_error_about_any_number_says_what_is_expected() {
    let command = CommandLine::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut told = 0;
    for flag in serve.get_arguments().filter_map(clap::Arg::get_long) {
        for value in ["hunter2", "-1", "99999999999999999999"] {
            let flag = format!("--{flag}={value}");
            let Err(error) = CommandLine::read(["functions-host", "serve", "convex", &flag]) else {
                continue;
            };
            let text = error.to_string();
            let bare = ["invalid digit found", "invalid socket address", "too large to fit"];
            if bare.iter().any(|bare| text.contains(bare)) {
                assert!(text.contains("it must be"), "{text}");
                told += 1;
            }
        }
    }
    assert!(told > 20, "{told}");
}
