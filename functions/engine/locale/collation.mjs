// Generates the tables of js/collation.js from the root collation of Node.js (ICU): the characters
// whose order js/locale.js can reproduce, and that order: `node collation.mjs > ../js/collation.js`

const root = new Intl.Collator("en-US");
const base = new Intl.Collator("en-US", { sensitivity: "base" });
const sign = (n) => (n > 0) - (n < 0);
const char = String.fromCodePoint;
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => char(from + i));
const assigned = (c) => !/\p{Cn}|\p{Co}|\p{Cs}/u.test(c);

// ---- marks that follow a Latin letter ----
const candidates = range(0x300, 0x36f).filter((m) => m.normalize("NFD") === m && m !== "\u034f");
let marks = candidates.sort((a, b) => root.compare("a" + a, "a" + b));

// ---- characters of one collation element ----
const control = range(0, 0x1f).concat("\x7f");
const ignored = control.filter((c) => root.compare("a" + c + "b", "ab") === 0);
/// Letters and marks that share one weight.
const isContracted = (c) =>
  /[\u0400-\u045f]/.test(c) && base.compare(c, c.normalize("NFD")[0]) !== 0;
const hasWeight = (c) => assigned(c) && !/\p{M}/u.test(c) && root.compare(c, "") > 0;
const single = (c) => (c.normalize("NFD") === c || isContracted(c)) && hasWeight(c);
const isKnownLetter = (c) => !/\p{L}/u.test(c) || /[A-Za-z\u0391-\u03c9\u0400-\u0491]/.test(c);
let chars = [
  ...range(0x9, 0x7e), ...range(0xa0, 0x24f), ...range(0x391, 0x3c9), ...range(0x400, 0x45f),
  ...range(0x490, 0x491),
  ...range(0x2010, 0x2044), ...range(0x20a0, 0x20bf), ...range(0x2190, 0x2199),
].filter((c) => single(c) && !ignored.includes(c) && isKnownLetter(c));
chars = chars.filter((c) => !/[^0-9]/.test(c) || !/\p{N}/u.test(c) || c.length > 1);

/// Letters that consist of another letter and a mark, although Unicode does not decompose them.
const strokes = ["\u0335", "\u0336", "\u0337", "\u0338", "\u0334"];
const apart = Object.entries({
  \u00f8: "o\u0338", \u00d8: "O\u0338", \u0111: "d\u0335", \u0110: "D\u0335", \u0142: "l\u0335",
  \u0141: "L\u0335", \u0127: "h\u0335", \u0126: "H\u0335",
})
  .flatMap(([c, parts]) => strokes.map((m) => [c, parts[0] + m]))
  .filter(([c, parts]) => root.compare(c, parts) === 0);
/// Characters that sort like sequences of others. How they differ from these is not in the tables.
const spelled = [
  ["\u00df", "ss"], ["\u1e9e", "ss"], ["\u00e6", "ae"], ["\u00c6", "ae"], ["\u0153", "oe"],
  ["\u0152", "oe"], ["\u0133", "ij"], ["\u2026", "..."],
  ["\u2122", "tm"], ["\u2116", "no"], ["\ufb01", "fi"], ["\ufb02", "fl"], ["\u00a0", " "],
  ["\u202f", " "], ["\u2009", " "], ["\u00aa", "a"], ["\u00ba", "o"],
  ["\u00b2", "2"], ["\u00b3", "3"], ["\u00b9", "1"], ["\u00bd", "1\u20442"], ["\u00bc", "1\u20444"],
  ["\u00f0", "d"], ["\u00d0", "d"], ["\ufeff", ""], ["\u200b", ""], ["\u200d", ""], ["\ufe0f", ""],
]
  .filter(([c, parts]) => base.compare(c, parts) === 0);
chars = chars.filter((c) => !spelled.some(([other]) => other === c));

/// Groups of the same primary weight, each ordered by tertiary weight.
const grouped = (list) => {
  const groups = [];
  for (const c of list.toSorted((a, b) => root.compare(a, b))) {
    const last = groups.at(-1);
    if (last !== undefined && base.compare(last[0], c) === 0) last.push(c);
    else groups.push([c]);
  }
  return groups;
};

// A character that differs from another in a secondary weight counts as equivalent to it.
const accent = new Intl.Collator("en-US", { sensitivity: "accent" });
for (const [first, ...others] of grouped(chars)) {
  for (const c of others.filter((c) => accent.compare(first, c) !== 0)) spelled.push([c, first]);
}
chars = chars.filter((c) => !spelled.some(([other]) => other === c));

// A model of a string: [primaries, secondaries, tertiaries].
const latin = /^[A-Za-z]$/;
const modelOf = (groups) => {
  const ranks = new Map();
  groups.forEach((group, p) => group.forEach((c, t) => ranks.set(c, [p + 1, t])));
  const weights = (text) => {
    const [ps, ss, ts] = [[], [], []];
    const split = (c) => (ranks.has(c) ? [c] : [...c.normalize("NFD")]);
    for (const c of [...text.normalize("NFC")].flatMap(split)) {
      if (ignored.includes(c)) continue;
      const at = marks.indexOf(c);
      if (at >= 0) { ss.push(at + 1); ts.push(0); }
      else { const [p, t] = ranks.get(c); ps.push(p); ss.push(0); ts.push(t); }
    }
    return [ps, ss, ts];
  };
  const list = (a, b) => {
    for (let i = 0; i < Math.min(a.length, b.length); i++) {
      if (a[i] !== b[i]) return sign(a[i] - b[i]);
    }
    return sign(a.length - b.length);
  };
  return (a, b) => {
    const [x, y] = [weights(a), weights(b)];
    return list(x[0], y[0]) || list(x[1], y[1]) || list(x[2], y[2]);
  };
};

