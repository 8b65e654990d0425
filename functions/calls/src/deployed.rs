//! The served program, and its replacement by a new one.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use audit_runtime::FunctionKind;
use functions_program::Program;
use functions_store::{CommitError, SchemaError, Schemas, Store, StoreError, check_schemas};
use functions_value::{ComponentPath, Value};
use serde_json::{Value as Json, json};

use super::call::CallError;
use super::reference::{self, Target};
use super::validate::Validators;
use super::{Inner, jobs, schedule};

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
        DeployError(audit_core::with_sources(&error))
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

/// The id of the document that every function reads. Creates the document if it is missing.
pub(super) fn deployment_document(store: &Store) -> Result<String, StoreError> {
    let root = ComponentPath::root();
    let mut tx = store.begin(&store.latest(), 0);
    let query = json!({ "source": { "type": "FullTableScan", "tableName": DEPLOYMENT, "order": "asc" }, "operators": [] });
    let stream = tx.query(&root, &query)?;
    if let Some(document) = tx.query_next(stream)? {
        let document = document.to_json();
        if let Some(id) = document.get("_id").and_then(Json::as_str) {
            return Ok(id.to_owned());
        }
    }
    let first = Value::from_json(json!({ "count": 0.0 }))?;
    let id = tx.as_host(|tx| tx.insert(&root, DEPLOYMENT, first))?;
    match tx.commit() {
        Ok(_) => Ok(id),
        Err(CommitError::Refused(error) | CommitError::Failed(error)) => Err(error),
        // Nothing else uses the store yet, so this cannot conflict.
        Err(error @ (CommitError::Conflict { .. } | CommitError::Expired)) => {
            Err(StoreError::User(error.to_string()))
        }
    }
}

impl Inner {
    /// Writes the document that every function reads, which invalidates all earlier results.
    pub(super) fn note_deployment(&self) -> Result<(), StoreError> {
        let root = ComponentPath::root();
        self.write(|tx| {
            let document = jobs::get(tx, &root, DEPLOYMENT, &self.deployment_id)?;
            let count =
                document.and_then(|document| document.get("count")?.as_f64()).unwrap_or(0.0);
            jobs::patch(tx, &root, DEPLOYMENT, &self.deployment_id, json!({ "count": count + 1.0 }))
        })
    }
}
