//! Writers to a directory are killed while writing: every object under its final name is complete,
//! and the next opening removes the rest.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use audit_sink_s3::Bucket;
use object_store::PutMode;

const DIRECTORY: &str = "AUDIT_SINK_S3_KILLED_DIRECTORY";
const BEGUN: &str = "begun";
const OBJECT_BYTES: usize = 256 << 10;

fn bucket(directory: &Path) -> Bucket {
    Bucket::open(url::Url::from_directory_path(directory).unwrap().as_str()).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The child process, which writes until it is killed. Does nothing when run as a test.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let bucket = bucket(Path::new(&directory));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pid = std::process::id();
    let writers = (0..4).map(|writer| {
        let bucket = bucket.clone();
        runtime.spawn(async move {
            for n in 0..200 {
                let path = bucket.path(&format!("dt=2023-11-14/hour=22/{pid}-{writer}-{n}"));
                let content = vec![b'x'; OBJECT_BYTES].into();
                bucket.store().put_opts(&path, content, PutMode::Create.into()).await.unwrap();
                if n == 0 {
                    let _ = std::io::stdout().lock().write_all(format!("{BEGUN}\n").as_bytes());
                }
            }
        })
    });
    runtime.block_on(futures::future::join_all(writers));
}

#[test]
fn the_next_opening_removes_leftovers() {
    let root = tempfile::tempdir().unwrap();
    let unfinished = root.path().join("_audit/unfinished");
    let mut left = 0;
    // The first kill almost always interrupts a write.
    for _ in 0..50 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kills_leave_no_partial_objects::child", "--exact", "--nocapture"])
            .env(DIRECTORY, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let begun = lines.map_while(Result::ok).any(|line| line.ends_with(BEGUN));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(begun);
        left += files(&unfinished).len();
        drop(bucket(root.path()));
        assert_eq!(files(root.path().join("_audit").as_path()), [""; 0].map(PathBuf::from));
        for object in files(root.path()) {
            let bytes = object.metadata().unwrap().len();
            assert_eq!(bytes, OBJECT_BYTES as u64, "{}", object.display());
            std::fs::remove_file(object).unwrap();
        }
        if left > 0 {
            return;
        }
    }
    panic!("no kill came in the middle of a write");
}
