//! The sink keeps its contract on Azurite, Microsoft's own server of the protocol of Azure Blob
//! Storage. `audit-sink-s3/with-azurite` installs it, starts it, and runs these tests.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::support::{self, Checker, batch, read_store};
use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{AuditSink, Durability, async_trait};
use audit_sink_s3::layout::Listed;
use audit_sink_s3::{Bucket, JournalSettings, OpenError, OpenErrorKind, S3Sink, Settings};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Forwards connections to the server. It can lose the responses to uploads.
struct Relay {
    address: SocketAddr,
    to_lose: Arc<AtomicU32>,
    lost: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Relay {
        let endpoint = env::var("AZURE_STORAGE_ENDPOINT").expect("the script with-azurite sets it");
        let server = url::Url::parse(&endpoint).unwrap().socket_addrs(|| None).unwrap()[0];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to_lose, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)));
        let (losing, counted) = (Arc::clone(&to_lose), Arc::clone(&lost));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&losing), Arc::clone(&counted)));
            }
        });
        Relay { address, to_lose, lost }
    }

    fn bucket(&self, prefix: &str) -> Bucket {
        self.bucket_with(prefix, &env::var("AZURE_STORAGE_ACCOUNT_KEY").unwrap())
    }

    fn bucket_with(&self, prefix: &str, key: &str) -> Bucket {
        let account = env::var("AZURE_STORAGE_ACCOUNT_NAME").unwrap();
        let options = [
            ("azure_storage_endpoint", format!("http://{}/{account}", self.address)),
            ("azure_storage_account_name", account),
            ("azure_storage_account_key", key.to_owned()),
            ("azure_allow_http", "true".to_owned()),
        ];
        Bucket::open_with(&format!("az://logs/{prefix}"), options).unwrap()
    }
}

/// Relays one connection. The server has stored an upload when its response is lost.
async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    to_lose: Arc<AtomicU32>,
    lost: Arc<AtomicUsize>,
) {
    let (mut request, mut response) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_upload = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(bytes @ 1..) = read else { return };
                // A request begins at the start of a packet, since the client waits for each
                // response.
                let is_start = |verb: &[u8]| request[..bytes].starts_with(verb);
                if [&b"PUT "[..], b"GET ", b"HEAD ", b"POST ", b"DELETE "].iter().any(|v| is_start(v)) {
                    is_upload = is_start(b"PUT ");
                }
                if server.write_all(&request[..bytes]).await.is_err() { return }
            }
            read = server.read(&mut response) => {
                let Ok(bytes @ 1..) = read else { return };
                let one_less = |left: u32| left.checked_sub(1);
                let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
                if is_upload && to_lose.fetch_update(set, fetch, one_less).is_ok() {
                    lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if client.write_all(&response[..bytes]).await.is_err() { return }
            }
        }
    }
}

fn settings(journal: Option<JournalSettings>) -> Settings {
    Settings {
        linger_ms: 2,
        max_in_flight: 1,
        retry_base_ms: 1,
        retry_cap_ms: 8,
        blocked_retry_cap_ms: 50,
        journal,
        ..Settings::default()
    }
}

async fn stored(bucket: &Bucket, prefix: &str, checker: &Checker) -> Vec<StoredRecord> {
    let mut objects = read_store(&**bucket.store()).await;
    objects.retain(|key, _| key.starts_with(prefix));
    checker.check(prefix, &objects).unwrap()
}

