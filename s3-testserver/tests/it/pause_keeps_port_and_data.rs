//! A paused server is unreachable; a resumed one is the same server.

use std::io::ErrorKind;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use s3_testserver::{Fault, S3TestServer};

use crate::client::{builder, client, connect, put, read_until_closed, retries, send_head};

#[tokio::test]
async fn a_paused_server_is_unreachable() {
    let server = S3TestServer::start().await;
    let store = client(&server);
    let endpoint = server.endpoint();
    for round in 0..5 {
        let (kept, refused) = (format!("{round}-kept"), format!("{round}-refused"));
        put(&store, &kept, "1").await.unwrap();

        server.pause().await;
        server.pause().await;
        assert!(put(&store, &refused, "1").await.is_err());
        assert_eq!(connect(&server).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(server.objects().contains_key(&kept));

        server.resume().await;
        server.resume().await;
        assert_eq!(server.endpoint(), endpoint);
        assert!(store.get(&Path::from(kept)).await.is_ok());
        assert!(!server.objects().contains_key(&refused));
    }
    // Refused requests never arrived.
    assert_eq!(server.requests().len(), 10);
}

/// Clients retry after a refused connection, even a create.
#[tokio::test]
async fn a_client_that_retries_gets_through_after_the_pause() {
    let server = S3TestServer::start().await;
    let store = builder(&server).with_retry(retries(usize::MAX)).build().unwrap();
    server.pause().await;
    let (result, ()) = tokio::join!(put(&store, "a", "1"), server.resume());
    result.unwrap();
    assert_eq!(server.objects()["a"].bytes, "1");
}

#[tokio::test]
async fn a_pause_cuts_open_connections() {
    let server = S3TestServer::start().await;
    server.faults().always(Fault::Hung);
    let hung = send_head(&server, "GET /audit-test/a HTTP/1.1").await;
    let idle = connect(&server).await.unwrap();
    server.faults().wait_fired(1).await;
    server.pause().await;
    assert_eq!(read_until_closed(hung).await, "");
    assert_eq!(read_until_closed(idle).await, "");
}

#[tokio::test]
async fn the_port_stays_reserved_while_paused() {
    let server = S3TestServer::start().await;
    server.pause().await;
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(S3TestServer::start().await);
    }
    assert!(others.iter().all(|other| other.endpoint() != server.endpoint()));
    server.resume().await;
    put(&client(&server), "a", "1").await.unwrap();
    assert!(others.iter().all(|other| other.objects().is_empty()));
}

#[tokio::test]
async fn a_stopped_server_closes_its_connections() {
    let server = S3TestServer::start().await;
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    server.stop().await;
    let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let dropped = S3TestServer::start().await;
    dropped.faults().always(Fault::Hung);
    let hung = send_head(&dropped, "GET /audit-test/a HTTP/1.1").await;
    dropped.faults().wait_fired(1).await;
    drop(dropped);
    assert_eq!(read_until_closed(hung).await, "");
}
