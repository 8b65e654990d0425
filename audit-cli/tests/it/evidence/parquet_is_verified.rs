//! `verify --parquet` proves that Parquet files contain what was signed, and finds altered ones.

use std::fs;
use std::path::{Path, PathBuf};

use s3_testserver::{S3TestServer, StoredObject};

use super::{bucket, key, write};
use crate::support::{audit, environment};

#[tokio::test(flavor = "multi_thread")]
async fn compacted_records_are_proven_and_altered_ones_found() {
    for seed in 0..3 {
        let root = tempfile::tempdir().unwrap();
        let (place, to) = (root.path().join("bucket"), root.path().join("parquet"));
        let whole = bucket(seed);
        write(&whole, &place);
        let (place, to) = (place.to_str().unwrap(), to.to_str().unwrap());
        let host = key(&whole);
        let made = audit(&[], &["compact", place, "--to", to, "--json"]).await;
        let lines = made.json();
        let objects: u64 = lines.iter().map(|line| line["objects"].as_u64().unwrap()).sum();
        assert!(objects > 0 && made.code == Some(0), "{made:?}");
        let verify = async |options: &[&str]| {
            let arguments = [&["verify", place, "--key", &host, "--json"], options].concat();
            audit(&[], &arguments).await
        };
        let (plain, sound) = (verify(&[]).await, verify(&["--parquet", to]).await);
        assert_eq!(sound.code, plain.code, "{sound:?}");
        let totals = sound.json().pop().unwrap();
        assert_eq!(totals["parquet"]["objects"], objects, "{totals}");
        assert_eq!(totals["parquet"]["missing_objects"], 0, "{totals}");
        assert_eq!(totals["tampered"], plain.json().pop().unwrap()["tampered"]);
        // No file is made again.
        let again = audit(&[], &["compact", place, "--to", to]).await;
        assert_eq!((again.code, again.out.as_str()), (Some(0), ""), "{again:?}");
        // The files cannot be created below the records, where a reader of the records would find
        // them.
        let refused = audit(&[], &["compact", place, "--to", &format!("{place}/parquet")]).await;
        assert!(refused.code == Some(3) && refused.err.contains("not apart"), "{refused:?}");
        assert!(!fs::exists(format!("{place}/parquet")).unwrap());

        let file = format!("{to}/{}", lines[0]["file"].as_str().unwrap());
        let mut content = fs::read(&file).unwrap();
        let at = content.len() / 2;
        content[at] ^= 4;
        fs::write(&file, content).unwrap();
        let altered = verify(&["--parquet", to]).await;
        assert_eq!(altered.code, Some(1), "{altered:?}");
        let mut findings = altered.json().into_iter();
        assert!(
            findings.any(|line| line["finding"] == "compacted"
                && line["object"].as_str().unwrap().ends_with("000000.parquet")),
            "{altered:?}"
        );

        // A removed file is named, and the hours that it held.
        fs::remove_file(&file).unwrap();
        let removed = verify(&["--parquet", to]).await;
        assert_eq!(removed.code, plain.code, "{removed:?}");
        let totals = removed.json().pop().unwrap();
        assert_eq!(totals["parquet"]["missing"][0]["files"][0], lines[0]["file"], "{totals}");
        assert_eq!(totals["parquet"]["missing_objects"], lines[0]["objects"], "{totals}");
        let text = audit(&[], &["verify", place, "--key", &host, "--parquet", to]).await;
        let name = lines[0]["file"].as_str().unwrap();
        assert!(text.out.contains(&format!("no file   {name}: ")), "{text:?}");
        let made = audit(&[], &["compact", place, "--to", to, "--json"]).await;
        assert_eq!(made.json()[0]["file"], name, "{made:?}");
        let whole = verify(&["--parquet", to]).await.json().pop().unwrap();
        assert_eq!(whole["parquet"]["missing"].as_array().map(Vec::len), Some(0), "{whole}");
    }
}

/// Query engines read everything with a matching name, and take its day from its directory.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_moved_or_added_are_named() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("bucket");
    let mut whole = bucket(0);
    whole.objects.retain(|object| !object.is_system());
    write(&whole, &place);
    let server = S3TestServer::start().await;
    let (place, host) = (place.to_str().unwrap(), key(&whole));
    let day = "dt=2025-11-24";
    for (what, from, to, expected) in [
        ("nothing", "", "", ""),
        ("moved", "000000.parquet", "dt=2025-11-27/000000.parquet", "compacted"),
        ("copied", "000000.parquet", "dt=2025-11-24/extra.parquet", "foreign-object"),
        ("another day", "000000.parquet", "dt=x/000000.parquet", "foreign-object"),
        ("deeper", "000000.parquet", "dt=2025-11-24/hour=16/000000.parquet", "foreign-object"),
        ("in no table", "000000.parquet", "reports/000000.parquet", ""),
        ("a leftover", "000000.parquet", "dt=2025-11-24/000001.parquet#1", ""),
    ] {
        let to_directory = root.path().join(what);
        let files = to_directory.to_str().unwrap();
        let made = audit(&[], &["compact", place, "--to", files]).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        if !from.is_empty() {
            let (from, to) = (to_directory.join(day).join(from), to_directory.join(to));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, to).unwrap();
            if what == "moved" {
                fs::remove_file(&from).unwrap();
            }
        }
        let prefix = what.replace(' ', "-");
        for file in walk(&to_directory) {
            let key = file.strip_prefix(&to_directory).unwrap().to_str().unwrap();
            let bytes = fs::read(&file).unwrap().into();
            let (metadata, content_type) = (Default::default(), None);
            let object = StoredObject { bytes, metadata, content_type, content_encoding: None };
            server.put_object(&format!("{prefix}/{key}"), object);
        }
        let url = format!("s3://{}/{prefix}", server.bucket());
        for files in [files, &*url] {
            let arguments = ["verify", place, "--key", &host, "--json", "--parquet", files];
            let ran = audit(&environment(&server), &arguments).await;
            let of_files = |line: &serde_json::Value| {
                let found = line["finding"].as_str();
                let found = found.filter(|code| ["compacted", "foreign-object"].contains(code));
                found.map(str::to_owned)
            };
            let found: Vec<String> = ran.json().iter().filter_map(of_files).collect();
            let expected: Vec<&str> =
                Some(expected).filter(|code| !code.is_empty()).into_iter().collect();
            // Only a directory has leftovers.
            let is_leftover = what == "a leftover" && files == url;
            let expected = if is_leftover { vec!["foreign-object"] } else { expected };
            assert_eq!(found, expected, "{what} {files}: {ran:?}");
        }
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { walk(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}
