//! The stored crons of a program.

use std::sync::Arc;

use functions_store::StoreError;
use functions_value::Value;
use serde_json::json;

use crate::jobs::{self, CRONS};
use crate::schedule::Schedule;
use crate::{Inner, lock};

/// Updates the stored crons to those of the program. A cron whose schedule is unchanged keeps its
/// next due time.
pub(crate) async fn write_down_crons(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let inner = Arc::clone(inner);
    let written = tokio::task::spawn_blocking(move || {
        let _held = lock(&inner.storing_crons);
        let deployed = inner.deployed();
        let now_ms = inner.now_ms() as f64;
        for (path, component) in deployed.program.components() {
            inner.write(|tx| {
                let known = jobs::crons(tx, path)?;
                for gone in known
                    .iter()
                    .filter(|state| component.crons.iter().all(|cron| cron.name != state.name))
                {
                    tx.as_host(|tx| tx.remove(path, Some(CRONS), &gone.id))?;
                }
                for cron in &component.crons {
                    let schedule = cron.schedule.to_string();
                    let state = known.iter().find(|state| state.name == cron.name);
                    if state.is_some_and(|state| state.schedule == schedule) {
                        continue;
                    }
                    // The schedule was checked when the program was deployed.
                    let Ok(parsed) = Schedule::from_json(&cron.schedule) else { continue };
                    let next = parsed.first_ms(now_ms);
                    match state {
                        Some(state) => {
                            let members = json!({ "schedule": schedule, "next": next });
                            jobs::patch(tx, path, CRONS, &state.id, members)?;
                        }
                        None => {
                            let document = Value::from_json(
                                json!({ "name": cron.name, "schedule": schedule, "next": next }),
                            )?;
                            tx.as_host(|tx| tx.insert(path, CRONS, document))?;
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    });
    written.await.unwrap_or_else(|error| Err(StoreError::failed(error)))
}
