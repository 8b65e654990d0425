//! A directory of functions, loaded.
//!
//! Loading removes types, compiles every module, and evaluates each once to learn which functions
//! it exports, with which validators, and what schema, crons and components there are. A loaded
//! program does not change; a host that watches its directory loads it anew when
//! [`Program::has_changed`].

mod common_js;
mod directory;
mod fence;
mod graph;
mod layout;
mod links;
mod load;
mod nesting;
mod resolve;
mod source;
mod stamp;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use audit_runtime::FunctionKind;
use serde_json::Value;

use self::stamp::Stamps;
use crate::engine::Modules;
use crate::value::ComponentPath;

/// What the functions of a program find around them.
#[derive(Debug, Clone)]
pub struct Env {
    variables: BTreeMap<String, String>,
    variables_json: String,
    audit_vars: Vec<String>,
}

impl Env {
    /// `variables` are what `process.env` holds; `audit_vars` the names of the variables that the
    /// host registered beside those of the contract (`ip`, `userAgent`, `requestId`, `now`).
    pub fn new(
        variables: BTreeMap<String, String>,
        audit_vars: impl IntoIterator<Item = String>,
    ) -> Env {
        let variables_json = json_of(&variables);
        let of_the_contract = ["requestId", "ip", "userAgent", "now"].map(str::to_owned);
        Env {
            variables,
            variables_json,
            audit_vars: of_the_contract.into_iter().chain(audit_vars).collect(),
        }
    }

    pub(crate) fn variables_json(&self) -> &str {
        &self.variables_json
    }

    /// The names of all variables.
    pub(crate) fn audit_vars(&self) -> Vec<String> {
        self.audit_vars.clone()
    }

    /// The same with other variables in `process.env`.
    pub(crate) fn with_variables(&self, variables: BTreeMap<String, String>) -> Env {
        let variables_json = json_of(&variables);
        Env { variables, variables_json, audit_vars: self.audit_vars.clone() }
    }

    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }
}

/// `process.env` as JSON. Packages ask whether they are in production, and are, as with Convex.
fn json_of(variables: &BTreeMap<String, String>) -> String {
    let mut all = BTreeMap::from([("NODE_ENV", "production")]);
    all.extend(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    serde_json::to_string(&all).unwrap_or_else(|_| "{}".to_owned())
}

impl Default for Env {
    /// No variables, and `convexActor` beside those of the contract.
    fn default() -> Env {
        Env::new(BTreeMap::new(), ["convexActor".to_owned()])
    }
}

/// A loaded directory of functions.
#[derive(Debug)]
pub struct Program {
    modules: Arc<Modules>,
    components: BTreeMap<ComponentPath, Component>,
    warnings: Vec<String>,
    stamps: Stamps,
    env: Env,
}

impl Program {
    /// Loads the functions below `directory`.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of its modules from being used, with the module's name and what to do
    /// about it.
    pub fn load(directory: &Path, env: &Env) -> Result<Program, LoadError> {
        load::load(directory, env)
    }

    /// The component at `path`, the app itself at the root.
    pub fn component(&self, path: &ComponentPath) -> Option<&Component> {
        self.components.get(path)
    }

    /// The app and every component that is mounted in it, however deep.
    pub fn components(&self) -> impl Iterator<Item = (&ComponentPath, &Component)> {
        self.components.iter()
    }

    /// The function that a component knows as `name`: `messages:list`, `dir/module:function`, or
    /// `messages` for what the module exports as default. The module may be written with its `.js`.
    pub fn function(&self, component: &ComponentPath, name: &str) -> Option<&Function> {
        self.component(component)?.function(name)
    }

    /// What the directory has that this host does not do.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a file that the program was made from is not as it was, or a module came or went.
    /// Looks at every file's length and time, and reads those whose time is another one.
    pub fn has_changed(&self) -> bool {
        self.stamps.have_changed()
    }

    pub(crate) fn modules(&self) -> &Arc<Modules> {
        &self.modules
    }

    pub(crate) fn env_of(&self, component: &ComponentPath) -> &Env {
        self.component(component).map_or(&self.env, |component| &component.env)
    }
}

/// The app, or a component that is mounted in it.
#[derive(Debug)]
pub struct Component {
    /// The components that it mounts, by the names that its functions know them by.
    pub children: BTreeMap<String, ComponentPath>,
    /// What `defineSchema(…).export()` gives, if it has a schema.
    pub schema: Option<Value>,
    /// What is to be run again and again.
    pub crons: Vec<Cron>,
    /// What `auth.config` exports, if there is one.
    pub auth: Option<Value>,
    functions: HashMap<String, Function>,
    /// The modules with `"use node"`, as functions are named by them.
    node_modules: BTreeSet<String>,
    env: Env,
}

impl Component {
    /// See [`Program::function`].
    pub fn function(&self, name: &str) -> Option<&Function> {
        if let Some(function) = self.functions.get(name) {
            return Some(function);
        }
        let (module, export) = name.split_once(':').unwrap_or((name, "default"));
        let module = module.strip_suffix(".js").unwrap_or(module);
        self.functions.get(&format!("{module}:{export}"))
    }

    /// Whether the function `name` is, or would be, in a module with `"use node"`, whose exports
    /// are unknown.
    pub fn is_for_node(&self, name: &str) -> bool {
        let module = name.split_once(':').map_or(name, |(module, _)| module);
        self.node_modules.contains(module.strip_suffix(".js").unwrap_or(module))
    }

    /// Every function, in no order.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }
}

/// A line of `crons.ts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    /// What the user called it.
    pub name: String,
    /// The function, as the component knows it.
    pub function: String,
    /// Its arguments, a JSON array in Convex's encoding.
    pub args: Value,
    /// `{"type":"interval","seconds":30}`, `{"type":"cron","cron":"…"}`,
    /// `{"type":"daily","hourUTC":…}` and the like.
    pub schedule: Value,
}

/// A function that a module exports.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// `messages:list`.
    pub name: String,
    /// Query, mutation or action.
    pub kind: FunctionKind,
    /// Whether it can be called from outside.
    pub is_public: bool,
    /// The validator of its arguments, as JSON.
    pub args: Value,
    /// The validator of what it returns, as JSON; null if it has none.
    pub returns: Value,
    module: Arc<str>,
    export: String,
}

impl Function {
    /// The module that it is in.
    pub(crate) fn module(&self) -> &str {
        &self.module
    }

    /// What the module exports it as.
    pub(crate) fn export(&self) -> &str {
        &self.export
    }
}

/// Why a directory of functions cannot be used.
#[derive(Debug)]
pub struct LoadError {
    /// What it is about: a file, with line and column if they are known.
    place: String,
    message: String,
}

impl LoadError {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> LoadError {
        LoadError { place: place.into(), message: message.into() }
    }

    pub(crate) fn at(path: &Path, message: impl fmt::Display) -> LoadError {
        LoadError::new(path.display().to_string(), message.to_string())
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for LoadError {}

#[cfg(test)]
mod common_js_tests;
#[cfg(test)]
mod nesting_tests;
#[cfg(test)]
mod resolution_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod typescript_tests;
