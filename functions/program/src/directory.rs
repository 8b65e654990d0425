//! The modules of a directory of functions.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::LoadError;

/// Finds the modules whose exports are functions, and those with names that Convex reserves.
pub(super) fn modules_of(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = Vec::new();
    walk(directory, directory, &mut HashSet::new(), &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(
    root: &Path,
    directory: &Path,
    seen: &mut HashSet<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> Result<(), LoadError> {
    let failed = |error| LoadError::at(directory, error);
    // A symbolic link may point to a directory above it.
    if !seen.insert(std::fs::canonicalize(directory).map_err(failed)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            return Err(LoadError::at(&path, "the name is not UTF-8"));
        };
        // Convex ignores these names too, including those with spaces.
        if name.starts_with(['.', '#']) || name.contains(' ') {
            continue;
        }
        if path.is_dir() {
            if name != "_generated" && name != "node_modules" && config_of(&path).is_none() {
                walk(root, &path, seen, files)?;
            }
            continue;
        }
        if let Some((stem, "ts" | "mts" | "cts" | "tsx" | "js" | "mjs" | "cjs" | "jsx")) =
            name.rsplit_once('.')
        {
            // Convex ignores these files in directories below the top one.
            if directory != root && matches!(name, "schema.ts" | "schema.js") {
                continue;
            }
            // Tests, declarations and tools' configuration have a second dot in their names.
            let is_special = directory == root && matches!(stem, "auth.config" | "convex.config");
            if !stem.contains('.') || is_special {
                files.push(path);
            }
        }
    }
    Ok(())
}

/// The longest name of a module or of a directory of modules, in bytes. Convex counts a module's
/// extension `.js`.
const MAX_NAME: usize = 64;

/// Checks the names of a module and of its directories, given its path in the directory of
/// functions. The rule is Convex's, which refuses other names when functions are deployed.
///
/// # Errors
///
/// What is wrong with the first invalid name.
pub(super) fn check_names(module: &Path) -> Result<(), String> {
    for name in module.with_extension("js").iter().map(OsStr::to_string_lossy) {
        let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if let Some(wrong) = name.chars().find(|c| !is_valid(*c)) {
            return Err(format!(
                "{name:?} contains {wrong:?}: rename it, since modules and their directories have \
                 names of ASCII letters, digits, '_' and '.' only, as on Convex"
            ));
        }
        if name.len() > MAX_NAME {
            let actual = name.len();
            return Err(format!(
                "{name:?} of {actual} bytes exceeds limit of {MAX_NAME} bytes: rename it"
            ));
        }
        if !name.contains(|c: char| c.is_ascii_alphanumeric()) {
            return Err(format!("{name:?} contains no letter and no digit: rename it"));
        }
    }
    Ok(())
}

/// The `convex.config` of a directory.
fn config_of(directory: &Path) -> Option<PathBuf> {
    ["ts", "js"]
        .map(|extension| directory.join(format!("convex.config.{extension}")))
        .into_iter()
        .find(|file| file.is_file())
}
