// What stands under every module: the globals that functions expect, and the engine's side of a call.
//
// It is evaluated before any module of a user, and keeps what it needs of the language to itself: a function that
// overwrites `JSON.stringify` harms its own call alone.

const { parse, stringify } = JSON;
const { apply, construct, ownKeys } = Reflect;
const { defineProperty, freeze, getPrototypeOf, keys } = Object;
const RealDate = Date;
const RealError = Error;
const RealPromise = Promise;
const RealMap = Map;
const RealString = String;
const isArray = Array.isArray;
const isErrorObject = Error.isError ?? ((value) => value instanceof RealError);
const MapGet = Map.prototype.get;
const MapSet = Map.prototype.set;
const MapDelete = Map.prototype.delete;
const join = Array.prototype.join;
const push = Array.prototype.push;
const primitives = [Number.prototype.valueOf, String.prototype.valueOf, Boolean.prototype.valueOf, BigInt.prototype.valueOf];
const startsWith = String.prototype.startsWith;
const slice = String.prototype.slice;

let native;
let isAction = false;
const waiting = new Map();
let nextId = 1;

// ---- operations ----------------------------------------------------------------------------------------------------

function textOf(name, value) {
  if (typeof value !== "string") throw new TypeError(`${name} takes two strings`);
  return value;
}

function syscall(op, args) {
  return native.syscall(textOf("Convex.syscall", op), textOf("Convex.syscall", args));
}

async function asyncSyscall(op, args) {
  const id = nextId++;
  const answer = native.asyncSyscall(id, textOf("Convex.asyncSyscall", op), textOf("Convex.asyncSyscall", args));
  return answer === undefined ? await later(id, op) : answer;
}

/// The promise of an answer that comes later.
function later(id, op) {
  return new RealPromise((resolve, reject) => {
    apply(MapSet, waiting, [id, { op, resolve, reject }]);
  });
}

/// The variables of audit logs, by name. Filled before any module is evaluated.
export const vars = {};
const symbols = [];
const plainPrototype = Object.prototype;

/// `log.audit`. The body becomes text in Rust, see engine/audit.rs.
export async function audit(body) {
  const id = nextId++;
  if (native.audit(id, body, plainPrototype, simplify, symbols) === undefined) await later(id, "1.0/auditLog");
}

/// What is rare in a body, made simple.
function simplify(value, key) {
  if (typeof value === "bigint") {
    const { toJSON } = value;
    return typeof toJSON === "function" ? apply(toJSON, value, [key]) : value;
  }
  if (isArray(value)) {
    const elements = [];
    const { length } = value;
    for (let i = 0; i < length; i++) defineProperty(elements, i, { value: value[i], enumerable: true });
    return elements;
  }
  for (let i = 0; i < primitives.length; i++) {
    try {
      return apply(primitives[i], value, []);
    } catch {
      // It is not boxed, or another box.
    }
  }
  return value;
}

function jsSyscall(op) {
  throw new RealError(`${RealString(op)}: file storage and HTTP actions are not supported by this host`);
}

// ---- the engine's side ---------------------------------------------------------------------------------------------

/// Called by the engine once, before anything else.
export function install(natives, settings) {
  native = natives;
  const { kind, nowMs, env, auditVars } = settings;
  isAction = kind === "action";
  for (let i = 0; i < auditVars.length; i++) {
    vars[auditVars[i]] = symbols[i] = Symbol(`var.${auditVars[i]}`);
  }
  freeze(vars);
  const global = (name, value) =>
    defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  global("Convex", { syscall, asyncSyscall, jsSyscall });
  global("process", { env: freeze(parse(env)) });
  global("console", makeConsole());
  installDate(nowMs);
  Math.random = () => native.random();
  return { invoke, settle, explain, describe };
}

/// Calls a function, as `convex/server` made it, and gives the promise of its result as JSON text.
async function invoke(fn, kind, requestId, args) {
  if (kind === "query") return fn.invokeQuery(args);
  if (kind === "mutation") return fn.invokeMutation(args);
  return fn.invokeAction(requestId, args);
}

/// Settles the operation `id`.
function settle(id, isOk, text, data) {
  const operation = apply(MapGet, waiting, [id]);
  if (operation === undefined) return;
  apply(MapDelete, waiting, [id]);
  if (isOk) {
    operation.resolve(text);
  } else {
    const error = new RealError(text);
    if (data !== undefined) error.data = parse(data);
    operation.reject(error);
  }
}

