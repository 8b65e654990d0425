// Drives a host with the clients of the `convex` package from npm, as an application would. Run by ../../../with-npm.
import assert from "node:assert/strict";
import { ConvexClient, ConvexHttpClient } from "convex/browser";
import { anyApi as api } from "convex/server";

const [url] = process.argv.slice(2);
const within = (ms, what, promise) => {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} did not come`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

const http = new ConvexHttpClient(url);
const documentId = await http.mutation(api.updateDocument.createDocument, { orgId: "acme", title: "Plan", text: "Start small." });
assert.equal(typeof documentId, "string");
const document = await http.mutation(api.updateDocument.updateDocument, { userId: "u1", orgId: "acme", documentId });
assert.equal(document._id, documentId);
assert.equal(document.title, "Plan");

// The scheduled function runs without a further call.
await within(20_000, "the email", (async () => {
  while ((await http.query(api.updateDocument.emails, {})).length === 0);
})());

// Validators reject bad arguments, and internal functions are not callable.
await assert.rejects(http.mutation(api.updateDocument.createDocument, { orgId: 1, title: "x", text: "" }), /ArgumentValidationError/);
await assert.rejects(http.mutation(api.updateDocument.sendEmail, { to: "x", requestMetadata: { ip: null, userAgent: null, requestId: "r" } }), /Could not find/);
assert.deepEqual(await http.query(api.customFunctions.titles, { orgId: "acme" }), ["Plan"]);
assert.deepEqual(await http.consistentQuery(api.customFunctions.titles, { orgId: "acme" }), ["Plan"]);

// A live query sees the change made by a mutation over the same socket.
const live = new ConvexClient(url);
const seen = [];
let saw = () => {};
live.onUpdate(api.customFunctions.titles, { orgId: "acme" }, (titles) => {
  seen.push(titles[0]);
  saw();
});
const until = (title) =>
  within(20_000, title, (async () => {
    while (seen.at(-1) !== title) await new Promise((resolve) => (saw = resolve));
  })());
await until("Plan");
assert.equal(await live.mutation(api.customFunctions.rename, { documentId, title: "Better plan" }), "Better plan");
await until("Better plan");
await http.mutation(api.customFunctions.rename, { documentId, title: "Best plan" });
await until("Best plan");
assert.deepEqual(seen, ["Plan", "Better plan", "Best plan"]);
await live.close();
console.log(JSON.stringify({ documentId, seen }));
