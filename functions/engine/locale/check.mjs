// Compares js/collate.js with Node.js on random strings: `node check.mjs [COUNT]`.
import { readFileSync } from "node:fs";

const read = (name) => readFileSync(new URL(`../js/${name}.js`, import.meta.url), "utf8");
const evaluate = (name, load) => {
  const text = read(name).replace(/^import .*$/gm, "").replace(/^export /gm, "");
  const names = [...read(name).matchAll(/^export (?:const|function) (\w+)/gm)].map(([, found]) => found);
  return new Function("load", `{ ${text}\nreturn { ${names.join(", ")} }; }`)(load);
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
const options = [{}, { sensitivity: "base" }, { sensitivity: "accent" }, { numeric: true }, { numeric: true, sensitivity: "base" }];
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
    found = collate(a, b, { sensitivity: options[at].sensitivity, isNumeric: options[at].numeric }, () => new Unknown());
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    unknown++;
    continue;
  }
  const expected = Math.sign(collators[at].compare(a, b));
  if (found !== expected && wrong++ < 20) console.log(JSON.stringify([a, b, options[at], found, expected]));
}
// ---- numbers and dates ----
const locale = load("convex:locale");
const given = (from) => from[random(from.length)];
const same = (name, found, expected, ...of) => {
  if (found !== expected && wrong++ < 20) console.log(name, JSON.stringify(of.map(String)), found, expected);
};
const numberOf = () => given([
  () => random(2e9) / 10 ** random(12), () => -random(2e9) / 10 ** random(12), () => random(1e6) / 1000 + 0.0005, () => random(20000) / 16,
  () => 10 ** (random(40) - 20) * random(1000), () => given([0, -0, NaN, Infinity, -Infinity, 5e-324, 1.7976931348623157e308, 1e21, 0.5, 1.5, 2.5, 999.9995]),
])();
const numeric = () => {
  const min = given([undefined, undefined, 0, 2, 4]);
  const max = given([undefined, undefined, 0, 1, 2, 5, 20]);
  return { minimumFractionDigits: min, maximumFractionDigits: max, ...given([{}, {}, { style: "percent" }, { style: "currency", currency: given(["USD", "EUR", "GBP"]) }]),
    useGrouping: given([undefined, true, false]) };
};
for (let n = 0; n < count / 10; n++) {
  const [value, options] = [given([0, 1, 2]) > 0 ? numberOf() : BigInt(random(2e9)) ** BigInt(random(4)) * given([1n, -1n]), given([undefined, {}, numeric()])];
  const attempt = (format) => { try { return format(); } catch (error) { return `${error.name}: ${error.message}`; } };
  const mine = attempt(() => locale[typeof value === "bigint" ? "bigintToLocaleString" : "numberToLocaleString"](value, "en-US", options));
  same("number", mine, attempt(() => value.toLocaleString("en-US", options)), value, JSON.stringify(options));
  const date = new Date(random(2e9) * 100_000 - 62e12);
  if (date.getUTCFullYear() < 1) continue;
  for (const [name, parts] of [["toLocaleString", "all"], ["toLocaleDateString", "date"], ["toLocaleTimeString", "time"]]) {
    same(name, locale.dateToLocaleString(name, date, parts), date[name]("en-US", { timeZone: "UTC" }), date.toISOString());
  }
}
console.log(`${count} pairs, ${wrong} wrong, ${unknown} not known`);
process.exit(wrong === 0 ? 0 : 1);
