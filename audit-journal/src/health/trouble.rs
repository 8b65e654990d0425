//! What is wrong with one part of a sink.

use std::fmt;
use std::io;

use crate::shared::panic::Panicked;

/// What is wrong, as far as one part of a sink knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// An object cannot be delivered.
    Delivery(DeliveryTrouble),
    /// This host's disk did not do something that the journal needs.
    Disk(String),
    /// The journal takes as much of the disk as it may.
    JournalFull(String),
    /// A part of the sink panicked, and begins anew.
    Panicked(String),
    /// A sync of the journal failed or a part of the sink ended, after which nothing that this
    /// process does makes it whole.
    Stopped(String),
}

/// Why an object cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryTrouble {
    /// What happened, and what to do if it waits for an operator.
    pub reason: String,
    /// What no retry helps against until an operator acts, in a word that tells it from other
    /// causes. `None` where retries may help.
    pub blocked_by: Option<String>,
}

impl Trouble {
    /// The disk did not do what it was asked for.
    pub fn disk(what: &str, error: &io::Error) -> Trouble {
        Trouble::Disk(format!("{what}: {error}"))
    }

    pub(crate) fn stopped(error: &io::Error) -> Trouble {
        Trouble::Stopped(format!("the journal has stopped, since its disk failed: {error}"))
    }

    /// This panicked, and begins anew.
    #[doc(hidden)]
    pub fn panicked(what: &str, Panicked(said): &Panicked) -> Trouble {
        Trouble::Panicked(format!("{what} panicked: {said}"))
    }

    /// A part without which nothing goes on has ended.
    pub(crate) fn ended(what: &str, how: Option<&Panicked>) -> Trouble {
        Trouble::Stopped(match how {
            Some(Panicked(said)) => format!("{what} panicked: {said}"),
            None => format!("{what} has ended with its runtime"),
        })
    }

    pub(crate) fn journal_full(bytes: u64, max_bytes: u64) -> Trouble {
        Trouble::JournalFull(format!(
            "the journal is full: {bytes} of {max_bytes} bytes wait for delivery, or are kept"
        ))
    }

    pub(super) fn level(&self) -> Level {
        match self {
            Trouble::Delivery(DeliveryTrouble { blocked_by: None, .. }) => Level::Retrying,
            Trouble::Delivery(DeliveryTrouble { blocked_by: Some(_), .. }) => Level::Blocked,
            Trouble::Disk(_)
            | Trouble::JournalFull(_)
            | Trouble::Panicked(_)
            | Trouble::Stopped(_) => Level::Blocked,
        }
    }

    /// Whether no retry helps until an operator acts.
    pub fn is_blocked(&self) -> bool {
        self.level() == Level::Blocked
    }

    /// Whether the log has nothing new to say of `self` after `other`.
    pub(super) fn is_like(&self, other: &Trouble) -> bool {
        match (self, other) {
            (Trouble::Delivery(this), Trouble::Delivery(other)) => {
                this.blocked_by == other.blocked_by
            }
            (Trouble::Disk(_), Trouble::Disk(_))
            | (Trouble::JournalFull(_), Trouble::JournalFull(_))
            | (Trouble::Panicked(_), Trouble::Panicked(_))
            | (Trouble::Stopped(_), Trouble::Stopped(_)) => true,
            (
                Trouble::Delivery(_)
                | Trouble::Disk(_)
                | Trouble::JournalFull(_)
                | Trouble::Panicked(_)
                | Trouble::Stopped(_),
                _,
            ) => false,
        }
    }
}

/// As an operator reads it: what happened, and what to do if it waits for somebody.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Delivery(trouble) => f.write_str(&trouble.reason),
            Trouble::Disk(detail) => {
                write!(f, "{detail} (make room, or allow this process to use the journal's disk)")
            }
            Trouble::JournalFull(detail) => {
                write!(f, "{detail} (see why it is not delivered, or raise journal.max_bytes)")
            }
            Trouble::Stopped(detail) => {
                write!(f, "{detail} (see to what it names, then restart this process)")
            }
            Trouble::Panicked(detail) => {
                write!(f, "{detail} (it begins anew; restart this process if that does not last)")
            }
        }
    }
}

/// How much a trouble matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    Retrying,
    Blocked,
}
