//! `search`, `who`, `stats --by` and `export` find the same records as a plain loop over all of
//! them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use audit_core::Batch;
use audit_sink_s3::Bucket;
use serde_json::{Value, json};

use crate::support::{DAY, HOUR_MS, audit, command, object_for_each_batch, write};

const USERS: [&str; 4] = ["ada", "bob", "eve", "\u{1b}[31mmallory\u{202e}"];
const ACTIONS: [&str; 3] = ["documents.view", "documents.update", "login"];

/// 240 records over three days, forty in each object.
fn records() -> Vec<Value> {
    let record = |n: usize| {
        let mut record = json!({
            "action": ACTIONS[n % 3],
            "user": USERS[n / 3 % 4],
            "document": format!("doc{}", n % 7),
            "size": format!("9007199254740{:03}", n),
            "client": {"ip": format!("10.0.0.{}", n % 5)},
            "at": DAY + i64::try_from(n).unwrap() * 3 * HOUR_MS / 10,
        });
        if n.is_multiple_of(11) {
            record["note"] = json!("=HYPERLINK(\"x\"), a \"quoted\" note\nwith lines");
        }
        record
    };
    (0..240).map(record).collect()
}

/// Writes them to a directory. Sizes are numbers above 2^53.
async fn directory() -> (tempfile::TempDir, Vec<Value>) {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let records = records();
    let batches = records.chunks(40).map(|records| {
        let lines: String = records.iter().map(|record| line(record) + "\n").collect();
        Batch::from_lines(records[0]["at"].as_i64().unwrap(), lines.into()).unwrap()
    });
    write(bucket, object_for_each_batch(), batches.collect()).await;
    (root, records)
}

fn line(record: &Value) -> String {
    let text = record.to_string();
    let size = record["size"].as_str().unwrap();
    text.replace(&format!("\"{size}\""), size)
}

