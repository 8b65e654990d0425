// Compares js/collate.js, locale.js and dates.js with Node.js on random texts, numbers and dates:
// `node check.mjs [COUNT [SEED]]`.
import { readFileSync } from "node:fs";

process.env.TZ = "UTC";
const read = (name) => readFileSync(new URL(`../js/${name}.js`, import.meta.url), "utf8");
const evaluate = (name, load) => {
  const text = read(name).replace(/^import .*$/gm, "").replace(/^export /gm, "");
  const exported = read(name).matchAll(/^export (?:const|function) (\w+)/gm);
  const names = [...exported].map(([, found]) => found);
  const body = `{ ${text}\nreturn { ${names.join(", ")} }; }`;
  return new Function("load", "native", body)(load, native);
};
/// The host's functions for time zones.
const native = {
  zoneName(name) {
    try {
      return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone;
    } catch {
      return undefined;
    }
  },
  zoneOffset(timeZone, time) {
    const numeric = ["year", "month", "day", "hour", "minute", "second"];
    const fields = Object.fromEntries(numeric.map((field) => [field, "numeric"]));
    const format = new Intl.DateTimeFormat("en-US", { timeZone, hourCycle: "h23", ...fields });
    const parts = format.formatToParts(time).map(({ type, value }) => [type, Number(value)]);
    const { year, month, day, hour, minute, second } = Object.fromEntries(parts);
    const local = Date.UTC(year, month - 1, day, hour, minute, second);
    return (local - Math.floor(time / 1000) * 1000) / 1000;
  },
  zoneAbbreviation(timeZone, time) {
    const format = new Intl.DateTimeFormat("en-US", { timeZone, timeZoneName: "short" });
    return format.formatToParts(time).find(({ type }) => type === "timeZoneName").value;
  },
};
const load = (name) => evaluate(name.replace("convex:", ""), load);
const { collate } = load("convex:collate");

const pools = [
  [..."abcABCzZ019 -_.,'\"()[]{}@*/\\&#%`^+<=>|~$!?;:\t\n\0\x07"],
  [..."aàáâãäåAÀÁÂÃÄÅcçCÇeèéêëEÈÉÊËiíIÍnñNÑoöőøOÖŐØuüűUÜŰyÿsšSŠzžłŁđĐħ"],
  [..."aeosSßẞæÆœŒĳ…™№½¼²³¹ªº\u00a0ðÐ"],
  [..."аяАЯийИЙёЁеЕїЇіІ"], [..."αβγΑΒΓσςΣάέώϊΐΆ"], [..."😀🎉👍漢字か한가אبअก\ufe0f\u200d"],
  [..."\u0300\u0301\u0302\u0308\u030a\u0327\u0323\u0331aAeo·lL"], [..."–—‘’“”•€£¥©®°§¶«»¿¡→←±×÷"],
];
let seed = Number(process.argv[3] ?? 1);
const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
const textOf = () => {
  const own = [pools[0], pools[random(pools.length)], pools[random(pools.length)]].flat();
  return Array.from({ length: random(6) }, () => own[random(own.length)]).join("");
};
const options = [
  {}, { sensitivity: "base" }, { sensitivity: "accent" }, { numeric: true },
  { numeric: true, sensitivity: "base" },
];
const collators = options.map((each) => new Intl.Collator("en-US", each));
const count = Number(process.argv[2] ?? 1_000_000);
let [unknown, wrong] = [0, 0];
class Unknown extends Error {}

