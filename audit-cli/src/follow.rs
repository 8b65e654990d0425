//! New objects of a bucket, under any hour, at a bounded number of listings.
//!
//! Most objects arrive under the last hours, which are listed at each poll. A host whose clock is
//! wrong, or that delivers a backlog after an outage, stores them under other hours. For those, a
//! walk visits all days repeatedly, a few listings after each poll, near days before far ones. An
//! hour in which the walk found something is listed at each poll for a while.
//!
//! The time is the store's, since this machine's clock may be hours off. In a directory it is this
//! machine's, which may be set back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use audit_core::Clock;
use audit_sink_s3::layout::{ObjectKey, Partition};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::arguments::Tail;
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::Failure;
use crate::units::{DAY_MS, HOUR_MS};

/// The objects in one page of a store's listing.
const PAGE: usize = 1_000;

/// The most hours that are listed at each poll because the walk found something in them, and for
/// how many polls after their last object.
const MAX_BUSY_HOURS: usize = 8;
const BUSY_LOOKS: u32 = 150;

/// The days of a directory that the walk lists after each poll. A directory's listings cost only
/// local time.
const DIRECTORY_STEPS: u64 = 32;

/// Days this near to now are visited as often as all other days together.
const NEAR_MS: i64 = 3 * DAY_MS;

/// How old an object may be when the walk finds it: the clock skew that signed requests allow, or
/// in a directory the time between writing a file and naming it.
const STORE_SKEW_MS: i64 = 15 * 60 * 1_000;
const DIRECTORY_SKEW_MS: i64 = 60 * 1_000;

/// Yields each new object once.
pub(crate) struct Follow {
    clock: Arc<dyn Clock>,
    /// How far the store's clock is ahead of this machine's, in milliseconds.
    ahead_ms: i64,
    hours: u16,
    interval: Duration,
    /// `None` for a directory.
    lists_per_minute: Option<u32>,
    skew_ms: i64,
    /// Objects that existed at the start are older than this, by the store's clock. In a directory
    /// all existing files are remembered instead, since a file's time may lie before it got its
    /// name.
    begin_ms: i64,
    /// Objects older than this are not new.
    since_ms: i64,
    /// The time of the last poll, the last hours that it listed, and the objects under them.
    polled_ms: i64,
    listed: Vec<Partition>,
    recent: HashSet<ObjectKey>,
    /// The initial objects and those already yielded, with their times. None is older than
    /// `since_ms`.
    known: HashMap<ObjectKey, i64>,
    busy: VecDeque<(Partition, u32)>,
    /// The walk over the near days, and the walk over all other days.
    walks: [Walk; 2],
    steps: u64,
    /// The number of listings that the walk may still make.
    credit: f64,
}

/// A repeated walk over days.
#[derive(Default)]
struct Walk {
    days: VecDeque<Partition>,
    day: Option<BoxStream<'static, Result<Listed, Failure>>>,
    /// When the current round began.
    begin_ms: Option<i64>,
    /// When the last completed round began.
    covered_ms: Option<i64>,
}

impl Follow {
    /// Begins to follow a bucket. Objects that already exist are not new.
    pub(crate) async fn begin(
        reader: &Reader,
        arguments: &Tail,
        clock: Arc<dyn Clock>,
    ) -> Result<Follow, Failure> {
        let now = clock.now_ms();
        let is_directory = reader.is_directory();
        let skew_ms = if is_directory { DIRECTORY_SKEW_MS } else { STORE_SKEW_MS };
        let mut follow = Follow {
            clock,
            ahead_ms: 0,
            hours: arguments.hours,
            interval: Duration::from_millis(arguments.interval_ms),
            lists_per_minute: (!is_directory).then_some(arguments.lists_per_minute),
            skew_ms,
            begin_ms: if is_directory { i64::MIN } else { now - skew_ms },
            since_ms: now - skew_ms,
            polled_ms: now,
            listed: Vec::new(),
            recent: HashSet::new(),
            known: HashMap::new(),
            busy: VecDeque::new(),
            walks: Default::default(),
            steps: 0,
            credit: 0.0,
        };
        // The store's time is known only after its first response, and decides which hours are the
        // last. So they are listed until they stay the same.
        while follow.listed != follow.last_hours() {
            let (objects, _) = follow.look(reader).await?;
            if let Some(time_ms) = reader.store_time_ms() {
                follow.begin_ms = time_ms;
                follow.since_ms = time_ms - skew_ms;
            }
            objects.iter().for_each(|object| follow.add(object));
        }
        if is_directory {
            for day in reader.days(&Wanted::all()).await? {
                let mut objects = std::pin::pin!(reader.objects_of(&day).await);
                while let Some(object) = objects.next().await.transpose()? {
                    follow.add(&object);
                }
            }
        }
        Ok(follow)
    }

