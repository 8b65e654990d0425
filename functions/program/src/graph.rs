//! The modules of a program, by the imports that lead to them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use functions_engine::{Bytecode, Keep, ModuleName, Modules, built_in};
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Module};

use super::common_js::{self, Required};
use super::fence::Fence;
use super::links::{ALL, Links};
use super::resolve::{Finder, Found, Manner, is_in_package, is_relative, normal};
use super::source::{Exports, Imported, extension};
use super::stamp::Stamps;
use super::{LoadError, nesting, source};

/// The stand-ins for missing files of `_generated`.
const GENERATED: [(&str, &str); 3] = [
    ("server", include_str!("../js/generated_server.js")),
    ("api", include_str!("../js/generated_api.js")),
    ("dataModel", "export {};"),
];

/// The name of a module for its author: relative to the directory above the functions.
pub(super) fn place(module: &str) -> &str {
    module.strip_prefix("../").unwrap_or(module)
}

fn compile(name: &str, source: &str) -> Result<Bytecode, LoadError> {
    // `toString()` works for the app's own functions.
    let keep = if name.contains("node_modules/") { Keep::Positions } else { Keep::Everything };
    Bytecode::compile(name, source, keep).map_err(|message| {
        // The first frame is the place of the error in the file.
        let (message, frame) = message.split_once('\n').unwrap_or((&message, ""));
        let at =
            frame.lines().next().and_then(|frame| frame.trim().strip_prefix("at ")).unwrap_or(name);
        LoadError::new(place(at), message)
    })
}

/// The modules that were reached so far. An engine that evaluates a module while the program is
/// loaded gets the module's imports from here.
#[derive(Clone)]
pub(super) struct Graph(pub(super) Rc<RefCell<Reached>>);

pub(super) struct Reached {
    /// The directory of the app's functions.
    functions: PathBuf,
    /// The directory above it.
    base: PathBuf,
    fence: Fence,
    finder: Finder,
    pub(super) modules: Modules,
    /// The file of each module, unless it is built in.
    paths: HashMap<ModuleName, PathBuf>,
    read: HashMap<PathBuf, Rc<Read>>,
    targets: HashMap<(PathBuf, String, Manner), Target>,
    /// The adapters between ES modules and others, by what they adapt.
    between: HashMap<(String, BTreeSet<String>, bool), ModuleName>,
    pub(super) stamps: Stamps,
    /// The directories of components, by the paths in their definitions.
    pub(super) definitions: HashMap<String, PathBuf>,
    /// The exports of modules that were looked up so far, by file, or by name for built-in modules.
    exports: HashMap<PathBuf, Option<Exports>>,
    /// Dynamic imports that were not followed yet.
    pub(super) dynamic: Vec<(ModuleName, String)>,
    /// The first error of the resolver or loader. The engine reports only its own.
    pub(super) error: Option<LoadError>,
}

/// A file of a program, read.
struct Read {
    /// Its JavaScript; for data, an expression.
    code: String,
    links: Links,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An ES module.
    Module,
    CommonJs,
    /// A value, which the module exports.
    Data,
}

/// The target of a specifier.
#[derive(Debug, Clone)]
enum Target {
    File(PathBuf),
    /// A built-in module.
    BuiltIn(ModuleName),
    /// A missing file of `_generated`.
    Generated(PathBuf),
    Nothing,
    Node(String),
    Missing(String),
}

impl Graph {
    pub(super) fn new(directory: &Path) -> Graph {
        let base = directory.parent().unwrap_or(directory).to_owned();
        let fence = Fence::around(directory);
        Graph(Rc::new(RefCell::new(Reached {
            functions: directory.to_owned(),
            base,
            finder: Finder::new(fence.clone()),
            fence,
            modules: Modules::default(),
            paths: HashMap::new(),
            read: HashMap::new(),
            targets: HashMap::new(),
            between: HashMap::new(),
            stamps: Stamps::default(),
            definitions: HashMap::new(),
            exports: HashMap::new(),
            dynamic: Vec::new(),
            error: None,
        })))
    }

