//! The state of a witness: a directory with what it has cosigned.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use audit_core::{UniqueId, durable};
use audit_evidence::{Checkpoint, Hash, Refusal, Witnessed, hex};

use super::Declined;
use crate::failure::Failure;

/// The directory of one witness: a file for each stream, with the last cosigned checkpoint and the
/// stream's key.
pub(super) struct Memory {
    directory: Mutex<PathBuf>,
    /// Locked while the witness runs.
    _lock: File,
}

/// A stream's key, and its last cosigned checkpoint.
pub(super) type Latest = ([u8; 32], Witnessed);

impl Memory {
    /// Opens the directory, and creates it if it is missing.
    pub(super) fn open(directory: &Path) -> Result<Memory, Failure> {
        let failed = |error: io::Error| {
            let directory = directory.display();
            Failure::new(format!("the state {directory} cannot be opened")).because(error)
        };
        durable::create_directory(directory).map_err(failed)?;
        let lock = File::create(directory.join("LOCK")).map_err(failed)?;
        if lock.try_lock().is_err() {
            let what = "is in use by another witness";
            return Err(Failure::new(format!("the state {} {what}", directory.display())));
        }
        Ok(Memory { directory: Mutex::new(directory.to_owned()), _lock: lock })
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked(self.directory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state, locked for one decision.
pub(super) struct Locked<'a>(MutexGuard<'a, PathBuf>);

impl Locked<'_> {
    /// A name may contain any characters, so the directory is named after its hash.
    fn file(&self, origin: &str) -> Result<PathBuf, Refusal> {
        let (name, stream) = origin.rsplit_once('/').ok_or(Refusal::UnknownOrigin)?;
        let stream: UniqueId = stream.parse().map_err(|_| Refusal::UnknownOrigin)?;
        let hash = Hash::leaf(&[name.as_bytes()]);
        Ok(self.0.join(hex::encode(hash.as_bytes())).join(stream.to_string()))
    }

    /// The last cosigned checkpoint of this origin.
    pub(super) fn latest(&self, origin: &str) -> Result<Option<Latest>, Declined> {
        let file = self.file(origin)?;
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&file, "read", error).into()),
        };
        // If the file is unreadable, cosign nothing rather than a second history.
        let latest = parse(&text, origin)
            .ok_or_else(|| Failure::new(format!("the state {} is damaged", file.display())))?;
        Ok(Some(latest))
    }

    /// Makes the checkpoint to be cosigned durable.
    pub(super) fn remember(
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
