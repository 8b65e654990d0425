//! CommonJS modules, converted to ES modules.
//!
//! A CommonJS module becomes an ES module that exports one function, [`LOAD`], which evaluates it
//! on the first call, so that modules are evaluated when they are required. An ES module that
//! imports one imports an adapter module instead, with just the exports that it names. This is how
//! esbuild does it; the rules are in the engine's `js/common_js.js`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::links::{ALL, LATE};

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
                write!(imports, "import{{{LOAD} as $$require{place}}}from{from};")
            }
            Required::Module => write!(imports, "import*as $$require{place} from{from};"),
            Required::Nothing | Required::Node(_) | Required::Missing(_) => Ok(()),
        };
        let load = match required {
            Required::CommonJs => format!("$$require{place}"),
            Required::Module => format!("()=>$$exportsOf($$require{place})"),
            Required::Nothing => "()=>({})".to_owned(),
            Required::Node(module) => format!("()=>$$ofNode({})", quoted(module)),
            Required::Missing(why) => format!("()=>{{throw $$missing({name},{})}}", quoted(why)),
        };
        let _ = write!(cases, "case{name}:return {load};");
    }
    format!(
        "import{{evaluate as $$evaluate,requirer as $$requirer,missing as $$missing,exportsOf as $$exportsOf,ofNode as $$ofNode}}from\"{RUNTIME}\";\
         {imports}function $$find($){{switch($){{{cases}}}}}"
    )
}

/// The ES module for a CommonJS module. Line numbers are preserved.
pub(crate) fn module(text: &str, file: &str, requires: &[(String, Required)]) -> String {
    format!(
        "export function {LOAD}(){{return $$evaluate({LOAD},function(exports,require,module,__filename,__dirname){{{text}\n\
         }},$$find,{})}}{}",
        quoted(file),
        finder(requires)
    )
}

/// A CommonJS module that throws when it is evaluated.
pub(crate) fn broken(file: &str, why: &str) -> String {
    module(&format!("throw new SyntaxError({})", quoted(why)), file, &[])
}

/// A module that exports data, given as JSON. The module parses the text when it runs: in a
/// JavaScript expression, a member `__proto__` would set the prototype.
pub(crate) fn data(json: &str, file: &str) -> String {
    let code = module(&format!("module.exports=$parse({})", quoted(json)), file, &[]);
    format!("{code};import{{parse as $parse}}from\"{RUNTIME}\";")
}

/// Appends the function `require` to an ES module that uses it.
pub(crate) fn with_require(code: &str, requires: &[(String, Required)]) -> String {
    format!("{code}\n;{}function require($){{return $$requirer($$find)($)}}", finder(requires))
}

/// Appends exports to an ES module that exports more than its source shows. Each of `types` is
/// `undefined`, or an empty object if it is `default`. Each of `names` is the member of the first
/// of the CommonJS modules that has it.
pub(crate) fn with_exports(code: &str, types: &[&str], modules: &[&str], names: &[&str]) -> String {
    let mut code =
        format!("{code}\n;var $$none,$$empty={{}};import{{pick as $$pick}}from\"{RUNTIME}\";");
    for name in types {
        let value = if *name == "default" { "$$empty" } else { "$$none" };
        let _ = write!(code, "export{{{value} as {}}};", quoted(name));
    }
    let mut all = String::new();
    for (place, module) in modules.iter().enumerate() {
        let _ = write!(code, "import{{{ALL} as $$star{place}}}from{};", quoted(module));
        let _ = write!(all, ",$$star{place}");
    }
    for (place, name) in names.iter().enumerate() {
        let name = quoted(name);
        let _ = write!(
            code,
            "var $$more{place}=$$pick({name}{all});export{{$$more{place} as {name}}};"
        );
    }
    code
}

/// The adapter for an ES module that imports `names` from a CommonJS module. As in the chunks that
/// esbuild writes, `import()` returns the exports as `default`, regardless of `__esModule`. For
/// data, it returns the members too.
pub(crate) fn between(names: &BTreeSet<String>, is_node: bool, is_data: bool) -> String {
    let import = format!(
        "import{{{LOAD} as $load}}from\"{TARGET}\";import{{namespaceOf as $of,lateOf as $give}}from\"{RUNTIME}\";\
         const {ALL}=$of($load(),{is_node});\
         export const {LATE}=()=>$give($load(),{is_data});"
    );
    import + &exports(names)
}

/// The adapter for an ES module that imports `names` from a module of Node.js.
pub(crate) fn of_node(module: &str, names: &BTreeSet<String>) -> String {
    let module = quoted(module);
    let import = format!(
        "import{{ofNode as $of}}from\"{RUNTIME}\";const {ALL}=$of({module});export const {LATE}=()=>{ALL};"
    );
    import + &exports(names)
}

fn exports(names: &BTreeSet<String>) -> String {
    let mut code = format!("export{{{ALL}}};export default {ALL}.default;");
    let is_own = |name: &&String| [ALL, LATE, "default"].contains(&name.as_str());
    for (place, name) in names.iter().filter(|name| !is_own(name)).enumerate() {
        let (quoted, exported) = (quoted(name), exported(name));
        let _ = write!(code, "const $${place}={ALL}[{quoted}];export{{$${place} as {exported}}};");
    }
    code
}

/// A name in a list of exports.
fn exported(name: &str) -> String {
    let is_name = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$');
    if name.chars().all(is_name) { name.to_owned() } else { quoted(name) }
}

/// A module that re-exports names from the modules `0`, `1` and so on. Each entry has the number of
/// the module, the name there or `*`, and the exported name.
pub(crate) fn re_exports(entries: &[(usize, String, String)]) -> String {
    let mut code = "export{};".to_owned();
    for (place, original, name) in entries {
        let name = exported(name);
        // Writing to a string cannot fail.
        let _ = match original.as_str() {
            "*" => write!(code, "export*as {name} from\"{place}\";"),
            original => {
                write!(code, "export{{{} as {name}}}from\"{place}\";", exported(original))
            }
        };
    }
    code
}
