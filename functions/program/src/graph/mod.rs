//! The modules of a program, found by following imports.

mod adapters;
mod barrels;
mod cycles;
mod generated;
mod read;
mod types;
mod wanted;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use functions_engine::{Bytecode, Keep, ModuleName, Modules, built_in};
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Exception, Module};

use super::LoadError;
use super::common_js;
use super::fence::Fence;
use super::resolve::{Finder, Found, Manner, is_relative, normal};
use super::source::{self, Exports};
use super::stamp::Stamps;
use cycles::{Cycles, GATE};
use generated::generated;
use read::{Kind, Read};

pub(super) use read::Entry;

/// The name of a module in messages: its path relative to the directory above the functions.
pub(super) fn place(module: &str) -> &str {
    let module = module.strip_suffix(GATE).unwrap_or(module);
    module.strip_prefix("../").unwrap_or(module)
}

fn compile(name: &str, source: &str) -> Result<Bytecode, LoadError> {
    // The app's own functions keep their source, for `toString()`.
    let keep = if name.contains("node_modules/") { Keep::Positions } else { Keep::Everything };
    Bytecode::compile(name, source, keep).map_err(|message| {
        // The first frame is the position of the error in the file.
        let (message, frame) = message.split_once('\n').unwrap_or((&message, ""));
        let at =
            frame.lines().next().and_then(|frame| frame.trim().strip_prefix("at ")).unwrap_or(name);
        LoadError::new(place(at), message)
    })
}

/// The modules reached so far. While a program is loaded, engines that evaluate its modules resolve
/// imports here.
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
    /// The adapters of CommonJS modules, by module, imported names, and whether the importer is an
    /// ES module in Node's sense.
    between: HashMap<(String, BTreeSet<String>, bool), ModuleName>,
    /// The names that other modules import from each file.
    wanted: HashMap<PathBuf, BTreeSet<String>>,
    /// The imported files of packages that are replaced, each with the package's file for
    /// `require`.
    mains: HashMap<PathBuf, PathBuf>,
    /// The modules that replace a file of a package without side effects, by file and imported
    /// names.
    shaken: HashMap<(PathBuf, BTreeSet<String>), ModuleName>,
    /// The modules that import each other.
    cycles: Cycles,
    pub(super) stamps: Stamps,
    /// The directories of components, by the paths in their definitions.
    pub(super) definitions: HashMap<String, PathBuf>,
    /// The exports of modules that were looked up so far, by file, or by name for built-in modules.
    exports: HashMap<PathBuf, Option<Exports>>,
    /// Dynamic imports not yet followed.
    pub(super) dynamic: Vec<(ModuleName, String)>,
    /// Errors of the resolver while a module is described. The engine passes on only their text,
    /// and the module may handle them.
    pub(super) errors: Vec<LoadError>,
}

