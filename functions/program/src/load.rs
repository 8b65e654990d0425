//! Loads a program from the modules of a directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use audit_runtime::FunctionKind;
use functions_engine::{Described, ModuleName, describe};
use functions_value::ComponentPath;
use serde_json::Value;

use super::auth::{self, AuthProvider};
use super::directory::{check_names, modules_of};
use super::graph::{Entry, Graph, place};
use super::{Component, Cron, Env, Function, LoadError, Program};

/// The variable that names the address of HTTP actions.
const SITE_URL: &str = "CONVEX_SITE_URL";

const MAX_COMPONENT_DEPTH: usize = 16;

pub(super) fn load(directory: &Path, env: &Env) -> Result<Program, LoadError> {
    let directory =
        std::path::absolute(directory).map_err(|error| LoadError::at(directory, error))?;
    // Files are identified by their real paths.
    let directory = std::fs::canonicalize(&directory).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return LoadError::at(&directory, "there is no such directory");
        }
        LoadError::at(&directory, error)
    })?;
    if !directory.is_dir() {
        let what = "it is no directory: name the one that holds the functions";
        return Err(LoadError::at(&directory, what));
    }
    let graph = Graph::new(&directory);
    let mut loading = Loading { graph, contents: HashMap::new(), warnings: Vec::new() };
    let mut components = BTreeMap::new();
    loading.mount(&ComponentPath::root(), &directory, env, Some("/"), &mut components)?;
    let Loading { graph, mut warnings, .. } = loading;
    warnings.extend(graph.finish());
    let mut reached = graph.0.borrow_mut();
    let (modules, stamps) =
        (std::mem::take(&mut reached.modules), std::mem::take(&mut reached.stamps));
    Ok(Program { modules: Arc::new(modules), components, warnings, stamps, env: env.clone() })
}

struct Loading {
    graph: Graph,
    /// The contents of each directory of modules, since a component can be mounted more than once.
    contents: HashMap<PathBuf, Rc<Contents>>,
    warnings: Vec<String>,
}

/// The contents of a directory of modules.
#[derive(Default)]
struct Contents {
    functions: HashMap<String, Function>,
    schema: Option<Value>,
    crons: Vec<Cron>,
    auth: Arc<[AuthProvider]>,
    children: Vec<Child>,
    /// The prefix of the app's own HTTP actions.
    http_prefix: Option<String>,
    node_modules: BTreeSet<String>,
    http: Option<Function>,
}

/// A mounted component.
struct Child {
    name: String,
    directory: PathBuf,
    env: Vec<(String, Value)>,
    /// The prefix of its HTTP actions, relative to those of its parent.
    http_prefix: Option<String>,
}

impl Loading {
    /// Loads the component of `directory`, and the components that it mounts. `site` is the prefix
    /// of the paths of its HTTP actions, if they can be reached.
    fn mount(
        &mut self,
        path: &ComponentPath,
        directory: &Path,
        env: &Env,
        site: Option<&str>,
        components: &mut BTreeMap<ComponentPath, Component>,
    ) -> Result<(), LoadError> {
        if path.names().len() > MAX_COMPONENT_DEPTH {
            let message =
                format!("components are nested deeper than limit of {MAX_COMPONENT_DEPTH}: {path}");
            return Err(LoadError::at(directory, message));
        }
        let contents = match self.contents.get(directory) {
            Some(contents) => Rc::clone(contents),
            None => {
                let contents = Rc::new(self.contents_of(directory, env)?);
                self.contents.insert(directory.to_owned(), Rc::clone(&contents));
                contents
            }
        };
        let mut children = BTreeMap::new();
        for child in &contents.children {
            let child_path = path.child(&child.name);
            if children.insert(child.name.clone(), child_path.clone()).is_some() {
                let message = format!(
                    "two components are mounted as {:?}; give one of them another name",
                    child.name
                );
                return Err(LoadError::at(directory, message));
            }
            // Prefixes begin and end with a slash.
            let prefix = child.http_prefix.as_deref().filter(|_| site.is_some());
            let below = site.unwrap_or_default().trim_end_matches('/');
            let child_site = prefix.map(|prefix| format!("{below}{prefix}"));
            let env = child_env(child, env, prefix);
            self.mount(&child_path, &child.directory, &env, child_site.as_deref(), components)?;
        }
        let site = contents.http_prefix.as_deref().filter(|_| path.is_root()).or(site);
        components.insert(
            path.clone(),
            Component {
                children,
                schema: contents.schema.clone(),
                crons: contents.crons.clone(),
                auth: Arc::clone(&contents.auth),
                functions: contents.functions.clone(),
                node_modules: contents.node_modules.clone(),
                http: contents.http.clone(),
                site: site.map(str::to_owned),
                env: env.clone(),
            },
        );
        Ok(())
    }

