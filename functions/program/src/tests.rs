use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::*;

/// A temporary directory with files. The functions are in `convex`.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new(files: &[(&str, &str)]) -> Files {
        let directory = tempfile::tempdir().unwrap();
        let files_of = Files(directory);
        for (name, text) in files {
            files_of.write(name, text);
        }
        if let Some(package) = std::env::var_os("CONVEX_NPM_PACKAGE") {
            let modules = files_of.0.path().join("node_modules");
            std::fs::create_dir_all(&modules).unwrap();
            std::os::unix::fs::symlink(package, modules.join("convex")).unwrap();
        }
        files_of
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn load(&self) -> Result<Program, LoadError> {
        let variables = BTreeMap::from([
            ("SECRET".to_owned(), "s".to_owned()),
            ("REGION".to_owned(), "eu".to_owned()),
        ]);
        Program::load(&self.0.path().join("convex"), &Env::new(variables, []))
    }

    pub(super) fn loaded(&self) -> Program {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn error(&self) -> String {
        match self.load() {
            Ok(_) => panic!("the program was loaded"),
            Err(error) => error.to_string(),
        }
    }
}

const EMPTY: &str =
    "import { query } from './_generated/server'; export const f = query(async () => 1);";

fn names(component: &Component) -> Vec<&str> {
    let mut names: Vec<_> = component.functions().map(|function| function.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn functions_are_named_by_module_and_export() {
    let files = Files::new(&[
        (
            "convex/messages.ts",
            "import { query, mutation, internalAction, internalMutation, internalQuery, action, httpAction } from './_generated/server';
             import { v } from 'convex/values';
             import { paginationOptsValidator } from 'convex/server';
             export default query(async () => 1);
             export const list = query({ args: { n: v.number(), o: v.optional(v.id('users')) }, returns: v.array(v.string()), handler: async () => [] });
             export const pages = query({ args: { opts: paginationOptsValidator }, handler: async () => null });
             export const send = mutation(async () => 1);
             export const act = action({ args: {}, handler: async () => 1 });
             export const inner = internalMutation(async () => 1);
             export const hidden = internalQuery(async () => 1);
             export const job = internalAction(async () => 1);
             export const web = httpAction(async () => new Response('x'));
             export const helper = () => 1; export const constant = { a: 1 }; export class Some {} export const nothing = null;",
        ),
        ("convex/dir/deep/more.js", &EMPTY.replace("./_generated", "../../_generated")),
        ("convex/messages.test.ts", "throw new Error('tests are not loaded');"),
        ("convex/.hidden.ts", "throw new Error('hidden files are not loaded');"),
        ("convex/types.d.ts", "export type T = 1;"),
        ("convex/_generated/dataModel.d.ts", "export type Doc = 1;"),
        ("convex/script.ts", "throw new Error('scripts are not loaded'); // export {}"),
        ("convex/dir/schema.ts", "throw new Error('it is not the schema'); export {};"),
        ("convex/README.md", "not a module"),
        ("convex/tsconfig.json", "{}"),
    ]);
    let program = files.loaded();
    let root = ComponentPath::root();
    let app = program.component(&root).unwrap();
    assert_eq!(
        names(app),
        [
            "dir/deep/more:f",
            "messages:act",
            "messages:default",
            "messages:hidden",
            "messages:inner",
            "messages:job",
            "messages:list",
            "messages:pages",
            "messages:send",
        ]
    );
    let function = |name: &str| program.function(&root, name).unwrap();
    let list = function("messages:list");
    assert_eq!((list.kind, list.is_public), (FunctionKind::Query, true));
    let optional_id =
        json!({ "fieldType": { "type": "id", "tableName": "users" }, "optional": true });
    let number = json!({ "fieldType": { "type": "number" }, "optional": false });
    assert_eq!(list.args, json!({ "type": "object", "value": { "n": number, "o": optional_id } }));
    assert_eq!(list.returns, json!({ "type": "array", "value": { "type": "string" } }));
    assert_eq!(
        (&function("messages:send").args, &function("messages:send").returns),
        (&json!({ "type": "any" }), &json!(null))
    );
    assert_eq!(function("messages:send").kind, FunctionKind::Mutation);
    assert_eq!(
        (function("messages:job").kind, function("messages:job").is_public),
        (FunctionKind::Action, false)
    );
    assert_eq!(function("messages"), function("messages:default"));
    assert_eq!(function("messages.js:list"), list);
    assert_eq!(function("messages.js"), function("messages"));
    assert_eq!(
        program.function(&root, "dir/deep/more:f").map(|function| function.is_public),
        Some(true)
    );
    assert!(program.function(&root, "messages:helper").is_none());
    assert!(program.warnings().is_empty(), "{:?}", program.warnings());
}

#[test]
fn http_without_a_router_is_a_warning() {
    for (text, is_router) in [
        ("const http = httpRouter(); export default http;", true),
        ("export const http = httpRouter();", false),
        ("export default { lookup: httpRouter().lookup };", false),
    ] {
        let text = format!("import {{ httpRouter }} from 'convex/server'; {text}");
        let program = Files::new(&[("convex/http.ts", &text)]).loaded();
        assert_eq!(program.has_http(), is_router, "{text}");
        let warnings = program.warnings().join(" ");
        assert_eq!(warnings.contains("the default export is not a router"), !is_router, "{text}");
    }
}

#[test]
fn schema_crons_and_auth_are_read_from_exports() {
    let files = Files::new(&[
        ("convex/messages.ts", EMPTY),
        (
            "convex/schema.ts",
            "import { defineSchema, defineTable } from 'convex/server'; import { v } from 'convex/values';
             export default defineSchema({
               messages: defineTable({ body: v.string(), author: v.union(v.id('users'), v.null()) })
                 .index('by_author', ['author', 'body'])
                 .searchIndex('text', { searchField: 'body' })
                 .vectorIndex('near', { vectorField: 'v', dimensions: 3, filterFields: ['author'] }),
               users: defineTable(v.any()),
             }, { schemaValidation: false });",
        ),
        (
            "convex/crons.ts",
            "import { cronJobs } from 'convex/server'; import { internal } from './_generated/api';
             const crons = cronJobs();
             crons.interval('tick', { seconds: 30 }, internal.messages.f, { n: 1n });
             crons.daily('daily', { hourUTC: 1, minuteUTC: 2 }, internal.messages.f);
             crons.hourly('hourly', { minuteUTC: 5 }, internal.messages.f, {});
             crons.weekly('weekly', { dayOfWeek: 'monday', hourUTC: 1 }, internal.messages.f);
             crons.monthly('monthly', { day: 31, hourUTC: 1, minuteUTC: 0 }, internal.messages.f);
             crons.cron('cron', '*/5 * * * *', internal.messages.f, { a: [1] });
             export default crons;",
        ),
        ("convex/auth.config.ts", "export default { providers: [{ domain: process.env.REGION, applicationID: 'a' },
            { type: 'customJwt', issuer: 'https://i', algorithm: 'RS256', jwks: process.env.MISSING }] };"),
        (
            "convex/http.ts",
            "import { httpRouter } from 'convex/server'; import { httpAction } from './_generated/server';
             const http = httpRouter(); http.route({ path: '/a', method: 'GET', handler: httpAction(async () => new Response()) });
             export default http;",
        ),
    ]);
    let program = files.loaded();
    let app = program.component(&ComponentPath::root()).unwrap();
    let schema = app.schema.as_ref().unwrap();
    assert_eq!(schema["schemaValidation"], json!(false));
    let table = &schema["tables"][0];
    assert_eq!(table["tableName"], json!("messages"));
    assert_eq!(
        table["indexes"],
        json!([{ "indexDescriptor": "by_author", "fields": ["author", "body"] }])
    );
    assert_eq!(
        table["searchIndexes"],
        json!([{ "indexDescriptor": "text", "searchField": "body", "filterFields": [] }])
    );
    assert_eq!(table["vectorIndexes"][0]["dimensions"], json!(3));
    assert_eq!(table["documentType"]["type"], json!("object"));
    assert_eq!(schema["tables"][1]["documentType"], json!({ "type": "any" }));
    let cron = |name: &str| app.crons.iter().find(|cron| cron.name == name).unwrap();
    assert_eq!(cron("tick").function, "messages:f");
    assert_eq!(cron("tick").args, json!([{ "n": { "$integer": "AQAAAAAAAAA=" } }]));
    assert_eq!(cron("tick").schedule, json!({ "type": "interval", "seconds": 30 }));
    assert_eq!(cron("daily").schedule, json!({ "type": "daily", "hourUTC": 1, "minuteUTC": 2 }));
    assert_eq!(cron("hourly").schedule, json!({ "type": "hourly", "minuteUTC": 5 }));
    assert_eq!(
        cron("weekly").schedule,
        json!({ "type": "weekly", "dayOfWeek": "monday", "hourUTC": 1 })
    );
    assert_eq!(
        cron("monthly").schedule,
        json!({ "type": "monthly", "day": 31, "hourUTC": 1, "minuteUTC": 0 })
    );
    assert_eq!(cron("cron").schedule, json!({ "type": "cron", "cron": "*/5 * * * *" }));
    assert_eq!(cron("cron").args, json!([{ "a": [1] }]));
    let [provider] = &*program.auth_providers() else { panic!("{:?}", program.auth_providers()) };
    assert_eq!((&*provider.issuer, provider.application_id.as_deref()), ("https://eu", Some("a")));
    assert_eq!(
        program.warnings(),
        [
            "convex/auth.config.ts: tokens of provider 2 are refused: jwks is missing, or from a variable that is not set"
        ]
    );
}

#[test]
fn components_have_their_own_names_and_modules() {
    let schema =
        "import { defineSchema, defineTable } from 'convex/server'; import { v } from 'convex/values';
                  export default defineSchema({ blobs: defineTable({ n: v.number() }) });";
    let files = Files::new(&[
        (
            "convex/convex.config.ts",
            "import { defineApp } from 'convex/server';
             import files from './files/convex.config';
             import counter from 'counter/convex.config.js';
             const app = defineApp();
             app.use(files, { env: { REGION: 'us' } });
             app.use(files, { name: 'archive' });
             app.use(counter);
             export default app;",
        ),
        ("convex/messages.ts", EMPTY),
        (
            "convex/files/convex.config.ts",
            "import { defineComponent } from 'convex/server'; import { v } from 'convex/values';
             import blobs from './blobs/convex.config.js';
             const component = defineComponent('files', { env: { REGION: v.optional(v.string()) } });
             component.use(blobs);
             export default component;",
        ),
        ("convex/files/store.ts", EMPTY),
        ("convex/files/schema.ts", schema),
        (
            "convex/files/blobs/convex.config.ts",
            "import { defineComponent } from 'convex/server'; export default defineComponent('blobs');",
        ),
        ("convex/files/blobs/put.ts", EMPTY),
        (
            "node_modules/counter/package.json",
            r#"{ "name": "counter", "type": "module", "exports": { "./convex.config.js": { "types": "./x.d.ts", "default": "./dist/component/convex.config.js" } } }"#,
        ),
        (
            "node_modules/counter/dist/component/convex.config.js",
            "import { defineComponent } from 'convex/server'; export default defineComponent('counter');",
        ),
        ("node_modules/counter/dist/component/public.js", EMPTY),
    ]);
    let program = files.loaded();
    let root = ComponentPath::root();
    let paths: Vec<String> = program.components().map(|(path, _)| path.to_string()).collect();
    assert_eq!(paths, ["", "archive", "archive/blobs", "counter", "files", "files/blobs"]);
    assert_eq!(names(program.component(&root).unwrap()), ["messages:f"]);
    let mounted = root.child("files");
    let component = program.component(&mounted).unwrap();
    assert_eq!(names(component), ["store:f"]);
    assert!(component.schema.is_some() && program.component(&root).unwrap().schema.is_none());
    assert_eq!(component.children, BTreeMap::from([("blobs".to_owned(), mounted.child("blobs"))]));
    assert_eq!(names(program.component(&mounted.child("blobs")).unwrap()), ["put:f"]);
    assert_eq!(names(program.component(&root.child("counter")).unwrap()), ["public:f"]);
    // A component sees the variables it was mounted with, and none of the app's.
    let env = |path: &ComponentPath| {
        let variables = program.env_of(path).variables().iter();
        variables.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(env(&mounted), ["REGION=us"]);
    assert_eq!(env(&root.child("archive")), [""; 0]);
    assert_eq!(env(&root), ["REGION=eu", "SECRET=s"]);
}

/// An app may take more memory while it is loaded than one of its functions may.
#[test]
fn loading_has_a_memory_limit_of_its_own() {
    let module = |mib: u32| {
        format!(
            "export const all = []; for (let i = 0; i < {mib}; i++) all.push(new Uint8Array(1 << 20));"
        )
    };
    Files::new(&[("convex/a.ts", &module(256))]).loaded();
    assert_eq!(
        Files::new(&[("convex/a.ts", &module(1_024))]).error(),
        "convex/a.ts: JavaScript execution ran out of memory (maximum memory usage: 512 MiB)"
    );
}

#[test]
fn load_errors_name_the_module_and_position() {
    // TypeScript without an import or export at the beginning of a line would be ignored.
    let one = |name: &str, text: &str| {
        Files::new(&[(&format!("convex/{name}"), &format!("{text}\nexport {{}};"))]).error()
    };
    let error = one("a.ts", "const x: number = 1;\nconst y = {{;\n");
    assert!(error.starts_with("convex/a.ts:2:12: "), "{error}");
    let error = one("a.js", "const x = 1;\nlet x = 2;\n");
    assert!(error.starts_with("convex/a.js:2:"), "{error}");
    let error = one("a.ts", "export const x = 1;\nexport const y = nothing.x;\n");
    assert_eq!(
        error,
        "convex/a.ts: Uncaught ReferenceError: nothing is not defined\n    at <anonymous> (../convex/a.ts:2:18)"
    );
    let error = one("a.ts", "import { x } from './b'; x();");
    assert_eq!(error, "convex/a.ts: \"./b\" is imported, and there is no such file");
    let error = one("a.ts", "import { x } from '#ui/b.ts'; x();");
    assert_eq!(
        error,
        "convex/a.ts: \"#ui/b.ts\" is imported, and \"imports\" of package.json names no file or \
         installed package for it"
    );
    let error = one("a.ts", "import x from 'left-pad'; x();");
    assert_eq!(
        error,
        "convex/a.ts: \"left-pad\" is imported, and is not installed; npm install it where the functions are"
    );
    // The engine would truncate a message of its own.
    let long = "long/".repeat(99);
    let error = one("a.ts", &format!("import x from 'left-pad/{long}pad'; x();"));
    assert_eq!(
        error,
        format!(
            "convex/a.ts: \"left-pad/{long}pad\" is imported, and is not installed; npm install it where the functions are"
        )
    );
    let error = one("a.tsx", "export const x = <div/>;");
    assert!(
        error.starts_with("convex/a.tsx: \"react/jsx-runtime\" is imported, and is not installed"),
        "{error}"
    );
    let error = one("a.ts", "namespace N { export let x = 1; }");
    assert!(error.starts_with("convex/a.ts:1:26: a namespace exports a variable"), "{error}");
    for class in ["@two class A {}", "class A { @two() one = 1; }", "class A { @two one() {} }"] {
        let error = one("a.ts", &format!("const one = 1;\n{class}"));
        assert!(error.starts_with("convex/a.ts:2:"), "{error}");
        assert!(error.contains("decorators are not supported"), "{error}");
    }
    for using in ["using x = one;", "async () => { await using x = one; };"] {
        let error = one("a.ts", &format!("const one = null;\n{using}"));
        assert!(error.starts_with("convex/a.ts:2:"), "{error}");
        assert!(error.contains("`using` is not supported"), "{error}");
    }
    let error = one("a.ts", "for (;;) {}");
    assert!(error.starts_with("convex/a.ts: Function execution timed out"), "{error}");
    let error = one("a.ts", "Convex.syscall('1.0/x', '{}');");
    assert!(error.contains("Convex operations cannot be used while modules are loaded"), "{error}");
    let error = one("a.ts", "import { q } from 'convex/server'; q();");
    assert!(error.starts_with("convex/a.ts: "), "{error}");
    let error = one("schema.ts", "export default 1;");
    assert!(error.starts_with("convex/schema.ts: the default export is not a schema"), "{error}");
    let error = one("crons.ts", "export const crons = 1;");
    assert!(
        error.starts_with("convex/crons.ts: the default export is not a list of crons"),
        "{error}"
    );
    let error = one("convex.config.ts", "export default {};");
    assert!(
        error.starts_with(
            "convex/convex.config.ts: the default export is not an app or a component"
        ),
        "{error}"
    );
}

/// Convex refuses such names when functions are deployed, whatever the module exports.
#[test]
fn modules_with_invalid_names_are_refused() {
    let rule = "rename it, since modules and their directories have names of ASCII letters, digits, \
                '_' and '.' only, as on Convex";
    let (longest, longer) = ("m".repeat(61), "m".repeat(62));
    for (name, says) in [
        ("my-module.ts", format!("\"my-module.js\" contains '-': {rule}")),
        ("my-module.js", format!("\"my-module.js\" contains '-': {rule}")),
        ("my-dir/a.ts", format!("\"my-dir\" contains '-': {rule}")),
        ("dir/a$.ts", format!("\"a$.js\" contains '$': {rule}")),
        ("größe.ts", format!("\"größe.js\" contains 'ö': {rule}")),
        ("__/a.ts", "\"__\" contains no letter and no digit: rename it".to_owned()),
        (
            &format!("{longer}.tsx"),
            format!("\"{longer}.js\" of 65 bytes exceeds limit of 64 bytes: rename it"),
        ),
    ] {
        for text in [EMPTY, "export const helper = 1;", "\"use node\";\nexport const x = 1;"] {
            let error = Files::new(&[(&format!("convex/{name}"), text)]).error();
            assert_eq!(error, format!("convex/{name}: {says}"));
        }
    }
    let files = Files::new(&[
        ("convex/_a1/_B_2.ts", EMPTY),
        (&format!("convex/{longest}.ts"), EMPTY),
        // None of these is a module of functions.
        ("convex/no-module.ts", "const ignored = 1;"),
        ("convex/my-module.test.ts", EMPTY),
        ("convex/my-data.json", "{}"),
        ("convex/a b-c.ts", EMPTY),
        ("lib/my-helper.ts", "export const fields = { 'a-b': 1 };"),
        ("convex/c.ts", "import { fields } from '../lib/my-helper'; export const x = fields;"),
    ]);
    let program = files.loaded();
    let root = program.component(&ComponentPath::root()).unwrap();
    assert_eq!(names(root), ["_a1/_B_2:f", &format!("{longest}:f")]);
}

#[test]
fn what_is_no_directory_is_told_from_a_missing_one() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let [file, below] = ["a.ts", "a.ts/convex"].map(|name| root.join(name));
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    for (path, says) in [
        (root.join("none"), "there is no such directory"),
        (file, "it is no directory: name the one that holds the functions"),
        (below, "Not a directory (os error 20)"),
        (root.join("loop"), "Too many levels of symbolic links (os error 40)"),
    ] {
        let error = Program::load(&path, &Env::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {says}", path.display()));
    }
}

#[test]
fn handled_import_errors_are_not_reported() {
    let handled = "export {}; await import('./none').catch(() => {}); import('./neither').then(() => {}, () => {});";
    let after = [
        ("throw new Error('mine');", "convex/a.ts: Uncaught Error: mine"),
        ("import './b';", "convex/a.ts: \"./b\" is imported, and there is no such file"),
        ("await import('./b');", "convex/a.ts: \"./b\" is imported, and there is no such file"),
    ];
    for (text, message) in after {
        let error = Files::new(&[("convex/a.ts", &format!("{handled} {text}"))]).error();
        assert_eq!(error.lines().next(), Some(message), "{text}");
    }
    // The failure of one module is not attributed to another.
    let error = Files::new(&[
        ("convex/a.ts", handled),
        ("convex/b.ts", "export {}; throw new Error('mine');"),
        ("convex/c.ts", handled),
    ]);
    assert!(error.error().starts_with("convex/b.ts: Uncaught Error: mine"), "{}", error.error());
}

#[test]
fn enums_namespaces_and_properties_are_compiled() {
    let files = Files::new(&[(
        "convex/a.ts",
        "import { query } from './_generated/server';
         enum Colour { Red, Green = 'g' } namespace Space { export const inner = 3; }
         class Point { constructor(private x: number, public readonly y = 2) {} sum() { return this.x + this.y; } }
         export const f = query(async () => [Colour.Red, Colour.Green, Space.inner, new Point(1).sum()]);",
    )]);
    let program = files.loaded();
    assert_eq!(names(program.component(&ComponentPath::root()).unwrap()), ["a:f"]);
}

#[test]
fn packages_are_found_as_by_node() {
    let files = Files::new(&[
        (
            "convex/a.ts",
            "import { query } from './_generated/server'; import one from 'one'; import sub from '@scope/two/sub/x'; import m from 'main';
             export const f = query({ args: {}, handler: async () => [one, sub, m] });
             if (one !== 'one nested' || sub !== 'two x' || m !== 'main') throw new Error(`${one} ${sub} ${m}`);",
        ),
        ("node_modules/one/package.json", r#"{ "exports": { "require": "./no.cjs", "import": { "types": "./x.d.ts", "default": "./index.mjs" } } }"#),
        ("node_modules/one/index.mjs", "import nested from 'nested'; export default `one ${nested}`;"),
        ("node_modules/one/node_modules/nested/package.json", r#"{ "module": "./esm.js", "main": "./no.js" }"#),
        ("node_modules/one/node_modules/nested/esm.js", "export default 'nested';"),
        ("convex/node_modules/@scope/two/package.json", r#"{ "exports": { "./sub/*": "./lib/*.js" } }"#),
        ("convex/node_modules/@scope/two/lib/x.js", "export default 'two x';"),
        ("node_modules/main/package.json", r#"{ "main": "lib/index" }"#),
        ("node_modules/main/lib/index.js", "export default 'main';"),
    ]);
    files.loaded();
    files.write("convex/b.ts", "import no from 'one/internal'; no();");
    assert!(
        files.error().contains("the package does not export \"one/internal\""),
        "{}",
        files.error()
    );
}

#[test]
fn programs_detect_changed_files() {
    let files = Files::new(&[
        ("convex/a.ts", "import { b } from '../lib/b'; export const a = b;"),
        ("lib/b.ts", "export const b = 1;"),
    ]);
    let program = files.loaded();
    assert!(!program.has_changed());
    // Rewritten with the same contents.
    files.write("convex/a.ts", "import { b } from '../lib/b'; export const a = b;");
    assert!(!program.has_changed());
    // A byte order mark or `#!` is not passed on to the engine, and must not look like a change.
    for start in ["\u{feff}", "#!", "\u{feff}#!"] {
        files.write("node_modules/m/package.json", "\u{feff}{}");
        files.write("node_modules/m/index.js", &format!("{start}//\nmodule.exports = 1;"));
        files.write("convex/m.ts", &format!("{start}//\nimport 'm';"));
        files.write("convex/ignored.ts", &format!("{start}//\n"));
        files.write("convex/for_node.ts", &format!("{start}//\n'use node'; import 'm';"));
        assert!(!files.loaded().has_changed(), "{start:?}");
    }
    for name in ["m", "ignored", "for_node"] {
        std::fs::remove_file(files.path().join(format!("convex/{name}.ts"))).unwrap();
    }
    files.write("convex/notes.md", "not a module");
    assert!(!program.has_changed());
    files.write("lib/b.ts", "export const b = 22;");
    assert!(program.has_changed());
    let program = files.loaded();
    files.write("convex/new.ts", "export const c = 1;");
    assert!(program.has_changed());
    let program = files.loaded();
    std::fs::remove_file(files.0.path().join("convex/new.ts")).unwrap();
    assert!(program.has_changed());
}
