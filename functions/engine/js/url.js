// URL and URLSearchParams. Loaded when a function first uses one of them.

import { load, native } from "convex:prelude";
const { expose, iterable, pairsFrom, text } = load("convex:interfaces");
const { decodeForm, encodeForm } = load("convex:text");

/// Links a URL and its parameters.
let follow;
let refill;

export class URLSearchParams {
  #pairs = [];
  /// The callback for changes.
  #changed = () => {};

  constructor(init = "") {
    if ((typeof init === "object" || typeof init === "function") && init !== null) {
      this.#pairs = pairsFrom(init, "URLSearchParams", text);
    } else {
      this.#pairs = decodeForm(text(init).replace(/^\?/, ""));
    }
  }
  static {
    iterable(this, (params) => params.#pairs);
    follow = (params, changed) => {
      params.#changed = changed;
    };
    refill = (params, query) => {
      params.#pairs = decodeForm(query.replace(/^\?/, ""));
    };
  }
  #set(pairs) {
    this.#pairs = pairs;
    this.#changed(this.toString());
  }
  get size() {
    return this.#pairs.length;
  }
  append(name, value) {
    this.#pairs.push([text(name), text(value)]);
    this.#changed(this.toString());
  }
  delete(name, value = undefined) {
    this.#set(
      this.#pairs.filter(
        (pair) => pair[0] !== text(name) || (value !== undefined && pair[1] !== text(value)),
      ),
    );
  }
  get(name) {
    return this.#pairs.find(([other]) => other === text(name))?.[1] ?? null;
  }
  getAll(name) {
    return this.#pairs.filter(([other]) => other === text(name)).map(([, value]) => value);
  }
  has(name, value = undefined) {
    return this.#pairs.some(
      (pair) => pair[0] === text(name) && (value === undefined || pair[1] === text(value)),
    );
  }
  set(name, value) {
    const at = this.#pairs.findIndex(([other]) => other === text(name));
    if (at < 0) return this.append(name, value);
    const rest = this.#pairs.filter(([other], i) => i <= at || other !== text(name));
    rest[at] = [rest[at][0], text(value)];
    this.#set(rest);
  }
  sort() {
    this.#set(this.#pairs.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }
  toString() {
    return encodeForm(this.#pairs);
  }
}

const PARTS = [
  "href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname",
  "search", "hash",
];

export class URL {
  #parts;
  #params;

  constructor(href, base) {
    const parsed = native.url(text(href), base === undefined ? undefined : text(base));
    if (parsed === undefined) throw new TypeError(`Invalid URL: '${href}'`);
    this.#parts = JSON.parse(parsed);
  }
  static canParse(href, base = undefined) {
    return native.url(text(href), base === undefined ? undefined : text(base)) !== undefined;
  }
  static parse(href, base = undefined) {
    return URL.canParse(href, base) ? new URL(href, base) : null;
  }
  static createObjectURL() {
    throw new Error(
      "URL.createObjectURL() is not supported by this host: functions have no addresses of their own",
    );
  }
  static revokeObjectURL() {}
  #change(part, value) {
    const changed = native.changeUrl(this.#parts.href, part, value);
    if (changed === undefined) {
      if (part === "href") throw new TypeError(`Invalid URL: '${value}'`);
      return;
    }
    this.#parts = JSON.parse(changed);
  }
  get searchParams() {
    if (this.#params === undefined) {
      this.#params = new URLSearchParams(this.#parts.search);
      follow(this.#params, (query) => this.#change("search", query));
    }
    return this.#params;
  }
  toString() {
    return this.#parts.href;
  }
  toJSON() {
    return this.#parts.href;
  }
  static {
    for (const part of PARTS) {
      const set =
        part === "origin"
          ? undefined
          : function (value) {
              this.#change(part, text(value));
              if (this.#params !== undefined && (part === "search" || part === "href"))
                refill(this.#params, this.#parts.search);
            };
      Object.defineProperty(this.prototype, part, {
        get() {
          return this.#parts[part];
        },
        set, configurable: true, enumerable: true,
      });
    }
  }
}

expose(URLSearchParams, URL);
