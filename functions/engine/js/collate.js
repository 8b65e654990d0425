// `localeCompare` by the root collation, as far as its order is known here. Other characters are an
// error. Loaded when a function first compares strings by locale.

import { load } from "convex:prelude";

const { apart, classes, groups, ignored, marks, spelled } = load("convex:collation");

/// The primary and tertiary weight of each character.
const ranks = new Map();
groups.forEach((group, primary) =>
  [...group].forEach((char, tertiary) => ranks.set(char, [primary, tertiary])),
);
const marked = new Map([...marks].map((mark, i) => [mark, i + 1]));
const nothing = new Set(ignored);

/// After these letters, a mark has a weight of its own. After others, letter and mark may share one
/// weight.
const lettersForMarks = /^[A-Za-z\u0391-\u03c9\u0410-\u044f]$/;
const isMark = /^\p{M}$/u;

const isDigit = (char) => char >= "0" && char <= "9" && char.length === 1;

const cyrillic = /^[\u0400-\u045f]$/;

/// The characters of a text as they are compared: marks are separated from their letters, unless
/// both share one weight.
function charactersOf(text) {
  const characters = [];
  for (const char of text.normalize("NFD")) {
    const last = characters.length - 1;
    const joined =
      isMark.test(char) && cyrillic.test(characters[last] ?? "")
        ? (characters[last] + char).normalize("NFC")
        : "";
    if (ranks.has(joined)) characters[last] = joined;
    else characters.push(...(apart[char] ?? char));
  }
  return characters;
}

/// The weights of short texts, by text: `apart` if numbers are compared as numbers, and `within` if
/// not. Sorting compares each text several times.
const known = { apart: new Map(), within: new Map() };
const MAX_KNOWN = 2048;
const MAX_KNOWN_LENGTH = 64;

function weightsOf(text, isNumeric) {
  if (text.length > MAX_KNOWN_LENGTH) return computedWeights(text, isNumeric);
  const of = isNumeric ? known.apart : known.within;
  let weights = of.get(text);
  if (weights === undefined) {
    if (of.size >= MAX_KNOWN) of.clear();
    of.set(text, (weights = computedWeights(text, isNumeric)));
  }
  return weights;
}

/// The weights of a text, up to the first unknown character.
function computedWeights(text, isNumeric) {
  const primaries = [];
  const secondaries = [];
  const tertiaries = [];
  let isLoose = false;
  let takesMark = false;
  const characters = charactersOf(text);
  const add = (char) => {
    const [primary, tertiary] = ranks.get(char);
    primaries.push(primary);
    secondaries.push(0);
    tertiaries.push(tertiary);
  };
  for (let i = 0; i < characters.length; i++) {
    const char = characters[i];
    if (nothing.has(char)) continue;
    const mark = marked.get(char);
    if (mark !== undefined && takesMark) {
      secondaries.push(mark);
      tertiaries.push(0);
    } else if (isNumeric && isDigit(char)) {
      let digits = char;
      while (i + 1 < characters.length && isDigit(characters[i + 1])) digits += characters[++i];
      primaries.push({ digits: digits.replace(/^0+(?=.)/, "") });
      secondaries.push(0);
      tertiaries.push(0);
      takesMark = false;
    } else if (ranks.has(char)) {
      // A letter followed by a middle dot can be a single letter.
      if (char === "\u00b7" && takesMark) return { primaries, unknown: char };
      takesMark = lettersForMarks.test(char);
      const next = characters[i + 1];
      const isCut = !takesMark || (cyrillic.test(char) && isMark.test(characters[i + 2] ?? ""));
      if (isCut && isMark.test(next ?? "")) return { primaries, unknown: next };
      add(char);
    } else if (spelled[char] !== undefined) {
      isLoose = true;
      for (const other of spelled[char]) add(other);
      takesMark = false;
    } else {
      const point = char.codePointAt(0);
      const at = classes.find(([from, to]) => point >= from && point <= to);
      if (at === undefined) return { primaries, unknown: char };
      return { primaries, unknown: char, before: at[2] };
    }
  }
  return { primaries, secondaries, tertiaries, isLoose };
}

const ofLists = (a, b) => {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return a.length - b.length;
};

const ZERO = ranks.get("0")[0];

/// Compares two primary weights, either of which may be a number.
function ofPrimaries(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return a < ZERO ? -1 : 1;
  if (typeof b === "number") return b < ZERO ? 1 : -1;
  return (
    a.digits.length - b.digits.length || (a.digits < b.digits ? -1 : a.digits > b.digits ? 1 : 0)
  );
}

/// Returns a negative number, zero, or a positive one if `a` sorts before, equal to, or after `b`.
export function collate(a, b, { sensitivity = "variant", isNumeric = false }, unknown) {
  if (a === b) return 0;
  const [one, other] = [weightsOf(a, isNumeric), weightsOf(b, isNumeric)];
  const [p, q] = [one.primaries, other.primaries];
  const length = Math.min(p.length, q.length);
  for (let i = 0; i < length; i++) {
    const order = ofPrimaries(p[i], q[i]);
    if (order !== 0) return Math.sign(order);
  }
  if (one.unknown !== undefined || other.unknown !== undefined) {
    // One text continues with an unknown character, and the other with a known one or not at all.
    const side = (mine, theirs) => {
      const next = theirs.primaries[length];
      if (mine.before === undefined || mine.primaries.length !== length) return undefined;
      if (next === undefined) return theirs.unknown === undefined ? 1 : undefined;
      const place = typeof next === "number" ? next : ZERO;
      return place < mine.before ? 1 : -1;
    };
    const order = one.unknown === undefined ? undefined : side(one, other);
    const opposite = other.unknown === undefined ? undefined : side(other, one);
    if (order !== undefined) return order;
    if (opposite !== undefined) return -opposite;
    throw unknown(one.unknown ?? other.unknown);
  }
  if (p.length !== q.length) return Math.sign(p.length - q.length);
  if (sensitivity === "base") return 0;
  if (one.isLoose || other.isLoose) {
    const letter = [...a, ...b].find((char) => spelled[char] !== undefined);
    throw unknown(letter ?? a);
  }
  const accents = Math.sign(ofLists(one.secondaries, other.secondaries));
  if (accents !== 0 || sensitivity === "accent") return accents;
  return Math.sign(ofLists(one.tertiaries, other.tertiaries));
}