    fn contents_of(&mut self, directory: &Path, env: &Env) -> Result<Contents, LoadError> {
        let mut contents = Contents::default();
        let files = modules_of(directory)?;
        self.graph.0.borrow_mut().stamps.add_directory(directory, &files);
        self.graph.survey(&files);
        for file in files {
            let relative = file.strip_prefix(directory).unwrap_or(&file);
            let stem = relative.with_extension("");
            let stem = stem
                .to_str()
                .ok_or_else(|| LoadError::at(&file, "the name is not UTF-8"))?
                .to_owned();
            let entry = self.graph.functions_of(&file)?;
            if !matches!(entry, Entry::Ignored) {
                check_names(relative)
                    .map_err(|why| LoadError::new(self.graph.shown(&file), why))?;
            }
            let module = match entry {
                Entry::Module(module) => module,
                Entry::ForNode => {
                    contents.node_modules.insert(stem);
                    continue;
                }
                Entry::Ignored => continue,
            };
            let described = self.described(&module, env)?;
            contents.add(&stem, &module, described, self)?;
        }
        self.follow_dynamic(env);
        if !contents.node_modules.is_empty() {
            let modules: Vec<&str> = contents.node_modules.iter().map(String::as_str).collect();
            self.warnings.push(format!(
                "{}: calls of functions of modules with \"use node\" fail, as this host has no Node.js: {}",
                self.graph.shown(directory),
                modules.join(", ")
            ));
        }
        Ok(contents)
    }

    /// Follows dynamic imports, which evaluating the modules does not. If such a module cannot be
    /// found or evaluated, the function that imports it fails when it runs.
    fn follow_dynamic(&self, env: &Env) {
        loop {
            let Some((from, specifier)) = self.graph.0.borrow_mut().dynamic.pop() else { return };
            let found = self.graph.0.borrow_mut().import(&from, &specifier);
            if let Ok(module) = found {
                let _ = self.described(&module, env);
            }
        }
    }

    fn described(&self, module: &ModuleName, env: &Env) -> Result<Described, LoadError> {
        let described = describe(module, self.graph.clone(), env);
        let errors = std::mem::take(&mut self.graph.0.borrow_mut().errors);
        described.map_err(|failure| {
            let is_cause = |error: &LoadError| failure.message.contains(&error.to_string());
            let cause = errors.into_iter().find(is_cause);
            cause.unwrap_or_else(|| LoadError::new(place(module), failure.message))
        })
    }
}

impl Contents {
    fn add(
        &mut self,
        stem: &str,
        module: &ModuleName,
        described: Described,
        loading: &mut Loading,
    ) -> Result<(), LoadError> {
        let Described { functions, exported, is_router, plain } = described;
        match stem {
            "schema" => {
                let message = "the default export is not a schema; write `export default defineSchema({ … })`";
                self.schema = Some(exported.ok_or_else(|| LoadError::new(place(module), message))?);
                return Ok(());
            }
            "auth.config" => {
                let read = plain.as_ref().and_then(auth::providers);
                let (providers, left_out) = read.ok_or_else(|| {
                    let message = "the default export is not a configuration; write `export default { providers: [ … ] }`";
                    LoadError::new(place(module), message)
                })?;
                let warnings = left_out.iter().map(|why| format!("{}: {why}", place(module)));
                loading.warnings.extend(warnings);
                self.auth = providers.into();
                return Ok(());
            }
            "convex.config" => {
                self.children = children_of(exported.as_ref(), module, loading)?;
                let prefix = exported.as_ref().and_then(|app| app.get("httpPrefix")?.as_str());
                self.http_prefix = prefix.map(str::to_owned);
                return Ok(());
            }
            "crons" => self.crons = crons_of(exported.as_ref(), module)?,
            "http" if is_router => {
                self.http = Some(Function {
                    name: "http:default".to_owned(),
                    kind: FunctionKind::Action,
                    is_public: true,
                    args: Value::Null,
                    returns: Value::Null,
                    module: Arc::clone(module),
                    export: "default".to_owned(),
                });
            }
            "http" => loading.warnings.push(format!(
                "{}: the default export is not a router, so there are no HTTP actions; write \
                 `export default http`",
                place(module)
            )),
            _ => {}
        }
        for function in functions {
            let kind = match function.kind.as_str() {
                "query" => FunctionKind::Query,
                "mutation" => FunctionKind::Mutation,
                "action" => FunctionKind::Action,
                // An HTTP action, which a router may refer to.
                _ => continue,
            };
            let name = format!("{stem}:{}", function.name);
            let function = Function {
                name: name.clone(),
                kind,
                is_public: function.is_public,
                args: function.args,
                returns: function.returns,
                module: Arc::clone(module),
                export: function.name,
            };
            self.functions.insert(name, function);
        }
        Ok(())
    }
}

