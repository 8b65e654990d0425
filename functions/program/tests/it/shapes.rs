//! How modules refer to each other: as esbuild bundles them for Convex. `tests/shapes/make.mjs`
//! describes the programs.

use std::path::Path;

use serde::Deserialize;

use super::*;

/// The programs that this host treats differently from esbuild, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("types: with verbatimModuleSyntax it is", TYPES),
    ("types: with verbatimModuleSyntax, only types", TYPES),
    ("types: with preserveValueImports", TYPES),
    ("types: with importsNotUsedAsValues", TYPES),
    ("types: namespaces", "the compiler does not know names of an earlier block"),
    ("types: a namespace with a variable", "a load error"),
    ("types: parameter properties after super", "only in the order of the members"),
    ("types: experimental decorators", "a load error"),
    ("common js: nothing, import()", SCRIPTS),
    ("common js: a file without imports or exports", SCRIPTS),
    ("files: an empty file", SCRIPTS),
    ("common js: a live export", "an export is read when its importer is evaluated"),
    ("common js: a cycle of both kinds", "ES modules are evaluated when they are imported"),
    ("common js: errors are thrown again", "newer versions of esbuild do the same"),
    ("common js: a require of several files", "a specifier is not computed"),
    ("common js: a missing optional require", "the error has a code, as in Node.js"),
    ("common js: typeof require in an ES module", "it does not exist"),
    ("packages: browser map beside exports", "the map applies to what is exported too"),
    ("files: a style module", "there are no styles"),
    ("settings: settings extended from a missing package", SETTINGS),
    ("settings: settings extended from a missing file", SETTINGS),
    ("jsx: elements", "a key after a spread makes React's `createElement` necessary"),
    ("jsx: key after a spread", "the same"),
    ("syntax: a used import without side effects that fails", "functions are not removed"),
];
const TYPES: &str = "modules of which only types are imported are not evaluated";
const SCRIPTS: &str = "a module without imports and exports is an ES module, with none";
const SETTINGS: &str = "such settings are not used, with a warning";

#[derive(Deserialize)]
struct Shape {
    name: String,
    files: BTreeMap<String, String>,
    /// What the program computes, or null if esbuild refuses it.
    value: Option<String>,
}

impl Shape {
    /// What the program computes here, or the reason why it does not load.
    fn got(&self) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in &self.files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let is_entry = name.starts_with("convex/a.ts");
            let end = "\nthrow new Error('got ' + JSON.stringify(got));\nexport {};";
            std::fs::write(path, format!("{text}{}", if is_entry { end } else { "" })).unwrap();
        }
        // The root of the app.
        std::fs::create_dir(directory.path().join(".git")).unwrap();
        let error = match Program::load(&directory.path().join("convex"), &Env::default()) {
            Ok(_) => panic!("{} was not evaluated", self.name),
            Err(error) => error.to_string(),
        };
        match error.split_once("Uncaught Error: got ") {
            Some((_, got)) => Ok(got.lines().next().unwrap_or_default().to_owned()),
            None => Err(error),
        }
    }
}

#[test]
fn modules_refer_to_each_other_as_by_the_bundler() {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes/shapes.json");
    let shapes: Vec<Shape> =
        serde_json::from_str(&std::fs::read_to_string(shapes).unwrap()).unwrap();
    assert!(shapes.len() > 100, "{}", shapes.len());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let got: Vec<Result<String, String>> = std::thread::scope(|scope| {
        let chunks = shapes.chunks(shapes.len().div_ceil(threads));
        let got = |chunk: &[Shape]| chunk.iter().map(Shape::got).collect::<Vec<_>>();
        let all: Vec<_> = chunks.map(|chunk| scope.spawn(move || got(chunk))).collect();
        all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut wrong = Vec::new();
    for (shape, got) in shapes.iter().zip(got) {
        let is_right = match &shape.value {
            Some(value) => got.as_ref() == Ok(value),
            None => got.is_err(),
        };
        let why = DIFFERENT.iter().find(|(name, _)| *name == shape.name);
        if is_right != why.is_none() {
            wrong.push(format!("{}: got {got:?}, not {:?}", shape.name, shape.value));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), shapes.len(), wrong.join("\n"));
}
