//! Packages that declare themselves free of side effects.
//!
//! esbuild leaves out the modules of such a package from which nothing is used. Here, names that an
//! app imports from a module that only re-exports them are imported from where they are declared,
//! so that the other re-exported modules are not evaluated.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use functions_engine::ModuleName;

use super::super::LoadError;
use super::super::common_js;
use super::super::resolve::{Manner, is_in_package};
use super::read::Kind;
use super::{Reached, Target};

impl Reached {
    /// The module that `from` imports in place of `file`, if `file` itself is not needed.
    pub(super) fn shaken(
        &mut self,
        from: &Path,
        specifier: &str,
        file: &Path,
    ) -> Result<Option<ModuleName>, LoadError> {
        if !self.is_free(file) {
            return Ok(None);
        }
        let read = self.read(from)?;
        let Some(imports) = read.links.imports.get(specifier) else { return Ok(None) };
        let is_dynamic = read.links.dynamic.iter().any(|(name, _)| name == specifier);
        if is_dynamic || !imports.stars.is_empty() || !imports.namespaces.is_empty() {
            return Ok(None);
        }
        let key = (file.to_owned(), imports.names.clone());
        if let Some(known) = self.shaken.get(&key) {
            return Ok(Some(known.clone()));
        }
        let (mut origins, mut exports) = (Vec::new(), Vec::new());
        for name in &imports.names {
            let (origin, original) = self.origin(file, name);
            if origin == file {
                return Ok(None);
            }
            let place = origins.iter().position(|one| *one == origin);
            let place = place.unwrap_or_else(|| {
                origins.push(origin);
                origins.len() - 1
            });
            exports.push((place, original, name.clone()));
        }
        let name: ModuleName = format!("{}#{}", self.name_of(file), self.shaken.len()).into();
        let mut modules = Vec::new();
        for origin in origins {
            modules.push((modules.len().to_string(), self.file(&origin)?));
        }
        self.add_between(&name, &common_js::re_exports(&exports), modules)?;
        self.shaken.insert(key, name.clone());
        Ok(Some(name))
    }

    fn is_free(&self, file: &Path) -> bool {
        is_in_package(file) && !self.finder.package_of(file).has_effects(file)
    }

    /// Follows re-exports of `name` from `file` through modules without side effects. Returns the
    /// ES module that declares it, and its name there.
    fn origin(&mut self, file: &Path, name: &str) -> (PathBuf, String) {
        let mut at = (file.to_owned(), name.to_owned());
        let mut seen = HashSet::new();
        while self.is_free(&at.0) && seen.insert(at.clone()) {
            let Ok(read) = self.read(&at.0) else { break };
            let links = &read.links;
            let next = match links.re_exports.get(&at.1) {
                Some((specifier, name)) => {
                    self.module(&at.0, specifier).map(|file| (file, name.clone()))
                }
                None if links.own.contains(&at.1) => None,
                None => {
                    let mut stars = links.imports.iter().filter(|(_, one)| !one.stars.is_empty());
                    stars.find_map(|(specifier, _)| {
                        let file = self.module(&at.0, specifier)?;
                        self.has_export(&file, &at.1, &mut HashSet::new())
                            .then(|| (file, at.1.clone()))
                    })
                }
            };
            let Some(next) = next else { break };
            at = next;
        }
        // If the name is not found, importing it from `file` reports that.
        let is_found = at.1 == "*" || self.has_export(&at.0, &at.1, &mut HashSet::new());
        if is_found { at } else { (file.to_owned(), name.to_owned()) }
    }

    /// The ES module that a specifier refers to.
    fn module(&mut self, from: &Path, specifier: &str) -> Option<PathBuf> {
        let Target::File(file) = self.target(from, specifier, Manner::Import) else { return None };
        self.read(&file).is_ok_and(|read| read.kind == Kind::Module).then_some(file)
    }
}
