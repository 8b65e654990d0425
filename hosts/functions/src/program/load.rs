//! Reading, compiling and evaluating the modules of a directory.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use audit_runtime::FunctionKind;
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Module};
use serde_json::Value;

use super::source::{Exports, Imported};
use super::stamp::Stamps;
use super::{Component, Cron, Env, Function, LoadError, Program, resolve, source};
use crate::engine::{
    Bytecode, Described, Keep, ModuleName, Modules, built_in_bytecode, built_in_for,
    built_in_import, built_in_replacing, built_in_source, describe,
};
use crate::value::ComponentPath;

/// What stands for the files of `_generated` that a directory does not have.
const GENERATED: [(&str, &str); 3] = [
    ("server", include_str!("../../js/generated_server.js")),
    ("api", include_str!("../../js/generated_api.js")),
    ("dataModel", "export {};"),
];

/// How deep components can be mounted in one another.
const MAX_COMPONENT_DEPTH: usize = 16;

/// See [`Program::load`].
pub(super) fn load(directory: &Path, env: &Env) -> Result<Program, LoadError> {
    let directory =
        std::path::absolute(directory).map_err(|error| LoadError::at(directory, error))?;
    let directory = resolve::normal(&directory);
    if !directory.is_dir() {
        return Err(LoadError::at(&directory, "there is no such directory"));
    }
    let graph = Graph::new(&directory);
    let mut loading = Loading { graph, contents: HashMap::new(), warnings: Vec::new() };
    let mut components = BTreeMap::new();
    loading.mount(&ComponentPath::root(), &directory, env, &mut components)?;
    let Loading { graph, warnings, .. } = loading;
    let mut reached = graph.0.borrow_mut();
    let (modules, stamps) =
        (std::mem::take(&mut reached.modules), std::mem::take(&mut reached.stamps));
    Ok(Program { modules: Arc::new(modules), components, warnings, stamps, env: env.clone() })
}

/// A program that is being loaded.
struct Loading {
    graph: Graph,
    /// What is in each directory of modules: a component can be mounted more than once.
    contents: HashMap<PathBuf, Rc<Contents>>,
    warnings: Vec<String>,
}

/// What a directory of modules has.
#[derive(Default)]
struct Contents {
    functions: HashMap<String, Function>,
    schema: Option<Value>,
    crons: Vec<Cron>,
    auth: Option<Value>,
    children: Vec<Child>,
}

/// A component that another one mounts.
struct Child {
    name: String,
    directory: PathBuf,
    env: Vec<(String, Value)>,
}

impl Loading {
    /// Loads the component of `directory`, and those that it mounts.
    fn mount(
        &mut self,
        path: &ComponentPath,
        directory: &Path,
        env: &Env,
        components: &mut BTreeMap<ComponentPath, Component>,
    ) -> Result<(), LoadError> {
        if path.names().len() > MAX_COMPONENT_DEPTH {
            let message = format!(
                "components are mounted in one another more than {MAX_COMPONENT_DEPTH} deep: {path}"
            );
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
            self.mount(&child_path, &child.directory, &child_env(child, env), components)?;
        }
        components.insert(
            path.clone(),
            Component {
                children,
                schema: contents.schema.clone(),
                crons: contents.crons.clone(),
                auth: contents.auth.clone(),
                functions: contents.functions.clone(),
                env: env.clone(),
            },
        );
        Ok(())
    }

    fn contents_of(&mut self, directory: &Path, env: &Env) -> Result<Contents, LoadError> {
        let mut contents = Contents::default();
        let files = modules_of(directory)?;
        self.graph.0.borrow_mut().stamps.add_directory(directory, &files);
        for file in files {
            let relative = file.strip_prefix(directory).unwrap_or(&file);
            let stem = relative.with_extension("");
            let stem = stem
                .to_str()
                .ok_or_else(|| LoadError::at(&file, "the name is not UTF-8"))?
                .to_owned();
            let module = self.graph.file(&file)?;
            let described = self.described(&module, env)?;
            contents.add(&stem, &module, described, self)?;
        }
        self.follow_dynamic(env);
        Ok(contents)
    }