fn lines(records: &[Value], is_wanted: impl Fn(usize, &Value) -> bool) -> Vec<String> {
    let wanted = records.iter().enumerate().filter(|(n, record)| is_wanted(*n, record));
    wanted.map(|(_, record)| line(record)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_print_matches_and_totals() {
    let (root, records) = directory().await;
    let place = root.path().to_str().unwrap();
    let is = |record: &Value, member: &str, value: &str| record[member] == value;
    type Wanted<'a> = Box<dyn Fn(usize, &Value) -> bool + 'a>;
    let cases: Vec<(&[&str], Wanted<'_>)> = vec![
        (&["bob"], Box::new(|_, record| is(record, "user", "bob"))),
        (&["/user=bob"], Box::new(|_, record| is(record, "user", "bob"))),
        (&["mallory"], Box::new(|_, record| is(record, "user", USERS[3]))),
        (&["\u{1b}[31m"], Box::new(|_, record| is(record, "user", USERS[3]))),
        (&["quoted\" note\nwith"], Box::new(|n, _| n.is_multiple_of(11))),
        (&["note"], Box::new(|n, _| n.is_multiple_of(11))),
        (&["!/note"], Box::new(|n, _| !n.is_multiple_of(11))),
        (&["/user!=bob"], Box::new(|_, record| !is(record, "user", "bob"))),
        (&["/size>9007199254740100"], Box::new(|n, _| n > 100)),
        (&["/size<=9007199254740100"], Box::new(|n, _| n <= 100)),
        (&["/client/ip~0.0.3"], Box::new(|n, _| n % 5 == 3)),
        (&["/document in doc1,doc6"], Box::new(|n, _| n % 7 == 1 || n % 7 == 6)),
        (
            &["documents", "--where", "/user=eve", "-w", "/action~update"],
            Box::new(|_, record| {
                is(record, "user", "eve") && is(record, "action", "documents.update")
            }),
        ),
        (&["--text", "/user=bob"], Box::new(|_, _| false)),
        (&["/nobody"], Box::new(|_, _| false)),
    ];
    for (query, is_wanted) in cases {
        let expected = lines(&records, is_wanted);
        let (query, more) = match query {
            ["--text", query] => (query, vec!["--text"]),
            [query, more @ ..] => (query, more.to_vec()),
            [] => unreachable!(),
        };
        let ran = audit(&[], &[&["search", query, place], &more[..]].concat()).await;
        assert_eq!(ran.lines(), expected, "{query}");
        let matches = if expected.len() == 1 { "matches" } else { "match" };
        let said = format!("searched 240 records of 3 days, {} {matches}\n", expected.len());
        assert!(ran.err.ends_with(&said), "{query}: {}", ran.err);
    }
    let limited = audit(&[], &["search", "bob", place, "-n", "3"]).await;
    assert_eq!(limited.lines().len(), 3);
    assert!(limited.err.contains("3 match; stopped at the limit"), "{}", limited.err);
    let nothing = audit(&[], &["search", "", place]).await;
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_match_a_simple_loop() {
    let (root, records) = directory().await;
    let place = root.path().to_str().unwrap();
    let grouped =
        ["stats", place, "--by", "/user,/action", "--per", "day", "--json", "-w", "/note"];
    let found = audit(&[], &grouped).await;
    let day = |at: i64| {
        let day = at.div_euclid(24 * HOUR_MS) - DAY.div_euclid(24 * HOUR_MS);
        format!("2023-11-{}", 14 + day)
    };
    let with_note = records.iter().filter(|record| record.get("note").is_some());
    let with_note: Vec<_> = with_note.collect();
    let key = |record: &Value| {
        (day(record["at"].as_i64().unwrap()), record["user"].clone(), record["action"].clone())
    };
    let keys: BTreeSet<String> =
        with_note.iter().map(|record| format!("{:?}", key(record))).collect();
    let groups = found.json();
    assert_eq!(groups.len(), keys.len(), "{found:?}");
    for group in &groups {
        let of: Vec<_> = with_note
            .iter()
            .filter(|record| {
                key(record)
                    == (
                        group["day"].as_str().unwrap().to_owned(),
                        group["/user"].clone(),
                        group["/action"].clone(),
                    )
            })
            .collect();
        let ips: BTreeSet<_> =
            of.iter().map(|record| record["client"]["ip"].as_str().unwrap()).collect();
        assert_eq!(group["records"], of.len(), "{group}");
        assert_eq!(group["addresses"], ips.len(), "{group}");
    }
    assert!(groups.is_sorted_by_key(|group| group["day"].as_str().unwrap().to_owned()));

    let who = audit(&[], &["who", "/document=doc3", place]).await;
    let shown = who.lines();
    assert!(shown[0].starts_with("WHO") && shown[0].ends_with("ADDRESSES"), "{who:?}");
    let of_doc3 = records.iter().filter(|record| record["document"] == "doc3");
    let pairs: BTreeSet<String> =
        of_doc3.map(|record| format!("{} {}", record["user"], record["action"])).collect();
    assert_eq!(shown.len(), 1 + pairs.len(), "{who:?}");
    assert!(who.err.contains("searched 240 records of 3 days, 34 match"), "{}", who.err);
    // Names of users are chosen by strangers.
    assert!(!who.out.contains(['\u{1b}', '\u{202e}']), "{who:?}");
    assert!(who.out.contains("\\u{1b}[31mmallory\\u{202e}"), "{who:?}");

    let small = audit(&[], &["stats", place, "--by", "/size", "--memory", "1", "--json"]).await;
    let counted: u64 = small.json().iter().map(|group| group["records"].as_u64().unwrap()).sum();
    assert_eq!(counted, 240);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_exact_and_open_safely() {
    let (root, records) = directory().await;
    let place = root.path().to_str().unwrap();
    let whole = audit(&[], &["export", place, "--format", "ndjson"]).await;
    assert_eq!(whole.lines(), lines(&records, |_, _| true));
    let some = ["export", place, "--format", "csv", "--columns", "/user,/note,/size", "-w"];
    let csv = audit(&[], &[&some[..], &["/note"]].concat()).await;
    assert_eq!(csv.code, Some(0), "{csv:?}");
    assert!(csv.out.starts_with("stream,sequence,/user,/note,/size\n"), "{csv:?}");
    assert!(
        csv.out.contains(
            ",\"'=HYPERLINK(\"\"x\"\"), a \"\"quoted\"\" note\nwith lines\",9007199254740000\n"
        ),
        "{csv:?}"
    );
    assert_eq!(csv.out.matches("\"'=HYPERLINK").count(), 22);
    // Without `--columns`, the columns are the members of the first records, and the record itself.
    let all = audit(&[], &["export", place, "--format", "csv", "-w", "/document=doc3"]).await;
    let head = all.out.lines().next().unwrap();
    assert!(head.starts_with("stream,sequence,/") && head.ends_with(",record"), "{head}");
    for column in ["/action", "/client/ip", "/at", "/size"] {
        assert!(head.contains(column), "{head}");
    }
    // Members that have no column in Parquet are named.
    let columns = "/user,/client,/client/ip,/no,/a b,/user/0";
    let mut export = command();
    export.args(["export", place, "--format", "parquet", "--columns", columns]);
    let exported = tokio::task::spawn_blocking(move || export.output().unwrap()).await.unwrap();
    let said = String::from_utf8(exported.stderr).unwrap();
    let named: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("audit: --columns ")).collect();
    let named: Vec<&str> = named.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(named, ["/client", "/no", "/a b", "/user/0"], "{said}");
}

/// Objects are filed under the hour of their first record. One contains a record of the next hour,
/// and one a record from just before its hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_own_times_finds_records_filed_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let begin = DAY + 5 * HOUR_MS;
    let object = |filed: i64, times: [i64; 2]| {
        let lines =
            times.map(|at| format!("{{\"user\":\"ada\",\"action\":\"view\",\"at\":{at}}}\n"));
        Batch::from_lines(filed, lines.concat().into()).unwrap()
    };
    let batches = vec![
        object(begin - HOUR_MS, [begin - 1, begin]),
        object(begin, [begin + 1, begin + 2]),
        object(begin + HOUR_MS, [begin + HOUR_MS, begin + HOUR_MS - 1]),
    ];
    write(bucket, object_for_each_batch(), batches).await;
    let place = root.path().to_str().unwrap();
    let range = ["--since", "2023-11-14T05", "--until", "2023-11-14T06", "--time", "/at", "--json"];
    let of = |command: &[&'static str]| [command, &[place], &range[..]].concat();
    for command in [&["cat"][..], &["cat", "--outcomes"], &["search", "ada"]] {
        let found = audit(&[], &of(command)).await;
        let lines = found.json();
        let times = lines.iter().map(|line| line["record"]["at"].as_i64().unwrap() - begin);
        assert_eq!(times.collect::<Vec<_>>(), [0, 1, 2, HOUR_MS - 1], "{command:?}");
    }
    let exported = audit(&[], &of(&["export", "--format", "ndjson"])).await;
    assert_eq!(exported.lines().len(), 4, "{exported:?}");
    for command in [&["who", "ada"][..], &["stats", "--by", "/user"]] {
        let counted = audit(&[], &of(command)).await;
        assert_eq!(counted.json()[0]["records"], 4, "{command:?}: {counted:?}");
    }
    let searched = audit(&[], &of(&["search", "ada"])).await;
    assert!(searched.err.contains("searched 4 records of 1 day"), "{}", searched.err);
}
