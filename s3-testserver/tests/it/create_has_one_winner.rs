//! `If-None-Match: *` creates, never overwrites, and has one winner.

use futures::future::join_all;
use object_store::Error;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, UpdateVersion};
use s3_testserver::S3TestServer;

use crate::client::{client, create, put};

#[tokio::test]
async fn a_second_create_is_refused() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    create(&store, "a", "first").await.unwrap();
    assert!(matches!(create(&store, "a", "second").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(server.objects()["a"].bytes, "first");
    assert!(server.requests().iter().all(|request| request.if_none_match));
}

/// A client that is still sending when the refusal arrives would see a broken pipe instead. That
/// only happens often if both run at the same time, hence the threads.
#[tokio::test(flavor = "multi_thread")]
async fn a_losing_create_is_read_before_it_is_refused() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    create(&store, "a", "first").await.unwrap();
    for _ in 0..10 {
        let second = create(&store, "a", vec![0; 8 << 20]).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_sixteen_racers_wins() {
    const RACERS: usize = 16;
    const ROUNDS: usize = 100;
    let server = S3TestServer::start().await;
    let stores = (0..RACERS).map(|_| client(&server)).collect::<Vec<_>>();
    for round in 0..ROUNDS {
        let key = format!("round-{round}");
        let racers = stores.iter().enumerate().map(|(racer, store)| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { create(&store, &key, racer.to_string()).await })
        });
        let mut winners = Vec::new();
        for (racer, result) in join_all(racers).await.into_iter().enumerate() {
            match result.unwrap() {
                Ok(_) => winners.push(racer.to_string()),
                Err(Error::AlreadyExists { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners, [server.objects()[&key].bytes.clone()]);
    }
}

#[tokio::test]
async fn an_update_needs_the_right_e_tag() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let first = put(&store, "a", "first").await.unwrap();
    let update = |e_tag, payload: &'static str| {
        let mode = PutMode::Update(UpdateVersion { e_tag, version: None });
        let store = &store;
        async move { store.put_opts(&Path::from("a"), payload.into(), mode.into()).await }
    };
    update(first.e_tag.clone(), "second").await.unwrap();
    assert!(matches!(update(first.e_tag, "third").await, Err(Error::Precondition { .. })));
    assert_eq!(server.objects()["a"].bytes, "second");
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_overwrites() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    create(&store, "a", "first").await.unwrap();
    server.ignore_if_none_match(true);
    create(&store, "a", "second").await.unwrap();
    assert_eq!(server.objects()["a"].bytes, "second");
    server.ignore_if_none_match(false);
    assert!(matches!(create(&store, "a", "third").await, Err(Error::AlreadyExists { .. })));
}
