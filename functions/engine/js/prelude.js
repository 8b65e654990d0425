// The base of every module: the globals that functions expect, and the engine's side of a call.
//
// It is evaluated before any user module and saves the built-ins that it needs, so that a function
// that overwrites `JSON.stringify` or `Object.prototype` harms only its own call.

import { boundLoops } from "convex:loops";

const { parse, stringify } = JSON;
const { apply } = Reflect;
const { defineProperty, freeze } = Object;
const RealDate = Date;
const RealError = Error;
const RealEvalError = EvalError;
const RealPromise = Promise;
const RealString = String;
const plainPrototype = Object.prototype;
const arrayPrototype = Array.prototype;
const errorMark = Symbol.for("ConvexError");
const { get: mapGet, set: mapSet, delete: mapDelete } = Map.prototype;
const mapSize = Reflect.getOwnPropertyDescriptor(Map.prototype, "size").get;
const { indexOf, lastIndexOf, toWellFormed, slice } = String.prototype;
const typedArrays = Reflect.getPrototypeOf(Int8Array).prototype;

/// The original built-ins that modules of this host need, which are loaded later.
export const captured = {
  __proto__: null,
  arraySlice: Array.prototype.slice, defineProperty: Reflect.defineProperty,
  deleteProperty: Reflect.deleteProperty, get: Reflect.get, has: Reflect.has,
  isArray: Array.isArray, isConcatSpreadable: Symbol.isConcatSpreadable,
  iteratorPrototype: Iterator.prototype, MAX_SAFE_INTEGER: Number.MAX_SAFE_INTEGER,
  RealObject: Object, set: Reflect.set, trunc: Math.trunc, asyncIterator: Symbol.asyncIterator,
  iterator: Symbol.iterator, RealArray: Array, RealDate, RealError, RealMap: Map, RealPromise,
  RealString, RealTypeError: TypeError, plainPrototype, apply, mapDelete, mapGet, mapSet,
  construct: Reflect.construct, ownKeys: Reflect.ownKeys, parse, push: Array.prototype.push,
  stringify, exec: RegExp.prototype.exec, RealRangeError: RangeError,
  getOwnPropertyDescriptor: Reflect.getOwnPropertyDescriptor,
  getPrototypeOf: Reflect.getPrototypeOf, hasOwn: Object.hasOwn,
  setPrototypeOf: Reflect.setPrototypeOf, max: Math.max, RealNumber: Number, indexOf, lastIndexOf,
  slice,
  RealUint8Array: Uint8Array, fromCharCode: String.fromCharCode, setBytes: typedArrays.set, subarray: typedArrays.subarray,
  getTime: RealDate.prototype.getTime, toISOString: RealDate.prototype.toISOString,
  symbolDescription: Reflect.getOwnPropertyDescriptor(Symbol.prototype, "description").get,
  primitives: [Number, String, Boolean, BigInt, Symbol].map((type) => type.prototype.valueOf),
  // Their prototypes cannot be replaced.
  constructors: [
    Object, Function, Array, String, Number, Boolean, Symbol, BigInt, Date, RegExp, Promise,
    Iterator, DOMException, Error, AggregateError, EvalError, RangeError, ReferenceError,
    SyntaxError, TypeError, URIError, InternalError, Map, Set, WeakMap, WeakSet, ArrayBuffer,
    SharedArrayBuffer, DataView, Reflect.getPrototypeOf(Int8Array), Int8Array, Uint8Array,
    Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, BigInt64Array,
    BigUint64Array, Float16Array, Float32Array, Float64Array,
  ],
  iterators: {
    __proto__: null,
    RealSet: Set, arrayValues: Array.prototype.values, mapKeys: Map.prototype.keys,
    setKeys: Set.prototype.keys, stringIterator: String.prototype[Symbol.iterator],
    iteratorMap: Iterator.prototype.map, iteratorFrom: Iterator.from,
    matched: "".matchAll(/a/g),
  },
  /// The host's own classes among the globals, with their original `toJSON`.
  classes: [],
};

/// Registers a class of the host among the globals, before a function can change the class.
export function addClass({ name, prototype }) {
  const { classes, hasOwn } = captured;
  const toJSON = hasOwn(prototype, "toJSON") ? prototype.toJSON : null;
  classes[classes.length] = { __proto__: null, name, prototype, toJSON };
}

/// Calls a function of audit.js about a value that is rare in bodies.
function rare(name, value, key) {
  return apply(load("convex:audit")[name], undefined, [value, key]);
}

