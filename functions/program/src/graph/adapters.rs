//! The adapters between ES modules and CommonJS modules.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use functions_engine::{Bytecode, Keep, ModuleName};

use super::super::LoadError;
use super::super::common_js::{self, Required};
use super::super::links::{LATE, Links};
use super::super::resolve::Manner;
use super::super::source::extension;
use super::read::{Kind, Read};
use super::{Reached, Target, place};

impl Reached {
    /// The code of a module, with its namespace imports of CommonJS modules rewritten. Such a
    /// namespace is a single value, whose members are known only at run time.
    pub(super) fn linked(&mut self, path: &Path, read: &Read) -> String {
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
                    // The names of ES modules take precedence over those of CommonJS modules.
                    .filter(|name| !self.stars_export(path, read, name, &mut HashSet::new()))
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
        let old = read.links.assertions.iter();
        edits.extend(old.map(|at| (*at, at + "assert".len(), "with".to_owned())));
        for (specifier, end) in &read.links.dynamic {
            if self.is_one_value(path, specifier) {
                edits.push((*end as usize, *end as usize, format!(".then($=>$.{LATE}())")));
            }
        }
        if self.cycles.contains_key(path) {
            edits.extend(read.links.hoisted.iter().cloned());
        }
        edits.sort_by_key(|(from, ..)| std::cmp::Reverse(*from));
        let mut code = read.code.clone();
        for (from, to, instead) in edits {
            code.replace_range(from..to, &instead);
        }
        let links = &read.links;
        if read.kind != Kind::Module {
            return code;
        }
        if !links.requires.is_empty() && !links.declares_require {
            code = common_js::with_require(&code, &self.required_by(path, links));
        }
        self.with_wanted(path, read, &exported, code)
    }

    /// Whether a specifier imports an adapter, whose namespace is a single value.
    pub(super) fn is_one_value(&mut self, from: &Path, specifier: &str) -> bool {
        match self.target(from, specifier, Manner::Import) {
            Target::File(file) => self.read(&file).is_ok_and(|read| read.kind != Kind::Module),
            Target::Nothing | Target::Node(_) => true,
            Target::BuiltIn(_) | Target::Generated(_) | Target::Missing(_) => false,
        }
    }

    /// The results of `require` in a module.
    pub(super) fn required_by(&mut self, path: &Path, links: &Links) -> Vec<(String, Required)> {
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

    /// The names that a CommonJS module exports, as far as its source shows.
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

    /// The names that `from` imports from a CommonJS module, and whether `from` is an ES module in
    /// Node's sense.
    pub(super) fn wanted(
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
    pub(super) fn between(
        &mut self,
        file: &Path,
        names: BTreeSet<String>,
        is_node: bool,
    ) -> Result<ModuleName, LoadError> {
        let name = self.file(file)?;
        let is_data = self.read(file)?.kind == Kind::Data;
        self.between_module(name, names, is_node, is_data)
    }

    pub(super) fn between_module(
        &mut self,
        module: ModuleName,
        names: BTreeSet<String>,
        is_node: bool,
        is_data: bool,
    ) -> Result<ModuleName, LoadError> {
        let key = (module.to_string(), names, is_node);
        if let Some(known) = self.between.get(&key) {
            return Ok(Arc::clone(known));
        }
        let name: ModuleName = format!("{module}#{}", self.between.len()).into();
        let code = common_js::between(&key.1, is_node, is_data);
        let imports =
            [(common_js::TARGET, module), (common_js::RUNTIME, common_js::RUNTIME.into())];
        self.add_between(&name, &code, imports)?;
        self.between.insert(key, Arc::clone(&name));
        Ok(name)
    }

    pub(super) fn add_between<S: Into<String>>(
        &mut self,
        name: &ModuleName,
        code: &str,
        imports: impl IntoIterator<Item = (S, ModuleName)>,
    ) -> Result<(), LoadError> {
        // The code is generated, so its positions mean nothing to the author.
        let bytecode = Bytecode::compile(name, code, Keep::Nothing)
            .map_err(|message| LoadError::new(place(name), message))?;
        self.modules.compiled.insert(Arc::clone(name), bytecode);
        let imports = imports.into_iter().map(|(specifier, module)| (specifier.into(), module));
        self.modules.imports.insert(Arc::clone(name), imports.collect());
        Ok(())
    }
}
