// What the walk over the body of an audit log (engine/audit.rs) asks of JavaScript: what is rare in a body.
//
// It is read when first needed, and then builds on nothing but syntax and what `convex:prelude` kept of the language before
// any module of a user was evaluated. The prototypes of the language are told from those that an author wrote: what a function
// puts on the former never reaches a body.

import { captured } from "convex:prelude";

const { RealMap, RealTypeError, apply, constructors, getOwnPropertyDescriptor, getPrototypeOf, hasOwn } = captured;
const { getTime, iterators, mapGet, mapSet, primitives, symbolDescription, toISOString } = captured;
const RealDate = captured.RealDate;
const plain = captured.plainPrototype;

/// Objects whose classes have no name, two for each: `values` are made by methods of the language.
function nameless() {
  const { arrayValues, mapKeys, setKeys, stringIterator, iteratorMap, iteratorFrom, RealSet, matched } = iterators;
  const values = apply(arrayValues, [], []);
  return [
    values, apply(mapKeys, new RealMap(), []), apply(setKeys, new RealSet(), []), apply(stringIterator, "", []), matched,
    apply(iteratorMap, values, [() => {}]), apply(iteratorFrom, undefined, [{ __proto__: null, next() {} }]),
    function* () {}, (function* () {})(), async () => {}, async function* () {}, (async function* () {})(),
  ];
}

/// From each prototype of the language or of this host to what its own `toJSON` does, or null. Filled when first needed.
let known;
let count;
/// From each of them to the name of its class.
const names = new RealMap();

function prototypes() {
  // A class of this host is read when a function first uses it.
  if (known !== undefined && count === captured.classes.length) return known;
  count = captured.classes.length;
  known = new RealMap();
  const add = (prototype, toJSON, name) => {
    apply(mapSet, known, [prototype, toJSON]);
    apply(mapSet, names, [prototype, name]);
  };
  const objects = nameless();
  for (let i = 0; i < objects.length; i++) {
    const prototype = getPrototypeOf(objects[i]);
    add(prototype, null, "");
    add(getPrototypeOf(prototype), null, "");
  }
  for (let i = 0; i < constructors.length; i++) {
    const { prototype, name } = constructors[i];
    add(prototype, constructors[i] === RealDate ? dateToJson : null, typeof name === "string" ? name : "");
  }
  const { classes } = captured;
  for (let i = 0; i < classes.length; i++) add(classes[i].prototype, classes[i].toJSON, classes[i].name);
  return known;
}

/// The method that an author gave to an object or to its class, or the original one of a class of the language.
function method(object, key) {
  for (let holder = object; holder !== null; holder = getPrototypeOf(holder)) {
    const original = apply(mapGet, prototypes(), [holder]);
    // What comes after it is the language's too, or was put there.
    if (original !== undefined) return key === "toJSON" && original !== null ? original : undefined;
    const own = getOwnPropertyDescriptor(holder, key);
    if (own === undefined) continue;
    const value = hasOwn(own, "value") ? own.value : own.get === undefined ? undefined : apply(own.get, object, []);
    return typeof value === "function" ? value : undefined;
  }
}

function dateToJson() {
  const time = apply(getTime, this, []);
  if (time - time !== 0) return null;
  return apply(method(this, "toISOString") ?? toISOString, this, []);
}

export function toJson(object) {
  return method(object, "toJSON");
}

/// Whether a `toJSON` that a proxy gave is one that a function put on a prototype of the language.
export function isForeign(toJSON) {
  for (let i = 0; i < constructors.length; i++) {
    const own = getOwnPropertyDescriptor(constructors[i].prototype, "toJSON");
    if (own === undefined) continue;
    if (!hasOwn(own, "value") || (own.value === toJSON && constructors[i] !== RealDate)) return true;
  }
  return false;
}

const traps = ["get", "has", "ownKeys", "getOwnPropertyDescriptor", "getPrototypeOf"];

/// Whether the handler of a proxy has a trap that an author wrote.
export function isTrapped(handler) {
  let isAuthored = false;
  let foreign;
  for (let i = 0; i < traps.length; i++) {
    if (method(handler, traps[i]) !== undefined) isAuthored = true;
    else if (traps[i] in handler) foreign = traps[i];
  }
  if (isAuthored && foreign !== undefined) {
    throw new RealTypeError(`a proxy's handler finds its trap ${foreign} on Object.prototype, which was changed`);
  }
  return isAuthored;
}

/// The primitive in a boxed one.
export function unboxed(value) {
  for (let i = 0; i < primitives.length; i++) {
    try {
      return apply(primitives[i], value, []);
    } catch {
      // It is not boxed, or is another box.
    }
  }
  return value;
}

/// The class of the language that an object is of, if its members do not show what it holds.
export function className(object) {
  for (let holder = getPrototypeOf(object); holder !== null; holder = getPrototypeOf(holder)) {
    if (apply(mapGet, prototypes(), [holder]) === undefined) continue;
    return holder === plain ? "" : apply(mapGet, names, [holder]);
  }
  return "";
}

export function description(symbol) {
  return apply(symbolDescription, symbol, []) ?? "";
}

export { hasOwn };
