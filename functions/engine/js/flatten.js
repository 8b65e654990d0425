// The rare cases of loops.js: loops in JavaScript, which the clock can interrupt, instead of the
// engine's own.
//
// Loaded when first needed. It relies only on the built-ins that `convex:prelude` saved.

import { captured } from "convex:prelude";

const {
  apply, arraySlice, defineProperty, getOwnPropertyDescriptor, isArray, iteratorPrototype,
  RealObject, RealRangeError, RealTypeError, trunc,
} = captured;
const {
  asyncIterator, construct, get, has, iterator, set, deleteProperty, isConcatSpreadable,
  MAX_SAFE_INTEGER, RealArray, exec, indexOf, lastIndexOf, max, slice,
} = captured;

/// Wraps an object in a proxy. Each access is then a call of JavaScript, so the clock can interrupt
/// a loop of the engine over the object, whatever length it claims to have.
export const traps = {
  __proto__: null,
  get: (target, key) => get(target, key),
  has: (target, key) => has(target, key),
  set: (target, key, value) => set(target, key, value),
  deleteProperty: (target, key) => deleteProperty(target, key),
  defineProperty: (target, key, descriptor) => defineProperty(target, key, descriptor),
  getOwnPropertyDescriptor: (target, key) => getOwnPropertyDescriptor(target, key),
};

/// The default order of a sort.
export function byText(a, b) {
  const first = typeof a === "string" ? a : `${a}`;
  const second = typeof b === "string" ? b : `${b}`;
  return first < second ? -1 : first > second ? 1 : 0;
}

