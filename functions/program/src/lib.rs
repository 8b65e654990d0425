//! Loads a directory of functions.
//!
//! Loading removes types, compiles every module, and evaluates each once to learn its functions and
//! their validators, the schema, the crons and the components. A loaded program is immutable. A
//! host that watches the directory loads it again when [`Program::has_changed`] returns `true`.

mod auth;
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

pub use self::auth::{AuthKeys, AuthProvider};
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
    /// A module cannot be used. The error names the module and a remedy.
    pub fn load(directory: &Path, env: &Env) -> Result<Program, LoadError> {
        load::load(directory, env)
    }

    /// The component at `path`. The root is the app itself.
    pub fn component(&self, path: &ComponentPath) -> Option<&Component> {
        self.components.get(path)
    }

    /// The app and all components mounted in it, at any depth.
    pub fn components(&self) -> impl Iterator<Item = (&ComponentPath, &Component)> {
        self.components.iter()
    }

    /// The function `name` of a component: `messages:list`, `dir/module:function`, or `messages`
    /// for the default export. The module may have the extension `.js`.
    pub fn function(&self, component: &ComponentPath, name: &str) -> Option<&Function> {
        self.component(component)?.function(name)
    }

    /// Features that the directory uses and this host does not have.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a file of the program has changed, or a module was added or removed. Checks the
    /// length and time of every file, and reads those whose time differs from that of the last
    /// call. The first call reads all.
    pub fn has_changed(&self) -> bool {
        self.stamps.have_changed()
    }

    /// A call of one of the program's functions, for an engine. `args` is the text of a JSON array,
    /// and `request_id` a token that an action returns with some operations.
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
            http: None,
            env: self.env_of(component),
            args,
            request_id,
        }
    }

    /// The routers that may have a route for the path of a request, ordered by descending length of
    /// their prefixes.
    pub fn routers(&self, path: &str) -> Vec<Router<'_>> {
        let routers = self.components.iter().filter_map(|(component, of)| {
            let (function, prefix) = (of.http.as_ref()?, of.site.as_deref()?);
            Some(Router { component, function, prefix })
        });
        let mut routers: Vec<_> = routers.filter(|one| path.starts_with(one.prefix)).collect();
        // The app's own router is the first, and stays before one of a component with the same
        // prefix.
        routers.sort_by_key(|router| std::cmp::Reverse(router.prefix.len()));
        routers
    }

    /// Whether there are HTTP actions.
    pub fn has_http(&self) -> bool {
        self.components.values().any(|one| one.http.is_some() && one.site.is_some())
    }

    /// The issuers of tokens that the app's `auth.config` names.
    pub fn auth_providers(&self) -> Arc<[AuthProvider]> {
        let app = self.component(&ComponentPath::root());
        app.map_or_else(Arc::default, |app| Arc::clone(&app.auth))
    }

    /// The variable `name` of the app's `process.env`.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env_of(&ComponentPath::root()).variables().get(name).map(String::as_str)
    }

    fn env_of(&self, component: &ComponentPath) -> &Env {
        self.component(component).map_or(&self.env, |component| &component.env)
    }
}

/// The app, or a component mounted in it.
#[derive(Debug)]
pub struct Component {
    /// The components that it mounts, by the names that its functions use.
    pub children: BTreeMap<String, ComponentPath>,
    /// The result of `defineSchema(…).export()`, if it has a schema.
    pub schema: Option<Value>,
    /// Its crons.
    pub crons: Vec<Cron>,
    functions: HashMap<String, Function>,
    /// The modules with `"use node"`, as they are named in functions' names.
    node_modules: BTreeSet<String>,
    auth: Arc<[AuthProvider]>,
    /// The router of its HTTP actions, if it has one.
    http: Option<Function>,
    /// The prefix of the paths of its HTTP actions, if they can be reached.
    site: Option<String>,
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

    /// Whether the function `name` is or would be in a module with `"use node"`, whose exports are
    /// unknown.
    pub fn is_for_node(&self, name: &str) -> bool {
        let module = name.split_once(':').map_or(name, |(module, _)| module);
        self.node_modules.contains(module.strip_suffix(".js").unwrap_or(module))
    }

    /// All functions, in no particular order.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }
}

/// A router of HTTP actions, which `http.ts` exports.
#[derive(Debug, Clone, Copy)]
pub struct Router<'a> {
    /// The component that the router belongs to.
    pub component: &'a ComponentPath,
    /// The router.
    pub function: &'a Function,
    /// The prefix of the paths of its routes, which ends with a slash.
    pub prefix: &'a str,
}

/// A cron defined in `crons.ts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    /// Its name.
    pub name: String,
    /// The function's name in the component.
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
    /// Whether clients can call it.
    pub is_public: bool,
    /// The validator of its arguments, as JSON.
    pub args: Value,
    /// The validator of what it returns, as JSON; null if it has none.
    pub returns: Value,
    module: Arc<str>,
    export: String,
}

/// The reason why a directory of functions cannot be used.
#[derive(Debug)]
pub struct LoadError {
    /// The file, with line and column if they are known.
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
