//! A simulated bucket, which decides the outcome of each request from a seed.
//!
//! An object is stored whole, at once, later or never, whatever the client is told. The bucket
//! remembers the bytes of every request, and reports a key that is sent with different contents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::disk::faulty::panic_silently;
use super::disk::{Dice, SimulatedDisk};

/// The name of the metadata with which the simulated destination seals an object.
pub const SEAL: &str = "seal";

/// The bucket. Clones share it.
#[derive(Debug, Clone)]
pub struct SimulatedBucket {
    shared: Arc<Mutex<State>>,
}

/// The features of a bucket, and how often it misbehaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// The percentage of requests that do not simply succeed.
    pub faults: usize,
    /// The percentage of keys that a foreign object occupies.
    pub foreign: usize,
    /// The percentage of requests in which the client panics.
    pub panics: usize,
    /// Whether a create overwrites an existing object.
    pub overwrites: bool,
    /// Whether the bucket stores metadata.
    pub attributes: bool,
    /// The uncertain outcome that the client takes for success: a known-bad client, for checking
    /// that the simulation notices.
    pub believes: Believes,
    /// Whether to check, at each request, that the plan of the object is durable.
    pub wants_plans: bool,
}

/// The outcome that a client wrongly takes for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Believes {
    Nothing,
    /// A request without a response.
    Silence,
    /// A key at which an object exists.
    Exists,
    /// A request that panicked.
    Panics,
}

/// An object, or a request to create it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub bytes: Bytes,
    /// The metadata.
    pub attributes: BTreeMap<String, String>,
    pub foreign: bool,
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
    shown: Shown,
}

/// The states of each stream that a witness was shown, by the number of records before them.
pub type Shown = BTreeMap<String, BTreeMap<u64, String>>;

/// A period in which every request is refused.
#[derive(Debug, Clone, Copy)]
struct Refusing {
    until: Instant,
    how: Refuses,
}

/// Why a bucket refuses everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuses {
    Permission,
    ExpiredCredentials,
    NoBucket,
    OutOfReach,
}

/// The error that a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    SlowDown,
    InternalError,
    Reset,
    /// An object with this key exists.
    Exists,
    /// Another request for the key is in flight.
    Contention,
    NotFound,
    /// The bucket stores no metadata.
    NoAttributes,
    All(Refuses),
}

impl Refused {
    /// Whether the error leaves the outcome unknown.
    fn is_vague(self) -> bool {
        match self {
            Refused::SlowDown | Refused::InternalError | Refused::Reset => true,
            Refused::All(how) => matches!(how, Refuses::ExpiredCredentials | Refuses::OutOfReach),
            Refused::Exists | Refused::Contention | Refused::NotFound | Refused::NoAttributes => {
                false
            }
        }
    }
}

/// The course of a request.
#[derive(Debug)]
enum Course {
    /// Executed, with a response.
    Carried,
    /// Not executed, with this error.
    Refused(Refused),
    /// Not executed, without a response.
    Lost,
    /// Executed after this delay, without a response, or with this error at once.
    Late(Duration, Option<Refused>),
    /// Executed after this delay if the client still waits.
    Slow(Duration),
    /// The client panics, before sending the request or after it was executed.
    Panics { carried_out: bool },
}

