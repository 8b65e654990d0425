//! Deeply nested source does not abort the process.

use super::Env;
use super::Program;

/// `open` for each level, then `middle`, then `close` for each level.
fn nested(open: &str, middle: &str, close: &str, levels: usize) -> String {
    [open.repeat(levels).as_str(), middle, close.repeat(levels).as_str()].concat()
}

/// At any depth, each text either loads or is refused, and never aborts the process.
#[test]
fn deeply_nested_text_loads_or_is_refused() {
    // The prefix, the opening of each level, the middle, the closing of each level, the suffix.
    let javascript = [
        ("export const a = ", "(", "1", ")", ";"),
        ("export const a = ", "[", "", "]", ";"),
        ("export const a = ", "{a:", "1", "}", ";"),
        ("export const a = () => ", "{", "", "}", ";"),
        ("export const a = ", "1+", "1", "", ";"),
        ("export const a = ", "1**", "1", "", ";"),
        ("export const a = ", "1&&", "1", "", ";"),
        ("export const a = ", "1??", "1", "", ";"),
        ("export const a = ", "!", "1", "", ";"),
        ("export const a = ", "- ", "1", "", ";"),
        ("export const a = ", "typeof ", "1", "", ";"),
        ("export const a = async () => ", "await ", "1", "", ";"),
        ("export const a = ", "new ", "a", "", ";"),
        ("export const a = ", "b=>", "1", "", ";"),
        ("export const a = ", "async b=>", "1", "", ";"),
        ("export const a = ", "1?1:", "1", "", ";"),
        ("export const a = ", "1?", "1", ":1", ";"),
        ("let a; ", "a=", "1", "", ";"),
        ("export const a = ", "`${", "1", "}`", ";"),
        ("export const a = ", "f(", "1", ")", ";"),
        ("export const a = b", ".c", "", "", ";"),
        ("export const a = b", "?.c", "", "", ";"),
        ("export const a = b", "[0]", "", "", ";"),
        ("export const a = b", "()", "", "", ";"),
        ("export const a = b", "``", "", "", ";"),
        ("", "if(1)", "1", "", ";"),
        ("", "if(1){}else ", "1", "", ";"),
        ("", "for(;;)", "1", "", ";"),
        ("", "while(0)", "1", "", ";"),
        ("", "l:", "1", "", ";"),
        ("export const a = ", "class{[", "1", "]=1}", ";"),
        ("export const a = ", "function(b=", "1", "){}", ";"),
        ("const ", "[", "a", "]", " = 1;"),
        ("const ", "{a:", "a", "}", " = 1;"),
        ("export const a = /", "(", "", ")", "/;"),
        ("", "try{", "", "}finally{}", ""),
        ("", "switch(1){case 1:", "", "}", ""),
    ];
    let typescript = [
        ("export type A = ", "Array<", "1", ">", ";"),
        ("export type A = ", "[", "1", "]", ";"),
        ("export type A = ", "{a:", "1", "}", ";"),
        ("export type A = ", "(", "1", ")", ";"),
        ("export type A = ", "1|", "1", "", ";"),
        ("export type A = ", "keyof ", "1", "", ";"),
        ("export type A = 1", "[]", "", "", ";"),
        ("export type A = ", "1 extends 1?1:", "1", "", ";"),
        ("export type A = ", "()=>", "1", "", ";"),
        ("export type A = ", "`${", "1", "}`", ";"),
        ("export type A = a", ".b", "", "", ";"),
        ("export const a = 1", " as any", "", "", ";"),
        ("export const a = 1", "!", "", "", ";"),
        ("export const a = ", "<any>", "1", "", ";"),
        ("", "namespace A{", "", "}", ""),
        ("export const a = (", "(b:", "1", ")=>1", ");"),
    ];
    let jsx = [
        ("export const a = ", "<a>", "", "</a>", ";"),
        ("export const a = ", "<a b={", "1", "}/>", ";"),
        ("export const a = ", "<>", "", "</>", ";"),
    ];
    let data = [("", "[", "", "]", ""), ("", "{\"a\":", "1", "}", "")];
    let common = [
        ("module.exports = ", "(", "1", ")", ";"),
        ("module.exports = ", "require(", "'a'", ")", ";"),
        ("", "try{", "require('a')", "}catch{}", ""),
    ];
    let cases = [
        ("a.js", &javascript[..]),
        ("a.ts", &javascript[..]),
        ("a.ts", &typescript[..]),
        ("a.tsx", &jsx[..]),
        ("b.json", &data[..]),
        ("b.cjs", &common[..]),
    ];
    std::thread::scope(|scope| {
        for (name, table) in cases {
            scope.spawn(move || each_loads_or_is_refused(name, table));
        }
    });
}

fn each_loads_or_is_refused(name: &str, table: &[(&str, &str, &str, &str, &str)]) {
    for (before, open, middle, close, after) in table {
        for levels in [4_900, 30_000, 99_000, 300_000] {
            let text = format!("{before}{}{after}", nested(open, middle, close, levels));
            let directory = tempfile::tempdir().unwrap();
            let convex = directory.path().join("convex");
            std::fs::create_dir(&convex).unwrap();
            std::fs::write(convex.join(name), &text).unwrap();
            if name.starts_with('b') {
                let text = format!("import b from './{name}'; export const x = b;");
                std::fs::write(convex.join("a.ts"), text).unwrap();
            }
            // Evaluating it may loop or fail.
            if let Err(error) = Program::load(&convex, &Env::default()) {
                assert!(error.to_string().contains(": "), "{error}");
            }
        }
    }
}
