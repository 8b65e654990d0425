//! Compiles a source file to JavaScript for the engine.

// Only a few kinds of syntax concern modules.
#![allow(clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use oxc::allocator::Allocator;
use oxc::ast::ast::{
    ArrowFunctionExpression, CallExpression, Declaration, Decorator, FormalParameter,
    ImportDeclarationSpecifier, NewExpression, Program, Statement, TemplateElement,
    VariableDeclaration,
};
use oxc::ast_visit::{Visit, walk};
use oxc::codegen::{Codegen, CodegenOptions};
use oxc::diagnostics::OxcDiagnostic;
use oxc::parser::{ParseOptions, Parser};
use oxc::semantic::SemanticBuilder;
use oxc::span::{GetSpan, SourceType, Span};
use oxc_transformer::{JsxOptions, Module, TransformOptions, Transformer};

use super::LoadError;
use super::layout::{Lines, Marks, laid_out};

/// An import or a re-export: the specifier of a module, and a name that it exports.
pub(crate) type Imported = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Its JavaScript.
    pub(crate) code: String,
    pub(crate) exports: Exports,
}

/// The exports of a module that exist at run time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Exports {
    /// The names that the module declares itself.
    pub(crate) own: BTreeSet<String>,
    /// Re-exports, by their exported name. The file alone does not show which of them are types.
    pub(crate) others: BTreeMap<String, Imported>,
    /// The modules of `export * from`.
    pub(crate) all_of: Vec<String>,
}

/// Whether a file must be compiled because it is TypeScript or JSX.
pub(crate) fn is_compiled(path: &Path) -> bool {
    matches!(extension(path), "ts" | "mts" | "cts" | "tsx" | "jsx")
}

pub(crate) fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// The settings of TypeScript that affect what code does.
#[derive(Debug, Default, Clone)]
pub(crate) struct Settings {
    /// Whether fields of classes are assigned instead of defined: an assignment calls setters, and
    /// a field without a value does not exist.
    pub(crate) assigns_fields: bool,
    pub(crate) jsx: JsxOptions,
}

/// Compiles a source file. Removes TypeScript types, imports that are used only as types, and the
/// re-exports in `types`; compiles enums, namespaces, parameter properties and JSX. Lines and
/// columns are those of the source.
pub(crate) fn read(
    path: &Path,
    text: String,
    types: &HashSet<Imported>,
    settings: &Settings,
) -> Result<Source, LoadError> {
    if is_compiled(path) {
        return on_a_large_stack(path, || compiled(path, &text, types, settings));
    }
    Ok(Source { code: text, exports: Exports::default() })
}

/// The exports of a JavaScript file, or `None` if it cannot be parsed.
pub(crate) fn exports_of_javascript(path: &Path, text: &str) -> Option<Exports> {
    let exports = on_a_large_stack(path, || {
        let allocator = Allocator::default();
        let parsed = Parser::new(&allocator, text, SourceType::mjs()).parse();
        Ok((!parsed.panicked).then(|| exports_of(&parsed.program)))
    });
    exports.ok().flatten()
}

/// The code of a script in syntax that modules allow too, or `None` if it cannot be parsed.
pub(crate) fn printed(path: &Path, text: &str) -> Option<String> {
    let printed = on_a_large_stack(path, || {
        let allocator = Allocator::default();
        let options = ParseOptions { allow_return_outside_function: true, ..Default::default() };
        let parser = Parser::new(&allocator, text, SourceType::script()).with_options(options);
        let parsed = parser.parse();
        let is_fine = !parsed.panicked && parsed.diagnostics.is_empty();
        let codegen = || Codegen::new().with_options(CodegenOptions::minify());
        Ok(is_fine.then(|| codegen().build(&parsed.program).code))
    });
    printed.ok().flatten()
}

/// The stack size for compiling a file, in bytes. The compiler recurses for each level of an
/// expression or type, and a stack overflow aborts the process. This is enough for thousands of
/// nested brackets. It is address space, whose memory is allocated as it is used.
const STACK_BYTES: usize = 1 << 30;

pub(crate) fn on_a_large_stack<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, LoadError> + Send,
) -> Result<T, LoadError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("functions-load".to_owned());
        let thread = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| {
            LoadError::at(path, format!("no thread can be started to load it: {error}"))
        })?;
        thread.join().unwrap_or_else(|_| Err(LoadError::at(path, "the compiler panicked")))
    })
}