/// What is to be said about a value that nobody caught, as JSON text.
function explain(thrown) {
  let text;
  let stack = "";
  let data = null;
  if (typeof thrown === "object" && thrown !== null) {
    const name = textMember(thrown, "name");
    const message = textMember(thrown, "message");
    stack = textMember(thrown, "stack");
    text = name && message ? `${name}: ${message}` : name || message || shown(thrown);
    if (isConvexError(thrown) && typeof thrown.data === "string") data = thrown.data;
  } else {
    text = shown(thrown);
  }
  return stringify({ __proto__: null, text, stack, data });
}

function isConvexError(thrown) {
  try {
    return Symbol.for("ConvexError") in thrown;
  } catch {
    return false;
  }
}

function textMember(object, name) {
  try {
    const value = object[name];
    return typeof value === "string" ? value : "";
  } catch {
    return "";
  }
}

function shown(value) {
  try {
    return RealString(value);
  } catch {
    return "a value that cannot be shown";
  }
}

/// What a module holds, as JSON text.
function describe(namespace) {
  const functions = [];
  const exported = ownKeys(namespace);
  for (let i = 0; i < exported.length; i++) {
    const name = exported[i];
    if (typeof name !== "string") continue;
    const value = namespace[name];
    if (typeof value !== "function" && typeof value !== "object") continue;
    if (value === null) continue;
    const kind =
      value.isQuery === true ? "query"
      : value.isMutation === true ? "mutation"
      : value.isAction === true ? "action"
      : value.isHttp === true ? "http"
      : null;
    if (kind === null || (kind !== "http" && value.isPublic !== true && value.isInternal !== true)) continue;
    apply(push, functions, [
      {
        __proto__: null,
        name,
        kind,
        isPublic: value.isPublic === true,
        args: kind === "http" ? null : parse(value.exportArgs()),
        returns: kind === "http" ? null : parse(value.exportReturns()),
      },
    ]);
  }
  const main = namespace.default;
  const isMain = typeof main === "object" && main !== null;
  return stringify({
    __proto__: null,
    functions,
    exported: isMain && typeof main.export === "function" ? plain(main.export()) : null,
    isRouter: isMain && main.isRouter === true,
    routes: isMain && main.isRouter === true ? main.getRoutes().length : 0,
    plain: isMain && typeof main.export !== "function" && main.isRouter !== true ? main : null,
  });
}

function plain(exported) {
  return typeof exported === "string" ? parse(exported) : exported;
}

// ---- the clock -----------------------------------------------------------------------------------------------------

function installDate(nowMs) {
  const now = () => (isAction ? Math.floor(nowMs + native.elapsedMs()) : nowMs);
  function Date(...args) {
    if (new.target === undefined) return apply(RealDate.prototype.toString, new RealDate(now()), []);
    return construct(RealDate, args.length === 0 ? [now()] : args, new.target === Date ? RealDate : new.target);
  }
  defineProperty(Date, "prototype", { value: RealDate.prototype, writable: false });
  defineProperty(Date, "length", { value: 7, configurable: true });
  for (const [name, value] of [["now", now], ["parse", RealDate.parse], ["UTC", RealDate.UTC]]) {
    defineProperty(Date, name, { value, writable: true, configurable: true, enumerable: false });
  }
  for (const [object, name] of [[globalThis, "Date"], [RealDate.prototype, "constructor"]]) {
    defineProperty(object, name, { value: Date, writable: true, configurable: true, enumerable: false });
  }
}

// ---- the console ---------------------------------------------------------------------------------------------------

function makeConsole() {
  const write = (level) => (...values) => {
    let line = `[${level}]`;
    for (let i = 0; i < values.length; i++) line += " " + inspected(values[i]);
    native.log(line);
  };
  return {
    log: write("LOG"), info: write("INFO"), warn: write("WARN"), error: write("ERROR"), debug: write("DEBUG"),
    trace: write("DEBUG"),
  };
}

function inspected(value) {
  if (typeof value === "string") return `'${value}'`;
  try {
    return stringify(value) ?? RealString(value);
  } catch {
    return shown(value);
  }
}
