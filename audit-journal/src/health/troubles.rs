//! The troubles of all parts of a sink.

use std::collections::BTreeMap;

use audit_core::Commits;

use super::log::Logged;
use super::trouble::{Level, Trouble};

/// The troubles of a sink, and the rest of its health.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The latest trouble of each operation under way, by its watch.
    pub(super) current: BTreeMap<u64, Trouble>,
    pub(super) next_watch: u64,
    /// Whether commits wait for room.
    pub(super) starving: bool,
    /// Why the sink has stopped, if it has.
    pub(super) stopped: Option<String>,
    pub(super) create_only: Option<bool>,
    pub(super) journal_bytes: Option<u64>,
    pub(super) oldest_undelivered_ms: Option<i64>,
    pub(super) verifier_key: Option<String>,
    pub(super) last_error: Option<String>,
    pub(super) log: Logged,
}

impl Troubles {
    /// The most severe trouble: one that blocks, else any.
    pub(super) fn worst(&self) -> Option<&Trouble> {
        let blocked = self.current.values().find(|trouble| trouble.is_blocked());
        blocked.or_else(|| self.current.values().next())
    }

    pub(super) fn level(&self) -> Level {
        self.worst().map_or(Level::Ok, Trouble::level)
    }

    pub(super) fn commits(&self) -> Commits {
        let refused = |trouble: &Trouble| Commits::Refused { reason: trouble.to_string() };
        if let Some(reason) = &self.stopped {
            return Commits::Stopped { reason: reason.clone() };
        }
        if self.journal_bytes.is_none() {
            return self.worst().map_or(Commits::Accepted, refused);
        }
        // Trouble with delivery only fills the journal, and a full journal is a trouble of its own.
        let is_own = |trouble: &&Trouble| !matches!(trouble, Trouble::Delivery(_));
        let own = self.current.values().find(is_own).filter(|_| self.starving);
        own.map_or(Commits::Accepted, refused)
    }

    pub(super) fn stop(&mut self, trouble: Trouble) {
        let reason = trouble.to_string();
        self.last_error = Some(reason.clone());
        self.stopped.get_or_insert(reason);
        self.next_watch += 1;
        self.current.insert(self.next_watch, trouble);
    }
}
