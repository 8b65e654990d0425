// Compares what snippets.mjs gives on the host with what it gives in Node.js. Run by ../../../with-npm.
import { record } from "functions-recorder";
import { outcome } from "./shown.mjs";
import { snippets } from "./snippets.mjs";

/// The parts of a shown array, or the text itself.
function partsOf(text) {
  if (!text.startsWith("[")) return [text];
  const found = [];
  let [depth, from, isQuoted] = [0, 1, false];
  for (let i = 1; i < text.length; i++) {
    const char = text[i];
    if (isQuoted) {
      if (char === "\\") i++;
      else if (char === '"') isQuoted = false;
    } else if (char === '"') isQuoted = true;
    else if ("[{".includes(char)) depth++;
    else if ((char === "," && depth === 0) || ("]}".includes(char) && depth-- === 0)) {
      found.push(text.slice(from, i));
      from = i + 1;
    }
  }
  return found;
}

/// Differences that remain, by the snippet and the place in its result.
const KNOWN = {
  "URL parses": { 10: "the crate url keeps the bar of a drive letter" },
  "structuredClone refuses": { 9: "the engine does not tell a Proxy from its target" },
};

const short = (text = "nothing") => (text.length > 300 ? `${text.slice(0, 300)}…` : text);

process.env.TZ = "UTC";
const only = process.argv[2] ?? "";
const t = await record({ functions: "convex" });
let [compared, uses, wrong] = [0, 0, 0];
const say = (name, ...lines) => {
  wrong++;
  console.log([name, ...lines].join("\n  "));
};
try {
  for (const [name, snippet] of Object.entries(snippets)) {
    if (!name.includes(only)) continue;
    const expected = await outcome(snippet);
    const found = await t.action("standards:run", { name });
    compared++;
    const [ours, theirs] = [partsOf(found), partsOf(expected)];
    uses += theirs.length;
    for (let i = 0; i < Math.max(ours.length, theirs.length); i++) {
      const isKnown = KNOWN[name]?.[i] !== undefined;
      if (ours[i] !== theirs[i] && !isKnown) say(name, `at ${i}`, `Node.js: ${short(theirs[i])}`, `host:    ${short(ours[i])}`);
      if (ours[i] === theirs[i] && isKnown) say(name, `at ${i}: there is no difference any more`);
    }
  }
} finally {
  await t.close();
}
console.log(`${uses} uses in ${compared} snippets, ${wrong} differences from Node.js ${process.version}`);
process.exit(wrong === 0 ? 0 : 1);