/// Globals that are created when they are first used, by the module that exports them.
const globals = [
  "convex:text", ["TextEncoder", "TextDecoder", "atob", "btoa"],
  "convex:url", ["URL", "URLSearchParams"],
  "convex:clone", ["structuredClone"],
  "convex:crypto", ["crypto", "Crypto", "CryptoKey", "SubtleCrypto"],
  "convex:events", [
    "Event", "CustomEvent", "MessageEvent", "ErrorEvent", "EventTarget", "AbortSignal",
    "AbortController",
  ],
  "convex:streams", [
    "ReadableStream", "ReadableStreamDefaultController", "ReadableByteStreamController",
    "ReadableStreamDefaultReader", "ReadableStreamBYOBReader", "ReadableStreamBYOBRequest",
    "WritableStream", "WritableStreamDefaultController", "WritableStreamDefaultWriter",
    "TransformStream", "TransformStreamDefaultController", "TextEncoderStream", "TextDecoderStream",
    "CountQueuingStrategy", "ByteLengthQueuingStrategy",
  ],
  "convex:bodies", ["Blob", "File", "FormData", "Headers", "Request", "Response"],
  "convex:fetch", ["fetch"],
  "convex:locale", ["Intl"],
  "convex:async-context", ["AsyncLocalStorage", "AsyncResource"],
  "convex:others", ["WeakRef", "FinalizationRegistry", "navigator", "WebAssembly", "MessageChannel"],
];

export let native;

/// The kind of the function, or undefined while modules are only described.
export const kindOf = () => native.kind();
/// Whether the function must be deterministic.
export const isDeterministic = () => native.kind() !== "action";

const waiting = new Map();
let nextId = 1;

/// Called once by the engine, before anything else. `settings` contains `process.env` as JSON text,
/// and the names of audit log variables. Values that differ between calls are requested from
/// `natives` when used, since an engine may serve many calls.
export function install(natives, settings) {
  native = natives;
  const { env, auditVars } = settings;
  for (let i = 0; i < auditVars.length; i++)
    variables[auditVars[i]] = symbols[i] = Symbol(`var.${auditVars[i]}`);
  freeze(variables);
  hidden(globalThis, "Convex", { syscall, asyncSyscall, jsSyscall });
  lazily("performance", () => ({
    now: () => (isDeterministic() ? 0 : native.elapsedMs()),
    timeOrigin: native.startMs(),
  }));
  for (const name of ["self", "global"]) hidden(globalThis, name, globalThis);
  lazily("process", () => ({ env: parse(env) }));
  for (const name of ["setTimeout", "setInterval", "clearTimeout", "clearInterval"])
    lazily(name, () => rarely().timers()[name]);
  lazily("console", () => load("convex:console").makeConsole());
  for (let i = 0; i < globals.length; i += 2) {
    const names = globals[i + 1];
    for (let n = 0; n < names.length; n++) lazily(names[n], globals[i]);
  }
  lazily("Date", () => rarely().makeDate());
  boundLoops(native, () => load("convex:flatten"));
  byLocale();
  guardErrors();
  refuseCode();
  hidden(Math, "random", () => native.random());
  return {
    invoke,
    answerHttp,
    settle,
    explain,
    describe: (namespace) => rarely().describe(namespace),
    nextTimer,
    fireTimers: () => rarely().fireTimers(),
    /// Loads commonly used modules, in an engine that is to serve many calls.
    warm: () => {
      rarely();
      load("convex:console");
    },
  };
}

/// Defines a member like those that a global object has initially.
export function hidden(object, name, value) {
  defineProperty(object, name, { value, writable: true, configurable: true, enumerable: false });
}

/// Locale-dependent functions, which the engine lacks.
function byLocale() {
  const method = (prototype, name, as = name) => {
    hidden(
      prototype,
      name,
      {
        [name](...args) {
          return load("convex:locale")[as](this, ...args);
        },
      }[name],
    );
  };
  for (const name of ["localeCompare", "toLocaleUpperCase", "toLocaleLowerCase"])
    method(RealString.prototype, name);
  method(Number.prototype, "toLocaleString", "numberToLocaleString");
  method(BigInt.prototype, "toLocaleString", "bigintToLocaleString");
  method(arrayPrototype, "toLocaleString", "arrayToLocaleString");
  method(typedArrays, "toLocaleString", "arrayToLocaleString");
}

/// Ignores values of other types for these two settings: with them, the engine would miscount
/// references and abort the process at the end of the call.
function guardErrors() {
  const only = (type, name) => {
    const { set } = captured.getOwnPropertyDescriptor(RealError, name);
    defineProperty(RealError, name, {
      set(value) {
        apply(set, this, [typeof value === type ? value : undefined]);
      },
    });
  };
  only("function", "prepareStackTrace");
  only("number", "stackTraceLimit");
}

/// Code is compiled when the program is loaded, and never while a function runs.
function refuseCode() {
  const refuse = () => {
    throw new RealEvalError("Code generation from strings disallowed for this context");
  };
  hidden(globalThis, "eval", { eval: (code) => (typeof code === "string" ? refuse() : code) }.eval);
  const { prototype } = Function;
  // Packages use this to get the global object.
  const isThis = (code, more) => code === "return this" && more.length === 0;
  const Refusing = {
    Function: function (code, ...more) {
      return isThis(code, more) ? () => globalThis : refuse();
    },
  }.Function;
  defineProperty(Refusing, "prototype", { value: prototype, writable: false });
  hidden(prototype, "constructor", Refusing);
  hidden(globalThis, "Function", Refusing);
}

const accessor = {
  __proto__: null,
  get: undefined, set: undefined, configurable: true, enumerable: false,
};

