// Locale-dependent functions. They return the result of V8 in English (en-US) and UTC where it is certain, and otherwise throw an
// error that names the function. Loaded when a function first uses any of them.

import { load } from "convex:prelude";

const unsupported = (what, instead) => new DOMException(`${what} is not supported by this host: ${instead}`, "NotSupportedError");

/// The first of the locales passed to a call, or undefined.
function localeOf(locales) {
  const first = Array.isArray(locales) ? locales[0] : locales;
  if (first === undefined) return undefined;
  const tag = typeof first === "string" ? first : String(first);
  if (typeof first !== "string" && typeof first !== "object") throw new TypeError("Incorrect locale information provided");
  if (!/^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$/.test(tag)) throw new RangeError(`Incorrect locale information provided`);
  return tag.toLowerCase();
}

function english(what, locales, instead) {
  const locale = localeOf(locales);
  if (locale !== undefined && locale !== "en" && locale !== "en-us") throw unsupported(`${what} with the locale ${locale}`, instead);
}

/// The options set in a call, each of which must be known.
function optionsOf(what, options, known, instead) {
  if (options === undefined) return {};
  if (options === null) throw new TypeError("Cannot convert undefined or null to object");
  const found = {};
  for (const name of Object.keys(Object(options))) {
    const value = options[name];
    if (value === undefined) continue;
    if (!known.includes(name)) throw unsupported(`${what} with the option ${name}`, instead);
    found[name] = value;
  }
  return found;
}

function choice(name, value, choices) {
  const text = String(value);
  if (!choices.includes(text)) throw new RangeError(`Value ${text} out of range for options property ${name}`);
  return text;
}

// ---- texts ---------------------------------------------------------------------------------------------------------

/// Languages sorted by the root collation.
const ROOT = ["en", "de", "it", "pt", "nl", "fr"];

export function localeCompare(self, that, locales, options) {
  if (self === null || self === undefined) throw new TypeError("String.prototype.localeCompare called on null or undefined");
  return comparer("String.prototype.localeCompare", locales, options)(String(self), String(that));
}

function comparer(what, locales, options) {
  const instead = "compare with < and >, or by a key of your own";
  const locale = localeOf(locales);
  const isRoot = locale === undefined || (ROOT.includes(locale.split("-")[0]) && /^[a-z]{2}(-[a-z]{2})?$/.test(locale) && locale !== "fr-ca");
  if (!isRoot) throw unsupported(`${what} with the locale ${locale}`, instead);
  const set = optionsOf(what, options, ["sensitivity", "numeric", "usage"], instead);
  const sensitivity = choice("sensitivity", set.sensitivity ?? "variant", ["base", "accent", "case", "variant"]);
  if (sensitivity === "case") throw unsupported(`${what} with the sensitivity "case"`, instead);
  if (choice("usage", set.usage ?? "sort", ["sort", "search"]) === "search") throw unsupported(`${what} with the usage "search"`, instead);
  const isNumeric = Boolean(set.numeric);
  const { collate } = load("convex:collate");
  const unknown = (char) => {
    const point = char.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0");
    return unsupported(`${what} with the character U+${point}, whose order depends on it`, instead);
  };
  return (a, b) => collate(a, b, { sensitivity, isNumeric }, unknown);
}

/// Languages with case rules of their own.
const CASED = { toLocaleUpperCase: ["tr", "az", "lt", "el", "hy"], toLocaleLowerCase: ["tr", "az", "lt"] };

function cased(name, plain) {
  return (self, locales) => {
    if (self === null || self === undefined) throw new TypeError(`String.prototype.${name} called on null or undefined`);
    const locale = localeOf(locales);
    if (locale !== undefined && CASED[name].includes(locale.split("-")[0])) {
      throw unsupported(`String.prototype.${name} with the locale ${locale}`, `use ${plain}()`);
    }
    return String(self)[plain]();
  };
}

export const toLocaleUpperCase = cased("toLocaleUpperCase", "toUpperCase");
export const toLocaleLowerCase = cased("toLocaleLowerCase", "toLowerCase");

// ---- numbers -------------------------------------------------------------------------------------------------------

const SYMBOLS = { USD: "$", EUR: "\u20ac", GBP: "\u00a3" };