impl SimulatedBucket {
    pub fn new(seed: u64, manners: Manners, disk: SimulatedDisk) -> SimulatedBucket {
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
            shown: Shown::new(),
        };
        SimulatedBucket { shared: Arc::new(Mutex::new(state)) }
    }

    /// One request to create an object. May never complete.
    pub async fn put(&self, key: &str, stored: Stored) -> Result<(), Refused> {
        let _under_way = UnderWay::begin(self);
        let course = {
            let mut state = self.lock();
            let course = state.arrives(true);
            if course.is_some() {
                state.remember(key, &stored);
                if !state.manners.attributes && !stored.attributes.is_empty() {
                    return Err(Refused::NoAttributes);
                }
            }
            course
        };
        match course {
            None | Some(Course::Lost) => std::future::pending().await,
            Some(Course::Carried) => self.create(key, stored),
            Some(Course::Refused(refused)) => Err(refused),
            Some(Course::Late(Duration::MAX, _)) => Ok(()),
            Some(Course::Late(later, answer)) => {
                let (bucket, key) = (self.clone(), key.to_owned());
                if later.is_zero() {
                    let _ = bucket.create(&key, stored);
                } else {
                    // In a separate task, since the client may be gone by then.
                    tokio::spawn(async move {
                        sleep(later).await;
                        let _ = bucket.create(&key, stored);
                    });
                }
                match answer {
                    Some(refused) => Err(refused),
                    None => std::future::pending().await,
                }
            }
            Some(Course::Slow(time)) => {
                sleep(time).await;
                self.create(key, stored)
            }
            Some(Course::Panics { carried_out }) => {
                if carried_out {
                    let _ = self.create(key, stored);
                }
                if self.lock().manners.believes == Believes::Panics {
                    return Ok(());
                }
                panic_silently()
            }
        }
    }

    /// One request for an object. May never complete.
    pub async fn get(&self, key: &str) -> Result<Stored, Refused> {
        let course = self.lock().arrives(false);
        match course {
            None | Some(Course::Lost | Course::Late(..)) => std::future::pending().await,
            Some(Course::Carried) => {}
            // The client would take a missing bucket for a missing object.
            Some(Course::Refused(Refused::All(Refuses::NoBucket))) => {
                return Err(Refused::SlowDown);
            }
            Some(Course::Refused(refused)) => return Err(refused),
            Some(Course::Slow(time)) => sleep(time).await,
            Some(Course::Panics { .. }) => panic_silently(),
        }
        self.lock().objects.get(key).cloned().ok_or(Refused::NotFound)
    }

    /// Sets the percentage of faults from now on, without panics.
    pub fn set_faults(&self, faults: usize) {
        let mut state = self.lock();
        state.manners.faults = faults;
        state.manners.panics = 0;
    }

    /// Refuses every request for this long.
    pub fn refuse(&self, how: Refuses, time: Duration) {
        self.lock().refusing = Some(Refusing { until: Instant::now() + time, how });
    }

    /// Makes the sending process die at this request, counted from the start.
    pub fn stop_at(&self, request: Option<u64>) {
        self.lock().stop_at = request;
    }

    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// The maximum number of creates that were in flight at once.
    pub fn most_under_way(&self) -> usize {
        self.lock().most_under_way
    }

    /// The first broken promise, if any.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// Shows a witness the state of a stream after its first `records` records, and notes it.
    /// Returns false if the process has died and never showed it.
    pub fn show(&self, stream: &str, records: u64, stream_state: &str) -> bool {
        let mut state = self.lock();
        if state.disk.is_stopped() {
            return false;
        }
        let known = state.shown.entry(stream.to_owned()).or_default();
        let known = known.entry(records).or_insert_with(|| stream_state.to_owned());
        if known != stream_state {
            let what = format!("a witness saw two histories of {records} records of {stream}");
            state.broken.get_or_insert(what);
        }
        true
    }

    /// Notes a broken promise.
    pub fn blame(&self, what: String) {
        self.lock().broken.get_or_insert(what);
    }

    /// The states that a witness was shown.
    pub fn shown(&self) -> Shown {
        self.lock().shown.clone()
    }

    pub fn keeps_attributes(&self) -> bool {
        self.lock().manners.attributes
    }

    pub fn objects(&self) -> BTreeMap<String, Stored> {
        self.lock().objects.clone()
    }

    /// The requested objects whose keys a foreign object occupies.
    pub fn conflicts(&self) -> BTreeMap<String, Stored> {
        let state = self.lock();
        let foreign = state.objects.iter().filter(|(_, stored)| stored.foreign);
        foreign.filter_map(|(key, _)| Some((key.clone(), state.sent.get(key)?.clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, key: &str, stored: Stored) -> Result<(), Refused> {
        let mut state = self.lock();
        let manners = state.manners;
        if !manners.overwrites && state.objects.contains_key(key) {
            if manners.believes == Believes::Exists {
                return Ok(());
            }
            return Err(Refused::Exists);
        }
        state.objects.insert(key.to_owned(), stored);
        Ok(())
    }
}

impl State {
    /// Decides the course of a request that arrives. `None` if the process that sent it has died.
    fn arrives(&mut self, creates: bool) -> Option<Course> {
        if self.disk.is_stopped() {
            return None;
        }
        self.requests += 1;
        let dies = self.stop_at == Some(self.requests);
        if dies {
            // The process dies at its next disk operation.
            self.disk.stop_at(self.disk.operation());
        }
        if self.dice.chance(self.manners.panics, 100) {
            return Some(Course::Panics { carried_out: self.dice.chance(1, 2) });
        }
        if let Some(Refusing { until, how }) = self.refusing
            && Instant::now() < until
        {
            return Some(Course::Refused(Refused::All(how)));
        }
        self.refusing = None;
        let course = if self.dice.chance(self.manners.faults, 100) {
            self.fault(creates)
        } else if self.dice.chance(1, 4) {
            Course::Slow(Duration::from_millis(self.dice.below(40) as u64))
        } else {
            Course::Carried
        };
        let is_silent = match &course {
            Course::Lost => true,
            Course::Refused(refused) => refused.is_vague(),
            Course::Carried | Course::Late(..) | Course::Slow(_) | Course::Panics { .. } => false,
        };
        if creates && is_silent && self.manners.believes == Believes::Silence {
            return Some(Course::Late(Duration::MAX, None));
        }
        Some(course)
    }

    fn fault(&mut self, creates: bool) -> Course {
        let later = Duration::from_millis(1 << self.dice.below(15));
        // A store that ignores conditions reports no conflicts.
        let faults = match (creates, self.manners.overwrites) {
            (true, false) => 14,
            (true, true) => 12,
            (false, _) => 7,
        };
        match self.dice.below(faults) {
            0 => Course::Refused(Refused::SlowDown),
            1 => Course::Refused(Refused::Reset),
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
                Course::Refused(Refused::All(how))
            }
            7 | 8 => Course::Late(Duration::ZERO, None),
            9 => Course::Late(Duration::ZERO, Some(Refused::Reset)),
            10 => Course::Late(later, None),
            11 => Course::Late(later, Some(Refused::InternalError)),
            12 => Course::Refused(Refused::Contention),
            // The conflict is with a duplicate of the same request.
            _ => Course::Late(later, Some(Refused::Contention)),
        }
    }

    /// Remembers a request, and checks that it may be sent.
    fn remember(&mut self, key: &str, stored: &Stored) {
        let mut breaks = None;
        match self.sent.get(key) {
            None => {
                let plan = self.disk.durable_file(&plan_name(key));
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

    /// A foreign object: of another length or the same, with or without metadata; or the same
    /// lines, sealed by a thief of the stream's key.
    fn foreign(&mut self, ours: &Stored) -> Stored {
        let mut bytes = ours.bytes.to_vec();
        let mut attributes = BTreeMap::new();
        let seals = ["root", "sig", SEAL];
        let seals: Vec<_> =
            seals.into_iter().filter(|name| ours.attributes.contains_key(*name)).collect();
        if !seals.is_empty() && self.dice.chance(1, 3) {
            attributes = ours.attributes.clone();
            let seal = attributes.get_mut(seals[self.dice.below(seals.len())]).unwrap();
            let other = if seal.starts_with('A') { "B" } else { "A" };
            seal.replace_range(..1, other);
            return Stored { bytes: bytes.into(), attributes, foreign: true };
        }
        if self.dice.chance(1, 2) {
            bytes.push(b' ');
        } else {
            bytes[0] ^= 1;
        }
        if self.manners.attributes && self.dice.chance(1, 2) {
            attributes = ours.attributes.clone();
            attributes.insert("sha256".to_owned(), "0".repeat(64));
        }
        Stored { bytes: bytes.into(), attributes, foreign: true }
    }
}

/// The name of the file with the plan of this key's object. The last part of a key is the stream
/// and the first record, up to the first dot.
fn plan_name(key: &str) -> String {
    let name = key.rsplit('/').next().unwrap();
    format!("{}.object", name.split('.').next().unwrap())
}

/// Counts a request while somebody waits for it.
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
