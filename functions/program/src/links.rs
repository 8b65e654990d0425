//! The imports and exports in the source of a module.

// Only a few kinds of syntax concern modules.
#![allow(clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use oxc::allocator::Allocator;
use oxc::ast::ast::{
    AssignmentExpression, AssignmentTarget, BindingIdentifier, CallExpression, Class, Declaration,
    Expression, IdentifierReference, ImportDeclarationSpecifier, ImportExpression,
    ObjectExpression, ObjectPropertyKind, Statement, StaticMemberExpression, TryStatement,
    VariableDeclaration, VariableDeclarationKind, WithClause, WithClauseKeyword,
};
use oxc::ast_visit::{Visit, walk};
use oxc::parser::{ParseOptions, Parser};
use oxc::span::{SourceType, Span};
use oxc::syntax::module_record::ExportExportName;

use super::source::{Imported, names_of, on_a_large_stack};

/// The imports and exports of a JavaScript module.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Whether it uses the syntax of ES modules.
    pub(crate) is_module: bool,
    /// Whether it refers to `module`, `exports` or `require`.
    pub(crate) is_common_js: bool,
    /// The names that it exports as an ES module, except those of `export * from`.
    pub(crate) own: BTreeSet<String>,
    pub(crate) imports: BTreeMap<String, Imports>,
    /// Edits that let code read the module's top-level variables and classes before they are
    /// initialized: they are `undefined` then, as in esbuild, and not an error. Line numbers are
    /// preserved.
    pub(crate) hoisted: Vec<(usize, usize, String)>,
    /// The positions of the keyword `assert` before import attributes, now `with`.
    pub(crate) assertions: Vec<usize>,
    /// `import("…")`: the specifiers, and the ends of the expressions.
    pub(crate) dynamic: Vec<(String, u32)>,
    /// `require("…")`: the specifiers, each with whether all its calls are within a `try`.
    pub(crate) requires: BTreeMap<String, bool>,
    pub(crate) declares_require: bool,
    /// The exports among `own` that come from other modules, by their exported name.
    pub(crate) re_exports: BTreeMap<String, Imported>,
    /// The members that it adds to `exports`, as far as its source shows.
    pub(crate) exported: BTreeSet<String>,
    /// The modules whose exports it re-exports.
    pub(crate) re_exported: BTreeSet<String>,
}

/// The imports of a module from another one.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// The position of the first of them.
    pub(crate) first: u32,
    pub(crate) names: BTreeSet<String>,
    /// The members that it uses of the namespace.
    pub(crate) members: BTreeSet<String>,
    /// The spans of `export * from`, from `export` to the specifier.
    pub(crate) stars: Vec<Span>,
    /// The namespace imports, with their replacements if the namespace is a single value.
    pub(crate) namespaces: Vec<(Span, String)>,
}

/// The name of the export that holds the exports of a CommonJS module.
pub(crate) const ALL: &str = "$all";

/// The name of the export that returns what `import()` gives.
pub(crate) const LATE: &str = "$late";

impl Links {
    /// Parses JavaScript. Syntax errors are left for the engine to report.
    pub(crate) fn of(path: &Path, text: &str) -> Links {
        let links = on_a_large_stack(path, || Ok(read(text)));
        let looks_like_one =
            || text.lines().any(|line| line.starts_with("import ") || line.starts_with("export "));
        links.ok().flatten().unwrap_or_else(|| Links {
            is_module: looks_like_one(),
            is_common_js: true,
            ..Links::default()
        })
    }
}

fn read(text: &str) -> Option<Links> {
    let allocator = Allocator::default();
    let options = ParseOptions { allow_return_outside_function: true, ..ParseOptions::default() };
    let parsed = Parser::new(&allocator, text, SourceType::mjs()).with_options(options).parse();
    if parsed.panicked {
        return None;
    }
    let record = &parsed.module_record;
    let is_module = record.has_module_syntax || !record.import_metas.is_empty();
    let mut links = Links { is_module, ..Links::default() };
    let exports = record.local_export_entries.iter().chain(&record.indirect_export_entries);
    links.own.extend(exports.filter_map(|export| match &export.export_name {
        ExportExportName::Name(name) => Some(name.name.to_string()),
        ExportExportName::Default(_) => Some("default".to_owned()),
        ExportExportName::Null => None,
    }));
    let mut locals = HashMap::new();
    for statement in &parsed.program.body {
        links.add(text, statement);
        if let Statement::ImportDeclaration(import) = statement {
            for specifier in import.specifiers.iter().flatten() {
                let (local, name) = names_of(specifier);
                locals.insert(local.to_owned(), (import.source.value.to_string(), name));
            }
        }
    }
    for statement in &parsed.program.body {
        if let Statement::ExportNamedDeclaration(export) = statement {
            for specifier in &export.specifiers {
                if let Some(imported) = locals.get(specifier.local.name().as_str()) {
                    let exported = specifier.exported.name().to_string();
                    links.re_exports.insert(exported, imported.clone());
                }
            }
        }
    }
    let mut visitor = Uses { links, locals, tries: 0 };
    visitor.visit_program(&parsed.program);
    Some(visitor.links)
}

