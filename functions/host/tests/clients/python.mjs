// Runs Convex's Python client and checks what the host logged for it. Run by ../../../with-npm.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { record } from "functions-recorder";

const t = await record({ functions: "convex" });
const [code] = await once(spawn(process.env.PYTHON, ["client.py", t.url], { stdio: "inherit" }), "close");
assert.equal(code, 0);
const log = await t.until(({ action }) => action === "ran later", { ms: 120_000 });
assert.deepEqual(log, { action: "ran later", ip: null, userAgent: null });
const of = (name) => t.logs().filter(({ action }) => action === name);
assert.deepEqual(of("note.added").map(({ text, ip }) => [text, ip]), ["by Python", "and again", "", "by an action"].map((text) => [text, "127.0.0.1"]));
assert.deepEqual([...new Set(of("notes.listed").map(({ count }) => count))], [0, 1, 2, 3]);
await t.close();
console.log(`PyPI's convex: as documented, ${t.logs().length} logs`);
