// What browsers have and functions expect, and how the console shows values. Read when a function first uses one of them.

import { addClass, native } from "convex:prelude";

// ---- the console ---------------------------------------------------------------------------------------------------

const MAX_SHOWN_LENGTH = 8192;
const MAX_SHOWN_DEPTH = 5;

/// A line of the console.
export function line(level, values) {
  return [`[${level}]`, ...values.map((value) => inspect(value, 0, []))].join(" ").toWellFormed();
}

/// A value as a developer wants to see it: `'text'`, `{ a: 1, b: [ 'x' ] }`.
function inspect(value, depth, around) {
  try {
    const shown = inspected(value, depth, around);
    return shown.length > MAX_SHOWN_LENGTH ? `${shown.slice(0, MAX_SHOWN_LENGTH)}…` : shown;
  } catch {
    return "[a value that cannot be shown]";
  }
}

function inspected(value, depth, around) {
  if (typeof value === "string") return `'${value}'`;
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return value.name ? `[Function: ${value.name}]` : "[Function]";
  if (typeof value !== "object" || value === null) return String(value);
  if (around.includes(value)) return "[Circular]";
  if (value instanceof Error) return `${value.name}: ${value.message}\n${value.stack}`.trimEnd();
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (depth === MAX_SHOWN_DEPTH) return Array.isArray(value) ? "[Array]" : "[Object]";
  const inner = [...around, value];
  let left = MAX_SHOWN_LENGTH;
  const list = (entries, show) => {
    const texts = [];
    for (const entry of entries) {
      if (left < 0) {
        texts.push("…");
        break;
      }
      const text = show(entry);
      left -= text.length;
      texts.push(text);
    }
    return texts.join(", ");
  };
  const show = (member) => inspect(member, depth + 1, inner);
  const braced = (open, text, close) => (text === "" ? open + close : `${open} ${text} ${close}`);
  if (Array.isArray(value)) return braced("[", list(value, show), "]");
  if (value instanceof Set) return `Set(${value.size}) ${braced("{", list(value, show), "}")}`;
  if (value instanceof Map) {
    return `Map(${value.size}) ${braced("{", list(value, ([key, member]) => `${show(key)} => ${show(member)}`), "}")}`;
  }
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return `${value.constructor.name} { byteLength: ${value.byteLength} }`;
  }
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  const prefix = name === undefined ? "[Object: null prototype] " : name === "Object" ? "" : `${name} `;
  const member = (key) => `${/^[A-Za-z_$][\w$]*$/.test(key) ? key : `'${key}'`}: ${show(value[key])}`;
  return prefix + braced("{", list(Object.keys(value), member), "}");
}

// ---- what browsers have --------------------------------------------------------------------------------------------

const bytesOf = (source) => {
  if (source === undefined) return new Uint8Array(0);
  if (source instanceof Uint8Array) return source;
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  return new Uint8Array(source);
};

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(source = "") {
    return native.utf8(String(source).toWellFormed());
  }
  encodeInto(source, target) {
    let read = 0;
    let written = 0;
    for (const character of String(source).toWellFormed()) {
      const bytes = native.utf8(character);
      if (written + bytes.length > target.length) break;
      target.set(bytes, written);
      written += bytes.length;
      read += character.length;
    }
    return { read, written };
  }
}

export class TextDecoder {
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!/^\s*utf-?8\s*$/i.test(label)) throw new RangeError(`TextDecoder: only utf-8 is supported, not '${label}'`);
    this.encoding = "utf-8";
    this.fatal = fatal;
    this.ignoreBOM = ignoreBOM;
  }
  decode(source, { stream = false } = {}) {
    if (stream) throw new Error("TextDecoder: streams are not supported");
    const bytes = bytesOf(source);
    let characters = "";
    for (let i = 0; i < bytes.length; i += 4096) characters += String.fromCharCode(...bytes.subarray(i, i + 4096));
    const decoded = native.text(characters, this.fatal);
    return !this.ignoreBOM && decoded.startsWith("\ufeff") ? decoded.slice(1) : decoded;
  }
}

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const badCharacter = () => new DOMException("the text has characters that it must not have", "InvalidCharacterError");

export const btoa = (source) => {
  const bytes = String(source);
  let out = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const [a, b, c] = [bytes.charCodeAt(i), bytes.charCodeAt(i + 1), bytes.charCodeAt(i + 2)];
    if (a > 255 || b > 255 || c > 255) throw badCharacter();
    const bits = (a << 16) | (b << 8) | c;
    out += digits[bits >> 18] + digits[(bits >> 12) & 63];
    out += Number.isNaN(b) ? "=" : digits[(bits >> 6) & 63];
    out += Number.isNaN(c) ? "=" : digits[bits & 63];
  }
  return out;
};

export const atob = (source) => {
  let base64 = String(source).replace(/[\t\n\f\r ]/g, "");
  if (base64.length % 4 === 0) base64 = base64.replace(/==?$/, "");
  if (base64.length % 4 === 1 || /[^A-Za-z0-9+/]/.test(base64)) throw badCharacter();
  let out = "";
  let bits = 0;
  let count = 0;
  for (const digit of base64) {
    bits = ((bits << 6) | digits.indexOf(digit)) & 0xffffff;
    count += 6;
    if (count >= 8) out += String.fromCharCode((bits >> (count -= 8)) & 255);
  }
  return out;
};

