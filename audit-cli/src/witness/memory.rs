//! The state of a witness: a directory with what it has cosigned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::{FileLock, UniqueId, durable, read_text};
use audit_evidence::{
    Certificate, Checkpoint, Hash, KeyKind, Note, Refusal, SignerKey, VerifierKey, Witnessed,
};
use data_encoding::HEXLOWER;

use super::Declined;
use super::heads::{self, Event, Head, HeadLog};
use crate::failure::Failure;
use crate::units::now_ms;

/// The directory of one witness: the log of heads, and a file for each stream, with the last
/// cosigned checkpoint and the stream's key.
pub(super) struct Memory {
    open: Mutex<Open>,
    /// Locked while the witness runs.
    _lock: FileLock,
}

struct Open {
    directory: PathBuf,
    key: Arc<SignerKey>,
    log: HeadLog,
    /// The logged contradictions, one of each kind per stream, so that repeating one adds nothing.
    contradicted: BTreeSet<(String, bool)>,
}

/// A stream's key, and its last cosigned checkpoint.
pub(super) type Latest = ([u8; 32], Witnessed);

impl Memory {
    /// Opens the directory, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// If it is in use, cannot be read, or is not as this witness left it: a witness that forgot
    /// what it cosigned could cosign another history.
    pub(super) fn open(directory: &Path, key: Arc<SignerKey>) -> Result<Memory, Failure> {
        let failed = |error: io::Error| {
            let directory = directory.display();
            Failure::new(format!("the state {directory} cannot be opened")).because(error)
        };
        durable::create_directory(directory).map_err(failed)?;
        let lock = FileLock::create(&directory.join("LOCK")).map_err(|error| {
            if error.kind() != io::ErrorKind::WouldBlock {
                let what = format!("its file LOCK cannot be opened: {error}");
                return failed(io::Error::new(error.kind(), what));
            }
            let what = "is in use by another witness";
            Failure::new(format!("the state {} {what}", directory.display()))
        })?;
        let (mut latest, mut contradicted) = (BTreeMap::new(), BTreeSet::new());
        let log = heads::read_own(directory, key.verifier(), |head| {
            let (checkpoint, _) = head.checkpoint().ok_or_else(|| {
                let what = "the log of heads has a line without a checkpoint";
                Failure::new(format!("{what}: {}", directory.join(heads::FILE).display()))
            })?;
            let origin = checkpoint.origin().to_owned();
            match head.event {
                Event::Cosigned => drop(latest.insert(origin, head)),
                Event::Fork => drop(contradicted.insert((origin, false))),
                Event::OtherKey => drop(contradicted.insert((origin, true))),
            }
            Ok(())
        })?;
        let appended = HeadLog::open(directory, &log).map_err(failed)?;
        let (directory, witness) = (directory.to_owned(), Arc::clone(&key));
        let open = Mutex::new(Open { directory, key, log: appended, contradicted });
        let memory = Memory { open, _lock: lock };
        memory.lock().catch_up(&latest)?;
        // The last line may not have been signed before a crash.
        let is_signed = log.signed.is_some_and(|(signed, _)| signed.size == log.range.end());
        if !is_signed {
            memory.lock().sign(&witness).map_err(failed)?;
        }
        Ok(memory)
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked(self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state, locked for one decision.
pub(super) struct Locked<'a>(MutexGuard<'a, Open>);

impl Locked<'_> {
    /// A name may contain any characters, so the directory is named after its hash.
    fn file(&self, origin: &str) -> Result<PathBuf, Refusal> {
        let (name, stream) = origin.rsplit_once('/').ok_or(Refusal::UnknownOrigin)?;
        let stream: UniqueId = stream.parse().map_err(|_| Refusal::UnknownOrigin)?;
        let hash = Hash::leaf(&[name.as_bytes()]);
        Ok(self.0.directory.join(HEXLOWER.encode(hash.as_bytes())).join(stream.to_string()))
    }

    /// The last cosigned checkpoint of this origin.
    pub(super) fn latest(&self, origin: &str) -> Result<Option<Latest>, Declined> {
        let file = self.file(origin)?;
        let text = match read_text(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&file, "read", error).into()),
        };
        // If the file is unreadable, cosign nothing rather than a second history.
        let latest = parse(&text, origin)
            .ok_or_else(|| Failure::new(format!("the state {} is damaged", file.display())))?;
        Ok(Some(latest))
    }

    /// Makes the checkpoint to be cosigned durable, and adds it to the log of heads.
    ///
    /// The log comes first: a crash after it leaves a stream's file behind the log, which the next
    /// opening completes. Nothing was cosigned then.
    pub(super) fn remember(
        &mut self,
        note: &Note,
        of: &Certificate,
        witnessed: &Witnessed,
    ) -> Result<(), Declined> {
        self.append(&Head::new(now(), Event::Cosigned, note, of))?;
        let key = of.stream_key();
        self.write(key.name(), &key.to_bytes(), witnessed)
    }

    /// Logs a contradiction, unless the log has one of its kind for the stream.
    pub(super) fn contradict(
        &mut self,
        note: &Note,
        of: &Certificate,
        event: Event,
    ) -> Result<(), Declined> {
        let contradiction = (of.stream_key().name().to_owned(), event == Event::OtherKey);
        if !self.0.contradicted.contains(&contradiction) {
            self.append(&Head::new(now(), event, note, of))?;
            self.0.contradicted.insert(contradiction);
        }
        Ok(())
    }

    fn append(&mut self, head: &Head) -> Result<(), Declined> {
        let file = self.0.directory.join(heads::FILE);
        let appended = self.0.log.append(head);
        let key = Arc::clone(&self.0.key);
        let signed = appended.and_then(|()| self.sign(&key));
        signed.map_err(|error| failed(&file, "written", error).into())
    }

    fn sign(&mut self, key: &SignerKey) -> io::Result<()> {
        let checkpoint = self.0.log.checkpoint(key.verifier());
        let mut note = checkpoint.to_note();
        note.add(checkpoint.cosign(key, now() / 1_000));
        durable::replace(&self.0.directory.join(heads::SIGNED), note.to_string().as_bytes())
    }

    /// Compares each stream's file with the log, and updates a file that a crash left behind the
    /// log.
    fn catch_up(&mut self, latest: &heads::Latest) -> Result<(), Failure> {
        for (origin, head) in latest {
            let directory = self.0.directory.display().to_string();
            let older =
                |what: &str| Failure::new(format!("the state {directory} {what} of {origin}"));
            let (checkpoint, note) = head.checkpoint().expect("it was read");
            let logged = Witnessed { size: checkpoint.size(), root: *checkpoint.root() };
            let known = self.latest(origin).map_err(|declined| match declined {
                Declined::Refusal(_) => older("has no place for a stream"),
                Declined::Failure(failure) => failure,
            })?;
            match known.map(|(_, known)| known) {
                Some(known) if known == logged => {}
                Some(known) if known.size >= logged.size => {
                    let what = "was put together from copies: the log of heads is not that";
                    return Err(older(what));
                }
                Some(_) | None => {
                    let key = stream_key(origin, &note);
                    let key = key.ok_or_else(|| older("lacks the key in the log of heads"))?;
                    let written = self.write(origin, &key, &logged);
                    written.map_err(|_| older("cannot be completed with the last head"))?;
                }
            }
        }
        let logged: BTreeSet<_> =
            latest.keys().filter_map(|origin| self.file(origin).ok()).collect();
        let files = self.files().map_err(|error| {
            let directory = self.0.directory.display();
            Failure::new(format!("the state {directory} cannot be read")).because(error)
        })?;
        match files.iter().find(|file| !logged.contains(*file)) {
            None => Ok(()),
            Some(file) => Err(Failure::new(format!(
                "the log of heads has nothing of the stream in {}: it was cut or put back",
                file.display()
            ))),
        }
    }

    /// The files of all streams. Nothing else has such a name.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let names = |directory: &Path| -> io::Result<Vec<String>> {
            let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
            names.filter_map(|name| name.map(|name| name.into_string().ok()).transpose()).collect()
        };
        let mut files = Vec::new();
        for host in names(&self.0.directory)?.iter().filter(|name| is_hash(name)) {
            let host = self.0.directory.join(host);
            let streams = names(&host)?.into_iter();
            let streams = streams.filter(|name| name.parse::<UniqueId>().is_ok());
            files.extend(streams.map(|stream| host.join(stream)));
        }
        Ok(files)
    }

    fn write(
        &mut self,
        origin: &str,
        key: &[u8; 32],
        witnessed: &Witnessed,
    ) -> Result<(), Declined> {
        let file = self.file(origin)?;
        let checkpoint = Checkpoint::new(origin, witnessed.size, witnessed.root)
            .map_err(|_| Refusal::UnknownOrigin)?;
        let text = format!("{checkpoint}{}\n", Hash::from_bytes(*key));
        // After a crash before this returns, nothing was cosigned and the earlier checkpoint is
        // still there. A stream without a file may have a directory whose name an earlier call did
        // not sync. If that name were lost after the response, another history could be cosigned.
        let directory = file.parent().filter(|_| !file.exists());
        let written = directory.map_or(Ok(()), durable::create_directory);
        let written = written.and_then(|()| durable::replace(&file, text.as_bytes()));
        written.map_err(|error| failed(&file, "written", error).into())
    }
}

