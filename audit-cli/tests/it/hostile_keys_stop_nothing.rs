//! Whatever else is in a bucket, the objects of sinks are read, and the rest is counted.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use audit_sink_s3::Bucket;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use s3_testserver::S3TestServer;
use serde_json::Value;

use crate::support::{
    DAY, HOUR_MS, audit, batch, environment, hourly, object_for_each_batch, url, write,
};

/// The number of objects, one an hour: more than a day has hours.
const OBJECTS: usize = 30;

/// The number of objects where each key is tried alone.
const FEW_OBJECTS: usize = 8;

/// Entries below a partition, with a description and the rest of the key. `OURS` stands for the
/// name of an object that a sink wrote there.
const HOSTILE: [(&str, &str); 30] = [
    ("an empty segment", "/x.txt"),
    ("empty segments", "//x//y"),
    ("an empty segment before our name", "/OURS"),
    ("a dot", "./OURS"),
    ("two dots", "../hour=03/OURS"),
    ("two dots at the end", "a/.."),
    ("a slash at the end", "OURS/"),
    ("a folder's own mark", "folder/"),
    ("a line feed", "a\nb"),
    ("an escape", "\u{1b}[2J"),
    ("a nul", "a\0b"),
    ("a tab", "\tOURS"),
    ("DEL", "OURS\u{7f}"),
    ("C1", "a\u{9b}31m"),
    ("bidi", "\u{202e}tsz.nosjdn"),
    ("an encoded slash", "a%2FOURS"),
    ("an encoded dot", "%2E%2E/OURS"),
    ("encoded", "OURS%20"),
    ("a blank before", " OURS"),
    ("a blank behind", "OURS "),
    ("a leftover", "OURS#7"),
    ("XML", "<Key>&amp;]]></Key>"),
    ("quotes", "\"'`$(id)"),
    ("a backslash", "a\\b"),
    ("the layout within the layout", "dt=2023-11-14/hour=03/OURS"),
    ("upper case", "OURS.ZST"),
    ("short numbers", "0000000000000000000000002D-42.ndjson.zst"),
    ("long", LONG),
    ("a tilde", "~"),
    ("no character", "a\u{ffff}\u{fdd0}"),
];

const LONG: &str = concat!(
    "long-0123456789012345678901234567890123456789012345678901234567890123456789/",
    "long-0123456789012345678901234567890123456789012345678901234567890123456789",
);

