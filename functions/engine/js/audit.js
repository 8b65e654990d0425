// The JavaScript side of the walk over an audit log body (engine/src/audit), for values that are
// rare in bodies.
//
// Loaded when first needed. It relies only on syntax and on the built-ins that `convex:prelude`
// saved before any user module was evaluated. It distinguishes built-in prototypes from those of
// users: whatever a function adds to a built-in prototype never reaches a body.

import { captured } from "convex:prelude";

const {
  RealMap, RealTypeError, apply, constructors, getOwnPropertyDescriptor, getPrototypeOf, hasOwn,
} = captured;
const { getTime, iterators, mapGet, mapSet, primitives, symbolDescription, toISOString } = captured;
const RealDate = captured.RealDate;
const plain = captured.plainPrototype;

/// Instances of built-in classes that have no global name.
function nameless() {
  const {
    arrayValues, mapKeys, setKeys, stringIterator, iteratorMap, iteratorFrom, RealSet, matched,
  } = iterators;
  const values = apply(arrayValues, [], []);
  return [
    values, apply(mapKeys, new RealMap(), []), apply(setKeys, new RealSet(), []),
    apply(stringIterator, "", []), matched,
    apply(iteratorMap, values, [() => {}]),
    apply(iteratorFrom, undefined, [{ __proto__: null, next() {} }]),
    function* () {},
    (function* () {})(),
    async () => {},
    async function* () {},
    (async function* () {})(),
  ];
}

/// Maps each prototype of the language or this host to its original `toJSON`, or null. Filled when
/// first needed.
let known;
let count;
/// Maps each of these prototypes to the name of its class.
const names = new RealMap();

function prototypes() {
  // Classes of this host are loaded when a function first uses them.
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
    add(
      prototype,
      constructors[i] === RealDate ? dateToJson : null,
      typeof name === "string" ? name : "",
    );
  }
  const { classes } = captured;
  for (let i = 0; i < classes.length; i++)
    add(classes[i].prototype, classes[i].toJSON, classes[i].name);
  return known;
}

/// The method that the user defined on an object or its class, or the original method of a built-in
/// class.
function method(object, key) {
  for (let holder = object; holder !== null; holder = getPrototypeOf(holder)) {
    const original = apply(mapGet, prototypes(), [holder]);
    // The search ends at a built-in prototype: those above it are built in too, or were inserted.
    if (original !== undefined) return key === "toJSON" && original !== null ? original : undefined;
    const own = getOwnPropertyDescriptor(holder, key);
    if (own === undefined) continue;
    const value = hasOwn(own, "value")
      ? own.value
      : own.get === undefined
        ? undefined
        : apply(own.get, object, []);
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

/// The `toJSON` with which a proxy's trap answers, unless a function added it to a built-in
/// prototype. A getter there may remove itself when it is called, so it is found before.
export function answeredToJson(proxy) {
  for (let i = 0; i < constructors.length; i++) {
    const own = getOwnPropertyDescriptor(constructors[i].prototype, "toJSON");
    if (own !== undefined && !hasOwn(own, "value")) return undefined;
  }
  const toJSON = proxy.toJSON;
  for (let i = 0; i < constructors.length; i++) {
    const own = getOwnPropertyDescriptor(constructors[i].prototype, "toJSON");
    if (own === undefined) continue;
    if (!hasOwn(own, "value") || (own.value === toJSON && constructors[i] !== RealDate))
      return undefined;
  }
  return toJSON;
}

const traps = ["get", "has", "ownKeys", "getOwnPropertyDescriptor", "getPrototypeOf"];

function foreignTrap(trap) {
  return new RealTypeError(
    `a proxy's handler finds its trap ${trap} on Object.prototype, which was changed`,
  );
}

/// Whether the handler of a proxy has a trap defined by the user.
export function isTrapped(handler) {
  let isAuthored = false;
  let foreign;
  for (let i = 0; i < traps.length; i++) {
    if (method(handler, traps[i]) !== undefined) isAuthored = true;
    else if (traps[i] in handler) foreign = traps[i];
  }
  if (isAuthored && foreign !== undefined) throw foreignTrap(foreign);
  return isAuthored;
}

/// Whether the handler of a proxy has a trap, defined by the user, that answers with members.
export function isAnswering(handler) {
  if (method(handler, "get") !== undefined) return true;
  if ("get" in handler) throw foreignTrap("get");
  return false;
}

/// The primitive value of a wrapper object.
export function unboxed(value) {
  for (let i = 0; i < primitives.length; i++) {
    try {
      return apply(primitives[i], value, []);
    } catch {
      // Not a wrapper object, or one of another type.
    }
  }
  return value;
}

/// The built-in class of an object, if the object's members do not show its contents.
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
