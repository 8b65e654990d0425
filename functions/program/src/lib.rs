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
use functions_engine::{Call, Modules};
use functions_value::ComponentPath;
use serde_json::Value;

use self::stamp::Stamps;

pub use functions_engine::Env;

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

    /// A call of one of its functions, for an engine. `args` is the text of a JSON array;
    /// `request_id` a token that an action passes back with some operations.
    pub fn call<'a>(
        &'a self,
        component: &ComponentPath,
        function: &'a Function,
        args: &'a str,
        request_id: &'a str,
    ) -> Call<'a> {
        Call {
            modules: &self.modules,
            module: &function.module,
            export: &function.export,
            kind: function.kind,
            env: self.env_of(component),
            args,
            request_id,
        }
    }

    fn env_of(&self, component: &ComponentPath) -> &Env {
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
