//! Where imports lead.

use std::path::{Component as Part, Path, PathBuf};

use serde_json::Value;

use super::LoadError;

/// What a relative specifier may be written without.
const EXTENSIONS: [&str; 6] = ["ts", "tsx", "mts", "js", "mjs", "json"];

/// The conditions under which a package's `exports` are read, the one that is preferred first.
const CONDITIONS: [&str; 4] = ["convex", "import", "module", "default"];

/// The file that `./x` or `../x` means in a module of `directory`.
pub(crate) fn relative(directory: &Path, specifier: &str) -> Option<PathBuf> {
    file_at(&normal(&directory.join(specifier)))
}

/// The file itself, with an extension added or exchanged, or the index of a directory.
fn file_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let name = path.file_name()?.to_str()?;
    let with = |stem: &str, extension: &str| path.with_file_name(format!("{stem}.{extension}"));
    // TypeScript has its users write the `.js` that a `.ts` will become.
    let written = name.strip_suffix(".js").or_else(|| name.strip_suffix(".mjs"));
    let stems = [Some(name), written];
    let beside = stems
        .into_iter()
        .flatten()
        .flat_map(|stem| EXTENSIONS.map(|extension| with(stem, extension)));
    let within = EXTENSIONS.map(|extension| path.join(format!("index.{extension}")));
    beside.chain(within).find(|file| file.is_file())
}

/// `a/./b/../c` as `a/c`, without asking the file system.
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

/// The file that `package` or `package/sub` means in a module of `directory`: in the `node_modules`
/// there or further up. None if no such package is installed.
pub(crate) fn package(directory: &Path, specifier: &str) -> Result<Option<PathBuf>, LoadError> {
    let parts = if specifier.starts_with('@') { 2 } else { 1 };
    let mut split = specifier.splitn(parts + 1, '/');
    let name = split.by_ref().take(parts).collect::<Vec<_>>().join("/");
    let subpath = split.next().unwrap_or_default();
    let installed = directory
        .ancestors()
        .map(|up| up.join("node_modules").join(&name))
        .find(|package| package.is_dir());
    let Some(package) = installed else { return Ok(None) };
    let manifest_path = package.join("package.json");
    let manifest = match std::fs::read(&manifest_path) {
        Ok(text) => serde_json::from_slice::<Value>(&text)
            .map_err(|error| LoadError::at(&manifest_path, error))?,
        Err(_) => Value::Null,
    };
    let file = match manifest.get("exports") {
        Some(exports) => exported(exports, subpath).map(|target| normal(&package.join(target))),
        None if subpath.is_empty() => {
            let main =
                manifest.get("module").or_else(|| manifest.get("main")).and_then(Value::as_str);
            file_at(&normal(&package.join(main.unwrap_or("index"))))
        }
        None => file_at(&normal(&package.join(subpath))),
    };
    match file.filter(|file| file.is_file()) {
        Some(file) => Ok(Some(file)),
        None => Err(LoadError::at(
            &package,
            format!("the package does not export {specifier:?} as an ES module"),
        )),
    }
}

/// The target of `subpath` in a package's `exports`.
fn exported(exports: &Value, subpath: &str) -> Option<String> {
    let is_map = exports.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with('.')));
    if !is_map {
        return subpath.is_empty().then(|| target(exports))?;
    }
    let wanted = if subpath.is_empty() { ".".to_owned() } else { format!("./{subpath}") };
    let map = exports.as_object()?;
    if let Some(entry) = map.get(&wanted) {
        return target(entry);
    }
    // The longest pattern that fits, as in Node.
    let fitting = map.iter().filter_map(|(pattern, entry)| {
        let (before, after) = pattern.split_once('*')?;
        let middle = wanted.strip_prefix(before)?.strip_suffix(after)?;
        Some((before.len(), middle, entry))
    });
    let (_, middle, entry) = fitting.max_by_key(|(length, ..)| *length)?;
    target(entry).map(|target| target.replace('*', middle))
}

/// What an entry means under our conditions.
fn target(entry: &Value) -> Option<String> {
    match entry {
        Value::String(target) => Some(target.clone()),
        Value::Object(conditions) => {
            CONDITIONS.iter().find_map(|condition| conditions.get(*condition).and_then(target))
        }
        Value::Array(entries) => entries.iter().find_map(target),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}