for (let n = 0; n < count; n++) {
  const a = textOf();
  const b = random(3) === 0 ? a.slice(0, random(4)) + textOf() : textOf();
  const at = random(options.length);
  let found;
  try {
    const { sensitivity, numeric: isNumeric } = options[at];
    found = collate(a, b, { sensitivity, isNumeric }, () => new Unknown());
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    unknown++;
    continue;
  }
  const expected = Math.sign(collators[at].compare(a, b));
  if (found !== expected && wrong++ < 20) {
    console.log(JSON.stringify([a, b, options[at], found, expected]));
  }
}
// ---- numbers and dates ----
const locale = load("convex:locale");
const given = (from) => from[random(from.length)];
const same = (name, found, expected, ...of) => {
  if (!Object.is(found, expected) && wrong++ < 20) {
    console.log(name, JSON.stringify(of.map(String)), found, expected);
  }
};
const numberOf = () => given([
  () => random(2e9) / 10 ** random(12), () => -random(2e9) / 10 ** random(12),
  () => random(1e6) / 1000 + 0.0005, () => random(20000) / 16,
  () => 10 ** (random(40) - 20) * random(1000),
  () => given([
    0, -0, NaN, Infinity, -Infinity, 5e-324, 1.7976931348623157e308, 1e21, 0.5, 1.5, 2.5, 999.9995,
  ]),
])();
const currencies = Intl.supportedValuesOf("currency");
const tags = Object.keys(load("convex:numbers").FORMATS);
const numeric = () => {
  const min = given([undefined, undefined, 0, 2, 4]);
  const max = given([undefined, undefined, 0, 1, 2, 5, 20]);
  const currency = given([...currencies, "USD", "EUR", "INR"]);
  const style = given([{}, {}, { style: "percent" }, { style: "currency", currency }]);
  return {
    minimumFractionDigits: min, maximumFractionDigits: max, ...style,
    useGrouping: given([undefined, true, false]), minimumIntegerDigits: given([undefined, 1, 3]),
  };
};
const attempt = (format) => {
  try {
    return format();
  } catch ({ name, message }) {
    return name === "NotSupportedError" ? name : `${name}: ${message}`;
  }
};
/// Counts what is not supported, and compares the rest.
const compare = (name, mine, theirs, ...of) => {
  const found = attempt(mine);
  if (found === "NotSupportedError") unknown++;
  else same(name, found, attempt(theirs), ...of);
};
for (let n = 0; n < count / 10; n++) {
  const bigint = () => BigInt(random(2e9)) ** BigInt(random(4)) * given([1n, -1n]);
  const value = given([0, 1, 2]) > 0 ? numberOf() : bigint();
  const [options, tag] = [given([undefined, {}, numeric()]), given(["en-US", given(tags)])];
  const format = locale[`${typeof value}ToLocaleString`];
  const of = [value, tag, JSON.stringify(options)];
  const theirs = () => value.toLocaleString(tag, options);
  compare("number", () => format(value, tag, options), theirs, ...of);
}
const zones = [
  "UTC", undefined, "America/New_York", "Europe/Paris", "Asia/Kolkata", "Australia/Lord_Howe",
  "Pacific/Apia",
];
const DIGITS = [...read("locale").matchAll(/^    \["[dMy].*"(.*)"\],$/gm)].flatMap(([, tags]) => tags.split(" "));
const zoneNames = ["short", "long", "shortOffset", "longOffset"];
const widths = [undefined, undefined, "numeric", "2-digit"];
const texts = [undefined, undefined, "long", "short", "narrow"];
const styles = [undefined, undefined, "full", "long", "medium", "short"];
for (let n = 0; n < count / 10; n++) {
  const date = new Date(random(2e9) * 2_000 - 1e12);
  const zone = given(zones);
  const fields = {
    weekday: given(texts), year: given(widths), month: given([...widths, ...texts]),
    day: given(widths), hour: given(widths), minute: given(widths), second: given(widths),
    timeZoneName: given([undefined, undefined, undefined, ...zoneNames]),
    era: given([undefined, undefined, ...texts]),
  };
  const [width, ofHour] = [given(["numeric", "2-digit"]), given(["numeric", "2-digit"])];
  const digits = {
    ...given([{}, { year: "numeric", month: width, day: width }]),
    ...given([{}, { hour: ofHour, minute: given(widths) ?? "2-digit", second: given(widths) }]),
  };
  const names = {
    weekday: given([undefined, undefined, "long", "short"]), year: given([undefined, "numeric"]),
    month: given(["long", "short", undefined]), day: given([undefined, "numeric", "2-digit"]),
    ...given([{}, { hour: ofHour, minute: "2-digit", second: given(widths) }]),
  };
  const options = {
    ...given([{}, fields, fields, digits, digits, names, names, { dateStyle: given(styles), timeStyle: given(styles) }]),
    hour12: given([undefined, undefined, true, false]),
    hourCycle: given([undefined, undefined, "h12", "h23"]), timeZone: zone,
  };
  const inZone = { timeZone: "UTC", ...options, timeZone: zone ?? "UTC" };
  const tag = given(["en-US", "en-US", given(DIGITS)]);
  const of = [date.toISOString(), JSON.stringify(options)];
  const methods = { toLocaleString: "all", toLocaleDateString: "date", toLocaleTimeString: "time" };
  for (const [name, parts] of Object.entries(methods)) {
    const mine = () => locale.dateToLocaleString(name, date, parts, tag, options);
    compare(name, mine, () => date[name](tag, inZone), tag, ...of);
  }
  const format = (type) => {
    const parts = type(tag, { ...options, timeZone: zone ?? "UTC" }).formatToParts(date);
    return parts.map(({ type, value }) => `${type}:${value}`).join("|");
  };
  const [mine, theirs] = [locale.Intl.DateTimeFormat, Intl.DateTimeFormat];
  compare("formatToParts", () => format(mine), () => format(theirs), tag, ...of);
}
// ---- dates as texts ----
const written = [
  "2024", "24", "1", "5", "05", "12", "31", "32", "0", "00", "13", "99", "50", "49", "1999",
  "10000", "012024", "123456789012", "7", "59", "60", "24", "23", ":", ":", ":", "-", "-", "/", "/",
  ".", ",", " ", " ", " ", "T", "t", "Z", "z", "+", "+", "(", ")", "(x)",
  "Jan", "january", "Sept", "dec", "Mon", "Friday", "am", "PM", "p.m.", "GMT", "UTC", "EST", "pdt",
  "GMT+0100", "+02:00", "-0530", "-08", "x", "of", "\u00e9", "\t", "\u00a0", "10:00", "10:00:00",
  "10:00:00.5", "2024-01-05", "01/02/2024", "5 Jan", "Jan 5, 2024",
];
const { parseDate } = load("convex:dates");
for (let n = 0; n < count; n++) {
  const parts = Array.from({ length: 1 + random(8) }, () => given(written));
  const text = parts.join(given(["", "", " "]));
  // V8 calculates with 32 bits there.
  if (!/[+-][\d:.]{9}|\d{9}/.test(text)) same("parse", parseDate(text), Date.parse(text), text);
}
console.log(`${count} pairs, ${wrong} wrong, ${unknown} not known`);
process.exit(wrong === 0 ? 0 : 1);