fn crons_of(exported: Option<&Value>, module: &ModuleName) -> Result<Vec<Cron>, LoadError> {
    let crons = exported.and_then(Value::as_object).ok_or_else(|| {
        LoadError::new(place(module), "the default export is not a list of crons; write `const crons = cronJobs(); …; export default crons`")
    })?;
    let cron = |(name, cron): (&String, &Value)| {
        Some(Cron {
            name: name.clone(),
            function: cron.get("name")?.as_str()?.to_owned(),
            args: cron.get("args")?.clone(),
            schedule: cron.get("schedule")?.clone(),
        })
    };
    let crons = crons.iter().map(|entry| {
        cron(entry).ok_or_else(|| {
            LoadError::new(place(module), format!("the cron {:?} is not complete", entry.0))
        })
    });
    crons.collect()
}

/// The components that a `convex.config` mounts.
fn children_of(
    exported: Option<&Value>,
    module: &ModuleName,
    loading: &Loading,
) -> Result<Vec<Child>, LoadError> {
    let message = "the default export is not an app or a component; write `export default defineApp()` or `defineComponent(name)`";
    let error = || LoadError::new(place(module), message);
    let children = exported
        .and_then(|exported| exported.get("childComponents"))
        .and_then(Value::as_array)
        .ok_or_else(error)?;
    let mounts = exported.and_then(|exported| exported.get("httpMounts")?.as_object());
    let prefix_of = |name: &str| {
        let reference = format!("_reference/childComponent/{name}");
        let mut mounts = mounts.into_iter().flatten();
        mounts.find(|(_, mounted)| **mounted == *reference).map(|(prefix, _)| prefix.clone())
    };
    let graph = loading.graph.0.borrow();
    let child = |child: &Value| {
        let name = child.get("name")?.as_str()?;
        let directory = graph.definitions.get(child.get("path")?.as_str()?)?;
        let env = child.get("env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let env = env
            .iter()
            .filter_map(|entry| Some((entry.get(0)?.as_str()?.to_owned(), entry.get(1)?.clone())));
        Some(Child {
            name: name.to_owned(),
            directory: directory.clone(),
            env: env.collect(),
            http_prefix: prefix_of(name),
        })
    };
    children.iter().map(|value| child(value).ok_or_else(error)).collect()
}

/// The `process.env` of a component: the variables it is mounted with, and the URL of its
/// HTTP actions.
fn child_env(child: &Child, parent: &Env, prefix: Option<&str>) -> Env {
    let site = prefix.and_then(|prefix| {
        let site = parent.variables().get(SITE_URL)?.trim_end_matches('/');
        Some((SITE_URL.to_owned(), format!("{site}{}", prefix.trim_end_matches('/'))))
    });
    let variables = child.env.iter().filter_map(|(name, value)| {
        let text = match value.get("type")?.as_str()? {
            "envVar" => parent.variables().get(value.get("name")?.as_str()?)?.clone(),
            _ => value.get("value")?.as_str()?.to_owned(),
        };
        Some((name.clone(), text))
    });
    parent.with_variables(site.into_iter().chain(variables).collect())
}