fn compiled(
    path: &Path,
    text: &str,
    types: &HashSet<Imported>,
    settings: &Settings,
) -> Result<Source, LoadError> {
    let lines = Lines::new(text);
    let allocator = Allocator::default();
    let kind = match extension(path) {
        "tsx" => SourceType::tsx(),
        "jsx" => SourceType::jsx(),
        _ => SourceType::ts(),
    };
    let parsed = Parser::new(&allocator, text, kind).parse();
    first_of(parsed.diagnostics.into_vec(), path, &lines)?;
    let mut program = parsed.program;

    let mut marking = Marking { text, marks: Marks::default(), unknown: None };
    marking.visit_program(&program);
    if let Some((at, message)) = marking.unknown {
        return Err(LoadError::new(place_of(path, &lines, at), message));
    }
    let mut marks = marking.marks;
    marks.calls.sort_unstable();

    let semantic = SemanticBuilder::new().with_enum_eval(true).build(&program);
    first_of(semantic.diagnostics.into_vec(), path, &lines)?;
    let mut options = TransformOptions::default();
    // `import x = require()` and `export =` become CommonJS.
    options.env.module = Module::Preserve;
    options.jsx = settings.jsx.clone();
    if let Some(function) = &settings.jsx.pragma {
        options.typescript.jsx_pragma = function.clone().into();
    }
    options.assumptions.set_public_class_fields = settings.assigns_fields;
    options.typescript.remove_class_fields_without_initializer = settings.assigns_fields;
    let transformed = Transformer::new(&allocator, path, &options)
        .build_with_scoping(semantic.semantic.into_scoping(), &mut program);
    first_of(transformed.diagnostics.into_vec(), path, &lines)?;

    let exports = exports_of(&program);
    if !types.is_empty() {
        remove(&mut program, types);
    }
    let options =
        CodegenOptions { source_map_path: Some(path.to_owned()), ..CodegenOptions::minify() };
    let printed = Codegen::new().with_options(options).build(&program);
    Ok(Source { code: laid_out(&printed, &lines, &marks), exports })
}

/// Fails with the compiler's first error. Warnings are about syntax that it removes.
fn first_of(
    diagnostics: Vec<OxcDiagnostic>,
    path: &Path,
    lines: &Lines<'_>,
) -> Result<(), LoadError> {
    let Some(first) = diagnostics.into_iter().next() else { return Ok(()) };
    let place = match first.labels.first() {
        Some(label) => place_of(path, lines, label.offset()),
        None => path.display().to_string(),
    };
    if first.message.starts_with("Namespaces exporting non-const") {
        let message = "a namespace exports a variable that is not `const`, which is not supported";
        return Err(LoadError::new(place, message));
    }
    let help = first.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    Err(LoadError::new(place, format!("{}{help}", first.message)))
}

fn place_of(path: &Path, lines: &Lines<'_>, at: u32) -> String {
    let (line, before) = lines.line_at(at as usize);
    format!("{}:{}:{}", path.display(), line + 1, before.chars().count() + 1)
}

/// Collects the positions that the source map of the printed code lacks, and the first syntax that
/// the engine does not know, with a message.
struct Marking<'a> {
    text: &'a str,
    marks: Marks,
    unknown: Option<(u32, &'static str)>,
}

impl Marking<'_> {
    /// Adds the opening parenthesis of a call, the first after `from`.
    fn call(&mut self, from: Span, call: Span) {
        let rest = self.text.get(from.end as usize..call.end as usize);
        self.marks.calls.extend(rest.and_then(|rest| Some(from.end + rest.find('(')? as u32)));
    }
}

impl<'a> Visit<'a> for Marking<'_> {
    fn visit_template_element(&mut self, quasi: &TemplateElement<'a>) {
        self.marks.quasis.insert(quasi.span.start);
    }

    fn visit_formal_parameter(&mut self, parameter: &FormalParameter<'a>) {
        if parameter.accessibility.is_some() || parameter.readonly || parameter.r#override {
            self.marks.properties.insert(parameter.pattern.span().start);
        }
        walk::walk_formal_parameter(self, parameter);
    }

    fn visit_arrow_function_expression(&mut self, arrow: &ArrowFunctionExpression<'a>) {
        if let [parameter] = &arrow.params.items[..] {
            let (from, to) = (arrow.span.start, parameter.span.start);
            let before = &self.text[from as usize..to as usize];
            let open = before.rfind('(').map(|open| (to, from + open as u32));
            self.marks.arrows.extend(open);
        }
        walk::walk_arrow_function_expression(self, arrow);
    }

    fn visit_decorator(&mut self, decorator: &Decorator<'a>) {
        let message = "decorators are not supported: call the decorating function instead";
        self.unknown.get_or_insert((decorator.span.start, message));
        walk::walk_decorator(self, decorator);
    }

    fn visit_variable_declaration(&mut self, variables: &VariableDeclaration<'a>) {
        if variables.kind.is_using() {
            let message = "`using` is not supported: dispose of it in a `finally` block";
            self.unknown.get_or_insert((variables.span.start, message));
        }
        walk::walk_variable_declaration(self, variables);
    }

    fn visit_call_expression(&mut self, call: &CallExpression<'a>) {
        let types = call.type_arguments.as_ref().map(|types| types.span);
        self.call(types.unwrap_or_else(|| call.callee.span()), call.span);
        walk::walk_call_expression(self, call);
    }

    fn visit_new_expression(&mut self, new: &NewExpression<'a>) {
        let types = new.type_arguments.as_ref().map(|types| types.span);
        self.call(types.unwrap_or_else(|| new.callee.span()), new.span);
        walk::walk_new_expression(self, new);
    }
}