function isObject(value) {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

function put(target, key, value) {
  if (
    !defineProperty(target, key, {
      __proto__: null, value, writable: true, enumerable: true, configurable: true,
    })
  ) {
    throw new RealTypeError("an element cannot be defined");
  }
}

function lengthOf(value) {
  const length = trunc(+value.length);
  return length > 0 ? (length < MAX_SAFE_INTEGER ? length : MAX_SAFE_INTEGER) : 0;
}

function spreads(value) {
  if (!isObject(value)) return false;
  const spreadable = value[isConcatSpreadable];
  return spreadable === undefined ? isArray(value) : !!spreadable;
}

/// Creates an array of the species that the given array's methods return.
function similar(source) {
  return apply(arraySlice, isArray(source) ? source : [], [0, 0]);
}

function append(target, at, value) {
  const length = lengthOf(value);
  for (let i = 0; i < length; i++) if (i in value) put(target, at + i, value[i]);
  return at + length;
}

function flatten(target, at, source, depth, map, self) {
  const length = lengthOf(source);
  for (let i = 0; i < length; i++) {
    if (!(i in source)) continue;
    const value = map === undefined ? source[i] : apply(map, self, [source[i], i, source]);
    if (depth > 0 && isArray(value)) at = flatten(target, at, value, depth - 1);
    else put(target, at++, value);
  }
  return at;
}

export function concat(self, values) {
  const source = RealObject(self);
  const target = similar(source);
  let at = spreads(source) ? append(target, 0, source) : (put(target, 0, source), 1);
  for (let i = 0; i < values.length; i++) {
    if (spreads(values[i])) at = append(target, at, values[i]);
    else put(target, at++, values[i]);
  }
  target.length = at;
  return target;
}

export function flat(_original, self, args) {
  const source = RealObject(self);
  const target = similar(source);
  const depth = args[0];
  flatten(target, 0, source, depth === undefined ? 1 : trunc(+depth) || 0);
  return target;
}

export function flatMap(original, self, args) {
  const map = args[0];
  if (typeof map !== "function") return apply(original, self, args);
  const source = RealObject(self);
  const target = similar(source);
  flatten(target, 0, source, 1, map, args[1]);
  return target;
}

/// Long runs of combining marks.
const marks = /\p{M}{64,}/gu;

/// The longest regular expression that is compiled from a text, in code units, and the longest of
/// its character classes: the engine's time grows with the square of each.
const MAX_PATTERN = 1 << 17;
const MAX_CLASS = 1 << 13;

/// Fails for a regular expression that takes too long to compile. Authors make regular expressions
/// from texts of clients.
export function checkPattern(text) {
  const { length } = text;
  if (length > MAX_PATTERN) {
    throw new RealRangeError(
      `RegExp(): a pattern of ${length} characters exceeds limit of ${MAX_PATTERN}`,
    );
  }
  let squares = 0;
  let begin = -1;
  for (let i = 0; i < length; i++) {
    const unit = text[i];
    if (unit === "\\") i++;
    else if (begin < 0 ? unit === "[" : unit === "]") {
      if (begin >= 0) squares += (i - begin) ** 2;
      begin = begin < 0 ? i : -1;
    }
  }
  if (begin >= 0) squares += (length - begin) ** 2;
  if (squares > MAX_CLASS ** 2) {
    throw new RealRangeError(
      `RegExp(): character classes of this pattern exceed limit of ${MAX_CLASS} characters`,
    );
  }
}

/// Throws if a text has more combining marks in sequence.
export function checkMarks(text, limit) {
  marks.lastIndex = 0;
  for (let run; (run = apply(exec, marks, [text])) !== null; ) {
    if (run[0].length > limit)
      throw new RealRangeError(
        `String.prototype.normalize(): the combining marks in sequence exceed limit of ${limit}`,
      );
  }
}

/// Wraps an iterator so that each of its steps is a call of JavaScript.
function paced(iterator) {
  const { next } = iterator;
  return {
    __proto__: iteratorPrototype,
    next: () => apply(next, iterator, []),
    return(value) {
      const { return: end } = iterator;
      return end === undefined || end === null
        ? { value, done: true }
        : apply(end, iterator, [value]);
    },
  };
}

/// Calls an iterator method that would otherwise loop without calling JavaScript.
export function follow(original, self, args) {
  return apply(original, isObject(self) ? paced(self) : self, args);
}

/// Calls a set method that iterates over the keys of another set.
export function withSet(original, self, args) {
  const other = args[0];
  if (!isObject(other)) return apply(original, self, args);
  const same = {
    __proto__: null,
    get size() {
      return other.size;
    },
    get has() {
      const { has } = other;
      return typeof has === "function" ? (value) => apply(has, other, [value]) : has;
    },
    get keys() {
      const { keys } = other;
      return typeof keys === "function" ? () => pacedKeys(apply(keys, other, [])) : keys;
    },
  };
  return apply(original, self, [same]);
}

function pacedKeys(iterator) {
  return isObject(iterator) ? paced(iterator) : iterator;
}

/// Creates an array with `type`, if that is a constructor.
function arrayOf(type, ...length) {
  try {
    construct(RealObject, [], type);
  } catch {
    return construct(RealArray, length);
  }
  return construct(type, length);
}

/// `Array.fromAsync`.
export async function fromAsync(type, items, map, self) {
  if (map !== undefined && typeof map !== "function")
    throw new RealTypeError("Array.fromAsync(): its second argument is not a function");
  const element = async (value, i) =>
    map === undefined ? value : await apply(map, self, [value, i]);
  const isNone = (method) => method === undefined || method === null;
  let target;
  let at = 0;
  if (isNone(items[asyncIterator]) && isNone(items[iterator])) {
    const source = RealObject(items);
    const length = lengthOf(source);
    target = arrayOf(type, length);
    for (; at < length; at++) put(target, at, await element(await source[at], at));
  } else {
    target = arrayOf(type);
    for await (const value of items) {
      put(target, at, await element(value, at));
      at++;
    }
  }
  target.length = at;
  return target;
}

/// The comparisons of a search between two checks of the clock.
const STEP_COMPARISONS = 2 ** 24;

/// Searches for one text in another in steps, between which `look` checks the clock. Methods that
/// do more than search are called afterwards: the search that they repeat takes no longer than the
/// first one, which fitted into the function's time.
export function search(original, text, args, name, look) {
  const [pattern, position] = args;
  const size = pattern.length;
  const step = trunc(STEP_COMPARISONS / size) + 1;
  const last = text.length - size;
  const part = (from, to) => apply(slice, text, [from, to + size]);
  if (name === "lastIndexOf") {
    const given = trunc(+position);
    let to = given < last ? max(given, 0) : last;
    for (; to >= 0; to -= step) {
      look();
      const from = max(to - step + 1, 0);
      const at = apply(lastIndexOf, part(from, to), [pattern]);
      if (at >= 0) return from + at;
    }
    return -1;
  }
  const hasPosition = name === "includes" || name === "indexOf";
  const isAll = name === "replaceAll" || name === "split";
  let from = hasPosition ? max(trunc(+position) || 0, 0) : 0;
  let found = -1;
  while (from <= last && found < 0) {
    look();
    const searched = part(from, from + step - 1);
    let next = from + step;
    let at = apply(indexOf, searched, [pattern]);
    if (at >= 0 && !isAll) found = from + at;
    for (; isAll && at >= 0; at = apply(indexOf, searched, [pattern, at + size]))
      next = max(next, from + at + size);
    from = next;
  }
  if (name === "includes") return found >= 0;
  return name === "indexOf" ? found : apply(original, text, args);
}