/// Defines a global that is created by a function or module when it is first used, since most calls
/// use few of them.
function lazily(name, from) {
  accessor.get = () => {
    const value = typeof from === "string" ? load(from)[name] : from();
    hidden(globalThis, name, value);
    return value;
  };
  accessor.set = (value) => hidden(globalThis, name, value);
  defineProperty(globalThis, name, accessor);
}

const loaded = new Map();

/// Loads a module of this host when it is first needed.
export function load(name) {
  let module = apply(mapGet, loaded, [name]);
  if (module === undefined) apply(mapSet, loaded, [name, (module = native.load(name))]);
  return module;
}

function rarely() {
  return load("convex:rarely");
}

// ---- operations ---------------------------------------------------------------------------------

function text(value) {
  if (typeof value !== "string")
    throw new TypeError("a Convex operation and its arguments are strings");
  return value;
}

export function syscall(op, args) {
  return native.syscall(text(op), text(args));
}

export async function asyncSyscall(op, args) {
  const id = nextId++;
  const answer = native.asyncSyscall(id, text(op), text(args));
  return answer === undefined ? await later(id) : answer;
}

/// The promise of an asynchronous operation.
function later(id) {
  return new RealPromise((resolve, reject) => {
    apply(mapSet, waiting, [id, { resolve, reject }]);
  });
}

function jsSyscall(op) {
  throw new RealError(`${RealString(op)}: file storage is not supported by this host`);
}

/// The variables of audit logs, by name. Filled before any module is evaluated.
const variables = {};
const symbols = [];

/// A misspelled variable is an error, since the log would lack its member. A name that the language
/// itself reads from any object, such as `then`, is not.
const vars = new Proxy(variables, {
  __proto__: null,
  get(_, name) {
    const isOther = typeof name === "symbol" || name in plainPrototype;
    if (!isOther && !captured.hasOwn(variables, name) && name !== "toJSON" && name !== "then")
      throw new captured.RealTypeError(`log.vars has no variable ${stringify(name)}`);
    return variables[name];
  },
});

/// The body is serialized in Rust; see engine/src/audit.
async function audit(body) {
  const id = nextId++;
  if (native.audit(id, body, plainPrototype, arrayPrototype, symbols, rare) === undefined)
    await later(id);
}

/// The `log` of `convex/server`, also when Convex's package is installed.
export const log = freeze({ audit, vars });

// ---- the engine's side --------------------------------------------------------------------------

/// Calls a function built by `convex/server`. Returns a promise of its result as JSON text.
async function invoke(fn, requestId, args) {
  const kind = native.kind();
  if (kind === "query") return await fn.invokeQuery(args);
  if (kind === "mutation") return await fn.invokeMutation(args);
  return await fn.invokeAction(requestId, args);
}

/// Answers an HTTP request using the router that `http.ts` exports.
async function answerHttp(router, request, prefix, isLast) {
  const isRouted = await load("convex:http").answer(router, request, prefix, isLast);
  return isRouted ? "null" : '"unrouted"';
}

/// Settles the operation `id`.
function settle(id, isOk, answer, data) {
  const operation = apply(mapGet, waiting, [id]);
  if (operation === undefined) return;
  apply(mapDelete, waiting, [id]);
  if (isOk) {
    operation.resolve(answer);
  } else {
    const error = new RealError(answer);
    if (typeof data === "string") error.data = parse(data);
    operation.reject(error);
  }
}

/// Describes an uncaught value, as JSON text.
function explain(thrown) {
  if (typeof thrown !== "object" || thrown === null) {
    return stringify({ __proto__: null, text: wellFormed(shown(thrown)), stack: "", data: null });
  }
  const name = textMember(thrown, "name");
  const message = textMember(thrown, "message");
  return stringify({
    __proto__: null,
    text: wellFormed(
      (name && message ? `${name}: ${message}` : name || message || shown(thrown)) +
        because(thrown),
    ),
    stack: wellFormed(textMember(thrown, "stack")),
    data: isConvexError(thrown) ? textMember(thrown, "data") || null : null,
  });
}

/// The cause of an error, for its message, such as that of `fetch`.
function because(thrown) {
  try {
    if (thrown.message === "Buffer is not defined")
      return " (this host has no Buffer: use Uint8Array, TextEncoder, atob and btoa)";
    const { cause } = thrown;
    const why = typeof cause === "object" && cause !== null ? textMember(cause, "message") : "";
    return why && ` (cause: ${why})`;
  } catch {
    return "";
  }
}

function isConvexError(thrown) {
  try {
    return errorMark in thrown;
  } catch {
    return false;
  }
}

/// Replaces lone surrogates in a text, and truncates it to a readable length.
function wellFormed(value) {
  return apply(toWellFormed, apply(slice, value, [0, 16384]), []);
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

// ---- time ---------------------------------------------------------------------------------------

/// The timers of an action: by id, the time from the start of the call, and the callback.
export const timed = new Map();

/// The time of the next timer, in milliseconds from the start of the call, or -1 if there is none.
function nextTimer() {
  return apply(mapSize, timed, []) === 0 ? -1 : rarely().nextTimer();
}
