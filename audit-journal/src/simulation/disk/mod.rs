//! A directory in memory that loses at a power failure what a real one may lose.
//!
//! It is deterministic: the same seed and calls leave the same bytes. It has two views: a running
//! system reads the *cached* one, and a power failure cannot change the *durable* one. Changes
//! between the two are pending, and a power failure decides each of them:
//!
//! - A pending write survives whole, not at all, before or after some byte, in any of its sectors,
//!   or in any pieces of at least 8 bytes. The rest keeps its earlier durable content, or is zero.
//!   A file may lose the length that it gained.
//! - Pending changes of names survive independently of each other and of their order. A rename may
//!   leave the file under both names, but never under none if one was durable. After a failed sync
//!   of the directory, changes stay pending: a file system whose journal fails accepts no more
//!   writes, so it never reports a false success.
//! - A failed sync makes any part durable and marks the rest clean: it is readable until the system
//!   evicts it, and lost at the next power failure although later syncs succeed ("Can Applications
//!   Recover from fsync Failures?", USENIX ATC 2020).
//!
//! If only the process dies ([`SimulatedDisk::kill`]), nothing of the cached view is lost. A kill
//! and a power failure invalidate all handles.

pub mod faulty;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};

/// The size that disks write atomically, in bytes.
const SECTOR_BYTES: usize = 512;
/// The smallest piece that survives or is lost by itself, in bytes: the size that memory-mapped
/// devices write atomically.
const ATOM_BYTES: usize = 8;

/// Seeded random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0xd134_2543_de82_ef95));
        dice.draw();
        dice
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound as u64).expect("below a usize")
    }

    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    /// True in `times` of `of` cases.
    pub fn chance(&mut self, times: usize, of: usize) -> bool {
        self.below(of) < times
    }
}

/// The effect of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    None,
    Part,
    All,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub effect: Effect,
    /// ENOSPC rather than EIO.
    pub no_space: bool,
}

impl Fault {
    pub fn any(dice: &mut Dice) -> Fault {
        let effect = [Effect::None, Effect::Part, Effect::All][dice.below(3)];
        Fault { effect, no_space: dice.chance(1, 3) }
    }

    fn error(self) -> io::Error {
        let (eio, enospc) = (5, 28);
        io::Error::from_raw_os_error(if self.no_space { enospc } else { eio })
    }
}

/// Known-bad systems and journals, which tests must catch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mischief {
    /// `sync_data` reports success and does nothing.
    pub no_sync_data: bool,
    /// The same for `sync_all`.
    pub no_sync_all: bool,
    /// The same for `sync_directory`.
    pub no_sync_directory: bool,
    /// `sync_data` reports success, and takes effect only at the next call.
    pub late_sync_data: bool,
    /// A failed `sync_data` is retried.
    pub retry_sync_data: bool,
}

/// The number of calls of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub writes: u64,
    pub data_syncs: u64,
    /// Calls that change or sync metadata: `create`, `rename`, `remove`, `sync_all`,
    /// `sync_directory`, and writes that extend a file.
    pub metadata: u64,
    pub reads: u64,
}

/// The directory. Clones share it.
#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    calls: Calls,
    /// The number of the next call.
    operation: u64,
    stop_at: Option<u64>,
    faults: Vec<(Range<u64>, Fault)>,
    /// Writes among these calls find no space, and may have written a part.
    without_space: Range<u64>,
    /// The limit for all files together, in bytes.
    room: u64,
    mischief: Mischief,
    late: Option<usize>,
    /// Whether the process has died.
    stopped: bool,
    /// Handles of another epoch are invalid.
    epoch: u64,
    /// By inode.
    files: Vec<FileState>,
    cached: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
}

#[derive(Debug, Default)]
struct FileState {
    cached: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Write>,
    /// Whether something was written since both were the same.
    is_written: bool,
}

