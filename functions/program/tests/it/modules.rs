//! The modules that a function can import, and how they are found.

use super::*;

#[test]
fn modules_import_each_other() {
    let fixture = fixture_of(&[
        (
            "a.ts",
            "import { query } from './_generated/server'; import { b } from './dir/b.js'; import d from './data.json'; \
                  import type { T } from './types'; import { one, type Two } from './dir'; \
                  export const run = query(async () => { const t: T = 1; return [b, d.x, one, await import('./late').then((m) => m.late), t]; });",
        ),
        ("dir/b.ts", "export { b } from '../c';"),
        ("dir/index.ts", "export const one = 'index'; export type Two = 2;"),
        (
            "c.mjs",
            "import { run } from './a'; export const b = 'b'; export const circle = () => run;",
        ),
        ("late.js", "export const late = 'late';"),
        ("types.d.ts", "export type T = number;"),
        ("data.json", "{ \"x\": [1, 2] }"),
    ]);
    assert_eq!(fixture.value("a:run", "[{}]"), "[\"b\",[1,2],\"index\",\"late\",1]");
}

/// A single file does not show whether an import that it re-exports is a type.
#[test]
fn re_exported_types_are_dropped() {
    let fixture = fixture_of(&[
        (
            "a.ts",
            "import { query } from './_generated/server'; import { one, two, three, four } from './index';
             export const run = query(async () => [one, two, three, four]);",
        ),
        (
            "index.ts",
            "export { one, One } from './one'; import { Two, two } from './all'; export { Two, two };
             export { Two as Other, three } from './all'; export { Id } from './_generated/dataModel';
             import { Infer, v } from 'convex/values'; export { Infer, v }; export { QueryCtx } from './_generated/server';
             export { default as four, Circle } from './four'; import * as all from './all'; export { all };",
        ),
        ("one.ts", "export interface One {} export const one = 1;"),
        ("all.ts", "export * from './one'; export * from './two'; export * from './all';"),
        ("two.js", "export const two = 2, { three } = { three: 3 };"),
        (
            "four.ts",
            "export default 4; export { Circle } from './index'; export { type Never as Nothing } from './one';",
        ),
    ]);
    assert_eq!(fixture.value("a:run", "[{}]"), "[1,2,3,4]");
}

#[test]
fn modules_missing_at_loading_are_named() {
    let fixture = fixture(
        "export const late = query(async () => { const name = './no' + 'thing'; return await import(name); });
         export const long = query(async () => await import('./' + 'long/'.repeat(99)));",
    );
    // The engine would truncate a message of its own.
    let message = fixture.failure("messages:long").message;
    assert!(message.contains("specifiers that are computed at run time"), "{message}");
    let message = fixture.failure("messages:late").message;
    assert!(
        message.contains(
            "'./nothing' from '../convex/messages.ts': it was not there when the program was loaded"
        ),
        "{message}"
    );
}
