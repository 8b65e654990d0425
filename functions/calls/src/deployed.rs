//! The served program, and its replacement by a new one.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use audit_runtime::FunctionKind;
use functions_program::Program;
use functions_store::{CommitError, SchemaError, Schemas, Store, StoreError, Tx, check_schemas};
use functions_value::{ComponentPath, Value};
use serde_json::{Value as Json, json};

use super::call::CallError;
use super::reference::{self, Target};
use super::validate::Validators;
use super::{Inner, crons, jobs, schedule};

/// The system table with the document that every function reads.
pub(super) const DEPLOYMENT: &str = "_deployment";

/// A served program and its parsed validators.
pub(super) struct Deployed {
    pub(super) program: Program,
    pub(super) validators: Validators,
    /// The missing functions that were logged. A cron is due repeatedly, but logged once.
    missing: Mutex<HashSet<String>>,
}

/// A program that cannot be served.
#[derive(Debug)]
pub struct DeployError(pub(super) String);

impl fmt::Display for DeployError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DeployError {}

impl From<SchemaError> for DeployError {
    fn from(error: SchemaError) -> DeployError {
        DeployError(match error {
            SchemaError::Refused(why) => why,
            SchemaError::Store(error) => audit_core::with_sources(&error),
        })
    }
}

impl Deployed {
    pub(super) fn new(program: Program) -> Result<Deployed, DeployError> {
        let validators = Validators::of(&program).map_err(DeployError)?;
        for (path, component) in program.components() {
            for cron in &component.crons {
                let complain = |problem: String| {
                    let whose = if path.is_root() {
                        String::new()
                    } else {
                        format!(" of component {path}")
                    };
                    DeployError(format!("cron {:?}{whose}: {problem}", cron.name))
                };
                schedule::Schedule::from_json(&cron.schedule).map_err(complain)?;
                let function = component.function(&cron.function);
                match function.map(|function| function.kind) {
                    Some(FunctionKind::Mutation | FunctionKind::Action) => {}
                    Some(FunctionKind::Query) => {
                        return Err(complain(format!(
                            "{} is a query, and only mutations and actions can run",
                            cron.function
                        )));
                    }
                    // The function is for Node.js: the cron fails when it is due.
                    None if component.is_for_node(&cron.function) => {}
                    None => {
                        return Err(complain(format!("there is no function {}", cron.function)));
                    }
                }
            }
        }
        Ok(Deployed { program, validators, missing: Mutex::default() })
    }

    /// Records that a due function is missing. Returns whether this is the first time.
    pub(super) fn is_newly_missing(&self, name: &str) -> bool {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned())
    }

    pub(super) fn apply_schema(&self, store: &Store) -> Result<(), DeployError> {
        Ok(store.set_schema(&self.schemas())?)
    }

    /// Checks whether [`apply_schema`](Self::apply_schema) would fail. Without a store, there are
    /// no documents.
    pub(super) fn check_schema(&self, store: Option<&Store>) -> Result<(), DeployError> {
        Ok(check_schemas(&self.schemas(), store)?)
    }

    fn schemas(&self) -> Schemas {
        let schemas = self.program.components();
        schemas.map(|(path, component)| (path.clone(), component.schema.clone())).collect()
    }

    pub(super) fn public(&self, path: &str, kind: FunctionKind) -> Result<Target<'_>, CallError> {
        let target = reference::public(&self.program, path).map_err(CallError::NotFound)?;
        target.expect(kind).map_err(CallError::Invalid)?;
        Ok(target)
    }

    pub(super) fn target(
        &self,
        component: &ComponentPath,
        name: &str,
    ) -> Result<Target<'_>, CallError> {
        reference::resolve(&self.program, component, &json!({ "name": name }))
            .map_err(CallError::NotFound)
    }
}

