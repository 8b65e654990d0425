// `structuredClone`. Loaded when a function first uses it.

import { hidden, load } from "convex:prelude";

const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

const refuse = (value) => {
  let shown;
  try {
    shown =
      typeof value === "object"
        ? `an object of ${value.constructor?.name ?? "no class"}`
        : String(value);
  } catch {
    shown = "a value";
  }
  throw new DOMException(`${shown} cannot be cloned`, "DataCloneError");
};

export const structuredClone = (...args) => {
  if (args.length === 0) throw new TypeError("structuredClone() needs an argument");
  const [source, options] = args;
  const copies = new Map();
  const transferred = [...(options?.transfer ?? [])];
  for (const [i, buffer] of transferred.entries()) {
    if (!(buffer instanceof ArrayBuffer) || buffer.detached || transferred.indexOf(buffer) !== i)
      refuse(buffer);
  }
  const copy = (value) => {
    if (typeof value === "function" || typeof value === "symbol") refuse(value);
    if (typeof value !== "object" || value === null) return value;
    if (copies.has(value)) return copies.get(value);
    const keep = (made) => {
      copies.set(value, made);
      return made;
    };
    if (isOpaque(value)) refuse(value);
    const prototype = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null && !Array.isArray(value)) {
      const made = special(value, copy, keep);
      if (made !== undefined) return made;
    }
    const made = keep(Array.isArray(value) ? new Array(value.length) : {});
    for (const key of Object.keys(value)) made[key] = copy(value[key]);
    return made;
  };
  const made = copy(source);
  // Transferred buffers were copied like the rest, since views need their lengths. Now they are
  // detached.
  for (const buffer of transferred) buffer.transfer();
  return made;
};

/// Objects with inner state that only their own methods reach.
const isOpaque = (value) =>
  /(?:Iterator|Iterator Helper|Generator|Arguments)\]$/.test(Object.prototype.toString.call(value));

/// Clones an object whose class needs special treatment.
function special(value, copy, keep) {
  if (value instanceof Date) return keep(new Date(value.getTime()));
  if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (ArrayBuffer.isView(value)) {
    const length = value instanceof DataView ? value.byteLength : value.length;
    return keep(new value.constructor(copy(value.buffer), value.byteOffset, length));
  }
  if (value instanceof Map) {
    const map = keep(new Map());
    for (const [key, member] of value) map.set(copy(key), copy(member));
    return map;
  }
  if (value instanceof Set) {
    const set = keep(new Set());
    for (const member of value) set.add(copy(member));
    return set;
  }
  if (value instanceof DOMException) return keep(new DOMException(value.message, value.name));
  if (value instanceof Error) {
    const type = Object.hasOwn(ERRORS, value.name) ? ERRORS[value.name] : Error;
    const error = keep(new type(String(value.message)));
    hidden(error, "stack", value.stack);
    if (Object.hasOwn(value, "cause")) hidden(error, "cause", copy(value.cause));
    return error;
  }
  for (const type of [Number, String, Boolean, BigInt])
    if (value instanceof type) return keep(Object(value.valueOf()));
  for (const type of [WeakMap, WeakSet, WeakRef, Promise, Symbol])
    if (value instanceof type) refuse(value);
  const ofHost = load("convex:bodies");
  if (value instanceof ofHost.File) {
    return keep(
      new ofHost.File([value], value.name, { type: value.type, lastModified: value.lastModified }),
    );
  }
  if (value instanceof ofHost.Blob) return keep(value.slice(0, value.size, value.type));
  for (const name of ["FormData", "Headers", "Request", "Response"])
    if (value instanceof ofHost[name]) refuse(value);
}
