// Runs an app's functions on the host in a test, and returns the audit logs that they emitted.
//
// The host is the real one, with its own limits, refusals, retries and replays. The recorder is the host's only destination: a log
// stream without a journal, which each call waits for. When a call returns or fails, the recorder has received its logs.

import { spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { ConvexHttpClient } from "convex/browser";

/// The issuer of the tokens that `withIdentity` creates.
const ISSUER = "https://recorder.invalid";

/// Convex's names for the attributes of a user, with the corresponding claims of OpenID Connect.
const CLAIMS = {
  givenName: "given_name", familyName: "family_name", preferredUsername: "preferred_username", profileUrl: "profile",
  pictureUrl: "picture", websiteUrl: "website", emailVerified: "email_verified", birthday: "birthdate", timezone: "zoneinfo",
  language: "locale", phoneNumber: "phone_number", phoneNumberVerified: "phone_number_verified",
};

/// How much of the host's standard error is kept for error messages, in characters.
const SAID_CHARACTERS = 8_000;

export async function record(options = {}) {
  const directory = await mkdtemp(join(tmpdir(), "functions-recorder-"));
  const parts = { directory, records: new Map(), waiting: new Set() };
  try {
    parts.receiver = await receive(parts);
    await start(parts, options);
  } catch (error) {
    await stop(parts);
    throw error;
  }
  return new Recorder(parts, {});
}

/// Receives records from the host. A repeated request contains records that are known already.
async function receive({ records, waiting }) {
  const receiver = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      for (const line of Buffer.concat(chunks).toString().split("\n")) {
        if (line !== "") add(records, JSON.parse(line));
      }
      response.writeHead(204).end();
      for (const look of waiting) look();
    });
  });
  receiver.listen(0, "127.0.0.1");
  await once(receiver, "listening");
  return receiver;
}

function add(records, { stream, sequence, body: { $audit: about = {}, ...body } }) {
  const { event, reason, function: name = null, kind = null, execution = null, attempt = null, replay = false } = about;
  const refused = event === "refused" ? reason : null;
  records.set(sequence, { body, refused, function: name, kind, execution, attempt, replay, stream, sequence });
}

async function start(parts, { functions = "convex", host = process.env.FUNCTIONS_HOST ?? "functions-host", env = {}, settings = {} }) {
  const { directory, receiver } = parts;
  const served = resolve(functions);
  if (!existsSync(served)) throw new Error(`there are no functions in ${served}: name their directory, record({ functions })`);
  parts.secret = randomBytes(32).toString("base64url");
  await writeFile(join(directory, "secret"), parts.secret, { mode: 0o600 });
  const toml = (value) => JSON.stringify(value).replaceAll("\u007f", "\\u007f");
  const table = (values) => Object.entries(values).map(([name, value]) => `${toml(name)} = ${toml(value)}\n`).join("");
  const chosen = {
    listen: "127.0.0.1:0", site_listen: "127.0.0.1:0", operators_listen: "none", bucket: "none", journal: "none", evidence: "off",
    data_dir: join(directory, "data"), trusted_proxies: "127.0.0.1", provenance: true, show_logs: false, ...settings,
  };
  const config = join(directory, "functions-host.toml");
  await writeFile(config, `${table(chosen)}
[env]
${table(env)}
[[auth]]
issuer = "${ISSUER}"
audience = "recorder"
secret_file = ${toml(join(directory, "secret"))}

[[log_stream]]
name = "recorder"
url = "http://127.0.0.1:${receiver.address().port}/"
format = "ndjson"
allow_http = true
allow_private_addresses = true
`, { mode: 0o600 });

  // The environment must not influence tests.
  const child = spawn(host, ["serve", served, "--config", config], { stdio: ["ignore", "pipe", "pipe"], env: { PATH: process.env.PATH } });
  parts.child = child;
  parts.said = "";
  child.stderr.on("data", (text) => (parts.said = (parts.said + text).slice(-SAID_CHARACTERS)));
  parts.kill = () => child.kill("SIGKILL");
  process.once("exit", parts.kill);
  parts.ended = new Promise((end) => {
    child.once("error", (error) => end(`${host} cannot be started: ${error.message}; build it with cargo build -p functions-host, and name it, record({ host }) or FUNCTIONS_HOST`));
    child.once("close", (code, signal) => end(`the host ended with ${signal ?? code}: ${parts.said.trim()}`));
  });
  const lines = createInterface(child.stdout);
  const listening = new Promise((listen) => lines.on("line", (line) => {
    const address = /(HTTP actions are|listening) on (http:\S+)/.exec(line);
    if (address?.[1] === "listening") listen((parts.url = address[2]));
    else if (address !== null) parts.site = address[2];
  }));
  const failed = await Promise.race([listening.then(() => undefined), parts.ended]);
  if (failed !== undefined) throw new Error(failed);
}

