// `convex/values`: Convex's values, their JSON encoding, and validators, for functions that run
// without the npm package.

import { load } from "convex:prelude";

const MIN_INT64 = -(2n ** 63n);
const MAX_INT64 = 2n ** 63n - 1n;
const MAX_FIELD_NAME_LENGTH = 1024;

// ---- Base64 -------------------------------------------------------------------------------------

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

function digitValue(code) {
  if (code >= 97) return code - 71;
  if (code === 95 || code === 47) return 63;
  if (code >= 65) return code - 65;
  if (code >= 48) return code + 4;
  return 62;
}

function fromByteArray(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i;
    const bits =
      (bytes[i] << 16) | ((left > 1 ? bytes[i + 1] : 0) << 8) | (left > 2 ? bytes[i + 2] : 0);
    text += DIGITS[bits >> 18] + DIGITS[(bits >> 12) & 63];
    text += left > 1 ? DIGITS[(bits >> 6) & 63] : "=";
    text += left > 2 ? DIGITS[bits & 63] : "=";
  }
  return text;
}

function byteLength(text) {
  if (text.length % 4 !== 0)
    throw new Error(`Base64 text must have a multiple of 4 characters, not ${text.length}`);
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return (text.length / 4) * 3 - padding;
}

function toByteArray(text) {
  const bytes = new Uint8Array(byteLength(text));
  let at = 0;
  for (let i = 0; i < text.length; i += 4) {
    let bits = 0;
    for (let j = 0; j < 4; j++) {
      const code = text.charCodeAt(i + j);
      bits = (bits << 6) | (code === 61 ? 0 : digitValue(code));
    }
    for (let shift = 16; shift >= 0 && at < bytes.length; shift -= 8)
      bytes[at++] = (bits >> shift) & 255;
  }
  return bytes;
}

function fromByteArrayUrlSafeNoPadding(bytes) {
  return fromByteArray(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export const Base64 = { byteLength, fromByteArray, fromByteArrayUrlSafeNoPadding, toByteArray };

// ---- values as JSON -----------------------------------------------------------------------------

export class CommitTsPlaceholder {
  [Symbol.toPrimitive](hint) {
    return hint === "string" ? this.toString() : this.valueOf();
  }
  toString() {
    return "[unresolved commit timestamp]";
  }
  valueOf() {
    throw new Error(
      "a commit timestamp has no value before its mutation has committed: read the document after that",
    );
  }
  toJSON() {
    return this.valueOf();
  }
}

/// A single instance, so that a value read back in the mutation that wrote it equals
/// `db.vars.commitTs`.
export const commitTsPlaceholder = new CommitTsPlaceholder();

/// Whether a value is a plain object.
export function isSimpleObject(value) {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return (
    prototype === null || prototype === Object.prototype || prototype.constructor?.name === "Object"
  );
}

function needsEncoding(number) {
  return !Number.isFinite(number) || Object.is(number, -0);
}

function encoded(write) {
  const view = new DataView(new ArrayBuffer(8));
  write(view);
  return fromByteArray(new Uint8Array(view.buffer));
}

function decoded(text, tag) {
  const bytes = toByteArray(text);
  if (bytes.length !== 8) throw new Error(`${tag} has ${bytes.length} bytes where 8 are needed`);
  return new DataView(bytes.buffer);
}

function checkFieldName(name) {
  if (name.length > MAX_FIELD_NAME_LENGTH) {
    throw new Error(`Field name ${name} is longer than ${MAX_FIELD_NAME_LENGTH} characters`);
  }
  if (name.startsWith("$"))
    throw new Error(`Field name ${name} starts with '$': such names are reserved`);
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code < 32 || code > 126) {
      throw new Error(
        `Field name ${name} has the character '${name[i]}': only printable ASCII is allowed`,
      );
    }
  }
}

/// Formats a value for an error, in at most 16 KiB.
export function shownInError(value) {
  const text =
    JSON.stringify(value, (_, member) => {
      if (member === undefined) return "undefined";
      // Not its source text, which is not for clients.
      if (typeof member === "function") return "[Function]";
      if (typeof member === "symbol") return String(member);
      if (typeof member === "bigint") return `${member}n`;
      return member;
    }) ?? String(value);
  return text.length > 16384 ? `${text.slice(0, 16384).toWellFormed()}[...]` : text;
}

function refused(what, path, whole) {
  return new Error(path === "" ? what : `${what} (at ${path} in ${shownInError(whole)})`);
}

export function unsupported(type, value, path, whole) {
  return refused(`${type}${shownInError(value)} is not a supported Convex type`, path, whole);
}

