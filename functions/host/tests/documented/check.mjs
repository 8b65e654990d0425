// Checks the logs that drive.mjs left in the bucket. Run by ../../../with-npm.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

const [bucket] = process.argv.slice(2);
const files = (directory) =>
  readdirSync(directory).flatMap((name) => {
    const path = join(directory, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
const lines = files(bucket)
  .filter((path) => path.endsWith(".ndjson"))
  .flatMap((path) => readFileSync(path, "utf8").trimEnd().split("\n"));
const logs = lines.map((line) => JSON.parse(line));
const of = (action) => logs.filter((log) => log.action === action);

const [updated] = of("document.viewed");
assert.equal(of("document.viewed").length, 1);
const { documentId } = updated.fields;
assert.equal(typeof documentId, "string");
const where = { deploymentName: "local", functionName: "updateDocument:updateDocument" };
assert.deepEqual(updated, {
  action: "document.viewed",
  actor: { userId: "u1" },
  source: { ip: "127.0.0.1", userAgent: "node", ...where },
  fields: { documentId, orgId: "acme", ...where },
});

const [email] = of("email.sent");
assert.equal(of("email.sent").length, 1);
assert.match(email.source.requestId, /^[0-9A-Z]{26}$/);
assert.deepEqual(email.source, { ip: "127.0.0.1", userAgent: "node", requestId: email.source.requestId });
assert.deepEqual(email.own, { ip: null, userAgent: null });
assert.equal(email.scheduled, true);

// Two over HTTP, and three for the live query, the last of them after another client's change.
assert.equal(of("documents.listed").length, 5);
for (const log of [...of("documents.listed"), ...of("document.renamed")]) {
  assert.equal(log.metadata.ip, "127.0.0.1");
  assert.equal(log.metadata.actor, null);
  assert.match(log.metadata.requestId, /^[0-9A-Z]{26}$/);
  assert.equal(typeof log.metadata.timestamp, "number");
}
assert.equal(new Set(of("documents.listed").map((log) => log.metadata.requestId)).size, 5);
assert.deepEqual(of("document.renamed").map((log) => log.title), ["Better plan", "Best plan"]);
console.log(`${logs.length} logs in the bucket are as they should be`);
