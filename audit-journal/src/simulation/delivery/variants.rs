//! Known-bad deliveries, which the simulation must catch.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use audit_core::{Durability, Place, Receipt};

use crate::commit::{Committer, Taken};
use crate::disk::{Disk, DiskFile, UnsyncedFile, read_whole, write_durably};
use crate::followers::{FollowerRecord, FollowerState};
use crate::object_file::read_object;
use crate::progress::{Progress, write_progress};
use crate::shared::pieces::pieces;
use crate::simulation::disk::SimulatedDisk;
use crate::watermark::Watermark;

/// The real delivery, or a known-bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsItIs,
    /// Writes the plan of an object only once its first request is in flight. The bucket does not
    /// check plans.
    PlansAfterSending,
    /// Renames a plan before its bytes are durable. The bucket does not check plans.
    PlansWithoutFileSync,
    /// Writes the plan of an object after that of the next one. The bucket does not check plans.
    PlansOutOfOrder,
    /// Does not make the name of a plan durable. The bucket does not check plans.
    PlansWithoutDirectorySync,
    /// Records a stream as delivered once its objects are planned.
    NotesDeliveryWhenPlanned,
    /// Takes a request without a response for executed.
    BelievesSilence,
    /// Removes a plan before its delivery is recorded.
    RemovesPlansEarly,
    /// Cuts planned records again.
    ForgetsPlans,
    /// Removes full segments, delivered or not.
    RemovesSegmentsEarly,
    /// Does not set aside an object that met a conflict.
    DropsConflicts,
    /// Takes an object for delivered if its key exists.
    BelievesExists,
    /// Takes an object for delivered if its request panics.
    DropsPanicked,
    /// Counts a batch whose caller is gone as not written.
    CountsDroppedAsUnwritten,
    /// Takes an object whose request was aborted for unsent, and cuts its records again.
    TakesAbortedAsUnsent,
    /// States in an object that objects in flight have arrived.
    TakesWhatIsUnderWayForStable,
    /// Shows a stream's state to a witness before the plan of its object is durable.
    ShowsWhatIsUnplanned,
    /// Names a stream in a later one before recording that it does.
    NamesStreamsUnnoted,
    /// Keeps the secret of a closed stream.
    KeepsSecrets,
    /// Records a follower's progress before it responds.
    NotesFollowersBeforeAnswers,
    /// Shares one watermark among all followers.
    SharesWatermarks,
    /// Removes records before recording that a follower misses them.
    PausesUnnoted,
    /// Does not record where a follower's objects end.
    ForgetsCuts,
    /// Never pauses a follower.
    NeverPauses,
}

impl Variant {
    /// The known-bad deliveries.
    pub(super) const BAD: [Variant; 23] = [
        Variant::PlansAfterSending,
        Variant::PlansOutOfOrder,
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
        Variant::ShowsWhatIsUnplanned,
        Variant::NamesStreamsUnnoted,
        Variant::KeepsSecrets,
        Variant::NotesFollowersBeforeAnswers,
        Variant::SharesWatermarks,
        Variant::PausesUnnoted,
        Variant::ForgetsCuts,
        Variant::NeverPauses,
    ];

    /// Whether it differs only for streams with evidence.
    pub(super) fn needs_vouching(self) -> bool {
        matches!(
            self,
            Variant::TakesWhatIsUnderWayForStable
                | Variant::ShowsWhatIsUnplanned
                | Variant::NamesStreamsUnnoted
                | Variant::KeepsSecrets
        )
    }
}

/// As [`Committer::write`], but takes a batch whose caller is gone for not written.
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

/// A disk that mistreats plans.
#[derive(Debug)]
pub(super) struct BadDisk {
    inner: SimulatedDisk,
    variant: Variant,
    /// Files that are written too late, by their final names.
    held: Mutex<BTreeMap<String, Arc<HeldFile>>>,
    /// The old and new name of a plan that is renamed only after the next plan.
    first: Mutex<Option<(String, String)>>,
    /// Whether the last renamed file is a plan.
    named_plan: Mutex<bool>,
}

impl BadDisk {
    pub(super) fn new(inner: SimulatedDisk, variant: Variant) -> BadDisk {
        BadDisk {
            inner,
            variant,
            held: Mutex::default(),
            first: Mutex::default(),
            named_plan: Mutex::default(),
        }
    }

    /// Writes the delayed files.
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
    /// Renames a follower's new file into place.
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
        if self.variant == Variant::PlansOutOfOrder && to.ends_with(".object") {
            let mut first = self.first.lock().unwrap();
            let Some((from_first, to_first)) = first.take() else {
                *first = Some((from.to_owned(), to.to_owned()));
                return Ok(());
            };
            self.inner.rename(from, to)?;
            return self.inner.rename(&from_first, &to_first);
        }
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
        // Delayed files are written before any file but an unfinished plan is removed.
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