#[derive(Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum NameChange {
    Create { name: String, inode: usize },
    Rename { from: String, to: String, inode: usize },
    Remove { name: String },
}

/// The course of a call: its effect and its result.
struct Outcome {
    effect: Effect,
    answer: io::Result<()>,
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> SimulatedDisk {
        let state = State {
            dice: Dice::new(seed),
            calls: Calls::default(),
            operation: 0,
            stop_at: None,
            faults: Vec::new(),
            without_space: 0..0,
            room: u64::MAX,
            mischief: Mischief::default(),
            late: None,
            stopped: false,
            epoch: 0,
            files: Vec::new(),
            cached: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        };
        SimulatedDisk { shared: Arc::new(Mutex::new(state)) }
    }

    /// A directory with these durable files.
    pub fn with_files(seed: u64, files: &BTreeMap<String, Vec<u8>>) -> SimulatedDisk {
        let disk = SimulatedDisk::new(seed);
        let mut state = disk.lock();
        for (inode, (name, bytes)) in files.iter().enumerate() {
            let (cached, durable) = (bytes.clone(), bytes.clone());
            state.files.push(FileState { cached, durable, ..FileState::default() });
            state.cached.insert(name.clone(), inode);
            state.durable.insert(name.clone(), inode);
        }
        drop(state);
        disk
    }

    /// Changes the cached and durable bytes of a file, as a failing disk or an attacker does.
    pub fn alter(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.lock();
        let inode = state.cached[name];
        let FileState { cached, durable, .. } = &mut state.files[inode];
        change(cached);
        change(durable);
    }

    /// Cuts the power. Pending changes survive or not, all handles become invalid, and faults and
    /// stops are cleared.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.restart();
        let State { dice, files, durable, cached, pending, .. } = &mut *state;
        for change in pending.drain(..) {
            change.survive(dice, durable);
        }
        cached.clone_from(durable);
        for file in files.iter_mut().filter(|file| file.is_written) {
            file.lose_pending(dice);
            file.cached.clone_from(&file.durable);
            file.is_written = false;
        }
    }

    /// Kills the process but not the system, so nothing is lost yet. All handles become invalid,
    /// and faults and stops are cleared.
    pub fn kill(&self) {
        self.lock().restart();
    }

    /// Makes the process die at this call, of which any part takes effect. This and all later calls
    /// fail until [`crash`](Self::crash) or [`kill`](Self::kill).
    pub fn stop_at(&self, operation: u64) {
        self.lock().stop_at = Some(operation);
    }

    /// Whether [`stop_at`](Self::stop_at) has taken effect.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Makes these calls fail.
    pub fn fail(&self, operations: Range<u64>, fault: Fault) {
        self.lock().faults.push((operations, fault));
    }

    /// Makes writes among these calls find no space even when they overwrite, as on a file system
    /// that never writes in place.
    pub fn lack_space(&self, operations: Range<u64>) {
        self.lock().without_space = operations;
    }

    /// Limits the total size of all files, in bytes.
    pub fn set_room(&self, bytes: u64) {
        self.lock().room = bytes;
    }

    pub fn set_mischief(&self, mischief: Mischief) {
        self.lock().mischief = mischief;
    }

    pub fn mischief(&self) -> Mischief {
        self.lock().mischief
    }

    /// The number of the next call.
    pub fn operation(&self) -> u64 {
        self.lock().operation
    }

    pub fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// The cached contents of all files, without a call.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.files_where(|_| true)
    }

    /// The cached contents of the files with these names, without a call.
    pub fn files_where(&self, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        let wanted = state.cached.iter().filter(|(name, _)| is_wanted(name));
        wanted.map(|(name, inode)| (name.clone(), state.files[*inode].cached.clone())).collect()
    }

    /// The names of all files, without a call.
    pub fn names(&self) -> Vec<String> {
        self.lock().cached.keys().cloned().collect()
    }

    /// The contents of this file in the durable view, if that has its name.
    pub fn durable_file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.durable.get(name).map(|inode| state.files[*inode].durable.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<NameChange>) -> io::Result<()> {
        let mut state = self.lock();
        let epoch = state.epoch;
        let Outcome { effect, answer } = state.begin(epoch)?;
        state.calls.metadata += 1;
        let done = match effect {
            Effect::None => false,
            Effect::Part => state.dice.chance(1, 2),
            Effect::All => true,
        };
        if done {
            let change = change(&mut state)?;
            change.apply(&mut state.cached);
            state.pending.push(change);
        }
        answer
    }

    fn handle(&self, inode: usize, epoch: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: self.clone(), inode, epoch })
    }
}

