// The engine checks the clock when JavaScript loops or calls. Some built-in methods loop natively
// over as many elements as an object claims to have, so that a single call could be endless, and
// many calls could take long between two checks.
//
// This module is evaluated in every engine before any user module, so it is small. Rare cases are
// in flatten.js.

const { apply, construct } = Reflect;
const { defineProperty } = Object;
const { max, min, trunc } = Math;
const { MAX_SAFE_INTEGER } = Number;
const RealSymbol = Symbol;
const { match } = Symbol;
const { toWellFormed } = String.prototype;
const RealError = Error;
const RealObject = Object;
const RealTypeError = TypeError;
const RealProxy = Proxy;
const RealRangeError = RangeError;
const typedArrays = Reflect.getPrototypeOf(Int8Array).prototype;
const typedLength = Reflect.getOwnPropertyDescriptor(typedArrays, "length").get;

/// More elements than fit into the memory of a function.
const MAX_LENGTH = 1 << 23;
/// The length from which a loop takes long enough to check the clock.
const LONG_LENGTH = 1 << 14;
/// The most comparisons that a search for one text in another may need, the number from which the
/// clock is checked, and that from which it is checked during the search.
const MAX_COMPARISONS = 2 ** 33;
const LONG_COMPARISONS = 2 ** 24;
const LONGEST_COMPARISONS = 2 ** 28;
/// The length from which a regular expression may take long to compile.
const LONG_PATTERN = 1 << 10;
/// The most combining marks in sequence that are normalized, in code units.
const MAX_MARKS = 1 << 12;

const isObject = (value) =>
  (typeof value === "object" && value !== null) || typeof value === "function";

/// The host's functions, which are known before any text is parsed.
let host;

/// The engine keeps the names of members in a hash table that a text can make slow.
const { parse } = JSON;
const json = JSON;
JSON.parse = {
  parse(text, reviver) {
    const source = typeof text === "string" ? text : `${text}`;
    if (source.length > LONG_LENGTH && host.namesCollide(apply(toWellFormed, source, []))) {
      throw new RealRangeError(
        "JSON.parse(): the text has too many names of members that were chosen to have one hash",
      );
    }
    return apply(parse, json, [source, reviver]);
  },
}.parse;

