//! Modules that import each other.
//!
//! JavaScript evaluates the modules of a cycle in an order that depends on the module that is
//! imported first. esbuild, which bundles apps for Convex, uses one order for the whole app, in
//! which a cycle always begins with the same module, its entry. This module finds the same entry.
//! Modules outside the cycle import its other modules through a gate, which imports the entry
//! first.
//!
//! esbuild puts modules that are reachable from the same entry points into one chunk. It orders a
//! chunk by a depth-first walk, which starts from the modules nearest to an entry point and, among
//! these, from those that a depth-first walk of all entry points leaves first. Cycles within
//! installed packages keep JavaScript's order: esbuild drops unused modules of packages that
//! declare themselves free of side effects, and this host does not know which.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::replace;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use functions_engine::ModuleName;

use super::super::LoadError;
use super::super::resolve::{Manner, is_in_package};
use super::read::{Kind, uses_node};
use super::{Graph, Reached, Target};

/// The end of a gate's name.
pub(super) const GATE: &str = "#cycle";

/// The modules that are part of a cycle, each with the entry of its cycle.
pub(super) type Cycles = HashMap<PathBuf, PathBuf>;

/// The files that an app's modules import, by number.
#[derive(Default)]
struct Files {
    paths: Vec<PathBuf>,
    numbers: HashMap<PathBuf, usize>,
    /// The static imports and `require` calls of each file, in source order.
    imports: Vec<Vec<usize>>,
    /// The dynamic imports of each file.
    late: Vec<Vec<usize>>,
    /// The files of packages that have a different file for `require`, each with that file.
    mains: HashMap<PathBuf, PathBuf>,
}

impl Files {
    fn number(&mut self, path: PathBuf) -> usize {
        *self.numbers.entry(path).or_insert_with_key(|path| {
            self.paths.push(path.clone());
            self.paths.len() - 1
        })
    }
}

impl Graph {
    /// Follows the imports of the modules of a directory of functions, to find cycles and what else
    /// depends on the whole program.
    pub(in super::super) fn survey(&self, modules: &[PathBuf]) {
        let mut reached = self.0.borrow_mut();
        let is_loaded =
            |path: &PathBuf| reached.fence.read(path).is_ok_and(|text| !uses_node(&text));
        let modules = modules.iter().filter_map(|path| reached.fence.real(path).ok());
        let modules: Vec<PathBuf> = modules.filter(is_loaded).collect();
        let (files, _) = reached.files_of(modules.clone());
        reached.share_mains(&files);
        reached.pass_wanted_on(files.paths);
        let is_entry = |path: &PathBuf| {
            // Convex bundles schemas and configurations separately.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            !name.starts_with("schema.") && name.matches('.').count() == 1
        };
        let (files, entries) = reached.files_of(modules.into_iter().filter(is_entry).collect());
        let found = cycles_of(&files, entries, |path| {
            !is_in_package(path) && reached.read(path).is_ok_and(|read| read.kind == Kind::Module)
        });
        for (module, entry) in found {
            reached.cycles.entry(module).or_insert(entry);
        }
    }
}

impl Reached {
    /// All files reachable from the entries. Files that cannot be found or read are skipped here,
    /// and reported by the import itself.
    fn files_of(&mut self, entries: Vec<PathBuf>) -> (Files, Vec<usize>) {
        let mut files = Files::default();
        let entries = entries.into_iter().map(|path| files.number(path)).collect();
        while let Some(path) = files.paths.get(files.imports.len()).cloned() {
            let (mut imports, mut late) = (Vec::new(), Vec::new());
            if let Ok(read) = self.read(&path) {
                let links = &read.links;
                let mut specifiers: Vec<_> = links.imports.iter().collect();
                specifiers.sort_by_key(|(_, imports)| imports.first);
                let imported = specifiers.into_iter().map(|(name, _)| (name, Manner::Import));
                let required = links.requires.keys().map(|name| (name, Manner::Require));
                for (specifier, manner) in imported.chain(required) {
                    if let Target::File(file) = self.target(&path, specifier, manner) {
                        if let (Some(imports), Manner::Import) =
                            (links.imports.get(specifier), manner)
                        {
                            let wanted = self.wanted.entry(file.clone()).or_default();
                            wanted.extend(imports.names.union(&imports.members).cloned());
                            let main = self.finder.main_of(&path, specifier, &file);
                            files.mains.extend(main.map(|main| (file.clone(), main)));
                        }
                        imports.push(files.number(file));
                    }
                }
                for (specifier, _) in &links.dynamic {
                    if let Target::File(file) = self.target(&path, specifier, Manner::Import) {
                        late.push(files.number(file));
                    }
                }
            }
            files.imports.push(imports);
            files.late.push(late);
        }
        (files, entries)
    }

    /// A package may have one file for imports and one for `require`. If the program contains the
    /// file for `require`, imports use it too, as in esbuild: a program has one copy of the
    /// package.
    fn share_mains(&mut self, files: &Files) {
        let mains = files.mains.iter().filter(|(_, main)| files.numbers.contains_key(*main));
        self.mains.extend(mains.map(|(file, main)| (file.clone(), main.clone())));
        let mains = &self.mains;
        self.targets
            .retain(|_, target| !matches!(target, Target::File(file) if mains.contains_key(file)));
    }

