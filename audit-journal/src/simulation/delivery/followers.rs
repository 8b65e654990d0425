//! The followers of the simulated journal, and the checks of each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{ANY_OWN, Simulation};
use crate::health::HealthBoard;
use crate::simulation::checkers::followers::{self as checker, FollowerReading};
use crate::simulation::checkers::journal as journal_checker;
use crate::simulation::destination::Endpoint;
use crate::simulation::disk::Dice;
use crate::simulation::receiver::{ReceiverDestination, SimulatedReceiver};
use crate::{Follower, JournalSettings};

/// A follower of some of the openings.
pub(super) struct Candidate {
    name: &'static str,
    pub(super) receiver: SimulatedReceiver,
    /// Whether the current opening has this follower.
    is_wanted: bool,
    /// Its number in the journal.
    number: u64,
    /// The index of the first stream whose records it must have.
    since: usize,
    /// Whether it may have been paused, or retired and forgotten.
    may_miss: bool,
    /// The share of the journal of a follower that every opening has.
    share: Option<u64>,
}

impl Candidate {
    pub(super) fn all(dice: &mut Dice) -> Vec<Candidate> {
        let names = ["a", "b", "c"].into_iter().take(dice.below(4));
        let candidate = |name| {
            let (faults, panics) = ([0, 10, 30, 60][dice.below(4)], [0, 0, 5, 25][dice.below(4)]);
            Candidate {
                name,
                receiver: SimulatedReceiver::new(dice.draw(), faults, panics),
                is_wanted: false,
                number: 0,
                since: 0,
                may_miss: false,
                share: None,
            }
        };
        names.map(candidate).collect()
    }

    /// A follower of every opening, with this share of the journal and without random faults.
    pub(super) fn steady(share: u64) -> Candidate {
        Candidate {
            name: "a",
            receiver: SimulatedReceiver::new(7, 0, 0),
            is_wanted: false,
            number: 0,
            since: 0,
            may_miss: false,
            share: Some(share),
        }
    }
}

impl<E: Endpoint> Simulation<E> {
    /// Chooses the followers of an opening. With `is_last`, none has faults.
    pub(super) fn choose_followers(&mut self, is_last: bool) -> Vec<Follower> {
        let mut followers = Vec::new();
        let dice = &mut self.dice;
        for candidate in &mut self.candidates {
            candidate.is_wanted = dice.chance(5, 6) || candidate.share.is_some();
            if candidate.share.is_none() {
                candidate.receiver.set_away(!is_last && dice.chance(1, 4));
            }
            if is_last {
                candidate.receiver.set_faults(0);
            }
            let health = HealthBoard::new(candidate.name.to_owned());
            let max_kept_bytes =
                [None, Some(u64::MAX), Some(0), Some(dice.below(20) as u64 * 4096)][dice.below(4)];
            let max_kept_bytes = candidate.share.or(max_kept_bytes);
            let follower = Follower {
                name: candidate.name.to_owned(),
                destination: Arc::new(ReceiverDestination {
                    receiver: candidate.receiver.clone(),
                    health: Arc::clone(&health),
                }),
                health,
                max_object_bytes: dice.within(1..600),
                cut_after_ms: [0, 100, 5_000][dice.below(3)],
                max_in_flight: dice.within(1..5),
                max_kept_bytes,
            };
            if candidate.is_wanted {
                candidate.may_miss |= max_kept_bytes != Some(u64::MAX);
                followers.push(follower);
            }
        }
        followers
    }

