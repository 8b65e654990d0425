//! The modules that a call can import.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Exception, Module};

use super::{Bytecode, built_in};

/// The name of a module, as in stack traces: `../convex/messages.ts`.
pub type ModuleName = Arc<str>;

/// All modules of a program, compiled, with their imports resolved.
#[derive(Debug, Default)]
pub struct Modules {
    /// The compiled modules.
    pub compiled: HashMap<ModuleName, Bytecode>,
    /// The imports of each module: the specifiers, and the modules they resolve to.
    pub imports: HashMap<ModuleName, HashMap<String, ModuleName>>,
}

impl Modules {
    /// All modules that `module` can reach by static and dynamic imports, itself first.
    fn reachable(&self, module: &str) -> Vec<&ModuleName> {
        let mut found: Vec<&ModuleName> =
            self.compiled.get_key_value(module).map(|(name, _)| name).into_iter().collect();
        let mut seen: HashSet<&str> = HashSet::from([module]);
        let mut next = 0;
        while let Some(name) = found.get(next) {
            let imports = self.imports.get(&***name).into_iter().flat_map(HashMap::values);
            let new: Vec<_> = imports.filter(|import| seen.insert(import)).collect();
            found.extend(new);
            next += 1;
        }
        found
    }

    /// Declares a module and all that it can reach in an engine, without running them.
    ///
    /// An engine does not survive running out of memory while it reads a module. So all modules,
    /// including those of `import()`, are read before the function's memory is limited.
    pub(crate) fn declare(
        &self,
        ctx: &Ctx<'_>,
        module: &str,
        loaded: &Loaded,
    ) -> rquickjs::Result<()> {
        for name in self.reachable(module) {
            // Reading a module reads its imports.
            if loaded.is_new(name)
                && let Some(bytecode) = self.compiled.get(name)
            {
                bytecode.declare(ctx)?;
            }
        }
        Ok(())
    }
}

/// The resolver and loader of an engine.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// Weak, so that a kept engine does not keep the program alive.
    modules: Weak<Modules>,
    /// The modules that the engine has read.
    read: Rc<RefCell<HashSet<String>>>,
}

impl Loaded {
    pub(crate) fn new(modules: &Arc<Modules>) -> Loaded {
        Loaded { modules: Arc::downgrade(modules), read: Rc::default() }
    }

    fn is_new(&self, name: &str) -> bool {
        self.read.borrow_mut().insert(name.to_owned())
    }

    /// The names of the modules read so far.
    pub(crate) fn names(&self) -> HashSet<String> {
        self.read.borrow().clone()
    }

    /// Forgets the modules read since [`names`](Self::names) returned `names`.
    pub(crate) fn restore(&self, names: &HashSet<String>) {
        // The set only grows, so an equal length means an equal set.
        if self.read.borrow().len() != names.len() {
            self.read.borrow_mut().clone_from(names);
        }
    }
}

impl Resolver for Loaded {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        if let Some(found) = built_in::import(base, name) {
            return Ok(found.to_owned());
        }
        let modules = self.modules.upgrade();
        let imports = modules.as_ref().and_then(|modules| modules.imports.get(base));
        let found = imports.and_then(|imports| imports.get(name));
        match found {
            Some(found) => Ok(found.to_string()),
            // An exception, since the engine truncates the message of an error of its own to 255
            // bytes.
            None => Err(Exception::throw_message(
                ctx,
                &format!(
                    "Error resolving module '{name}' from '{base}': it was not there when the program was loaded; \
                     specifiers that are computed at run time cannot be followed"
                ),
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
        let modules = self.modules.upgrade();
        let compiled = modules.as_ref().and_then(|modules| modules.compiled.get(name));
        match built_in::bytecode(name).or(compiled) {
            Some(bytecode) if self.is_new(name) => bytecode.declare(ctx),
            Some(_) | None => Err(Error::new_loading(name)),
        }
    }
}
