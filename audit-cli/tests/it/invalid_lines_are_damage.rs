//! Invalid lines and objects are named, and the records around them are printed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use audit_core::UniqueId;
use audit_sink_s3::layout::{Compression, ObjectKey};
use s3_testserver::{Fault, RequestInfo, S3TestServer};
use serde_json::json;

use crate::support::{DAY, Ran, audit, environment, hourly, url};

/// Writes an object of these bytes to a directory, as the stream with this number.
fn put(root: &Path, stream: u128, compression: Compression, bytes: &[u8]) -> String {
    let key = ObjectKey::new(DAY, UniqueId::from_bits(stream), 0, compression).to_string();
    let file = root.join(&key);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lines_are_named_by_number() {
    let huge = vec![b'x'; 2 << 20];
    for (line, what) in [
        (&b"\xef\xbb\xbf{}"[..], "line 2 begins with a byte order mark"),
        (b"{\"a\":\"\xff\"}", "line 2 is not UTF-8 from byte 7 on"),
        (b"{}{}", "line 2 is not a JSON object: trailing characters"),
        (b"text", "line 2 is not a JSON object"),
        (b"", "line 2 is empty"),
        (b"[1]", "line 2 is not a JSON object"),
        (b"null", "line 2 is not a JSON object"),
        (b"\0\0\0", "line 2 is not a JSON object"),
        (b"{\"a\":\"\0\"}", "line 2 is not a JSON object: control character"),
        (b"{\"a\":1", "line 2 is not a JSON object: EOF"),
        (&huge, "line 2 is not a JSON object"),
        (b"x\n\ny", "line 2 is not a JSON object; 3 lines in total are not records"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let lines = [b"{\"n\":1}\n", line, b"\n{\"n\":2}\n"].concat();
        let key = put(root.path(), 7, Compression::None, &lines);
        put(root.path(), 8, Compression::None, b"{\"n\":3}\n");
        let place = root.path().to_str().unwrap();
        for command in ["cat", "tail"] {
            let ran = audit(&[], &[command, place]).await;
            assert_eq!(ran.out, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n", "{what}: {}", ran.err);
            assert_eq!(ran.code, Some(1), "{what}");
            assert!(ran.err.contains(&key) && ran.err.contains(what), "{what}: {}", ran.err);
        }
        let ran = audit(&[], &["stats", "--json", place]).await;
        let (finding, summary) = (&ran.json()[0], &ran.json()[1]);
        assert_eq!((ran.code, ran.json().len()), (Some(1), 2), "{ran:?}");
        assert_eq!((&finding["finding"], &finding["key"]), (&json!("damaged"), &json!(key)));
        assert!(finding["what"].as_str().unwrap().contains(what), "{what}: {finding}");
        // An invalid line is not counted as a record, and leaves no gap.
        assert_eq!(summary["logs"], 3);
        assert_eq!((&summary["gaps"], &summary["damaged"]), (&json!(0), &json!(1)));
    }
}

/// A zstd frame with this many blocks of 128 KiB, each of a single byte.
fn repeated(byte: u8, blocks: usize) -> Vec<u8> {
    let window_of_2_mib = 11 << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window_of_2_mib];
    for n in 0..blocks {
        let is_last = u32::from(n + 1 == blocks);
        let header = is_last | 1 << 1 | (128 << 10) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(byte);
    }
    frame
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_expands_to_a_gigabyte_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for (stream, byte) in [(1, 0), (2, b' '), (3, b'x'), (4, b'{')] {
        put(root.path(), stream, Compression::Zstd, &repeated(byte, 8 << 10));
    }
    put(root.path(), 9, Compression::None, b"{}\n");
    for command in ["cat", "stats"] {
        // The address space, 1,000,000 KiB, is smaller than one decompressed object.
        let script = "ulimit -v 1000000; exec \"$0\" \"$@\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_audit"), command, "--parallel", "4"]);
        shell.arg(root.path()).env_clear().env("MALLOC_ARENA_MAX", "1");
        let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
        let ran = Ran::of(output);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let text = format!("{}{}", ran.out, ran.err);
        let limit = "a line of the object exceeds limit of 33554432 bytes";
        assert_eq!(text.matches(limit).count(), 4, "{ran:?}");
        assert!(command == "stats" || ran.out == "{}\n", "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_ends_in_the_middle_is_cut_off() {
    let (server, _) = hourly(3).await;
    let (key, whole) = server.objects().into_iter().nth(2).unwrap();
    for len in (0..whole.bytes.len()).step_by(29) {
        let mut object = whole.clone();
        object.bytes = whole.bytes.slice(..len);
        server.put_object(&key, object);
        for command in ["cat", "stats"] {
            let ran = audit(&environment(&server), &[command, &url(&server)]).await;
            assert_eq!(ran.code, Some(1), "{len}: {ran:?}");
            let said = format!("{key}: the object was cut off");
            assert!(ran.out.contains(&said) || ran.err.contains(&said), "{len}: {ran:?}");
        }
    }
}

/// Lets `change` happen to an object between its listing and its GET.
async fn changed(
    command: &str,
    change: impl Fn(&S3TestServer, &str) + Send + 'static,
) -> (Ran, String) {
    let (server, _) = hourly(5).await;
    let key = server.objects().into_keys().nth(3).unwrap();
    let (server, wanted) = (Arc::new(server), key.clone());
    let store = Arc::clone(&server);
    server.faults().plan(move |request: &RequestInfo| {
        if request.key == wanted {
            change(&store, &wanted);
        }
        Fault::None
    });
    (audit(&environment(&server), &[command, &url(&server)]).await, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_changed_after_listing_are_named() {
    for command in ["cat", "stats"] {
        let (ran, key) = changed(command, |server, key| drop(server.delete_object(key))).await;
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains(&format!("{key}: it was removed after it was listed")), "{ran:?}");
        assert!(command == "stats" || ran.out.lines().count() == 40, "{ran:?}");

        // A longer object takes its place.
        let (ran, key) = changed(command, |server, key| {
            let mut object = server.objects()[key].clone();
            let longer = [&object.bytes[..], &object.bytes[..]].concat();
            object.bytes = longer.into();
            server.put_object(key, object);
        })
        .await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let text = format!("{}{}", ran.out, ran.err);
        assert!(text.contains(&format!("{key}: something was appended")), "{ran:?}");
    }
}