function digitsOption(name, value, fallback) {
  if (value === undefined) return fallback;
  const digits = Math.floor(Number(value));
  if (!(digits >= 0 && digits <= 100)) throw new RangeError(`${name} value is out of range.`);
  return digits;
}

/// The integer and fraction digits of a non-negative number, rounded half away from zero.
function rounded(value, most) {
  if (typeof value === "bigint") return [value.toString(), ""];
  const [mantissa, exponent] = value.toExponential().split("e");
  const digits = mantissa.replace(".", "");
  const kept = Number(exponent) + 1 + most;
  let all = kept < 0 ? 0n : BigInt(digits.slice(0, kept).padEnd(kept, "0") || "0");
  if (kept >= 0 && digits[kept] >= "5") all += 1n;
  const text = all.toString().padStart(most + 1, "0");
  return [text.slice(0, text.length - most), text.slice(text.length - most)];
}

function numberFormat(what, locales, options) {
  const instead = "format it by hand, as with toFixed()";
  english(what, locales, instead);
  const known = ["style", "currency", "minimumFractionDigits", "maximumFractionDigits", "useGrouping"];
  const set = optionsOf(what, options, known, instead);
  const style = choice("style", set.style ?? "decimal", ["decimal", "percent", "currency", "unit"]);
  if (style === "unit") throw unsupported(`${what} with the style unit`, instead);
  if (style === "currency" && set.currency === undefined) throw new TypeError("Currency code is required with currency style.");
  const currency = style === "currency" ? String(set.currency).toUpperCase() : undefined;
  if (currency !== undefined && !Object.hasOwn(SYMBOLS, currency)) throw unsupported(`${what} with the currency ${currency}`, instead);
  if (set.useGrouping !== undefined && typeof set.useGrouping !== "boolean") throw unsupported(`${what} with this useGrouping`, instead);
  const [least, most] = style === "currency" ? [2, 2] : style === "percent" ? [0, 0] : [0, 3];
  let min = digitsOption("minimumFractionDigits", set.minimumFractionDigits, undefined);
  let max = digitsOption("maximumFractionDigits", set.maximumFractionDigits, undefined);
  if (min === undefined) min = Math.min(least, max ?? least);
  else if (max === undefined) max = Math.max(most, min);
  if (max === undefined) max = Math.max(most, min);
  if (min > max) throw new RangeError("maximumFractionDigits value is out of range.");
  return (value) => {
    const isNegative = typeof value === "bigint" ? value < 0n : value < 0 || Object.is(value, -0);
    const size = isNegative ? -value : value;
    let text;
    if (typeof size === "number" && !Number.isFinite(size)) {
      text = Number.isNaN(size) ? "NaN" : "\u221e";
    } else {
      let [whole, fraction] = style === "percent" ? percent(size, max) : rounded(size, max);
      fraction = fraction.replace(/0+$/, "").padEnd(min, "0");
      if (set.useGrouping !== false) whole = whole.replace(/\B(?=(\d{3})+$)/g, ",");
      text = fraction === "" ? whole : `${whole}.${fraction}`;
    }
    return `${isNegative ? "-" : ""}${currency === undefined ? "" : SYMBOLS[currency]}${text}${style === "percent" ? "%" : ""}`;
  };
}

/// Multiplies a number by a hundred without intermediate rounding.
function percent(value, most) {
  if (typeof value === "bigint") return rounded(value * 100n, most);
  const [whole, fraction] = rounded(value, most + 2);
  const digits = (whole + fraction).replace(/^0+(?=\d)/, "").padStart(most + 1, "0");
  return [digits.slice(0, digits.length - most), digits.slice(digits.length - most)];
}

const { valueOf: numberValue } = Number.prototype;
const { valueOf: bigintValue } = BigInt.prototype;

export function numberToLocaleString(self, locales, options) {
  const value = Reflect.apply(typeof self === "bigint" ? bigintValue : numberValue, self, []);
  return numberFormat("Number.prototype.toLocaleString", locales, options)(value);
}

export function bigintToLocaleString(self, locales, options) {
  return numberFormat("BigInt.prototype.toLocaleString", locales, options)(Reflect.apply(bigintValue, self, []));
}

