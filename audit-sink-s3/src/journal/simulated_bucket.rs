//! A bucket in memory that answers a request with every line of the answer table, from a seed.
//!
//! What it was asked to store is carried out whole, later, or never, whatever the client hears of
//! it. It remembers the bytes of every request, and says where the promise of one key, one content
//! is broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use audit_core::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result,
};
use tokio::time::{Instant, sleep};

use super::faulty_disk::panic_silently;
use super::simulated_disk::{Dice, SimulatedDisk};

/// The bucket. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedBucket {
    shared: Arc<Mutex<State>>,
}

/// What kind of bucket it is, and how often it misbehaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// Of 100 requests, how many do not simply succeed.
    pub(crate) faults: usize,
    /// Of 100 keys, at how many somebody else's object stands.
    pub(crate) foreign: usize,
    /// Of 100 requests, in how many the client panics.
    pub(crate) panics: usize,
    /// Does what it is asked to create where something stands.
    pub(crate) overwrites: bool,
    /// Keeps metadata.
    pub(crate) attributes: bool,
    /// Takes every request for granted: a bucket as it must not be, for it stands for a client that
    /// believes what is not certain.
    pub(crate) believes: Believes,
    /// Looks, before it takes a request, whether the plan of the object is durable.
    pub(crate) wants_plans: bool,
}

/// What a client may wrongly take for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Believes {
    Nothing,
    /// A request without an answer.
    Silence,
    /// A key at which something stands.
    Exists,
    /// A request that panicked.
    Panics,
}

/// An object, or a request to create it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    pub(crate) attributes: Attributes,
    pub(crate) foreign: bool,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    manners: Manners,
    disk: SimulatedDisk,
    objects: BTreeMap<String, Stored>,
    sent: BTreeMap<String, Stored>,
    requests: u64,
    stop_at: Option<u64>,
    refusing: Option<Refusing>,
    under_way: usize,
    most_under_way: usize,
    broken: Option<String>,
}

/// No request is carried out.
#[derive(Debug, Clone, Copy)]
struct Refusing {
    until: Instant,
    how: Refuses,
}

/// How a bucket refuses everything.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refuses {
    Permission,
    ExpiredCredentials,
    NoBucket,
    OutOfReach,
}

/// What happens to a request.
#[derive(Debug)]
enum Course {
    /// It is carried out, and answered.
    Carried,
    /// It is not, and this is the answer.
    Refused(Error),
    /// It is not, and there is no answer.
    Lost,
    /// It is carried out so much later, and there is no answer, or this one at once.
    Late(Duration, Option<Error>),
    /// It is carried out after this time if the client still waits for it.
    Slow(Duration),
    /// The client panics: before it has sent it, or when it was carried out.
    Panics { carried_out: bool },
}

impl SimulatedBucket {
    pub(crate) fn new(seed: u64, manners: Manners, disk: SimulatedDisk) -> SimulatedBucket {
        let state = State {
            dice: Dice::new(seed),
            manners,
            disk,
            objects: BTreeMap::new(),
            sent: BTreeMap::new(),
            requests: 0,
            stop_at: None,
            refusing: None,
            under_way: 0,
            most_under_way: 0,
            broken: None,
        };
        SimulatedBucket { shared: Arc::new(Mutex::new(state)) }
    }

    /// From now on.
    pub(crate) fn set_faults(&self, faults: usize) {
        let mut state = self.lock();
        state.manners.faults = faults;
        state.manners.panics = 0;
    }

    /// Refuses everything for so long.
    pub(crate) fn refuse(&self, how: Refuses, time: Duration) {
        self.lock().refusing = Some(Refusing { until: Instant::now() + time, how });
    }