export const structuredClone = (source) => {
  const copies = new Map();
  const copy = (value) => {
    if (typeof value === "function" || typeof value === "symbol") {
      throw new DOMException(`${String(value)} cannot be cloned`, "DataCloneError");
    }
    if (typeof value !== "object" || value === null) return value;
    if (copies.has(value)) return copies.get(value);
    const keep = (made) => {
      copies.set(value, made);
      return made;
    };
    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof ArrayBuffer) return keep(value.slice(0));
    if (ArrayBuffer.isView(value)) {
      const length = value instanceof DataView ? value.byteLength : value.length;
      return keep(new value.constructor(copy(value.buffer), value.byteOffset, length));
    }
    if (value instanceof Map) {
      const map = keep(new Map());
      for (const [key, member] of value) map.set(copy(key), copy(member));
      return map;
    }
    if (value instanceof Set) {
      const set = keep(new Set());
      for (const member of value) set.add(copy(member));
      return set;
    }
    if (value instanceof Error) {
      const error = keep(new Error(value.message));
      error.name = value.name;
      error.stack = value.stack;
      return error;
    }
    const made = keep(Array.isArray(value) ? new Array(value.length) : {});
    for (const key of Object.keys(value)) made[key] = copy(value[key]);
    return made;
  };
  return copy(source);
};

export const crypto = {
  getRandomValues(target) {
    if (!ArrayBuffer.isView(target)) throw new TypeError("getRandomValues() takes a typed array");
    const bytes = bytesOf(target);
    if (bytes.length > 65536) throw new DOMException("getRandomValues() gives 65536 bytes at most", "QuotaExceededError");
    for (let i = 0; i < bytes.length; i++) bytes[i] = native.random() * 256;
    return target;
  },
  randomUUID() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  },
  get subtle() {
    throw new Error("crypto.subtle is not supported by this host");
  },
};

const encodeForm = (value) =>
  encodeURIComponent(value.toWellFormed())
    .replace(/%20/g, "+")
    .replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const decodeForm = (value) => {
  const spaced = value.replaceAll("+", " ");
  try {
    return decodeURIComponent(spaced);
  } catch {
    return spaced;
  }
};

export class URLSearchParams {
  #pairs = [];
  #changed;

  constructor(init = "", changed = () => {}) {
    this.#changed = changed;
    if (typeof init === "object" && init !== null) {
      const pairs = init[Symbol.iterator] ? [...init] : Object.entries(init);
      this.#pairs = pairs.map(([name, value]) => [String(name), String(value)]);
    } else {
      const query = String(init).replace(/^\?/, "");
      const parts = query === "" ? [] : query.split("&").filter((part) => part !== "");
      this.#pairs = parts.map((part) => {
        const at = part.indexOf("=");
        const [name, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
        return [decodeForm(name), decodeForm(value)];
      });
    }
  }
  #set(pairs) {
    this.#pairs = pairs;
    this.#changed(this.toString());
  }
  get size() {
    return this.#pairs.length;
  }
  append(name, value) {
    this.#set([...this.#pairs, [String(name), String(value)]]);
  }
  delete(name) {
    this.#set(this.#pairs.filter(([other]) => other !== String(name)));
  }
  get(name) {
    return this.#pairs.find(([other]) => other === String(name))?.[1] ?? null;
  }
  getAll(name) {
    return this.#pairs.filter(([other]) => other === String(name)).map(([, value]) => value);
  }
  has(name) {
    return this.#pairs.some(([other]) => other === String(name));
  }
  set(name, value) {
    const at = this.#pairs.findIndex(([other]) => other === String(name));
    if (at < 0) return this.append(name, value);
    const rest = this.#pairs.filter(([other], i) => i === at || other !== String(name));
    this.#set(rest.map((pair) => (pair[0] === String(name) ? [pair[0], String(value)] : pair)));
  }
  sort() {
    this.#set(this.#pairs.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }
  forEach(callback) {
    for (const [name, value] of this.#pairs) callback(value, name, this);
  }
  *entries() {
    yield* this.#pairs.map((pair) => [...pair]);
  }
  *keys() {
    for (const [name] of this.#pairs) yield name;
  }
  *values() {
    for (const [, value] of this.#pairs) yield value;
  }
  [Symbol.iterator]() {
    return this.entries();
  }
  toString() {
    return this.#pairs.map(([name, value]) => `${encodeForm(name)}=${encodeForm(value)}`).join("&");
  }
}

export class URL {
  #parts;
  #params;

  constructor(href, base) {
    const parsed = native.url(String(href).toWellFormed(), base === undefined ? undefined : String(base).toWellFormed());
    if (parsed === undefined) throw new TypeError(`Invalid URL: '${href}'`);
    this.#parts = JSON.parse(parsed);
  }
  static canParse(href, base) {
    try {
      return new URL(href, base) instanceof URL;
    } catch {
      return false;
    }
  }
  get searchParams() {
    this.#params ??= new URLSearchParams(this.search, (query) => {
      const { href, hash } = this.#parts;
      const bare = href.slice(0, href.length - hash.length).split("?")[0];
      this.#parts = JSON.parse(native.url(`${bare}${query === "" ? "" : `?${query}`}${hash}`));
    });
    return this.#params;
  }
  toString() {
    return this.href;
  }
  toJSON() {
    return this.#parts.href;
  }
  static {
    const parts = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];
    for (const part of parts) {
      Object.defineProperty(this.prototype, part, {
        get() {
          return this.#parts[part];
        },
        set() {
          throw new Error(`URL: ${part} cannot be set; make a new URL`);
        },
        configurable: true,
        enumerable: true,
      });
    }
  }
}

addClass(TextEncoder);
addClass(TextDecoder);
addClass(URLSearchParams);
addClass(URL);
