//! The followers of the simulated routes, and the checks of each.

use std::ops::Range;
use std::sync::Arc;

use super::variants::Variant;
use super::{Customer, Simulation};
use crate::Follower;
use crate::health::HealthBoard;
use crate::simulation::checkers::followers::{self as checker, FollowerReading};
use crate::simulation::disk::Dice;
use crate::simulation::receiver::{ReceiverDestination, SimulatedReceiver};

/// A follower of some of a route's openings.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    name: &'static str,
    pub(super) receiver: SimulatedReceiver,
    /// The numbers that it had in the journal, each with the ids of the records that it must have
    /// or miss.
    lives: Vec<(u64, Range<u64>)>,
    /// Whether it may have been paused, or retired before it had everything.
    may_miss: bool,
    /// The share of a follower that every opening has.
    share: Option<Option<u64>>,
}

impl Candidate {
    pub(super) fn all(dice: &mut Dice) -> Vec<Candidate> {
        let names = ["a", "b", "c"].into_iter().take(dice.below(4));
        let candidate = |name| {
            let (faults, panics) = ([0, 10, 30, 60][dice.below(4)], [0, 0, 5, 25][dice.below(4)]);
            let receiver = SimulatedReceiver::new(dice.draw(), faults, panics);
            Candidate { name, receiver, lives: Vec::new(), may_miss: false, share: None }
        };
        names.map(candidate).collect()
    }

    /// A follower of every opening, with this share of the journal and without random faults.
    pub(super) fn steady(share: Option<u64>) -> Candidate {
        let receiver = SimulatedReceiver::new(7, 0, 0);
        Candidate { name: "a", receiver, lives: Vec::new(), may_miss: true, share: Some(share) }
    }

    /// Notes that the follower may lack records: it is about to be retired, or commits may need the
    /// room.
    pub(super) fn may_lack(&mut self) {
        self.may_miss = true;
    }

    fn end(&mut self, id: u64) {
        if let Some((_, ids)) = self.lives.last_mut().filter(|(_, ids)| ids.end == u64::MAX) {
            ids.end = id;
        }
    }
}

impl Simulation {
    /// Chooses the followers of a route that is opened. With `is_last`, none has faults.
    pub(super) fn choose_followers(&mut self, n: usize, is_last: bool) -> Vec<Follower> {
        let others = self.customers[n % (self.customers.len() - 1) + 1].followers.clone();
        let (dice, route) = (&mut self.dice, self.customers[n].name.clone());
        let mut followers = Vec::new();
        for candidate in &mut self.customers[n].followers {
            let is_wanted = dice.chance(5, 6) || candidate.share.is_some();
            if candidate.share.is_none() {
                candidate.receiver.set_away(!is_last && dice.chance(1, 4));
            }
            if is_last {
                candidate.receiver.set_faults(0);
            }
            let max_kept_bytes =
                [None, Some(u64::MAX), Some(0), Some(dice.below(20) as u64 * 4096)][dice.below(4)];
            let max_kept_bytes = candidate.share.unwrap_or(max_kept_bytes);
            let mut receiver = candidate.receiver.clone();
            if self.variant == Variant::MixesUpFollowers
                && let Some(other) = others.iter().find(|other| other.name == candidate.name)
            {
                receiver = other.receiver.clone();
            }
            let health = HealthBoard::new(format!("{}@{route}", candidate.name));
            let follower = Follower {
                name: candidate.name.to_owned(),
                destination: Arc::new(ReceiverDestination {
                    receiver,
                    health: Arc::clone(&health),
                }),
                health,
                max_object_bytes: dice.within(1..600),
                cut_after_ms: [0, 100, 5_000][dice.below(3)],
                max_in_flight: dice.within(1..5),
                max_kept_bytes,
            };
            candidate.may_miss |= !is_wanted || max_kept_bytes != Some(u64::MAX);
            if is_wanted {
                followers.push(follower);
            }
        }
        followers
    }