/// `load` returns the functions of flatten.js.
export function boundLoops(native, load) {
  host = native;
  const { isArray } = native;
  const look = () => {
    if (native.isOver()) throw new RealError("the function's time is over");
  };
  const check = (name, length) => {
    if (!(length > LONG_LENGTH)) return;
    if (length > MAX_LENGTH) {
      throw new RealRangeError(
        `Array.prototype.${name}(): ${length} elements are more than ${MAX_LENGTH}, which is the limit`,
      );
    }
    look();
  };
  /// Replacements are not enumerable, like the methods they replace.
  const bound = (prototype, names, call) => {
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      const original = prototype[name];
      prototype[name] = {
        [name](...args) {
          return call(original, this, args, name);
        },
      }[name];
    }
  };

  /// A real array has the length that it reports. An array-like object may report a different one
  /// each time.
  const array = (original, self, args, name) => {
    if (isArray(self)) {
      check(name, self.length);
      return apply(original, self, args);
    }
    if (!isObject(self)) return apply(original, self, args);
    const traced = new RealProxy(self, load().traps);
    const result = apply(original, traced, args);
    return result === traced ? self : result;
  };
  /// Without a comparison function, the engine compares strings natively.
  const sort = (original, self, args, name) => {
    const isLong = args[0] === undefined && isArray(self) && self.length > LONG_LENGTH;
    return array(original, self, isLong ? [load().byText] : args, name);
  };
  const arrays = Array.prototype;
  bound(
    arrays,
    [
      "copyWithin", "fill", "join", "reverse", "shift", "slice", "splice", "unshift", "toReversed",
      "toSpliced", "with",
    ],
    array,
  );
  bound(arrays, ["sort", "toSorted"], sort);

  // The engine's methods descend into the elements, which can be long themselves, or repeated any
  // number of times. Unless all are primitive values and short arrays, a loop in JavaScript does
  // the same.
  const isShort = (value) => {
    if (!isObject(value)) return true;
    if (!isArray(value)) return false;
    check("concat", value.length);
    return value.length <= LONG_LENGTH;
  };
  const concat = (original, self, args) => {
    let areShort = self === null || self === undefined || isShort(self);
    for (let i = 0; areShort && i < args.length; i++) areShort = isShort(args[i]);
    return areShort ? apply(original, self, args) : load().concat(self, args);
  };
  const flat = (original, self, args, name) =>
    self === null || self === undefined
      ? apply(original, self, args)
      : load()[name](original, self, args);
  bound(arrays, ["concat"], concat);
  bound(arrays, ["flat", "flatMap"], flat);

  // Replaced entirely, since the engine frees an element twice if the clock ends its own method.
  const find = (name, isLast, isIndex) => {
    const method = {
      [name](test, self) {
        if (this === null || this === undefined)
          throw new RealTypeError(`Array.prototype.${name}(): there is no array`);
        const source = RealObject(this);
        const length = min(max(trunc(+source.length) || 0, 0), MAX_SAFE_INTEGER);
        if (typeof test !== "function")
          throw new RealTypeError(
            `Array.prototype.${name}(): its first argument is not a function`,
          );
        for (let n = 0; n < length; n++) {
          const i = isLast ? length - 1 - n : n;
          const value = source[i];
          if (apply(test, self, [value, i, source])) return isIndex ? i : value;
        }
        return isIndex ? -1 : undefined;
      },
    }[name];
    defineProperty(method, "length", { __proto__: null, value: 1 });
    arrays[name] = method;
  };
  find("find", false, false);
  find("findIndex", false, true);
  find("findLast", true, false);
  find("findLastIndex", true, true);

  // A typed array fits into the function's memory, so a single call ends, but a series of calls
  // must check the clock.
  const typed = (original, self, args) => {
    if (apply(typedLength, self, []) > LONG_LENGTH) look();
    return apply(original, self, args);
  };
  const longTyped = (original, self, args, name) => {
    check(name, apply(typedLength, self, []));
    return apply(original, self, args);
  };
  bound(typedArrays, ["sort", "toSorted", "join"], longTyped);
  bound(
    typedArrays,
    [
      "copyWithin", "fill", "includes", "indexOf", "lastIndexOf", "reverse", "set", "slice",
      "toReversed", "with",
    ],
    typed,
  );

  const search = (original, self, args, name) => {
    const pattern = args[0];
    // A value that is not a string is converted once, here.
    const text = isObject(self) && !isObject(pattern) ? `${self}` : self;
    if (typeof text === "string" && typeof pattern === "string") {
      const comparisons = pattern.length * text.length;
      if (comparisons > MAX_COMPARISONS) {
        throw new RealRangeError(
          `String.prototype.${name}(): a search for ${pattern.length} characters in ${text.length} can take ${comparisons} comparisons, ` +
          `more than ${MAX_COMPARISONS}`,
        );
      }
      if (comparisons > LONG_COMPARISONS) look();
      if (comparisons > LONGEST_COMPARISONS)
        return load().search(original, text, args, name, look);
    }
    return apply(original, text, args);
  };
  bound(
    String.prototype,
    ["includes", "indexOf", "lastIndexOf", "replace", "replaceAll", "split"],
    search,
  );

  // The engine sorts combining marks in sequence by insertion.
  bound(String.prototype, ["normalize"], (original, self, args) => {
    const text = isObject(self) ? `${self}` : self;
    if (typeof text === "string" && text.length > MAX_MARKS) load().checkMarks(text, MAX_MARKS);
    return apply(original, text, args);
  });

  bound(String, ["raw"], (original, self, args) => {
    const raw = args[0]?.raw;
    const isShort = !isObject(raw) || (isArray(raw) && raw.length <= LONG_LENGTH);
    args[0] = { raw: isShort ? raw : new RealProxy(raw, load().traps) };
    return apply(original, self, args);
  });

  // The engine compiles a regular expression without checking the clock.
  const compiled = (args, name) => {
    const [pattern] = args;
    const isOwn = isObject(pattern) && (pattern[match] ?? pattern[RealSymbol[name]]) !== undefined;
    if (isObject(pattern) && !isOwn) args[0] = `${pattern}`;
    if (typeof args[0] === "string" && args[0].length > LONG_PATTERN) {
      look();
      load().checkPattern(args[0]);
    }
    return args;
  };
  const compiling = (original, self, args, name) => apply(original, self, compiled(args, name));
  bound(String.prototype, ["match", "matchAll", "search"], compiling);
  bound(RegExp.prototype, ["compile"], compiling);
  const replaced = new RealProxy(RegExp, {
    __proto__: null,
    construct: (target, args, type) => construct(target, compiled(args, "match"), type),
    apply: (target, self, args) => {
      const [pattern, flags] = args;
      const isKept = isObject(pattern) && pattern[match] && flags === undefined;
      return isKept && pattern.constructor === replaced
        ? pattern
        : construct(target, compiled(args, "match"), replaced);
    },
  });
  RegExp.prototype.constructor = replaced;
  globalThis.RegExp = replaced;

  // Built-in methods iterate over built-in iterators natively, without checking the clock.
  bound(Iterator.prototype, ["drop", "includes", "join"], (original, self, args) =>
    load().follow(original, self, args),
  );
  // The engine initializes these three when they are first accessed. If the clock ends that, it
  // miscounts references, and would abort the process at the end of the call.
  delete Iterator.zip;
  delete Iterator.zipKeyed;
  delete Array.fromAsync;
  defineProperty(Array, "fromAsync", {
    value: {
      fromAsync(items, ...more) {
        return load().fromAsync(this, items, more[0], more[1]);
      },
    }.fromAsync,
    writable: true,
    configurable: true,
    enumerable: false,
  });
  const sets = [
    "difference", "intersection", "isDisjointFrom", "isSubsetOf", "isSupersetOf",
    "symmetricDifference", "union",
  ];
  bound(Set.prototype, sets, (original, self, args) => load().withSet(original, self, args));
}
