//! Reading the files of a program.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;

use functions_engine::ModuleName;

use super::super::links::Links;
use super::super::resolve::is_in_package;
use super::super::source::extension;
use super::super::{LoadError, nesting};
use super::{Graph, Reached};

/// The contents of a file of a program.
pub(super) struct Read {
    /// The file's JavaScript, or the JSON of data.
    pub(super) code: String,
    pub(super) links: Links,
    pub(super) kind: Kind,
    /// The names of its re-exports that were removed because they are types.
    pub(super) types: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Module,
    CommonJs,
    /// A value, which the module exports.
    Data,
}

/// Whether a module begins with the directive `"use node"`, after comments and other directives.
pub(super) fn uses_node(text: &str) -> bool {
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

/// Whether Convex ignores a file of functions, since it is TypeScript without imports and exports.
fn is_no_module(path: &Path, text: &str) -> bool {
    let is_link = |line: &str| {
        let line = line.trim_start();
        line.starts_with("import") || line.starts_with("export")
    };
    let is_named = path.file_stem().is_some_and(|stem| stem == "schema");
    !is_named && matches!(extension(path), "ts" | "tsx") && !text.lines().any(is_link)
}

/// A file among the functions.
pub(in super::super) enum Entry {
    Module(ModuleName),
    /// It begins with `"use node"`.
    ForNode,
    /// Convex ignores it.
    Ignored,
}

impl Graph {
    /// The compiled module of a file of functions.
    pub(in super::super) fn functions_of(&self, path: &Path) -> Result<Entry, LoadError> {
        let mut reached = self.0.borrow_mut();
        let refused = |error: &dyn Display| LoadError::at(&reached.shown(path), error);
        let path = &reached.fence.real(path).map_err(|error| refused(&error))?;
        let text = reached.fence.read(path).map_err(|error| refused(&error.message()))?;
        if uses_node(&text) {
            reached.stamps.add_file(path, &text);
            return Ok(Entry::ForNode);
        }
        if is_no_module(path, &text) {
            reached.stamps.add_file(path, &text);
            return Ok(Entry::Ignored);
        }
        let read = reached.read(path)?;
        let module = match read.kind {
            Kind::Module => reached.entered(None, path),
            Kind::CommonJs | Kind::Data => {
                let names = read.links.exported.clone();
                reached.between(path, names, false)
            }
        };
        module.map(Entry::Module)
    }
}

impl Reached {
    /// Reads a file without compiling it for the engine.
    pub(super) fn read(&mut self, path: &Path) -> Result<Rc<Read>, LoadError> {
        if let Some(known) = self.read.get(path) {
            return Ok(Rc::clone(known));
        }
        let shown = self.shown(path);
        let data = |code: String| Read {
            code,
            links: Links::default(),
            kind: Kind::Data,
            types: BTreeSet::new(),
        };
        if extension(path) == "wasm" {
            // This host has no WebAssembly. The import is an empty object, and a function that
            // tries to use WebAssembly fails.
            self.fence.real(path).map_err(|error| LoadError::at(&shown, error))?;
            return Ok(Rc::new(data("{}".to_owned())));
        }
        let text = self.fence.read(path).map_err(|error| LoadError::at(&shown, error.message()))?;
        self.stamps.add_file(path, &text);
        let is_data = matches!(extension(path), "json" | "txt" | "css");
        if !is_data {
            nesting::check(&shown, &text)?;
        }
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
                let (code, types) = self.javascript(path, &shown, text)?;
                let links = Links::of(path, &code);
                let kind = self.kind_of(path, &links);
                Read { code, links, kind, types }
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
            "mjs" | "mts" => Kind::Module,
            _ if links.is_module => Kind::Module,
            "cjs" => Kind::CommonJs,
            _ if self.is_of_modules(path) => Kind::Module,
            // A module without imports or exports.
            _ if !links.is_common_js && !is_in_package(path) => Kind::Module,
            _ => Kind::CommonJs,
        }
    }

    pub(super) fn is_of_modules(&self, path: &Path) -> bool {
        self.finder.package_of(path).is_of_modules
    }
}
