//! A stream in direct mode: its sequence numbers and its evidence.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use audit_core::{Random, UniqueId};
use audit_evidence::{CompactRange, StreamSigner, SystemRecord};
use tokio::sync::watch;

use crate::evidence::{Aside, Evidence, FULL, Heartbeats};
use crate::witness::Witnesses;

/// A stream that is being written, or has objects in flight.
pub(super) struct Stream {
    pub(super) id: UniqueId,
    /// The number of the next record.
    pub(super) next_sequence: u64,
    evidence: Option<StreamEvidence>,
}

struct StreamEvidence {
    evidence: Arc<Evidence>,
    signer: Arc<StreamSigner>,
    /// The range over all numbered records, once the last of them is hashed.
    frontier: watch::Receiver<Option<CompactRange>>,
    /// The first numbers of objects with an uncertain outcome, and of those that met a conflict,
    /// until a record in the bucket declares the conflict. All records below the lowest of these
    /// numbers are acknowledged.
    uncertain: BTreeSet<u64>,
    /// Undeclared conflicts.
    asides: VecDeque<Aside>,
    /// The declaring records in flight, by their number.
    voids: BTreeMap<u64, Aside>,
    /// `None` before the first record.
    opened: Option<Opened>,
    /// The heartbeat in flight. At most one, however long the bucket is unreachable.
    heartbeat: Option<u64>,
    ending: Ending,
    /// A delivery ended without an outcome, so that the stream cannot be declared complete.
    is_lost: bool,
}

struct Opened {
    at_ms: i64,
    heartbeats: Heartbeats,
}

#[derive(PartialEq, Eq)]
enum Ending {
    No,
    /// The last record, of this number, is in flight.
    Closing(u64),
    Closed,
}

/// What an object's seal needs. `before` receives the range of all earlier records once the
/// previous object is sealed.
pub(super) struct Seal {
    pub(super) signer: Arc<StreamSigner>,
    pub(super) stable: u64,
    pub(super) before: watch::Receiver<Option<CompactRange>>,
    pub(super) after: watch::Sender<Option<CompactRange>>,
    pub(super) random: Arc<dyn Random>,
    pub(super) witnesses: Option<Arc<Witnesses>>,
}

impl Stream {
    /// A new stream. It costs nothing until it has a record.
    pub(super) fn new(
        id: UniqueId,
        evidence: Option<Arc<Evidence>>,
        random: &dyn Random,
    ) -> Stream {
        let evidence = evidence.map(|evidence| StreamEvidence {
            signer: Arc::new(evidence.signer(id, random)),
            evidence,
            frontier: watch::channel(Some(CompactRange::default())).1,
            uncertain: BTreeSet::new(),
            asides: VecDeque::new(),
            voids: BTreeMap::new(),
            opened: None,
            heartbeat: None,
            ending: Ending::No,
            is_lost: false,
        });
        Stream { id, next_sequence: 0, evidence }
    }

    /// Whether the next object belongs to another stream.
    pub(super) fn is_over(&self, now_ms: i64) -> bool {
        self.is_full_after(0) || self.over_in_ms(now_ms) == Some(0)
    }

    /// Whether the stream would be full after `count` more records.
    pub(super) fn is_full_after(&self, count: u64) -> bool {
        self.evidence.is_some() && self.next_sequence + count > FULL
    }

    /// The stream's remaining time, in milliseconds.
    fn over_in_ms(&self, now_ms: i64) -> Option<u64> {
        let StreamEvidence { evidence, opened: Some(opened), .. } = self.evidence.as_ref()? else {
            return None;
        };
        Some(evidence.over_in_ms(opened.at_ms, now_ms))
    }

    /// The time until the next heartbeat or change of streams, in milliseconds.
    pub(super) fn due_in_ms(&self, now_ms: i64, is_current: bool) -> Option<u64> {
        let StreamEvidence { opened, heartbeat, ending, is_lost, .. } = self.evidence.as_ref()?;
        let may_beat = *ending == Ending::No && heartbeat.is_none() && !is_lost;
        let heartbeats = opened.as_ref().filter(|_| may_beat);
        let heartbeat = heartbeats.map(|opened| opened.heartbeats.due_in_ms(now_ms));
        let over = self.over_in_ms(now_ms).filter(|_| is_current);
        heartbeat.into_iter().chain(over).min()
    }

