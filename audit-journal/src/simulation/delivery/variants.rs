//! Deliveries that must not be, so that a simulation which does not notice them is noticed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use audit_core::{Durability, Place, Receipt};

use crate::commit::{Committer, Taken};
use crate::disk::{Disk, DiskFile, UnsyncedFile, read_whole, write_durably};
use crate::followers::{FollowerRecord, FollowerState};
use crate::object_file::read_object;
use crate::progress::{Progress, write_progress};
use crate::segments::Watermark;
use crate::shared::pieces::pieces;
use crate::simulation::disk::SimulatedDisk;

/// The delivery as it is, or one of those that it must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsItIs,
    /// The plan of an object is written when its first request is under way. Nobody looks for the
    /// plan.
    PlansAfterSending,
    /// A plan gets its name before its bytes are durable. Nobody looks for the plan.
    PlansWithoutFileSync,
    /// The name of a plan is not made durable. Nobody looks for the plan.
    PlansWithoutDirectorySync,
    /// A stream is said to be delivered as soon as that is planned.
    NotesDeliveryWhenPlanned,
    /// A request that got no answer is taken as carried out.
    BelievesSilence,
    /// A plan is removed before it is noted that it is done.
    RemovesPlansEarly,
    /// What was planned before is cut anew.
    ForgetsPlans,
    /// A full segment is removed, delivered or not.
    RemovesSegmentsEarly,
    /// An object that met a conflict is not set aside.
    DropsConflicts,
    /// A key at which something stands is taken as delivered.
    BelievesExists,
    /// An object is taken as delivered when its request panics.
    DropsPanicked,
    /// A batch whose caller has gone is counted as not written.
    CountsDroppedAsUnwritten,
    /// An object whose request was aborted is taken as not sent, and cut anew.
    TakesAbortedAsUnsent,
    /// An object says that what is under way is at the destination.
    TakesWhatIsUnderWayForStable,
    /// That a later stream names one is not noted before.
    NamesStreamsUnnoted,
    /// The secret of a stream stays when it is closed.
    KeepsSecrets,
    /// A follower is said to have what was sent to it, before it has answered.
    NotesFollowersBeforeAnswers,
    /// All followers have one watermark, that of the last one that took anything.
    SharesWatermarks,
    /// Records leave the journal before it is noted that a follower misses them.
    PausesUnnoted,
    /// Where a follower's objects end is not noted.
    ForgetsCuts,
    /// A follower is never paused.
    NeverPauses,
}

impl Variant {
    /// Those that it must not be.
    pub(super) const BAD: [Variant; 21] = [
        Variant::PlansAfterSending,
        Variant::PlansWithoutFileSync,
        Variant::PlansWithoutDirectorySync,
        Variant::NotesDeliveryWhenPlanned,
        Variant::BelievesSilence,
        Variant::RemovesPlansEarly,
        Variant::ForgetsPlans,
        Variant::RemovesSegmentsEarly,
        Variant::DropsConflicts,
        Variant::BelievesExists,
        Variant::DropsPanicked,
        Variant::CountsDroppedAsUnwritten,
        Variant::TakesAbortedAsUnsent,
        Variant::TakesWhatIsUnderWayForStable,
        Variant::NamesStreamsUnnoted,
        Variant::KeepsSecrets,
        Variant::NotesFollowersBeforeAnswers,
        Variant::SharesWatermarks,
        Variant::PausesUnnoted,
        Variant::ForgetsCuts,
        Variant::NeverPauses,
    ];

    /// Whether it differs only where a destination vouches for streams.
    pub(super) fn needs_vouching(self) -> bool {
        matches!(
            self,
            Variant::TakesWhatIsUnderWayForStable
                | Variant::NamesStreamsUnnoted
                | Variant::KeepsSecrets
        )
    }
}

/// As [`Committer::write`], for one who takes a batch whose caller has gone for one that was not
/// written.
pub(super) fn write_without_dropped(committer: &mut Committer, taken: Taken) {
    let Taken { batches, waiters } = taken;
    let next = &mut committer.next;
    let Ok(committed) = committer.writer.commit(&batches, || next.take()) else { return };
    let stream = committer.publisher.stream();
    let counts = committed.batches.iter().map(|batch| batch.count);
    let mut waiters: Vec<_> = waiters.into_iter().zip(counts).collect();
    waiters.retain(|((reply, _), _)| !reply.is_closed());
    committer.publisher.publish(&committed, waiters.iter().map(|(_, count)| *count).sum());
    let mut first_sequence = committed.first_sequence;
    for ((reply, _room), count) in waiters {
        let place = Some(Place { stream, first_sequence, count });
        first_sequence += u64::from(count);
        let _ = reply.send(Ok(Receipt { durability: Durability::Journaled, place }));
    }
}

/// A disk on which plans are treated as they must not be.
#[derive(Debug)]
pub(super) struct BadDisk {
    inner: SimulatedDisk,
    variant: Variant,
    /// Files that are written later than they should be, by the name that they are to have.
    held: Mutex<BTreeMap<String, Arc<HeldFile>>>,
    /// Whether the last name that was given is a plan's.
    named_plan: Mutex<bool>,
}