function toJson(value, path, whole, isPatch) {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      return needsEncoding(value)
        ? { $float: encoded((view) => view.setFloat64(0, value, true)) }
        : value;
    case "bigint":
      if (value < MIN_INT64 || value > MAX_INT64) {
        throw new Error(`BigInt ${value} is outside the range of a 64-bit integer`);
      }
      return { $integer: encoded((view) => view.setBigInt64(0, value, true)) };
    case "undefined":
      throw refused("undefined is not a valid Convex value", path, whole);
    case "object":
      break;
    default:
      throw unsupported("", value, path, whole);
  }
  if (value === null) return null;
  if (value instanceof ArrayBuffer) return { $bytes: fromByteArray(new Uint8Array(value)) };
  if (value instanceof CommitTsPlaceholder) return { $commitTs: null };
  if (Array.isArray(value))
    return value.map((element, i) => toJson(element, `${path}[${i}]`, whole, false));
  if (value instanceof Set) throw unsupported("Set", [...value], path, whole);
  if (value instanceof Map) throw unsupported("Map", [...value], path, whole);
  if (!isSimpleObject(value)) {
    const name = value.constructor?.name;
    throw unsupported(name ? `${name} ` : "", value, path, whole);
  }
  const json = {};
  for (const name of Object.keys(value).sort()) {
    const member = value[name];
    if (member === undefined && !isPatch) continue;
    checkFieldName(name);
    put(
      json,
      name,
      member === undefined ? { $undefined: null } : toJson(member, `${path}.${name}`, whole, false),
    );
  }
  return json;
}

/// Sets a member of an object, even one named `__proto__`.
function put(object, name, value) {
  if (name === "__proto__") {
    Object.defineProperty(object, name, {
      value, writable: true, enumerable: true, configurable: true,
    });
  } else {
    object[name] = value;
  }
}

export function convexToJson(value) {
  return toJson(value, "", value, false);
}

/// Encodes an operand of a filter or range, where `undefined` means that a field is absent.
export function operandToJson(value) {
  return value === undefined ? { $undefined: null } : convexToJson(value);
}

/// Encodes the change of `db.patch`, where `undefined` removes a field.
export function patchToJson(value) {
  return toJson(value, "", value, true);
}

function malformed(tag, value) {
  return new Error(`Not a valid ${tag}: ${shownInError(value)}`);
}

export function jsonToConvex(json) {
  if (json === null || typeof json !== "object") {
    if (
      json === undefined ||
      typeof json === "function" ||
      typeof json === "symbol" ||
      typeof json === "bigint"
    ) {
      throw new Error(`Not JSON: ${String(json)}`);
    }
    return json;
  }
  if (Array.isArray(json)) return json.map((element) => jsonToConvex(element));
  const names = Object.keys(json);
  if (names.length === 1 && names[0].startsWith("$")) {
    const tag = names[0];
    const content = json[tag];
    if (tag === "$commitTs") return commitTsPlaceholder;
    if (tag === "$bytes" || tag === "$integer" || tag === "$float") {
      if (typeof content !== "string") throw malformed(tag, json);
      if (tag === "$bytes") return toByteArray(content).buffer;
      if (tag === "$integer") return decoded(content, tag).getBigInt64(0, true);
      const number = decoded(content, tag).getFloat64(0, true);
      if (!needsEncoding(number))
        throw new Error(`$float encodes ${number}, which JSON has itself`);
      return number;
    }
    if (tag === "$set") throw new Error("Set is not a supported Convex type any more");
    if (tag === "$map") throw new Error("Map is not a supported Convex type any more");
  }
  const value = {};
  for (const name of names) {
    checkFieldName(name);
    put(value, name, jsonToConvex(json[name]));
  }
  return value;
}

// ---- order and size -----------------------------------------------------------------------------

// Few functions need these, so they are loaded when first used.
const sizes = (name) => (...args) => load("convex:sizes")[name](...args);

export const compareValues = sizes("compareValues");
export const getConvexSize = sizes("getConvexSize");
export const getDocumentSize = sizes("getDocumentSize");

// ---- errors -------------------------------------------------------------------------------------

export class ConvexError extends Error {
  name = "ConvexError";
  data;
  [Symbol.for("ConvexError")] = true;

  constructor(data) {
    super(typeof data === "string" ? data : shownInError(data));
    this.data = data;
  }
}

// ---- validators ---------------------------------------------------------------------------------

export function isValidator(value) {
  return value?.isConvexValidator === true;
}

function missing(what, field) {
  const where = field === undefined ? what : `"${field}" of ${what}`;
  return new Error(
    `The validator for ${where} is undefined. Do modules import each other in a circle?`,
  );
}

/// The base class of all validators. Subclasses define `parts` and `json`.
class Validator {
  type;
  fieldPaths;
  isOptional;
  isConvexValidator = true;

  constructor(kind, parts) {
    this.isOptional = parts.isOptional ?? "required";
    this.kind = kind;
  }

  /// The same validator, for a member that may be absent.
  optional() {
    return new this.constructor({ ...this, isOptional: "optional" });
  }

  asOptional() {
    return this.optional();
  }
}

/// A kind of validator without parameters.
function simple(kind, type) {
  return class extends Validator {
    constructor(parts) {
      super(kind, parts);
    }
    get json() {
      return { type };
    }
  };
}