    /// The module of a file of functions, compiled. None if it is for Node.js.
    pub(super) fn functions_of(&self, path: &Path) -> Result<Option<ModuleName>, LoadError> {
        let mut reached = self.0.borrow_mut();
        let refused = |error: &dyn Display| LoadError::at(&reached.shown(path), error);
        let path = &reached.fence.real(path).map_err(|error| refused(&error))?;
        let text = reached.fence.read(path).map_err(|error| refused(&error.message()))?;
        if uses_node(&text) {
            reached.stamps.add_file(path, &text);
            return Ok(None);
        }
        let read = reached.read(path)?;
        match read.kind {
            Kind::Module => reached.file(path).map(Some),
            Kind::CommonJs | Kind::Data => {
                let names = read.links.exported.clone();
                reached.between(path, names, false).map(Some)
            }
        }
    }

    pub(super) fn shown(&self, path: &Path) -> String {
        self.0.borrow().shown(path).display().to_string()
    }

    /// Stamps the manifests and settings that were read, and returns warnings about them.
    pub(super) fn finish(&self) -> Vec<String> {
        let mut reached = self.0.borrow_mut();
        for (path, bytes) in reached.fence.take_manifests() {
            reached.stamps.add_file(&path, &String::from_utf8_lossy(&bytes));
        }
        let warnings = reached.finder.take_warnings().into_iter();
        let shown = |path: &Path| place(&reached.name_of(path)).to_owned();
        warnings.map(|(path, warning)| format!("{}: {warning}", shown(&path))).collect()
    }
}

impl Reached {
    fn shown(&self, path: &Path) -> PathBuf {
        PathBuf::from(place(&self.name_of(path)))
    }

    /// Reads a file without compiling it for the engine.
    fn read(&mut self, path: &Path) -> Result<Rc<Read>, LoadError> {
        if let Some(known) = self.read.get(path) {
            return Ok(Rc::clone(known));
        }
        let shown = self.shown(path);
        let text = self.fence.read(path).map_err(|error| LoadError::at(&shown, error.message()))?;
        self.stamps.add_file(path, &text);
        let is_data = matches!(extension(path), "json" | "txt" | "css");
        if !is_data {
            nesting::check(&shown, &text)?;
        }
        let data = |code: String| Read { code, links: Links::default(), kind: Kind::Data };
        let read = match extension(path) {
            "json" => {
                serde_json::from_str::<serde::de::IgnoredAny>(&text)
                    .map_err(|error| LoadError::at(&shown, error))?;
                data(text)
            }
            "txt" => {
                data(serde_json::to_string(&text).map_err(|error| LoadError::at(&shown, error))?)
            }
            "css" => data("{}".to_owned()),
            "js" | "mjs" | "cjs" | "ts" | "mts" | "cts" | "tsx" | "jsx" => {
                let code = self.javascript(path, &shown, text)?;
                let links = Links::of(path, &code);
                let kind = self.kind_of(path, &links);
                Read { code, links, kind }
            }
            other => {
                let message = format!(
                    "files of this kind (.{other}) cannot be imported: JavaScript, TypeScript, JSON and text can"
                );
                return Err(LoadError::at(&shown, message));
            }
        };
        let read = Rc::new(read);
        self.read.insert(path.to_owned(), Rc::clone(&read));
        Ok(read)
    }

    fn kind_of(&self, path: &Path, links: &Links) -> Kind {
        match extension(path) {
            "mjs" | "mts" | "ts" | "tsx" => Kind::Module,
            "cjs" => Kind::CommonJs,
            _ if links.is_module => Kind::Module,
            _ if self.is_of_modules(path) => Kind::Module,
            // A module of functions without any.
            _ if !links.is_common_js && !is_in_package(path) => Kind::Module,
            _ => Kind::CommonJs,
        }
    }

