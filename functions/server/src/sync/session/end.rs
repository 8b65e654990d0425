//! The end of a session.

use audit_host::shortened;
use axum::extract::ws::close_code;

use super::outbox::Outbox;
use crate::budget::Refused;
use crate::sync::protocol;

#[derive(Debug)]
pub(super) enum End {
    /// The client is gone, or does not read.
    Gone,
    /// The client violated the protocol.
    Fatal(String),
    /// The client's token is invalid or has expired.
    Unauthenticated {
        error: String,
        base_version: u32,
        update_attempted: bool,
    },
    Stopping,
    /// The client was silent for too long, before or after its first message.
    Silent {
        has_connected: bool,
    },
    /// The client is to connect again.
    Busy(String),
    /// The client's messages exceed the budget.
    Refused(Refused),
}

impl End {
    /// Queues the last messages to the client.
    pub(super) fn tell(self, outbox: &Outbox) {
        let (code, reason) = match self {
            End::Gone => return,
            End::Stopping => (close_code::AWAY, "the host is stopping".to_owned()),
            End::Busy(reason) => (close_code::AGAIN, reason),
            End::Silent { has_connected } => {
                let (reason, message) = if has_connected {
                    ("idle", "no heartbeat, not even an answer to a ping")
                } else {
                    ("first_message", "no Connect")
                };
                metrics::counter!("audit_connections_refused_total", "reason" => reason)
                    .increment(1);
                (close_code::POLICY, message.to_owned())
            }
            End::Refused(refused) => {
                let code = match refused {
                    Refused::TooLarge | Refused::TooManyNodes | Refused::TooDeep => {
                        close_code::SIZE
                    }
                    Refused::Busy | Refused::TooSlow | Refused::Broken => close_code::AGAIN,
                };
                (code, refused.message())
            }
            End::Fatal(error) => {
                // The error may quote what the client sent.
                outbox.send(protocol::fatal_error(&shortened(&error)), None);
                (close_code::POLICY, error)
            }
            End::Unauthenticated { error, base_version, update_attempted } => {
                outbox.send(protocol::auth_error(&error, base_version, update_attempted), None);
                (close_code::POLICY, error)
            }
        };
        outbox.close(code, &reason);
    }
}