/// Checks each command on a bucket with `ours` objects of ten records and `others` others.
async fn is_read(
    environment: &[(&'static str, String)],
    place: &str,
    ours: usize,
    others: u64,
    leftovers: u64,
    what: &str,
) {
    let run = async |arguments: &[&str]| {
        let arguments = [&[arguments[0], place], &arguments[1..]].concat();
        let ran = audit(environment, &arguments).await;
        let raw = ran.out.chars().chain(ran.err.chars()).filter(|c| *c != '\n');
        let raw: Vec<char> = raw.filter(|c| c.is_control() || *c == '\u{202e}').collect();
        assert_eq!(raw, [] as [char; 0], "{what}: {arguments:?} {ran:?}");
        assert_eq!(ran.code, Some(0), "{what}: {arguments:?} {ran:?}");
        ran
    };
    assert_eq!(run(&["cat"]).await.lines().len(), 10 * ours, "{what}");
    assert_eq!(run(&["cat", "--since", "2023-11-14T02"]).await.lines().len(), 10 * (ours - 2));
    assert_eq!(run(&["ls", "--objects"]).await.lines().len(), ours, "{what}");
    let ls = run(&["ls"]).await;
    assert!(others == 0 || ls.err.contains(&format!("{others} other object")), "{what}: {ls:?}");
    let last = 10 * (ours - 1);
    let tail = run(&["tail", "-n", &last.to_string()]).await;
    assert_eq!(tail.lines().len(), last, "{what}");
    for heads in [&["stats", "--json"][..], &["stats", "--json", "--heads"]] {
        let stats = run(heads).await.json();
        let summary = stats.last().unwrap();
        let found = |name: &str| summary[name].as_u64();
        assert_eq!(found("logs"), Some(10 * ours as u64), "{what}: {stats:?}");
        assert_eq!(found("other_objects"), Some(others), "{what}: {stats:?}");
        assert_eq!(found("leftovers"), Some(leftovers), "{what}: {stats:?}");
        assert_eq!(stats.len(), 1, "{what}: {stats:?}");
    }
}

fn name_in(server: &S3TestServer, hour: usize) -> String {
    let key = server.objects().into_keys().filter(|key| key.contains("dt=")).nth(hour).unwrap();
    key.rsplit_once('/').unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_each_hostile_key_is_read() {
    let (server, _) = hourly(FEW_OBJECTS as i64).await;
    let ours = name_in(&server, 4);
    let object = server.objects().into_values().next().unwrap();
    for (what, rest) in HOSTILE {
        let key = format!("logs/dt=2023-11-14/hour=04/{}", rest.replace("OURS", &ours));
        server.put_object(&key, object.clone());
        is_read(&environment(&server), &url(&server), FEW_OBJECTS, 1, 0, what).await;
        server.delete_object(&key).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_hostile_keys_on_every_level_is_read() {
    let (server, _) = hourly(OBJECTS as i64).await;
    let ours = name_in(&server, 4);
    let object = server.objects().into_values().next().unwrap();
    let mut among = 0;
    for (_, rest) in HOSTILE {
        let rest = rest.replace("OURS", &ours);
        let places = ["logs/", "logs/dt=2023-11-14/", "logs/dt=2023-11-14/hour=04/", "", "logs"];
        for place in places {
            let key = format!("{place}{rest}");
            // Directly below the prefix, any key of our layout is valid.
            if !key.starts_with("logs/dt=2023-11-14/hour=03") {
                server.put_object(&key, object.clone());
            }
        }
        among += 2;
    }
    // A page of a listing has 1000 keys. Each of these pages has a key that is invalid as a path.
    for n in 0..2_500 {
        let dots = if n % 500 == 0 { "/.." } else { "" };
        server.put_object(&format!("logs/dt=2023-11-14/hour=04/many/{n}{dots}"), object.clone());
    }
    let ran = audit(&environment(&server), &["cat", &url(&server)]).await;
    assert_eq!(ran.lines().len(), 10 * OBJECTS);
    let ran = audit(&environment(&server), &["stats", "--json", &url(&server)]).await;
    let summary: Value = ran.json().pop().unwrap();
    assert_eq!(summary["other_objects"].as_u64(), Some(among + 2_500), "{summary}");
    assert_eq!((ran.code, summary["logs"].as_u64()), (Some(0), Some(10 * OBJECTS as u64)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_not_ascii_hides_no_object() {
    let (server, _) = hourly(3).await;
    let key = server.objects().into_keys().nth(2).unwrap();
    let mut object = server.delete_object(&key).unwrap();
    object.content_type = Some("text/\u{e9}".to_owned());
    server.put_object(&key, object);
    for command in ["cat", "tail", "stats"] {
        let ran = audit(&environment(&server), &[command, &url(&server)]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

fn file(directory: &Path, name: &[u8]) {
    fs::write(directory.join(OsStr::from_bytes(name)), "x").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_hostile_names_and_links_is_read() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let open = || Bucket::open(&format!("file://{}", root.path().display())).unwrap();
    let hour = |n: i64| batch(DAY + n * HOUR_MS, "ada", 10);
    let objects = (0..OBJECTS as i64).map(hour).collect();
    write(open(), object_for_each_batch(), objects).await;
    let place = root.path().to_str().unwrap();
    let day = root.path().join("dt=2023-11-14");
    let of_hour = day.join("hour=04");
    let ours = fs::read_dir(&of_hour).unwrap().next().unwrap().unwrap();
    let name = ours.file_name();
    let name = name.as_bytes();
    fs::copy(ours.path(), outside.path().join("copy")).unwrap();
    let other = String::from_utf8(name.to_vec()).unwrap().replace("-0000", "-0001");
    let dangling = |name: &[u8]| {
        symlink("/nowhere", of_hour.join(OsStr::from_bytes(name))).unwrap();
    };
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        assert!(shell.args(["-c", script]).current_dir(&of_hour).status().unwrap().success());
    };

    let mut others = 0;
    let long = [b'n'; 255];
    for hostile in [
        &b"\xff\xfe"[..],
        b"\xc3\x28.ndjson.zst",
        b"\x1b[2J",
        b"a\nb",
        b" ",
        b"...",
        "\u{202e}tsz".as_bytes(),
        "\u{9b}31m".as_bytes(),
        b"%2e%2e",
        &long,
        &[name, b" "].concat(),
        &[name, b"\n"].concat(),
    ] {
        file(&of_hour, hostile);
        others += 1;
    }
    is_read(&[], place, OBJECTS, others, 0, "names").await;

    file(&of_hour, &[name, b"#7"].concat());
    file(&of_hour, &[name, b"#12"].concat());
    others += 2;
    is_read(&[], place, OBJECTS, others, 2, "leftovers").await;

    // Links with names of our layout: to files outside and inside, to a directory outside, and
    // loops.
    symlink(outside.path().join("copy"), of_hour.join(&other)).unwrap();
    symlink(ours.path(), of_hour.join(other.replace("-0001", "-0002"))).unwrap();
    symlink(outside.path(), day.join("hour=23x")).unwrap();
    symlink(outside.path(), root.path().join("dt=2023-11-17")).unwrap();
    symlink("..", of_hour.join("up")).unwrap();
    symlink("loop", of_hour.join("loop")).unwrap();
    dangling(b"dangling");
    dangling(&[name, b".x"].concat());
    // The link beside the days is in no partition, so it is not counted.
    others += 7;
    is_read(&[], place, OBJECTS, others, 2, "links").await;

    // A pipe with a name of our layout, which a reader would wait for.
    shell(&format!("mkfifo {}", other.replace("-0001", "-0003")));
    others += 1;
    is_read(&[], place, OBJECTS, others, 2, "a pipe").await;

    // Directories: with a name of our layout, deeper than any path, and unreadable.
    shell(&format!("mkdir {0} && touch {0}/x", other.replace("-0001", "-0004")));
    others += 1;
    let deep = "d".repeat(200);
    let mut directory: OwnedFd = fs::File::open(&of_hour).unwrap().into();
    for _ in 0..30 {
        mkdirat(&directory, &deep, Mode::RWXU).unwrap();
        directory = openat(&directory, &deep, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    others += 1;
    is_read(&[], place, OBJECTS, others, 2, "directories").await;

    // An hour that is a link is not followed. The records that it hid are missing, which is found.
    fs::rename(&of_hour, outside.path().join("moved")).unwrap();
    symlink(outside.path().join("moved"), &of_hour).unwrap();
    let ran = audit(&[], &["cat", place]).await;
    assert_eq!(ran.lines().len(), 10 * (OBJECTS - 1), "{ran:?}");
    let ran = audit(&[], &["stats", place]).await;
    assert!(ran.code == Some(1) && ran.out.contains("lacks records 40 to 49"), "{ran:?}");
}
