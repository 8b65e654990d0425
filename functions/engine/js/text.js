// Text and bytes: TextEncoder, TextDecoder, atob, btoa. Loaded when a function first uses one of
// them.

import { captured, load, native } from "convex:prelude";
const { expose } = load("convex:interfaces");
const { apply, fromCharCode, subarray } = captured;

/// The bytes of a buffer or of a view of one.
export const bytesOf = (source) => {
  if (source === undefined) return new Uint8Array(0);
  if (source instanceof Uint8Array) return source;
  if (ArrayBuffer.isView(source))
    return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer || source instanceof SharedArrayBuffer)
    return new Uint8Array(source);
  throw new TypeError("bytes are an ArrayBuffer or a view of one");
};

/// Converts bytes to a string with one character for each, the form in which the host accepts them.
export const raw = (bytes) => {
  let characters = "";
  for (let i = 0; i < bytes.length; i += 8192)
    characters += apply(fromCharCode, undefined, apply(subarray, bytes, [i, i + 8192]));
  return characters;
};

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(source = "") {
    return native.utf8(String(source).toWellFormed());
  }
  encodeInto(source, target) {
    if (!(target instanceof Uint8Array))
      throw new TypeError("TextEncoder.encodeInto() writes to a Uint8Array");
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

/// Decodes bytes that end with a whole character, or with an invalid one.
function decode(encoding, bytes, fatal) {
  const decoded = native.decode(encoding, raw(bytes), fatal);
  if (decoded === undefined) throw new TypeError(`TextDecoder: the bytes are not ${encoding}`);
  return decoded;
}

/// The number of bytes at the end that may be the beginning of a character.
function unfinished(encoding, bytes) {
  const { length } = bytes;
  if (encoding === "utf-16le" || encoding === "utf-16be") {
    const half = length % 2;
    const high = length - half >= 2 ? bytes[length - half - (encoding === "utf-16le" ? 1 : 2)] : 0;
    return high >= 0xd8 && high < 0xdc ? half + 2 : half;
  }
  if (encoding !== "utf-8") return native.undecoded(encoding, raw(bytes));
  for (let back = 1; back <= 3 && back <= length; back++) {
    const byte = bytes[length - back];
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
  }
  return 0;
}

export class TextDecoder {
  #encoding;
  #fatal;
  #ignoreBOM;
  /// The bytes of an incomplete character of a stream.
  #rest = new Uint8Array(0);
  #isBegun = false;

  constructor(label = "utf-8", options = {}) {
    const encoding = native.encoding(`${label}`.toWellFormed());
    if (encoding === undefined)
      throw new RangeError(`TextDecoder: the encoding '${label}' is not supported by this host`);
    if (
      options !== undefined &&
      options !== null &&
      typeof options !== "object" &&
      typeof options !== "function"
    ) {
      throw new TypeError("TextDecoder: its options are an object");
    }
    this.#encoding = encoding;
    this.#fatal = Boolean(options?.fatal);
    this.#ignoreBOM = Boolean(options?.ignoreBOM);
  }
  get encoding() {
    return this.#encoding;
  }
  get fatal() {
    return this.#fatal;
  }
  get ignoreBOM() {
    return this.#ignoreBOM;
  }
  decode(source = undefined, options = undefined) {
    const isStream = Boolean(options?.stream);
    if (isStream && this.#encoding === "iso-2022-jp") {
      throw new DOMException(
        "TextDecoder: a stream of iso-2022-jp is not supported by this host",
        "NotSupportedError",
      );
    }
    let bytes = bytesOf(source);
    if (this.#rest.length > 0) {
      const all = new Uint8Array(this.#rest.length + bytes.length);
      all.set(this.#rest);
      all.set(bytes, this.#rest.length);
      bytes = all;
    }
    const end = isStream ? bytes.length - unfinished(this.#encoding, bytes) : bytes.length;
    this.#rest = bytes.slice(end);
    let text;
    try {
      text = decode(this.#encoding, bytes.subarray(0, end), this.#fatal);
    } catch (error) {
      this.#rest = new Uint8Array(0);
      this.#isBegun = false;
      throw error;
    }
    if (!this.#isBegun && !this.#ignoreBOM && text.startsWith("\ufeff")) text = text.slice(1);
    this.#isBegun = isStream && (this.#isBegun || end > 0);
    return text;
  }
}

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const badCharacter = () =>
  new DOMException("the text has characters that it must not have", "InvalidCharacterError");

const required = (name, args) => {
  if (args.length === 0) throw new TypeError(`${name}() needs an argument`);
  return `${args[0]}`;
};

export const btoa = (...args) => {
  const bytes = required("btoa", args);
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

export const atob = (...args) => {
  let base64 = required("atob", args).replace(/[\t\n\f\r ]/g, "");
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

/// Converts bytes to and from base64url without padding, as in JSON Web Keys.
export const toBase64Url = (bytes) =>
  native.base64(raw(bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

export const fromBase64Url = (text) => {
  const base64 = String(text).replace(/-/g, "+").replace(/_/g, "/");
  // A regular expression for the end would take quadratic time if there are many in the middle.
  let end = base64.length;
  while (base64[end - 1] === "=") end--;
  const bytes = native.fromBase64(base64.slice(0, end));
  if (bytes === undefined) throw badCharacter();
  return bytes;
};

// ---- URL-encoded parameters, of URLs and forms --------------------------------------------------

const encodePart = (value) =>
  encodeURIComponent(value.toWellFormed())
    .replace(/%20/g, "+")
    .replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

const decodePart = (value) => {
  const spaced = value.replaceAll("+", " ");
  if (!spaced.includes("%")) return spaced;
  try {
    return decodeURIComponent(spaced);
  } catch {
    // Invalid escapes are kept, and invalid UTF-8 becomes U+FFFD.
    const written = native.utf8(spaced.toWellFormed());
    const bytes = [];
    const digit = (byte) => parseInt(String.fromCharCode(byte ?? 0), 16);
    for (let i = 0; i < written.length; i++) {
      const [high, low] =
        written[i] === 37 ? [digit(written[i + 1]), digit(written[i + 2])] : [NaN, NaN];
      if (high >= 0 && low >= 0) {
        bytes.push(high * 16 + low);
        i += 2;
      } else {
        bytes.push(written[i]);
      }
    }
    return native.text(raw(new Uint8Array(bytes)), false);
  }
};

export const encodeForm = (pairs) =>
  pairs.map(([name, value]) => `${encodePart(name)}=${encodePart(value)}`).join("&");

export const decodeForm = (text) =>
  text.split("&").filter((part) => part !== "").map((part) => {
    const at = part.indexOf("=");
    const [name, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
    return [decodePart(name), decodePart(value)];
  });

expose(TextEncoder, TextDecoder);
