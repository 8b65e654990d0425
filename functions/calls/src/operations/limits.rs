//! The limits of what a function and those that it calls use of its transaction.

use functions_engine::SyscallError;
use functions_store::TxMetrics;
use serde_json::{Value as Json, json};

use super::arguments::failed;

/// The maximum number of functions that one mutation may schedule.
const MAX_SCHEDULED: u64 = 1_000;
/// The maximum size of their arguments together, in bytes.
const MAX_SCHEDULED_BYTES: u64 = 8 << 20;

/// The limits that a caller sets for a nested call.
pub(super) struct Most {
    pub(super) store: TxMetrics,
    functions: u64,
    bytes: u64,
}

/// The `transactionLimits` of a call. A limit that is missing, or higher than what remains, changes
/// nothing.
pub(super) fn of(call: &Json) -> Result<Most, SyscallError> {
    let limits = call.get("transactionLimits").unwrap_or(&Json::Null);
    let limit = |name: &str| match limits.get(name) {
        None | Some(Json::Null) => Ok(u64::MAX),
        Some(limit) => match limit.as_f64() {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked not to be negative, and a part of one is as good as none"
            )]
            Some(limit) if limit >= 0.0 => Ok(limit as u64),
            _ => Err(failed(format!(
                "transactionLimits.{name} must be a number from 0, but got {limit}"
            ))),
        },
    };
    Ok(Most {
        store: TxMetrics {
            bytes_read: limit("bytesRead")?,
            documents_read: limit("documentsRead")?,
            bytes_written: limit("bytesWritten")?,
            documents_written: limit("documentsWritten")?,
            database_queries: limit("databaseQueries")?,
        },
        functions: limit("functionsScheduled")?,
        bytes: limit("scheduledFunctionArgsBytes")?,
    })
}

/// The functions that a call scheduled, and the limits.
#[derive(Clone, Copy)]
pub(super) struct Scheduled {
    functions: u64,
    bytes: u64,
    max_functions: u64,
    max_bytes: u64,
}

impl Default for Scheduled {
    fn default() -> Scheduled {
        Scheduled {
            functions: 0,
            bytes: 0,
            max_functions: MAX_SCHEDULED,
            max_bytes: MAX_SCHEDULED_BYTES,
        }
    }
}

impl Scheduled {
    /// Lowers the limits for a nested call, and returns the earlier ones.
    pub(super) fn limited(&mut self, most: &Most) -> Scheduled {
        let before = *self;
        self.max_functions = self.functions.saturating_add(most.functions).min(self.max_functions);
        self.max_bytes = self.bytes.saturating_add(most.bytes).min(self.max_bytes);
        before
    }

    /// Sets the limits to earlier ones.
    pub(super) fn limit_to(&mut self, before: Scheduled) {
        (self.max_functions, self.max_bytes) = (before.max_functions, before.max_bytes);
    }

    /// Counts one more function, with this size of arguments.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), SyscallError> {
        self.functions += 1;
        self.bytes += bytes;
        let Scheduled { functions, bytes, max_functions, max_bytes } = *self;
        if functions > max_functions {
            return Err(failed(format!(
                "a mutation that schedules {functions} functions exceeds limit of {max_functions}"
            )));
        }
        if bytes > max_bytes {
            return Err(failed(format!(
                "a mutation that schedules functions with {bytes} bytes of arguments exceeds limit \
                 of {max_bytes} bytes"
            )));
        }
        Ok(())
    }
}

/// What `ctx.meta.getTransactionMetrics()` returns.
pub(super) fn metrics(used: &TxMetrics, limits: &TxMetrics, scheduled: &Scheduled) -> Json {
    let metric = |used: u64, max: u64| {
        let remaining = max.saturating_sub(used);
        json!({ "used": used as f64, "remaining": remaining as f64 })
    };
    let Scheduled { functions, bytes, max_functions, max_bytes } = *scheduled;
    json!({
        "bytesRead": metric(used.bytes_read, limits.bytes_read),
        "documentsRead": metric(used.documents_read, limits.documents_read),
        "bytesWritten": metric(used.bytes_written, limits.bytes_written),
        "documentsWritten": metric(used.documents_written, limits.documents_written),
        "databaseQueries": metric(used.database_queries, limits.database_queries),
        "functionsScheduled": metric(functions, max_functions),
        "scheduledFunctionArgsBytes": metric(bytes, max_bytes),
        "filesWritten": metric(0, 0),
        "fileWriteBytes": metric(0, 0),
        "filesRead": metric(0, 0),
        "fileReadBytes": metric(0, 0),
    })
}