    /// The compiled module that `from` imports for a file: the gate if the file is in a cycle that
    /// `from` is outside of.
    pub(super) fn entered(
        &mut self,
        from: Option<&Path>,
        file: &Path,
    ) -> Result<ModuleName, LoadError> {
        let module = self.file(file)?;
        let Some(entry) = self.cycles.get(file).cloned() else { return Ok(module) };
        let is_inside = from.is_some_and(|from| self.cycles.get(from) == Some(&entry));
        if is_inside || entry == file {
            return Ok(module);
        }
        let gate: ModuleName = format!("{module}{GATE}").into();
        if !self.modules.compiled.contains_key(&gate) {
            let has_default = self.read(file)?.links.own.contains("default");
            let default = if has_default { "export{default}from\"module\";" } else { "" };
            let code = format!("import\"entry\";export*from\"module\";{default}");
            let entry = self.file(&entry)?;
            self.add_between(&gate, &code, [("entry", entry), ("module", Arc::clone(&module))])?;
        }
        Ok(gate)
    }
}

/// Walks depth first, in the order of `next`.
fn walk<'a>(
    from: usize,
    next: impl Fn(usize) -> &'a [usize],
    seen: &mut [bool],
    mut enter: impl FnMut(usize),
    mut leave: impl FnMut(usize),
) {
    if replace(&mut seen[from], true) {
        return;
    }
    enter(from);
    let mut path = vec![(from, 0)];
    while let Some((file, place)) = path.last_mut() {
        match next(*file).get(*place) {
            Some(&import) => {
                *place += 1;
                if !replace(&mut seen[import], true) {
                    enter(import);
                    path.push((import, 0));
                }
            }
            None => {
                leave(*file);
                path.pop();
            }
        }
    }
}

/// The strongly connected component of each file, and the components that are cycles of `wanted`
/// files only.
fn components(
    files: &Files,
    mut wanted: impl FnMut(&Path) -> bool,
) -> (Vec<usize>, HashSet<usize>) {
    let count = files.paths.len();
    let mut left = Vec::new();
    let mut seen = vec![false; count];
    let mut importers = vec![Vec::new(); count];
    for file in 0..count {
        walk(file, |file| &files.imports[file], &mut seen, |_| (), |file| left.push(file));
        files.imports[file].iter().for_each(|import| importers[*import].push(file));
    }
    let mut component = vec![usize::MAX; count];
    let mut seen = vec![false; count];
    let mut cycles = HashSet::new();
    for &file in left.iter().rev() {
        let mut members = Vec::new();
        walk(file, |file| &importers[file], &mut seen, |file| members.push(file), |_| ());
        members.iter().for_each(|member| component[*member] = file);
        if members.len() > 1 && members.iter().all(|member| wanted(&files.paths[*member])) {
            cycles.insert(file);
        }
    }
    (component, cycles)
}

fn cycles_of(files: &Files, mut entries: Vec<usize>, wanted: impl FnMut(&Path) -> bool) -> Cycles {
    let (component, cycles) = components(files, wanted);
    if cycles.is_empty() {
        return Cycles::new();
    }
    let count = files.paths.len();

    // The order in which a depth-first walk of all entry points leaves the files.
    let all: Vec<Vec<usize>> = files
        .imports
        .iter()
        .zip(&files.late)
        .map(|(now, late)| [&now[..], late].concat())
        .collect();
    let (mut rank, mut ranks) = (vec![0; count], 0..);
    let mut seen = vec![false; count];
    for &entry in &entries {
        let leave = |file: usize| rank[file] = ranks.next().unwrap_or(usize::MAX);
        walk(entry, |file| &all[file], &mut seen, |_| (), leave);
    }

    // Targets of dynamic imports are entry points too.
    let mut late: Vec<usize> = files.late.concat();
    late.sort_by_key(|file| rank[*file]);
    for file in late {
        if !entries.contains(&file) {
            entries.push(file);
        }
    }

    // The entry points that reach each file, and its distance from the nearest.
    let mut reaching = vec![Vec::new(); count];
    for &entry in &entries {
        let mut seen = vec![false; count];
        let enter = |file: usize| reaching[file].push(entry);
        walk(entry, |file| &files.imports[file], &mut seen, enter, |_| ());
    }
    let mut distance = vec![usize::MAX; count];
    entries.iter().for_each(|entry| distance[*entry] = 0);
    let mut queue: VecDeque<usize> = entries.into();
    while let Some(file) = queue.pop_front() {
        for &import in &files.imports[file] {
            if distance[import] == usize::MAX {
                distance[import] = distance[file] + 1;
                queue.push_back(import);
            }
        }
    }

    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|file| (distance[*file], rank[*file]));
    let mut found = Cycles::new();
    for cycle in cycles {
        let mut seen = vec![false; count];
        let mut first = None;
        for &file in order.iter().filter(|file| reaching[**file] == reaching[cycle]) {
            let enter = |file: usize| {
                if component[file] == cycle {
                    first.get_or_insert(file);
                }
            };
            walk(file, |file| &files.imports[file], &mut seen, enter, |_| ());
        }
        let Some(first) = first else { continue };
        let members = (0..count).filter(|file| component[*file] == cycle);
        found.extend(members.map(|file| (files.paths[file].clone(), files.paths[first].clone())));
    }
    found
}
