//! The order in which modules are evaluated: that of Node.js, and within a cycle that of esbuild,
//! with which Convex bundles. `tests/orders/make.mjs` describes the graphs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Graph {
    /// The number of modules of functions, which come first in `names`.
    app: usize,
    names: String,
    links: BTreeMap<String, String>,
    /// The modules that each module of functions evaluates, in order.
    node: BTreeMap<String, String>,
    /// The same in esbuild, with `-` and the names found `undefined` after a module's letter.
    esbuild: BTreeMap<String, String>,
}

impl Graph {
    fn links(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.links[name].split(' ').filter(|link| !link.is_empty()).map(|link| link.split_at(1))
    }

    fn text(&self, name: &str) -> String {
        let place = |name: &str| match self.names.find(name) {
            Some(place) if place < self.app => "convex",
            _ => "lib",
        };
        let mut text = String::new();
        let mut read = format!("\"{name}\"");
        for (kind, of) in self.links(name) {
            let from = format!("\"../{}/{of}.js\"", place(of));
            text += &match kind {
                "i" => format!("import {from};\n"),
                "n" => format!("import {{ {of} }} from {from};\n"),
                "s" => format!("import * as {of} from {from};\n"),
                "r" => format!("export * from {from};\n"),
                "e" => format!("export {{ {of} as {name}{of} }} from {from};\n"),
                _ => format!("export const late{of} = () => import({from});\n"),
            };
            if kind == "n" {
                read += &format!(" + ({of} === undefined ? \"-{of}\" : \"\")");
            }
        }
        text += &format!("globalThis.order = (globalThis.order ?? \"\") + {read};\n");
        text += &match name {
            "c" => "export class c {}\n".to_owned(),
            _ => format!("export const {name} = 1;\n"),
        };
        if place(name) == "convex" {
            text += "import { query } from \"./_generated/server\";\n\
                     export const run = query(async () => globalThis.order);\n";
        }
        text
    }

    /// The modules that the host evaluates for each module of functions.
    fn evaluated(&self) -> BTreeMap<String, String> {
        let (app, lib) = self.names.split_at(self.app);
        let file = |directory: &str, name: char| {
            (format!("{directory}{name}.js"), self.text(&name.to_string()))
        };
        let files = app.chars().map(|name| file("", name));
        let files: Vec<_> = files.chain(lib.chars().map(|name| file("../lib/", name))).collect();
        let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let package = ("../package.json", "{ \"type\": \"module\" }");
        let fixture = fixture_of(&files.chain([package]).collect::<Vec<_>>());
        let order = |name: char| fixture.value(&format!("{name}:run"), "[{}]").replace('"', "");
        app.chars().map(|name| (name.to_string(), order(name))).collect()
    }

    /// The modules that `from` reaches by imports that are evaluated.
    fn reached(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut left: Vec<&str> = self.links(from).filter(is_evaluated).map(|(_, of)| of).collect();
        while let Some(name) = left.pop() {
            if reached.insert(name) {
                left.extend(self.links(name).filter(is_evaluated).map(|(_, of)| of));
            }
        }
        reached
    }

    fn cycle(&self, name: &str) -> BTreeSet<&str> {
        let reached = self.reached(name).into_iter();
        reached.filter(|other| self.reached(other).contains(name)).collect()
    }
}

fn is_evaluated((kind, _): &(&str, &str)) -> bool {
    *kind != "d"
}

/// The modules of an order, without the names that they found `undefined`.
fn modules(order: &str) -> String {
    let mut letters = order.chars();
    let mut modules = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '-' => drop(letters.next()),
            _ => modules.push(letter),
        }
    }
    modules
}

/// The part of an order that concerns some modules.
fn of_cycle(order: &str, cycle: &BTreeSet<&str>) -> String {
    let mut kept = String::new();
    let mut is_kept = false;
    let mut letters = order.chars();
    while let Some(letter) = letters.next() {
        if letter == '-' {
            let missing = letters.next().unwrap().to_string();
            if is_kept && cycle.contains(missing.as_str()) {
                kept += &format!("-{missing}");
            }
        } else {
            is_kept = cycle.contains(letter.to_string().as_str());
            kept.extend(is_kept.then_some(letter));
        }
    }
    kept
}

#[test]
fn modules_are_evaluated_in_the_order_of_node_and_esbuild() {
    let graphs: Vec<Graph> = serde_json::from_str(include_str!("../orders/orders.json")).unwrap();
    let (mut same, mut other, mut unset) = (0, 0, 0);
    for (number, graph) in graphs.iter().enumerate() {
        for (entry, order) in graph.evaluated() {
            let (node, esbuild) = (&graph.node[&entry], &graph.esbuild[&entry]);
            let shown =
                format!("graph {number}, {entry}: {order}, Node.js {node}, esbuild {esbuild}");
            let mut agree = true;
            for name in graph.names.split("").filter(|name| !name.is_empty()) {
                let cycle = graph.cycle(name);
                assert_eq!(of_cycle(&order, &cycle), of_cycle(esbuild, &cycle), "{shown}");
                agree &= modules(&of_cycle(esbuild, &cycle)) == of_cycle(node, &cycle);
            }
            if agree {
                assert_eq!(modules(&order), *node, "{shown}");
                same += 1;
            } else {
                other += 1;
            }
            unset += usize::from(order.contains('-'));
        }
    }
    // The graphs include enough cases of interest.
    assert!(same > 100 && other > 40 && unset > 40, "{same} {other} {unset}");
}

/// The shape of an app that works on Convex but fails in JavaScript's own order: two modules of
/// functions import each other, and only one of them can be evaluated first.
#[test]
fn cycles_are_entered_at_the_same_module_as_on_convex() {
    let fixture = fixture_of(&[
        (
            "app.ts",
            "import { limiter } from './limits/limiting'; export const used = () => limiter;",
        ),
        (
            "limits/limiting.ts",
            "import { query } from '../_generated/server'; import { estimate } from './utils';
             export const limiter = { api: (n: number) => n + 1 };
             export const run = query(async () => estimate(1)); export default run;",
        ),
        (
            "limits/utils.ts",
            "import { query } from '../_generated/server'; import { limiter } from './limiting';
             export const start = limiter.api(41); export const estimate = (n: number) => start + n;
             export const get = query(async () => start);",
        ),
    ]);
    assert_eq!(fixture.value("limits/limiting:run", "[{}]"), "43");
    assert_eq!(fixture.value("limits/limiting:default", "[{}]"), "43");
    assert_eq!(fixture.value("limits/utils:get", "[{}]"), "42");
}

#[test]
fn errors_in_cycles_keep_their_positions() {
    let fixture = fixture_of(&[
        (
            "a.js",
            "import { query } from './_generated/server'; import { B } from './b.js';
             export class A { static fail() { throw new Error('x'); } } export const run = query(async () => B.get().fail());",
        ),
        ("b.js", "import { A } from './a.js';\nexport class B { static get() { return A; } }"),
    ]);
    let message = fixture.failure("a:run").message;
    assert!(message.contains("../convex/a.js:2:"), "{message}");
}
