use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use audit_core::testing::SeededRandom;
use audit_core::{HealthState, async_trait};
use object_store::{GetResult, PutResult};
use url::Url;

use super::credentials::{CredentialFailure, Issuer};
#[cfg(feature = "aws")]
use super::purpose::Purpose;
use super::put::{Put, PutOutcome};
use super::*;
use crate::health::HealthBoard;
use crate::object::encode::ObjectEncoder;
use crate::object::pieces::pieces;
use crate::store_double::{Double, StoreDouble};
use crate::{Compression, Settings};

fn refused(url: &str) -> String {
    Bucket::open(url).unwrap_err().to_string()
}

#[test]
fn an_invalid_bucket_url_is_answered_with_a_valid_one() {
    assert!(refused("bucket/prefix").contains("s3://bucket/prefix"));
    assert!(refused("http://127.0.0.1:9000/bucket").contains("AWS_ENDPOINT"));
    assert!(refused("s3a://bucket/prefix").contains("s3://"));
    assert!(refused("abfss://container/prefix").contains("az://"));
    assert!(refused("ftp://bucket/prefix").contains("memory://"));
    assert!(refused("s3:///prefix").contains("names no bucket"));
    assert!(refused("memory://prefix").contains("three slashes"));
    assert!(refused("file://relative/path").contains("three slashes"));
}

#[test]
fn a_credential_in_a_url_is_rejected_and_not_shown() {
    for url in [
        "s3://KEYID:SECRET@bucket/prefix",
        "az://container/prefix?sig=SECRET",
        "s3://bucket/#SECRET",
    ] {
        let error = Bucket::open(url).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
        assert!(error.to_string().contains("environment"), "{error}");
    }
}

#[test]
fn unknown_options_are_rejected() {
    let refused = |url, name| Bucket::open_with(url, [(name, "x")]).unwrap_err().to_string();
    assert_eq!(refused("memory:///", "aws_region"), "the memory store has no option aws_region");
    #[cfg(feature = "aws")]
    assert_eq!(refused("s3://bucket", "aws_regoin"), "the s3 store has no option aws_regoin");
}

