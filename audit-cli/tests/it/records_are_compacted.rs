//! `compact` writes each record to one Parquet file, whatever interrupts it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Method;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

use crate::support::{
    DAY, HOUR_MS, audit, batch, bucket, environment, object_for_each_batch, write,
};

fn rows(server: &S3TestServer) -> BTreeMap<String, Vec<Row>> {
    let files = server.objects().into_iter().filter(|(key, _)| key.starts_with("parquet/"));
    files
        .map(|(key, object)| {
            let reader = SerializedFileReader::new(Bytes::from(object.bytes.to_vec())).unwrap();
            (key, reader.get_row_iter(None).unwrap().map(Result::unwrap).collect())
        })
        .collect()
}

fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    row.get_column_iter().find(|(column, _)| *column == name).unwrap().1
}

fn text(row: &Row, name: &str) -> String {
    let Field::Str(text) = field(row, name) else { panic!("{name} is no text") };
    text.clone()
}

/// Two days of two objects each, of three records.
async fn server() -> S3TestServer {
    let server = S3TestServer::start().await;
    let batches = (0..4).map(|n| batch(DAY + n * 12 * HOUR_MS, &format!("user{n}"), 3));
    write(bucket(&server), object_for_each_batch(), batches.collect()).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_in_one_file_wherever_it_is_stopped() {
    let server = server().await;
    let environment = environment(&server);
    let (from, to) = (crate::support::url(&server), format!("s3://{}/parquet", server.bucket()));
    let compact = ["compact", &from, "--to", &to, "--retry-for", "0", "--json"];
    let before = server.requests().len();
    let whole = audit(&environment, &compact).await;
    assert_eq!(whole.json().len(), 2, "{whole:?}");
    let expected = rows(&server);
    let lines: Vec<String> =
        expected.values().flatten().map(|row| text(row, "audit_record")).collect();
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[0], format!(r#"{{"action":"view","user":"user0","i":0,"at":{DAY}}}"#));
    let first = &expected.values().next().unwrap()[0];
    assert_eq!(text(first, "user"), "user0");
    assert_eq!(field(first, "i"), &Field::Long(0));
    assert_eq!(field(first, "audit_sequence"), &Field::Long(0));

    let denied = Fault::Refused(ErrorAnswer::new(403, "AccessDenied"));
    let made: Vec<Method> =
        server.requests().split_off(before).into_iter().map(|request| request.method).collect();
    for (stop, method) in made.into_iter().enumerate() {
        // The process dies after `stop` requests, at the next one, which the store executed or not.
        let cut = (method == Method::PUT).then_some(Fault::StoredThenCut);
        for last in std::iter::once(denied).chain(cut) {
            let files: Vec<String> = rows(&server).into_keys().collect();
            files.iter().for_each(|key| drop(server.delete_object(key)));
            let count = Arc::new(AtomicU64::new(0));
            server.faults().plan(move |_| {
                let at = count.fetch_add(1, Ordering::SeqCst);
                match at.cmp(&(stop as u64)) {
                    std::cmp::Ordering::Less => Fault::None,
                    std::cmp::Ordering::Equal => last,
                    std::cmp::Ordering::Greater => denied,
                }
            });
            let stopped = audit(&environment, &compact).await;
            assert_eq!(stopped.code, Some(3), "request {stop}: {stopped:?}");
            server.faults().none();
            let again = audit(&environment, &compact).await;
            assert_eq!(again.code, Some(0), "request {stop}: {again:?}");
            assert!(rows(&server) == expected, "request {stop}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_the_order_of_a_member() {
    let server = server().await;
    let environment = environment(&server);
    let (from, to) = (crate::support::url(&server), format!("s3://{}/parquet", server.bucket()));
    let compact = ["compact", &from, "--to", &to, "--json"];
    for (by, expected) in [
        (&[][..], ["user0 0", "user0 1", "user0 2", "user1 0", "user1 1", "user1 2"]),
        (&["--by", "/i"][..], ["user0 0", "user1 0", "user0 1", "user1 1", "user0 2", "user1 2"]),
        (
            &["--by", "/none,/user"][..],
            ["user0 0", "user0 1", "user0 2", "user1 0", "user1 1", "user1 2"],
        ),
    ] {
        let made = audit(&environment, &[&compact, by].concat()).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        let files = rows(&server);
        let first = files.values().next().unwrap().iter();
        let found: Vec<String> =
            first.map(|row| format!("{} {}", text(row, "user"), field(row, "i"))).collect();
        assert_eq!(found, expected, "{by:?}");
        files.keys().for_each(|key| drop(server.delete_object(key)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_objects_and_rivals_make_further_files() {
    let server = server().await;
    let environment = environment(&server);
    let (from, to) = (crate::support::url(&server), format!("s3://{}/parquet", server.bucket()));
    let compact = ["compact", &from, "--to", &to, "--json"];
    // Another process makes the first file just before this one does.
    let rival = audit(&environment, &compact).await;
    assert_eq!(rival.code, Some(0), "{rival:?}");
    let made = server.objects().into_iter().filter(|(key, _)| key.starts_with("parquet/"));
    let made: BTreeMap<_, _> = made.collect();
    let first = made.keys().next().unwrap().clone();
    made.keys().for_each(|key| drop(server.delete_object(key)));
    server.faults().next_puts([Fault::Early412]);
    let lost = audit(&environment, &compact).await;
    assert_eq!(lost.code, Some(0), "{lost:?}");
    assert_eq!(rows(&server).keys().next(), Some(&first));
    assert_eq!(rows(&server).values().flatten().count(), 12);

    let late = vec![batch(DAY + 3 * HOUR_MS, "late", 2)];
    write(bucket(&server), object_for_each_batch(), late).await;
    let further = audit(&environment, &compact).await;
    assert_eq!(further.json().len(), 1, "{further:?}");
    assert_eq!(further.json()[0]["file"], "dt=2023-11-14/000001.parquet");
    let all = rows(&server);
    let users = all["parquet/dt=2023-11-14/000001.parquet"].iter().map(|row| text(row, "user"));
    assert_eq!(users.collect::<Vec<_>>(), ["late", "late"]);
    assert_eq!(all.values().flatten().count(), 14);
    // Readers of the records do not see the files.
    let seen = audit(&environment, &["cat", &from]).await;
    assert_eq!(seen.lines().len(), 14);
    let beside = audit(&environment, &["stats", &from, "--json"]).await;
    assert_eq!(beside.code, Some(0), "{beside:?}");
}