    fn now_ms(&self) -> i64 {
        self.clock.now_ms() + self.ahead_ms
    }

    /// The hours in which most objects arrive.
    fn last_hours(&self) -> Vec<Partition> {
        let first = self.now_ms() - i64::from(self.hours) * HOUR_MS;
        let count = i64::from(self.hours) + 2;
        (0..count).map(|n| Partition::hour_of(first + n * HOUR_MS)).collect()
    }

    pub(crate) fn add(&mut self, object: &Listed) {
        if object.modified_ms >= self.since_ms {
            self.known.insert(object.key, object.modified_ms);
        }
    }

    /// Waits, polls, and yields new objects in the order in which the store received them.
    pub(crate) async fn next(&mut self, reader: &Reader) -> Result<Vec<Listed>, Failure> {
        let hours = u64::from(self.hours) + 2 + self.busy.len() as u64;
        let pages = (self.recent.len() / PAGE) as u64;
        let pause = self.pause(hours + pages);
        tokio::time::sleep(pause).await;
        let (mut objects, lists) = self.look(reader).await?;
        self.credit += match self.lists_per_minute {
            None => DIRECTORY_STEPS as f64,
            Some(per_minute) => allowed(per_minute, pause) - lists as f64,
        };
        while self.credit >= 1.0 {
            self.credit -= 1.0;
            if self.step(reader, &mut objects).await? {
                // The walk completed a round. The next poll comes before the next round.
                break;
            }
        }
        self.credit = self.credit.min(DIRECTORY_STEPS as f64);
        objects.sort_by_key(|object| (object.modified_ms, object.key));
        Ok(objects)
    }

    /// How long to wait before a poll of this many listings. Polls may use three quarters of the
    /// allowed listings.
    fn pause(&self, lists: u64) -> Duration {
        let Some(per_minute) = self.lists_per_minute else { return self.interval };
        self.interval.max(time_for(per_minute, lists))
    }

    /// Lists the last hours, and those with recent arrivals. Returns the new objects and the number
    /// of listings made.
    async fn look(&mut self, reader: &Reader) -> Result<(Vec<Listed>, u64), Failure> {
        let (now, last_hours) = (self.now_ms(), self.last_hours());
        let is_set_back = reader.is_directory() && now < self.polled_ms - self.skew_ms;
        let mut hours = last_hours.clone();
        hours.extend(self.busy.iter().map(|(hour, _)| *hour));
        if is_set_back {
            // Lists the hours of the last poll again, so that files that arrived since are shown
            // before `remember_later_than` marks all later files as known.
            hours.extend(&self.listed);
            self.since_ms = now - self.skew_ms;
        }
        hours.sort_unstable();
        hours.dedup();
        let (mut arrived, mut lists) = (Vec::new(), 0);
        let mut found = HashSet::new();
        for hour in hours {
            let was_listed = self.listed.contains(&hour);
            let (mut count, mut any) = (0, false);
            let mut objects = std::pin::pin!(reader.objects_of(&hour).await);
            while let Some(object) = objects.next().await.transpose()? {
                count += 1;
                if last_hours.contains(&hour) {
                    found.insert(object.key);
                }
                // Under an hour that the last poll listed, a file that it did not find is new,
                // whatever the file's time. Other hours may hold any number of old files, as after
                // a change of the clock.
                let is_new = match was_listed {
                    true => {
                        !self.recent.contains(&object.key) && !self.known.contains_key(&object.key)
                    }
                    false if is_set_back && object.modified_ms > now => false,
                    false => self.has_arrived(&object),
                };
                if is_new {
                    any = true;
                    self.known.insert(object.key, object.modified_ms.max(self.since_ms));
                    arrived.push(object);
                }
            }
            lists += 1 + (count / PAGE) as u64;
            for (busy, left) in &mut self.busy {
                if *busy == hour {
                    *left = if any { BUSY_LOOKS } else { *left - 1 };
                }
            }
        }
        self.busy.retain(|(_, left)| *left > 0);
        if let Some(time_ms) = reader.store_time_ms() {
            self.ahead_ms = time_ms - self.clock.now_ms();
        }
        (self.polled_ms, self.listed, self.recent) = (now, last_hours, found);
        if is_set_back {
            self.remember_later_than(now, reader).await?;
        }
        Ok((arrived, lists))
    }