#[cfg(feature = "aws")]
#[test]
fn names_show_no_secret() {
    let options = [
        ("aws_secret_access_key", "SECRET"),
        ("aws_access_key_id", "KEYID"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let bucket = Bucket::open_with("s3://bucket/some/prefix/", options).unwrap();
    assert_eq!(bucket.to_string(), "s3://bucket/some/prefix");
    assert_eq!(format!("{bucket:?}"), "Bucket(\"s3://bucket/some/prefix\")");
    let path = bucket.path("dt=2023-11-14/hour=22/a");
    assert_eq!(path.as_ref(), "some/prefix/dt=2023-11-14/hour=22/a");
    assert_eq!(bucket.below_prefix(&path).as_deref(), Some("dt=2023-11-14/hour=22/a"));
    assert_eq!(bucket.below_prefix(&Path::from("some/prefixes/a")), None);
    let key =
        ObjectKey::new(1_700_000_000_000, audit_core::UniqueId::from_bits(7), 3, Compression::Gzip);
    assert_eq!(bucket.key(&bucket.path(&key.to_string())), Some(key));
    assert_eq!(bucket.key(&path), None);
}

#[cfg(feature = "aws")]
#[test]
fn builder_errors_quote_no_secret() {
    let options = [("aws_allow_http", "SECRETSECRET"), ("aws_token", "also-quoted")];
    let error = Bucket::open_with("s3://bucket", options).unwrap_err().to_string();
    assert!(error.starts_with("s3://bucket cannot be opened: "), "{error}");
}

#[test]
fn reading_creates_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(root.path().join("absent")).unwrap();
    let error = Bucket::open_to_read(url.as_str(), Duration::ZERO).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the directory "), "{error}");
    assert!(!root.path().join("absent").exists());
    Bucket::open(url.as_str()).unwrap();
    Bucket::open_to_read(url.as_str(), Duration::ZERO).unwrap();
}

#[tokio::test]
async fn a_directory_is_create_only() {
    let root = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(root.path().join("new/logs")).unwrap();
    let bucket = Bucket::open(url.as_str()).unwrap();
    let path = bucket.path("dt=2023-11-14/hour=22/a.ndjson");
    let object = |line: &[u8]| EncodedObject::of_lines(line, 0, 1, Compression::None);
    let (ours, other, longer) = (object(b"{}\n"), object(b"[]\n"), object(b"{ }\n"));
    bucket.create_object(&path, &ours).await.unwrap();
    let again = bucket.create_object(&path, &other).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
    assert!(bucket.holds(&path, &ours).await.unwrap());
    assert!(!bucket.holds(&path, &other).await.unwrap());
    assert!(!bucket.holds(&path, &longer).await.unwrap());
    let missing = bucket.holds(&bucket.path("absent"), &ours).await;
    assert!(matches!(missing, Err(object_store::Error::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn directories_keep_evidence_in_separate_files() {
    use audit_evidence::{CompactRange, KeyKind, ObjectHasher, SignerKey, StreamSigner};

    let root = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(root.path().join("new/logs")).unwrap();
    let bucket = Bucket::open(url.as_str()).unwrap();
    let of = crate::ObjectKey::new(0, audit_core::UniqueId::from_bits(1), 0, Compression::None);
    let key = &of.to_string();
    let path = bucket.path(key);
    let host = SignerKey::from_seed("api", KeyKind::Ed25519, &[1; 32]).unwrap();
    let signer = StreamSigner::new(&host, "s", &[2; 32]).unwrap();
    let object = |seed| {
        let (hasher, mut encoder) =
            (ObjectHasher::new(key, 0, 0, seed), ObjectEncoder::new(pieces()));
        let (payload, hashed) = encoder.encode_unsealed(b"{}\n", hasher, Compression::None);
        let (head, _) = signer.seal(CompactRange::default(), &hashed);
        EncodedObject::sealed(payload, of, head)
    };
    let (ours, other) = (object([3; 32]), object([4; 32]));
    let sidecar = root.path().join(format!("new/logs/_audit/heads/{key}.head"));
    // A crash after the evidence and before the object. The retry continues.
    let (beside, text) = bucket.sidecar(&path, &ours).unwrap();
    bucket.store().put_opts(&beside, text.clone().into(), PutMode::Create.into()).await.unwrap();
    bucket.create_object(&path, &ours).await.unwrap();
    assert_eq!(std::fs::read_to_string(&sidecar).unwrap(), text);
    for object in [&ours, &other] {
        let again = bucket.create_object(&path, object).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
    }
    assert!(bucket.holds(&path, &ours).await.unwrap());
    assert!(!bucket.holds(&path, &other).await.unwrap(), "the same lines with another seal");
    std::fs::remove_file(&sidecar).unwrap();
    assert!(!bucket.holds(&path, &ours).await.unwrap(), "evidence is missing");
}

#[tokio::test]
async fn system_objects_are_listed_separately() {
    use crate::layout::{Listed, ListedObject, ObjectKey, Partition};
    use futures::TryStreamExt;

    let root = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(root.path()).unwrap();
    let memory = Arc::new(object_store::memory::InMemory::new()) as Arc<dyn ObjectStore>;
    let buckets = [Bucket::open(url.as_str()).unwrap(), Bucket::from_store(memory, "some/prefix")];
    let stream = audit_core::UniqueId::from_bits(7);
    let system = ObjectKey::system(1_700_000_000_000, stream, 0);
    let data = ObjectKey::new(1_700_000_000_000, stream, 1, Compression::None);
    for bucket in buckets {
        assert_eq!(bucket.system_level(None).await.unwrap().partitions, []);
        let hour = data.partition();
        let day = Partition::day_of(1_700_000_000_000);
        for key in [system, data] {
            let path = bucket.path(&key.to_string());
            bucket.create(&path, "{}\n".into(), Attributes::new()).await.unwrap();
        }
        let level = bucket.level(None).await.unwrap();
        assert_eq!((level.partitions, &level.others[..]), (vec![day], &["_audit/".to_owned()][..]));
        assert_eq!(bucket.system_level(None).await.unwrap().partitions, [day]);
        assert_eq!(bucket.system_level(Some(&day)).await.unwrap().partitions, [hour]);
        for (listed, expected) in [(bucket.list(&hour), data), (bucket.list_system(&day), system)] {
            let listed: Vec<_> = listed.try_collect().await.unwrap();
            let [Listed::Object(ListedObject { key, .. })] = listed[..] else {
                panic!("{listed:?}")
            };
            assert_eq!(key, expected);
        }
    }
}

#[cfg(feature = "aws")]
#[tokio::test]
async fn readers_retry_up_to_their_limit() {
    use object_store::ObjectStoreExt;
    use s3_testserver::{ErrorAnswer, Fault, S3TestServer};

    let server = S3TestServer::start().await;
    server.put_object("a", s3_testserver::StoredObject::default());
    let read = |retry_for| {
        let url = format!("s3://{}", server.bucket());
        let options = [
            ("aws_endpoint", server.endpoint()),
            ("aws_allow_http", "true".to_owned()),
            ("aws_access_key_id", server.access_key().to_owned()),
            ("aws_secret_access_key", server.secret_key().to_owned()),
        ];
        let purpose = Purpose::reading(retry_for, None);
        let bucket = Bucket::open_for(purpose, &url, options, true).unwrap();
        async move { bucket.store().get(&Path::from("a")).await.map(drop) }
    };
    // More failures than the client's default number of retries.
    let mut left = 12;
    server.faults().plan(move |_| {
        left -= 1;
        if left >= 0 { Fault::Refused(ErrorAnswer::SLOW_DOWN) } else { Fault::None }
    });
    read(Duration::ZERO).await.unwrap_err();
    assert_eq!(server.requests().len(), 1, "not told to retry");
    read(Duration::from_secs(600)).await.unwrap();
    assert_eq!(server.requests().len(), 13);
}

#[test]
fn bytes_are_compared_across_pieces() {
    let payload: PutPayload = ["ab", "c"].into_iter().map(Bytes::from).collect();
    let same = |found: &'static str| same_bytes(&Bytes::from(found), &payload);
    assert_eq!(["abc", "ab", "abcd", "abd", ""].map(same), [true, false, false, false, false]);
}

/// A store that lists each page again before the next one.
#[derive(Debug)]
struct StutteringStore(Vec<Vec<Path>>);

#[audit_core::async_trait]
impl StoreDouble for StutteringStore {
    async fn put(
        &self,
        _: &Path,
        _: PutPayload,
        _: PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        unreachable!("it is only listed")
    }

    async fn get(&self, _: &Path, _: GetOptions) -> object_store::Result<object_store::GetResult> {
        unreachable!("it is only listed")
    }

    fn list(
        &self,
        _: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        use futures::StreamExt;
        let entries = self.0.iter().flat_map(|page| page.iter().chain(page)).map(|location| {
            Ok(object_store::ObjectMeta {
                location: location.clone(),
                last_modified: chrono::DateTime::UNIX_EPOCH,
                size: 1,
                e_tag: None,
                version: None,
            })
        });
        futures::stream::iter(entries.collect::<Vec<_>>()).boxed()
    }
}

#[tokio::test]
async fn an_object_that_is_listed_again_is_listed_once() {
    use crate::layout::{Listed, Partition};
    use futures::TryStreamExt;

    let stream = audit_core::UniqueId::from_bits(7);
    let location = |number| {
        let key = ObjectKey::new(1_700_000_000_000, stream, number, Compression::None);
        Path::from(format!("logs/{key}"))
    };
    let pages: Vec<Vec<Path>> =
        (0..3).map(|page| (page * 1_000..(page + 1) * 1_000).map(location).collect()).collect();
    let stuttering = StutteringStore(pages);
    let bucket = Bucket::from_store(Arc::new(Double(Arc::new(stuttering))), "logs");
    let day = Partition::day_of(1_700_000_000_000);
    let listed: Vec<Listed> = bucket.list(&day).try_collect().await.unwrap();
    let numbers = listed.into_iter().map(|listed| match listed {
        Listed::Object(object) => object.key.first_sequence(),
        Listed::Other { name, .. } => panic!("{name}"),
    });
    assert!(numbers.eq(0..3_000));
}

/// A store that refuses the first puts, and the health at each put.
#[derive(Debug)]
struct RefusingStore {
    refusals: Mutex<Vec<object_store::Error>>,
    health: Arc<HealthBoard>,
    seen: Mutex<Vec<HealthState>>,
}

#[async_trait]
impl StoreDouble for RefusingStore {
    async fn put(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        self.seen.lock().unwrap().push(self.health.health(0).state);
        let stored = PutResult { e_tag: None, version: None, extensions: Default::default() };
        self.refusals.lock().unwrap().pop().map_or(Ok(stored), Err)
    }

    async fn get(&self, _: &Path, _: GetOptions) -> object_store::Result<GetResult> {
        unreachable!("no put has an uncertain outcome")
    }
}

/// The number of refusals that it was told of.
#[derive(Default)]
struct CountingSession(AtomicUsize);

impl RoleSession for CountingSession {
    fn refused(&self, _: bool) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn name_for(&self, _: &str) {}
}

#[tokio::test(start_paused = true)]
async fn a_refused_session_blocks_only_if_the_next_one_is_refused_too() {
    let refused = |error: fn(String, Box<dyn std::error::Error + Send + Sync>) -> _| {
        error("a".to_owned(), "refused".into())
    };
    let expired = || refused(|path, source| object_store::Error::Unauthenticated { path, source });
    let denied = || refused(|path, source| object_store::Error::PermissionDenied { path, source });
    let broken = || object_store::Error::Generic { store: "S3", source: "reset".into() };
    let by_sts = || {
        let issuer = Issuer::new("STS", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL_STS", Vec::new());
        let (issuer, cause) = (issuer.into(), Some(expired()));
        let failure = CredentialFailure { issuer, has_issued: true, file: None, cause };
        object_store::Error::Generic { store: "S3", source: Box::new(failure) }
    };
    for (has_session, refusals, told, expected) in [
        (true, vec![expired()], 1, "ok retrying"),
        (true, vec![denied()], 1, "ok retrying"),
        (true, vec![expired(), denied(), expired()], 3, "ok retrying blocked blocked"),
        (true, vec![expired(), broken(), expired()], 2, "ok retrying retrying retrying"),
        (true, vec![by_sts()], 1, "ok blocked"),
        (true, vec![expired(), by_sts()], 2, "ok retrying blocked"),
        (false, vec![expired()], 0, "ok blocked"),
    ] {
        let health = HealthBoard::new("b".to_owned());
        let refusals = Mutex::new(refusals.into_iter().rev().collect());
        let store = RefusingStore { refusals, health: Arc::clone(&health), seen: Mutex::default() };
        let store = Arc::new(store);
        let session = Arc::new(CountingSession::default());
        let mut bucket = Bucket::from_store(Arc::new(Double(Arc::clone(&store))), "");
        bucket.session = has_session.then(|| Arc::clone(&session) as _);
        let random = Arc::new(SeededRandom::new(1));
        let put = Put::new(bucket, health, random, Settings::default());
        let object = EncodedObject::of_lines(b"{}\n", 0, 1, Compression::None);
        let path = put.bucket.path("a");
        assert_eq!(put.until_certain(&path, &object).await, PutOutcome::Stored);
        let seen = store.seen.lock().unwrap();
        let word = |state: &HealthState| state.to_string().split(':').next().unwrap().to_owned();
        assert_eq!(seen.iter().map(word).collect::<Vec<_>>().join(" "), expected);
        assert_eq!(session.0.load(Ordering::Relaxed), told);
    }
}
