//! `verify --parquet` proves that Parquet files contain what was signed, and finds altered ones.

use std::fs;

use super::{bucket, key, write};
use crate::support::audit;

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
        // A reader of the records does not find the files.
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
