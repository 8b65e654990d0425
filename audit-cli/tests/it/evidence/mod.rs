//! Buckets with evidence, as the tests of `audit-evidence` generate them, in a directory and in a
//! server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use audit_evidence::Sidecar;
use s3_testserver::{S3TestServer, StoredObject};

mod attacks_are_named;
mod hosts_submit_to_witnesses;
mod parquet_is_verified;
mod proofs_are_checked_offline;
mod reports_say_what_was_found;
mod sinks_satisfy_verify;
mod verify_names_what_changed;
mod witness_signs_one_history;

#[allow(dead_code, reason = "audit-evidence's tests use all of it")]
#[path = "../../../../audit-evidence/tests/it/verify/model.rs"]
mod model;
#[allow(dead_code, reason = "audit-evidence's tests use all of it")]
#[path = "../../../../audit-evidence/tests/it/verify/mutations.rs"]
mod mutations;

use model::{Bucket, Chance, Object};

fn bucket(seed: u64) -> Bucket {
    Bucket::generate(&mut Chance::new(seed))
}

/// The verifier key of the host that wrote the bucket.
fn key(bucket: &Bucket) -> String {
    bucket.trust[0].key.to_string()
}

fn body(object: &Object) -> String {
    let mut body: String = object.lines.iter().map(|line| format!("{line}\n")).collect();
    body.truncate(body.len() - usize::from(object.is_cut));
    body
}

fn put(directory: &Path, key: &str, content: &str) {
    let file = directory.join(key);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

/// Writes the bucket to a directory, with its metadata in sidecar files.
fn write(bucket: &Bucket, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for object in &bucket.objects {
        put(directory, &object.key, &body(object));
        if object.metadata.is_empty() {
            continue;
        }
        let members = object.metadata.iter();
        let sidecar: String = members.map(|(name, value)| format!("{name} {value}\n")).collect();
        put(directory, &Sidecar::key_of(&object.key), &sidecar);
    }
}

/// Puts the bucket below `logs/`.
fn upload(bucket: &Bucket, server: &S3TestServer) {
    for object in &bucket.objects {
        let (bytes, metadata) = (body(object).into(), object.metadata.clone());
        server.put_object(
            &format!("logs/{}", object.key),
            StoredObject { bytes, metadata, content_type: None, content_encoding: None },
        );
    }
}