    /// Numbers the next `count` records. Returns the first number, and the seal of their object.
    pub(super) fn number(&mut self, count: u64, random: &Arc<dyn Random>) -> (u64, Option<Seal>) {
        let first = self.next_sequence;
        self.next_sequence += count;
        let seal = self.evidence.as_mut().map(|evidence| {
            let (after, frontier) = watch::channel(None);
            let before = std::mem::replace(&mut evidence.frontier, frontier);
            evidence.uncertain.insert(first);
            let stable = evidence.uncertain.first().copied().unwrap_or(first);
            let signer = Arc::clone(&evidence.signer);
            let (random, witnesses) = (Arc::clone(random), evidence.evidence.witnesses().cloned());
            Seal { signer, stable, before, after, random, witnesses }
        });
        (first, seal)
    }

    /// The opening record, if it must be written before the next records.
    pub(super) fn open(&mut self, now_ms: i64) -> Option<SystemRecord> {
        let StreamEvidence { evidence, opened, .. } = self.evidence.as_mut()?;
        if let Some(opened) = opened {
            opened.heartbeats.record(now_ms);
            return None;
        }
        let heartbeats = Heartbeats::opened(now_ms, evidence.settings());
        *opened = Some(Opened { at_ms: now_ms, heartbeats });
        Some(evidence.opened(now_ms, None))
    }

    /// The next system record that is due, for the next number. `is_ending` says that the stream
    /// gets no other records.
    pub(super) fn due_record(&mut self, now_ms: i64, is_ending: bool) -> Option<SystemRecord> {
        let number = self.next_sequence;
        let evidence = self.evidence.as_mut()?;
        let opened = evidence.opened.as_mut()?;
        if let Some(aside) = evidence.asides.pop_front() {
            let void = aside.void(now_ms);
            evidence.voids.insert(number, aside);
            return Some(void);
        }
        if evidence.ending != Ending::No || evidence.is_lost {
            return None;
        }
        // The closing record states that nothing before it is missing.
        if is_ending && evidence.uncertain.is_empty() {
            evidence.ending = Ending::Closing(number);
            return Some(evidence.evidence.closed(self.id, now_ms));
        }
        if evidence.heartbeat.is_none() && opened.heartbeats.due_in_ms(now_ms) == 0 {
            evidence.heartbeat = Some(number);
            let heartbeats = &mut opened.heartbeats;
            return Some(evidence.evidence.heartbeat(self.id, heartbeats, now_ms, None));
        }
        None
    }

    /// Records the certain outcome of an object: it is in the bucket, or met a conflict.
    pub(super) fn ended(&mut self, first: u64, count: u64, conflict: Option<String>) {
        let Some(evidence) = &mut self.evidence else { return };
        let is_closing = evidence.ending == Ending::Closing(first);
        evidence.heartbeat.take_if(|heartbeat| *heartbeat == first);
        let declared = evidence.voids.remove(&first);
        match conflict {
            None => {
                evidence.uncertain.remove(&first);
                if let Some(aside) = declared {
                    evidence.uncertain.remove(&aside.first);
                }
                if is_closing {
                    evidence.ending = Ending::Closed;
                }
            }
            // It stays uncertain until a record in the bucket declares it missing: otherwise it
            // would count as deleted.
            Some(key) => {
                evidence.asides.extend(declared);
                evidence.asides.push_back(Aside { first, count, key });
                if is_closing {
                    evidence.ending = Ending::No;
                }
            }
        }
    }

    /// Notes that an object's outcome will never be known.
    pub(super) fn vanished(&mut self) {
        if let Some(evidence) = &mut self.evidence {
            evidence.is_lost = true;
        }
    }

    /// Whether the stream is complete, if it gets no other records.
    pub(super) fn is_done(&self) -> bool {
        self.evidence.as_ref().is_none_or(|evidence| {
            evidence.opened.is_none() || evidence.ending == Ending::Closed || evidence.is_lost
        })
    }
}
