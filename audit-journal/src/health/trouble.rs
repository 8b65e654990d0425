//! The trouble of one part of a sink.

use std::fmt;
use std::io;

use audit_core::{DiskFault, descriptors_advice};

use crate::shared::panic::Panicked;

/// A trouble, as reported by one part of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// An object cannot be delivered.
    Delivery(DeliveryTrouble),
    /// This host's disk failed an operation that the journal needs.
    Disk(String),
    /// The journal has reached its size limit.
    JournalFull(String),
    /// A part of the sink panicked and restarts.
    Panicked(String),
    /// A sync of the journal failed or a part of the sink ended. This process cannot recover from
    /// it.
    Stopped(String),
}

/// Why an object cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryTrouble {
    /// What happened and, if an operator must act, what to do.
    pub reason: String,
    /// The cause, in a word that distinguishes it from others, if retries cannot succeed until an
    /// operator acts. `None` if they can.
    pub blocked_by: Option<String>,
}

impl Trouble {
    /// The disk failed the operation `what`.
    pub fn disk(what: &str, error: &io::Error) -> Trouble {
        let advice = descriptors_advice(error);
        let advice = advice.or_else(|| DiskFault::of(error).map(DiskFault::advice));
        Trouble::Disk(format!("{what}: {error} ({})", advice.unwrap_or("check the disk")))
    }

    pub(crate) fn stopped(error: &io::Error) -> Trouble {
        Trouble::Stopped(format!("the journal has stopped, since a write to it failed: {error}"))
    }

    pub(crate) fn removed(error: &io::Error) -> Trouble {
        Trouble::Stopped(format!("{error}: what was not delivered is lost"))
    }

    /// `what` panicked and restarts.
    #[doc(hidden)]
    pub fn panicked(what: &str, Panicked(said): &Panicked) -> Trouble {
        Trouble::Panicked(format!("{what} panicked: {said}"))
    }

    /// An indispensable part has ended.
    pub(crate) fn ended(what: &str, how: Option<&Panicked>) -> Trouble {
        Trouble::Stopped(match how {
            Some(Panicked(said)) => format!("{what} panicked: {said}"),
            None => format!("{what} has ended with its runtime"),
        })
    }

    pub(crate) fn journal_full(bytes: u64, max_bytes: u64) -> Trouble {
        Trouble::JournalFull(format!(
            "the journal is full: {bytes} of {max_bytes} bytes are undelivered or retained"
        ))
    }

    pub(crate) fn share_full(route: &str, bytes: u64, max_bytes: u64) -> Trouble {
        Trouble::JournalFull(format!(
            "the share of route {route:?} in the journal is full: {bytes} of {max_bytes} bytes are \
             undelivered"
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

    /// Whether retries cannot succeed until an operator acts.
    pub fn is_blocked(&self) -> bool {
        self.level() == Level::Blocked
    }

    /// Whether `self` adds nothing to a log that has reported `other`.
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

/// For an operator: what happened and, if somebody must act, what to do.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Delivery(trouble) => f.write_str(&trouble.reason),
            Trouble::Disk(detail) => f.write_str(detail),
            Trouble::JournalFull(detail) => {
                write!(f, "{detail} (find out why it is not delivered, or raise journal.max_bytes)")
            }
            Trouble::Stopped(detail) => {
                write!(f, "{detail} (fix the cause, then restart this process)")
            }
            Trouble::Panicked(detail) => {
                write!(
                    f,
                    "{detail} (it restarts by itself; restart this process if it panics again)"
                )
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    Retrying,
    Blocked,
}