const VFloat64 = simple("float64", "number");
const VInt64 = simple("int64", "bigint");
const VCommitTs = simple("commitTs", "commitTs");
const VBoolean = simple("boolean", "boolean");
const VBytes = simple("bytes", "bytes");
const VString = simple("string", "string");
const VNull = simple("null", "null");
const VAny = simple("any", "any");

class VId extends Validator {
  constructor(parts) {
    super("id", parts);
    if (typeof parts.tableName !== "string") throw new Error("v.id() takes the name of a table");
    this.tableName = parts.tableName;
  }
  get json() {
    return { type: "id", tableName: this.tableName };
  }
}

/// The signature describes the function for types, and is not checked.
class VFunction extends Validator {
  constructor(parts) {
    super("function", parts);
    this.fnType = parts.fnType;
    this.args = parts.args;
    this.returns = parts.returns;
  }
  get json() {
    const { fnType, args, returns } = this;
    return {
      type: "function",
      ...(fnType === undefined ? {} : { fnType }),
      ...(args === undefined ? {} : { args: args.json }),
      ...(returns === undefined ? {} : { returns: returns.json }),
    };
  }
}

class VObject extends Validator {
  constructor(parts) {
    super("object", parts);
    for (const [name, field] of Object.entries(parts.fields)) {
      if (field === undefined) throw missing("v.object()", name);
      if (!isValidator(field))
        throw new Error(`v.object(): the field "${name}" is not a validator`);
    }
    this.fields = parts.fields;
  }
  get json() {
    const value = {};
    for (const [name, field] of Object.entries(this.fields)) {
      value[name] = { fieldType: field.json, optional: field.isOptional === "optional" };
    }
    return { type: "object", value };
  }
  with(fields) {
    return new VObject({ isOptional: this.isOptional, fields });
  }
  omit(...names) {
    return this.with(
      Object.fromEntries(Object.entries(this.fields).filter(([name]) => !names.includes(name))),
    );
  }
  pick(...names) {
    return this.with(Object.fromEntries(names.map((name) => [name, this.fields[name]])));
  }
  partial() {
    return this.with(
      Object.fromEntries(
        Object.entries(this.fields).map(([name, field]) => [name, field.asOptional()]),
      ),
    );
  }
  extend(fields) {
    return this.with({ ...this.fields, ...fields });
  }
}

class VLiteral extends Validator {
  constructor(parts) {
    super("literal", parts);
    if (!["string", "boolean", "number", "bigint"].includes(typeof parts.value)) {
      throw new Error("v.literal() takes a string, a number, a boolean or a bigint");
    }
    this.value = parts.value;
  }
  get json() {
    return { type: "literal", value: convexToJson(this.value) };
  }
}

class VArray extends Validator {
  constructor(parts) {
    super("array", parts);
    if (parts.element === undefined) throw missing("v.array()");
    this.element = parts.element;
  }
  get json() {
    return { type: "array", value: this.element.json };
  }
}

class VRecord extends Validator {
  constructor(parts) {
    super("record", parts);
    for (const name of ["key", "value"]) {
      const part = parts[name];
      if (part === undefined) throw missing("v.record()", name);
      if (!isValidator(part)) throw new Error(`v.record(): the ${name} is not a validator`);
      if (part.isOptional === "optional")
        throw new Error(`v.record(): the ${name} cannot be optional`);
    }
    this.key = parts.key;
    this.value = parts.value;
  }
  get json() {
    return {
      type: "record",
      keys: this.key.json,
      values: { fieldType: this.value.json, optional: false },
    };
  }
}

class VUnion extends Validator {
  constructor(parts) {
    super("union", parts);
    parts.members.forEach((member, i) => {
      if (member === undefined) throw missing("v.union()", `member at index ${i}`);
      if (!isValidator(member))
        throw new Error(`v.union(): the member at index ${i} is not a validator`);
    });
    this.members = parts.members;
  }
  get json() {
    return { type: "union", value: this.members.map((member) => member.json) };
  }
}

export const v = {
  id: (tableName) => new VId({ tableName }),
  null: () => new VNull({}),
  number: () => new VFloat64({}),
  float64: () => new VFloat64({}),
  bigint: () => new VInt64({}),
  int64: () => new VInt64({}),
  commitTs: () => new VCommitTs({}),
  boolean: () => new VBoolean({}),
  string: () => new VString({}),
  bytes: () => new VBytes({}),
  function: ({ fnType, args, returns } = {}) =>
    new VFunction({
      fnType, args: args && asObjectValidator(args), returns: returns && asObjectValidator(returns),
    }),
  literal: (value) => new VLiteral({ value }),
  array: (element) => new VArray({ element }),
  object: (fields) => new VObject({ fields }),
  record: (key, value) => new VRecord({ key, value }),
  union: (...members) => new VUnion({ members }),
  any: () => new VAny({}),
  optional: (validator) => validator.asOptional(),
  nullable: (validator) => new VUnion({ members: [validator, new VNull({})] }),
};

/// The validator denoted by an object of validators.
export function asObjectValidator(fields) {
  return isValidator(fields) ? fields : v.object(fields);
}
