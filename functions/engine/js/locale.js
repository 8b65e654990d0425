// Locale-dependent functions. They return the result of V8 in English (en-US) and UTC where it is
// certain, and otherwise throw an error that names the function. Loaded when a function first uses
// any of them.

import { load, native } from "convex:prelude";

const unsupported = (what, instead) =>
  new DOMException(`${what} is not supported by this host: ${instead}`, "NotSupportedError");

/// The first of the locales passed to a call, or undefined.
function localeOf(locales) {
  const first = Array.isArray(locales) ? locales[0] : locales;
  if (first === undefined) return undefined;
  const tag = typeof first === "string" ? first : String(first);
  if (typeof first !== "string" && typeof first !== "object")
    throw new TypeError("Incorrect locale information provided");
  if (!/^(?:[A-Za-z]{2,3}|[A-Za-z]{5,8})(?:-[A-Za-z0-9]{1,8})*$/.test(tag))
    throw new RangeError(`Incorrect locale information provided`);
  const locale = tag.toLowerCase();
  // Not a language, but often passed to mean the default.
  return locale === "default" ? undefined : locale;
}

function english(what, locales, instead) {
  const locale = localeOf(locales);
  if (locale !== undefined && locale !== "en" && locale !== "en-us")
    throw unsupported(`${what} with the locale ${locale}`, instead);
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
  if (!choices.includes(text))
    throw new RangeError(`Value ${text} out of range for options property ${name}`);
  return text;
}

// ---- texts --------------------------------------------------------------------------------------

/// Languages sorted by the root collation.
const ROOT = ["en", "de", "it", "pt", "nl", "fr"];

export function localeCompare(self, that, locales, options) {
  if (self === null || self === undefined)
    throw new TypeError("String.prototype.localeCompare called on null or undefined");
  return comparer("String.prototype.localeCompare", locales, options)(String(self), String(that));
}

function comparer(what, locales, options) {
  const instead = "compare with < and >, or by a key of your own";
  const locale = localeOf(locales);
  const isRoot =
    locale === undefined ||
    (ROOT.includes(locale.split("-")[0]) &&
      /^[a-z]{2}(-[a-z]{2})?$/.test(locale) &&
      locale !== "fr-ca");
  if (!isRoot) throw unsupported(`${what} with the locale ${locale}`, instead);
  const set = optionsOf(what, options, ["sensitivity", "numeric", "usage"], instead);
  const sensitivity = choice("sensitivity", set.sensitivity ?? "variant", [
    "base", "accent", "case", "variant",
  ]);
  if (sensitivity === "case") throw unsupported(`${what} with the sensitivity "case"`, instead);
  if (choice("usage", set.usage ?? "sort", ["sort", "search"]) === "search")
    throw unsupported(`${what} with the usage "search"`, instead);
  const isNumeric = Boolean(set.numeric);
  const { collate } = load("convex:collate");
  const unknown = (char) => {
    const point = char.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0");
    return unsupported(`${what} with the character U+${point}, whose order depends on it`, instead);
  };
  return (a, b) => collate(a, b, { sensitivity, isNumeric }, unknown);
}

/// Languages with case rules of their own.
const CASED = {
  toLocaleUpperCase: ["tr", "az", "lt", "el", "hy"],
  toLocaleLowerCase: ["tr", "az", "lt"],
};

function cased(name, plain) {
  return (self, locales) => {
    if (self === null || self === undefined)
      throw new TypeError(`String.prototype.${name} called on null or undefined`);
    const locale = localeOf(locales);
    if (locale !== undefined && CASED[name].includes(locale.split("-")[0])) {
      throw unsupported(`String.prototype.${name} with the locale ${locale}`, `use ${plain}()`);
    }
    return String(self)[plain]();
  };
}

export const toLocaleUpperCase = cased("toLocaleUpperCase", "toUpperCase");
export const toLocaleLowerCase = cased("toLocaleLowerCase", "toLowerCase");

// ---- numbers ------------------------------------------------------------------------------------

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