async function stop(parts) {
  const { child, directory, ended, kill, receiver } = parts;
  if (child !== undefined) {
    child.kill("SIGTERM");
    await ended;
    process.removeListener("exit", kill);
  }
  receiver?.closeAllConnections();
  receiver?.close();
  await rm(directory, { recursive: true, force: true });
}

class Recorder {
  #parts;
  #caller;

  constructor(parts, caller) {
    this.#parts = parts;
    this.#caller = caller;
  }

  /// The URL for other clients, such as `new ConvexClient(recorder.url)`.
  get url() {
    return this.#parts.url;
  }

  #headers(given) {
    const headers = new Headers(given);
    const { ip, userAgent } = this.#caller;
    if (ip !== undefined) headers.set("X-Forwarded-For", ip);
    if (userAgent !== undefined) headers.set("User-Agent", userAgent);
    return headers;
  }

  /// Creates a client for each call, since a client sends a mutation only when the one before has ended.
  async #call(kind, name, args) {
    if (this.#parts.child.exitCode !== null || this.#parts.child.signalCode !== null) throw new Error(await this.#parts.ended);
    const fetcher = (url, init) => fetch(url, { ...init, headers: this.#headers(init.headers) });
    const client = new ConvexHttpClient(this.url, { auth: this.#token(), fetch: fetcher, skipConvexDeploymentUrlCheck: true });
    return await client[kind](name, ...args);
  }

  query(name, ...args) {
    return this.#call("query", name, args);
  }

  mutation(name, ...args) {
    return this.#call("mutation", name, args);
  }

  action(name, ...args) {
    return this.#call("action", name, args);
  }

  /// Calls an HTTP action.
  async fetch(path, init = {}) {
    if (this.#parts.site === undefined) throw new Error("these functions have no HTTP actions: there is no http.ts");
    const headers = this.#headers(init.headers);
    const token = this.#token();
    if (token !== undefined) headers.set("Authorization", `Bearer ${token}`);
    return await fetch(new URL(path, this.#parts.site), { ...init, headers });
  }

  withIdentity(identity) {
    for (const name of ["issuer", "tokenIdentifier"]) {
      if (name in identity) throw new Error(`withIdentity: ${name} is the recorder's: functions see the issuer ${ISSUER}`);
    }
    return new Recorder(this.#parts, { ...this.#caller, identity });
  }

  withRequest(request) {
    return new Recorder(this.#parts, { ...this.#caller, ...request });
  }

  #token() {
    const { identity } = this.#caller;
    if (identity === undefined) return undefined;
    const { subject = "user", ...attributes } = identity;
    const claims = Object.fromEntries(Object.entries(attributes).map(([name, value]) => [CLAIMS[name] ?? name, value]));
    const now = Math.floor(Date.now() / 1000);
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ ...claims, iss: ISSUER, aud: "recorder", sub: subject, iat: now, exp: now + 3600 })}`;
    return `${signed}.${createHmac("sha256", this.#parts.secret).update(signed).digest("base64url")}`;
  }

  /// The records since the last `clear`, in the order in which the host wrote them.
  records() {
    return [...this.#parts.records.values()].filter(({ cleared }) => !cleared).sort((one, other) => one.sequence - other.sequence);
  }

  logs() {
    return this.records().filter(({ refused }) => refused === null).map(({ body }) => body);
  }

  clear() {
    // They stay known, since a repeated request contains them too.
    for (const record of this.#parts.records.values()) record.cleared = true;
  }

  /// Waits for the first log that `isWanted` accepts, for functions that run later.
  async until(isWanted, { ms = 4_000 } = {}) {
    let look;
    let timer;
    try {
      return await new Promise((found, failed) => {
        look = () => {
          try {
            const log = this.logs().find(isWanted);
            if (log !== undefined) found(log);
          } catch (error) {
            failed(error);
          }
        };
        this.#parts.waiting.add(look);
        const late = () => failed(new Error(`no such log came within ${ms} ms; those that came: ${JSON.stringify(this.logs())}`));
        timer = setTimeout(late, ms);
        this.#parts.ended.then((why) => failed(new Error(why)));
        look();
      });
    } finally {
      clearTimeout(timer);
      this.#parts.waiting.delete(look);
    }
  }

  async close() {
    await stop(this.#parts);
  }
}