    /// Remembers the files with times after now, because the clock was set back: they exist
    /// already, but would look new once the clock reaches their times. Files of the last minute
    /// before now may be shown again.
    async fn remember_later_than(&mut self, now: i64, reader: &Reader) -> Result<(), Failure> {
        self.walks = Default::default();
        for day in reader.days(&Wanted::all()).await? {
            let mut objects = std::pin::pin!(reader.objects_of(&day).await);
            while let Some(object) = objects.next().await.transpose()? {
                if object.modified_ms > now {
                    self.add(&object);
                }
            }
        }
        Ok(())
    }

    fn has_arrived(&self, object: &Listed) -> bool {
        object.modified_ms >= self.since_ms && !self.known.contains_key(&object.key)
    }

    /// Makes one listing of the walk. Returns whether the round is complete.
    async fn step(&mut self, reader: &Reader, arrived: &mut Vec<Listed>) -> Result<bool, Failure> {
        let which = (self.steps % 2) as usize;
        self.steps += 1;
        let walk = &mut self.walks[which];
        if walk.day.is_none() {
            if let Some(day) = walk.days.pop_front() {
                walk.day = Some(reader.objects_of(&day).await.boxed());
            } else {
                return self.begin_round(reader, which).await;
            }
        }
        let Some(day) = &mut self.walks[which].day else { return Ok(false) };
        let mut page = Vec::new();
        for _ in 0..PAGE {
            match day.next().await.transpose()? {
                Some(object) => page.push(object),
                None => {
                    self.walks[which].day = None;
                    break;
                }
            }
        }
        for object in page.into_iter().filter(|object| self.has_arrived(object)).collect::<Vec<_>>()
        {
            self.known.insert(object.key, object.modified_ms);
            // In its first round, the walk also finds objects that existed at the start.
            if self.walks[which].covered_ms.is_none() && object.modified_ms < self.begin_ms {
                continue;
            }
            let hour = object.key.partition();
            self.busy.retain(|(busy, _)| *busy != hour);
            self.busy.push_front((hour, BUSY_LOOKS));
            self.busy.truncate(MAX_BUSY_HOURS);
            arrived.push(object);
        }
        Ok(false)
    }

    /// Begins a round of a walk with its share of the days: the near ones, or all others. Returns
    /// whether an earlier round was completed.
    async fn begin_round(&mut self, reader: &Reader, which: usize) -> Result<bool, Failure> {
        let now = self.now_ms();
        let mut days = reader.days(&Wanted::all()).await?;
        let distance = |day: &Partition| (day.begin_ms() - now + DAY_MS / 2).abs();
        days.retain(|day| (distance(day) <= NEAR_MS) == (which == 0));
        days.sort_by_key(distance);
        let walk = &mut self.walks[which];
        walk.days = days.into();
        walk.covered_ms = walk.begin_ms.replace(now);
        let ended = walk.covered_ms.is_some();
        if let [Some(near), Some(far)] = self.walks.each_ref().map(|walk| walk.covered_ms) {
            // Objects from before these rounds are known or too old.
            self.since_ms = self.since_ms.max(near.min(far) - self.skew_ms);
            let since_ms = self.since_ms;
            self.known.retain(|_, taken_ms| *taken_ms >= since_ms);
        }
        Ok(ended)
    }
}

