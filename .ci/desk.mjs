// The page of `audit serve` as people use it, in Chromium. Run by .ci/desk.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { createRequire } from "node:module";
import http from "node:http";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { CHROMIUM, AUDIT, BUCKETS, KEY, LOGS, SCREENSHOTS } = process.env;
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const logs = Number(LOGS);
const children = [];

/// The page's address, of a command that serves until the end of the test.
async function serve(bucket, options = [], environment = {}) {
  const child = spawn(AUDIT, ["serve", bucket, ...options], {
    env: { PATH: process.env.PATH, ...environment }, stdio: ["ignore", "pipe", "ignore"],
  });
  children.push(child);
  const [line] = await once(createInterface(child.stdout), "line");
  return { url: line.replace("the page is at ", ""), pid: child.pid };
}

/// The memory of a process, in MiB.
const resident = (pid) => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--js-flags=--expose-gc", "--enable-precise-memory-info"] });

/// A page on which nothing goes wrong unnoticed.
async function open({ url }, { expected = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
  // Nothing here is a matter of time: a busy machine may take long.
  context.setDefaultTimeout(150_000);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !expected.some((text) => message.text().includes(text))) wrong.push(message.text());
  });
  page.on("dialog", (dialog) => wrong.push(`dialog: ${dialog.message()}`));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== new URL(url).host) wrong.push(`elsewhere: ${request.url()}`);
  });
  page.wrong = wrong;
  await page.goto(url);
  return page;
}

const progress = (page) => page.locator("#progress");
const rows = (page) => page.locator("#table tbody tr");

/// Waits for the end of a search, and gives how many records matched.
async function searched(page) {
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("match"));
  return Number(/, ([\d,]+) match/.exec(await progress(page).textContent())[1].replaceAll(",", ""));
}

/// Does something that starts a new search, and waits for its end.
async function asking(page, act) {
  await Promise.all([page.waitForResponse((response) => response.url().includes("/api/scan")), act()]);
  return searched(page);
}

async function accessible(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary}`).join("; ")}`);
  assert.deepEqual(told, [], what);
}

async function shot(page, name) {
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
}