/// A prefix of this run's own, so that tests can be repeated on one server.
fn prefix(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A sink behind a relay, directly or with a journal. Each journal is in the first directory that
/// no open sink uses.
struct Azurite {
    relay: Relay,
    checker: Checker,
    journals: Option<tempfile::TempDir>,
}

impl Azurite {
    /// How many responses are lost in a row, by the number of the fault.
    const LOST: [u32; 3] = [1, 2, 3];

    async fn run(journals: Option<tempfile::TempDir>) {
        let relay = Relay::start().await;
        let azurite = Azurite { relay, checker: Checker::default(), journals };
        conformance::run(&azurite).await;
        let lost = azurite.relay.lost.load(Ordering::SeqCst);
        assert_eq!(lost, Azurite::LOST.iter().sum::<u32>() as usize);
    }

    fn prefix(&self) -> String {
        prefix(if self.journals.is_some() { "journal" } else { "direct" })
    }

    async fn opened(&self, journal: Option<JournalSettings>) -> Result<S3Sink, OpenError> {
        let bucket = self.relay.bucket(&self.prefix());
        S3Sink::builder(bucket).with_settings(settings(journal)).open().await
    }
}

#[async_trait]
impl Destination for Azurite {
    async fn open(&self) -> Arc<dyn AuditSink> {
        let Some(journals) = &self.journals else {
            return Arc::new(self.opened(None).await.unwrap());
        };
        for number in 0.. {
            let directory = journals.path().join(number.to_string());
            let journal = support::journal(directory, 20);
            match self.opened(Some(journal)).await {
                Ok(sink) => return Arc::new(sink),
                Err(error) => assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error:?}"),
            }
        }
        unreachable!("there are more numbers than open sinks")
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        let prefix = self.prefix();
        stored(&self.relay.bucket(&prefix), &format!("{prefix}/"), &self.checker).await
    }

    fn durability(&self) -> Durability {
        if self.journals.is_some() { Durability::Journaled } else { Durability::Delivered }
    }

    async fn fault(&self, number: u32) -> bool {
        let lost = Azurite::LOST.get(number as usize);
        self.relay.to_lose.store(lost.copied().unwrap_or(0), Ordering::SeqCst);
        lost.is_some()
    }
}

#[tokio::test]
#[ignore = "needs Azurite: audit-sink-s3/with-azurite runs it"]
async fn direct_sinks_conform() {
    Azurite::run(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Azurite: audit-sink-s3/with-azurite runs it"]
async fn journals_conform() {
    Azurite::run(Some(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
#[ignore = "needs Azurite: audit-sink-s3/with-azurite runs it"]
async fn objects_are_created_once_and_listed_with_their_metadata() {
    let relay = Relay::start().await;
    let prefix = prefix("listed");
    let bucket = relay.bucket(&prefix);
    let settings = Settings { linger_ms: 0, max_object_bytes: 1, ..Settings::default() };
    let sink = S3Sink::builder(bucket.clone()).with_settings(settings).open().await.unwrap();
    assert_eq!(sink.health().create_only, Some(true));
    for n in 0..3 {
        sink.persist(batch("azure", 1 + n)).await.unwrap();
    }
    sink.close().await.unwrap();

    let day = bucket.level(None).await.unwrap().partitions;
    let hour = bucket.level(Some(&day[0])).await.unwrap().partitions;
    let listed: Vec<_> = bucket.list(&hour[0]).try_collect().await.unwrap();
    assert!(listed.iter().all(|listed| matches!(listed, Listed::Object(_))), "{listed:?}");
    assert_eq!(listed.len(), 3);
    let records = stored(&bucket, &format!("{prefix}/"), &Checker::default()).await;
    assert_eq!(records.len(), 6);
    // Each object has its metadata, which the checker compares with its records.
    let store = bucket.store();
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    let key = all
        .iter()
        .find(|found| found.location.as_ref().starts_with(&format!("{prefix}/dt=")))
        .unwrap();
    let found = store.get(&key.location).await.unwrap();
    let names = found.attributes.iter().map(|(name, _)| format!("{name:?}")).collect::<String>();
    for name in ["count", "format", "lastsequence", "sha256"] {
        assert!(names.contains(name), "{names}");
    }
}

#[tokio::test]
#[ignore = "needs Azurite: audit-sink-s3/with-azurite runs it"]
async fn a_refusal_names_azure_and_no_key() {
    let relay = Relay::start().await;
    let key = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=";
    let opened = S3Sink::builder(relay.bucket_with("refused", key)).with_settings(settings(None));
    let error = opened.open().await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Blocked);
    let error = error.to_string();
    assert!(error.contains("container: status 403 AuthorizationFailure"), "{error}");
    assert!(!error.contains(key), "{error}");
}
