//! What becomes of requests to a destination, from a seed, and a destination whose requests they
//! are.
//!
//! An object that is to be stored is stored whole, later, or never, whatever the client hears of
//! it. The bucket remembers the bytes of every request, and says where the promise of one key, one
//! content is broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::disk::faulty::panic_silently;
use super::disk::{Dice, SimulatedDisk};

/// The metadata in which the simulation's own destination seals an object.
pub const SEAL: &str = "seal";

/// The bucket. Clones are the same one.
#[derive(Debug, Clone)]
pub struct SimulatedBucket {
    shared: Arc<Mutex<State>>,
}

/// What kind of bucket it is, and how often it misbehaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Of 100 requests, how many do not simply succeed.
    pub faults: usize,
    /// Of 100 keys, at how many somebody else's object stands.
    pub foreign: usize,
    /// Of 100 requests, in how many the client panics.
    pub panics: usize,
    /// Does what it is asked to create where something stands.
    pub overwrites: bool,
    /// Keeps metadata.
    pub attributes: bool,
    /// Takes every request for granted: a bucket as it must not be, for it stands for a client that
    /// believes what is not certain.
    pub believes: Believes,
    /// Looks, before it takes a request, whether the plan of the object is durable.
    pub wants_plans: bool,
}

/// What a client may wrongly take for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Believes {
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
pub struct Stored {
    pub bytes: Bytes,
    /// Its metadata.
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
}

/// No request is carried out.
#[derive(Debug, Clone, Copy)]
struct Refusing {
    until: Instant,
    how: Refuses,
}

/// How a bucket refuses everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuses {
    Permission,
    ExpiredCredentials,
    NoBucket,
    OutOfReach,
}

/// Why a request was not carried out, as the client hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    SlowDown,
    InternalError,
    Reset,
    /// Something stands under the key.
    Exists,
    /// Another request for the key is under way.
    Contention,
    NotFound,
    /// It keeps no metadata.
    NoAttributes,
    All(Refuses),
}

impl Refused {
    /// Whether the client learns nothing of what became of the object.
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

/// What happens to a request.
#[derive(Debug)]
enum Course {
    /// It is carried out, and answered.
    Carried,
    /// It is not, and this is the answer.
    Refused(Refused),
    /// It is not, and there is no answer.
    Lost,
    /// It is carried out so much later, and there is no answer, or this one at once.
    Late(Duration, Option<Refused>),
    /// It is carried out after this time if the client still waits for it.
    Slow(Duration),
    /// The client panics: before it has sent it, or when it was carried out.
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
        };
        SimulatedBucket { shared: Arc::new(Mutex::new(state)) }
    }

    /// One request to create an object. It may never end.
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
                    // Whatever becomes of the client.
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

    /// One request for an object. It may never end.
    pub async fn get(&self, key: &str) -> Result<Stored, Refused> {
        let course = self.lock().arrives(false);
        match course {
            None | Some(Course::Lost | Course::Late(..)) => std::future::pending().await,
            Some(Course::Carried) => {}
            // It would be taken for an object that is not there.
            Some(Course::Refused(Refused::All(Refuses::NoBucket))) => {
                return Err(Refused::SlowDown);
            }
            Some(Course::Refused(refused)) => return Err(refused),
            Some(Course::Slow(time)) => sleep(time).await,
            Some(Course::Panics { .. }) => panic_silently(),
        }
        self.lock().objects.get(key).cloned().ok_or(Refused::NotFound)
    }

    /// From now on.
    pub fn set_faults(&self, faults: usize) {
        let mut state = self.lock();
        state.manners.faults = faults;
        state.manners.panics = 0;
    }

    /// Refuses everything for so long.
    pub fn refuse(&self, how: Refuses, time: Duration) {
        self.lock().refusing = Some(Refusing { until: Instant::now() + time, how });
    }

    /// The process that sends dies at this request, counted from the beginning.
    pub fn stop_at(&self, request: Option<u64>) {
        self.lock().stop_at = request;
    }

    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// The most requests to create that were under way at once.
    pub fn most_under_way(&self) -> usize {
        self.lock().most_under_way
    }

    /// How a promise was broken, if one was.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    pub fn keeps_attributes(&self) -> bool {
        self.lock().manners.attributes
    }

    pub fn objects(&self) -> BTreeMap<String, Stored> {
        self.lock().objects.clone()
    }

    /// What was asked to be stored where somebody else's object stands.
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
    /// A request arrives. Says what is to happen to it; `None` if the process that sent it has
    /// died.
    fn arrives(&mut self, creates: bool) -> Option<Course> {
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
        // A store that does not look at the condition does not refuse for its sake.
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
            // One's own request, which is under way twice.
            _ => Course::Late(later, Some(Refused::Contention)),
        }
    }

    /// Remembers what is asked for, and whether it may be.
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

    /// Somebody else's object: with metadata of its own or without, of another length or the same;
    /// or the same lines, sealed by somebody else who has the stream's key.
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

/// The name of the file in which the object of this key is planned. Any key ends with stream and
/// first record, and what follows the first dot.
fn plan_name(key: &str) -> String {
    let name = key.rsplit('/').next().unwrap();
    format!("{}.object", name.split('.').next().unwrap())
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