    /// Notes whether commits may need the space that is kept for followers.
    pub(super) fn note_limits(&mut self, journal: &JournalSettings) {
        let is_limited = journal.max_bytes < u64::MAX || self.may_lack_room;
        self.is_full = journal.max_bytes == 0;
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_wanted) {
            candidate.may_miss |= is_limited;
        }
    }

    /// Notes the followers' numbers. A follower with a new number starts with this opening.
    pub(super) fn note_followers(&mut self) -> Result<(), String> {
        let readings = checker::read(&self.disk.files_where(checker::is_state))?;
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_wanted) {
            let own = readings.iter().filter(|reading| reading.name == candidate.name);
            let own: Vec<_> = own.filter(|reading| !reading.is_retired).collect();
            let [FollowerReading { number, .. }] = own[..] else {
                return Err(format!("{} of {} are delivered to", own.len(), candidate.name));
            };
            if *number != candidate.number {
                if *number < candidate.number {
                    return Err(format!("the number {number} is used again"));
                }
                candidate.may_miss |= candidate.number > 0;
                (candidate.number, candidate.since) = (*number, self.streams.len());
                candidate.receiver.forget_requests();
            }
        }
        Ok(())
    }

    /// Checks that each record of a follower has arrived, is still in the journal for it, or is
    /// recorded as missing. With `is_whole`, none is still in the journal for it.
    pub(super) fn check_followers(&self, is_whole: bool) -> Result<(), String> {
        if self.candidates.is_empty() {
            return Ok(());
        }
        let files = self.disk.files();
        let readings = checker::read(&files)?;
        let journal = journal_checker::read(&files)?;
        for Candidate { name, receiver, is_wanted, number, since, may_miss, .. } in &self.candidates
        {
            let wrong = |what: String| Err(format!("follower {name}: {what}"));
            if let Some(broken) = receiver.broken() {
                return wrong(broken);
            }
            let there = receiver.records();
            let mut written = 0;
            for (n, stream) in self.streams.iter().enumerate() {
                let id = stream.id.to_string();
                let reading = readings.iter().find(|reading| reading.number == *number);
                let lines = stream.groups.iter().flat_map(|group| &group.batches).flatten();
                for (sequence, line) in (0..).zip(lines) {
                    let found = there.get(&(stream.id, sequence));
                    written += u64::from(found.is_some());
                    let is_own = line == ANY_OWN;
                    if found.is_some_and(|found| is_own || found != line) {
                        return wrong(format!("record {sequence} of {id} is another"));
                    }
                    if is_own || found.is_some() || n < *since || *number == 0 {
                        continue;
                    }
                    let Some(reading) = reading else {
                        return wrong(format!("number {number} is forgotten"));
                    };
                    let is_missing = reading.is_missing(&id, sequence);
                    if is_missing && !may_miss {
                        return wrong(format!("record {sequence} of {id} is missing for nothing"));
                    }
                    let is_due = reading.is_due(&journal, &id, sequence);
                    let is_excused =
                        reading.is_retired || is_missing || is_due && !(is_whole && *is_wanted);
                    if !is_excused {
                        return wrong(format!("record {sequence} of {id} is lost: {reading:?}"));
                    }
                }
            }
            let unknown = there.len() as u64 - written;
            let may_be_unknown: usize =
                self.streams.iter().map(|stream| stream.unknown.len()).sum();
            if unknown > 0 && may_be_unknown == 0 {
                return wrong(format!("{unknown} records were never written"));
            }
        }
        Ok(())
    }

    /// Checks that a full journal has removed the segments that only followers need, except the
    /// current one.
    pub(super) fn check_room(&self) -> Result<(), String> {
        let panics = self.trouble.panics.load(Ordering::Relaxed) > 0;
        // The process may have died while it removed segments.
        if !self.is_full || self.may_fail || panics || self.disk.is_stopped() {
            return Ok(());
        }
        match journal_checker::read(&self.disk.files())?.segments.len() {
            0 | 1 => Ok(()),
            kept => Err(format!("{kept} segments are kept in a journal without room")),
        }
    }

    /// The numbers of records that followers have, and that are recorded as missing.
    pub(super) fn followed(&self) -> (u64, u64) {
        let have: usize =
            self.candidates.iter().map(|candidate| candidate.receiver.records().len()).sum();
        let readings = checker::read(&self.disk.files_where(checker::is_state)).unwrap_or_default();
        let missing = readings.iter().flat_map(|reading| &reading.missing);
        (have as u64, missing.map(|(_, records)| records.end - records.start).sum())
    }

    /// How long a close waits for followers.
    pub(super) fn patience(is_last: bool) -> Option<Duration> {
        (!is_last).then(|| Duration::from_secs(5))
    }
}
