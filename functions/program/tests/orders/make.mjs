// Writes orders.json: small graphs of modules, many with cycles, and the order in which Node.js evaluates each graph's
// modules, both directly and as bundled by esbuild for Convex. Run it where the esbuild version of Convex's package is
// installed: node make.mjs > orders.json
//
// The modules of a graph are letters. The first `app` of them are modules of functions, the others are helpers.
// `links` has for each module its imports: `i` for effects alone, `n` of a name, `s` of the namespace, `r` a re-export of
// all, `e` a re-export of a name, `d` an `import()`. Module `c` exports a class, all others a constant. `../it/orders.rs`
// writes the same text.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRequire } from "node:module";

const { buildSync } = createRequire(join(process.cwd(), "x.js"))("esbuild");

let state = 12;
function random(below) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

function graph() {
  const count = 3 + random(5);
  const names = [..."abcdefg"].slice(0, count);
  const links = {};
  for (const name of names) {
    const others = names.filter((other) => other !== name);
    const imported = new Set();
    for (let left = random(4); left > 0; left--) imported.add(others[random(others.length)]);
    links[name] = [...imported].map((other) => "innnsred"[random(8)] + other).join(" ");
  }
  return { app: 1 + random(count), names: names.join(""), links };
}

const place = (graph, name) => (graph.names.indexOf(name) < graph.app ? "convex" : "lib");

function text(graph, name, isReading) {
  const links = graph.links[name].split(" ").filter(Boolean).map(([kind, of]) => ({ kind, of }));
  const lines = links.map(({ kind, of }) => {
    const from = `"../${place(graph, of)}/${of}.js"`;
    if (kind === "i") return `import ${from};`;
    if (kind === "n") return `import { ${of} } from ${from};`;
    if (kind === "s") return `import * as ${of} from ${from};`;
    if (kind === "r") return `export * from ${from};`;
    if (kind === "e") return `export { ${of} as ${name}${of} } from ${from};`;
    return `export const late${of} = () => import(${from});`;
  });
  const read = isReading ? links.filter(({ kind }) => kind === "n").map(({ of }) => `(${of} === undefined ? "-${of}" : "")`) : [];
  lines.push(`globalThis.order = (globalThis.order ?? "") + ${[`"${name}"`, ...read].join(" + ")};`);
  lines.push(name === "c" ? "export class c {}" : `export const ${name} = 1;`);
  return lines.join("\n") + "\n";
}

const directory = mkdtempSync(join(tmpdir(), "orders"));
writeFileSync(join(directory, "package.json"), '{ "type": "module" }');

function evaluated(root, entries) {
  const code = `await import(${"process.argv[1]"}); console.log(globalThis.order);`;
  const run = (name) => {
    try {
      return execFileSync(process.execPath, ["--input-type=module", "-e", code, join(root, `${name}.js`)], { stdio: ["ignore", "pipe", "ignore"] }).toString().trim();
    } catch {
      return null;
    }
  };
  return Object.fromEntries(entries.map((name) => [name, run(name)]));
}

const seen = new Set();
const lines = [];
while (lines.length < 100) {
  const made = graph();
  const key = JSON.stringify(made);
  if (seen.has(key)) continue;
  seen.add(key);
  const entries = [...made.names].slice(0, made.app);
  const write = (isReading) => {
    for (const name of made.names) {
      mkdirSync(join(directory, place(made, name)), { recursive: true });
      writeFileSync(join(directory, place(made, name), `${name}.js`), text(made, name, isReading));
    }
  };
  write(false);
  const node = evaluated(join(directory, "convex"), entries);
  write(true);
  buildSync({
    entryPoints: entries.map((name) => join(directory, "convex", `${name}.js`)),
    bundle: true, platform: "browser", format: "esm", target: "esnext", splitting: true, treeShaking: true, minifySyntax: true,
    outdir: join(directory, "out"), outbase: join(directory, "convex"), conditions: ["convex", "module"], logLevel: "error",
  });
  const esbuild = evaluated(join(directory, "out"), entries);
  for (const name of ["convex", "lib", "out"]) rmSync(join(directory, name), { recursive: true, force: true });
  lines.push(JSON.stringify({ ...made, node, esbuild }));
}
rmSync(directory, { recursive: true });
console.log(`[\n${lines.join(",\n")}\n]`);
