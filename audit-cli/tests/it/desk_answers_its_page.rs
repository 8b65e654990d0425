//! `audit serve` answers requests with its token, under its own name, and returns what the command
//! finds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use audit_core::Batch;
use audit_sink_s3::Bucket;
use bytes::Bytes;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::RowAccessor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::support::{
    DAY, HOUR_MS, audit, command, environment, hourly, object_for_each_batch, url, write,
};

/// A page that is served until this is dropped.
pub(crate) struct Page {
    child: Child,
    pub(crate) address: String,
    token: String,
    pub(crate) cookie: String,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Page {
    /// Starts the command, and reads the address that it prints, which has this scheme.
    async fn start(
        environment: &[(&'static str, String)],
        arguments: &[&str],
        scheme: &str,
    ) -> Page {
        let mut serve = command();
        serve.arg("serve").args(arguments).envs(environment.iter().cloned());
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let first = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            line
        });
        let first = first.await.unwrap();
        let (_, rest) = first.split_once(scheme).unwrap();
        let (address, token) = rest.trim().split_once("/?token=").unwrap();
        Page { child, address: address.to_owned(), token: token.to_owned(), cookie: String::new() }
    }

    async fn open(environment: &[(&'static str, String)], bucket: &str) -> Page {
        Page::open_with(environment, &[bucket]).await
    }

    pub(crate) async fn open_with(
        environment: &[(&'static str, String)],
        arguments: &[&str],
    ) -> Page {
        let mut page = Page::start(environment, arguments, "http://").await;
        let token = &page.token;
        let admitted = page.get(&format!("/?token={token}&text=x%26y"), &[]).await;
        assert_eq!(admitted.status, 303, "{}", admitted.head);
        assert!(admitted.head.contains("location: /?text=x%26y\r\n"), "{}", admitted.head);
        let (_, cookie) = admitted.head.split_once("set-cookie: ").unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        page.cookie = cookie.split(';').next().unwrap().to_owned();
        page
    }

    /// The answer to a request with these headers besides the cookie and the host.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.0\r\n");
        let ours = [("Host", self.address.as_str()), ("Cookie", &self.cookie)];
        let ours = ours.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name));
        for (name, value) in ours.chain(headers) {
            head += &format!("{name}: {value}\r\n");
        }
        self.send(&(head + "\r\n")).await
    }

    /// The result of the verification, once it has ended.
    pub(crate) async fn integrity(&self) -> Value {
        loop {
            let answer = self.get("/api/integrity", &[]).await;
            let integrity: Value = serde_json::from_str(&answer.body).unwrap();
            if integrity["running"].is_null() {
                return integrity;
            }
        }
    }

    async fn send(&self, request: &str) -> Answer {
        let answer = String::from_utf8(self.exchange(request).await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: format!("{head}\r\n"), body: body.to_owned() }
    }

    async fn exchange(&self, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    /// A file that is not text.
    async fn file(&self, path: &str) -> Bytes {
        let (host, cookie) = (&self.address, &self.cookie);
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        let answer = self.exchange(&request).await;
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        Bytes::from(answer).slice(body..)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_the_token_is_answered() {
    let (server, _) = hourly(3).await;
    let page = Page::open(&environment(&server), &url(&server)).await;
    let (port, name) = (page.address.rsplit_once(':').unwrap().1, "Host");
    let local = format!("localhost:{port}");
    let stranger = format!("rebound.example:{port}");
    let wrong = page.cookie.replace(&page.token[..4], "zzzz");
    for path in ["/", "/assets/desk.js", "/api/overview", "/api/scan", "/api/export"] {
        for (headers, status) in [
            (&[][..], 200),
            (&[(name, &*local)], 200),
            (&[(name, &*stranger)], 421),
            (&[(name, "127.0.0.1")], 421),
            (&[("Cookie", "")], 401),
            (&[("Cookie", &*wrong)], 401),
            (&[("Cookie", &*page.token)], 401),
            (&[("Sec-Fetch-Site", "same-origin")], 200),
            (&[("Sec-Fetch-Site", "cross-site")], if path == "/" { 200 } else { 403 }),
        ] {
            let answer = page.get(path, headers).await;
            assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.head);
            for part in [
                "content-security-policy: default-src 'none'; script-src 'self';",
                "x-content-type-options: nosniff",
                "referrer-policy: no-referrer",
                "cache-control: no-store",
            ] {
                assert!(answer.head.contains(part), "{path} {headers:?}: {}", answer.head);
            }
            let has_records = answer.body.contains("user1") || answer.body.contains("\"kind\"");
            let is_told = status == 200 && (path.ends_with("scan") || path.ends_with("export"));
            assert_eq!(has_records, is_told, "{path} {headers:?}");
        }
    }
    let address = &page.address;
    let cookie = &page.cookie;
    let post = format!("POST /api/scan HTTP/1.0\r\nHost: {address}\r\nCookie: {cookie}\r\n\r\n");
    assert_eq!(page.send(&post).await.status, 405);
    assert_eq!(page.get("/?token=0", &[]).await.status, 401);
    assert_eq!(page.get("/api/scan?where=user", &[]).await.status, 400);
    assert_eq!(page.get("/api/export?format=xml", &[]).await.status, 400);
    // Scripts and styles are files of the page, so that its policy can forbid all others.
    let index = page.get("/", &[]).await.body;
    assert!(!index.contains("<style") && !index.contains(" style=") && !index.contains(" onclick"));
    assert!(!index.contains("://") && index.matches("<script").count() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_matches_the_command() {
    let (server, _) = hourly(60).await;
    let (environment, url) = (environment(&server), url(&server));
    let page = Page::open(&environment, &url).await;
    let from = DAY + 3 * HOUR_MS;
    let until = DAY + 50 * HOUR_MS;
    let range = format!("from={from}&until={until}&time=/at&column=/user&column=/i");
    let asked = "where=/user%20in%20user1,user3&where=/i%3E=5";
    let command =
        ["search", "/i>=5", &url, "-w", "/user in user1,user3", "--time", "/at", "--json"];
    let (since, to) = ("2023-11-14T03:00", "2023-11-16T02:00");
    let command = [&command[..], &["--since", since, "--until", to]].concat();
    let found: Vec<(Value, Value)> = audit(&environment, &command)
        .await
        .json()
        .into_iter()
        .map(|line| (line["stream"].clone(), line["sequence"].clone()))
        .collect();
    assert_eq!(found.len(), 95);
    let place = |row: &Value| (row["stream"].clone(), row["sequence"].clone());
    let rows_of = |answer: &Answer| -> Vec<Value> {
        let rows = answer.lines().into_iter().filter(|line| line["kind"] == "rows");
        rows.flat_map(|line| line["rows"].as_array().unwrap().clone()).collect()
    };
    let path = format!("/api/scan?{range}&{asked}&rows=1000&facet=/user&stack=/user&bin=3600000");
    let oldest = page.get(&format!("{path}&order=oldest"), &[]).await;
    let rows = rows_of(&oldest);
    assert_eq!(rows.iter().map(place).collect::<Vec<_>>(), found);
    let newest = rows_of(&page.get(&path, &[]).await);
    assert_eq!(newest.iter().rev().map(place).collect::<Vec<_>>(), found);
    let counts = oldest.lines().into_iter().rfind(|line| line["kind"] == "counts").unwrap();
    assert_eq!((&counts["searched"], &counts["matched"]), (&470.into(), &95.into()));
    let facet: Vec<_> = counts["facets"][0]["values"].as_array().unwrap().clone();
    let facet: Vec<_> = facet.iter().map(|value| (&value["json"], &value["count"])).collect();
    assert_eq!(facet, [(&"\"user3\"".into(), &50.into()), (&"\"user1\"".into(), &45.into())]);
    let bins = counts["bins"].as_array().unwrap();
    assert_eq!(bins.len(), 19);
    assert!(bins.iter().all(|bin| bin["values"][0]["count"] == 5));
    assert_eq!(oldest.lines().pop().unwrap()["kind"], "end");
    // Page by page, in both orders.
    for (order, all) in [("oldest", &rows), ("newest", &newest)] {
        let mut paged = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/api/records?{range}&{asked}&rows=20&order={order}{after}");
            let answer = page.get(&path, &[]).await;
            let answer: Value = serde_json::from_str(&answer.body).unwrap();
            let rows = answer["rows"].as_array().unwrap().clone();
            let Some(last) = rows.last() else { break };
            let object = last["object"].as_str().unwrap();
            after = format!("&after={object}~{}", last["sequence"]);
            paged.extend(rows);
        }
        assert_eq!(&paged, all, "{order}");
    }
    // The export, and one record with its neighbours.
    let file = page.get(&format!("/api/export?{range}&{asked}&format=ndjson"), &[]).await;
    assert_eq!(file.body.lines().count(), 95);
    let file = page.file(&format!("/api/export?{range}&{asked}&format=parquet")).await;
    let file = SerializedFileReader::new(file).unwrap();
    let exported: Vec<(Value, Value)> = file
        .get_row_iter(None)
        .unwrap()
        .map(|row| {
            let row = row.unwrap();
            (row.get_string(0).unwrap().as_str().into(), row.get_long(1).unwrap().into())
        })
        .collect();
    assert_eq!(exported, found);
    let (row, next) = (&rows[4], &rows[5]);
    let object = row["object"].as_str().unwrap();
    let path = format!("/api/record?object={object}&sequence={}", row["sequence"]);
    let record: Value = serde_json::from_str(&page.get(&path, &[]).await.body).unwrap();
    let line: Value = serde_json::from_str(record["line"].as_str().unwrap()).unwrap();
    assert_eq!(line["i"].to_string(), row["cells"][1].as_str().unwrap());
    assert_ne!(row["object"], next["object"]);
    let numbers = |side: &str| -> Vec<u64> {
        let beside = record[side].as_array().unwrap().iter();
        beside.map(|record| record["sequence"].as_u64().unwrap()).collect()
    };
    let number = row["sequence"].as_u64().unwrap();
    assert_eq!(numbers("before"), (number - 5..number).collect::<Vec<_>>());
    assert_eq!(numbers("after"), (number + 1..=number + 5).collect::<Vec<_>>());
}

/// A record may claim any time. It is found unless the selection excludes its time, and it is
/// counted in the timeline.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_any_time_are_shown_as_the_command_prints_them() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let seconds = DAY / 1_000;
    let times = [DAY + 5, DAY + HOUR_MS, seconds, -1, DAY * 1_000, i64::MAX, DAY - 30 * HOUR_MS];
    let lines: String = times.iter().map(|at| format!("{{\"at\":{at}}}\n")).collect();
    let batch = Batch::from_lines(DAY, (lines + "{\"at\":1e400}\n{\"at\":null}\n").into()).unwrap();
    write(bucket, object_for_each_batch(), vec![batch]).await;
    let place = root.path().to_str().unwrap();
    let page = Page::open(&[], place).await;
    let view = format!("time=/at&rows=100&begin={DAY}&end={}&bin={HOUR_MS}", DAY + 2 * HOUR_MS);
    let range = ["--since", "2023-11-14", "--until", "2023-11-14T02"];
    let chosen = format!("&from={DAY}&until={}", DAY + 2 * HOUR_MS);
    // Records without a time are left out by the command, and shown by the page.
    for (chosen, range, records, untimed, bins) in
        [("", &[][..], 9, 0, [8, 1]), (&*chosen, &range, 2, 1, [2, 1])]
    {
        let command = [&["cat", place, "--time", "/at"], range].concat();
        assert_eq!(audit(&[], &command).await.lines().len(), records, "{chosen}");
        let answer = page.get(&format!("/api/scan?{view}{chosen}"), &[]).await.lines();
        let counts = answer.iter().rfind(|line| line["kind"] == "counts").unwrap();
        assert_eq!(counts["matched"], records + untimed, "{chosen} {counts}");
        let found: Vec<(Value, Value)> = counts["bins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bin| (bin["begin"].clone(), bin["values"][0]["count"].clone()))
            .collect();
        let expected = [(DAY, bins[0]), (DAY + HOUR_MS, bins[1])];
        let expected = expected.map(|(begin, count)| (Value::from(begin), Value::from(count)));
        assert_eq!(found, expected, "{chosen}");
    }
}

/// A body may spell a text with more escapes than it needs.
#[tokio::test(flavor = "multi_thread")]
async fn equal_texts_are_counted_together_however_they_are_spelled() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let spellings = [
        r#"{"user":"a/b","ip":"::1"}"#,
        r#"{"user":"a\/b","ip":"\u003a:1"}"#,
        r#"{"\u0075ser":"\u0061/b","ip":"::1"}"#,
        r#"{"user":"é\"","ip":"::2"}"#,
        r#"{"user":"\u00e9\u0022"}"#,
    ];
    let lines: String = spellings.iter().map(|line| format!("{line}\n")).collect();
    let batch = Batch::from_lines(DAY, lines.into()).unwrap();
    write(bucket, object_for_each_batch(), vec![batch]).await;
    let place = root.path().to_str().unwrap();
    let page = Page::open(&[], place).await;
    let scanned = page.get("/api/scan?facet=/user&stack=/user", &[]).await.lines();
    let counts = scanned.iter().rfind(|line| line["kind"] == "counts").unwrap();
    for values in [&counts["facets"][0]["values"], &counts["bins"][0]["values"]] {
        let mut values: Vec<_> = values
            .as_array()
            .unwrap()
            .iter()
            .map(|value| (value["count"].as_u64().unwrap(), value["json"].as_str().unwrap()))
            .collect();
        values.sort_unstable();
        assert_eq!(values, [(2, r#""é\"""#), (3, r#""a/b""#)], "{counts}");
        for (count, json) in values {
            let found = audit(&[], &["search", &format!("/user={json}"), place]).await;
            assert_eq!(found.lines().len() as u64, count, "{json}");
        }
    }
    let counted = audit(&[], &["stats", place, "--by", "/user", "--json"]).await.json();
    let counted: Vec<_> = counted
        .iter()
        .map(|line| (line["/user"].clone(), line["records"].clone(), line["addresses"].clone()))
        .collect();
    let of = |user: &str, records, addresses| {
        (user.into(), Value::from(records), Value::from(addresses))
    };
    assert_eq!(counted, [of("a/b", 3, 1), of("é\"", 2, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_reach_the_page_with_tls_alone() {
    let (server, _) = hourly(1).await;
    let bucket = url(&server);
    let open = ["serve", &bucket, "--listen", "0.0.0.0:0"];
    let ran = audit(&environment(&server), &open).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{ran:?}");
    assert!(ran.err.contains("--tls-cert"), "{ran:?}");
    assert!(ran.err.contains("--proxy https://NAME"), "{ran:?}");
    let plain = ["serve", &bucket, "--proxy", "http://audit.example.com"];
    assert_eq!(audit(&environment(&server), &plain).await.code, Some(2));
}

fn self_signed(to: &Path, name: &str) -> (String, String, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let path = |kind: &str| to.join(format!("{name}.{kind}")).to_str().unwrap().to_owned();
    fs::write(path("crt"), made.cert.pem()).unwrap();
    fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    (path("crt"), path("key"), made.cert.der().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_tls_of_its_own() {
    let (server, _) = hourly(1).await;
    let (environment, bucket) = (environment(&server), url(&server));
    let files = tempfile::tempdir().unwrap();
    let (chain, key, certificate) = self_signed(files.path(), "desk.example");
    let (_, other_key, _) = self_signed(files.path(), "other.example");
    let tls = [&*bucket, "--tls-cert", &chain, "--tls-key", &key, "--name", "desk.example"];
    let mut page = Page::start(&environment, &tls, "https://").await;
    let port: u16 = page.address.strip_prefix("desk.example:").unwrap().parse().unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let get = async |path: &str, cookie: &str| {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("desk.example").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let host = &page.address;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let admitted = get(&format!("/?token={}", page.token), "").await;
    assert!(admitted.starts_with("HTTP/1.0 303") && admitted.contains("; Secure"), "{admitted}");
    let (_, cookie) = admitted.split_once("set-cookie: ").unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let answered = get("/api/overview", cookie).await;
    assert!(answered.starts_with("HTTP/1.0 200") && answered.contains("\"days\":1"), "{answered}");
    assert!(get("/api/overview", "").await.starts_with("HTTP/1.0 401"));
    // Without TLS the only response is a TLS alert.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    page.child.kill().unwrap();

    for (options, said) in [
        (&["--tls-cert", &*chain, "--tls-key", &key][..], "cannot be used"),
        (&["--tls-cert", &chain, "--tls-key", &key, "--name", "a.example"], "cannot be used"),
        (&["--tls-cert", &chain, "--tls-key", &other_key, "--name", "desk.example"], "the key"),
        (&["--tls-cert", &key, "--tls-key", &key, "--name", "desk.example"], "the certificate"),
        (&["--tls-cert", &chain, "--tls-key", &key, "--listen", "0.0.0.0:0"], "--name NAME"),
    ] {
        let refused = audit(&environment, &[&["serve", &bucket], options].concat()).await;
        assert_eq!((refused.code, refused.out.as_str()), (Some(3), ""), "{refused:?}");
        assert!(refused.err.contains(said), "{options:?}: {refused:?}");
    }
    let alone = audit(&environment, &["serve", &bucket, "--tls-cert", &chain]).await;
    assert_eq!(alone.code, Some(2), "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_named_and_hides_no_other() {
    let (server, _) = hourly(8).await;
    let objects = server.objects();
    let (key, object) = objects.iter().nth(3).unwrap();
    let mut cut = object.clone();
    cut.bytes = cut.bytes.slice(..cut.bytes.len() / 2);
    server.put_object(key, cut);
    let page = Page::open(&environment(&server), &url(&server)).await;
    let lines = page.get("/api/scan?rows=1000", &[]).await.lines();
    let damage: Vec<_> = lines.iter().filter(|line| line["kind"] == "damage").collect();
    assert_eq!(damage.len(), 1);
    assert!(key.ends_with(damage[0]["object"].as_str().unwrap()), "{damage:?}");
    let end = lines.last().unwrap();
    assert_eq!((&end["kind"], &end["damaged"]), (&"end".into(), &1.into()));
    let counts = lines.iter().rfind(|line| line["kind"] == "counts").unwrap();
    assert!(counts["matched"].as_u64().unwrap() >= 70, "{counts}");
}

/// A listing that the store refuses once does not affect later answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_with_its_request() {
    use s3_testserver::{ErrorAnswer, Fault, RequestInfo};
    let (server, _) = hourly(3).await;
    let page = Page::open(&environment(&server), &url(&server)).await;
    let searched = async || page.get("/api/scan", &[]).await.lines().pop().unwrap();
    assert_eq!(searched().await["incomplete"], false);
    server.faults().plan(|request: &RequestInfo| {
        let is_refused = request.prefix.as_deref().is_some_and(|prefix| prefix.contains("hour=01"));
        if is_refused { Fault::Refused(ErrorAnswer::ACCESS_DENIED) } else { Fault::None }
    });
    assert_eq!(searched().await["incomplete"], true);
    server.faults().none();
    assert_eq!(searched().await["incomplete"], false);
    let export = page.get("/api/export?format=ndjson", &[]).await;
    assert_eq!((export.status, export.body.lines().count()), (200, 30));
}
