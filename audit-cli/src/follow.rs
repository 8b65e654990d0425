//! What arrives in a bucket, under whatever hour, at a bounded number of listings.
//!
//! Most objects arrive under the last hours, which are listed at each look. A host whose clock is
//! wrong, or that brings what it kept during an outage, puts them under any hour: for those, a walk
//! goes over all days again and again, a few listings after each look, near days before far ones.
//! An hour in which the walk found something is listed at each look for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use audit_sink_s3::{ObjectKey, Partition};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::arguments::Tail;
use crate::bucket::{Listed, Reader, Wanted};
use crate::failure::Failure;
use crate::units::{DAY_MS, HOUR_MS, now_ms};

/// How many objects come with one listing of a store.
const PAGE: usize = 1_000;

/// How many hours are listed at each look since the walk found something in them, and at how many
/// looks more after the last object.
const MAX_BUSY_HOURS: usize = 8;
const BUSY_LOOKS: u32 = 150;

/// How many days of a directory the walk lists after each look. A directory's listings cost nothing
/// but the time of this host.
const DIRECTORY_STEPS: u64 = 32;

/// Days as near as this to now are walked over as often as all others together.
const NEAR_MS: i64 = 3 * DAY_MS;

/// How much earlier than the walk found it an object may say that it was taken: the clock of a
/// store, which a signed request allows to differ by as much; and of a directory, the time between
/// writing a file and naming it.
const STORE_SKEW_MS: i64 = 15 * 60 * 1_000;
const DIRECTORY_SKEW_MS: i64 = 60 * 1_000;

/// Gives each object that arrives, once.
pub(crate) struct Follow {
    hours: u16,
    interval: Duration,
    /// `None` for a directory.
    lists_per_minute: Option<u32>,
    skew_ms: i64,
    /// Objects that were there at the beginning were taken before this, by the store's clock. Of a
    /// directory all that was there is known: what a file says of its time may lie before the
    /// moment in which it got its name.
    begin_ms: i64,
    /// Older objects than this are none that arrive.
    since_ms: i64,
    /// What stood under the last hours at the last look.
    recent: HashSet<ObjectKey>,
    /// What was given, or was there at the beginning, and when it was taken. Nothing older than
    /// `since_ms`.
    known: HashMap<ObjectKey, i64>,
    busy: VecDeque<(Partition, u32)>,
    /// Over the near days, and over the others.
    walks: [Walk; 2],
    steps: u64,
    /// Listings that the walk may still ask for.
    credit: f64,
}

/// A way over days, again and again.
#[derive(Default)]
struct Walk {
    days: VecDeque<Partition>,
    day: Option<BoxStream<'static, Result<Listed, Failure>>>,
    /// When the round began that is under way.
    begin_ms: Option<i64>,
    /// When the last round began that came to its end.
    covered_ms: Option<i64>,
}

impl Follow {
    /// From what is there now.
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

    /// Takes an object for one that is known.
    pub(crate) fn add(&mut self, object: &Listed) {
        if object.modified_ms >= self.since_ms {
            self.known.insert(object.key, object.modified_ms);
        }
    }

    /// Waits, looks, and gives what arrived, in the order in which the store took it.
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
                // One walk came to its end: the next look is due before it begins anew.
                break;
            }
        }
        self.credit = self.credit.min(DIRECTORY_STEPS as f64);
        objects.sort_by_key(|object| (object.modified_ms, object.key));
        Ok(objects)
    }

    /// How long to wait before a look that takes so many listings: three quarters of all.
    fn pause(&self, lists: u64) -> Duration {
        let Some(per_minute) = self.lists_per_minute else { return self.interval };
        self.interval.max(time_for(per_minute, lists))
    }

    /// Lists the last hours, and those in which something arrived. Gives what is new, and how many
    /// listings that took.
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
                // Of the last hours it does not matter what time a file says.
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

    /// One listing of the walk. Says whether it came to its end.
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
            // On its first way, the walk also comes by what was there before.
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
            // What was there when these rounds began is known, or was too old.
            self.since_ms = self.since_ms.max(near.min(far) - self.skew_ms);
            let since_ms = self.since_ms;
            self.known.retain(|_, taken_ms| *taken_ms >= since_ms);
        }
        Ok(ended)
    }
}

/// In how much time so many listings are three quarters of those that are allowed.
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