/// The time in which this many listings are three quarters of those allowed.
fn time_for(per_minute: u32, lists: u64) -> Duration {
    let share = f64::from(per_minute) * 0.75;
    Duration::from_secs_f64(60.0 * lists as f64 / share)
}

/// How many listings are allowed in this time.
fn allowed(per_minute: u32, time: Duration) -> f64 {
    f64::from(per_minute) * time.as_secs_f64() / 60.0
}

#[cfg(test)]
mod tests {
    use audit_core::UniqueId;
    use audit_core::testing::ManualClock;
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    /// A host's clock, this machine's, or both may be hours off, and be set back meanwhile.
    #[tokio::test]
    async fn arrivals_are_shown_once_whatever_the_clocks_say() {
        const BEGIN_MS: i64 = 1_795_132_800_000;
        for back_hours in [0, 2, 5, 30] {
            // No file was written in the minute before the time to which the clock is set back:
            // such a file might be shown again.
            let back_ms = back_hours * HOUR_MS - HOUR_MS / 3;
            let root = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::at(BEGIN_MS));
            let mut written = 0;
            // Writes a file under an hour this far from now.
            let mut write = |hours: i64| {
                let now = clock.now_ms();
                let hour = Partition::hour_of(now + hours * HOUR_MS);
                let directory = root.path().join(hour.to_string());
                std::fs::create_dir_all(&directory).unwrap();
                let name = format!("{}-000000000000.ndjson", UniqueId::from_bits(written));
                written += 1;
                let file = std::fs::File::create(directory.join(&name)).unwrap();
                let time = std::time::UNIX_EPOCH + Duration::from_millis(now.unsigned_abs());
                file.set_modified(time).unwrap();
                name
            };
            let line = ["audit", "tail", "-f", "--interval-ms=10", root.path().to_str().unwrap()];
            let Arguments { common, command } = Arguments::try_parse_from(line).unwrap();
            let Command::Tail(tail) = command else { panic!("that was tail") };
            let reader = Reader::open(&tail.source, &common).unwrap();
            for hours in [-30, -5, -2, -1, 0] {
                write(hours);
            }
            let mut follow = Follow::begin(&reader, &tail, Arc::clone(&clock) as _).await.unwrap();
            // The walk needs several polls to find everything.
            let mut shown = async || {
                let mut shown = Vec::new();
                for _ in 0..12 {
                    let objects = follow.next(&reader).await.unwrap();
                    shown.extend(objects.iter().map(|object| object.key.to_string()));
                }
                let name = |key: &String| key.rsplit('/').next().unwrap().to_owned();
                let mut names: Vec<String> = shown.iter().map(name).collect();
                names.sort();
                names
            };
            assert_eq!(shown().await, [""; 0]);
            for _ in 0..6 {
                let new = [0, -1, -4, 6].map(&mut write);
                assert_eq!(shown().await, new, "{back_ms} before");
                clock.advance(HOUR_MS);
            }
            clock.advance(-back_ms);
            for hour in 0..4 {
                // Written by a host with the same clock, and by hosts with other clocks.
                let new = [0, back_hours, -3, 7].map(&mut write);
                assert_eq!(shown().await, new, "{hour} hours after {back_ms}");
                clock.advance(HOUR_MS);
            }
        }
    }

    #[test]
    fn looks_and_the_walk_together_keep_the_bound() {
        for per_minute in [8, 240, 60_000] {
            for lists in [4, 5, 100, 10_000] {
                for interval in [Duration::from_millis(10), Duration::from_secs(2)] {
                    let pause = interval.max(time_for(per_minute, lists));
                    let walk = allowed(per_minute, pause) - lists as f64;
                    // The walk gets at least a quarter of the listings: a third as many as the
                    // poll.
                    assert!(walk + 1e-3 >= lists as f64 / 3.0, "{per_minute} {lists} {walk}");
                }
            }
        }
        // With the defaults, thirty polls a minute make four listings each and leave as many to the
        // walk.
        assert!(time_for(240, 4) < Duration::from_secs(2));
        assert_eq!(allowed(240, Duration::from_secs(2)), 8.0);
    }
}