impl Links {
    /// The entry for imports from `source`, one of which is at `place`.
    fn imports_of(&mut self, source: &str, place: u32) -> &mut Imports {
        let new = || Imports { first: place, ..Imports::default() };
        self.imports.entry(source.to_owned()).or_insert_with(new)
    }

    fn hoist_variables(&mut self, variables: &VariableDeclaration<'_>) {
        let instead = match variables.kind {
            VariableDeclarationKind::Const => "var  ",
            VariableDeclarationKind::Let => "var",
            _ => return,
        };
        let from = variables.span.start as usize;
        self.hoisted.push((from, from + instead.len(), instead.to_owned()));
    }

    fn hoist_class(&mut self, class: &Class<'_>) {
        let Some(id) = &class.id else { return };
        let (from, to) = (class.span.start as usize, class.span.end as usize);
        self.hoisted.push((from, from, format!("var {}=", id.name)));
        self.hoisted.push((to, to, ";".to_owned()));
    }

    fn assert(&mut self, text: &str, attributes: Option<&WithClause<'_>>) {
        let old = attributes.filter(|them| them.keyword == WithClauseKeyword::Assert);
        // Their span begins with the brace.
        let keyword = old.and_then(|them| text[..them.span.start as usize].rfind("assert"));
        self.assertions.extend(keyword);
    }

    fn add(&mut self, text: &str, statement: &Statement<'_>) {
        match statement {
            Statement::VariableDeclaration(variables) => self.hoist_variables(variables),
            Statement::ClassDeclaration(class) => self.hoist_class(class),
            Statement::ExportDeclaration(export) => match &export.declaration {
                Declaration::VariableDeclaration(variables) => self.hoist_variables(variables),
                Declaration::ClassDeclaration(class) => self.hoist_class(class),
                _ => {}
            },
            Statement::ImportDeclaration(import) => {
                self.assert(text, import.with_clause.as_deref());
                let imports = self.imports_of(import.source.value.as_str(), import.span.start);
                for specifier in import.specifiers.iter().flatten() {
                    match specifier {
                        ImportDeclarationSpecifier::ImportSpecifier(one) => {
                            imports.names.insert(one.imported.name().to_string());
                        }
                        ImportDeclarationSpecifier::ImportDefaultSpecifier(_) => {
                            imports.names.insert("default".to_owned());
                        }
                        ImportDeclarationSpecifier::ImportNamespaceSpecifier(all) => {
                            let instead = format!("{{{ALL} as {}}}", all.local.name);
                            imports.namespaces.push((all.span, instead));
                        }
                    }
                }
            }
            Statement::ExportFromDeclaration(export) => {
                self.assert(text, export.with_clause.as_deref());
                let imports = self.imports_of(export.source.value.as_str(), export.span.start);
                let names = export.specifiers.iter().map(|one| one.local.name().to_string());
                imports.names.extend(names);
                self.re_exports.extend(export.specifiers.iter().map(|one| {
                    let imported = (export.source.value.to_string(), one.local.name().to_string());
                    (one.exported.name().to_string(), imported)
                }));
            }
            Statement::ExportAllDeclaration(export) => {
                self.assert(text, export.with_clause.as_deref());
                let imports = self.imports_of(export.source.value.as_str(), export.span.start);
                let span = Span::new(export.span.start, export.source.span.start);
                match &export.exported {
                    Some(name) => {
                        let before = &text[span.start as usize..span.end as usize];
                        let lines = "\n".repeat(before.matches('\n').count());
                        let instead = format!("export{{{ALL} as {name}}}{lines}from");
                        imports.namespaces.push((span, instead));
                        let imported = (export.source.value.to_string(), "*".to_owned());
                        self.re_exports.insert(name.name().to_string(), imported);
                    }
                    None => imports.stars.push(span),
                }
            }
            _ => {}
        }
    }
}

struct Uses {
    links: Links,
    /// What the module imports, by its local name.
    locals: HashMap<String, Imported>,
    /// The number of enclosing `try` blocks.
    tries: usize,
}

