// The common rules of web interfaces (Web IDL): their tags, the number of arguments that their
// methods need, and iteration over pairs.

import { addClass, captured } from "convex:prelude";

const {
  apply, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, iteratorPrototype, ownKeys,
} = captured;
const asyncPrototype = getPrototypeOf(async () => {});

/// Finishes interfaces. A method needs as many arguments as it has parameters without defaults.
export function expose(...types) {
  for (const type of types) {
    requireArguments(type, type.name);
    requireArguments(type.prototype, type.name);
    defineProperty(type.prototype, Symbol.toStringTag, { value: type.name, configurable: true });
    addClass(type);
  }
}

function requireArguments(object, name) {
  for (const key of ownKeys(object)) {
    const { value: method } = getOwnPropertyDescriptor(object, key);
    if (key === "constructor" || typeof method !== "function" || !(method.length > 0)) continue;
    const isAsync = getPrototypeOf(method) === asyncPrototype;
    const checked = {
      [key](...args) {
        if (args.length >= method.length) return apply(method, this, args);
        const error = new TypeError(
          `${name}.${String(key)}() needs ${method.length} arguments, and was given ${args.length}`,
        );
        if (isAsync) return Promise.reject(error);
        throw error;
      },
    }[key];
    defineProperty(checked, "length", { value: method.length, configurable: true });
    defineProperty(object, key, { value: checked });
  }
}

/// Makes an interface iterable. `pairsOf` returns its current pairs: pairs that are added during an
/// iteration are visited.
export function iterable(type, pairsOf) {
  class Walk {
    #owner;
    #pick;
    #at = 0;

    constructor(owner, pick) {
      pairsOf(owner);
      this.#owner = owner;
      this.#pick = pick;
    }
    next() {
      const pairs = pairsOf(this.#owner);
      if (this.#at >= pairs.length) return { value: undefined, done: true };
      return { value: this.#pick(pairs[this.#at++]), done: false };
    }
  }
  Object.setPrototypeOf(Walk.prototype, iteratorPrototype);
  defineProperty(Walk.prototype, Symbol.toStringTag, {
    value: `${type.name} Iterator`,
    configurable: true,
  });
  const methods = {
    entries() { return new Walk(this, ([name, value]) => [name, value]); },
    keys() { return new Walk(this, ([name]) => name); },
    values() { return new Walk(this, ([, value]) => value); },
    forEach(callback, self = undefined) {
      if (typeof callback !== "function")
        throw new TypeError(`${type.name}.forEach() takes a function`);
      for (let i = 0; i < pairsOf(this).length; i++) {
        const [name, value] = pairsOf(this)[i];
        apply(callback, self, [value, name, this]);
      }
    },
  };
  for (const name of ownKeys(methods))
    defineProperty(type.prototype, name, {
      value: methods[name], writable: true, configurable: true, enumerable: true,
    });
  defineProperty(type.prototype, Symbol.iterator, {
    value: methods.entries, writable: true, configurable: true,
  });
}

/// Converts a value to text as Web IDL does: a Symbol is a TypeError, and a lone surrogate becomes
/// U+FFFD.
export const text = (value) => `${value}`.toWellFormed();

/// The pairs of a record or of a sequence of pairs, with texts converted by `convert`.
export function pairsFrom(init, what, convert) {
  const make = init[Symbol.iterator];
  if (make === undefined || make === null) {
    const pairs = new Map();
    for (const key of Reflect.ownKeys(init)) {
      if (!Reflect.getOwnPropertyDescriptor(init, key)?.enumerable) continue;
      pairs.set(convert(key), convert(init[key]));
    }
    return [...pairs];
  }
  if (typeof make !== "function") throw new TypeError(`${what} is made of an object or of pairs`);
  return Array.from({ [Symbol.iterator]: () => make.call(init) }, (pair) => {
    const isSequence =
      (typeof pair === "object" || typeof pair === "function") &&
      typeof pair?.[Symbol.iterator] === "function";
    const both = isSequence ? [...pair] : [];
    if (both.length !== 2) throw new TypeError(`${what}: each pair has a name and a value`);
    return both.map(convert);
  });
}

/// One of the choices of an enumeration.
export function choice(what, value, choices) {
  const name = `${value}`;
  if (!choices.includes(name))
    throw new TypeError(
      `${what} is one of ${choices.map((each) => `"${each}"`).join(", ")}, not "${name}"`,
    );
  return name;
}
