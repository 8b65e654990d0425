// Writes js/numbers.js, the number formats of locales, with those of Node.js: `node numbers.mjs`.
import { writeFileSync } from "node:fs";

const TAGS = {
  "en-US": ["en"], "en-GB": [], "en-CA": [], "en-AU": [], "en-NZ": [], "en-IE": [], "en-IN": [],
  "en-NG": [], "en-KE": [], "en-ZA": [], "en-SG": [], "en-PH": [], "de-DE": ["de"], "de-CH": [],
  "fr-FR": ["fr"], "fr-CA": [], "fr-BE": [], "es-ES": ["es"], "es-MX": [], "es-AR": [],
  "es-CO": [], "es-CL": [], "it-IT": ["it"], "pt-BR": ["pt"], "pt-PT": [], "nl-NL": ["nl"],
  "nl-BE": [], "sv-SE": ["sv"], "da-DK": ["da"], "nb-NO": ["nb", "no"], "fi-FI": ["fi"],
  "pl-PL": ["pl"], "cs-CZ": ["cs"], "hu-HU": ["hu"], "ro-RO": ["ro"], "tr-TR": ["tr"],
  "ru-RU": ["ru"], "uk-UA": ["uk"], "ja-JP": ["ja"], "ko-KR": ["ko"], "zh-CN": ["zh"],
  "zh-TW": [], "id-ID": ["id"], "vi-VN": ["vi"], "th-TH": ["th"], "hi-IN": ["hi"],
};
const CURRENCIES = Intl.supportedValuesOf("currency");
const digitsOf = (currency) => {
  const format = new Intl.NumberFormat("en", { style: "currency", currency });
  return [currency, format.resolvedOptions().maximumFractionDigits];
};
const MINOR = Object.fromEntries(CURRENCIES.map(digitsOf).filter(([, digits]) => digits !== 2));

/// The prefix and suffix of a number, positive and negative.
function around(tag, options) {
  const format = new Intl.NumberFormat(tag, options);
  return [1, -1].flatMap((value) => {
    const parts = format.formatToParts(value);
    const isDigit = ({ type }) => ["integer", "decimal", "fraction"].includes(type);
    const text = (some) => some.map((part) => part.value).join("");
    const [first, last] = [parts.findIndex(isDigit), parts.findLastIndex(isDigit)];
    return [text(parts.slice(0, first)), text(parts.slice(last + 1))];
  });
}

const formats = {};
for (const [tag, others] of Object.entries(TAGS)) {
  const parts = new Intl.NumberFormat(tag).formatToParts(12345678.5);
  const value = (wanted) => parts.find(({ type }) => type === wanted).value;
  const groups = parts.filter(({ type }) => type === "integer").map((part) => part.value.length);
  const currencies = {};
  for (const currency of CURRENCIES) {
    currencies[currency] = around(tag, { style: "currency", currency });
  }
  // Currencies that are shown by their codes are not listed.
  const code = currencies.SEK && tag !== "sv-SE" ? "SEK" : "CHF";
  const coded = currencies[code].map((text) => text.replace(code, "¤"));
  const isOwn = ([code, found]) => found.some((text, i) => text !== coded[i].replace("¤", code));
  const own = Object.fromEntries(Object.entries(currencies).filter(isOwn));
  formats[tag.toLowerCase()] = {
    group: value("group"), decimal: value("decimal"), sizes: [3, groups.at(-2)],
    least: new Intl.NumberFormat(tag).format(1234).length > 4 ? 4 : 5,
    nan: new Intl.NumberFormat(tag).format(NaN),
    plain: around(tag, {}), percent: around(tag, { style: "percent" }), coded, own,
  };
  for (const other of others) formats[other] = tag.toLowerCase();
}
const entries = Object.entries(formats).map((entry) => entry.map((part) => JSON.stringify(part)));
const table = `// The number formats of locales. Written by locale/numbers.mjs.

/// The fraction digits of currencies that do not have two.
export const MINOR = ${JSON.stringify(MINOR)};

/// The prefixes and suffixes of positive and negative numbers. In those of an unlisted currency,
/// its code replaces ¤.
export const FORMATS = {
${entries.map(([tag, format]) => `  ${tag}: ${format},`).join("\n")}
};
`;
writeFileSync(new URL("../js/numbers.js", import.meta.url), table);