#[derive(Debug, Clone)]
enum Target {
    File(PathBuf),
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
            wanted: HashMap::new(),
            mains: HashMap::new(),
            shaken: HashMap::new(),
            cycles: Cycles::new(),
            stamps: Stamps::default(),
            definitions: HashMap::new(),
            exports: HashMap::new(),
            dynamic: Vec::new(),
            errors: Vec::new(),
        })))
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
                // Syntax of sloppy mode, such as legacy octal numbers, can be printed in a form
                // that modules allow. A broken module fails only when it is evaluated.
                if let Err(error) = self.add(&name, &code) {
                    let printed = source::printed(path, &read.code).map(|code| {
                        common_js::module(&code, shown, &self.required_by(path, &read.links))
                    });
                    if printed.is_none_or(|code| self.add(&name, &code).is_err()) {
                        self.add(&name, &common_js::broken(shown, &error.to_string()))?;
                    }
                }
            }
        }
        let dynamic = read.links.dynamic.iter();
        self.dynamic.extend(dynamic.map(|(specifier, _)| (Arc::clone(&name), specifier.clone())));
        Ok(name)
    }

    fn add(&mut self, name: &ModuleName, code: &str) -> Result<(), LoadError> {
        let bytecode = compile(name, code)?;
        self.modules.compiled.insert(Arc::clone(name), bytecode);
        Ok(())
    }

    /// The name of a module as Convex shows it, relative to the directory above the functions:
    /// `../convex/messages.ts`.
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

    /// Resolves `specifier` in the module `from`.
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
            Target::File(file) => self.imported(&path, specifier, &file),
            Target::BuiltIn(name) => Ok(name),
            Target::Generated(path) => self.generated(&path),
            Target::Nothing => self.disabled(path, specifier),
            Target::Node(module) => self.of_node(&path, specifier, &module),
            Target::Missing(why) => Err(LoadError::new(place(from), why)),
        }
    }

    fn imported(
        &mut self,
        from: &Path,
        specifier: &str,
        file: &Path,
    ) -> Result<ModuleName, LoadError> {
        let is_config = |path: &Path| path.file_stem().is_some_and(|stem| stem == "convex.config");
        if is_config(file) && is_config(from) {
            return self.definition(file);
        }
        if let Some(shaken) = self.shaken(from, specifier, file)? {
            return Ok(shaken);
        }
        if self.read(file)?.kind == Kind::Module {
            return self.entered(Some(from), file);
        }
        let (names, is_node) = self.wanted(from, specifier, Some(file))?;
        self.between(file, names, is_node)
    }

    /// The empty module that replaces one disabled by a manifest.
    fn disabled(&mut self, from: PathBuf, specifier: &str) -> Result<ModuleName, LoadError> {
        let (names, is_node) = self.wanted(&from, specifier, None)?;
        let name: ModuleName = "(disabled)".into();
        if !self.modules.compiled.contains_key(&name) {
            self.paths.insert(Arc::clone(&name), from);
            self.add(&name, &common_js::data("{}", "(disabled)"))?;
        }
        self.between_module(name, names, is_node, false)
    }

    /// The stand-in for a module of Node.js.
    fn of_node(
        &mut self,
        from: &Path,
        specifier: &str,
        module: &str,
    ) -> Result<ModuleName, LoadError> {
        let (names, _) = self.wanted(from, specifier, None)?;
        let key = (format!("node:{module}"), names, false);
        if let Some(known) = self.between.get(&key) {
            return Ok(Arc::clone(known));
        }
        let name: ModuleName = format!("{}#{}", key.0, self.between.len()).into();
        let code = common_js::of_node(module, &key.1);
        self.add_between(&name, &code, [(common_js::RUNTIME, common_js::RUNTIME.into())])?;
        self.between.insert(key, Arc::clone(&name));
        Ok(name)
    }

    /// What a specifier in a file refers to.
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
        // Next.js uses this package as a marker for its bundler.
        if specifier == "server-only" {
            return Target::Nothing;
        }
        let why = match self.finder.find(from, specifier, manner) {
            Found::File(mut file) => {
                let main = self.mains.get(&file).filter(|_| manner == Manner::Import);
                if let Some(main) = main
                    && self.finder.main_of(from, specifier, &file).as_ref() == Some(main)
                {
                    file.clone_from(main);
                }
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
            // A TypeScript path, or a package in the same repository.
            let stem = specifier.rsplit_once("_generated/").map(|(_, stem)| stem);
            stem.map(|stem| self.functions.join("_generated").join(stem))
        };
        match path.filter(|path| generated(path).is_some()) {
            Some(path) => Target::Generated(path),
            None => Target::Missing(why),
        }
    }
}

impl Resolver for Graph {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        let mut reached = self.0.borrow_mut();
        match reached.import(base, name) {
            Ok(found) => Ok(found.to_string()),
            Err(error) => {
                let message = error.to_string();
                reached.errors.push(error);
                // An exception, since the engine truncates the message of an error of its own to
                // 255 bytes.
                Err(Exception::throw_message(ctx, &message))
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
        // Declaring a module loads its imports through this function.
        let bytecode = self.0.borrow().modules.compiled.get(name).cloned();
        match bytecode.or_else(|| built_in::bytecode(name).cloned()) {
            Some(bytecode) => bytecode.declare(ctx),
            None => Err(Error::new_loading(name)),
        }
    }
}