    fn is_of_modules(&self, path: &Path) -> bool {
        path.parent().is_some_and(|directory| self.finder.is_of_modules(directory))
    }

    /// The module of a file, compiled.
    fn file(&mut self, path: &Path) -> Result<ModuleName, LoadError> {
        let name = self.name_of(path);
        if self.modules.compiled.contains_key(&name) {
            return Ok(name);
        }
        let read = self.read(path)?;
        self.paths.insert(Arc::clone(&name), path.to_owned());
        let shown = place(&name);
        match read.kind {
            Kind::Module => {
                let code = self.linked(path, &read);
                self.add(&name, &code)?;
            }
            Kind::CommonJs | Kind::Data => {
                let code = if read.kind == Kind::Data {
                    common_js::data(&read.code, shown)
                } else {
                    let code = self.linked(path, &read);
                    common_js::module(&code, shown, &self.required_by(path, &read.links))
                };
                // A module that is never evaluated does no harm.
                if let Err(error) = self.add(&name, &code) {
                    self.add(&name, &common_js::broken(shown, &error.to_string()))?;
                }
            }
        }
        let dynamic = read.links.dynamic.iter();
        self.dynamic.extend(dynamic.map(|(specifier, _)| (Arc::clone(&name), specifier.clone())));
        Ok(name)
    }

    /// The code of a module, with its namespace imports of CommonJS modules rewritten: such a
    /// namespace is one value, with the members that it has at run time.
    fn linked(&mut self, path: &Path, read: &Read) -> String {
        let mut edits: Vec<(usize, usize, String)> = Vec::new();
        let mut exported = read.links.own.clone();
        for (specifier, imports) in &read.links.imports {
            for star in &imports.stars {
                let Target::File(file) = self.target(path, specifier, Manner::Import) else {
                    continue;
                };
                if self.read(&file).is_ok_and(|read| read.kind == Kind::Module) {
                    continue;
                }
                let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$');
                let names = self.exported_by(&file, &mut HashSet::new()).into_iter();
                let names: Vec<String> = names
                    .filter(|name| name != "default" && name.chars().all(is_name))
                    .filter(|name| exported.insert(name.clone()))
                    .collect();
                let instead = format!("export{{{}}}from", names.join(","));
                edits.push((star.start as usize, star.end as usize, instead));
            }
            if !imports.namespaces.is_empty() && self.is_one_value(path, specifier) {
                let spans = imports.namespaces.iter();
                edits.extend(spans.map(|(span, instead)| {
                    (span.start as usize, span.end as usize, instead.clone())
                }));
            }
        }
        for (specifier, end) in &read.links.dynamic {
            if self.is_one_value(path, specifier) {
                edits.push((*end as usize, *end as usize, format!(".then($=>$.{ALL})")));
            }
        }
        edits.sort_unstable_by_key(|(from, ..)| std::cmp::Reverse(*from));
        let mut code = read.code.clone();
        for (from, to, instead) in edits {
            code.replace_range(from..to, &instead);
        }
        let links = &read.links;
        if read.kind == Kind::Module && !links.requires.is_empty() && !links.declares_require {
            code = common_js::with_require(&code, &self.required_by(path, links));
        }
        code
    }

    /// Whether an adapter is imported.
    fn is_one_value(&mut self, from: &Path, specifier: &str) -> bool {
        match self.target(from, specifier, Manner::Import) {
            Target::File(file) => self.read(&file).is_ok_and(|read| read.kind != Kind::Module),
            Target::Nothing | Target::Node(_) => true,
            Target::BuiltIn(_) | Target::Generated(_) | Target::Missing(_) => false,
        }
    }

