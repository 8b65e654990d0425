// Components from npm run, and the functions of the app that they call are logged. Run by ../../../with-npm.
import assert from "node:assert/strict";
import { ConvexClient } from "convex/browser";
import { anyApi as api } from "convex/server";
import { record } from "functions-recorder";

const t = await record({ functions: "convex", settings: { store_reserve_mib: 0 } });
const of = (name) => t.logs().filter(({ action }) => action === name);
const patience = { ms: 120_000 };

// A limit is kept for each key, and a mutation that fails uses none of it up. Its log stays.
const caller = t.withRequest({ ip: "192.0.2.7" });
const send = (user, fails = false) => caller.mutation(api.limits.send, { user, fails });
assert.deepEqual([await send("ada"), await send("ada"), await send("ada"), await send("bob")], [true, true, false, true]);
await assert.rejects(send("eve", true), /on purpose/);
assert.deepEqual([await send("eve"), await send("eve"), await send("eve")], [true, true, false]);
assert.deepEqual(
  of("sent").map(({ user, ok, fails, ip }) => [user, ok, fails, ip]),
  [["ada", true], ["ada", true], ["ada", false], ["bob", true], ["eve", true, true], ["eve", true], ["eve", true], ["eve", false]].map(
    ([user, ok, fails = false]) => [user, ok, fails, "192.0.2.7"],
  ),
);

// An aggregate follows its table; a cached result is logged for each reader.
const ids = [];
for (const [name, score] of [["ada", 30], ["bob", 10], ["eve", 20], ["dan", 40]]) ids.push(await t.mutation(api.scores.add, { name, score }));
assert.deepEqual(of("scored").map(({ name, count }) => [name, count]), [["ada", 1], ["bob", 2], ["eve", 3], ["dan", 4]]);
const standing = { count: 4, sum: 100, best: 40, third: 30, above20: 2 };
for (const userAgent of ["one", "two"]) assert.deepEqual(await t.withRequest({ userAgent }).query(api.scores.standing, {}), standing);
await t.mutation(api.scores.remove, { id: ids[3] });
assert.deepEqual(of("removed"), [{ action: "removed", name: "dan", sum: 60 }]);
const after = { count: 3, sum: 60, best: 30, third: 30, above20: 1 };
assert.deepEqual(await t.withRequest({ userAgent: "one" }).query(api.scores.standing, {}), after);
assert.deepEqual(of("standing"), [[standing, "one"], [standing, "two"], [after, "one"]].map(([found, userAgent]) => ({ action: "standing", ...found, userAgent })));
assert.deepEqual(t.records().filter(({ body }) => body.action === "standing").map(({ replay }) => replay), [false, true, false]);

// A pool runs enqueued functions, retries some, and reports the end of each.
await caller.mutation(api.work.enqueue, {});
assert.deepEqual(of("enqueued"), [{ action: "enqueued", ip: "192.0.2.7" }]);
for (const n of [1, 2, 3, 4, 5]) await t.until((log) => log.action === "done" && log.n === n, patience);
const done = [1, 2, 3, 4, 5].map((n) => of("done").find((log) => log.n === n));
assert.deepEqual(done.map(({ n, kind, value }) => [n, kind, value]), [
  [1, "success", 10], [2, "success", 20], [3, "failed", null], [4, "success", 40], [5, "success", 1],
]);
assert.match(done[2].error, /number 3/);
// Each attempt of a conflicting mutation was logged.
const worked = new Set(of("worked").map(({ n, times, ip }) => `${n} ${times} ${ip}`));
assert.deepEqual([...worked].sort(), ["1 1 null", "2 1 null", "3 1 null", "4 1 null", "4 2 null", "5 1 null"]);

// A migration goes over its table in batches, once, and logs each document that it changes.
await t.mutation(api.changes.fill, {});
await t.mutation(api.changes.migrate, {});
// A log is there before the commit of its batch.
const client = new ConvexClient(t.url);
await new Promise((resolve) => client.onUpdate(api.changes.roles, {}, ({ processed }) => processed === 25 && resolve()));
await client.close();
const changed = Array.from({ length: 25 }, (_, i) => `${i}`).filter((name) => name !== "7");
assert.deepEqual([...new Set(of("migrated").map(({ name }) => name))], changed);
assert.ok(of("migrated").every(({ ip }) => ip === null || ip === "127.0.0.1"));
await t.mutation(api.changes.migrate, {});
const { readers, admins, processed } = await t.query(api.changes.roles, {});
assert.deepEqual([readers, admins, processed], [24, 1, 25]);
const seen = new Map(t.records().filter(({ body }) => body.action === "migrated").map(({ execution, body }) => [body.name, execution]));
assert.equal(new Set(seen.values()).size, 3, "three batches");

// A cron that is registered while the app runs keeps its beat until it is removed.
await t.mutation(api.beats.register, {});
assert.deepEqual(await t.query(api.beats.names, {}), ["beat"]);
const beats = () => of("beat").length;
await t.until(() => beats() >= 2, patience);
await t.mutation(api.beats.stop, {});
assert.deepEqual(await t.query(api.beats.names, {}), []);
assert.ok(of("beat").every(({ name, ip, userAgent }) => name === "dynamic" && ip === null && userAgent === null));
await t.close();
console.log(`components: rate-limiter, aggregate, workpool, migrations, crons; ${t.logs().length} logs`);
