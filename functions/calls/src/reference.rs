//! References to functions, and the functions they mean.

use std::borrow::Cow;

use audit_host::shortened;
use audit_runtime::FunctionKind;
use functions_program::{Function, Program};
use functions_value::ComponentPath;
use serde_json::Value as Json;

const HANDLE: &str = "function://";

#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    pub(super) component: ComponentPath,
    pub(super) function: &'a Function,
}

impl Target<'_> {
    pub(super) fn expect(&self, kind: FunctionKind) -> Result<(), String> {
        let is = self.function.kind;
        if is == kind {
            Ok(())
        } else {
            let (is, kind) = (with_article(is), with_article(kind));
            Err(format!("{} is {is} and was called as {kind}", self.full_name()))
        }
    }

    /// The component and name, by which the function can be found in another program.
    pub(super) fn owned(&self) -> (ComponentPath, String) {
        (self.component.clone(), self.function.name.clone())
    }

    /// The name in logs and errors: `messages:list`, or `component/messages:list`.
    pub(super) fn full_name(&self) -> String {
        full_name(&self.component, &self.function.name)
    }
}

pub(super) fn with_article(kind: FunctionKind) -> &'static str {
    match kind {
        FunctionKind::Query => "a query",
        FunctionKind::Mutation => "a mutation",
        FunctionKind::Action => "an action",
    }
}

/// `messages:list`, or `component/messages:list`.
pub(super) fn full_name(component: &ComponentPath, name: &str) -> String {
    if component.is_root() { name.to_owned() } else { format!("{component}/{name}") }
}

/// The target of a reference, which need not exist.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) component: ComponentPath,
    pub(super) function: String,
}

impl Named {
    /// The function handle: a string that means this function in any component.
    pub(super) fn handle(&self) -> String {
        format!("{HANDLE}{};{}", self.component, self.function)
    }
}

/// The function that a reference means in a call from `from`. The client library sends one of:
///
/// - `{"name":"module:function"}`, in the same component;
/// - `{"reference":"_reference/function/<module:function>"}`, the same from older libraries;
/// - `{"reference":"_reference/childComponent/<name>/<module>/<function>"}`;
/// - `{"functionHandle":"function://<component>;<module:function>"}`.
pub(super) fn resolve<'a>(
    program: &'a Program,
    from: &ComponentPath,
    reference: &Json,
) -> Result<Target<'a>, String> {
    let Named { component, function } = named(program, from, reference)?;
    find(program, &component, &function).ok_or_else(|| not_found(program, &component, &function))
}

/// The function that a reference means in a later call, and its kind. A function in a module with
/// `"use node"` counts as existing until it is called; its kind is unknown.
pub(super) fn for_later(
    program: &Program,
    from: &ComponentPath,
    reference: &Json,
) -> Result<(Named, Option<FunctionKind>), String> {
    let Named { component, function } = named(program, from, reference)?;
    if let Some(target) = find(program, &component, &function) {
        let kind = target.function.kind;
        let (component, function) = target.owned();
        return Ok((Named { component, function }, Some(kind)));
    }
    if !program.component(&component).is_some_and(|component| component.is_for_node(&function)) {
        return Err(not_found(program, &component, &function));
    }
    Ok((Named { component, function }, None))
}

fn named(program: &Program, from: &ComponentPath, reference: &Json) -> Result<Named, String> {
    read(program, from, reference).map_err(bounded)
}

fn read(program: &Program, from: &ComponentPath, reference: &Json) -> Result<Named, String> {
    let member = |name: &str| reference.get(name).and_then(Json::as_str);
    if let Some(name) = member("name") {
        return Ok(Named { component: from.clone(), function: name.to_owned() });
    }
    if let Some(path) = member("reference") {
        return named_by_path(program, from, path);
    }
    if let Some(handle) = member("functionHandle") {
        let parts = handle.strip_prefix(HANDLE).and_then(|rest| rest.split_once(';'));
        let (component, name) =
            parts.ok_or_else(|| format!("{handle:?} is not a function handle"))?;
        let component = ComponentPath::parse(component);
        return Ok(Named { component, function: name.to_owned() });
    }
    Err("a call names no function".to_owned())
}

fn named_by_path(program: &Program, from: &ComponentPath, path: &str) -> Result<Named, String> {
    if let Some(name) = path.strip_prefix("_reference/function/") {
        return Ok(Named { component: from.clone(), function: name.to_owned() });
    }
    let parts: Vec<&str> = path.split('/').collect();
    let ["_reference", "childComponent", child, rest @ ..] = &parts[..] else {
        return Err(format!("references like {path:?} are not supported by this host"));
    };
    let component = program.component(from).and_then(|component| component.children.get(*child));
    let component = component.ok_or_else(|| {
        let whose = if from.is_root() {
            "the app".to_owned()
        } else {
            format!("component {:?}", from.to_string())
        };
        format!("{whose} uses no component {child:?}")
    })?;
    let Some((function, module)) = rest.split_last() else {
        return Err(format!("the reference {path:?} names no function"));
    };
    let function = format!("{}:{function}", module.join("/"));
    Ok(Named { component: component.clone(), function })
}

fn find<'a>(program: &'a Program, component: &ComponentPath, name: &str) -> Option<Target<'a>> {
    let function = program.component(component)?.function(name)?;
    Some(Target { component: component.clone(), function })
}

fn not_found(program: &Program, component: &ComponentPath, name: &str) -> String {
    if program.component(component).is_some_and(|component| component.is_for_node(name)) {
        return for_node(name);
    }
    bounded(if component.is_root() {
        format!("Could not find function {name:?}")
    } else {
        format!("Could not find function {name:?} in component {:?}", component.to_string())
    })
}

/// The text of an error that repeats a name: clients can send names as long as arguments.
fn bounded(error: String) -> String {
    match shortened(&error) {
        Cow::Borrowed(_) => error,
        Cow::Owned(short) => short,
    }
}

/// The error for a function in a module with `"use node"`.
pub(super) fn for_node(name: &str) -> String {
    format!(
        "Function {name:?} cannot run: its module has \"use node\", and this host has no Node.js runtime"
    )
}

/// Finds a function that clients may call. For them internal functions do not exist.
pub(super) fn public<'a>(program: &'a Program, name: &str) -> Result<Target<'a>, String> {
    let root = ComponentPath::root();
    let found = find(program, &root, name).filter(|target| target.function.is_public);
    let is_for_node = || program.component(&root).is_some_and(|app| app.is_for_node(name));
    found.ok_or_else(|| {
        if is_for_node() {
            for_node(name)
        } else {
            bounded(format!("Could not find public function for '{name}'"))
        }
    })
}
