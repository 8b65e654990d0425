//! Resolution of imports.

use super::tests::Files;
use super::*;

/// Loads a program whose module `a.ts` throws unless an expression has the expected value.
fn expect(imports: &str, expression: &str, expected: &str, files: &[(&str, &str)]) {
    let module = format!(
        "{imports}\nexport {{}}; const got = JSON.stringify({expression});\n\
         if (got !== JSON.stringify({expected})) throw new Error(`got ${{got}}`);"
    );
    let all = Files::new(files);
    all.write("convex/a.ts", &module);
    if let Err(error) = all.load() {
        panic!("{error}: {imports} {expression}");
    }
}

#[test]
fn packages_are_resolved_as_by_the_bundler() {
    let manifest = |name: &str, rest: &str| {
        (format!("node_modules/{name}/package.json"), format!("{{\"name\":\"{name}\",{rest}}}"))
    };
    let file = |path: &str, text: &str| (format!("node_modules/{path}"), text.to_owned());
    let says = |path: &str| file(path, &format!("export default '{path}';"));
    let owned = [
        manifest("conditions", r#""exports":{"types":"./x.d.ts","convex":"./convex.js","import":"./import.js","default":"./no.js"}"#),
        says("conditions/convex.js"),
        says("conditions/import.js"),
        // The first condition of the manifest that applies wins.
        manifest("order", r#""exports":{"import":"./import.js","convex":"./convex.js"}"#),
        says("order/import.js"),
        says("order/convex.js"),
        manifest("browser-condition", r#""exports":{"node":"./node.js","browser":"./browser.js","default":"./no.js"}"#),
        says("browser-condition/browser.js"),
        manifest("module-condition", r#""exports":{"module":"./module.js","require":"./no.js","default":"./no.js"}"#),
        says("module-condition/module.js"),
        manifest("main-field", r#""main":"./lib/main""#),
        says("main-field/lib/main.js"),
        manifest("module-field", r#""main":"./no.js","module":"./module.js""#),
        says("module-field/module.js"),
        manifest("browser-field", r#""main":"./no.js","module":"./no.js","browser":"./browser.js""#),
        says("browser-field/browser.js"),
        manifest("browser-map", r#""module":"./m.js","browser":{"./node.js":"./web.js","fs":false,"swap":"./swapped.js"}"#),
        file("browser-map/m.js", "import a from './node.js'; import * as fs from 'fs'; import s from 'swap'; export default [a, Object.keys(fs), s];"),
        says("browser-map/web.js"),
        says("browser-map/swapped.js"),
        manifest("@scope/sub", r#""exports":{"./*":"./lib/*.js","./deep/*":"./deep/*.mjs","./no/*":null}"#),
        says("@scope/sub/lib/x.js"),
        says("@scope/sub/deep/y.mjs"),
        manifest("no-exports", r#""main":"a.js""#),
        says("no-exports/sub/index.js"),
        // Names that look like files.
        manifest("chart.js", r#""main":"c.js""#),
        says("chart.js/c.js"),
        manifest("self", r#""exports":{".":"./s.js","./other":"./o.js"}"#),
        file("self/s.js", "export { default } from 'self/other';"),
        says("self/o.js"),
        manifest("hash", r##""imports":{"#inner":"./inner.js"},"main":"./h.js""##),
        file("hash/h.js", "export { default } from '#inner';"),
        says("hash/inner.js"),
        // A component whose package was not built.
        manifest("component", r#""exports":{"./x":{"@convex-dev/component-source":"./src/x.ts","default":"./dist/x.js"}}"#),
        says("component/src/x.ts"),
        ("convex/lib/index.ts".to_owned(), "export default 'index';".to_owned()),
        ("convex/lib/both.ts".to_owned(), "export default 'ts';".to_owned()),
        ("convex/lib/both.js".to_owned(), "export default 'js';".to_owned()),
        ("convex/data.json".to_owned(), r#"{"a":[1],"b-c":2,"default":3}"#.to_owned()),
        ("convex/notes.txt".to_owned(), "text".to_owned()),
        ("tsconfig.json".to_owned(), r#"{ // as authors write it
            "compilerOptions":{"baseUrl":".","paths":{"@/*":["./*"],"~lib":["convex/lib/index.ts"],"@twice/*":["./no/*","./convex/lib/*"],}},
            "exclude":["convex"] }"#.to_owned()),
    ];
    let files: Vec<(&str, &str)> =
        owned.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let table = [
        ("conditions", "conditions/convex.js"),
        ("order", "order/import.js"),
        ("browser-condition", "browser-condition/browser.js"),
        ("module-condition", "module-condition/module.js"),
        ("main-field", "main-field/lib/main.js"),
        ("module-field", "module-field/module.js"),
        ("browser-field", "browser-field/browser.js"),
        ("@scope/sub/x", "@scope/sub/lib/x.js"),
        ("@scope/sub/deep/y", "@scope/sub/deep/y.mjs"),
        ("no-exports/sub", "no-exports/sub/index.js"),
        ("chart.js", "chart.js/c.js"),
        ("self", "self/o.js"),
        ("hash", "hash/inner.js"),
        ("component/x", "component/src/x.ts"),
        ("./lib", "index"),
        ("./lib/", "index"),
        ("./lib/index", "index"),
        ("./lib/index.js", "index"),
        ("./lib/both", "ts"),
        ("./lib/both.js", "js"),
        ("../convex/lib", "index"),
        ("@/convex/lib", "index"),
        ("~lib", "index"),
        ("@twice/both", "ts"),
        ("./notes.txt", "text"),
    ];
    let mut imports = String::new();
    for (place, (specifier, _)) in table.iter().enumerate() {
        imports += &format!("import x{place} from '{specifier}';");
    }
    imports += "import map from 'browser-map'; import json, { a } from './data.json'; \
                import json2 from './data.json' with { type: 'json' };";
    let got: Vec<String> = (0..table.len()).map(|place| format!("x{place}")).collect();
    let expected: Vec<&str> = table.iter().map(|(_, expected)| *expected).collect();
    expect(
        &imports,
        &format!("[{}, map, json, a, json2]", got.join(",")),
        &format!(
            "[...{expected:?}, ['browser-map/web.js', ['default'], 'browser-map/swapped.js'], \
             {{a:[1],'b-c':2,default:3}}, [1], {{a:[1],'b-c':2,default:3}}]"
        ),
        &files,
    );
}

/// The same specifier in two components denotes different modules.
#[test]
fn specifiers_are_resolved_per_importer() {
    let config = |name: &str, uses: &str| {
        format!(
            "import {{ defineComponent }} from 'convex/server'; {uses}
             const component = defineComponent('{name}'); export default component;"
        )
    };
    let files = Files::new(&[
        (
            "convex/convex.config.ts",
            "import { defineApp } from 'convex/server';
             import one from '../component1/convex.config.js';
             const app = defineApp(); app.use(one); export default app;",
        ),
        ("component1/convex.config.ts", "import { defineComponent } from 'convex/server';
             import two from '../component2/convex.config.js';
             const component = defineComponent('one'); component.use(two); export default component;"),
        ("component2/convex.config.ts", &config("two", "")),
        ("component2/convex/a.ts", "export default 'wrong';"),
        // Names that look like those of built-in modules and of the program.
        ("convex/b.ts", "import x from '../convex/c'; if (x !== 'right') throw new Error(x); export default 1;"),
        ("convex/c.ts", "export default 'right';"),
    ]);
    let program = files.loaded();
    let paths: Vec<String> = program.components().map(|(path, _)| path.to_string()).collect();
    assert_eq!(paths, ["", "one", "one/two"]);
}

/// Files outside the app do not exist for it, whatever path leads to them.
#[test]
fn files_outside_the_app_are_not_read() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    for (name, text) in [
        ("s.json", "{\"secret\":1}"),
        ("s.ts", "export default 'secret';"),
        ("s.js", "module.exports = 'secret';"),
        ("package.json", "{\"main\":\"s.js\"}"),
        ("tsconfig.json", "{\"compilerOptions\":{\"paths\":{\"x\":[\"./s.ts\"]}}}"),
    ] {
        std::fs::write(secret.join(name), text).unwrap();
    }
    let real = std::fs::canonicalize(&secret).unwrap();
    let real = real.display();
    let app = Files::new(&[
        ("package.json", "{}"),
        ("convex/ok.ts", "export const ok = 1;"),
        (
            "node_modules/escapes/package.json",
            &format!("{{\"main\":\"../../../../../../../../../..{real}/s.js\"}}"),
        ),
        (
            "node_modules/maps/package.json",
            &format!(
                "{{\"main\":\"m.js\",\"browser\":{{\"./m.js\":\"../../../../../../../../..{real}/s.js\"}}}}"
            ),
        ),
    ]);
    let root = app.path().to_owned();
    symlink(&secret, root.join("linked")).unwrap();
    symlink(secret.join("s.json"), root.join("linked.json")).unwrap();
    symlink(&secret, root.join("node_modules/evil")).unwrap();
    let up = "../".repeat(20);
    let specifiers = [
        format!("{up}{real}/s.json").replace("//", "/"),
        format!("{up}{real}/s").replace("//", "/"),
        format!("{real}/s.ts"),
        format!("file://{real}/s.ts"),
        "../linked/s.ts".to_owned(),
        "../linked.json".to_owned(),
        "evil".to_owned(),
        "evil/s.json".to_owned(),
        "escapes".to_owned(),
        "maps".to_owned(),
        "/etc/passwd".to_owned(),
        "/proc/self/environ".to_owned(),
    ];
    for specifier in &specifiers {
        for import in [
            format!("import x from '{specifier}'; console.log(x);"),
            format!("export * from '{specifier}';"),
            format!("export const x = require('{specifier}'); console.log(x);"),
        ] {
            app.write("convex/a.ts", &import);
            let error = app.error();
            assert!(error.starts_with("convex/a.ts: "), "{specifier}: {error}");
            assert!(!error.contains("secret'"), "{specifier}: {error}");
        }
    }
    // Modules of functions, directories of them, and settings.
    app.write("convex/a.ts", "export {};");
    symlink(secret.join("s.ts"), root.join("convex/link.ts")).unwrap();
    assert!(app.error().contains("outside the app"), "{}", app.error());
    std::fs::remove_file(root.join("convex/link.ts")).unwrap();
    symlink(&secret, root.join("convex/link")).unwrap();
    assert!(app.error().contains("outside the app"), "{}", app.error());
    std::fs::remove_file(root.join("convex/link")).unwrap();
    // A symbolic link to its own directory, and a pipe.
    symlink(root.join("convex"), root.join("convex/again")).unwrap();
    app.loaded();
    let pipe = root.join("convex/pipe.ts");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    assert!(app.error().contains("not a file"), "{}", app.error());
    std::fs::remove_file(pipe).unwrap();
    app.write("tsconfig.json", &format!("{{\"extends\":\"{real}/tsconfig.json\"}}"));
    app.write("convex/a.ts", "import x from 'x'; console.log(x);");
    assert!(app.error().contains("is not installed"), "{}", app.error());
    // Symbolic links within the app are followed.
    app.write("tsconfig.json", "{}");
    app.write("lib/l.ts", "export const l = {};");
    symlink(root.join("lib"), root.join("convex/lib")).unwrap();
    app.write("convex/a.ts", "import { l } from './lib/l'; import { l as m } from '../lib/l'; if (l !== m) throw new Error('twice');");
    app.loaded();
    let huge = "//".repeat(9 << 20);
    app.write("convex/huge.ts", &huge);
    assert!(app.error().contains("it exceeds limit of 16 MiB"), "{}", app.error());
}

#[test]
fn modules_for_node_do_not_affect_the_rest_of_the_app() {
    let files = Files::new(&[
        (
            "convex/mail.ts",
            "// for Node\n'use strict';\n\"use node\";\nimport nodemailer from 'nodemailer'; throw new Error('not loaded');",
        ),
        (
            "convex/a.ts",
            "import { query } from './_generated/server'; export const f = query(async () => 1);",
        ),
    ]);
    let program = files.loaded();
    let app = program.component(&ComponentPath::root()).unwrap();
    assert_eq!(app.functions().count(), 1);
    for (name, is_for_node) in [
        ("mail:send", true),
        ("mail", true),
        ("mail.js:send", true),
        ("a:f", false),
        ("mails:send", false),
    ] {
        assert_eq!(app.is_for_node(name), is_for_node, "{name}");
    }
    assert_eq!(
        program.warnings(),
        [
            "convex: calls of functions of modules with \"use node\" fail, as this host has no Node.js: mail"
        ]
    );
    files.write("convex/mail.ts", "export {};");
    assert!(program.has_changed());
}