    /// The results of `require` in a module.
    fn required_by(&mut self, path: &Path, links: &Links) -> Vec<(String, Required)> {
        let required = |(specifier, is_tried): (&String, &bool)| {
            let required = match self.target(path, specifier, Manner::Require) {
                Target::File(file) => match self.read(&file) {
                    Ok(read) if read.kind == Kind::Module => Required::Module,
                    Ok(_) => Required::CommonJs,
                    Err(error) => Required::Missing(error.to_string()),
                },
                Target::BuiltIn(_) | Target::Generated(_) => Required::Module,
                Target::Nothing => Required::Nothing,
                Target::Node(name) if *is_tried => Required::Missing(format!(
                    "{name} is of Node.js, which this host does not have"
                )),
                Target::Node(name) => Required::Node(name),
                Target::Missing(why) => Required::Missing(why),
            };
            (specifier.clone(), required)
        };
        links.requires.iter().map(required).collect()
    }

    /// The names that a CommonJS module exports, as far as its text shows.
    fn exported_by(&mut self, path: &Path, seen: &mut HashSet<PathBuf>) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        if !seen.insert(path.to_owned()) {
            return names;
        }
        let Ok(read) = self.read(path) else { return names };
        names.extend(read.links.exported.iter().cloned());
        for specifier in &read.links.re_exported {
            if let Target::File(file) = self.target(path, specifier, Manner::Require) {
                names.extend(self.exported_by(&file, seen));
            }
        }
        names
    }

    /// The JavaScript of a file, without its re-exports of types.
    fn javascript(&mut self, path: &Path, shown: &Path, text: String) -> Result<String, LoadError> {
        if !source::is_compiled(path) {
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

    /// Whether an import of the file `from` is a type: the module is known, and does not export the
    /// name as a value.
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
                let exports = self.exports_at(&module);
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

    /// The file or built-in module that `specifier` means in the file `from`. A missing file may
    /// hold types.
    fn located(&mut self, from: &Path, specifier: &str) -> Option<PathBuf> {
        match self.target(from, specifier, Manner::Import) {
            Target::File(file) | Target::Generated(file) => Some(file),
            Target::BuiltIn(name) => Some(PathBuf::from(&*name)),
            Target::Missing(_) if is_relative(specifier) => {
                Some(normal(&from.parent()?.join(specifier)))
            }
            Target::Missing(_) | Target::Nothing | Target::Node(_) => None,
        }
    }

    /// The exports of a file or built-in module. None if they cannot be determined.
    fn exports_at(&self, module: &Path) -> Option<Exports> {
        if source::is_compiled(module) {
            let text = self.fence.read(module).ok()?;
            nesting::check(module, &text).ok()?;
            return Some(source::read(module, text, &HashSet::new()).ok()?.exports);
        }
        let text = match self.fence.read(module) {
            Ok(text) => text,
            Err(_) => match generated(module) {
                Some((_, text)) => text.to_owned(),
                None => built_in::source(module.to_str()?)?.to_owned(),
            },
        };
        if matches!(extension(module), "json" | "cjs" | "txt") {
            return None;
        }
        nesting::check(module, &text).ok()?;
        let links = Links::of(module, &text);
        if !links.is_module {
            return None;
        }
        source::exports_of_javascript(module, &text)
    }

    fn add(&mut self, name: &ModuleName, code: &str) -> Result<(), LoadError> {
        let bytecode = compile(name, code)?;
        self.modules.compiled.insert(Arc::clone(name), bytecode);
        Ok(())
    }

    /// `../convex/messages.ts`: relative to the directory above the functions, as Convex shows it.
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
    pub(super) fn import(&mut self, from: &str, specifier: &str) -> Result<ModuleName, LoadError> {
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
        if let Some(name) = built_in::import(from, specifier) {
            return Ok(name.into());
        }
        let Some(path) = self.paths.get(from).cloned() else {
            // An engine imports its first module by name.
            if let Some((name, _)) = self.modules.compiled.get_key_value(specifier) {
                return Ok(Arc::clone(name));
            }
            return Err(LoadError::new(place(from), format!("there is no module {specifier:?}")));
        };
        if specifier == common_js::RUNTIME {
            return Ok(specifier.into());
        }
        if let Some(specifier) = common_js::required(specifier) {
            return match self.target(&path, specifier, Manner::Require) {
                Target::File(file) => self.file(&file),
                Target::BuiltIn(name) => Ok(name),
                Target::Generated(path) => self.generated(&path),
                Target::Nothing | Target::Node(_) | Target::Missing(_) => {
                    Err(LoadError::new(place(from), format!("there is no module {specifier:?}")))
                }
            };
        }
        match self.target(&path, specifier, Manner::Import) {
            Target::File(file) => {
                let is_config =
                    |path: &Path| path.file_stem().is_some_and(|stem| stem == "convex.config");
                if is_config(&file) && is_config(&path) {
                    return self.definition(&file);
                }
                let read = self.read(&file)?;
                if read.kind == Kind::Module {
                    return self.file(&file);
                }
                let (names, is_node) = self.wanted(&path, specifier, Some(&file))?;
                self.between(&file, names, is_node)
            }
            Target::BuiltIn(name) => Ok(name),
            Target::Generated(path) => self.generated(&path),
            Target::Nothing => {
                let (names, is_node) = self.wanted(&path, specifier, None)?;
                let name: ModuleName = "(disabled)".into();
                if !self.modules.compiled.contains_key(&name) {
                    self.paths.insert(Arc::clone(&name), path);
                    self.add(&name, &common_js::data("{}", "(disabled)"))?;
                }
                self.between_module(name, names, is_node)
            }
            Target::Node(module) => {
                let (names, _) = self.wanted(&path, specifier, None)?;
                let key = (format!("node:{module}"), names, false);
                if let Some(known) = self.between.get(&key) {
                    return Ok(Arc::clone(known));
                }
                let name: ModuleName = format!("{}#{}", key.0, self.between.len()).into();
                let code = common_js::of_node(&module, &key.1);
                self.add_between(&name, &code, [(common_js::RUNTIME, common_js::RUNTIME.into())])?;
                self.between.insert(key, Arc::clone(&name));
                Ok(name)
            }
            Target::Missing(why) => Err(LoadError::new(place(from), why)),
        }
    }

    /// The names that `from` imports from a CommonJS module, and whether `from` is an ES module for
    /// Node.js.
    fn wanted(
        &mut self,
        from: &Path,
        specifier: &str,
        file: Option<&Path>,
    ) -> Result<(BTreeSet<String>, bool), LoadError> {
        let read = self.read(from)?;
        let mut names = BTreeSet::new();
        if let Some(imports) = read.links.imports.get(specifier) {
            names.extend(imports.names.iter().cloned());
            if !imports.stars.is_empty()
                && let Some(file) = file
            {
                names.extend(self.exported_by(file, &mut HashSet::new()));
            }
        }
        let is_node = matches!(extension(from), "mjs" | "mts") || self.is_of_modules(from);
        Ok((names, is_node))
    }

    /// The adapter for the CommonJS module of a file.
    fn between(
        &mut self,
        file: &Path,
        names: BTreeSet<String>,
        is_node: bool,
    ) -> Result<ModuleName, LoadError> {
        let name = self.file(file)?;
        self.between_module(name, names, is_node)
    }

    fn between_module(
        &mut self,
        module: ModuleName,
        names: BTreeSet<String>,
        is_node: bool,
    ) -> Result<ModuleName, LoadError> {
        let key = (module.to_string(), names, is_node);
        if let Some(known) = self.between.get(&key) {
            return Ok(Arc::clone(known));
        }
        let name: ModuleName = format!("{module}#{}", self.between.len()).into();
        let code = common_js::between(&key.1, is_node);
        let imports =
            [(common_js::TARGET, module), (common_js::RUNTIME, common_js::RUNTIME.into())];
        self.add_between(&name, &code, imports)?;
        self.between.insert(key, Arc::clone(&name));
        Ok(name)
    }

    fn add_between<const N: usize>(
        &mut self,
        name: &ModuleName,
        code: &str,
        imports: [(&str, ModuleName); N],
    ) -> Result<(), LoadError> {
        // Its lines belong to no author.
        let bytecode = Bytecode::compile(name, code, Keep::Nothing)
            .map_err(|message| LoadError::new(place(name), message))?;
        self.modules.compiled.insert(Arc::clone(name), bytecode);
        let imports = imports.map(|(specifier, module)| (specifier.to_owned(), module));
        self.modules.imports.insert(Arc::clone(name), HashMap::from(imports));
        Ok(())
    }

    fn target(&mut self, from: &Path, specifier: &str, manner: Manner) -> Target {
        let key = (from.to_owned(), specifier.to_owned(), manner);
        if let Some(known) = self.targets.get(&key) {
            return known.clone();
        }
        let target = self.found(from, specifier, manner);
        self.targets.insert(key, target.clone());
        target
    }

    fn found(&self, from: &Path, specifier: &str, manner: Manner) -> Target {
        // A marker for the bundler of Next.js.
        if specifier == "server-only" {
            return Target::Nothing;
        }
        let why = match self.finder.find(from, specifier, manner) {
            Found::File(file) => {
                return match built_in::replacing(&file) {
                    Some(name) => Target::BuiltIn(name.into()),
                    None => Target::File(file),
                };
            }
            Found::Nothing => return Target::Nothing,
            Found::Node(name) => return Target::Node(name),
            Found::Missing(why) => why,
        };
        if let Some(name) = built_in::standing_for(specifier) {
            return Target::BuiltIn(name.into());
        }
        let path = if is_relative(specifier) {
            from.parent().map(|directory| normal(&directory.join(specifier)))
        } else {
            // By a TypeScript path, or by the name of a package in the same repository.
            let stem = specifier.rsplit_once("_generated/").map(|(_, stem)| stem);
            stem.map(|stem| self.functions.join("_generated").join(stem))
        };
        match path.filter(|path| generated(path).is_some()) {
            Some(path) => Target::Generated(path),
            None => Target::Missing(why),
        }
    }

    /// The stand-in for a missing file of `_generated`.
    fn generated(&mut self, path: &Path) -> Result<ModuleName, LoadError> {
        let Some((stem, code)) = generated(path) else {
            return Err(LoadError::at(path, "there is no such file"));
        };
        let path = path.with_file_name(format!("{stem}.js"));
        let name = self.name_of(&path);
        if !self.modules.compiled.contains_key(&name) {
            self.paths.insert(Arc::clone(&name), path);
            self.add(&name, code)?;
        }
        Ok(name)
    }

    /// The definition of a component, with the path by which this host recognizes it.
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

/// The stand-in for a file of `_generated`: its name and its text.
fn generated(path: &Path) -> Option<(&'static str, &'static str)> {
    let stem = path.file_stem()?.to_str()?;
    path.parent()?.ends_with("_generated").then_some(())?;
    GENERATED.into_iter().find(|(name, _)| *name == stem)
}

/// Whether a module begins with the directive `"use node"`, after comments and other directives.
fn uses_node(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, rest)| rest).trim_start();
        } else if rest.starts_with("\"use node\"") || rest.starts_with("'use node'") {
            return true;
        } else {
            let Some(quote) = rest.chars().next().filter(|char| matches!(char, '"' | '\'')) else {
                return false;
            };
            let Some((_, after)) = rest[1..].split_once(quote) else { return false };
            rest = after.trim_start_matches([';', ' ', '\t', '\r', '\n']);
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
        // Declaring a module loads its imports, by this function again.
        let bytecode = self.0.borrow().modules.compiled.get(name).cloned();
        match bytecode.or_else(|| built_in::bytecode(name).cloned()) {
            Some(bytecode) => bytecode.declare(ctx),
            None => Err(Error::new_loading(name)),
        }
    }
}
