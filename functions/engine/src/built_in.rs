//! The built-in JavaScript modules, compiled once per process.

use std::path::Path;
use std::sync::LazyLock;

use rquickjs::{Ctx, Error, Object};

use super::Bytecode;
use super::bytecode::Keep;
use super::heap::Usage;

/// The specifier of an import, and the module it resolves to.
type Import = (&'static str, &'static str);

struct BuiltIn {
    name: &'static str,
    source: &'static str,
    imports: &'static [Import],
}

/// The base module, with the globals and the engine's side of a call.
pub(super) const PRELUDE: &str = "convex:prelude";

const BUILT_IN: [BuiltIn; 30] = [
    BuiltIn {
        name: "convex:audit",
        source: include_str!("../js/audit.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:common-js",
        source: include_str!("../js/common_js.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: PRELUDE,
        source: include_str!("../js/prelude.js"),
        imports: &[("convex:loops", "convex:loops")],
    },
    BuiltIn {
        name: "convex:flatten",
        source: include_str!("../js/flatten.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn { name: "convex:loops", source: include_str!("../js/loops.js"), imports: &[] },
    BuiltIn {
        name: "convex:log",
        source: include_str!("../js/log.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:rarely",
        source: include_str!("../js/rarely.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:sizes",
        source: include_str!("../js/sizes.js"),
        imports: &[("convex/values", "convex:values")],
    },
    BuiltIn {
        name: "convex:values",
        source: include_str!("../js/values.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:server",
        source: include_str!("../js/server.js"),
        imports: &[("convex:prelude", PRELUDE), ("convex/values", "convex:values")],
    },
    BuiltIn {
        name: "convex:definitions",
        source: include_str!("../js/definitions.js"),
        imports: &[("convex:server", "convex:server"), ("convex/values", "convex:values")],
    },
    BuiltIn {
        name: "convex:async-context",
        source: include_str!("../js/async_context.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:bodies",
        source: include_str!("../js/bodies.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:clone",
        source: include_str!("../js/clone.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:console",
        source: include_str!("../js/console.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:crypto",
        source: include_str!("../js/crypto.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:events",
        source: include_str!("../js/events.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:fetch",
        source: include_str!("../js/fetch.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:http",
        source: include_str!("../js/http.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn { name: "convex:dates", source: include_str!("../js/dates.js"), imports: &[] },
    BuiltIn { name: "convex:numbers", source: include_str!("../js/numbers.js"), imports: &[] },
    BuiltIn { name: "convex:months", source: include_str!("../js/months.js"), imports: &[] },
    BuiltIn {
        name: "convex:interfaces",
        source: include_str!("../js/interfaces.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:collate",
        source: include_str!("../js/collate.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:locale",
        source: include_str!("../js/locale.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn { name: "convex:collation", source: include_str!("../js/collation.js"), imports: &[] },
    BuiltIn {
        name: "convex:others",
        source: include_str!("../js/others.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:streams",
        source: include_str!("../js/streams.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:text",
        source: include_str!("../js/text.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
    BuiltIn {
        name: "convex:url",
        source: include_str!("../js/url.js"),
        imports: &[("convex:prelude", PRELUDE)],
    },
];

/// Compiled without positions, so that these modules never appear in a stack trace.
static COMPILED: LazyLock<[Option<Bytecode>; BUILT_IN.len()]> = LazyLock::new(|| {
    BUILT_IN.map(|module| Bytecode::compile(module.name, module.source, Keep::Nothing).ok())
});

/// The bytecode of the built-in module `name`.
pub fn bytecode(name: &str) -> Option<&'static Bytecode> {
    let place = BUILT_IN.iter().position(|module| module.name == name)?;
    COMPILED[place].as_ref()
}

/// The source of the built-in module `name`.
pub fn source(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|module| module.name == name).map(|module| module.source)
}

/// The built-in module that stands in for `convex/server` or `convex/values` if the npm package is
/// not installed.
pub fn standing_for(specifier: &str) -> Option<&'static str> {
    match specifier {
        "convex/server" => Some("convex:server"),
        "convex/values" => Some("convex:values"),
        _ => None,
    }
}

/// The built-in module that replaces a file of an installed npm package.
pub fn replacing(file: &Path) -> Option<&'static str> {
    let is_log = |kind: &str| file.ends_with(format!("convex/dist/{kind}/server/log.js"));
    (is_log("esm") || is_log("cjs")).then_some("convex:log")
}

/// Resolves an import in the built-in module `base`.
pub fn import(base: &str, specifier: &str) -> Option<&'static str> {
    let module = BUILT_IN.iter().find(|module| module.name == base)?;
    module.imports.iter().find(|(written, _)| *written == specifier).map(|(_, module)| *module)
}

/// The memory that an engine must have free before it reads a built-in module, in bytes. An engine
/// does not survive running out of memory while it reads a module.
const HEADROOM_BYTES: usize = 1 << 20;

/// Loads a built-in module on first use.
pub(super) fn load<'js>(
    ctx: &Ctx<'js>,
    name: &str,
    usage: &Usage,
) -> rquickjs::Result<Object<'js>> {
    if !usage.has_room_for(HEADROOM_BYTES) {
        return Err(Error::Allocation);
    }
    let bytecode = bytecode(name).ok_or_else(|| Error::new_loading(name))?;
    let (module, evaluated) = bytecode.declare(ctx)?.eval()?;
    evaluated.finish::<()>()?;
    module.namespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_module_compiles() {
        for module in BUILT_IN {
            assert!(bytecode(module.name).is_some(), "{}", module.name);
        }
    }
}