fn literal(expression: Option<&Expression<'_>>) -> Option<String> {
    match expression? {
        Expression::StringLiteral(text) => Some(text.value.to_string()),
        Expression::TemplateLiteral(template) if template.expressions.is_empty() => {
            Some(template.quasis.first()?.value.cooked?.to_string())
        }
        _ => None,
    }
}

fn is_exports(expression: &Expression<'_>) -> bool {
    match expression {
        Expression::Identifier(name) => name.name == "exports",
        Expression::StaticMemberExpression(member) => {
            member.property.name == "exports" && is_named(&member.object, "module")
        }
        _ => false,
    }
}

fn is_named(expression: &Expression<'_>, name: &str) -> bool {
    matches!(expression, Expression::Identifier(identifier) if identifier.name == name)
}

fn required(expression: &Expression<'_>) -> Option<String> {
    match expression {
        Expression::CallExpression(call) if is_named(&call.callee, "require") => {
            literal(call.arguments.first()?.as_expression())
        }
        _ => None,
    }
}

impl Uses {
    fn add_members(&mut self, object: &ObjectExpression<'_>) {
        for property in &object.properties {
            match property {
                ObjectPropertyKind::ObjectProperty(property) => {
                    self.links.exported.extend(property.key.static_name().map(String::from));
                }
                ObjectPropertyKind::SpreadProperty(spread) => {
                    self.links.re_exported.extend(required(&spread.argument));
                }
            }
        }
    }
}

impl<'a> Visit<'a> for Uses {
    fn visit_identifier_reference(&mut self, identifier: &IdentifierReference<'a>) {
        self.links.is_common_js |=
            matches!(identifier.name.as_str(), "module" | "exports" | "require");
    }

    fn visit_static_member_expression(&mut self, member: &StaticMemberExpression<'a>) {
        if let Expression::Identifier(object) = &member.object
            && let Some((specifier, _)) =
                self.locals.get(object.name.as_str()).filter(|(_, name)| name == "*")
            && let Some(imports) = self.links.imports.get_mut(specifier)
        {
            imports.members.insert(member.property.name.to_string());
        }
        walk::walk_static_member_expression(self, member);
    }

    fn visit_binding_identifier(&mut self, identifier: &BindingIdentifier<'a>) {
        self.links.declares_require |= identifier.name == "require";
    }

    fn visit_try_statement(&mut self, statement: &TryStatement<'a>) {
        self.tries += 1;
        walk::walk_block_statement(self, &statement.block);
        self.tries -= 1;
        if let Some(handler) = &statement.handler {
            walk::walk_catch_clause(self, handler);
        }
        if let Some(last) = &statement.finalizer {
            walk::walk_block_statement(self, last);
        }
    }

    fn visit_import_expression(&mut self, import: &ImportExpression<'a>) {
        if let Some(specifier) = literal(Some(&import.source)) {
            self.links.dynamic.push((specifier, import.span.end));
        }
        walk::walk_import_expression(self, import);
    }

    fn visit_assignment_expression(&mut self, assignment: &AssignmentExpression<'a>) {
        if let AssignmentTarget::StaticMemberExpression(member) = &assignment.left {
            if is_exports(&member.object) {
                self.links.exported.insert(member.property.name.to_string());
            } else if member.property.name == "exports" && is_named(&member.object, "module") {
                self.links.re_exported.extend(required(&assignment.right));
                if let Expression::ObjectExpression(object) = &assignment.right {
                    self.add_members(object);
                }
            }
        }
        walk::walk_assignment_expression(self, assignment);
    }

    fn visit_call_expression(&mut self, call: &CallExpression<'a>) {
        let argument = |at: usize| call.arguments.get(at).and_then(|one| one.as_expression());
        if let Expression::Identifier(callee) = &call.callee
            && callee.name == "require"
            && let Some(specifier) = literal(argument(0))
        {
            let is_tried = self.links.requires.entry(specifier).or_insert(true);
            *is_tried &= self.tries > 0;
        }
        if argument(0).is_some_and(is_exports) {
            // `Object.defineProperty(exports, "name", …)`, and the helpers of bundlers that do the
            // same.
            self.links.exported.extend(literal(argument(1)));
            if let Some(Expression::ObjectExpression(object)) = argument(1) {
                self.add_members(object);
            }
        }
        // `__exportStar(require("…"), exports)`.
        if argument(1).is_some_and(is_exports) {
            self.links.re_exported.extend(argument(0).and_then(required));
        }
        walk::walk_call_expression(self, call);
    }
}