const open = [];

/// `toLocaleString` of an array or array-like object.
export function arrayToLocaleString(self, locales, options) {
  const array = Object(self);
  // V8 does this for an array that contains itself.
  if (open.includes(array)) return "";
  open.push(array);
  try {
    const length = Math.min(Math.max(Math.trunc(Number(array.length)) || 0, 0), Number.MAX_SAFE_INTEGER);
    let text = "";
    for (let i = 0; i < length; i++) {
      const each = array[i];
      if (i > 0) text += ",";
      if (each !== null && each !== undefined) text += each.toLocaleString(locales, options);
    }
    return text;
  } finally {
    open.pop();
  }
}

// ---- dates ---------------------------------------------------------------------------------------------------------

/// Formats a valid date. `parts` is "date", "time" or "all".
export function dateToLocaleString(what, date, parts, locales, options) {
  const instead = "use toISOString(), or the getUTC methods";
  english(what, locales, instead);
  const { timeZone = "UTC" } = optionsOf(what, options, ["timeZone"], instead);
  if (!["utc", "etc/utc", "gmt"].includes(String(timeZone).toLowerCase())) throw unsupported(`${what} with the time zone ${timeZone}`, instead);
  const time = date.getTime();
  if (Number.isNaN(time)) return "Invalid Date";
  const [year, month, day] = [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate()];
  if (year < 1) throw unsupported(`${what} of a year before 1`, instead);
  const hours = date.getUTCHours();
  const two = (n) => String(n).padStart(2, "0");
  const shownDay = `${month}/${day}/${year}`;
  const shownTime = `${hours % 12 || 12}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())} ${hours < 12 ? "AM" : "PM"}`;
  return parts === "date" ? shownDay : parts === "time" ? shownTime : `${shownDay}, ${shownTime}`;
}

// ---- Intl ----------------------------------------------------------------------------------------------------------

class Collator {
  #compare;

  constructor(locales, options) {
    this.#compare = comparer("Intl.Collator", locales, options);
  }
  get compare() {
    return (a, b) => this.#compare(String(a), String(b));
  }
}

class NumberFormat {
  #format;

  constructor(locales, options) {
    this.#format = numberFormat("Intl.NumberFormat", locales, options);
  }
  get format() {
    return (value) => this.#format(typeof value === "bigint" ? value : Number(value));
  }
}

class DateTimeFormat {
  #options;

  constructor(locales, options) {
    this.#options = [locales, options];
    dateToLocaleString("Intl.DateTimeFormat", new Date(0), "date", locales, options);
  }
  get format() {
    return (date) => {
      const given = new Date(date === undefined ? Date.now() : date);
      if (Number.isNaN(given.getTime())) throw new RangeError("Invalid time value");
      return dateToLocaleString("Intl.DateTimeFormat", given, "date", ...this.#options);
    };
  }
  resolvedOptions() {
    return { locale: "en-US", calendar: "gregory", numberingSystem: "latn", timeZone: "UTC", year: "numeric", month: "numeric", day: "numeric" };
  }
}

/// Functions, so that they can be called without `new`.
const callable = (type) => {
  const made = { [type.name]: function (...args) { return Reflect.construct(type, args, new.target ?? type); } }[type.name];
  Object.defineProperty(made, "prototype", { value: type.prototype, writable: false });
  Object.defineProperty(type.prototype, "constructor", { value: made, writable: true, configurable: true });
  return made;
};

const missing = (name) => ({
  [name]: function () {
    throw unsupported(`Intl.${name}`, "format by hand, or with a package that brings its own data");
  },
}[name]);

export const Intl = { Collator: callable(Collator), NumberFormat: callable(NumberFormat), DateTimeFormat: callable(DateTimeFormat) };
for (const name of [
  "DisplayNames", "DurationFormat", "ListFormat", "Locale", "PluralRules", "RelativeTimeFormat", "Segmenter", "getCanonicalLocales",
  "supportedValuesOf",
]) Intl[name] = missing(name);
for (const name of Object.keys(Intl)) Object.defineProperty(Intl, name, { enumerable: false });
Object.defineProperty(Intl, Symbol.toStringTag, { value: "Intl", configurable: true });
