//! Removal of re-exported types.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use functions_engine::built_in;

use super::super::links::Links;
use super::super::resolve::{Manner, is_relative, normal};
use super::super::source::{Exports, Imported, Settings, extension};
use super::super::{LoadError, nesting, source};
use super::generated::generated;
use super::{Reached, Target};

impl Reached {
    /// The JavaScript of a file, without its re-exports of types, and the names of these.
    pub(super) fn javascript(
        &mut self,
        path: &Path,
        shown: &Path,
        text: String,
    ) -> Result<(String, BTreeSet<String>), LoadError> {
        let settings = self.finder.settings(path);
        if !source::is_compiled(path) {
            let read = source::read(shown, text, &HashSet::new(), &settings)?;
            return Ok((read.code, BTreeSet::new()));
        }
        let read = source::read(shown, text.clone(), &HashSet::new(), &settings)?;
        let (mut types, mut names) = (HashSet::new(), BTreeSet::new());
        for (name, imported) in read.exports.others {
            if self.is_type(path, &imported, &mut HashSet::new()) {
                types.insert(imported);
                names.insert(name);
            }
        }
        let code = match types.is_empty() {
            true => read.code,
            false => source::read(shown, text, &types, &settings)?.code,
        };
        Ok((code, names))
    }

    /// Whether an import of the file `from` is a type: its module is known, and does not export the
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

    /// The file or built-in module to which `specifier` resolves in the file `from`. If a relative
    /// specifier resolves to nothing, the path that it names, which may be a file of types.
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

    /// The exports of a file or built-in module, or `None` if they cannot be determined.
    pub(super) fn exports_at(&self, module: &Path) -> Option<Exports> {
        if source::is_compiled(module) {
            let text = self.fence.read(module).ok()?;
            nesting::check(module, &text).ok()?;
            let read = source::read(module, text, &HashSet::new(), &Settings::default()).ok()?;
            let links = Links::of(module, &read.code);
            return (links.is_module || !links.is_common_js).then_some(read.exports);
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
}