impl State {
    fn restart(&mut self) {
        self.epoch += 1;
        self.stopped = false;
        self.stop_at = None;
        self.faults.clear();
        self.without_space = 0..0;
        self.late = None;
    }

    /// Numbers a call, and decides its course.
    fn begin(&mut self, epoch: u64) -> io::Result<Outcome> {
        if self.stopped || epoch != self.epoch {
            return Err(io::Error::other("the process has died"));
        }
        let operation = self.operation;
        self.operation += 1;
        if self.stop_at == Some(operation) {
            self.stopped = true;
            let effect = Fault::any(&mut self.dice).effect;
            return Ok(Outcome { effect, answer: Err(io::Error::other("the process dies here")) });
        }
        if let Some(inode) = self.late.take() {
            self.files[inode].sync();
        }
        let fault = self.faults.iter().find(|(operations, _)| operations.contains(&operation));
        Ok(match fault {
            Some((_, fault)) => Outcome { effect: fault.effect, answer: Err(fault.error()) },
            None => Outcome { effect: Effect::All, answer: Ok(()) },
        })
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.cached.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.cached.values().map(|inode| self.files[*inode].cached.len() as u64).sum()
    }

    fn sync_file(&mut self, inode: usize, Outcome { effect, answer }: Outcome) -> io::Result<()> {
        if answer.is_ok() {
            self.files[inode].sync();
            return answer;
        }
        if self.stopped {
            // The system is still running, so unwritten changes stay pending.
            if effect == Effect::All {
                self.files[inode].sync();
            }
            return answer;
        }
        let (file, dice) = (&mut self.files[inode], &mut self.dice);
        match effect {
            Effect::None => file.pending.clear(),
            Effect::Part => file.lose_pending(dice),
            Effect::All => file.sync(),
        }
        if dice.chance(1, 4) {
            // Clean pages may be evicted and read again from the disk.
            file.cached.clone_from(&file.durable);
        }
        answer
    }
}

impl FileState {
    fn sync(&mut self) {
        for Write { offset, bytes } in self.pending.drain(..) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// Makes some pieces of each pending write durable, and loses the others.
    fn lose_pending(&mut self, dice: &mut Dice) {
        if self.pending.is_empty() {
            return;
        }
        let (was, grown) = (self.durable.len(), self.cached.len().max(self.durable.len()));
        let len = match dice.below(3) {
            0 => was,
            1 => grown,
            _ => dice.within(was..grown + 1),
        };
        for Write { offset, bytes } in self.pending.drain(..) {
            for kept in pieces(dice, offset, bytes.len()) {
                put(&mut self.durable, offset + kept.start, &bytes[kept]);
            }
        }
        self.durable.truncate(len);
        if self.durable.len() < len {
            put(&mut self.durable, len, &[]);
        }
    }
}

/// Writes bytes, extending the file if needed.
fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    // Without `resize`, which is slow in debug builds.
    if file.len() < offset {
        file.extend_from_slice(&vec![0; offset - file.len()]);
    }
    let (over, behind) = bytes.split_at(bytes.len().min(file.len() - offset));
    file[offset..offset + over.len()].copy_from_slice(over);
    file.extend_from_slice(behind);
}

