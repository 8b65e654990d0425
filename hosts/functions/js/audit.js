// What the walk over the body of an audit log (engine/audit.rs) asks of JavaScript: what is rare in a body.
//
// It is evaluated before any module of a user, and keeps what it needs of the language to itself. The prototypes of the
// language are told from those that an author wrote: what a function puts on the former never reaches a body.

const { apply, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
const { freeze, hasOwn } = Object;
const { get: mapGet, set: mapSet } = Map.prototype;
const RealDate = Date;
const RealMap = Map;
const RealTypeError = TypeError;
const plain = Object.prototype;
const { getTime, toISOString } = Date.prototype;
const symbolDescription = getOwnPropertyDescriptor(Symbol.prototype, "description").get;
const primitives = [Number, String, Boolean, BigInt, Symbol].map((type) => type.prototype.valueOf);

// Their prototypes cannot be replaced.
const constructors = [
  Object, Function, Array, String, Number, Boolean, Symbol, BigInt, Date, RegExp, Promise, Iterator, DOMException,
  Error, AggregateError, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError, InternalError,
  Map, Set, WeakMap, WeakSet, ArrayBuffer, SharedArrayBuffer, DataView, getPrototypeOf(Int8Array),
  Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, BigInt64Array,
  BigUint64Array, Float16Array, Float32Array, Float64Array,
];
const nameless = [
  [].values(), new Map().keys(), new Set().keys(), ""[Symbol.iterator](), "".matchAll(/a/g), [].values().map(() => {}),
  function* () {}, (function* () {})(), async () => {}, async function* () {}, (async function* () {})(),
  Iterator.from({ next() {} }),
].flatMap((object) => [getPrototypeOf(object), getPrototypeOf(getPrototypeOf(object))]);

/// From each prototype of the language or of this host to what its own `toJSON` does, or null. Filled when first needed.
let known;
/// From each of them to the name of its class.
const names = new Map();
const added = [];

function prototypes() {
  if (known !== undefined) return known;
  known = new RealMap();
  const add = (prototype, toJSON, name) => {
    apply(mapSet, known, [prototype, toJSON]);
    apply(mapSet, names, [prototype, name]);
  };
  for (let i = 0; i < nameless.length; i++) add(nameless[i], null, "object of the language");
  for (let i = 0; i < constructors.length; i++) {
    const { prototype, name } = constructors[i];
    add(prototype, constructors[i] === RealDate ? dateToJson : null, typeof name === "string" ? name : "");
  }
  for (let i = 0; i < added.length; i++) add(added[i].prototype, added[i].toJSON, added[i].name);
  return known;
}

/// A class of this host that functions find among their globals.
export function addClass({ name, prototype }) {
  const toJSON = hasOwn(prototype, "toJSON") ? prototype.toJSON : null;
  added[added.length] = { __proto__: null, name, prototype, toJSON };
  known = undefined;
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

function toJson(object) {
  return method(object, "toJSON");
}

/// Whether a `toJSON` that a proxy gave is one that a function put on a prototype of the language.
function isForeign(toJSON) {
  for (let i = 0; i < constructors.length; i++) {
    const own = getOwnPropertyDescriptor(constructors[i].prototype, "toJSON");
    if (own === undefined) continue;
    if (!hasOwn(own, "value") || (own.value === toJSON && constructors[i] !== RealDate)) return true;
  }
  return false;
}

const traps = ["get", "has", "ownKeys", "getOwnPropertyDescriptor", "getPrototypeOf"];

/// Whether the handler of a proxy has a trap that an author wrote.
function isTrapped(handler) {
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
function unboxed(value) {
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
function className(object) {
  for (let holder = getPrototypeOf(object); holder !== null; holder = getPrototypeOf(holder)) {
    if (apply(mapGet, prototypes(), [holder]) === undefined) continue;
    return holder === plain ? "" : apply(mapGet, names, [holder]);
  }
  return "";
}

function description(symbol) {
  return apply(symbolDescription, symbol, []) ?? "";
}

export const rare = freeze({
  __proto__: null, arrays: Array.prototype, toJson, isForeign, isTrapped, unboxed, className, description, hasOwn,
});
