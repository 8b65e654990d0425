// Run by ../../with-npm.
import { ConvexError } from "convex/values";
import { anyApi as api } from "convex/server";
import { type Recorder, record } from "functions-recorder";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

let t: Recorder;
// A busy machine may take long.
beforeAll(async () => void (t = await record({ functions: "convex", env: { GREETING: 'he said "hello"\n' } })), 120_000);
afterAll(async () => await t?.close(), 120_000);
beforeEach(() => t.clear());

test("a mutation's log is there when it returns", async () => {
  await t.withRequest({ ip: "192.0.2.7", userAgent: "a browser" }).mutation(api.notes.add, { text: "one" });
  expect(t.logs()).toEqual([{ action: "note.added", text: "one", user: null, email: null, ip: "192.0.2.7", userAgent: "a browser" }]);
});

test("a mutation that fails keeps its log, and the error of its author", async () => {
  const failed = await t.mutation(api.notes.add, { text: "" }).catch((error: unknown) => error);
  expect(failed).toBeInstanceOf(ConvexError);
  expect((failed as ConvexError<any>).data).toEqual({ code: "EMPTY" });
  expect(t.logs()).toMatchObject([{ action: "note.added", text: "" }]);
});

test("a result from the cache is logged for each caller", async () => {
  for (const userAgent of ["first", "second"]) await t.withRequest({ userAgent }).query(api.notes.list, {});
  expect(t.records().map(({ body, replay }) => [body.userAgent, replay])).toEqual([["first", false], ["second", true]]);
});

test("a user is who the token says", async () => {
  await t.withIdentity({ subject: "ada", email: "ada@example.com", emailVerified: true }).mutation(api.notes.add, { text: "hers" });
  expect(t.logs()).toMatchObject([{ user: "ada", email: "ada@example.com" }]);
  expect(() => t.withIdentity({ issuer: "https://mine" } as any)).toThrow("issuer is the recorder's");
});

test("each attempt is logged", async () => {
  const values = await Promise.all(Array.from({ length: 12 }, () => t.mutation(api.notes.count, {})));
  expect([...values].sort((one, other) => one - other)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
  const attempts = new Map<string | null, (number | null)[]>();
  for (const { execution, attempt } of t.records()) attempts.set(execution, [...(attempts.get(execution) ?? []), attempt]);
  expect(attempts.size).toBe(12);
  for (const numbers of attempts.values()) expect(numbers).toEqual(numbers.map((_, i) => i + 1));
});

test("a nested mutation that fails keeps its log", async () => {
  await t.mutation(api.notes.addTwice, {});
  expect(t.logs().map(({ action, text }) => [action, text])).toEqual([
    ["note.added", "first"], ["note.added", ""], ["added twice", undefined],
  ]);
});

test("a refused body fails its function and is on record", async () => {
  const before = await t.query(api.notes.list, {});
  t.clear();
  await expect(t.mutation(api.notes.refused, { body: { n: 5n }, logs: 0 })).rejects.toThrow("BigInt value can't be serialized in JSON (at n)");
  expect(t.logs()).toEqual([]);
  expect(t.records()).toMatchObject([{ refused: expect.stringContaining("BigInt"), function: "notes:refused", kind: "mutation" }]);
  expect(await t.query(api.notes.list, {})).toEqual(before);
});

test("limits are the host's", async () => {
  await expect(t.mutation(api.notes.refused, { body: {}, logs: 500 })).rejects.toThrow(/500/);
  expect(t.logs()).toEqual(Array.from({ length: 500 }, (_, i) => ({ i })));
});

test("what actions call is logged, and what runs later", async () => {
  await t.action(api.notes.act, {});
  expect(t.logs().map(({ action }) => action)).toEqual(expect.arrayContaining(["note.added", "notes.listed"]));
  const later = await t.until(({ action }) => action === "ran later", { ms: 60_000 });
  expect(later).toEqual({ action: "ran later", ip: null, userAgent: null });
  await expect(t.action(api.notes.logsInAction, {})).rejects.toThrow("audit logging is not supported in actions");
});

test("HTTP actions are called by their paths", async () => {
  const response = await t.withRequest({ userAgent: "a hook" }).fetch("/notes", { method: "POST", body: "by a hook" });
  expect([response.status, await response.text()]).toEqual([201, "added"]);
  expect(t.logs()).toMatchObject([{ text: "by a hook", userAgent: "a hook" }]);
});

test("variables of the environment are as given", async () => {
  expect(await t.query(api.notes.greeting, {})).toBe('he said "hello"\n');
});

test("a log that does not come is an error that shows those that did", async () => {
  await t.mutation(api.notes.add, { text: "one" });
  await expect(t.until(({ action }) => action === "never", { ms: 1 })).rejects.toThrow(/no such log came within 1 ms.*note\.added/);
});

test("what cannot be served is an error that says why", async () => {
  await expect(record({ functions: "nowhere" })).rejects.toThrow("there are no functions in");
  await expect(record({ host: "/nowhere/functions-host" })).rejects.toThrow("name it, record({ host }) or FUNCTIONS_HOST");
  await expect(record({ settings: { no_such_setting: 1 } })).rejects.toThrow("no_such_setting");
}, 120_000);
