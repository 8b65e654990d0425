//! `report` contains what `stats`, `verify` and `doctor` find, and its signature covers its files.

use std::fs;

use serde_json::Value;

use super::{bucket, key, put, write};
use crate::desk_answers_its_page::Page;
use crate::support::audit;

#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_what_the_commands_say_and_is_signed() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let whole = bucket(0);
    write(&whole, &root.path().join("bucket"));
    let (place, host, out) = (file("bucket"), key(&whole), file("report"));
    let signer = file("auditor.key");
    let made = audit(&[], &["key", &signer, "--make", "example.com/auditor"]).await;
    let auditor = made.lines()[0].to_owned();
    let range = ["--from", "2000-01-01", "--to", "2100-01-01"];
    let arguments = ["report", &place, "--key", &host, "--sign", &signer, "-o", &out];
    let ran = audit(&[], &[&arguments[..], &range].concat()).await;
    let verified =
        audit(&[], &["verify", &place, "--key", &host, "--json", "--since", "2000-01-01"]).await;
    assert_eq!(ran.out.lines().count(), 3, "{ran:?}");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(out.clone() + ".json").unwrap()).unwrap();
    let expected = verified.json().pop().unwrap();
    for name in ["tampered", "unproven", "late", "expired", "hosts", "gaps", "keys"] {
        assert_eq!(report["verification"]["summary"][name], expected[name], "{name}");
    }
    let stats = audit(&[], &["stats", &place, "--json", "--since", "2000-01-01"]).await;
    let stats = stats.json().pop().unwrap();
    assert_eq!(report["population"]["days"], stats["days"]);
    assert_eq!(report["population"]["logs"], stats["logs"]);
    assert_eq!(report["keys"][0]["key"], host);
    assert!(!report["settings"]["checks"].as_array().unwrap().is_empty(), "{report}");
    let page = fs::read_to_string(out.clone() + ".html").unwrap();
    assert!(page.contains("Population by day") && page.contains("default-src 'none'"));

    let note = out.clone() + ".note";
    for suffix in [".html", ".json"] {
        let report = out.clone() + suffix;
        let checked = audit(&[], &["check", &note, &report, "--key", &auditor]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        // A key that was replaced may have signed it at any time.
        let replaced = format!("{auditor} until 2100-01-01");
        let late = audit(&[], &["check", &note, &report, "--key", &replaced]).await;
        assert!(late.code == Some(1) && late.out.contains("nothing proves"), "{late:?}");
        let since = format!("{auditor} from 2020-01-01");
        let checked = audit(&[], &["check", &note, &report, "--key", &since]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let other = audit(&[], &["check", &note, &report, "--key", &host]).await;
        assert_eq!(other.code, Some(1), "{other:?}");
        fs::write(&report, fs::read_to_string(&report).unwrap() + " ").unwrap();
        let altered = audit(&[], &["check", &note, &report, "--key", &auditor]).await;
        assert_eq!(altered.code, Some(1), "{altered:?}");
    }
    // The keys of a policy are trusted too.
    let policy = file("policy");
    fs::write(&policy, format!("log {host}\nquorum none\n")).unwrap();
    let by_policy = ["report", &place, "--policy", &policy, "-o", &out];
    audit(&[], &[&by_policy[..], &range].concat()).await;
    let report = fs::read_to_string(out.clone() + ".json").unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["keys"][0]["key"], host, "{report}");
    assert_eq!(report["verification"]["summary"]["keys"][0], host, "{report}");
    // Altered records are in the report too.
    let object = whole.objects.iter().find(|object| object.key.ends_with(".ndjson")).unwrap();
    let path = root.path().join("bucket").join(&object.key);
    fs::write(&path, fs::read_to_string(&path).unwrap() + "{}\n").unwrap();
    let tampered = audit(&[], &[&arguments[..], &range].concat()).await;
    assert_eq!(tampered.code, Some(1), "{tampered:?}");
    assert!(fs::read_to_string(out + ".html").unwrap().contains("The log was tampered with."));
    let backwards =
        audit(&[], &["report", &place, "--from", "2026-01-02", "--to", "2026-01-01"]).await;
    assert_eq!(backwards.code, Some(2), "{backwards:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_host_wrote_are_in_report_and_page() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let whole = bucket(0);
    write(&whole, &root.path().join("bucket"));
    let forged = "dt=2025-11-24/inserted.ndjson";
    put(&root.path().join("bucket"), forged, "{\"action\":\"forged\"}\n");
    let (place, host, out) = (file("bucket"), key(&whole), file("report"));
    let arguments = [
        "report",
        &place,
        "-o",
        &out,
        "--from",
        "2000-01-01",
        "--to",
        "2100-01-01",
        "--key",
        &host,
    ];
    // Without a key nothing is verified, but the foreign object is named all the same.
    for arguments in [&arguments[..8], &arguments] {
        let ran = audit(&[], arguments).await;
        assert!(ran.err.is_empty(), "{ran:?}");
        let report = fs::read_to_string(out.clone() + ".json").unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let foreign = &report["population"]["foreign"];
        assert_eq!(foreign["count"], 1);
        assert_eq!(foreign["example"], forged);
        let page = fs::read_to_string(out.clone() + ".html").unwrap();
        assert!(page.contains("no host wrote") && page.contains(forged), "{page}");
    }
    let page = Page::open_with(&[], &[&place, "--key", &host]).await;
    let ended = loop {
        let now: Value = serde_json::from_str(&page.get("/api/integrity", &[]).await.body).unwrap();
        if now["state"] != "running" {
            break now;
        }
    };
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(ended["unproven"], 1, "{ended}");
    assert_eq!(ended["findings"][0]["object"], forged, "{ended}");
}