fn is_hash(name: &str) -> bool {
    HEXLOWER.decode(name.as_bytes()).is_ok_and(|bytes| bytes.len() == Hash::BYTES)
}

fn now() -> u64 {
    u64::try_from(now_ms()).unwrap_or_default()
}

/// The key of the stream in a note with the certificate of any host.
fn stream_key(origin: &str, note: &Note) -> Option<[u8; 32]> {
    note.signatures().iter().find_map(|line| {
        let (key, _) = line.bytes().split_first_chunk::<32>()?;
        let verifier = VerifierKey::new(origin, KeyKind::Ed25519, key).ok()?;
        (note.verify(&verifier) == Ok(true)).then_some(*key)
    })
}

fn failed(file: &Path, what: &str, error: io::Error) -> Failure {
    Failure::new(format!("the state {} cannot be {what}", file.display())).because(error)
}

/// A checkpoint of the origin, and a line with the stream's key.
fn parse(text: &str, origin: &str) -> Option<Latest> {
    let lines = text.strip_suffix('\n')?;
    let (checkpoint, key) = lines.rsplit_once('\n')?;
    let checkpoint = Checkpoint::parse(&format!("{checkpoint}\n")).ok()?;
    let key = Hash::from_base64(key).ok()?;
    let witnessed = Witnessed { size: checkpoint.size(), root: *checkpoint.root() };
    (checkpoint.origin() == origin).then_some((*key.as_bytes(), witnessed))
}
