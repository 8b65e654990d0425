// The console. Loaded when a function first writes to it.

import { native } from "convex:prelude";

const MAX_SHOWN_LENGTH = 8192;
const MAX_SHOWN_DEPTH = 5;
const MAX_TABLE_ROWS = 256;

/// A line of the console.
function line(level, values) {
  return [`[${level}]`, ...values.map((value) => inspect(value, 0, []))].join(" ").toWellFormed();
}

/// Formats a value for developers: `'text'`, `{ a: 1, b: [ 'x' ] }`.
function inspect(value, depth, around) {
  try {
    const shown = inspected(value, depth, around);
    return shown.length > MAX_SHOWN_LENGTH ? `${shown.slice(0, MAX_SHOWN_LENGTH)}…` : shown;
  } catch {
    return "[a value that cannot be shown]";
  }
}

function inspected(value, depth, around) {
  if (typeof value === "string") return `'${value}'`;
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return value.name ? `[Function: ${value.name}]` : "[Function]";
  if (typeof value !== "object" || value === null) return String(value);
  if (around.includes(value)) return "[Circular]";
  if (value instanceof Error) {
    const because =
      value.cause instanceof Error
        ? `\n[cause]: ${inspect(value.cause, depth + 1, [...around, value])}`
        : "";
    return `${value.name}: ${value.message}\n${value.stack}`.trimEnd() + because;
  }
  if (value instanceof Date)
    return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (depth === MAX_SHOWN_DEPTH) return Array.isArray(value) ? "[Array]" : "[Object]";
  const inner = [...around, value];
  let left = MAX_SHOWN_LENGTH;
  const list = (entries, show) => {
    const texts = [];
    for (const entry of entries) {
      if (left < 0) {
        texts.push("…");
        break;
      }
      const text = show(entry);
      left -= text.length;
      texts.push(text);
    }
    return texts.join(", ");
  };
  const show = (member) => inspect(member, depth + 1, inner);
  const braced = (open, text, close) => (text === "" ? open + close : `${open} ${text} ${close}`);
  if (Array.isArray(value)) return braced("[", list(value, show), "]");
  if (value instanceof Set) return `Set(${value.size}) ${braced("{", list(value, show), "}")}`;
  if (value instanceof Map) {
    return `Map(${value.size}) ${braced(
      "{",
      list(value, ([key, member]) => `${show(key)} => ${show(member)}`),
      "}",
    )}`;
  }
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return `${value.constructor.name} { byteLength: ${value.byteLength} }`;
  }
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  const prefix =
    name === undefined ? "[Object: null prototype] " : name === "Object" ? "" : `${name} `;
  const member = (key) =>
    `${/^[A-Za-z_$][\w$]*$/.test(key) ? key : `'${key}'`}: ${show(value[key])}`;
  return prefix + braced("{", list(Object.keys(value), member), "}");
}

// ---- tables -------------------------------------------------------------------------------------

/// Formats a table, with a row for each member of `data` and a column for each of their keys, or
/// for the given keys.
function table(data, wanted) {
  const isRow = (row) => typeof row === "object" && row !== null;
  const entries =
    data instanceof Map
      ? [...data]
      : data instanceof Set
        ? [...data.values()].map((row, i) => [i, row])
        : Object.entries(data);
  const rows = entries.slice(0, MAX_TABLE_ROWS);
  const columns = wanted ?? [
    ...new Set(rows.flatMap(([, row]) => (isRow(row) ? Object.keys(row) : []))),
  ];
  const hasValues = rows.some(([, row]) => !isRow(row));
  const cell = (value) => inspect(value, MAX_SHOWN_DEPTH - 1, []);
  const lines = [
    ["(index)", ...columns, ...(hasValues ? ["Values"] : [])].map(String),
    ...rows.map(([key, row]) => [
      String(key),
      ...columns.map((column) => (isRow(row) && column in row ? cell(row[column]) : "")),
      ...(hasValues ? [isRow(row) ? "" : cell(row)] : []),
    ]),
  ];
  const widths = lines[0].map((_, i) => Math.max(...lines.map((cells) => cells[i].length)));
  const shown = lines.map(
    (cells) => `│ ${cells.map((text, i) => text.padEnd(widths[i])).join(" │ ")} │`,
  );
  const rule = (left, middle, right) =>
    left + widths.map((width) => "─".repeat(width + 2)).join(middle) + right;
  const left = entries.length - rows.length;
  return (
    [
      rule("┌", "┬", "┐"), shown[0], rule("├", "┼", "┤"),
      ...shown.slice(1),
      rule("└", "┴", "┘"),
    ].join("\n") + (left > 0 ? `\n… and ${left} more` : "")
  );
}

// ---- the object ---------------------------------------------------------------------------------

export function makeConsole() {
  const write = (level) => (...values) => native.log(line(level, values));
  const text = (level, said) => native.log(`[${level}] '${said}'`.toWellFormed());
  const [log, warn] = [write("LOG"), write("WARN")];
  const nothing = () => {};
  const counts = new Map();
  const timers = new Map();
  const name = (label) => (label === undefined ? "default" : String(label));
  const took = (label, values) => {
    const began = timers.get(name(label));
    if (began === undefined) return text("WARN", `Timer '${name(label)}' does not exist`);
    native.log(
      [
        line("LOG", [`${name(label)}: ${performance.now() - began}ms`]),
        ...values.map((value) => inspect(value, 0, [])),
      ].join(" "),
    );
  };
  return {
    log,
    info: write("INFO"),
    warn,
    error: write("ERROR"),
    debug: write("DEBUG"),
    trace: write("DEBUG"),
    dir: (value) => log(value),
    dirxml: log,
    table(data, columns) {
      if (typeof data !== "object" || data === null) return log(data);
      text("LOG", `\n${table(data, columns)}`);
    },
    assert(condition, ...values) {
      if (!condition)
        native.log(
          ["[ERROR] 'Assertion failed'", ...values.map((value) => inspect(value, 0, []))]
            .join(" ")
            .toWellFormed(),
        );
    },
    count(label) {
      const count = (counts.get(name(label)) ?? 0) + 1;
      counts.set(name(label), count);
      text("LOG", `${name(label)}: ${count}`);
    },
    countReset(label) {
      counts.delete(name(label));
    },
    group: log,
    groupCollapsed: log,
    groupEnd: nothing,
    time(label) {
      timers.set(name(label), performance.now());
    },
    timeLog: (label, ...values) => took(label, values),
    timeEnd(label) {
      took(label, []);
      timers.delete(name(label));
    },
    timeStamp: nothing,
    profile: nothing,
    profileEnd: nothing,
    clear: nothing,
  };
}