/// The id of the document that every function reads, with the number of deployments. Creates the
/// document if it is missing.
pub(super) fn deployment_document(store: &Store) -> Result<(String, u64), StoreError> {
    let root = ComponentPath::root();
    let mut tx = store.begin(&store.latest(), 0);
    let query = json!({ "source": { "type": "FullTableScan", "tableName": DEPLOYMENT, "order": "asc" }, "operators": [] });
    let stream = tx.query(&root, &query)?;
    if let Some(document) = tx.query_next(stream)? {
        let document = document.to_json();
        if let Some(id) = document.get("_id").and_then(Json::as_str) {
            return Ok((id.to_owned(), deployments(&mut tx, id)?));
        }
    }
    let first = Value::from_json(json!({ "count": 0.0 }))?;
    let id = tx.as_host(|tx| tx.insert(&root, DEPLOYMENT, first))?;
    match tx.commit() {
        Ok(_) => Ok((id, 0)),
        Err(CommitError::Refused(error) | CommitError::Failed(error)) => Err(error),
        // Nothing else uses the store yet, so this cannot conflict.
        Err(error @ (CommitError::Conflict { .. } | CommitError::Expired)) => {
            Err(StoreError::User(error.to_string()))
        }
    }
}

/// The served program, and the one before it.
///
/// A snapshot from before a deployment is read with the program of its time: the other one may use
/// tables and indexes that it does not have.
pub(super) struct Served {
    /// Each with the number of deployments in its snapshots.
    now: (u64, Arc<Deployed>),
    before: Option<(u64, Arc<Deployed>)>,
}

impl Served {
    pub(super) fn new(deployments: u64, deployed: Deployed) -> Served {
        Served { now: (deployments, Arc::new(deployed)), before: None }
    }

    pub(super) fn now(&self) -> Arc<Deployed> {
        Arc::clone(&self.now.1)
    }

    fn at(&self, deployments: u64) -> Arc<Deployed> {
        match &self.before {
            Some((number, before)) if *number == deployments => Arc::clone(before),
            Some(_) | None => self.now(),
        }
    }

    /// Returns the program that no snapshot has any more.
    fn replace(&mut self, deployments: u64, deployed: Arc<Deployed>) -> Option<Arc<Deployed>> {
        let before = std::mem::replace(&mut self.now, (deployments, deployed));
        Some(self.before.replace(before)?.1)
    }
}

impl Inner {
    /// The program of a transaction's snapshot. A later deployment conflicts with the transaction,
    /// and invalidates its result.
    pub(super) fn deployed_at(&self, tx: &mut Tx) -> Result<Arc<Deployed>, StoreError> {
        let deployments = deployments(tx, &self.deployment_id)?;
        Ok(self.served.read().unwrap_or_else(PoisonError::into_inner).at(deployments))
    }

    /// Replaces the served program with its schemas, its crons, and the document that every
    /// function reads, which invalidates all earlier results.
    ///
    /// All of it is one commit. So a failure, a panic or a crash before it is durable leaves the
    /// previous program with everything of its own. After that, nothing can fail. A crash leaves
    /// the new one's, whose start changes nothing any more. If the store fails, either is on the
    /// disk, and the previous program is served from what it had in memory until a restart.
    pub(super) fn replace(&self, deployed: Deployed) -> Result<(), DeployError> {
        let (schemas, now_ms) = (deployed.schemas(), self.now_ms() as f64);
        let deployed = Arc::new(deployed);
        let number = Cell::new(0);
        let mut replaced = None;
        let writes = |tx: &mut Tx| {
            self.faults.meet("deployment begins")?;
            number.set(deployments(tx, &self.deployment_id)? + 1);
            let count = json!({ "count": number.get() as f64 });
            jobs::patch(tx, &ComponentPath::root(), DEPLOYMENT, &self.deployment_id, count)?;
            crons::store(tx, &deployed.program, now_ms)?;
            self.faults.meet("deployment ends")
        };
        let once_durable = || {
            // Before the commit is seen, so that whoever sees it sees this program.
            let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
            replaced = served.replace(number.get(), Arc::clone(&deployed));
        };
        let seed = self.chance().next_seed();
        self.store.set_schema_with(&schemas, seed, writes, once_durable)?;
        drop(replaced);
        Ok(())
    }
}

/// The number of deployments so far.
fn deployments(tx: &mut Tx, id: &str) -> Result<u64, StoreError> {
    let document = jobs::get(tx, &ComponentPath::root(), DEPLOYMENT, id)?;
    let count = document.and_then(|document| document.get("count")?.as_f64());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    Ok(count.unwrap_or(0.0) as u64)
}