/// The local name of an import, and its name in the other module.
pub(crate) fn names_of<'a>(specifier: &'a ImportDeclarationSpecifier<'_>) -> (&'a str, String) {
    match specifier {
        ImportDeclarationSpecifier::ImportSpecifier(specifier) => {
            (specifier.local.name.as_str(), specifier.imported.name().to_string())
        }
        ImportDeclarationSpecifier::ImportDefaultSpecifier(specifier) => {
            (specifier.local.name.as_str(), "default".to_owned())
        }
        ImportDeclarationSpecifier::ImportNamespaceSpecifier(specifier) => {
            (specifier.local.name.as_str(), "*".to_owned())
        }
    }
}

fn exports_of(program: &Program<'_>) -> Exports {
    let mut exports = Exports::default();
    let mut imports: BTreeMap<&str, Imported> = BTreeMap::new();
    for statement in &program.body {
        let Statement::ImportDeclaration(import) = statement else { continue };
        for specifier in import.specifiers.iter().flatten() {
            let (local, name) = names_of(specifier);
            imports.insert(local, (import.source.value.to_string(), name));
        }
    }
    for statement in &program.body {
        match statement {
            Statement::ExportDeclaration(export) => match &export.declaration {
                Declaration::VariableDeclaration(variables) => {
                    let patterns = variables.declarations.iter();
                    let names = patterns.flat_map(|variable| variable.id.get_binding_identifiers());
                    exports.own.extend(names.map(|name| name.name.to_string()));
                }
                declaration => {
                    exports.own.extend(declaration.id().map(|name| name.name.to_string()));
                }
            },
            Statement::ExportDefaultDeclaration(_) => {
                exports.own.insert("default".to_owned());
            }
            Statement::ExportNamedDeclaration(export) => {
                for specifier in &export.specifiers {
                    let exported = specifier.exported.name().to_string();
                    match imports.get(specifier.local.name().as_str()) {
                        Some(imported) => {
                            exports.others.insert(exported, imported.clone());
                        }
                        None => {
                            exports.own.insert(exported);
                        }
                    }
                }
            }
            Statement::ExportFromDeclaration(export) => {
                for specifier in &export.specifiers {
                    let imported =
                        (export.source.value.to_string(), specifier.local.name().to_string());
                    exports.others.insert(specifier.exported.name().to_string(), imported);
                }
            }
            Statement::ExportAllDeclaration(export) => match &export.exported {
                Some(name) => {
                    exports.own.insert(name.name().to_string());
                }
                None => exports.all_of.push(export.source.value.to_string()),
            },
            _ => {}
        }
    }
    exports
}

fn remove(program: &mut Program<'_>, types: &HashSet<Imported>) {
    let is_type = |source: &str, name: &str| types.contains(&(source.to_owned(), name.to_owned()));
    let mut exported = HashSet::new();
    for statement in &program.body {
        if let Statement::ExportNamedDeclaration(export) = statement {
            exported.extend(export.specifiers.iter().map(|one| one.local.name().to_string()));
        }
    }
    let mut gone = HashSet::new();
    program.body.retain_mut(|statement| match statement {
        Statement::ExportFromDeclaration(export) if !export.specifiers.is_empty() => {
            let source = export.source.value;
            export
                .specifiers
                .retain(|specifier| !is_type(source.as_str(), specifier.local.name().as_str()));
            !export.specifiers.is_empty()
        }
        Statement::ImportDeclaration(import) => {
            let source = import.source.value;
            let Some(specifiers) = &mut import.specifiers else { return true };
            specifiers.retain(|specifier| {
                let (local, name) = names_of(specifier);
                let removed = exported.contains(local) && is_type(source.as_str(), &name);
                if removed {
                    gone.insert(local.to_owned());
                }
                !removed
            });
            !specifiers.is_empty()
        }
        _ => true,
    });
    program.body.retain_mut(|statement| match statement {
        Statement::ExportNamedDeclaration(export) if !export.specifiers.is_empty() => {
            export.specifiers.retain(|one| !gone.contains(one.local.name().as_str()));
            !export.specifiers.is_empty()
        }
        _ => true,
    });
}
