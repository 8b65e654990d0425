//! Compilation of TypeScript.

use std::collections::HashSet;
use std::path::Path;

use functions_engine::{Bytecode, Keep};

use super::source::{Settings, read};

fn code(name: &str, text: &str) -> String {
    match read(Path::new(name), text.to_owned(), &HashSet::new(), &Settings::default()) {
        Ok(source) => source.code,
        Err(error) => panic!("{error}: {text}"),
    }
}

/// The code with whitespace normalized.
fn close(code: &str) -> String {
    let words: Vec<_> = code.split_whitespace().collect();
    words.join(" ").replace("{ ", "{").replace("from \"", "from\"").replace("import \"", "import\"")
}

/// As in esbuild, and TypeScript without `verbatimModuleSyntax`, imports not used as values are
/// removed, and a module without remaining imports is not loaded.
#[test]
fn imports_not_used_as_values_are_dropped() {
    let table = [
        ("import { T } from './a'; let x: T;", "let x;"),
        ("import { T, v } from './a'; let x: T = v;", "import{v}from\"./a\";let x = v;"),
        ("import { unused } from './a'; f();", "f();"),
        ("import T from './a'; export const x = (y: T) => y;", "export const x = (y)=>y;"),
        ("import D, { T } from './a'; let x: T = D;", "import D from\"./a\";let x = D;"),
        ("import * as ns from './a'; let x: ns.T;", "let x;"),
        ("import * as ns from './a'; ns.f();", "import*as ns from\"./a\";ns.f();"),
        ("import v from './a'; let x: typeof v;", "let x;"),
        ("import { C } from './a'; class D implements C {}", "class D {}"),
        (
            "import { C } from './a'; class D extends C {}",
            "import{C}from\"./a\";class D extends C {}",
        ),
        ("import { T } from './a'; f<T>(x as T);", "f (x );"),
        ("import { T } from './a'; { const T = 1; f(T); }", "{const T = 1; f(T);}"),
        // A name can be a type and a value.
        ("import { E } from './a'; let x: E = E.a;", "import{E}from\"./a\";let x = E.a;"),
        ("import { v } from './a'; interface v {} f(v);", "import{v}from\"./a\";f(v);"),
        ("interface S {} const S = 1; export { S };", "const S = 1; export{S};"),
        ("import { s } from './a'; f({ s });", "import{s}from\"./a\";f({s});"),
        // Declared as types.
        ("import type { T } from './a'; f();", "f();"),
        ("import type D from './a'; f();", "f();"),
        ("import { type T, v } from './a'; f(v);", "import{v}from\"./a\";f(v);"),
        ("export type { T } from './a'; f();", "f();"),
        ("export type * from './a'; f();", "f();"),
        ("export { type T, v } from './a';", "export{v}from\"./a\";"),
        ("interface T {} export { T }; f();", "f();"),
        ("type T = 1; export default T; f();", "f();"),
        ("export declare const x: number; export const y = 1;", "export const y = 1;"),
        // Imported for its side effects.
        ("import './a';", "import\"./a\";"),
        ("import {} from './a';", "import\"./a\";"),
        // The file alone does not show whether these are types.
        ("export { v } from './a';", "export{v}from\"./a\";"),
        ("export * from './a';", "export*from\"./a\";"),
        ("import { v } from './a'; export { v };", "import{v}from\"./a\";export{v};"),
    ];
    for (text, expected) in table {
        let printed = close(&code("a.ts", text)).replace("export{};", "");
        let spaceless = |text: &str| text.replace([' ', ';'], "");
        assert_eq!(spaceless(&printed), spaceless(expected), "{text}");
    }
    let text = "import { unused } from './a';\nexport { x };";
    assert_eq!(code("a.js", text), text, "JavaScript stays as it is");
}

/// Each `@` becomes a name that contains its position: `p2_7` in line 2, column 7.
fn placed(text: &str) -> String {
    let mut placed = String::new();
    for char in text.chars() {
        if char == '@' {
            let line = placed.split('\n').count();
            let column = placed.chars().rev().take_while(|char| *char != '\n').count() + 1;
            placed.push_str(&format!("p{line}_{column}"));
        } else {
            placed.push(char);
        }
    }
    placed
}

#[test]
fn names_keep_their_lines_and_columns() {
    let table = [
        "const @ = <any>@, @: Array<string> = @ as any;",
        "@<string>(@); @.@<number>(@, <T>@)!.@!();",
        "function @<T extends { a: string }>(this: X, @: T, @?: number): asserts a is T { @(); }",
        "async () => {\n  return (\n    @\n  );\n};\n@();",
        "() => {\n  throw (\n    // why\n    @\n  );\n};\n@();",
        "function* @(): Generator {\n  yield (\n         @\n  );\n  @();\n}",
        "@(async (\n       @\n) => @);\n@();",
        "@(async <\n  T\n>(\n       @: T\n) => @);\n@();",
        "const @ = () => { if (@) return\n  return;\n  @() };",
        "() => { return <any>(\n @ as any\n ) };",
        "@(`a ${@ as any}\n b ${`${@}\n`} c`, @);\n@();",
        "enum @ { A = 1, B = 'b' }\n@();\nenum E {\n  A,\n}\n@();",
        "namespace @ {\n  export const a = 1 as any;\n  export function @() {}\n}\n@();",
        "class A<T> extends @<T> implements B {\n  private readonly @: T = @ as any;\n  declare b: T;\n  \
         abstract c(): void;\n  [key: string]: any;\n  constructor(private q: T, public r = 2) {\n    \
         super();\n    @();\n  }\n  @<T>(@: T): T { return @!; }\n}\n@();\n@();",
        "interface A {\n  a: string;\n}\ntype B = A &\n  A;\ndeclare module 'x' {}\n@();",
        "const @ = 'ünï🦀', @: string = @;\n/* é */ @(@);",
        "@\n  .@((@: any) => @)\n  // why\n  .@<\n    string\n  >(@);",
        "if (@) @(); else {\n\n  @();\n}\r\n@();\n@: for (const @ of @ as any[]) { continue }",
        "const { @: @ = @, ...@ }: any = @;\nconst [@, , ...@] = @;",
        "/a\\(b/.test(@) ? @ : @ satisfies T;\n@?.@?.(@)!;\n@ ??= @;",
    ];
    for text in table {
        let text = placed(text);
        let printed = code("a.ts", &text);
        let lines: Vec<&str> = printed.split('\n').collect();
        let mut names = 0;
        for name in text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_') {
            let Some((line, column)) = name.strip_prefix('p').and_then(|at| at.split_once('_'))
            else {
                continue;
            };
            let (Ok(line), Ok(column)) = (line.parse::<usize>(), column.parse::<usize>()) else {
                continue;
            };
            let found = lines[line - 1].encode_utf16().skip(units_before(&text, line, column));
            let found: Vec<u16> = found.take(name.len()).collect();
            assert_eq!(String::from_utf16_lossy(&found), name, "{text}\n{printed}");
            names += 1;
        }
        assert!(names > 0, "{text}");
        Bytecode::compile("a", &printed, Keep::Everything)
            .unwrap_or_else(|error| panic!("{error}: {printed}"));
    }
}

fn units_before(text: &str, line: usize, column: usize) -> usize {
    let line = text.split('\n').nth(line - 1).unwrap();
    line.chars().take(column - 1).map(char::len_utf16).sum()
}
