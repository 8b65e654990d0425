//! Modules that this host generates: stand-ins for `_generated`, and definitions of components.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use functions_engine::ModuleName;

use super::super::LoadError;
use super::{Reached, place};

/// The stand-ins for missing files of `_generated`.
const GENERATED: [(&str, &str); 3] = [
    ("server", include_str!("../../js/generated_server.js")),
    ("api", include_str!("../../js/generated_api.js")),
    ("dataModel", "export {};"),
];

/// The name and source of the stand-in for a file of `_generated`.
pub(super) fn generated(path: &Path) -> Option<(&'static str, &'static str)> {
    let stem = path.file_stem()?.to_str()?;
    path.parent()?.ends_with("_generated").then_some(())?;
    GENERATED.into_iter().find(|(name, _)| *name == stem)
}

impl Reached {
    /// The stand-in for a missing file of `_generated`.
    pub(super) fn generated(&mut self, path: &Path) -> Result<ModuleName, LoadError> {
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
    pub(super) fn definition(&mut self, config: &Path) -> Result<ModuleName, LoadError> {
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