/// The number format of a locale.
function formatOf(what, locales, instead) {
  const { FORMATS } = load("convex:numbers");
  const locale = localeOf(locales) ?? "en-us";
  const named = Object.hasOwn(FORMATS, locale) ? FORMATS[locale] : undefined;
  if (named === undefined) throw unsupported(`${what} with the locale ${locale}`, instead);
  return typeof named === "string" ? FORMATS[named] : named;
}

function numberFormat(what, locales, options) {
  const instead = "format it by hand, as with toFixed()";
  const locale = formatOf(what, locales, instead);
  const { MINOR } = load("convex:numbers");
  const known = [
    "style", "currency", "minimumIntegerDigits", "minimumFractionDigits", "maximumFractionDigits",
    "useGrouping", "notation", "localeMatcher",
  ];
  const set = optionsOf(what, options, known, instead);
  const style = choice("style", set.style ?? "decimal", ["decimal", "percent", "currency", "unit"]);
  if (style === "unit") throw unsupported(`${what} with the style unit`, instead);
  if (style === "currency" && set.currency === undefined)
    throw new TypeError("Currency code is required with currency style.");
  const currency = set.currency === undefined ? undefined : String(set.currency).toUpperCase();
  if (currency !== undefined && !/^[A-Z]{3}$/.test(currency))
    throw new RangeError(`Invalid currency code : ${set.currency}`);
  const notation = choice("notation", set.notation ?? "standard", [
    "standard", "scientific", "engineering", "compact",
  ]);
  if (notation !== "standard") throw unsupported(`${what} with the notation ${notation}`, instead);
  if (set.useGrouping !== undefined && typeof set.useGrouping !== "boolean")
    throw unsupported(`${what} with this useGrouping`, instead);
  const minor = style === "currency" ? (MINOR[currency] ?? 2) : undefined;
  const [least, most] =
    style === "currency" ? [minor, minor] : style === "percent" ? [0, 0] : [0, 3];
  const whole = digitsOption("minimumIntegerDigits", set.minimumIntegerDigits, 1);
  if (whole < 1 || whole > 21) throw new RangeError("minimumIntegerDigits value is out of range.");
  let min = digitsOption("minimumFractionDigits", set.minimumFractionDigits, undefined);
  let max = digitsOption("maximumFractionDigits", set.maximumFractionDigits, undefined);
  if (min === undefined) min = Math.min(least, max ?? least);
  else if (max === undefined) max = Math.max(most, min);
  if (max === undefined) max = Math.max(most, min);
  if (min > max) throw new RangeError("maximumFractionDigits value is out of range.");
  const coded = () => locale.coded.map((text) => text.replace("\u00a4", currency));
  const around =
    style === "currency"
      ? (locale.own[currency] ?? coded())
      : style === "percent"
        ? locale.percent
        : locale.plain;
  const grouped = (digits) => {
    if (set.useGrouping === false || digits.length < (set.useGrouping ? 4 : locale.least))
      return digits;
    let [from, text] = [digits.length - 3, digits.slice(-3)];
    for (const [, size] = locale.sizes; from > 0; from -= size)
      text = digits.slice(Math.max(0, from - size), from) + locale.group + text;
    return text;
  };
  const format = (value) => {
    const isNegative = typeof value === "bigint" ? value < 0n : value < 0 || Object.is(value, -0);
    const size = isNegative ? -value : value;
    const [before, after] = isNegative ? around.slice(2) : around;
    const isFinite = typeof size === "bigint" || Number.isFinite(size);
    if (!isFinite && style === "currency")
      throw unsupported(`${what} of ${value} as a currency`, instead);
    if (!isFinite) return before + (Number.isNaN(size) ? locale.nan : "\u221e") + after;
    let [digits, fraction] = style === "percent" ? percent(size, max) : rounded(size, max);
    fraction = fraction.replace(/0+$/, "").padEnd(min, "0");
    return (
      before +
      grouped(digits.padStart(whole, "0")) +
      (fraction === "" ? "" : locale.decimal + fraction) +
      after
    );
  };
  const resolved = () => ({
    locale: canonical(locales), numberingSystem: "latn", style,
    ...(style === "currency"
      ? { currency, currencyDisplay: "symbol", currencySign: "standard" }
      : {}),
    minimumIntegerDigits: whole, minimumFractionDigits: min, maximumFractionDigits: max,
    useGrouping: set.useGrouping === false ? false : "auto",
    notation, signDisplay: "auto", roundingIncrement: 1, roundingMode: "halfExpand",
    roundingPriority: "auto", trailingZeroDisplay: "auto",
  });
  return { format, resolved };
}

