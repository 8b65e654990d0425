//! The stored crons of a program.

use functions_program::Program;
use functions_store::{StoreError, Tx};
use functions_value::Value;
use serde_json::json;

use super::jobs::{self, CRONS};
use super::schedule::Schedule;

/// Updates the stored crons to those of a program. A cron whose schedule is unchanged keeps its
/// next due time.
pub(super) fn store(tx: &mut Tx, program: &Program, now_ms: f64) -> Result<(), StoreError> {
    for (path, component) in program.components() {
        let known = jobs::crons(tx, path)?;
        for gone in
            known.iter().filter(|state| component.crons.iter().all(|cron| cron.name != state.name))
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
    }
    Ok(())
}