impl BadDisk {
    pub(super) fn new(inner: SimulatedDisk, variant: Variant) -> BadDisk {
        BadDisk { inner, variant, held: Mutex::default(), named_plan: Mutex::default() }
    }

    /// Writes what is late.
    fn release(&self) -> io::Result<()> {
        let held: Vec<_> =
            self.held.lock().unwrap().iter().map(|(n, f)| (n.clone(), Arc::clone(f))).collect();
        for (name, file) in held {
            if !*file.named.lock().unwrap() {
                continue;
            }
            self.held.lock().unwrap().remove(&name);
            write_durably(&self.inner, &name, [&file.bytes.lock().unwrap()[..]])?;
        }
        Ok(())
    }
}

impl BadDisk {
    /// What is noted of a follower gets its name.
    fn rename_follower(&self, from: &str, to: &str) -> io::Result<()> {
        let read = |name: &str| {
            Ok::<_, io::Error>(FollowerRecord::decode(&read_whole(&self.inner, name)?))
        };
        let Some(mut record) = read(from)? else { return self.inner.rename(from, to) };
        let is_paused = record.state == FollowerState::Paused;
        if is_paused && self.variant == Variant::PausesUnnoted {
            return self.inner.remove(from);
        }
        if is_paused && self.variant == Variant::NeverPauses {
            return Err(io::Error::other("never"));
        }
        if self.variant == Variant::NotesFollowersBeforeAnswers
            && let Some((stream, next)) = record.cuts.drain(..).next_back()
        {
            record.watermark = Watermark { stream, next, ..record.watermark };
        }
        if self.variant == Variant::ForgetsCuts {
            record.cuts.clear();
        }
        self.inner.remove(from)?;
        record.write(&self.inner)?;
        let names = self.inner.list()?;
        let others = names.iter().filter(|name| name.ends_with(".follower") && *name != to);
        for name in others.filter(|_| self.variant == Variant::SharesWatermarks) {
            if let Some(other) = read(name)? {
                let watermark = record.watermark;
                FollowerRecord { watermark, cuts: VecDeque::new(), ..other }.write(&self.inner)?;
            }
        }
        Ok(())
    }
}

/// A file in memory.
#[derive(Debug, Default)]
struct HeldFile {
    bytes: Mutex<Vec<u8>>,
    named: Mutex<bool>,
}

impl DiskFile for HeldFile {
    fn write_all_at(&self, bytes: &[u8], _: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        unreachable!("it is only written")
    }

    fn len(&self) -> io::Result<u64> {
        unreachable!("it is only written")
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for BadDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.release()?;
        let planned = name.strip_suffix(".object.preparing");
        match (self.variant, planned) {
            (Variant::PlansAfterSending, Some(planned)) => {
                let file = Arc::new(HeldFile::default());
                self.held.lock().unwrap().insert(format!("{planned}.object"), Arc::clone(&file));
                return Ok(file);
            }
            (Variant::PlansWithoutFileSync, Some(_)) => {
                return Ok(Arc::new(UnsyncedFile(self.inner.create(name)?)));
            }
            _ => {}
        }
        if self.variant == Variant::RemovesPlansEarly
            && let Some(stream) = name.strip_suffix(".delivered.preparing")
        {
            let names = self.inner.list()?;
            let is_plan = |name: &&String| name.starts_with(stream) && name.ends_with(".object");
            if let Some(first) = names.iter().filter(is_plan).min() {
                self.inner.remove(first)?;
                self.inner.sync_directory()?;
            }
        }
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.release()?;
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        *self.named_plan.lock().unwrap() = to.ends_with(".object");
        if let Some(file) = self.held.lock().unwrap().get(to) {
            *file.named.lock().unwrap() = true;
            return Ok(());
        }
        self.release()?;
        if self.variant == Variant::DropsConflicts && to.ends_with(".conflict") {
            return Ok(());
        }
        if self.variant == Variant::NamesStreamsUnnoted && to.ends_with(".delivered") {
            let file = read_whole(&self.inner, from)?;
            if String::from_utf8_lossy(&file).contains(" told 1 ") {
                return self.inner.remove(from);
            }
        }
        if to.ends_with(".follower") {
            return self.rename_follower(from, to);
        }
        self.inner.rename(from, to)?;
        if self.variant == Variant::NotesDeliveryWhenPlanned
            && to.ends_with(".object")
            && let Ok((plan, ..)) = read_object(&self.inner, to, &pieces())?
        {
            let progress = Progress { next: plan.next_sequence(), ..Progress::default() };
            write_progress(&self.inner, plan.stream, &progress)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // What removes a plan comes first: it is not held any more then.
        if !name.ends_with(".object.preparing") {
            self.release()?;
        }
        if self.variant == Variant::KeepsSecrets && name.ends_with(".secret") {
            return Ok(());
        }
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.variant == Variant::PlansWithoutDirectorySync && *self.named_plan.lock().unwrap() {
            return Ok(());
        }
        self.inner.sync_directory()
    }
}
