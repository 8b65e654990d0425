//! Resolves imports like Convex's bundler: esbuild for browsers, with the conditions `convex` and
//! `module`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component as Part, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use oxc_resolver::{
    ResolveContext, ResolveError, ResolveOptions, ResolverGeneric, TsConfig, TsconfigDiscovery,
    TsconfigOptions, TsconfigReferences,
};
use oxc_transformer::{JsxOptions, JsxRuntime};
use serde_json::Value;

use super::fence::Fence;
use super::source::Settings;

/// How a module is requested. `import()` counts as an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Manner {
    Import,
    Require,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    File(PathBuf),
    /// An empty module, since the package has none for browsers.
    Nothing,
    /// A module of Node.js, by its name without `node:`.
    Node(String),
    /// No module, and the reason.
    Missing(String),
}

/// The extensions that a specifier may omit, in order of preference. In packages, compiled files
/// are preferred to their sources.
const EXTENSIONS: [&str; 8] = [".tsx", ".ts", ".jsx", ".js", ".json", ".mts", ".mjs", ".cjs"];
const EXTENSIONS_IN_PACKAGES: [&str; 8] =
    [".jsx", ".js", ".tsx", ".ts", ".json", ".mjs", ".cjs", ".mts"];

/// The condition for the sources of a component whose package has not been built.
const SOURCES: &str = "@convex-dev/component-source";

type Resolver = ResolverGeneric<Fence>;

pub(crate) struct Finder {
    fence: Fence,
    import: Resolver,
    require: Resolver,
    /// Imports that prefer the `main` field of a package, like `require`.
    import_main: Resolver,
    import_in_package: Resolver,
    require_in_package: Resolver,
    sources: Resolver,
    built_in: Resolver,
    tsconfigs: RefCell<HashMap<PathBuf, Option<Arc<TsConfig>>>>,
    /// The package of each directory.
    packages: RefCell<HashMap<PathBuf, Rc<Package>>>,
    warnings: RefCell<Vec<(PathBuf, String)>>,
}

/// What the manifest of a package says about its files.
#[derive(Debug, Default)]
pub(crate) struct Package {
    /// Whether all files are ES modules, regardless of their syntax.
    pub(crate) is_of_modules: bool,
    /// The files with side effects: paths, or names that stand for files in any directory. `None`
    /// if any file may have side effects.
    effects: Option<Vec<PathBuf>>,
}