const tests = {
  async "first load, filter, zoom, open, follow, link"() {
    const page = await open(sound);
    const all = await searched(page);
    assert.equal(await rows(page).count(), 100);
    await page.getByText("Every record in this bucket is what its host wrote").waitFor();
    await accessible(page, "first load");

    // A value beside the timeline becomes a condition, and can be removed.
    const value = page.locator('#facets button.value[data-where=\'/user="user3"\']');
    const count = Number((await value.locator("span").last().textContent()).replaceAll(",", ""));
    assert.equal(await asking(page, () => value.click()), count);
    assert.deepEqual([...new Set(await rows(page).locator("td:nth-child(3)").allTextContents())], ["user3"]);
    assert.match(page.url(), /where=%2Fuser%3D%22user3%22/);
    const without = await asking(page, () => page.locator('#facets button.not[data-where=\'/action!="documents.view"\']').click());
    assert.ok(without > 0 && without < count);
    await asking(page, () => page.getByRole("button", { name: 'remove /action!="documents.view"' }).click());
    assert.equal(await asking(page, () => page.goBack()), without);
    assert.equal(await asking(page, () => page.goBack()), count);
    assert.equal(await asking(page, () => page.goBack()), all);

    // A typed condition, and a typed text.
    const type = (text) => asking(page, async () => {
      await page.locator("#text").fill(text);
      await page.locator("#text").press("Enter");
    });
    assert.equal(await type("hostile"), 9);
    await type("");
    const failed = await type("/outcome=not found");
    assert.ok(failed > 10 && failed < all);
    await asking(page, () => page.getByRole("button", { name: "remove /outcome=not found" }).click());

    // The timeline, by mouse and by keys.
    const box = await page.locator("#timeline").boundingBox();
    const zoomed = await asking(page, async () => {
      await page.mouse.move(box.x + box.width * .35, box.y + 60);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * .6, box.y + 80);
      await page.mouse.up();
    });
    assert.ok(zoomed > 0 && zoomed < all);
    assert.match(page.url(), /from=2026-11-2\d.*until=2026-11-2/);
    const bar = page.locator("#timeline .bin").first();
    await bar.focus();
    await page.keyboard.press("ArrowRight");
    const label = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
    const inBar = Number(/: ([\d,]+) records/.exec(label)[1]);
    assert.equal(await asking(page, () => page.keyboard.press("Enter")), inBar);
    assert.equal(await asking(page, () => page.getByRole("button", { name: "All" }).click()), all);

    // A record, its neighbours, its execution.
    const update = rows(page).filter({ hasText: "documents.update" }).first();
    await update.getByRole("button").click();
    const record = page.locator("#record");
    await record.getByText("attempt 1: ").waitFor();
    assert.match(await record.textContent(), /2 other records; attempt 1: (committed|conflict)/);
    await accessible(page, "an open record");
    const link = page.url();
    const text = await record.locator("pre").textContent();
    await record.locator("ol").last().getByRole("button").first().click();
    await page.waitForFunction((before) => document.querySelector("#record pre")?.textContent !== before, text);
    const [download] = await Promise.all([page.waitForEvent("download"), record.getByRole("link", { name: "Proof" }).click()]);
    assert.match(fs.readFileSync(await download.path(), "utf8"), /^c2sp\.org\/tlog-proof@v1\n/);
    await page.keyboard.press("Escape");
    assert.equal(await record.isVisible(), false);

    // The link shows the same to another, who has the token.
    const other = await open({ url: `${sound.url}&${new URL(link).search.slice(1)}` });
    await other.locator("#record pre").waitFor();
    assert.equal(await other.locator("#record pre").textContent(), text);
    assert.deepEqual(other.wrong, []);
    return page;
  },

  async "columns, time zones, order, pages"() {
    const page = await open(sound);
    const all = await searched(page);
    const first = await rows(page).first().textContent();
    await page.locator("summary", { hasText: "Columns" }).click();
    await asking(page, () => page.locator("#columns label", { hasText: "/client/requestId" }).locator("input").click());
    assert.ok((await page.locator("#table thead").textContent()).includes("/client/requestId"));
    await page.keyboard.press("Escape");
    await asking(page, () => page.locator("#zone").selectOption("Australia/Adelaide"));
    assert.notEqual(await rows(page).first().textContent(), first);
    await asking(page, () => page.locator("#order").selectOption("oldest"));
    const times = await rows(page).locator("td:first-child button").allTextContents();
    assert.ok(times[0].startsWith("2026-11-20 10:30"), times[0]);
    // To the last page, and back.
    const seen = new Set();
    for (;;) {
      for (const name of await rows(page).evaluateAll((lines) => lines.map(({ dataset }) => dataset.name))) seen.add(name);
      if (await page.locator("#next").isDisabled()) break;
      const turned = page.waitForResponse((response) => response.url().includes("/api/records"));
      await page.locator("#next").click();
      await turned;
      await page.waitForFunction((last) => document.querySelector("#table tbody tr")?.dataset.name !== last, [...seen].at(-100));
    }
    assert.equal(seen.size, all);
    const before = await rows(page).first().getAttribute("data-name");
    await page.locator("#previous").click();
    await page.waitForFunction((last) => document.querySelector("#table tbody tr")?.dataset.name !== last, before);
    assert.equal(await rows(page).count(), 100);
    // By keys.
    await page.locator("h1").click();
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.locator("#record pre").waitFor();
    assert.equal(await page.locator("#table tr.open").count(), 1);
    return page;
  },

  async "a tampered object is marked"() {
    const page = await open(tampered);
    await searched(page);
    await page.locator("#verdict", { hasText: "1 tampered" }).waitFor();
    assert.equal(await page.locator("#timeline rect.tampered").count(), 1);
    await page.locator("#verified", { hasText: "What stood in the bucket at 20" }).waitFor();
    await shot(page, "desk");
    await page.locator("#integrity-body").getByRole("button", { name: "Show" }).click();
    await page.locator("#record .error", { hasText: "tampered" }).waitFor();
    await accessible(page, "tampered");
    const mixed = await asking(page, async () => {
      await page.locator("#from").fill("2026-11-21 10:00");
      await page.locator("#until").fill("2026-11-21 12:00");
      await page.getByRole("button", { name: "Search" }).click();
    });
    const marked = await rows(page).filter({ has: page.locator(".badge.tampered") }).count();
    assert.ok(marked > 20 && marked < mixed, `${marked} of ${mixed}`);
    // The proof of an altered record is refused, and that of another is not.
    await page.evaluate(() => window.scrollTo(0, 0));
    const object = (await rows(page).filter({ has: page.locator(".badge.tampered") }).first().getAttribute("data-name")).split("~");
    const answer = await page.request.get(`${new URL(tampered.url).origin}/api/proof?object=${object[0]}&sequence=${object[1]}`);
    assert.equal(answer.status(), 409);
    assert.match(await answer.text(), /tampered/);
    return page;
  },

  async "verification is repeated by a key"() {
    const changed = `${BUCKETS}/changed`;
    fs.cpSync(`${BUCKETS}/sound`, changed, { recursive: true });
    const page = await open(await serve(changed, ["--key", KEY]));
    await searched(page);
    const verified = page.locator("#verified", { hasText: /^What stood in the bucket at .* was verified\.$/ });
    await verified.waitFor();
    const first = await verified.textContent();
    const hour = `${changed}/dt=2026-11-21/hour=10`;
    const object = `${hour}/${fs.readdirSync(hour)[0]}`;
    fs.writeFileSync(object, `${fs.readFileSync(object)}`.replace('"user3"', '"user4"'));
    const button = page.getByRole("button", { name: "Verify again" });
    await button.focus();
    await page.keyboard.press("Enter");
    await page.locator("#verdict", { hasText: "1 tampered" }).waitFor();
    await page.waitForFunction((first) => {
      const now = document.getElementById("verified").textContent;
      return now !== first && now.endsWith(" was verified.");
    }, first);
    assert.equal(await page.evaluate(() => document.activeElement.id), "verify");
    assert.equal(await page.locator("#timeline rect.tampered").count(), 1);
    await accessible(page, "verified again");
    return page;
  },

  async "exports have all that matches"() {
    const page = await open({ url: `${sound.url}&where=/action=documents.update` });
    const matched = await searched(page);
    const exported = async (name) => {
      await page.locator("summary", { hasText: "Export" }).click();
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name, exact: true }).click()]);
      await page.locator("h1").click();
      return fs.readFileSync(await download.path());
    };
    const records = `${await exported("NDJSON")}`.trim().split("\n").map((line) => JSON.parse(line));
    assert.equal(records.length, matched);
    assert.ok(records.every(({ action }) => action === "documents.update"));
    const csv = `${await exported("CSV")}`.trim().split("\n");
    assert.equal(csv.length, matched + 1);
    assert.match(csv[0], /^stream,sequence,\/action,\/user,.*,record$/);
    const parquet = await exported("Parquet");
    assert.equal(`${parquet.subarray(0, 4)} ${parquet.subarray(-4)}`, "PAR1 PAR1");
    return page;
  },

  async "hostile records are text"() {
    const page = await open({ url: `${sound.url}&text=hostile&facet=/user&column=/user&column=/action` });
    assert.equal(await searched(page), 9);
    const title = await page.title();
    const names = await rows(page).evaluateAll((lines) => lines.map(({ dataset }) => dataset.name));
    for (const name of names) {
      await page.locator(`tr[data-name="${name}"] button`).click();
      await page.waitForFunction((name) => new URLSearchParams(location.search).get("record") === name && document.querySelector("#record pre"), name);
    }
    const cells = await rows(page).locator("td:nth-child(2)").allTextContents();
    assert.ok(cells.some((cell) => cell.startsWith("<img src=x onerror=")));
    assert.ok(cells.some((cell) => cell === "\\u{202e}gnp.exe\\u{2066}\\u{200b}"), cells.join("\n"));
    assert.ok(cells.every((cell) => cell.length < 200));
    assert.equal(await page.title(), title);
    assert.equal(await page.locator("main img, main script, #record a[href^=javascript]").count(), 0);
    const text = await page.locator("body").innerText();
    // eslint-disable-next-line no-control-regex
    assert.ok(!/[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u200b\u202a-\u202e\u2066-\u2069]/.test(text));
    await accessible(page, "hostile records");
    return page;
  },

  async "days begin at midnight on both sides of daylight saving time"() {
    // The clock in Berlin is set forward on the 29th. Records before and after each midnight.
    const place = `${BUCKETS}/clocks`;
    for (let day = 27; day <= 31; day += 1) {
      for (const hour of [21, 22, 23]) {
        const at = Date.UTC(2026, 2, day, hour, 30), directory = `${place}/dt=2026-03-${day}/hour=${hour}`;
        fs.mkdirSync(directory, { recursive: true });
        fs.writeFileSync(`${directory}/01HF7YAT00000000000000${day}${hour}-000000000000.ndjson`, `{"at":${at}}\n`);
      }
    }
    const { url } = await serve(place);
    const page = await open({ url: `${url}&zone=Europe%2FBerlin&bin=86400000&time=/at` });
    assert.equal(await searched(page), 15);
    const bars = await page.locator("#timeline .bin").evaluateAll((bars) => bars.map((bar) => bar.dataset));
    const days = bars.map(({ begin, end }) => [new Date(Number(begin)).toISOString().slice(5, 16), (end - begin) / 36e5]);
    assert.deepEqual(days, [
      ["03-26T23:00", 24], ["03-27T23:00", 24], ["03-28T23:00", 23],
      ["03-29T22:00", 24], ["03-30T22:00", 24], ["03-31T22:00", 24],
    ]);
    await page.locator("#timeline .bin").nth(2).click();
    await page.waitForURL(/from=2026-03-28T23%3A00%3A00Z&until=2026-03-29T22%3A00%3A00Z/);
    assert.equal(await searched(page), 2);
    return page;
  },

  async "days of any year are shown"() {
    const days = [["0001-01-01", -62135596800000], ["0999-12-31", -30610310400000], ["2026-11-20", 1795132800000]];
    for (const [n, [day, at]] of days.entries()) {
      const hour = `${BUCKETS}/years/dt=${day}/hour=00`;
      fs.mkdirSync(hour, { recursive: true });
      fs.writeFileSync(`${hour}/0000000000000000000000000${n}-000000000000.ndjson`, `{"user":"ada","at":${at}}\n`);
    }
    const years = await serve(`${BUCKETS}/years`);
    for (const zone of ["", "Europe/Berlin", "Pacific/Apia"]) {
      const page = await open({ url: `${years.url}&zone=${zone}` });
      assert.equal(await searched(page), days.length, zone);
      const times = await rows(page).locator("td:first-child button").allTextContents();
      assert.match(times.at(-1), /^0001-01-01 \d\d:\d\d:\d\d\.000$/);
      assert.deepEqual(page.wrong, []);
    }
    // A range can be made wider up to all times that there are.
    const page = await open(years);
    await searched(page);
    await asking(page, async () => {
      for (let n = 0; n < 16; n += 1) await page.locator("#wider").click();
    });
    assert.match(page.url(), /from=-271821-04-20.*until=%2B275760-09-13/);
    return page;
  },

  async "an empty bucket and a dead one say so"() {
    const empty = await open(await serve(`${BUCKETS}/empty`));
    await empty.getByText("There are no records").waitFor();
    assert.match(await empty.locator("#nothing").textContent(), /no days dt=YYYY-MM-DD/);
    await accessible(empty, "an empty bucket");
    assert.deepEqual(empty.wrong, []);
    // Refuses everything.
    const dead = http.createServer((request, response) => response.writeHead(403).end()).listen(0, "127.0.0.1");
    await once(dead, "listening");
    const environment = {
      AWS_ENDPOINT: `http://127.0.0.1:${dead.address().port}`, AWS_ALLOW_HTTP: "true", AWS_REGION: "us-east-1",
      AWS_ACCESS_KEY_ID: "nobody", AWS_SECRET_ACCESS_KEY: "nobody", AUDIT_RETRY_FOR: "0",
    };
    const page = await open(await serve("s3://nowhere/logs", [], environment), { expected: ["502"] });
    await page.locator("#trouble", { hasText: "The bucket could not be read" }).waitFor();
    assert.match(await page.locator("#trouble").textContent(), /403/);
    dead.close();
    return page;
  },

  async "phones and the dark"() {
    const page = await open(tampered, { viewport: { width: 390, height: 800 }, colorScheme: "dark", hasTouch: true });
    await searched(page);
    await page.locator("#verdict", { hasText: "1 tampered" }).waitFor();
    const isWider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(isWider, false);
    await accessible(page, "on a phone, dark");
    await rows(page).first().locator("button").click();
    await page.locator("#record pre").waitFor();
    await accessible(page, "a record on a phone, dark");
    return page;
  },

  async "many records are shown while they are read, in flat memory"() {
    const large = await serve(`${BUCKETS}/large`);
    const begun = Date.now();
    const page = await open(large);
    await rows(page).first().waitFor();
    const first = Date.now() - begun;
    const matched = await searched(page);
    const all = Date.now() - begun;
    assert.equal(matched, logs);
    const heap = () => page.evaluate(() => { gc(); return performance.memory.usedJSHeapSize / 2 ** 20; });
    const before = await heap(), server = resident(large.pid);
    for (let n = 0; n < 20; n += 1) {
      const turned = page.waitForResponse((response) => response.url().includes("/api/records"));
      await page.locator("#next").click();
      await turned;
      await page.getByText(`page ${n + 2}`, { exact: true }).waitFor();
      assert.equal(await rows(page).count(), 100);
    }
    for (const text of ["user1", "user2", "10.0.1"]) {
      await asking(page, async () => {
        await page.locator("#text").fill(text);
        await page.locator("#text").press("Enter");
      });
    }
    const after = await heap();
    assert.ok(after < before + 8, `the heap grew from ${before} to ${after} MiB`);
    const grown = resident(large.pid);
    assert.ok(grown < server + 64, `the server grew from ${server} to ${grown} MiB`);
    console.log(`    ${logs} records: first rows after ${first} ms, all counted after ${all} ms; heap ${before.toFixed(1)} to ${after.toFixed(1)} MiB, server ${server.toFixed(0)} to ${grown.toFixed(0)} MiB`);
    return page;
  },
};

let failed = 0;
const only = process.argv[2] ?? "";
const sound = await serve(`${BUCKETS}/sound`, ["--key", KEY]);
const tampered = await serve(`${BUCKETS}/tampered`, ["--key", KEY]);
for (const [name, test] of Object.entries(tests).filter(([name]) => name.includes(only))) {
  try {
    const page = await test();
    assert.deepEqual(page.wrong, []);
    console.log(`the page: ${name}: as expected`);
  } catch (error) {
    failed += 1;
    console.log(`the page: ${name}: ${error.stack}`);
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
for (const child of children) child.kill();
process.exit(failed ? 1 : 0);
