//! The stored records of scheduled functions: those that are due, interrupted, or old.

use std::sync::Arc;

use audit_core::with_sources;
use functions_store::{StoreError, Tx, Watch};
use serde_json::json;

use super::taken_up::{MAX_LOOKED_AT, TakenUp, Task, key};
use crate::Inner;
use crate::jobs::{self, Due, SCHEDULED};
use crate::schedule::Schedule;

/// How long the record of an ended function is kept, in milliseconds.
const KEPT_MS: f64 = 7.0 * 24.0 * 3_600.0 * 1_000.0;

/// The due functions, read from the store.
pub(super) struct Looked {
    pub(super) due: Vec<Task>,
    /// When the next one is due, in milliseconds since the Unix epoch.
    pub(super) until_ms: f64,
    /// Watches on the reads.
    pub(super) watches: Vec<Watch>,
}

impl Inner {
    pub(super) fn look(&self, taken_up: &TakenUp) -> Result<Looked, StoreError> {
        self.faults.meet("look")?;
        let now_ms = self.now_ms() as f64;
        let at = self.store.latest();
        let mut looked = Looked { due: Vec::new(), until_ms: f64::MAX, watches: Vec::new() };
        let mut tx = self.store.begin(&at, 0);
        let deployed = self.deployed_at(&mut tx)?;
        looked.watches.push(self.store.watch(Arc::new(tx.take_reads()), at.ts()));
        for (path, component) in deployed.program.components() {
            let mut tx = self.store.begin(&at, 0);
            let room = taken_up.room(path);
            let is_free = |id: &str| taken_up.is_free(&(path.clone(), id.to_owned()));
            // The next function is read even if none may begin, for its due time.
            let jobs = jobs::in_state(&mut tx, path, "pending", room.max(1), now_ms, &is_free)?;
            for (id, job) in jobs {
                if job.at_ms > now_ms {
                    looked.until_ms = looked.until_ms.min(job.at_ms);
                    continue;
                }
                if room == 0 {
                    // The end of a running function wakes the scheduler.
                    break;
                }
                let due = Due::Scheduled { component: path.clone(), id };
                looked.due.push(Task {
                    due,
                    component: job.component,
                    function: job.function,
                    args: job.args,
                });
            }
            for state in jobs::crons(&mut tx, path)? {
                let cron = component.crons.iter().find(|cron| cron.name == state.name);
                let Some(cron) = cron else { continue };
                // The schedule was checked when the program was deployed.
                let Ok(schedule) = Schedule::from_json(&cron.schedule) else { continue };
                let (id, at_ms) = (state.id, state.next_ms);
                let due =
                    |next_ms| Due::Cron { component: path.clone(), id: id.clone(), at_ms, next_ms };
                if at_ms > now_ms {
                    let corrected = schedule.corrected_ms(at_ms, now_ms);
                    if let Some(next_ms) = corrected {
                        self.correct(&state.name, &due(next_ms));
                    }
                    looked.until_ms = looked.until_ms.min(corrected.unwrap_or(at_ms));
                    continue;
                }
                let due = due(schedule.next_ms(at_ms, now_ms));
                if !taken_up.is_free(&key(&due)) {
                    continue;
                }
                let (function, args) =
                    (cron.function.clone(), cron.args.get(0).cloned().unwrap_or_else(|| json!({})));
                looked.due.push(Task { due, component: path.clone(), function, args });
            }
            looked.watches.push(self.store.watch(Arc::new(tx.take_reads()), at.ts()));
        }
        Ok(looked)
    }

    /// Stores the corrected due time of a cron. If that fails, the next look corrects it.
    fn correct(&self, name: &str, due: &Due) {
        tracing::warn!(cron = name, "the clock was set back, so a cron is due earlier again");
        let corrected = self.write(|tx| if due.is_due(tx)? { due.advance(tx) } else { Ok(()) });
        if let Err(error) = corrected {
            tracing::warn!(error = with_sources(&error), "the due time of a cron cannot be stored");
        }
    }

    /// Marks the actions as failed that were running when an earlier process ended. How far they
    /// got is unknown, so they do not run again.
    pub(super) fn fail_interrupted_actions(&self) -> Result<(), StoreError> {
        let deployed = self.deployed();
        let now_ms = self.now_ms();
        for (path, _) in deployed.program.components() {
            // In batches, since the arguments of each may be as large as a whole document.
            let some = |tx: &mut Tx| {
                let jobs =
                    jobs::in_state(tx, path, "inProgress", MAX_LOOKED_AT, f64::MAX, &|_| true)?;
                for (id, _) in &jobs {
                    let due = Due::Scheduled { component: path.clone(), id: id.clone() };
                    due.ended(tx, Some("the host ended while the action ran"), now_ms)?;
                }
                Ok(jobs.len())
            };
            while self.write(some)? > 0 {}
        }
        Ok(())
    }

    pub(super) fn remove_old_jobs(&self) -> Result<(), StoreError> {
        let deployed = self.deployed();
        let before_ms = self.now_ms() as f64 - KEPT_MS;
        for (path, _) in deployed.program.components() {
            loop {
                let removed = self.write(|tx| {
                    let ids = jobs::ended_before(tx, path, before_ms, MAX_LOOKED_AT)?;
                    tx.as_host(|tx| {
                        let mut ids = ids.iter();
                        ids.try_for_each(|id| tx.remove(path, Some(SCHEDULED), id).map(drop))
                    })?;
                    Ok(ids.len())
                })?;
                if removed == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}
