//! Waiting for deliveries, with their progress.

use std::time::Duration;

use audit_journal::JournalDelivering;
use tokio::time::Instant;

use super::routes::{Routes, said_of};
use crate::arguments::Common;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;

/// The interval at which a delivery's state is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits for deliveries and reports their progress.
pub(super) struct Waiting<'a> {
    pub(super) common: &'a Common,
    pub(super) output: &'a Output,
    /// When to give up.
    pub(super) end: Option<Instant>,
}

impl Waiting<'_> {
    /// Waits until a delivery has finished. Returns false when it is time to give up. `records` is
    /// the number of records to deliver, if known.
    pub(super) async fn until_finished<T>(
        &self,
        delivering: &JournalDelivering<T>,
        routes: &Routes,
        records: Option<u64>,
    ) -> bool {
        let progress = Progress::new(self.common, records.unwrap_or(0));
        let mut said = String::new();
        while !delivering.is_finished() {
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            let health = delivering.health();
            let now = match said_of(&health.state) {
                now if now.is_empty() => routes.trouble(),
                now => now,
            };
            let records_delivered = routes.records_delivered(&health);
            progress.at(records_delivered, if now.is_empty() { "records" } else { &now });
            if now != said && !now.is_empty() && progress.is_hidden() {
                self.output.note(&now);
            }
            said = now;
            let rest = self.end.map_or(LOOK_EVERY, |end| end.duration_since(Instant::now()));
            tokio::time::sleep(LOOK_EVERY.min(rest)).await;
        }
        true
    }
}

pub(super) fn too_late<T>(delivering: &JournalDelivering<T>, what: String) -> Failure {
    let failure = Failure::new(what);
    match delivering.health().last_error {
        Some(error) => failure.because(error),
        None => failure,
    }
}
