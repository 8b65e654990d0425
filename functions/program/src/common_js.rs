//! CommonJS modules, written as ES modules.
//!
//! A CommonJS module becomes an ES module that exports one function, [`LOAD`], which evaluates it
//! when it is first called; so modules are evaluated when they are required, as their authors wrote
//! them. An ES module that imports one gets a module in between, which has just the exports that it
//! asks for. This is what esbuild does, and `js/common_js.js` has its rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::links::ALL;

/// The module of this host that evaluates CommonJS modules.
pub(crate) const RUNTIME: &str = "convex:common-js";

/// What a CommonJS module is by the module in between.
pub(crate) const TARGET: &str = "common-js";

/// The function that gives what a CommonJS module exports.
const LOAD: &str = "$commonJs";

/// A specifier as it is written, for which `require` is meant.
const REQUIRE: &str = "require:";

/// The specifier of `require`, if the import is one that this module wrote.
pub(crate) fn required(specifier: &str) -> Option<&str> {
    specifier.strip_prefix(REQUIRE)
}

/// What `require` is to give for a specifier.
pub(crate) enum Required {
    /// What a CommonJS module exports.
    CommonJs,
    /// What an ES module exports.
    Module,
    /// Nothing that a browser would have.
    Nothing,
    /// What stands for a module of Node.js.
    Node(String),
    /// An error.
    Missing(String),
}

/// Text in JavaScript. JSON is that, since the language has all of it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The imports for what is required, and a function that knows them by their specifiers.
fn finder(requires: &[(String, Required)]) -> String {
    let (mut imports, mut cases) = (String::new(), String::new());
    for (place, (specifier, required)) in requires.iter().enumerate() {
        let name = quoted(specifier);
        let from = quoted(&format!("{REQUIRE}{specifier}"));
        // Writing to a text does not fail.
        let _ = match required {
            Required::CommonJs => {
                write!(imports, "import{{{LOAD} as ${place}}}from{from};")
            }
            Required::Module => write!(imports, "import*as ${place} from{from};"),
            Required::Nothing | Required::Node(_) | Required::Missing(_) => Ok(()),
        };
        let load = match required {
            Required::CommonJs => format!("${place}"),
            Required::Module => format!("()=>$exportsOf(${place})"),
            Required::Nothing => "()=>({})".to_owned(),
            Required::Node(module) => format!("()=>$ofNode({})", quoted(module)),
            Required::Missing(why) => format!("()=>{{throw $missing({name},{})}}", quoted(why)),
        };
        let _ = write!(cases, "case{name}:return {load};");
    }
    format!(
        "import{{evaluate as $evaluate,requirer as $requirer,missing as $missing,exportsOf as $exportsOf,ofNode as $ofNode}}from\"{RUNTIME}\";\
         {imports}function $find($){{switch($){{{cases}}}}}"
    )
}

/// A CommonJS module. Its lines stay where they are.
pub(crate) fn module(text: &str, file: &str, requires: &[(String, Required)]) -> String {
    format!(
        "export function {LOAD}(){{return $evaluate({LOAD},function(exports,require,module,__filename,__dirname){{{text}\n\
         }},$find,{})}}{}",
        quoted(file),
        finder(requires)
    )
}

/// A CommonJS module that throws when it is evaluated.
pub(crate) fn broken(file: &str, why: &str) -> String {
    module(&format!("throw new SyntaxError({})", quoted(why)), file, &[])
}

/// A module of data: its text is a value.
pub(crate) fn data(text: &str, file: &str) -> String {
    module(&format!("module.exports=\n{text}"), file, &[])
}

/// What an ES module has at its end if it uses `require`.
pub(crate) fn with_require(code: &str, requires: &[(String, Required)]) -> String {
    format!("{code}\n;{}function require($){{return $requirer($find)($)}}", finder(requires))
}

/// What an ES module imports that imports `names` of a CommonJS module.
pub(crate) fn between(names: &BTreeSet<String>, is_node: bool) -> String {
    let import = format!(
        "import{{{LOAD} as $load}}from\"{TARGET}\";import{{namespaceOf as $of}}from\"{RUNTIME}\";\
         const {ALL}=$of($load(),{is_node});"
    );
    import + &exports(names)
}

/// What an ES module imports that imports `names` of a module of Node.js.
pub(crate) fn of_node(module: &str, names: &BTreeSet<String>) -> String {
    let module = quoted(module);
    let import = format!("import{{ofNode as $of}}from\"{RUNTIME}\";const {ALL}=$of({module});");
    import + &exports(names)
}

fn exports(names: &BTreeSet<String>) -> String {
    let mut code = format!("export{{{ALL}}};export default {ALL}.default;");
    for (place, name) in names.iter().filter(|name| *name != "default" && *name != ALL).enumerate()
    {
        let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$');
        let quoted = quoted(name);
        let exported = if name.chars().all(is_name) { name } else { &quoted };
        let _ = write!(code, "const $${place}={ALL}[{quoted}];export{{$${place} as {exported}}};");
    }
    code
}
