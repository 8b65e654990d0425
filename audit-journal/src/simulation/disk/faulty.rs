//! A disk whose calls fail or panic as a test decides.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile};

/// A call of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncDirectory,
    Write,
    Read,
    Len,
    SyncData,
    SyncAll,
}

/// The fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// Fails with this error of the operating system, without effect.
    Fails(i32),
    /// Panics, before or after taking effect.
    Panics { carried_out: bool },
}

type Inject = dyn Fn(Call, &str) -> Option<Injected> + Send + Sync;

/// The disk. Each call asks `inject` for a fault, with the name of the file.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    inject: Arc<Inject>,
    /// The current names of open files, by the name under which each was opened.
    names: Arc<Mutex<BTreeMap<String, Name>>>,
}

type Name = Arc<Mutex<String>>;

impl FaultyDisk {
    pub(crate) fn new(
        inner: Arc<dyn Disk>,
        inject: impl Fn(Call, &str) -> Option<Injected> + Send + Sync + 'static,
    ) -> FaultyDisk {
        FaultyDisk { inner, inject: Arc::new(inject), names: Arc::default() }
    }

    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let inject = Arc::clone(&self.inject);
        let current = Arc::new(Mutex::new(name.to_owned()));
        self.names.lock().unwrap().insert(name.to_owned(), Arc::clone(&current));
        let name = current;
        Arc::new(FaultyFile { inner: file, inject, name })
    }
}

/// Panics without printing a message, since there are many.
pub fn panic_silently() -> ! {
    std::panic::resume_unwind(Box::new("injected"))
}

fn carry_out<T>(
    inject: &Inject,
    call: Call,
    name: &str,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match inject(call, name) {
        None => work(),
        Some(Injected::Fails(error)) => Err(io::Error::from_raw_os_error(error)),
        Some(Injected::Panics { carried_out }) => {
            if carried_out {
                let _ = work();
            }
            panic_silently()
        }
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        carry_out(&*self.inject, Call::List, "", || self.inner.list())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = carry_out(&*self.inject, Call::Create, name, || self.inner.create(name))?;
        Ok(self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = carry_out(&*self.inject, Call::Open, name, || self.inner.open(name))?;
        Ok(self.file(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        carry_out(&*self.inject, Call::Rename, to, || self.inner.rename(from, to))?;
        let mut names = self.names.lock().unwrap();
        if let Some(name) = names.remove(from) {
            to.clone_into(&mut name.lock().unwrap());
            names.insert(to.to_owned(), name);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        carry_out(&*self.inject, Call::Remove, name, || self.inner.remove(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        carry_out(&*self.inject, Call::SyncDirectory, "", || self.inner.sync_directory())
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyDisk").field(&self.inner).finish()
    }
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    inject: Arc<Inject>,
    name: Name,
}

impl FaultyFile {
    fn carry_out<T>(&self, call: Call, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let name = self.name.lock().unwrap().clone();
        carry_out(&*self.inject, call, &name, work)
    }
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.carry_out(Call::Write, || self.inner.write_all_at(bytes, offset))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.carry_out(Call::Read, || self.inner.read_exact_at(buffer, offset))
    }

    fn len(&self) -> io::Result<u64> {
        self.carry_out(Call::Len, || self.inner.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.carry_out(Call::SyncData, || self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.carry_out(Call::SyncAll, || self.inner.sync_all())
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyFile").field(&self.name).finish()
    }
}
