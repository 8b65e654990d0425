// Shows any value as one text, which is the same in every engine that follows the standards. Of errors it shows the name, since
// the standards leave messages open.

const nameOf = (value) => Object.getPrototypeOf(value)?.constructor?.name ?? "null";

export function shown(value, seen = []) {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `function ${value.name}`;
  if (Object.is(value, -0)) return "-0";
  if (typeof value !== "object" || value === null) return String(value);
  if (seen.includes(value)) return `<${seen.length - seen.indexOf(value)} up>`;
  const inner = (each) => shown(each, [...seen, value]);
  if (value instanceof Error || value instanceof DOMException) return value.name;
  if (Array.isArray(value)) return `[${Array.from(value, (each, i) => (i in value ? inner(each) : "hole")).join(",")}]`;
  if (value instanceof ArrayBuffer) return `ArrayBuffer ${inner([...new Uint8Array(value)])}`;
  if (value instanceof DataView) return `DataView ${value.byteOffset}+${value.byteLength}`;
  if (ArrayBuffer.isView(value)) return `${nameOf(value)} ${inner([...value])}`;
  if (value instanceof Date) return `Date ${Number.isNaN(+value) ? "invalid" : value.toISOString()}`;
  if (value instanceof RegExp) return `RegExp ${value} ${value.lastIndex}`;
  if (value instanceof Map || value instanceof Set) return `${nameOf(value)} ${inner([...value])}`;
  for (const type of [Number, String, Boolean, BigInt]) if (value instanceof type) return `${type.name} ${inner(value.valueOf())}`;
  const members = Object.keys(value).map((key) => `${key}:${inner(value[key])}`).join(",");
  return `${nameOf(value) === "Object" ? "" : `${nameOf(value)} `}{${members}}`;
}

/// The text of what a function returns or throws.
export async function outcome(run) {
  try {
    return shown(await run());
  } catch (thrown) {
    return `throws ${shown(thrown)}`;
  }
}
