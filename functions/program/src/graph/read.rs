//! Reading the files of a program.

use std::path::Path;
use std::rc::Rc;

use super::super::links::Links;
use super::super::resolve::is_in_package;
use super::super::source::extension;
use super::super::{LoadError, nesting};
use super::Reached;

/// The contents of a file of a program.
pub(super) struct Read {
    /// The file's JavaScript, or an expression for data.
    pub(super) code: String,
    pub(super) links: Links,
    pub(super) kind: Kind,
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

impl Reached {
    /// Reads a file without compiling it for the engine.
    pub(super) fn read(&mut self, path: &Path) -> Result<Rc<Read>, LoadError> {
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
            // A module without imports or exports.
            _ if !links.is_common_js && !is_in_package(path) => Kind::Module,
            _ => Kind::CommonJs,
        }
    }

    pub(super) fn is_of_modules(&self, path: &Path) -> bool {
        path.parent().is_some_and(|directory| self.finder.is_of_modules(directory))
    }
}
