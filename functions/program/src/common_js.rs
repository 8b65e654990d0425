//! CommonJS modules, converted to ES modules.
//!
//! A CommonJS module becomes an ES module that exports one function, [`LOAD`], which evaluates it
//! on the first call, so that modules are evaluated when they are required. An ES module that
//! imports one imports an adapter module instead, with just the exports that it names. This is how
//! esbuild does it; the rules are in the engine's `js/common_js.js`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::links::ALL;

/// The built-in module that evaluates CommonJS modules.
pub(crate) const RUNTIME: &str = "convex:common-js";

/// The specifier of the CommonJS module in its adapter.
pub(crate) const TARGET: &str = "common-js";

/// The function that returns the exports of a CommonJS module.
const LOAD: &str = "$commonJs";

/// The prefix of a specifier that marks it as an argument of `require`.
const REQUIRE: &str = "require:";

/// The argument of `require`, if [`finder`] generated this import.
pub(crate) fn required(specifier: &str) -> Option<&str> {
    specifier.strip_prefix(REQUIRE)
}

/// The result of `require` for a specifier.
pub(crate) enum Required {
    CommonJs,
    /// The namespace of an ES module.
    Module,
    /// An empty object, for a module that browsers do not have.
    Nothing,
    /// The stand-in for a module of Node.js.
    Node(String),
    Missing(String),
}

/// A string literal of JavaScript, of which JSON is a subset.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The imports of required modules, and a function that finds them by specifier.
fn finder(requires: &[(String, Required)]) -> String {
    let (mut imports, mut cases) = (String::new(), String::new());
    for (place, (specifier, required)) in requires.iter().enumerate() {
        let name = quoted(specifier);
        let from = quoted(&format!("{REQUIRE}{specifier}"));
        // Writing to a string cannot fail.
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

/// A CommonJS module. Its lines keep their numbers.
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

/// A module that exports data. Its text is an expression.
pub(crate) fn data(text: &str, file: &str) -> String {
    module(&format!("module.exports=\n{text}"), file, &[])
}

/// The end of an ES module that uses `require`.
pub(crate) fn with_require(code: &str, requires: &[(String, Required)]) -> String {
    format!("{code}\n;{}function require($){{return $requirer($find)($)}}", finder(requires))
}

/// The adapter for an ES module that imports `names` from a CommonJS module.
pub(crate) fn between(names: &BTreeSet<String>, is_node: bool) -> String {
    let import = format!(
        "import{{{LOAD} as $load}}from\"{TARGET}\";import{{namespaceOf as $of}}from\"{RUNTIME}\";\
         const {ALL}=$of($load(),{is_node});"
    );
    import + &exports(names)
}

/// The adapter for an ES module that imports `names` from a module of Node.js.
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