    /// The process that sends dies at this request, counted from the beginning.
    pub(crate) fn stop_at(&self, request: Option<u64>) {
        self.lock().stop_at = request;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// The most requests to create that were under way at once.
    pub(crate) fn most_under_way(&self) -> usize {
        self.lock().most_under_way
    }

    /// How a promise was broken, if one was.
    pub(crate) fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Stored> {
        self.lock().objects.clone()
    }

    /// What was asked to be stored where somebody else's object stands.
    pub(crate) fn conflicts(&self) -> BTreeMap<String, Stored> {
        let state = self.lock();
        let foreign = state.objects.iter().filter(|(_, stored)| stored.foreign);
        foreign.filter_map(|(key, _)| Some((key.clone(), state.sent.get(key)?.clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, key: &str, stored: Stored) -> Result<PutResult> {
        let mut state = self.lock();
        let manners = state.manners;
        if !manners.overwrites && state.objects.contains_key(key) {
            if manners.believes == Believes::Exists {
                return Ok(done());
            }
            return Err(exists(key, "412 Precondition Failed", "PreconditionFailed"));
        }
        state.objects.insert(key.to_owned(), stored);
        Ok(done())
    }
}

impl State {
    /// A request arrives. Says what is to happen to it; `None` if the process that sent it has
    /// died.
    fn arrives(&mut self, key: &str, creates: bool) -> Option<Course> {
        if self.disk.is_stopped() {
            return None;
        }
        self.requests += 1;
        let dies = self.stop_at == Some(self.requests);
        if dies {
            // The next thing that the process does is its last.
            self.disk.stop_at(self.disk.operation());
        }
        if self.dice.chance(self.manners.panics, 100) {
            return Some(Course::Panics { carried_out: self.dice.chance(1, 2) });
        }
        if let Some(Refusing { until, how }) = self.refusing
            && Instant::now() < until
        {
            return Some(Course::Refused(how.error(key)));
        }
        self.refusing = None;
        let course = if self.dice.chance(self.manners.faults, 100) {
            self.fault(key, creates)
        } else if self.dice.chance(1, 4) {
            Course::Slow(Duration::from_millis(self.dice.below(40) as u64))
        } else {
            Course::Carried
        };
        Some(match (course, self.manners.believes) {
            (Course::Refused(Error::Generic { .. }) | Course::Lost, Believes::Silence)
                if creates =>
            {
                Course::Late(Duration::MAX, None)
            }
            (course, _) => course,
        })
    }

    fn fault(&mut self, key: &str, creates: bool) -> Course {
        let later = Duration::from_millis(1 << self.dice.below(15));
        // A store that does not look at the condition does not refuse for its sake.
        let faults = match (creates, self.manners.overwrites) {
            (true, false) => 14,
            (true, true) => 12,
            (false, _) => 7,
        };
        match self.dice.below(faults) {
            0 => Course::Refused(generic(key, "503 Service Unavailable", "SlowDown")),
            1 => Course::Refused(Error::Generic { store: "S3", source: reset().into() }),
            2 | 3 => Course::Lost,
            4 | 5 => Course::Slow(later),
            6 => {
                let how = [
                    Refuses::Permission,
                    Refuses::ExpiredCredentials,
                    Refuses::NoBucket,
                    Refuses::OutOfReach,
                ];
                let how = how[self.dice.below(how.len())];
                self.refusing = Some(Refusing { until: Instant::now() + 4 * later, how });
                Course::Refused(how.error(key))
            }
            7 | 8 => Course::Late(Duration::ZERO, None),
            9 => Course::Late(
                Duration::ZERO,
                Some(Error::Generic { store: "S3", source: reset().into() }),
            ),
            10 => Course::Late(later, None),
            11 => Course::Late(
                later,
                Some(generic(key, "500 Internal Server Error", "InternalError")),
            ),
            12 => Course::Refused(exists(key, "409 Conflict", "ConditionalRequestConflict")),
            // One's own request, which is under way twice.
            _ => {
                Course::Late(later, Some(exists(key, "409 Conflict", "ConditionalRequestConflict")))
            }
        }
    }

    /// Remembers what is asked for, and whether it may be.
    fn remember(&mut self, key: &str, stored: &Stored) {
        let mut breaks = None;
        match self.sent.get(key) {
            None => {
                let plan = super::delivery_checker::plan_name(key);
                let plan = plan.and_then(|name| self.disk.durable_file(&name));
                if self.manners.wants_plans
                    && plan.is_none_or(|plan| !plan.ends_with(&stored.bytes))
                {
                    breaks = Some(format!("{key} is sent, and its plan is not durable"));
                }
                self.sent.insert(key.to_owned(), stored.clone());
                if self.dice.chance(self.manners.foreign, 100) && !self.objects.contains_key(key) {
                    let foreign = self.foreign(stored);
                    self.objects.insert(key.to_owned(), foreign);
                }
            }
            Some(before) => {
                let metadata = before.attributes != stored.attributes
                    && !(before.attributes.is_empty() || stored.attributes.is_empty());
                if before.bytes != stored.bytes || metadata {
                    breaks = Some(format!("{key} is sent with other bytes than before"));
                }
            }
        }
        if breaks.is_some() && self.broken.is_none() {
            self.broken = breaks;
        }
    }

    /// Somebody else's object: with metadata of its own or without, of another length or the same.
    fn foreign(&mut self, ours: &Stored) -> Stored {
        let mut bytes = ours.bytes.to_vec();
        let mut attributes = Attributes::new();
        if self.dice.chance(1, 2) {
            bytes.push(b' ');
        } else {
            bytes[0] ^= 1;
        }
        if self.manners.attributes && self.dice.chance(1, 2) {
            attributes = ours.attributes.clone();
            let name = object_store::Attribute::Metadata("sha256".into());
            attributes.insert(name, "0".repeat(64).into());
        }
        Stored { bytes: bytes.into(), attributes, foreign: true }
    }
}

impl Refuses {
    fn error(self, key: &str) -> Error {
        let path = key.to_owned();
        match self {
            Refuses::Permission => Error::PermissionDenied {
                path,
                source: text("403 Forbidden", "AccessDenied").into(),
            },
            Refuses::ExpiredCredentials => generic(key, "400 Bad Request", "ExpiredToken"),
            Refuses::NoBucket => {
                Error::NotFound { path, source: text("404 Not Found", "NoSuchBucket").into() }
            }
            Refuses::OutOfReach => {
                Error::Generic { store: "S3", source: "connection refused".into() }
            }
        }
    }
}

fn done() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: Extensions::default() }
}

fn text(status: &str, code: &str) -> String {
    format!("Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>")
}

fn generic(_: &str, status: &str, code: &str) -> Error {
    Error::Generic { store: "S3", source: text(status, code).into() }
}

fn exists(key: &str, status: &str, code: &str) -> Error {
    Error::AlreadyExists { path: key.to_owned(), source: text(status, code).into() }
}

fn reset() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

/// Counts a request for as long as somebody waits for it.
struct UnderWay<'a>(&'a SimulatedBucket);

impl<'a> UnderWay<'a> {
    fn begin(bucket: &'a SimulatedBucket) -> UnderWay<'a> {
        let mut state = bucket.lock();
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        UnderWay(bucket)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

impl fmt::Display for SimulatedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedBucket")
    }
}

#[async_trait]
impl ObjectStore for SimulatedBucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let _under_way = UnderWay::begin(self);
        let key = location.to_string();
        assert_eq!(options.mode, PutMode::Create, "an object is created, and nothing else");
        let stored =
            Stored { bytes: payload.into(), attributes: options.attributes, foreign: false };
        let course = {
            let mut state = self.lock();
            let course = state.arrives(&key, true);
            if course.is_some() {
                state.remember(&key, &stored);
                if !state.manners.attributes && !stored.attributes.is_empty() {
                    let operation = "attributes".to_owned();
                    return Err(Error::NotImplemented { operation, implementer: self.to_string() });
                }
            }
            course
        };
        match course {
            None => futures::future::pending().await,
            Some(Course::Carried) => self.create(&key, stored),
            Some(Course::Refused(error)) => Err(error),
            Some(Course::Lost) => futures::future::pending().await,
            Some(Course::Late(Duration::MAX, _)) => Ok(done()),
            Some(Course::Late(later, answer)) => {
                let bucket = self.clone();
                if later.is_zero() {
                    let _ = bucket.create(&key, stored);
                } else {
                    // Whatever becomes of the client.
                    tokio::spawn(async move {
                        sleep(later).await;
                        let _ = bucket.create(&key, stored);
                    });
                }
                match answer {
                    Some(error) => Err(error),
                    None => futures::future::pending().await,
                }
            }
            Some(Course::Slow(time)) => {
                sleep(time).await;
                self.create(&key, stored)
            }
            Some(Course::Panics { carried_out }) => {
                if carried_out {
                    let _ = self.create(&key, stored);
                }
                if self.lock().manners.believes == Believes::Panics {
                    return Ok(done());
                }
                panic_silently()
            }
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        let course = self.lock().arrives(&key, false);
        match course {
            None | Some(Course::Lost | Course::Late(..)) => futures::future::pending().await,
            Some(Course::Carried) => {}
            Some(Course::Refused(Error::NotFound { .. })) => {
                return Err(generic(&key, "503", "SlowDown"));
            }
            Some(Course::Refused(error)) => return Err(error),
            Some(Course::Slow(time)) => sleep(time).await,
            Some(Course::Panics { .. }) => panic_silently(),
        }
        let Some(Stored { bytes, attributes, foreign: _ }) = self.lock().objects.get(&key).cloned()
        else {
            return Err(Error::NotFound {
                path: key,
                source: text("404 Not Found", "NoSuchKey").into(),
            });
        };
        let size = bytes.len() as u64;
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: DateTime::UNIX_EPOCH,
            size,
            e_tag: None,
            version: None,
        };
        let bytes = if options.head { Bytes::new() } else { bytes };
        let payload = GetResultPayload::Stream(async move { Ok(bytes) }.into_stream().boxed());
        Ok(GetResult {
            payload,
            meta,
            range: 0..size,
            attributes,
            extensions: Extensions::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the sink writes an object with one put")
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        unreachable!("the sink deletes nothing")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("the sink lists nothing")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the sink copies nothing")
    }
}
