//! Partitions outside the selection are neither listed nor read, which the number of requests
//! shows.

use http::Method;
use s3_testserver::S3TestServer;

use crate::support::{audit, environment, hourly, url};

/// The numbers of listings and of requested objects since this many requests.
fn asked(server: &S3TestServer, since: usize) -> (usize, usize) {
    let requests = server.requests().split_off(since);
    let lists = requests.iter().filter(|request| request.is_list()).count();
    let gets = requests.iter().filter(|request| request.method == Method::GET).count() - lists;
    assert_eq!(lists + gets, requests.len(), "{requests:?}");
    (lists, gets)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_outside_a_range_are_neither_listed_nor_read() {
    // Ten days with an object in each hour.
    let (server, places) = hourly(240).await;
    let environment = environment(&server);
    let url = url(&server);
    let run = async |arguments: &[&str]| {
        let before = server.requests().len();
        let ran =
            audit(&environment, &[&[arguments[0], url.as_str()], &arguments[1..]].concat()).await;
        let lines = ran.lines().len();
        let (lists, gets) = asked(&server, before);
        (lines, lists, gets)
    };
    // The days, then each day as a whole.
    assert_eq!(run(&["ls", "--objects"]).await, (240, 1 + 10, 0));
    assert_eq!(run(&["ls"]).await, (2, 1 + 10, 0), "a head and one stream");
    // From 20:00 of the ninth day on: the ninth day's hours and four of them, and the tenth day as
    // a whole.
    assert_eq!(run(&["ls", "--objects", "--since", "2023-11-22T20"]).await, (28, 1 + 1 + 4 + 1, 0));
    assert_eq!(run(&["cat", "--since", "2023-11-22T20"]).await, (280, 1 + 1 + 4 + 1, 28));
    // One hour.
    assert_eq!(
        run(&["cat", "--since", "2023-11-16T05", "--until", "2023-11-16T06"]).await,
        (10, 1 + 1 + 1, 1)
    );
    // A minute of it by the records' own times: the hour and its neighbours, which may hold records
    // of that minute, are read, and nothing of them is printed.
    let minute =
        ["cat", "--since", "2023-11-16T05:30", "--until", "2023-11-16T05:31", "--time", "/at"];
    assert_eq!(run(&minute).await, (0, 1 + 1 + 3, 3));
    assert_eq!(run(&["cat", "--until", "2023-11-14"]).await, (0, 1, 0));
    // The last records: only the last hour is read.
    assert_eq!(run(&["tail", "-n", "1"]).await, (1, 1 + 1 + 1, 1));
    // Other streams are listed but not read.
    assert_eq!(run(&["cat", "--stream", "0000000000000000000000002D"]).await, (0, 1 + 10, 0));
    let stream = places[0].stream.to_string();
    assert_eq!(run(&["cat", "--stream", &stream]).await, (2_400, 1 + 10, 240));
    // Only metadata, and one listing for system records.
    let before = server.requests().len();
    let ran = audit(&environment, &["stats", &url, "--heads", "--since", "2023-11-23"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let methods: Vec<_> =
        server.requests().split_off(before).into_iter().map(|request| request.method).collect();
    let count = |method| methods.iter().filter(|found| **found == method).count();
    assert_eq!((count(Method::GET), count(Method::HEAD), methods.len()), (2 + 1, 24, 27));
}
