//! Modules compiled once for all engines.
//!
//! One of the three files in this crate with `unsafe`. An engine trusts bytecode as it trusts its
//! own machine code, so reading it is safe only if an engine of the same build wrote it.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::{Declared, WriteOptions};
use rquickjs::{Context, Ctx, Module, Runtime};

/// A compiled module. Only [`compile`](Bytecode::compile) creates one, and its bytes never leave
/// the process.
#[derive(Clone)]
pub struct Bytecode(Arc<[u8]>);

/// How much of a module's source the bytecode keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The source of functions, and line and column numbers for stack traces.
    Everything,
    /// Line and column numbers.
    Positions,
    /// Neither source nor positions.
    Nothing,
}

impl Bytecode {
    /// Compiles a module without running it.
    ///
    /// # Errors
    ///
    /// The module has a syntax error. The message is the engine's.
    pub fn compile(name: &str, source: &str, keep: Keep) -> Result<Bytecode, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        runtime.set_loader(Unknown, Unknown);
        let context = Context::full(&runtime).map_err(|error| error.to_string())?;
        context.with(|ctx| {
            let module = Module::declare(ctx.clone(), name, source);
            let options = WriteOptions {
                strip_source: keep != Keep::Everything,
                strip_debug: keep == Keep::Nothing,
                ..WriteOptions::default()
            };
            let written = module.and_then(|module| module.write(options));
            match written {
                Ok(bytes) => Ok(Bytecode(bytes.into())),
                Err(error) => Err(super::failure::text_of(&ctx, &error)),
            }
        })
    }

    /// Declares the module in an engine.
    pub fn declare<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<Module<'js, Declared>> {
        // SAFETY: `JS_ReadObject` requires the unchanged output of `JS_WriteObject` from the same
        // build of the engine. `self.0` is that: it is private to this module, only `compile`
        // creates it, from `Module::write`, and nothing changes it afterwards. It is never stored
        // outside the process or read from there, so both calls are the same code. The bytes may be
        // dropped afterwards: the engine copies what it keeps (its flag for static bytes has no
        // effect).
        unsafe { Module::load(ctx.clone(), &self.0) }
    }
}

impl fmt::Debug for Bytecode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytecode({} bytes)", self.0.len())
    }
}

/// Resolves all imports to empty modules while a module is compiled. The engine requires imports to
/// resolve, but does not evaluate them.
struct Unknown;

impl Resolver for Unknown {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        _: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        Ok(format!("unknown:{name}"))
    }
}

impl Loader for Unknown {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        Module::declare(ctx.clone(), name, "")
    }
}
