//! Exports that others import from a module, and that its source does not show.
//!
//! esbuild finds the exports of a CommonJS module behind `export * from` when the program runs, and
//! takes a re-export that it cannot find in TypeScript for a type, which is `undefined`. Here, ES
//! modules list what they export, so such a module gets the names that others import from it.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::super::common_js;
use super::super::resolve::Manner;
use super::read::{Kind, Read};
use super::{Reached, Target};

impl Reached {
    /// Passes the names that are imported from the files on to the modules that they re-export with
    /// `export *`.
    pub(super) fn pass_wanted_on(&mut self, mut files: Vec<PathBuf>) {
        while let Some(path) = files.pop() {
            let (Ok(read), Some(wanted)) = (self.read(&path), self.wanted.get(&path)) else {
                continue;
            };
            let mut names: Vec<String> = wanted.difference(&read.links.own).cloned().collect();
            // A name that a module behind `export *` exports is left out: a second one would be
            // ambiguous.
            names.retain(|name| !self.stars_export(&path, &read, name, &mut HashSet::new()));
            for (specifier, imports) in &read.links.imports {
                if imports.stars.is_empty() || names.is_empty() {
                    continue;
                }
                if let Target::File(file) = self.target(&path, specifier, Manner::Import)
                    && self.read(&file).is_ok_and(|read| read.links.is_module)
                {
                    let wanted = self.wanted.entry(file.clone()).or_default();
                    let before = wanted.len();
                    wanted.extend(names.iter().cloned());
                    if wanted.len() > before {
                        files.push(file);
                    }
                }
            }
        }
    }

    /// The code of an ES module, with the exports that other modules import in addition to
    /// `exported`.
    pub(super) fn with_wanted(
        &mut self,
        path: &Path,
        read: &Read,
        exported: &BTreeSet<String>,
        code: String,
    ) -> String {
        let Some(wanted) = self.wanted.get(path) else { return code };
        let missing: Vec<String> = wanted.difference(exported).cloned().collect();
        let mut modules = Vec::new();
        for (specifier, imports) in &read.links.imports {
            let is_file = |target| matches!(target, Target::File(_));
            if !imports.stars.is_empty()
                && is_file(self.target(path, specifier, Manner::Import))
                && self.is_one_value(path, specifier)
            {
                modules.push((imports.first, specifier.as_str()));
            }
        }
        modules.sort_unstable();
        let modules: Vec<&str> = modules.into_iter().map(|(_, specifier)| specifier).collect();
        // A file without imports and exports is a CommonJS module that exports an empty object.
        let is_script = !read.links.is_module;
        let (types, mut names): (Vec<&str>, Vec<&str>) = missing
            .iter()
            .map(String::as_str)
            .partition(|name| read.types.contains(*name) || is_script);
        names.retain(|name| {
            *name != "default"
                && !modules.is_empty()
                && !self.stars_export(path, read, name, &mut HashSet::new())
        });
        if types.is_empty() && names.is_empty() {
            return code;
        }
        common_js::with_exports(&code, &types, &modules, &names)
    }

    /// Whether an ES module that `path` re-exports with `export *` exports a name.
    pub(super) fn stars_export(
        &mut self,
        path: &Path,
        read: &Read,
        name: &str,
        seen: &mut HashSet<PathBuf>,
    ) -> bool {
        let mut stars = read.links.imports.iter().filter(|(_, imports)| !imports.stars.is_empty());
        stars.any(|(specifier, _)| match self.target(path, specifier, Manner::Import) {
            Target::File(file) => self.has_export(&file, name, seen),
            Target::BuiltIn(module) => {
                let exports = self.exports_at(Path::new(&*module));
                exports.is_some_and(|exports| exports.own.contains(name))
            }
            Target::Generated(_) | Target::Nothing | Target::Node(_) | Target::Missing(_) => false,
        })
    }

    /// Whether the source of an ES module, or of one that it re-exports with `export *`, exports a
    /// name.
    pub(super) fn has_export(
        &mut self,
        file: &Path,
        name: &str,
        seen: &mut HashSet<PathBuf>,
    ) -> bool {
        seen.insert(file.to_owned())
            && self.read(file).is_ok_and(|read| {
                read.kind == Kind::Module
                    && (read.links.own.contains(name)
                        || name != "default" && self.stars_export(file, &read, name, seen))
            })
    }
}
