//! The modules that a call can import.

use std::collections::HashMap;
use std::sync::Arc;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Module};

use super::Bytecode;

/// What a module is called in stack traces, and by which it is found: `../convex/messages.ts`.
pub(crate) type ModuleName = Arc<str>;

/// All modules of a program, compiled, and what their imports mean.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pub(crate) compiled: HashMap<ModuleName, Bytecode>,
    /// For each module what it imports, as it is written there, and which module that is.
    pub(crate) imports: HashMap<ModuleName, HashMap<String, ModuleName>>,
}

/// What an engine's imports go through.
#[derive(Debug, Clone)]
pub(crate) struct Loaded(pub(crate) Arc<Modules>);

impl Resolver for Loaded {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        let found = self.0.imports.get(base).and_then(|imports| imports.get(name));
        match found {
            Some(found) => Ok(found.to_string()),
            None => Err(Error::new_resolving_message(
                base,
                name,
                "it was not there when the program was loaded; a specifier that is put together while the function runs cannot \
                 be followed",
            )),
        }
    }
}

impl Loader for Loaded {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        match self.0.compiled.get(name) {
            Some(bytecode) => bytecode.declare(ctx),
            None => Err(Error::new_loading(name)),
        }
    }
}
