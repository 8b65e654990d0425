//! New objects of a bucket, under any hour, at a bounded number of listings.
//!
//! Most objects arrive under the last hours, which are listed at each poll. A host whose clock is
//! wrong, or that delivers a backlog after an outage, stores them under other hours. For those, a
//! walk visits all days repeatedly, a few listings after each poll, near days before far ones. An
//! hour in which the walk found something is listed at each poll for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use audit_sink_s3::layout::{ObjectKey, Partition};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::arguments::Tail;
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::Failure;
use crate::units::{DAY_MS, HOUR_MS, now_ms};

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
    /// The objects under the last hours at the last poll.
    recent: HashSet<ObjectKey>,
    /// The initial objects and those already yielded, with their times. None is older than
    /// `since_ms`.
    known: HashMap<ObjectKey, i64>,
    busy: VecDeque<(Partition, u32)>,
    /// Over the near days, and over the others.
    walks: [Walk; 2],
    steps: u64,
    /// The listings that the walk may still make.
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
    /// Starts with the current objects.
    pub(crate) async fn begin(reader: &Reader, arguments: &Tail) -> Result<Follow, Failure> {
        let now = now_ms();
        let is_directory = reader.is_directory();
        let skew_ms = if is_directory { DIRECTORY_SKEW_MS } else { STORE_SKEW_MS };
        let mut follow = Follow {
            hours: arguments.hours,
            interval: Duration::from_millis(arguments.interval_ms),
            lists_per_minute: (!is_directory).then_some(arguments.lists_per_minute),
            skew_ms,
            begin_ms: if is_directory { i64::MIN } else { now - skew_ms },
            since_ms: now - skew_ms,
            recent: HashSet::new(),
            known: HashMap::new(),
            busy: VecDeque::new(),
            walks: Default::default(),
            steps: 0,
            credit: 0.0,
        };
        let (objects, _) = follow.look(reader).await?;
        if let Some(time_ms) = reader.store_time_ms() {
            follow.begin_ms = time_ms;
            follow.since_ms = time_ms - skew_ms;
        }
        objects.iter().for_each(|object| follow.add(object));
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

    /// How long to wait before a poll of this many listings. Polls may use three quarters of all.
    fn pause(&self, lists: u64) -> Duration {
        let Some(per_minute) = self.lists_per_minute else { return self.interval };
        self.interval.max(time_for(per_minute, lists))
    }

    /// Lists the last hours, and those with recent arrivals. Returns the new objects and the number
    /// of listings made.
    async fn look(&mut self, reader: &Reader) -> Result<(Vec<Listed>, u64), Failure> {
        let now = now_ms();
        let first = now - i64::from(self.hours) * HOUR_MS;
        let count = i64::from(self.hours) + 2;
        let recent = (0..count).map(|n| Partition::hour_of(first + n * HOUR_MS));
        let recent: Vec<Partition> = recent.collect();
        let busy = self.busy.iter().map(|(hour, _)| *hour).filter(|hour| !recent.contains(hour));
        let hours: Vec<(Partition, bool)> = recent
            .iter()
            .map(|hour| (*hour, true))
            .chain(busy.map(|hour| (hour, false)).collect::<Vec<_>>())
            .collect();
        let (mut arrived, mut lists) = (Vec::new(), 0);
        let mut found = HashSet::new();
        for (hour, is_recent) in hours {
            let (mut count, mut any) = (0, false);
            let mut objects = std::pin::pin!(reader.objects_of(&hour).await);
            while let Some(object) = objects.next().await.transpose()? {
                count += 1;
                // Under the last hours a file's time does not matter.
                let is_new = match is_recent {
                    true => {
                        found.insert(object.key);
                        !self.recent.contains(&object.key) && !self.known.contains_key(&object.key)
                    }
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
        self.recent = found;
        Ok((arrived, lists))
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
            // In its first round, the walk also meets initial objects.
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

    /// Lists the days, of which each walk takes its own.
    async fn begin_round(&mut self, reader: &Reader, which: usize) -> Result<bool, Failure> {
        let now = now_ms();
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
    use super::*;

    #[test]
    fn looks_and_the_walk_together_keep_the_bound() {
        for per_minute in [8, 240, 60_000] {
            for lists in [4, 5, 100, 10_000] {
                for interval in [Duration::from_millis(10), Duration::from_secs(2)] {
                    let pause = interval.max(time_for(per_minute, lists));
                    let walk = allowed(per_minute, pause) - lists as f64;
                    // Never more than the rest, and always the walk's quarter at least.
                    assert!(walk + 1e-3 >= lists as f64 / 3.0, "{per_minute} {lists} {walk}");
                }
            }
        }
        // With the defaults: thirty looks of four, and as much for the walk.
        assert!(time_for(240, 4) < Duration::from_secs(2));
        assert_eq!(allowed(240, Duration::from_secs(2)), 8.0);
    }
}