/// The pieces of a write of `len` bytes at `offset` that survive.
fn pieces(dice: &mut Dice, offset: usize, len: usize) -> Vec<Range<usize>> {
    if len == 0 {
        return Vec::new();
    }
    let one = |piece: Range<usize>| std::iter::once(piece).collect();
    match dice.below(8) {
        0 | 1 => Vec::new(),
        2 => one(0..len),
        3 => one(0..dice.within(0..len).next_multiple_of(ATOM_BYTES).min(len)),
        4 => one(dice.within(0..len).next_multiple_of(ATOM_BYTES).min(len)..len),
        5 | 6 => {
            let mut kept = Vec::new();
            let mut at = 0;
            while at < len {
                let next = ((offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset).min(len);
                if dice.chance(1, 2) {
                    kept.push(at..next);
                }
                at = next;
            }
            kept
        }
        _ => {
            // Alternately lost and kept pieces, of an atom or more.
            let mut kept = Vec::new();
            let (mut at, mut keep) = (0, dice.chance(1, 2));
            while at < len {
                let most = 1 << dice.within(4..13);
                let next = (at + dice.within(1..most).next_multiple_of(ATOM_BYTES)).min(len);
                if keep {
                    kept.push(at..next);
                }
                (at, keep) = (next, !keep);
            }
            kept
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove { name } => {
                names.remove(name);
            }
        }
    }

    fn survive(&self, dice: &mut Dice, names: &mut BTreeMap<String, usize>) {
        if dice.chance(1, 2) {
            self.apply(names);
        } else if let NameChange::Rename { to, inode, .. } = self
            && dice.chance(1, 4)
        {
            names.insert(to.clone(), *inode);
        }
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        let epoch = state.epoch;
        state.begin(epoch)?.answer?;
        state.calls.reads += 1;
        Ok(state.cached.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (mut made, mut in_epoch) = (0, 0);
        self.change(|state| {
            if state.cached.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (made, in_epoch) = (state.files.len(), state.epoch);
            state.files.push(FileState::default());
            Ok(NameChange::Create { name: name.to_owned(), inode: made })
        })?;
        Ok(self.handle(made, in_epoch))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let epoch = state.epoch;
        state.begin(epoch)?.answer?;
        state.calls.reads += 1;
        let inode = state.find(name)?;
        Ok(self.handle(inode, epoch))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let inode = state.find(from)?;
            Ok(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode })
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            state.find(name)?;
            Ok(NameChange::Remove { name: name.to_owned() })
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.lock();
        let epoch = state.epoch;
        let Outcome { effect, answer } = state.begin(epoch)?;
        state.calls.metadata += 1;
        if answer.is_ok() && state.mischief.no_sync_directory {
            return answer;
        }
        let State { dice, durable, pending, .. } = &mut *state;
        match effect {
            Effect::All => pending.drain(..).for_each(|change| change.apply(durable)),
            // Names are in the file system's own journal: what it could not write stays pending.
            Effect::Part => pending.retain(|change| {
                let survives = dice.chance(1, 2);
                if survives {
                    change.apply(durable);
                }
                !survives
            }),
            Effect::None => {}
        }
        answer
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    epoch: u64,
}

impl DiskFile for SimulatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let lacks_space = state.without_space.contains(&state.operation);
        let Outcome { mut effect, mut answer } = state.begin(self.epoch)?;
        state.calls.writes += 1;
        if lacks_space && answer.is_ok() {
            let fault = Fault { no_space: true, ..Fault::any(&mut state.dice) };
            (effect, answer) = (fault.effect, Err(fault.error()));
        }
        let offset = usize::try_from(offset).expect("simulated files are small");
        let mut len = match effect {
            Effect::None => 0,
            Effect::Part => state.dice.within(0..bytes.len() + 1),
            Effect::All => bytes.len(),
        };
        let has = state.files[self.inode].cached.len();
        if offset + len > has {
            state.calls.metadata += 1;
            let left = state.room.saturating_sub(state.used());
            let fits = has.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
            if offset + len > fits {
                len = fits.saturating_sub(offset);
                answer = Err(Fault { effect: Effect::Part, no_space: true }.error());
            }
        }
        let file = &mut state.files[self.inode];
        file.is_written = true;
        put(&mut file.cached, offset, &bytes[..len]);
        file.pending.push(Write { offset, bytes: bytes[..len].to_vec() });
        answer
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.begin(self.epoch)?.answer?;
        state.calls.reads += 1;
        let offset = usize::try_from(offset).expect("simulated files are small");
        let file = &state.files[self.inode];
        let bytes = file.cached.get(offset..offset + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.begin(self.epoch)?.answer?;
        state.calls.reads += 1;
        Ok(state.files[self.inode].cached.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let outcome = state.begin(self.epoch)?;
        state.calls.data_syncs += 1;
        let mischief = state.mischief;
        if outcome.answer.is_ok() && mischief.no_sync_data {
            return Ok(());
        }
        if outcome.answer.is_ok() && mischief.late_sync_data {
            state.late = Some(self.inode);
            return Ok(());
        }
        let answer = state.sync_file(self.inode, outcome);
        if mischief.retry_sync_data && !state.stopped { Ok(()) } else { answer }
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let outcome = state.begin(self.epoch)?;
        state.calls.metadata += 1;
        if outcome.answer.is_ok() && state.mischief.no_sync_all {
            return Ok(());
        }
        state.sync_file(self.inode, outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn synced_bytes_survive_and_others_may_be_lost() {
        let (mut lost, mut kept, mut torn, mut nameless) = (0, 0, 0, 0);
        for seed in 0..200 {
            let disk = SimulatedDisk::new(seed);
            let file = disk.create("a").unwrap();
            file.write_all_at(&[1; 4096], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_directory().unwrap();
            file.write_all_at(&[2; 2048], 1024).unwrap();
            disk.rename("a", "b").unwrap();
            disk.create("c").unwrap();
            disk.crash();
            assert!(file.len().is_err(), "handles die with the power");
            let files = disk.files();
            assert!(files.contains_key("a") || files.contains_key("b"), "{:?}", files.keys());
            nameless += u32::from(!files.contains_key("c"));
            let bytes = files.get("a").or(files.get("b")).unwrap();
            assert_eq!(bytes.len(), 4096);
            assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|byte| *byte == 1));
            match bytes[1024..3072].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                2048 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(
            lost > 20 && kept > 20 && torn > 20 && nameless > 20,
            "{lost} {kept} {torn} {nameless}"
        );
    }

    #[test]
    fn a_sync_that_succeeds_after_one_that_failed_is_a_lie() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = SimulatedDisk::new(seed);
            let file = disk.create("a").unwrap();
            file.write_all_at(&[1; 100], 0).unwrap();
            file.sync_all().unwrap();
            disk.sync_directory().unwrap();
            file.write_all_at(&[2; 100], 0).unwrap();
            let now = disk.operation();
            disk.fail(now..now + 1, Fault { effect: Effect::None, no_space: false });
            assert!(file.sync_data().is_err());
            assert!(file.sync_data().is_ok());
            disk.kill();
            disk.crash();
            lost += u32::from(disk.files()["a"] == [1; 100]);
        }
        assert_eq!(lost, 100);
    }

    #[test]
    fn processes_can_be_killed_and_disks_can_be_full() {
        let disk = SimulatedDisk::new(1);
        let file = disk.create("a").unwrap();
        disk.set_room(1000);
        file.write_all_at(&[1; 600], 0).unwrap();
        file.write_all_at(&[1; 600], 0).unwrap();
        let error = file.write_all_at(&[1; 600], 600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.stop_at(disk.operation());
        assert!(disk.list().is_err() && disk.is_stopped() && disk.list().is_err());
        disk.kill();
        assert_eq!(disk.list().unwrap(), ["a"]);
    }
}
