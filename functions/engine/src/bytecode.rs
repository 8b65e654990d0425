//! Modules compiled once, for all later engines.
//!
//! One of the three places in this crate with `unsafe`. An engine trusts the bytecode that it reads
//! as it trusts its own machine code, so reading it is safe only if an engine of the same build
//! wrote it.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::{Declared, WriteOptions};
use rquickjs::{Context, Ctx, Module, Runtime};

/// A compiled module. Its bytes never leave the process, and nothing but
/// [`compile`](Bytecode::compile) makes one.
#[derive(Clone)]
pub struct Bytecode(Arc<[u8]>);

/// The part of a module's source that its bytecode keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The text of functions, and lines and columns for stack traces.
    Everything,
    /// Lines and columns.
    Positions,
    /// Nothing.
    Nothing,
}

impl Bytecode {
    /// Compiles a module. Nothing of it runs.
    ///
    /// # Errors
    ///
    /// The engine's syntax error.
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
        // SAFETY: `JS_ReadObject` must be given what `JS_WriteObject` of the same build of the
        // engine wrote, unchanged. `self.0` is that: it is private to this module, `compile` is the
        // only place that makes it, from `Module::write`, nothing writes to it afterwards, and it
        // is neither stored outside of this process nor read from there, so that both calls are the
        // same code. The bytes may be dropped afterwards: this engine copies what it keeps (its
        // flag for bytes that stay is without effect).
        unsafe { Module::load(ctx.clone(), &self.0) }
    }
}

impl fmt::Debug for Bytecode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytecode({} bytes)", self.0.len())
    }
}

/// Stand-ins for the imports of a module while it is compiled. The engine requires them but does
/// not evaluate them.
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
