// The order and the size of values in the database.

import { CommitTsPlaceholder, isSimpleObject, unsupported } from "convex/values";

const MAX_INT64 = 2n ** 63n - 1n;

function rank(value) {
  if (value === undefined) return 0;
  if (value === null) return 1;
  if (typeof value === "bigint" || value instanceof CommitTsPlaceholder) return 2;
  if (typeof value === "number") return 3;
  if (typeof value === "boolean") return 4;
  if (typeof value === "string") return 5;
  if (value instanceof ArrayBuffer) return 6;
  return Array.isArray(value) ? 7 : 8;
}

/// Compares strings by their UTF-8, which is the order of their code points.
function compareStrings(a, b) {
  for (let i = 0; i < a.length && i < b.length; i++) {
    if (a[i] === b[i]) continue;
    const [x, y] = [a.codePointAt(i), b.codePointAt(i)];
    return x < y ? -1 : 1;
  }
  return a.length - b.length;
}

/// Compares numbers by the bits of their total order: -0 before 0, and NaN at either end according
/// to its sign.
function orderedBits(number) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, number);
  const bits = view.getBigUint64(0);
  return bits >> 63n ? ~bits & 0xffff_ffff_ffff_ffffn : bits | (1n << 63n);
}

function compareSequences(a, b, compare) {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const order = compare(a[i], b[i]);
    if (order !== 0) return order;
  }
  return Math.sign(a.length - b.length);
}

const ascending = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export function compareValues(a, b) {
  const kind = rank(a);
  if (kind !== rank(b)) return kind < rank(b) ? -1 : 1;
  switch (kind) {
    case 0:
    case 1:
      return 0;
    case 2: {
      const known = (value) => (typeof value === "bigint" ? value : MAX_INT64);
      return ascending(known(a), known(b));
    }
    case 3:
      return ascending(orderedBits(a), orderedBits(b));
    case 4:
      return ascending(a, b);
    case 5:
      return Math.sign(compareStrings(a, b));
    case 6:
      return compareSequences(new Uint8Array(a), new Uint8Array(b), ascending);
    case 7:
      return compareSequences(a, b, compareValues);
    default: {
      const members = (object) => Object.keys(object).sort().map((name) => [name, object[name]]);
      return compareSequences(members(a), members(b), compareValues);
    }
  }
}

function utf8Length(text) {
  let bytes = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x80) bytes += 1;
    else if (code < 0x800) bytes += 2;
    else if (code >= 0xd800 && code < 0xdc00) {
      bytes += 4;
      i++;
    } else bytes += 3;
  }
  return bytes;
}

/// The size of a value in the database, in bytes.
export function getConvexSize(value) {
  switch (rank(value)) {
    case 0:
      return 0;
    case 1:
    case 4:
      return 1;
    case 2:
    case 3:
      return 9;
    case 5:
      return 2 + utf8Length(value);
    case 6:
      return 2 + value.byteLength;
    case 7:
      return value.reduce((size, element) => size + getConvexSize(element), 2);
    default:
      if (!isSimpleObject(value)) throw unsupported("", value, "", value);
      return Object.entries(value).reduce(
        (size, [name, member]) =>
          member === undefined ? size : size + utf8Length(name) + 1 + getConvexSize(member),
        2,
      );
  }
}

// A document's id is a string of 31 or 32 characters; the field name and kind add 6. The creation
// time is a number.
const ID_FIELD_BYTES = 38;
const CREATION_TIME_FIELD_BYTES = 23;

export function getDocumentSize(value, options) {
  const idBytes = options?.customIdLength ? options.customIdLength + 6 : ID_FIELD_BYTES;
  return (
    getConvexSize(value) +
    (value._id === undefined ? idBytes : 0) +
    (value._creationTime === undefined ? CREATION_TIME_FIELD_BYTES : 0)
  );
}