    /// Reaches the modules of `import("…")`, which the evaluation of modules does not. One that
    /// cannot be found or evaluated fails the function that imports it, when it does.
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
        describe(module, self.graph.clone(), env).map_err(|failure| {
            let cause = self.graph.0.borrow_mut().error.take();
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
        let Described { functions, exported, routes, plain } = described;
        match stem {
            "schema" => {
                let message = "the default export is not a schema; write `export default defineSchema({ … })`";
                self.schema = Some(exported.ok_or_else(|| LoadError::new(place(module), message))?);
                return Ok(());
            }
            "auth.config" => {
                let warning = format!(
                    "{}: is not read: name the issuers of tokens under [[auth]] in the host's settings",
                    place(module)
                );
                loading.warnings.push(warning);
                self.auth = plain;
                return Ok(());
            }
            "convex.config" => {
                self.children = children_of(exported.as_ref(), module, loading)?;
                return Ok(());
            }
            "crons" => self.crons = crons_of(exported.as_ref(), module)?,
            "http" if routes > 0 => {
                let warning = format!(
                    "{}: {routes} HTTP routes are not served: this host has no HTTP actions",
                    place(module)
                );
                loading.warnings.push(warning);
            }
            _ => {}
        }
        for function in functions {
            let kind = match function.kind.as_str() {
                "query" => FunctionKind::Query,
                "mutation" => FunctionKind::Mutation,
                "action" => FunctionKind::Action,
                _ => {
                    let warning = format!(
                        "{}: {} is an HTTP action, which this host does not serve",
                        place(module),
                        function.name
                    );
                    loading.warnings.push(warning);
                    continue;
                }
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

/// The lines of `crons.ts`.
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
    let graph = loading.graph.0.borrow();
    let child = |child: &Value| {
        let name = child.get("name")?.as_str()?;
        let directory = graph.definitions.get(child.get("path")?.as_str()?)?;
        let env = child.get("env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let env = env
            .iter()
            .filter_map(|entry| Some((entry.get(0)?.as_str()?.to_owned(), entry.get(1)?.clone())));
        Some(Child { name: name.to_owned(), directory: directory.clone(), env: env.collect() })
    };
    children.iter().map(|value| child(value).ok_or_else(error)).collect()
}

/// What a component finds in `process.env`: what it is mounted with.
fn child_env(child: &Child, parent: &Env) -> Env {
    let variables = child.env.iter().filter_map(|(name, value)| {
        let text = match value.get("type")?.as_str()? {
            "envVar" => parent.variables().get(value.get("name")?.as_str()?)?.clone(),
            _ => value.get("value")?.as_str()?.to_owned(),
        };
        Some((name.clone(), text))
    });
    parent.with_variables(variables.collect())
}

/// The modules of a directory whose exports are functions, and those that Convex has names for.
pub(super) fn modules_of(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = Vec::new();
    walk(directory, directory, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let entries = std::fs::read_dir(directory).map_err(|error| LoadError::at(directory, error))?;
    for entry in entries {
        let path = entry.map_err(|error| LoadError::at(directory, error))?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            return Err(LoadError::at(&path, "the name is not UTF-8"));
        };
        if name.starts_with(['.', '#']) {
            continue;
        }
        if path.is_dir() {
            if name != "_generated" && name != "node_modules" && config_of(&path).is_none() {
                walk(root, &path, files)?;
            }
            continue;
        }
        match name.rsplit_once('.') {
            Some((_, "jsx")) => {
                return Err(LoadError::at(
                    &path,
                    "JSX is not supported; move the file out of the functions' directory",
                ));
            }
            Some((stem, "ts" | "mts" | "tsx" | "js" | "mjs")) => {
                // Tests, declarations and settings of tools have a second dot.
                let is_special =
                    directory == root && matches!(stem, "auth.config" | "convex.config");
                if !stem.contains('.') || is_special {
                    files.push(path);
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The `convex.config` of a directory.
fn config_of(directory: &Path) -> Option<PathBuf> {
    ["ts", "js"]
        .map(|extension| directory.join(format!("convex.config.{extension}")))
        .into_iter()
        .find(|file| file.is_file())
}

/// A module's name as its user knows it: from the directory above the functions on.
fn place(module: &str) -> &str {
    module.strip_prefix("../").unwrap_or(module)
}

fn compile(name: &str, source: &str) -> Result<Bytecode, LoadError> {
    // A user's own functions can be asked for their text.
    let keep = if name.contains("node_modules/") { Keep::Positions } else { Keep::Everything };
    Bytecode::compile(name, source, keep).map_err(|message| {
        // The first frame is where in the file it is.
        let (message, frame) = message.split_once('\n').unwrap_or((&message, ""));
        let at =
            frame.lines().next().and_then(|frame| frame.trim().strip_prefix("at ")).unwrap_or(name);
        LoadError::new(place(at), message)
    })
}

/// The modules that were reached so far. Engines that evaluate a module while it is loaded get its
/// imports from here.
#[derive(Clone)]
struct Graph(Rc<RefCell<Reached>>);

struct Reached {
    /// The directory above the functions.
    base: PathBuf,
    modules: Modules,
    /// Where each module came from, unless it is of this host.
    paths: HashMap<ModuleName, PathBuf>,
    stamps: Stamps,
    /// The directories of components, by what their definitions have for a path.
    definitions: HashMap<String, PathBuf>,
    /// What modules export, by their files and the names of this host's modules, as far as it was
    /// asked for.
    exports: HashMap<PathBuf, Option<Exports>>,
    /// Imports that a module may do while it runs, not looked at yet.
    dynamic: Vec<(ModuleName, String)>,
    /// What went wrong in a resolver or a loader, which have errors of their own.
    error: Option<LoadError>,
}

impl Graph {
    fn new(directory: &Path) -> Graph {
        let base = directory.parent().unwrap_or(directory).to_owned();
        Graph(Rc::new(RefCell::new(Reached {
            base,
            modules: Modules::default(),
            paths: HashMap::new(),
            stamps: Stamps::default(),
            definitions: HashMap::new(),
            exports: HashMap::new(),
            dynamic: Vec::new(),
            error: None,
        })))
    }

    /// The module of a file, compiled.
    fn file(&self, path: &Path) -> Result<ModuleName, LoadError> {
        self.0.borrow_mut().file(path)
    }
}

impl Reached {
    fn file(&mut self, path: &Path) -> Result<ModuleName, LoadError> {
        let name = self.name_of(path);
        if self.modules.compiled.contains_key(&name) {
            return Ok(name);
        }
        let text = std::fs::read_to_string(path).map_err(|error| LoadError::at(path, error))?;
        let shown = PathBuf::from(place(&name));
        if uses_node(&text) {
            let message = "\"use node\" is not supported: this host has no Node.js runtime; remove the directive if the module can do without";
            return Err(LoadError::at(&shown, message));
        }
        if is_common_js(path, &text) {
            let message = "it is a CommonJS module, and only ES modules can be imported: is there a version of the package that has them?";
            return Err(LoadError::at(&shown, message));
        }
        self.stamps.add_file(path, &text);
        let code = self.javascript(path, &shown, text)?;
        self.paths.insert(Arc::clone(&name), path.to_owned());
        self.add(&name, &code).map_err(|error| error.about_jsx(path))?;
        self.dynamic.extend(
            dynamic_imports(&code).map(|specifier| (Arc::clone(&name), specifier.to_owned())),
        );
        Ok(name)
    }

    /// The JavaScript of a file, without what it exports of other modules and is a type there.
    fn javascript(&mut self, path: &Path, shown: &Path, text: String) -> Result<String, LoadError> {
        if !source::is_typescript(path) {
            return Ok(source::read(shown, text, &HashSet::new())?.code);
        }
        let read = source::read(shown, text.clone(), &HashSet::new())?;
        let mut types = HashSet::new();
        for imported in read.exports.others.into_values() {
            if self.is_type(path, &imported, &mut HashSet::new()) {
                types.insert(imported);
            }
        }
        if types.is_empty() { Ok(read.code) } else { Ok(source::read(shown, text, &types)?.code) }
    }

    /// Whether what the file `from` imports is nothing when programs run: the module is known, and
    /// does not export the name as a value.
    fn is_type(
        &mut self,
        from: &Path,
        (specifier, name): &Imported,
        seen: &mut HashSet<(PathBuf, String)>,
    ) -> bool {
        let Some(module) = self.located(from, specifier).filter(|_| name != "*") else {
            return false;
        };
        if !seen.insert((module.clone(), name.clone())) {
            return true;
        }
        let exports = match self.exports.get(&module) {
            Some(exports) => exports.clone(),
            None => {
                let exports = exports_at(&module);
                self.exports.insert(module.clone(), exports.clone());
                exports
            }
        };
        let Some(exports) = exports else { return false };
        if exports.own.contains(name) {
            return false;
        }
        if let Some(imported) = exports.others.get(name) {
            return self.is_type(&module, imported, seen);
        }
        let mut others = exports.all_of.into_iter();
        name == "default"
            || others.all(|specifier| self.is_type(&module, &(specifier, name.clone()), seen))
    }

    /// The file, or the module of this host, that `specifier` means in the file `from`.
    fn located(&self, from: &Path, specifier: &str) -> Option<PathBuf> {
        let directory = from.parent()?;
        if is_relative(specifier) {
            let found = resolve::relative(directory, specifier);
            return found.or_else(|| Some(resolve::normal(&directory.join(specifier))));
        }
        match resolve::package(directory, specifier) {
            Ok(Some(file)) => Some(file),
            Ok(None) => built_in_for(specifier).map(PathBuf::from),
            Err(_) => None,
        }
    }

    fn add(&mut self, name: &ModuleName, code: &str) -> Result<(), LoadError> {
        let bytecode = compile(name, code)?;
        self.modules.compiled.insert(Arc::clone(name), bytecode);
        Ok(())
    }

    /// `../convex/messages.ts`: from the directory above the functions, as Convex shows it.
    fn name_of(&self, path: &Path) -> ModuleName {
        let mut ups = String::from("../");
        for base in self.base.ancestors() {
            if let Ok(relative) = path.strip_prefix(base) {
                return format!("{ups}{}", relative.display()).into();
            }
            ups.push_str("../");
        }
        path.display().to_string().into()
    }

    /// The module that `specifier` means in the module `from`.
    fn import(&mut self, from: &str, specifier: &str) -> Result<ModuleName, LoadError> {
        let known = self.modules.imports.get(from).and_then(|imports| imports.get(specifier));
        if let Some(known) = known {
            return Ok(Arc::clone(known));
        }
        let found = self.resolved(from, specifier)?;
        let from = self
            .modules
            .compiled
            .get_key_value(from)
            .map_or_else(|| from.into(), |(name, _)| Arc::clone(name));
        self.modules
            .imports
            .entry(from)
            .or_default()
            .insert(specifier.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    fn resolved(&mut self, from: &str, specifier: &str) -> Result<ModuleName, LoadError> {
        if let Some(name) = built_in_import(from, specifier) {
            return Ok(name.into());
        }
        // An engine asks for its first module by name.
        if let Some((name, _)) = self.modules.compiled.get_key_value(specifier) {
            return Ok(Arc::clone(name));
        }
        let Some(path) = self.paths.get(from).cloned() else {
            return Err(LoadError::new(place(from), format!("there is no module {specifier:?}")));
        };
        let directory = path.parent().unwrap_or(&path);
        let file = if is_relative(specifier) {
            match resolve::relative(directory, specifier) {
                Some(file) => file,
                None => return self.generated(from, directory, specifier),
            }
        } else {
            match resolve::package(directory, specifier)? {
                Some(file) => file,
                None => return Self::built_in(from, specifier),
            }
        };
        if let Some(name) = built_in_replacing(&file) {
            return Ok(name.into());
        }
        let is_config = |path: &Path| path.file_stem().is_some_and(|stem| stem == "convex.config");
        if is_config(&file) && is_config(&path) {
            return self.definition(&file);
        }
        self.file(&file)
    }

    /// What stands for a file of `_generated` that is not there.
    fn generated(
        &mut self,
        from: &str,
        directory: &Path,
        specifier: &str,
    ) -> Result<ModuleName, LoadError> {
        let path = resolve::normal(&directory.join(specifier));
        let Some((stem, code)) = generated(&path) else {
            return Err(LoadError::new(
                place(from),
                format!("{specifier:?} is imported, and there is no such file"),
            ));
        };
        let path = path.with_file_name(format!("{stem}.js"));
        let name = self.name_of(&path);
        if !self.modules.compiled.contains_key(&name) {
            self.paths.insert(Arc::clone(&name), path);
            self.add(&name, code)?;
        }
        Ok(name)
    }

    /// `convex/server` and `convex/values` where the package is not installed.
    fn built_in(from: &str, specifier: &str) -> Result<ModuleName, LoadError> {
        built_in_for(specifier).map(ModuleName::from).ok_or_else(|| {
            let message = format!(
                "{specifier:?} is imported, and is not installed; npm install it where the functions are"
            );
            LoadError::new(place(from), message)
        })
    }

    /// The definition of a component with the path by which this host knows it again.
    fn definition(&mut self, config: &Path) -> Result<ModuleName, LoadError> {
        let real = self.file(config)?;
        let directory = config.parent().unwrap_or(config);
        let path = place(&self.name_of(directory)).to_owned();
        let name: ModuleName = format!("convex:definition/{path}").into();
        if !self.modules.compiled.contains_key(&name) {
            let text =
                serde_json::to_string(&path).map_err(|error| LoadError::at(config, error))?;
            let code = format!(
                "import definition from \"definition\";\n\
                 definition.componentDefinitionPath = {text};\n\
                 definition.defaultName ??= definition._name;\n\
                 export default definition;\n"
            );
            self.add(&name, &code)?;
            self.modules
                .imports
                .insert(Arc::clone(&name), HashMap::from([("definition".to_owned(), real)]));
            self.definitions.insert(path, directory.to_owned());
        }
        Ok(name)
    }
}

fn is_relative(specifier: &str) -> bool {
    specifier.starts_with("./") || specifier.starts_with("../") || matches!(specifier, "." | "..")
}

/// What stands for a file of `_generated`: its name and its text.
fn generated(path: &Path) -> Option<(&'static str, &'static str)> {
    let stem = path.file_stem()?.to_str()?;
    path.parent()?.ends_with("_generated").then_some(())?;
    GENERATED.into_iter().find(|(name, _)| *name == stem)
}

/// What the module of a file, or of this host, exports. None if that cannot be known.
fn exports_at(module: &Path) -> Option<Exports> {
    if source::is_typescript(module) {
        let text = std::fs::read_to_string(module).ok()?;
        return Some(source::read(module, text, &HashSet::new()).ok()?.exports);
    }
    let text = match std::fs::read_to_string(module) {
        Ok(text) => text,
        Err(_) => match generated(module) {
            Some((_, text)) => text.to_owned(),
            None => built_in_source(module.to_str()?)?.to_owned(),
        },
    };
    let is_json = module.extension().is_some_and(|extension| extension == "json");
    if is_json || is_common_js(module, &text) {
        return None;
    }
    source::exports_of_javascript(module, &text)
}

/// The specifiers of `import("…")` in a module. What only looks like one, in a comment say, does no
/// harm.
fn dynamic_imports(code: &str) -> impl Iterator<Item = &str> {
    code.split("import(").skip(1).filter_map(|rest| {
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`'))?;
        rest[1..].split(quote).next()
    })
}

/// Whether a file is a module of the kind that `require` loads.
fn is_common_js(path: &Path, text: &str) -> bool {
    let has = |what: &str| text.contains(what);
    path.extension().is_some_and(|extension| extension == "cjs")
        || (has("module.exports") || has("exports."))
            && !has("export ")
            && !has("export{")
            && !has("export*")
}

/// Whether a module begins with the directive `"use node"`.
fn uses_node(text: &str) -> bool {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, rest)| rest).trim_start();
        } else {
            return rest.starts_with("\"use node\"") || rest.starts_with("'use node'");
        }
    }
}

impl Resolver for Graph {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        let mut reached = self.0.borrow_mut();
        match reached.import(base, name) {
            Ok(found) => Ok(found.to_string()),
            Err(error) => {
                let message = error.to_string();
                reached.error.get_or_insert(error);
                Err(Error::new_resolving_message(base, name, message))
            }
        }
    }
}

impl Loader for Graph {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        // Declaring a module asks for its imports, here again.
        let bytecode = self.0.borrow().modules.compiled.get(name).cloned();
        match bytecode.or_else(|| built_in_bytecode(name).cloned()) {
            Some(bytecode) => bytecode.declare(ctx),
            None => Err(Error::new_loading(name)),
        }
    }
}
