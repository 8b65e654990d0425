// Headers, Blob, File, FormData, Request and Response. Loaded when a function first uses one of
// them, or calls `fetch`.

import { load, native } from "convex:prelude";
const { choice, expose, iterable, pairsFrom, text: textOf } = load("convex:interfaces");
const { bytesOf, decodeForm, raw } = load("convex:text");
const { URL, URLSearchParams } = load("convex:url");

const streams = () => load("convex:streams");
const events = () => load("convex:events");

const encode = (text) => native.utf8(text.toWellFormed());

/// Decodes UTF-8, without a byte order mark.
function decode(bytes) {
  const text = native.text(raw(bytes), false);
  return text.startsWith("\ufeff") ? text.slice(1) : text;
}

// ---- blobs --------------------------------------------------------------------------------------

let blobBytes;

export class Blob {
  #bytes;
  #type;

  constructor(parts = [], options = {}) {
    if (
      typeof parts !== "object" ||
      parts === null ||
      typeof parts[Symbol.iterator] !== "function"
    ) {
      throw new TypeError("a Blob is made of a sequence of parts");
    }
    const { type = "", endings = "transparent" } = options ?? {};
    const isNative =
      choice("the endings of a Blob", endings, ["transparent", "native"]) === "native";
    const pieces = [];
    for (const part of parts) {
      if (part instanceof Blob) pieces.push(blobBytes(part));
      else if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) pieces.push(bytesOf(part));
      else pieces.push(encode(isNative ? `${part}`.replace(/\r?\n|\r/g, "\n") : `${part}`));
    }
    this.#bytes = joined(pieces);
    const name = String(type);
    this.#type = /[^\x20-\x7e]/.test(name) ? "" : name.toLowerCase();
  }
  static {
    blobBytes = (blob) => blob.#bytes;
  }
  get size() {
    return this.#bytes.length;
  }
  get type() {
    return this.#type;
  }
  slice(start = 0, end = this.size, type = "") {
    return new Blob([this.#bytes.slice(start, end)], { type });
  }
  async arrayBuffer() {
    return this.#bytes.slice().buffer;
  }
  async bytes() {
    return this.#bytes.slice();
  }
  async text() {
    return decode(this.#bytes);
  }
  stream() {
    return streamOf(this.#bytes);
  }
}

export class File extends Blob {
  #name;
  #lastModified;

  constructor(parts, name, options = {}) {
    if (arguments.length < 2) throw new TypeError("a File is made of parts and a name");
    super(parts, options);
    this.#name = textOf(name);
    this.#lastModified =
      options?.lastModified === undefined
        ? Date.now()
        : Math.trunc(Number(options.lastModified)) || 0;
  }
  get name() {
    return this.#name;
  }
  get lastModified() {
    return this.#lastModified;
  }
  get webkitRelativePath() {
    return "";
  }
}

function joined(pieces) {
  if (pieces.length === 1) return pieces[0].slice();
  const all = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function streamOf(bytes) {
  const { ReadableStream } = streams();
  return new ReadableStream({
    type: "bytes",
    start(controller) {
      if (bytes.length > 0) controller.enqueue(bytes.slice());
      controller.close();
    },
  });
}

// ---- forms --------------------------------------------------------------------------------------

export class FormData {
  #entries = [];

  static {
    iterable(this, (form) => form.#entries);
  }

  constructor(form) {
    if (form !== undefined) throw new TypeError("FormData: this host has no documents with forms");
  }
  #entry(name, value, fileName) {
    if (!(value instanceof Blob)) {
      if (fileName !== undefined) throw new TypeError("FormData: only a Blob has a file name");
      return [textOf(name), textOf(value)];
    }
    const isNamed = value instanceof File && fileName === undefined;
    const file = isNamed ? value : new File([value], fileName ?? "blob", { type: value.type });
    return [textOf(name), file];
  }
  append(name, value, fileName = undefined) {
    this.#entries.push(this.#entry(name, value, fileName));
  }
  set(name, value, fileName = undefined) {
    const entry = this.#entry(name, value, fileName);
    const at = this.#entries.findIndex(([other]) => other === entry[0]);
    if (at < 0) return void this.#entries.push(entry);
    this.#entries = this.#entries.filter(([other], i) => i <= at || other !== entry[0]);
    this.#entries[at] = entry;
  }
  delete(name) {
    this.#entries = this.#entries.filter(([other]) => other !== String(name));
  }
  get(name) {
    return this.#entries.find(([other]) => other === String(name))?.[1] ?? null;
  }
  getAll(name) {
    return this.#entries.filter(([other]) => other === String(name)).map(([, value]) => value);
  }
  has(name) {
    return this.#entries.some(([other]) => other === String(name));
  }
}

const lines = (value) => value.replace(/\r?\n|\r/g, "\r\n");
const quoted = (name) => name.replace(/\n/g, "%0A").replace(/\r/g, "%0D").replace(/"/g, "%22");

/// Encodes a form as `multipart/form-data` (RFC 7578).
function multipart(form) {
  let boundary = "----form-";
  for (let i = 0; i < 4; i++)
    boundary += Math.floor(native.random() * 2 ** 32)
      .toString(16)
      .padStart(8, "0");
  const pieces = [];
  for (const [name, value] of form) {
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(lines(name))}"`;
    if (typeof value === "string") {
      pieces.push(encode(`${head}\r\n\r\n${lines(value)}\r\n`));
    } else {
      const type = value.type || "application/octet-stream";
      pieces.push(
        encode(`${head}; filename="${quoted(value.name)}"\r\nContent-Type: ${type}\r\n\r\n`),
        blobBytes(value),
        encode("\r\n"),
      );
    }
  }
  pieces.push(encode(`--${boundary}--\r\n`));
  return { bytes: joined(pieces), type: `multipart/form-data; boundary=${boundary}` };
}

/// Removes blanks at both ends. A regular expression for the end would start at each blank of a run
/// in the middle, and read the rest of the run each time.
function trimmed(text) {
  const isBlank = (char) => char === " " || char === "\t" || char === "\n" || char === "\r";
  let [from, end] = [0, text.length];
  while (from < end && isBlank(text[from])) from++;
  while (from < end && isBlank(text[end - 1])) end--;
  return text.slice(from, end);
}

/// The index of `pattern` in `bytes`, at or after `from`, or -1. Takes linear time, since patterns
/// here begin with a line break, and contain others only in their next three bytes.
function find(bytes, pattern, from) {
  for (let at = bytes.indexOf(pattern[0], from); at >= 0; at = bytes.indexOf(pattern[0], at + 1)) {
    let i = 1;
    while (i < pattern.length && bytes[at + i] === pattern[i]) i++;
    if (i === pattern.length) return at;
  }
  return -1;
}

function parseMultipart(bytes, boundary) {
  const form = new FormData();
  const broken = () => new TypeError("the body is no multipart/form-data");
  const blank = encode("\r\n\r\n");
  const delimiter = encode(`\r\n--${boundary}`);
  // The first delimiter is at the beginning, or after a preamble.
  const isFirst = delimiter.every((byte, i) => i < 2 || byte === bytes[i - 2]);
  let at = isFirst ? -2 : find(bytes, delimiter, 0);
  if (!isFirst && at < 0) throw broken();
  for (;;) {
    at += delimiter.length;
    if (bytes[at] === 45 && bytes[at + 1] === 45) return form;
    const headEnd = find(bytes, blank, at);
    const next = headEnd < 0 ? -1 : find(bytes, delimiter, headEnd + 2);
    if (next < 0) throw broken();
    const head = decode(bytes.subarray(at, headEnd));
    const disposition = /^content-disposition:\s*form-data\s*;(.*)$/im.exec(head)?.[1];
    const parameter = (name) =>
      new RegExp(`(?:^|[;\\s])${name}="([^"]*)"`, "i").exec(disposition)?.[1];
    const plain = (text) => text.replace(/%0A/gi, "\n").replace(/%0D/gi, "\r").replace(/%22/g, '"');
    const name = disposition === undefined ? undefined : parameter("name");
    if (name === undefined) throw broken();
    const content = bytes.subarray(Math.min(headEnd + 4, next), next);
    const fileName = parameter("filename");
    if (fileName === undefined) {
      form.append(plain(name), decode(content));
    } else {
      const type = trimmed(/^content-type:(.*)$/im.exec(head)?.[1] ?? "text/plain");
      form.append(plain(name), new File([content], plain(fileName), { type }));
    }
    at = next;
  }
}

function parseForm(text) {
  const form = new FormData();
  for (const [name, value] of decodeForm(text)) form.append(name, value);
  return form;
}

// ---- headers ------------------------------------------------------------------------------------

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

let lists;
let sealing;

export class Headers {
  /// Values by lowercase name.
  #lists = new Map();
  /// The sorted pairs, until something changes.
  #pairs;
  #isSealed = false;

  constructor(init) {
    if (init === undefined) return;
    if ((typeof init !== "object" && typeof init !== "function") || init === null)
      throw new TypeError("Headers are made of an object or of pairs");
    for (const [name, value] of pairsFrom(init, "Headers", (value) => `${value}`))
      this.append(name, value);
  }
  #sorted() {
    return (this.#pairs ??= [...this.#lists]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([name, values]) =>
        name === "set-cookie" ? values.map((value) => [name, value]) : [[name, values.join(", ")]],
      ));
  }
  static {
    iterable(this, (headers) => headers.#sorted());
    lists = (headers) => headers.#lists;
    sealing = (headers) => {
      headers.#isSealed = true;
      return headers;
    };
  }
  #name(name) {
    const text = `${name}`;
    if (!token.test(text))
      throw new TypeError(`Headers: ${JSON.stringify(text)} is not the name of a header`);
    return text.toLowerCase();
  }
  #value(value) {
    const text = trimmed(`${value}`);
    if (/[\0\n\r]/.test(text) || /[^\0-\xff]/.test(text))
      throw new TypeError("Headers: a value has characters that it must not have");
    return text;
  }
  #change() {
    if (this.#isSealed)
      throw new TypeError("Headers: these cannot be changed; make new ones of them");
    this.#pairs = undefined;
    return this.#lists;
  }
  append(name, value) {
    const [key, text] = [this.#name(name), this.#value(value)];
    const values = this.#change().get(key);
    if (values === undefined) this.#lists.set(key, [text]);
    else values.push(text);
  }
  set(name, value) {
    const [key, text] = [this.#name(name), this.#value(value)];
    this.#change().set(key, [text]);
  }
  delete(name) {
    const key = this.#name(name);
    this.#change().delete(key);
  }
  get(name) {
    return this.#lists.get(this.#name(name))?.join(", ") ?? null;
  }
  has(name) {
    return this.#lists.has(this.#name(name));
  }
  getSetCookie() {
    return [...(this.#lists.get("set-cookie") ?? [])];
  }
}

/// The headers as pairs, as they are sent.
export function pairsOf(headers) {
  const pairs = [];
  for (const [name, values] of lists(headers))
    for (const value of values) pairs.push([name, value]);
  return pairs;
}

// ---- bodies -------------------------------------------------------------------------------------

/// The content of a body: its bytes or a stream, and the media type that it implies.
function extract(given) {
  if (typeof given === "string") return { bytes: encode(given), type: "text/plain;charset=UTF-8" };
  if (given instanceof Blob) return { bytes: blobBytes(given), type: given.type || null };
  if (given instanceof ArrayBuffer || ArrayBuffer.isView(given))
    return { bytes: bytesOf(given).slice(), type: null };
  if (given instanceof FormData) return multipart(given);
  if (given instanceof URLSearchParams) {
    return {
      bytes: encode(given.toString()),
      type: "application/x-www-form-urlencoded;charset=UTF-8",
    };
  }
  if (typeof given === "object") {
    const state = streams().stateOf(given);
    if (state === "fresh") return { stream: given, type: null };
    if (state !== undefined)
      throw new TypeError("the body is a stream that is locked, or of which something was read");
  }
  return { bytes: encode(`${given}`), type: "text/plain;charset=UTF-8" };
}

let bodyOf;

class Body {
  /// Null without a body. Holds `bytes` until the stream is requested.
  #content = null;
  #isUsed = false;
  #headers = null;

  static {
    bodyOf = {
      init(body, content, headers) {
        body.#content = content;
        body.#headers = headers;
        if (content?.type && !headers.has("content-type"))
          headers.append("content-type", content.type);
      },
      /// Takes the content, for another body. This body counts as read.
      take(body) {
        if (body.bodyUsed) throw new TypeError("the body was read already");
        const content = body.#content;
        body.#isUsed = content !== null;
        return content;
      },
      /// The content for a clone. A stream is split in two.
      share(body) {
        if (body.bodyUsed || body.body?.locked)
          throw new TypeError("a body that was read or is locked cannot be cloned");
        const content = body.#content;
        if (content?.stream === undefined) return content;
        const [mine, other] = content.stream.tee();
        body.#content = { ...content, bytes: undefined, stream: mine };
        return { ...content, bytes: undefined, stream: other };
      },
      headers: (body) => body.#headers,
    };
  }
  get headers() {
    return this.#headers;
  }
  get bodyUsed() {
    const stream = this.#content?.stream;
    return this.#isUsed || (stream !== undefined && streams().isDisturbed(stream));
  }
  get body() {
    const content = this.#content;
    if (content === null) return null;
    if (content.stream === undefined) {
      content.stream = streamOf(content.bytes);
      content.bytes = undefined;
      if (this.#isUsed) content.stream.cancel();
    }
    return content.stream;
  }
  async #read() {
    if (this.bodyUsed) throw new TypeError("the body was read already");
    const content = this.#content;
    if (content === null) return new Uint8Array(0);
    this.#isUsed = true;
    if (content.bytes !== undefined) return content.bytes;
    return await readAll(content.stream);
  }
  async arrayBuffer() {
    return (await this.#read()).slice().buffer;
  }
  async bytes() {
    return (await this.#read()).slice();
  }
  async text() {
    return decode(await this.#read());
  }
  async json() {
    return JSON.parse(decode(await this.#read()));
  }
  async blob() {
    const bytes = await this.#read();
    return new Blob([bytes], {
      type: (this.#headers.get("content-type") ?? "").split(";").map(trimmed).join(";"),
    });
  }
  async formData() {
    const type = this.#headers.get("content-type") ?? "";
    const bytes = await this.#read();
    if (/^\s*application\/x-www-form-urlencoded\s*(;|$)/i.test(type))
      return parseForm(decode(bytes));
    const boundary = /^\s*multipart\/form-data\s*;.*?boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(type);
    if (boundary === null)
      throw new TypeError(`the body is no form: its type is ${JSON.stringify(type)}`);
    return parseMultipart(bytes, boundary[1] ?? boundary[2]);
  }
}

/// Reads all bytes of a byte stream.
async function readAll(stream) {
  const reader = stream.getReader();
  const pieces = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return joined(pieces);
    pieces.push(chunkOf(value));
  }
}

/// Checks that a chunk of a body's stream is bytes.
export function chunkOf(value) {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return bytesOf(value);
  throw new TypeError("the stream of a body gives bytes: a TextEncoderStream makes them of text");
}

/// The methods that are understood in any case. `patch` is not one of them.
const METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];

const REFERRER_POLICIES = [
  "", "no-referrer", "no-referrer-when-downgrade", "same-origin", "origin", "strict-origin",
  "origin-when-cross-origin", "strict-origin-when-cross-origin", "unsafe-url",
];

let requestOf;

export class Request extends Body {
  #of;

  constructor(input, init = {}) {
    super();
    const given = init ?? {};
    const from = input instanceof Request ? requestOf(input) : undefined;
    const url = from?.url ?? new URL(`${input}`).href;
    let method = from?.method ?? "GET";
    if (given.method !== undefined) {
      const name = String(given.method);
      if (!token.test(name)) throw new TypeError(`Request: '${name}' is not a method`);
      method = METHODS.includes(name.toUpperCase()) ? name.toUpperCase() : name;
      if (["CONNECT", "TRACE", "TRACK"].includes(method.toUpperCase()))
        throw new TypeError(`Request: the method ${method} is not allowed`);
    }
    const { username, password } = new URL(url);
    if (from === undefined && (username !== "" || password !== ""))
      throw new TypeError("Request: a URL must not contain a user name or password");
    const signal = given.signal === undefined ? from?.signal : given.signal;
    if (signal !== undefined && signal !== null && !(signal instanceof events().AbortSignal)) {
      throw new TypeError("Request: the signal must be an AbortSignal");
    }
    const one = (name, fallback, choices) =>
      choice(`Request: ${name}`, given[name] ?? from?.[name] ?? fallback, choices);
    this.#of = {
      url, method, signal: signal ? events().AbortSignal.any([signal]) : undefined,
      redirect: one("redirect", "follow", ["follow", "error", "manual"]),
      cache: one("cache", "default", [
        "default", "no-store", "reload", "no-cache", "force-cache", "only-if-cached",
      ]),
      credentials: one("credentials", "same-origin", ["omit", "same-origin", "include"]),
      mode: one("mode", "cors", ["same-origin", "no-cors", "cors", "navigate"]),
      referrer: String(given.referrer ?? from?.referrer ?? "about:client"),
      referrerPolicy: one("referrerPolicy", "", REFERRER_POLICIES),
      integrity: String(given.integrity ?? from?.integrity ?? ""),
      keepalive: Boolean(given.keepalive ?? from?.keepalive),
    };
    const headers = new Headers(
      given.headers ?? (from === undefined ? undefined : bodyOf.headers(input)),
    );
    const hasBody = given.body !== undefined && given.body !== null;
    if (
      (hasBody || (from !== undefined && given.body === undefined && input.body !== null)) &&
      (method === "GET" || method === "HEAD")
    ) {
      throw new TypeError(`Request: one with ${method} has no body`);
    }
    const content = hasBody
      ? extract(given.body)
      : given.body === undefined && from !== undefined
        ? bodyOf.take(input)
        : null;
    bodyOf.init(this, content, headers);
  }
  static {
    requestOf = (request) => request.#of;
    const names = [
      "url", "method", "redirect", "cache", "credentials", "mode", "referrer", "referrerPolicy",
      "integrity", "keepalive",
    ];
    for (const name of names) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#of[name];
        },
        configurable: true,
        enumerable: true,
      });
    }
  }
  get signal() {
    return (this.#of.signal ??= new (events().AbortController)().signal);
  }
  get destination() {
    return "";
  }
  get duplex() {
    return "half";
  }
  clone() {
    const content = bodyOf.share(this);
    const made = new Request(this.url, { ...this.#of, headers: this.headers });
    bodyOf.init(made, content, made.headers);
    return made;
  }
}

/// The request that the host received. Its body, or null, is not copied.
export function receivedRequest(url, method, headers, bytes) {
  const request = new Request(url, { method, headers });
  if (bytes !== null) bodyOf.init(request, { bytes, type: null }, request.headers);
  return request;
}

let responseOf;

export class Response extends Body {
  #of = { type: "default", url: "", redirected: false, status: 200, statusText: "" };

  constructor(body = null, init = {}) {
    super();
    const { status = 200, statusText = "", headers } = init ?? {};
    const code = Math.trunc(Number(status));
    if (!(code >= 200 && code <= 599)) {
      throw new RangeError(`Response: the status is a whole number from 200 to 599, not ${status}`);
    }
    const reason = `${statusText}`;
    if (/[^\t\x20-\xff]/.test(reason))
      throw new TypeError("Response: the statusText has characters that it must not have");
    Object.assign(this.#of, { status: code, statusText: reason });
    const content = body === null || body === undefined ? null : extract(body);
    if (content !== null && [204, 205, 304].includes(code))
      throw new TypeError(`Response: one with the status ${code} has no body`);
    bodyOf.init(this, content, new Headers(headers));
  }
  static {
    responseOf = (response) => response.#of;
    for (const name of ["type", "url", "redirected", "status", "statusText"]) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#of[name];
        },
        configurable: true,
        enumerable: true,
      });
    }
  }
  get ok() {
    return this.#of.status >= 200 && this.#of.status <= 299;
  }
  clone() {
    const content = bodyOf.share(this);
    return made({ ...this.#of }, new Headers(pairsOf(this.headers)), content);
  }
  static error() {
    return made({ type: "error", status: 0 }, sealing(new Headers()), null);
  }
  static json(data, init = {}) {
    const text = JSON.stringify(data);
    if (text === undefined) throw new TypeError("Response.json(): the data has no JSON");
    const response = new Response(text, init);
    if (!new Headers(init?.headers).has("content-type"))
      response.headers.set("content-type", "application/json");
    return response;
  }
  static redirect(url, status = 302) {
    if (![301, 302, 303, 307, 308].includes(Number(status)))
      throw new RangeError(`Response.redirect(): ${status} is no status of a redirect`);
    const response = new Response(null, {
      status,
      headers: { location: new URL(String(url)).href },
    });
    sealing(response.headers);
    return response;
  }
}

function made(of, headers, content) {
  const response = new Response();
  Object.assign(responseOf(response), of);
  bodyOf.init(response, content, headers);
  return response;
}

/// The parts of a request that `fetch` sends. Its body counts as read.
export function sendingOf(request) {
  const { url, method, redirect, signal } = requestOf(request);
  const content = contentOf(request);
  return { url, method, redirect, signal, headers: pairsOf(request.headers), content };
}

/// The response that `fetch` received.
export function madeResponse(of, pairs, stream) {
  const headers = sealing(new Headers(pairs));
  return made({ type: "basic", ...of }, headers, stream === null ? null : { stream, type: null });
}

/// The content of a body to send: null, its bytes, or a stream of bytes. The body counts as read.
export function contentOf(body) {
  const content = bodyOf.take(body);
  return content === null ? null : (content.bytes ?? content.stream);
}

expose(Blob, File, FormData, Headers, Body, Request, Response);
