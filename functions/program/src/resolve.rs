//! Resolves imports like Convex's bundler: esbuild for browsers, with the conditions `convex` and
//! `module`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component as Part, Path, PathBuf};
use std::sync::Arc;

use oxc_resolver::{
    ResolveContext, ResolveError, ResolveOptions, ResolverGeneric, TsConfig, TsconfigDiscovery,
    TsconfigOptions, TsconfigReferences,
};
use serde_json::Value;

use super::fence::Fence;

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
const EXTENSIONS: [&str; 8] = [".tsx", ".ts", ".mts", ".jsx", ".js", ".mjs", ".cjs", ".json"];
const EXTENSIONS_IN_PACKAGES: [&str; 8] =
    [".jsx", ".js", ".mjs", ".cjs", ".tsx", ".ts", ".mts", ".json"];

/// The condition for the sources of a component whose package has not been built.
const SOURCES: &str = "@convex-dev/component-source";

type Resolver = ResolverGeneric<Fence>;

pub(crate) struct Finder {
    fence: Fence,
    import: Resolver,
    require: Resolver,
    import_in_package: Resolver,
    require_in_package: Resolver,
    sources: Resolver,
    built_in: Resolver,
    tsconfigs: RefCell<HashMap<PathBuf, Option<Arc<TsConfig>>>>,
    /// Whether the files of a directory are ES modules regardless of their syntax.
    module_directories: RefCell<HashMap<PathBuf, bool>>,
    warnings: RefCell<Vec<(PathBuf, String)>>,
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
        Finder {
            fence,
            import_in_package: import.clone_with_options(in_package(&imported)),
            require_in_package: import.clone_with_options(in_package(&required)),
            require: import.clone_with_options(required),
            sources: import.clone_with_options(of_sources),
            built_in: import
                .clone_with_options(ResolveOptions { builtin_modules: true, ..imported }),
            import,
            tsconfigs: RefCell::default(),
            module_directories: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn find(&self, from: &Path, specifier: &str, manner: Manner) -> Found {
        let Some(directory) = from.parent() else {
            return Found::Missing("the importer is no file".to_owned());
        };
        if let Some(name) = specifier.strip_prefix("node:") {
            return Found::Node(name.to_owned());
        }
        let resolver = match (manner, is_in_package(from)) {
            (Manner::Import, false) => &self.import,
            (Manner::Import, true) => &self.import_in_package,
            (Manner::Require, false) => &self.require,
            (Manner::Require, true) => &self.require_in_package,
        };
        let tsconfig = self.tsconfig(directory);
        let resolved = |resolver: &Resolver| {
            let mut context = ResolveContext::default();
            resolver.resolve_with_context(directory, specifier, tsconfig.as_deref(), &mut context)
        };
        let error = match resolved(resolver) {
            Ok(resolution) => return Found::File(resolution.path().to_owned()),
            Err(ResolveError::Ignored(_)) => return Found::Nothing,
            Err(error) => error,
        };
        if let Err(ResolveError::Builtin { resolved, .. }) = resolved(&self.built_in) {
            return Found::Node(resolved.trim_start_matches("node:").to_owned());
        }
        match resolved(&self.sources) {
            Ok(resolution) => Found::File(resolution.path().to_owned()),
            Err(_) => Found::Missing(self.why(directory, specifier, &error)),
        }
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

    /// Whether a package declares its files to be ES modules.
    pub(crate) fn is_of_modules(&self, directory: &Path) -> bool {
        if let Some(known) = self.module_directories.borrow().get(directory) {
            return *known;
        }
        let manifest = directory.join("package.json");
        let found = if self.fence.has(&manifest) {
            let text = self.fence.read(&manifest).unwrap_or_default();
            let manifest: Value = serde_json::from_str(&text).unwrap_or_default();
            manifest.get("type").and_then(Value::as_str) == Some("module")
        } else {
            directory.parent().is_some_and(|parent| self.is_of_modules(parent))
        };
        self.module_directories.borrow_mut().insert(directory.to_owned(), found);
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