impl Package {
    /// Reads `sideEffects`. A list with patterns gives `None`, except that entries for style sheets
    /// are ignored.
    fn effects(directory: &Path, effects: &Value) -> Option<Vec<PathBuf>> {
        let is_style = |file: &&str| {
            let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
            matches!(extension, "css" | "scss" | "sass" | "less")
        };
        match effects {
            Value::Bool(false) => Some(Vec::new()),
            Value::Array(files) => {
                let files: Option<Vec<&str>> = files.iter().map(Value::as_str).collect();
                let files = files?.into_iter().filter(|file| !is_style(file));
                let path = |file: &str| match file.contains('/') {
                    true => normal(&directory.join(file)),
                    false => PathBuf::from(file),
                };
                files.map(|file| (!file.contains(['*', '{', '['])).then(|| path(file))).collect()
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => None,
        }
    }

    /// Whether a file may do something when it is evaluated, besides what its exports need.
    pub(crate) fn has_effects(&self, file: &Path) -> bool {
        let is_it =
            |effect: &PathBuf| effect == file || file.file_name() == Some(effect.as_os_str());
        self.effects.as_ref().is_none_or(|effects| effects.iter().any(is_it))
    }
}

impl Finder {
    pub(crate) fn new(fence: Fence) -> Finder {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let options = |manner: &str, extensions: &[&str], mains: &[&str]| ResolveOptions {
            condition_names: strings(&["convex", "module", "browser", manner, "default"]),
            alias_fields: vec![strings(&["browser"])],
            main_fields: strings(mains),
            extensions: strings(extensions),
            // In TypeScript, an import of a `.js` file means the `.ts` file that compiles to it.
            extension_alias: [
                (".js", &[".js", ".ts", ".tsx"][..]),
                (".jsx", &[".jsx", ".tsx"]),
                (".mjs", &[".mjs", ".mts"]),
                (".cjs", &[".cjs", ".cts"]),
            ]
            .map(|(written, meant)| (written.to_owned(), strings(meant)))
            .into(),
            node_path: false,
            // The `tsconfig.json` is set for each import instead.
            tsconfig: Some(TsconfigDiscovery::Manual(TsconfigOptions {
                config_file: PathBuf::new(),
                references: TsconfigReferences::Disabled,
            })),
            ..ResolveOptions::default()
        };
        let imported = options("import", &EXTENSIONS, &["browser", "module", "main"]);
        // The `module` field of a package applies to imports only.
        let required = options("require", &EXTENSIONS, &["browser", "main", "module"]);
        let in_package = |options: &ResolveOptions| ResolveOptions {
            extensions: strings(&EXTENSIONS_IN_PACKAGES),
            ..options.clone()
        };
        let mut of_sources = imported.clone();
        of_sources.condition_names.push(SOURCES.to_owned());
        let import = Resolver::new_with_file_system(fence.clone(), imported.clone());
        let of_main =
            ResolveOptions { main_fields: required.main_fields.clone(), ..in_package(&imported) };
        Finder {
            fence,
            import_main: import.clone_with_options(of_main),
            import_in_package: import.clone_with_options(in_package(&imported)),
            require_in_package: import.clone_with_options(in_package(&required)),
            require: import.clone_with_options(required),
            sources: import.clone_with_options(of_sources),
            built_in: import
                .clone_with_options(ResolveOptions { builtin_modules: true, ..imported }),
            import,
            tsconfigs: RefCell::default(),
            packages: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn find(&self, from: &Path, specifier: &str, manner: Manner) -> Found {
        let Some(directory) = from.parent() else {
            return Found::Missing("the importer is no file".to_owned());
        };
        let (in_app, in_package) = match manner {
            Manner::Import => (&self.import, &self.import_in_package),
            Manner::Require => (&self.require, &self.require_in_package),
        };
        let tsconfig = self.tsconfig(directory);
        let resolved = |resolver: &Resolver| {
            let mut context = ResolveContext::default();
            resolver.resolve_with_context(directory, specifier, tsconfig.as_deref(), &mut context)
        };
        let mut found = resolved(if is_in_package(from) { in_package } else { in_app });
        if found.as_ref().is_ok_and(|found| is_in_package(found.path())) && !is_in_package(from) {
            found = resolved(in_package);
        }
        let error = match found {
            Ok(resolution) => return Found::File(resolution.path().to_owned()),
            Err(ResolveError::Ignored(_)) => return Found::Nothing,
            Err(error) => error,
        };
        if let Some(name) = specifier.strip_prefix("node:") {
            return Found::Node(name.to_owned());
        }
        if let Err(ResolveError::Builtin { resolved, .. }) = resolved(&self.built_in) {
            return Found::Node(resolved.trim_start_matches("node:").to_owned());
        }
        match resolved(&self.sources) {
            Ok(resolution) => Found::File(resolution.path().to_owned()),
            Err(_) => Found::Missing(self.why(directory, specifier, &error)),
        }
    }

    /// The file that `require` finds for a package that has another one for imports, by the fields
    /// of its manifest and not by its conditions.
    pub(crate) fn main_of(&self, from: &Path, specifier: &str, found: &Path) -> Option<PathBuf> {
        if is_relative(specifier) || !is_in_package(found) {
            return None;
        }
        let mut context = ResolveContext::default();
        let main =
            self.import_main.resolve_with_context(from.parent()?, specifier, None, &mut context);
        let main = main.ok()?;
        (main.path() != found).then(|| main.path().to_owned())
    }

    /// The settings of TypeScript for a file.
    pub(crate) fn settings(&self, path: &Path) -> Settings {
        let Some(tsconfig) = path.parent().and_then(|directory| self.tsconfig(directory)) else {
            return Settings::default();
        };
        let options = &tsconfig.compiler_options;
        let target = options.target.as_deref().unwrap_or("esnext").to_ascii_lowercase();
        let is_old = target.strip_prefix("es").and_then(|year| year.parse().ok());
        let is_old = is_old.is_some_and(|year: u32| year < 2022);
        let mut jsx =
            JsxOptions { import_source: options.jsx_import_source.clone(), ..JsxOptions::enable() };
        if options.jsx.as_deref() == Some("react") {
            jsx.runtime = JsxRuntime::Classic;
            jsx.pragma.clone_from(&options.jsx_factory);
            jsx.pragma_frag.clone_from(&options.jsx_fragment_factory);
        }
        let assigns_fields = options.use_define_for_class_fields.map_or(is_old, |defines| !defines);
        Settings { assigns_fields, jsx }
    }

    fn why(&self, directory: &Path, specifier: &str, error: &ResolveError) -> String {
        if is_relative(specifier) || specifier.starts_with('/') {
            let path = normal(&directory.join(specifier));
            return match self.fence.read(&path) {
                Err(refused) if path.exists() => {
                    format!("{specifier:?} is imported, and cannot be read: {}", refused.message())
                }
                _ => format!("{specifier:?} is imported, and there is no such file"),
            };
        }
        if specifier.starts_with('#') {
            return format!(
                "{specifier:?} is imported, and \"imports\" of package.json names no file or \
                 installed package for it"
            );
        }
        let parts = if specifier.starts_with('@') { 2 } else { 1 };
        let name = specifier.split('/').take(parts).collect::<Vec<_>>().join("/");
        let package = directory
            .ancestors()
            .map(|up| up.join("node_modules").join(&name))
            .find(|package| package.is_dir());
        match (package, error) {
            (None, _) => format!(
                "{specifier:?} is imported, and is not installed; npm install it where the functions are"
            ),
            (Some(_), ResolveError::PackagePathNotExported { .. }) => {
                format!("the package does not export {specifier:?} to what imports it here")
            }
            (Some(_), _) => format!(
                "{specifier:?} is imported, and its package has no such file; was it built?"
            ),
        }
    }

    /// The nearest `tsconfig.json`, whose `paths` apply.
    fn tsconfig(&self, directory: &Path) -> Option<Arc<TsConfig>> {
        if is_in_package(&directory.join("x")) {
            return None;
        }
        if let Some(known) = self.tsconfigs.borrow().get(directory) {
            return known.clone();
        }
        let file = ["tsconfig.json", "jsconfig.json"]
            .map(|name| directory.join(name))
            .into_iter()
            .find(|file| self.fence.has(file));
        let found = match file {
            Some(file) => match self.import.resolve_tsconfig(&file) {
                Ok(tsconfig) => Some(tsconfig),
                Err(error) => {
                    let warning = format!("its `paths` are not used: {error}");
                    self.warnings.borrow_mut().push((file, warning));
                    None
                }
            },
            None => directory.parent().and_then(|parent| self.tsconfig(parent)),
        };
        self.tsconfigs.borrow_mut().insert(directory.to_owned(), found.clone());
        found
    }

    /// The package of a file, by the nearest manifest.
    pub(crate) fn package_of(&self, file: &Path) -> Rc<Package> {
        let Some(directory) = file.parent() else { return Rc::default() };
        if let Some(known) = self.packages.borrow().get(directory) {
            return Rc::clone(known);
        }
        let manifest = directory.join("package.json");
        let found = if self.fence.has(&manifest) {
            let text = self.fence.read(&manifest).unwrap_or_default();
            let manifest: Value = serde_json::from_str(&text).unwrap_or_default();
            let effects = manifest.get("sideEffects");
            Rc::new(Package {
                is_of_modules: manifest.get("type").and_then(Value::as_str) == Some("module"),
                effects: effects.and_then(|effects| Package::effects(directory, effects)),
            })
        } else {
            self.package_of(directory)
        };
        self.packages.borrow_mut().insert(directory.to_owned(), Rc::clone(&found));
        found
    }

    /// Takes the warnings about manifests and settings.
    pub(crate) fn take_warnings(&self) -> Vec<(PathBuf, String)> {
        self.warnings.take()
    }
}

/// Whether a file belongs to an installed package.
pub(crate) fn is_in_package(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "node_modules")
}

pub(crate) fn is_relative(specifier: &str) -> bool {
    specifier.starts_with("./") || specifier.starts_with("../") || matches!(specifier, "." | "..")
}

/// Normalizes a path, such as `a/./b/../c` to `a/c`, without accessing the file system.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Part::CurDir => {}
            Part::ParentDir => {
                normal.pop();
            }
            Part::Prefix(_) | Part::RootDir | Part::Normal(_) => normal.push(part),
        }
    }
    normal
}