// Characters that the model gets wrong are removed until nothing is wrong.
for (;;) {
  const groups = grouped(chars);
  const model = modelOf(groups);
  const wrong = new Map();
  const blame = (c) => wrong.set(c, (wrong.get(c) ?? 0) + 1);
  const isKnown = (c) => chars.includes(c) || marks.includes(c);
  const probes = ["a", "A", "b", "z", "0", " ", "-", "á", "é"]
    .filter((p) => [...p.normalize("NFD")].every(isKnown));
  for (const c of chars) {
    for (const d of chars) {
      if (sign(root.compare(c, d)) !== model(c, d)) { blame(c); blame(d); }
    }
    for (const p of probes) for (const q of probes) {
      for (const [x, y] of [
        [c + p, c + q], [c + p, q + p], [p + c, q + c], [c + p, q], [p + c, p + q], [c + c, c + p],
        [p + c + q, p + q + q], [c + "\0" + p, c + p],
      ]) {
        if (sign(root.compare(x, y)) !== model(x, y)) blame(c);
      }
    }
  }
  for (const m of marks) {
    const others = ["", ...marks.slice(0, 12)];
    for (const l of "aboSz") for (const k of "aoS") for (const n of others) {
      for (const [x, y] of [
        [l + m, l], [l + m, l + n], [l + m, k + n], [l + m + "b", l + n + "a"],
        [l + m, l.toUpperCase() + n], [l + m + n, l + n + m],
      ]) {
        if (sign(root.compare(x, y)) !== model(x, y)) blame(m);
      }
    }
  }
  if (wrong.size === 0) break;
  const most = Math.max(...wrong.values());
  const out = [...wrong].filter(([, n]) => n >= most / 2).map(([c]) => c);
  process.stderr.write(`left out: ${out.join(" ")}\n`);
  chars = chars.filter((c) => !out.includes(c));
  marks = marks.filter((c) => !out.includes(c));
}

// ---- characters whose order is known only among those above ----
const groups = grouped(chars);
const classes = [];
const classRanges = [
  ["emoji", 0x1f300, 0x1faff], ["emoji", 0x2600, 0x27bf], ["kana", 0x3041, 0x30fe],
  ["hangul", 0xac00, 0xd7a3],
  ["han", 0x4e00, 0x9fff], ["hebrew", 0x5d0, 0x5ea], ["arabic", 0x620, 0x64a],
  ["devanagari", 0x904, 0x939], ["thai", 0xe01, 0xe2e],
];
for (const [name, from, to] of classRanges) {
  const members = range(from, to).filter((c) => hasWeight(c) && !/\p{Lm}/u.test(c));
  const places = new Set(members.map((c) => {
    const at = groups.findIndex((group) => base.compare(c, group[0]) <= 0);
    return at < 0 ? groups.length : at;
  }));
  const ends = [...places].map((at) => `${at}(${groups[at]?.[0] ?? "end"})`);
  const count = `${members.length} of ${to - from + 1}`;
  process.stderr.write(`${name} ${from.toString(16)}: ${count}, at ${ends}\n`);
  if (places.size === 1) classes.push([from, to, [...places][0]]);
}
console.error(`${chars.length} characters, ${groups.length} groups, ${marks.length} marks`);

const escape = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
const escaped = (s) => JSON.stringify(s).slice(1, -1).replace(/[\u0080-\uffff]/g, escape);
const plain = (pairs) => {
  const lines = [""];
  for (const [c, parts] of pairs) {
    const member = ` "${escaped(c)}": "${escaped(parts)}",`;
    if (lines.at(-1).length + member.length > 118) lines.push("");
    lines[lines.length - 1] += member;
  }
  return `{\n${lines.map((line) => ` ${line}`).join("\n")}\n}`;
};
/// Formats a literal over several lines.
const literal = (parts) => {
  const lines = [""];
  for (const part of parts) {
    if (lines.at(-1).length + part.length > 120) lines.push("");
    lines[lines.length - 1] += part;
  }
  return lines.map((line) => `  "${line}"`).join(" +\n");
};
console.log(`// The order of characters by the root collation of CLDR (Unicode collation
// algorithm), as far as it is known here. Generated by locale/collation.mjs with ICU ${
  process.versions.icu}.
// Loaded when a function first compares strings by locale.

/// Characters in the order of their primary weights, grouped by weight and ordered by tertiary
/// weight.
export const groups = (
${literal(groups.map((group, i) => escaped((i === 0 ? "" : "\u0001") + group.join(""))))}
).split("\\u0001");

/// Combining marks in the order of their secondary weights.
export const marks =
${literal(marks.map(escaped))};

/// Letters that consist of another letter and a mark, although Unicode does not decompose them.
export const apart = ${plain(apart)};

/// Characters that sort like sequences of others. How they differ from these is not in the tables.
export const spelled = ${plain(spelled)};

/// Ignored characters.
export const ignored =
${literal(ignored.map(escaped))};

/// Ranges of characters, with the group that all of them sort before. Their order within a range is
/// not in the tables.
export const classes = ${JSON.stringify(classes).replaceAll(",", ", ")};`);