/// A locale's tag as it is usually written.
function canonical(locales) {
  const [language, region] = (localeOf(locales) ?? "en-US").split("-");
  return region === undefined ? language : `${language}-${region.toUpperCase()}`;
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
  return numberFormat("Number.prototype.toLocaleString", locales, options).format(value);
}

export function bigintToLocaleString(self, locales, options) {
  return numberFormat("BigInt.prototype.toLocaleString", locales, options).format(
    Reflect.apply(bigintValue, self, []),
  );
}

const open = [];

/// `toLocaleString` of an array or array-like object.
export function arrayToLocaleString(self, locales, options) {
  const array = Object(self);
  // V8 does this for an array that contains itself.
  if (open.includes(array)) return "";
  open.push(array);
  try {
    const length = Math.min(
      Math.max(Math.trunc(Number(array.length)) || 0, 0),
      Number.MAX_SAFE_INTEGER,
    );
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

// ---- dates --------------------------------------------------------------------------------------

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
  "November", "December",
];
const WIDTHS = ["numeric", "2-digit"];
const TEXTS = ["long", "short", "narrow"];
const DATE_FIELDS = { weekday: TEXTS, year: WIDTHS, month: [...WIDTHS, ...TEXTS], day: WIDTHS };
const TIME_FIELDS = { hour: WIDTHS, minute: WIDTHS, second: WIDTHS };
const STYLES = ["full", "long", "medium", "short"];
const DATE_STYLES = {
  full: { weekday: "long", month: "long", day: "numeric", year: "numeric" },
  long: { month: "long", day: "numeric", year: "numeric" },
  medium: { month: "short", day: "numeric", year: "numeric" },
  short: { month: "numeric", day: "numeric", year: "2-digit" },
};
const CYCLES = ["h11", "h12", "h23", "h24"];
/// Dates and times in digits in other languages, by tag in lower case: the date, the time if it
/// follows one pattern, and the text between them.
const DIGITS = new Map(
  [
    ["y-MM-dd", "h:mm:ss_A", ", ", "en-ca"],
    ["d/M/y", "h:mm:ss_A", ", ", "es-mx"],
    ["d/M/y", "", "", "es-co vi vi-vn"],
    ["dd/MM/y", "h:mm:ss_a", ", ", "en-au"],
    ["d/M/y", "h:mm:ss_a", ", ", "en-in"],
    ["dd-MM-y", "h:mm:ss_B", ", ", "es-cl"],
    ["dd/MM/y", "HH:mm:ss", ", ", "en-gb it it-it pt pt-br pt-pt"],
    ["dd/MM/y", "HH:mm:ss", " ", "fr fr-be fr-fr"],
    ["d/M/y", "HH:mm:ss", ", ", "en-ie nl-be"],
    ["d/M/y", "H:mm:ss", ", ", "es es-es"],
    ["d.M.y", "HH:mm:ss", ", ", "de de-at de-ch de-de nb nb-no"],
    ["d.M.y", "HH.mm.ss", ", ", "da da-dk"],
    ["dd.MM.y", "HH:mm:ss", ", ", "ro ro-ro ru ru-ru uk uk-ua"],
    ["dd.MM.y", "HH:mm:ss", " ", "tr tr-tr"],
    ["d.MM.y", "HH:mm:ss", ", ", "pl pl-pl"],
    ["d-M-y", "HH:mm:ss", ", ", "nl nl-nl"],
    ["d. M. y", "H:mm:ss", " ", "cs cs-cz"],
    ["y-MM-dd", "HH:mm:ss", " ", "lt lt-lt sv sv-se"],
    ["y/MM/dd", "HH:mm:ss", ", ", "en-za"],
    ["y/M/d", "HH:mm:ss", " ", "zh zh-cn"],
    ["y/M/d", "H:mm:ss", " ", "ja ja-jp"],
  ].flatMap(([date, time, between, tags]) => tags.split(" ").map((tag) => [tag, { date, time, between }])),
);
const ERAS = { long: "Anno Domini", short: "AD", narrow: "A" };
/// The hours ahead of UTC that English abbreviations of time zones mean.
const ABBREVIATIONS = {
  GMT: 0, ADT: -3, AST: -4, EDT: -4, EST: -5, CDT: -5, CST: -6, MDT: -6, MST: -7, PDT: -7, PST: -8,
  AKDT: -8, AKST: -9, HST: -10,
};
/// Zones whose abbreviations in V8 are not those of the IANA.
const OTHERS = [
  "America/Adak", "America/Atka", "America/Chihuahua", "America/Ciudad_Juarez", "America/Dawson",
  "America/Hermosillo", "America/Mazatlan", "America/Santo_Domingo", "America/Whitehorse",
  "Antarctica/Troll", "Canada/Yukon", "Mexico/BajaSur", "US/Aleutian",
];

/// The fields that a date is shown with. `required` and `defaults` are "date", "time" or "all", as
/// in ECMA-402.
function dateFormat(what, required, defaults, locales, options) {
  const instead = "use toISOString(), or the getUTC methods";
  const known = [
    ...Object.keys(DATE_FIELDS),
    ...Object.keys(TIME_FIELDS),
    "era", "hour12", "hourCycle", "timeZone", "timeZoneName", "dateStyle", "timeStyle", "calendar",
    "numberingSystem", "localeMatcher", "formatMatcher",
  ];
  // First, since functions validate time zones by the RangeError for an unknown one.
  const zone = zoneOf(options?.timeZone);
  const locale = localeOf(locales);
  const digits = DIGITS.get(locale);
  if (digits === undefined) english(what, locales, instead);
  const set = optionsOf(what, options, known, instead);
  for (const [name, value] of [
    ["calendar", "gregory"],
    ["numberingSystem", "latn"],
  ]) {
    if (set[name] !== undefined && set[name] !== value)
      throw unsupported(`${what} with the ${name} ${set[name]}`, instead);
  }
  const fields = {};
  const take = (choices) => {
    for (const name of Object.keys(choices))
      if (set[name] !== undefined) fields[name] = choice(name, set[name], choices[name]);
  };
  take({ era: TEXTS });
  take(DATE_FIELDS);
  take(TIME_FIELDS);
  const style = (name) => (set[name] === undefined ? undefined : choice(name, set[name], STYLES));
  const [dateStyle, timeStyle] = [style("dateStyle"), style("timeStyle")];
  let zoneName =
    set.timeZoneName === undefined
      ? undefined
      : choice("timeZoneName", set.timeZoneName, [
          "short", "long", "shortOffset", "longOffset", "shortGeneric", "longGeneric",
        ]);
  const isStyled = dateStyle !== undefined || timeStyle !== undefined;
  if (isStyled) {
    const other = Object.keys(fields)[0] ?? (zoneName && "timeZoneName");
    if (other !== undefined)
      throw new TypeError(
        `Can't set option ${other} when ${dateStyle === undefined ? "timeStyle" : "dateStyle"} is used`,
      );
    if (required === "date" && timeStyle !== undefined)
      throw new TypeError("Invalid option : timeStyle");
    if (required === "time" && dateStyle !== undefined)
      throw new TypeError("Invalid option : dateStyle");
    if (dateStyle !== undefined) Object.assign(fields, DATE_STYLES[dateStyle]);
    if (timeStyle !== undefined)
      Object.assign(
        fields,
        { hour: "numeric", minute: "2-digit" },
        timeStyle === "short" ? {} : { second: "2-digit" },
      );
    if (timeStyle === "full" || timeStyle === "long")
      zoneName = timeStyle === "full" ? "long" : "short";
  } else {
    const has = (choices) => Object.keys(choices).some((name) => fields[name] !== undefined);
    const isGiven =
      (required !== "time" && has(DATE_FIELDS)) || (required !== "date" && has(TIME_FIELDS));
    if (!isGiven && defaults !== "time")
      Object.assign(fields, { year: "numeric", month: "numeric", day: "numeric" });
    if (!isGiven && defaults !== "date")
      Object.assign(fields, { hour: "numeric", minute: "2-digit", second: "2-digit" });
  }
  const isNamed = {
    long: zone === "UTC", short: !OTHERS.includes(zone), shortOffset: true, longOffset: true,
  };
  if (zoneName !== undefined && !isNamed[zoneName])
    throw unsupported(`${what} with the timeZoneName ${zoneName} in ${zone}`, instead);
  let cycle = set.hourCycle === undefined ? undefined : choice("hourCycle", set.hourCycle, CYCLES);
  // With `hour12: false`, V8 shows midnight as 24 in locales that have 12 hours otherwise.
  if (set.hour12 !== undefined) cycle = set.hour12 ? "h12" : "h24";
  const { weekday, year, month, day, hour, minute, second } = fields;
  const hasDate = [weekday, year, month, day].some((each) => each !== undefined);
  const hasTime = [hour, minute, second].some((each) => each !== undefined);
  const isText = TEXTS.includes(month) || weekday !== undefined;
  // Canadian English writes dates with names as the United States do.
  if (digits !== undefined && !(isText && !hasTime && locale === "en-ca")) {
    const named = isText ? load("convex:months").namedPattern(locale, fields) : undefined;
    const isDate = isText
      ? named !== undefined && !(hasTime && (named.at === undefined || month === undefined))
      : year === "numeric" && month === day && WIDTHS.includes(day);
    const has24 = digits.time.startsWith("H");
    const wants24 = set.hour12 === false || cycle === "h23";
    const isCycle = wants24 || cycle === undefined || (cycle === "h12" && !has24);
    let { time } = digits;
    if (wants24 && !has24 && time !== "") time = cycle === "h23" ? "HH:mm:ss" : "kk:mm:ss";
    const isTime = isCycle && time !== "" && hour !== undefined && minute !== undefined;
    const others = [fields.era, zoneName, dateStyle, timeStyle];
    if ((hasDate && !isDate) || (hasTime && !isTime) || others.some((each) => each !== undefined))
      throw unsupported(`${what} with these options and the locale ${locale}`, instead);
    if (second === undefined) time = time.replace(/.ss/, "");
    const isShort = set.minute === "2-digit" && set.second !== "numeric";
    if (hour === "numeric" && isShort && has24) time = time.replace("HH", "H");
    const date = hasDate ? (named?.pattern ?? digits.date) : "";
    const between = hasDate && hasTime ? "@" : "";
    const pattern = date + between + (hasTime ? time : "");
    return { what, zone, fields, pattern, named: { at: digits.between, ...named } };
  }
  cycle ??= "h12";
  const isStrange =
    (fields.era !== undefined && [year, month, day].includes(undefined)) ||
    (hour === undefined && hasDate && (minute ?? second) !== undefined) ||
    (hour !== undefined &&
      minute === undefined &&
      cycle !== "h12" &&
      (hasDate || zoneName !== undefined)) ||
    (hour !== undefined && minute === undefined && second !== undefined) ||
    (month === undefined && [weekday, year, day].filter((each) => each !== undefined).length > 1) ||
    (weekday !== undefined && month !== undefined && day === undefined);
  if (isStrange) throw unsupported(`${what} with only ${Object.keys(fields).join(", ")}`, instead);
  if (isStyled && cycle === "h11") throw unsupported(`${what} with the hourCycle h11`, instead);
  return { what, zone, fields, zoneName, cycle, dateStyle, timeStyle };
}

/// The name of a time zone. The zones are those of the IANA.
function zoneOf(given) {
  if (given === undefined) return "UTC";
  const name = native.zoneName(String(given));
  if (name === undefined) throw new RangeError(`Invalid time zone specified: ${given}`);
  return [
    "Etc/UTC", "Etc/GMT", "GMT", "Etc/UCT", "UCT", "Etc/Zulu", "Zulu", "Etc/Universal", "Universal",
    "Etc/Greenwich", "Greenwich", "Etc/GMT0", "GMT0", "Etc/GMT+0", "GMT+0", "Etc/GMT-0", "GMT-0",
  ].includes(name)
    ? "UTC"
    : name;
}

/// The name of a time zone at a time.
function nameOf(zone, kind, time) {
  if (zone === "UTC" && kind === "short") return "UTC";
  if (kind === "long") return "Coordinated Universal Time";
  const seconds = zone === "UTC" ? 0 : native.zoneOffset(zone, time);
  if (kind === "short" && time >= 0) {
    const name = native.zoneAbbreviation(zone, time);
    if (ABBREVIATIONS[name] * 3600 === seconds) return name;
  }
  const isLong = kind === "longOffset";
  const size = Math.abs(seconds);
  const shown = (value) => `:${String(value).padStart(2, "0")}`;
  const [hours, minutes, rest] = [Math.floor(size / 3600), Math.floor(size / 60) % 60, size % 60];
  const begin = `GMT${seconds < 0 ? "-" : "+"}${isLong ? shown(hours).slice(1) : hours}`;
  const end = rest === 0 ? "" : shown(rest);
  return begin + (isLong || minutes > 0 || rest > 0 ? shown(minutes) : "") + end;
}

const DAY_MS = 24 * 3_600_000;

/// A valid date as parts, each with its type.
function dateParts(format, time) {
  const { what, zone, fields, zoneName, cycle, dateStyle, timeStyle, pattern, named } = format;
  // The local time can be after the last that a `Date` has. Days repeat after 400 years.
  const isLast = time > 8.64e15 - 2 * DAY_MS;
  const shifted = isLast ? time - 146_097 * DAY_MS : time;
  const local = new Date(shifted + (zone === "UTC" ? 0 : native.zoneOffset(zone, time) * 1000));
  const year = local.getUTCFullYear() + (isLast ? 400 : 0);
  // The local time of the first times is none that a `Date` has: the year is NaN.
  if (!(year >= 1))
    throw unsupported(`${what} of a year before 1`, "use toISOString(), or the getUTC methods");
  if (pattern !== undefined) return patternParts(pattern, named, fields, local, year);
  const sized = (value, size) =>
    size === "2-digit" ? String(value % 100).padStart(2, "0") : String(value);
  const text = (name, width) =>
    width === "long" ? name : name.slice(0, width === "short" ? 3 : 1);
  const isTextual = TEXTS.includes(fields.month);
  const hours = local.getUTCHours();
  const shownHour = { h11: hours % 12, h12: hours % 12 || 12, h23: hours, h24: hours || 24 }[cycle];
  const is12 = cycle === "h11" || cycle === "h12";
  const isAlone = (name) =>
    fields.hour === undefined && (name === "minute" ? fields.second : fields.minute) === undefined;
  const values = {
    weekday: () => text(DAYS[local.getUTCDay()], fields.weekday),
    year: () => sized(year, fields.year),
    month: () =>
      isTextual
        ? text(MONTHS[local.getUTCMonth()], fields.month)
        : sized(local.getUTCMonth() + 1, fields.month),
    day: () => sized(local.getUTCDate(), fields.day),
    hour: () => sized(shownHour, is12 ? fields.hour : "2-digit"),
    minute: () => sized(local.getUTCMinutes(), isAlone("minute") ? "numeric" : "2-digit"),
    second: () => sized(local.getUTCSeconds(), isAlone("second") ? "numeric" : "2-digit"),
    dayPeriod: () => (hours < 12 ? "AM" : "PM"),
    timeZoneName: () => nameOf(zone, zoneName, time),
    era: () => ERAS[fields.era],
  };
  const parts = [];
  const add = (type, before) => {
    if (parts.length > 0 && before !== "") parts.push({ type: "literal", value: before });
    parts.push({ type, value: values[type]() });
  };
  const { weekday, year: ofYear, month, day } = fields;
  if (weekday !== undefined) add("weekday", "");
  if (month !== undefined) add("month", ", ");
  if (day !== undefined) add("day", month === undefined ? "" : isTextual ? " " : "/");
  if (ofYear !== undefined) add("year", !isTextual ? "/" : day === undefined ? " " : ", ");
  if (fields.era !== undefined) add("era", " ");
  const hasDate = parts.length > 0;
  const isLong =
    dateStyle === undefined
      ? fields.month === "long"
      : dateStyle === "full" || dateStyle === "long";
  const join = hasDate
    ? isLong
      ? " at "
      : weekday !== undefined && month === undefined && zoneName === undefined
        ? " "
        : ", "
    : "";
  const beginning = parts.length;
  for (const name of ["hour", "minute", "second"])
    if (fields[name] !== undefined) add(name, parts.length === beginning ? join : ":");
  if (fields.hour !== undefined && is12) add("dayPeriod", "\u202f");
  if (zoneName !== undefined) add("timeZoneName", parts.length > beginning ? " " : join);
  return parts;
}

const LETTERS = {
  w: "weekday", d: "day", M: "month", y: "year", H: "hour", h: "hour", k: "hour", m: "minute",
  s: "second", a: "dayPeriod", A: "dayPeriod", B: "dayPeriod",
};

/// A date by a pattern, as parts. In the pattern, `~` is the text between day, month and year, `@`
/// that before the time, and `_` a narrow blank.
function patternParts(pattern, { months, days, between, at }, fields, local, year) {
  const hours = local.getUTCHours();
  const half = hours < 12 ? "a" : "p";
  const values = {
    d: local.getUTCDate(), M: local.getUTCMonth() + 1, y: year, H: hours,
    h: hours % 12 || 12, k: hours || 24, m: local.getUTCMinutes(), s: local.getUTCSeconds(),
  };
  const texts = {
    w: days?.[local.getUTCDay()], M: months?.[values.M - 1], a: `${half}m`, A: `${half}.m.`,
    B: `${half}.\u202fm.`, "~": between, "@": at, _: "\u202f",
  };
  return pattern.match(/([dMyHhkms])\1?|[waAB~@_]|[^wdMyHhkmsaAB~@_]+/g).flatMap((each) => {
    const type = LETTERS[each[0]] ?? "literal";
    if (texts[each] !== undefined) return { type, value: texts[each] };
    if (type === "literal") return { type, value: each };
    const isPadded = each.length === 2 || fields[type] === "2-digit";
    const value = type === "year" && isPadded ? values.y % 100 : values[each[0]];
    return { type, value: String(value).padStart(isPadded ? 2 : 1, "0") };
  });
}

/// V8 writes an ordinary space before AM and PM here, and a narrow one in `formatToParts`.
const joined = (parts) => parts.map(({ value }) => value.replaceAll("\u202f", " ")).join("");

/// The methods of `Date`. `parts` is "date", "time" or "all".
export function dateToLocaleString(what, date, parts, locales, options) {
  const time = date.getTime();
  return Number.isNaN(time)
    ? "Invalid Date"
    : joined(dateParts(dateFormat(what, parts, parts, locales, options), time));
}

// ---- Intl ---------------------------------------------------------------------------------------

class Collator {
  #prepared;

  constructor(locales = undefined, options = undefined) {
    this.#prepared = prepared(() => comparer("Intl.Collator", locales, options));
  }
  get compare() {
    return (a, b) => this.#prepared()(String(a), String(b));
  }
}

/// Prepares a format. Apps create formats while their modules load, so an unsupported one fails
/// only when it is used.
function prepared(prepare) {
  try {
    const made = prepare();
    return () => made;
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return () => {
      throw error;
    };
  }
}

/// The locales among the given ones that are supported, as a list.
const supported = (locales, isSupported) =>
  (locales === undefined ? [] : [locales].flat())
    .filter((locale) => isSupported(localeOf(locale)))
    .map(canonical);

class NumberFormat {
  #prepared;

  constructor(locales = undefined, options = undefined) {
    this.#prepared = prepared(() => numberFormat("Intl.NumberFormat", locales, options));
  }
  get format() {
    return (value) => this.#prepared().format(typeof value === "bigint" ? value : Number(value));
  }
  formatToParts() {
    throw unsupported("Intl.NumberFormat.formatToParts", "use format()");
  }
  resolvedOptions() {
    return this.#prepared().resolved();
  }
  static supportedLocalesOf(locales) {
    return supported(locales, (locale) => Object.hasOwn(load("convex:numbers").FORMATS, locale));
  }
}

class DateTimeFormat {
  #prepared;

  constructor(locales = undefined, options = undefined) {
    this.#prepared = prepared(() =>
      dateFormat("Intl.DateTimeFormat", "any", "date", locales, options),
    );
  }
  #parts(date) {
    const time = date === undefined ? Date.now() : Number(date);
    if (!(Math.abs(time) <= 8.64e15)) throw new RangeError("Invalid time value");
    return dateParts(this.#prepared(), time);
  }
  get format() {
    return (date) => joined(this.#parts(date));
  }
  formatToParts(date = undefined) {
    return this.#parts(date);
  }
  formatRange() {
    throw unsupported("Intl.DateTimeFormat.formatRange", "format both dates");
  }
  formatRangeToParts() {
    throw unsupported("Intl.DateTimeFormat.formatRangeToParts", "format both dates");
  }
  resolvedOptions() {
    const { zone, fields, zoneName, cycle, dateStyle, timeStyle, pattern } = this.#prepared();
    if (pattern !== undefined)
      throw unsupported("Intl.DateTimeFormat.resolvedOptions with a locale", "leave it out");
    const named = { ...(dateStyle ? { dateStyle } : {}), ...(timeStyle ? { timeStyle } : {}) };
    const shown = Object.fromEntries(
      ["weekday", "era", "year", "month", "day", "hour", "minute", "second"]
        .filter((name) => fields[name] !== undefined)
        .map((name) => [name, fields[name]]),
    );
    return {
      locale: "en-US", calendar: "gregory", numberingSystem: "latn", timeZone: zone,
      ...(fields.hour === undefined
        ? {}
        : { hourCycle: cycle, hour12: cycle === "h11" || cycle === "h12" }),
      ...(dateStyle || timeStyle
        ? named
        : { ...shown, ...(zoneName ? { timeZoneName: zoneName } : {}) }),
    };
  }
  static supportedLocalesOf(locales) {
    return supported(locales, (locale) => locale === "en" || locale === "en-us");
  }
}

/// Functions, so that they can be called without `new`.
const callable = (type) => {
  const made = {
    [type.name]: function (...args) {
      return Reflect.construct(type, args, new.target ?? type);
    },
  }[type.name];
  Object.defineProperty(made, "prototype", { value: type.prototype, writable: false });
  if (type.supportedLocalesOf)
    Object.defineProperty(made, "supportedLocalesOf", {
      value: type.supportedLocalesOf, writable: true, configurable: true,
    });
  Object.defineProperty(type.prototype, "constructor", {
    value: made, writable: true, configurable: true,
  });
  return made;
};

class PluralRules {
  #select;

  constructor(locales = undefined, options = undefined) {
    this.#select = prepared(() => {
      const instead = "choose the form by hand";
      english("Intl.PluralRules", locales, instead);
      const { type = "cardinal" } = optionsOf(
        "Intl.PluralRules", options, ["type", "localeMatcher"], instead,
      );
      if (choice("type", type, ["cardinal", "ordinal"]) === "cardinal")
        return (n) => (Math.abs(n) === 1 ? "one" : "other");
      const ends = (n, digit) => n % 10 === digit && n % 100 !== digit + 10;
      return (n) =>
        ends(Math.abs(n), 1)
          ? "one"
          : ends(Math.abs(n), 2)
            ? "two"
            : ends(Math.abs(n), 3)
              ? "few"
              : "other";
    });
  }
  select(n) {
    return this.#select()(Number(n));
  }
}

const missing = (name) => {
  const refuse = () => {
    throw unsupported(`Intl.${name}`, "format by hand, or with a package that brings its own data");
  };
  // An instance that is created while a module loads fails only when it is used.
  return {
    [name]: function () {
      return new.target === undefined ? refuse() : new Proxy({}, { get: refuse });
    },
  }[name];
};

export const Intl = {
  Collator: callable(Collator), NumberFormat: callable(NumberFormat),
  DateTimeFormat: callable(DateTimeFormat), PluralRules,
};
for (const name of [
  "DisplayNames", "DurationFormat", "ListFormat", "Locale", "RelativeTimeFormat", "Segmenter",
  "getCanonicalLocales",
  "supportedValuesOf",
]) Intl[name] = missing(name);
for (const name of Object.keys(Intl)) Object.defineProperty(Intl, name, { enumerable: false });
Object.defineProperty(Intl, Symbol.toStringTag, { value: "Intl", configurable: true });
