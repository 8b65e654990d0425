// Opens a page with Convex's React client in two browsers, and checks what the host logged for each. Run by ../../../with-npm.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { anyApi as api } from "convex/server";
import { buildSync } from "esbuild";
import { record } from "functions-recorder";
import { chromium } from "playwright-core";

const HTML = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="root"></div><script src="/page.js"></script>`;
const built = buildSync({
  entryPoints: ["page.jsx"], bundle: true, write: false, jsx: "automatic", define: { "process.env.NODE_ENV": '"production"' },
});
const [{ contents: script }] = built.outputFiles;
const pages = createServer((request, response) => {
  const isScript = request.url === "/page.js";
  response.writeHead(200, { "Content-Type": isScript ? "text/javascript" : "text/html" }).end(isScript ? script : HTML);
});
pages.listen(0, "127.0.0.1");
await once(pages, "listening");

const t = await record({ functions: "convex" });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

/// A separate browser. Messages from the host are held back while `isHeld`.
async function open(userAgent, texts) {
  const context = await browser.newContext({ userAgent });
  // The time limits are generous, since the machine may be busy.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.wrong = [];
  page.on("pageerror", (error) => page.wrong.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") page.wrong.push(message.text());
  });
  page.held = [];
  page.isHeld = false;
  page.release = () => {
    page.isHeld = false;
    for (const send of page.held.splice(0)) send();
  };
  await page.routeWebSocket(/\/sync$/, (socket) => {
    const host = socket.connectToServer();
    host.onMessage((message) => (page.isHeld ? page.held.push(() => socket.send(message)) : socket.send(message)));
  });
  await page.goto(`http://127.0.0.1:${pages.address().port}/?host=${encodeURIComponent(t.url)}`);
  await shows(page, "#list li", texts);
  return page;
}

/// Waits until a page shows all of these texts.
async function shows(page, selector, texts) {
  const expected = JSON.stringify(texts);
  const isShown = ({ selector, expected }) => JSON.stringify([...document.querySelectorAll(selector)].map((one) => one.textContent)) === expected;
  await page.waitForFunction(isShown, { selector, expected }).catch(async (error) => {
    throw new Error(`${selector} shows ${JSON.stringify(await page.locator(selector).allTextContents())}, not ${expected}: ${error.message}`);
  });
}

async function add(page, text) {
  await page.locator("input").fill(text);
  await page.locator("#add").click();
}

const texts = Array.from({ length: 12 }, (_, i) => `note ${i}`);
for (const text of texts) await t.mutation(api.notes.add, { text });
t.clear();

const ada = await open("Ada's browser", texts);
const bob = await open("Bob's browser", texts);
const newest = [...texts].reverse();
for (const page of [ada, bob]) {
  await shows(page, "#pages li", newest.slice(0, 5));
  await shows(page, "#status", ["CanLoadMore"]);
}

// An optimistic update is shown before the host's answer, and replaced by it.
ada.isHeld = true;
await add(ada, "of Ada");
await shows(ada, "#list li", [...texts, "of Ada (sending)"]);
assert.equal((await t.until(({ text }) => text === "of Ada", { ms: 120_000 })).userAgent, "Ada's browser");
await shows(bob, "#list li", [...texts, "of Ada"]);
await shows(ada, "#list li", [...texts, "of Ada (sending)"]);
ada.release();
await shows(ada, "#list li", [...texts, "of Ada"]);

// The update is rolled back if the mutation fails.
ada.isHeld = true;
await add(ada, "");
await shows(ada, "#list li", [...texts, "of Ada", " (sending)"]);
ada.release();
await shows(ada, "#failure", ["EMPTY"]);
await shows(ada, "#list li", [...texts, "of Ada"]);

// Paginated lists grow, and follow changes.
for (const page of [ada, bob]) {
  await shows(page, "#pages li", ["of Ada", ...newest.slice(0, 5)]);
  await page.locator("#more").click();
  await shows(page, "#pages li", ["of Ada", ...newest.slice(0, 10)]);
  await page.locator("#more").click();
  await shows(page, "#pages li", ["of Ada", ...newest]);
  await shows(page, "#status", ["Exhausted"]);
}

// Each browser received the list twice, and each delivery was logged for its own caller.
for (const userAgent of ["Ada's browser", "Bob's browser"]) {
  const mine = t.logs().filter((log) => log.userAgent === userAgent);
  assert.ok(mine.every(({ ip }) => ip === "127.0.0.1"));
  const listed = mine.filter(({ action }) => action === "notes.listed").map(({ count }) => count);
  assert.deepEqual(listed, [12, 13], userAgent);
  const paged = mine.filter(({ action }) => action === "notes.paged").map(({ count }) => count);
  assert.deepEqual([...new Set(paged)].sort((one, other) => one - other), [2, 5, 6], userAgent);
}
const added = t.logs().filter(({ action }) => action === "note.added");
assert.deepEqual(added.map(({ text, userAgent }) => [text, userAgent]), [["of Ada", "Ada's browser"], ["", "Ada's browser"]]);
// Convex's client logs the mutation that failed.
assert.equal(ada.wrong.length, 1, ada.wrong.join("\n"));
assert.match(ada.wrong[0], /notes:add/);
assert.deepEqual(bob.wrong, []);

await browser.close();
await t.close();
pages.closeAllConnections();
pages.close();
console.log(`the React client in two browsers: as documented, ${t.logs().length} logs`);