    /// Notes the numbers of a route's followers, once it is open with these. A follower with a new
    /// number starts with the next record. One of the default route may have its number again, and
    /// then has the records of between as well.
    pub(super) fn note_followers(&mut self, n: usize, wanted: &[String]) -> Result<(), String> {
        let readings = self.follower_readings()?;
        let next_id = self.records + 1;
        let Customer { name, followers, route, .. } = &mut self.customers[n];
        let route_number = match route {
            Some(route) => route.number(),
            None if n == 0 => 0,
            None => return Ok(()),
        };
        for candidate in followers {
            let is_its = |reading: &&FollowerReading| {
                reading.route == u64::from(route_number)
                    && reading.name == candidate.name
                    && !reading.is_retired
            };
            let own: Vec<_> = readings.iter().filter(is_its).map(|own| own.number).collect();
            let is_wanted = wanted.iter().any(|wanted| wanted.as_str() == candidate.name);
            let last = candidate.lives.last().map(|(number, _)| *number);
            match own[..] {
                [] if !is_wanted => candidate.end(next_id),
                [number] if is_wanted && last == Some(number) => {
                    let last = candidate.lives.last_mut().filter(|(_, ids)| ids.end < u64::MAX);
                    match last {
                        Some((_, ids)) if n == 0 => ids.end = u64::MAX,
                        Some(_) => return Err(format!("a retired follower of {name} lives again")),
                        None => {}
                    }
                }
                [number] if is_wanted => {
                    if last > Some(number) {
                        return Err(format!("the number {number} is used again"));
                    }
                    candidate.end(next_id);
                    candidate.lives.push((number, next_id..u64::MAX));
                    candidate.receiver.forget_requests();
                }
                _ => {
                    let what = format!("{own:?} of {} of {name} are delivered to", candidate.name);
                    return Err(what);
                }
            }
        }
        Ok(())
    }

    /// The newest state of the followers of all routes.
    pub(super) fn follower_readings(&self) -> Result<Vec<FollowerReading>, String> {
        let files = self.disk.files_where(checker::is_state);
        checker::read_again(&mut self.known_followers.borrow_mut(), &files)
    }

    /// Notes that a route was retired, and its followers with it.
    pub(super) fn end_followers(&mut self, n: usize) {
        let next_id = self.records + 1;
        self.customers[n].followers.iter_mut().for_each(|candidate| candidate.end(next_id));
    }

    /// Checks that the followers have only what was written to their route under its numbers and,
    /// if `whole`, all that is not recorded as missing.
    pub(super) fn check_followers(
        &self,
        n: usize,
        readings: &[FollowerReading],
        whole: bool,
    ) -> Result<(), String> {
        let customer = &self.customers[n];
        for Candidate { name, receiver, lives, may_miss, .. } in &customer.followers {
            let wrong = |what: String| Err(format!("follower {name} of {}: {what}", customer.name));
            if let Some(broken) = receiver.broken() {
                return wrong(broken);
            }
            let there = receiver.records();
            for ((stream, number), line) in &there {
                let text = || String::from_utf8_lossy(line);
                if !customer.owns(line) {
                    return wrong(format!("it has what is not its own: {}", text()));
                }
                if customer.refused.contains(line) {
                    return wrong(format!("it has what was refused: {}", text()));
                }
                let is_written = match customer.acknowledged.get(&(*stream, *number)) {
                    Some(expected) => expected == line,
                    None => customer.unknown.contains(line),
                };
                if !is_written {
                    return wrong(format!("record {number} of {stream} is not what was written"));
                }
            }
            for (life, ids) in lives {
                let Some(reading) = readings.iter().find(|reading| reading.number == *life) else {
                    return wrong(format!("its number {life} is forgotten"));
                };
                if !may_miss && !reading.missing.is_empty() {
                    return wrong(format!("it misses {:?} for nothing", reading.missing));
                }
                let due = customer.acknowledged.iter().filter(|(_, line)| ids.contains(&id(line)));
                for (place @ (stream, number), line) in due.filter(|_| whole) {
                    let is_missing = || reading.is_missing(&stream.to_string(), *number);
                    // One of the default route that is retired may go on from its watermark.
                    let is_excused = n == 0 && reading.is_retired || is_missing();
                    if there.get(place) != Some(line) && !is_excused {
                        return wrong(format!("record {number} of {stream} is lost: {reading:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The numbers of records that followers have, and that are recorded as missing.
    pub(super) fn followed(&self) -> (u64, u64) {
        let followers = self.customers.iter().flat_map(|customer| &customer.followers);
        let have = followers.map(|follower| follower.receiver.records().len() as u64).sum();
        let readings = self.follower_readings().unwrap_or_default();
        let missing = readings.iter().flat_map(|reading| &reading.missing);
        (have, missing.map(|(_, records)| records.end - records.start).sum())
    }
}

/// The id of a record.
fn id(line: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(line);
    let digits = text.strip_prefix("{\"id\":").and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).expect("each record begins with its id")
}
