// The engine looks at the clock where JavaScript loops and calls. In some methods it loops itself, over as many elements as an
// object says that it has, so that one call of them could be endless, and many calls could take long between two looks.
//
// It is evaluated before any module of a user.

const { apply, get, has, set, deleteProperty, defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
const { isArray } = Array;
const { trunc } = Math;
const { MAX_SAFE_INTEGER } = Number;
const RealError = Error;
const RealObject = Object;
const RealProxy = Proxy;
const RealRangeError = RangeError;
const RealTypeError = TypeError;
const typedArrays = getPrototypeOf(Int8Array).prototype;
const typedLength = getOwnPropertyDescriptor(typedArrays, "length").get;

/// More elements than fit into a function's memory.
const MAX_LENGTH = 1 << 23;
/// From here on a loop takes long enough for the clock to be looked at.
const LONG_LENGTH = 1 << 14;
/// How many comparisons the search for a text in another may take at worst, and from where on the clock is looked at.
const MAX_COMPARISONS = 2 ** 33;
const LONG_COMPARISONS = 2 ** 24;

/// An object behind traps: each access is a call of JavaScript, so that a loop of the engine over it is one that the clock ends,
/// however long the object says that it is, and whenever it says so.
const traps = {
  __proto__: null,
  get: (target, key) => get(target, key),
  has: (target, key) => has(target, key),
  set: (target, key, value) => set(target, key, value),
  deleteProperty: (target, key) => deleteProperty(target, key),
  defineProperty: (target, key, descriptor) => defineProperty(target, key, descriptor),
  getOwnPropertyDescriptor: (target, key) => getOwnPropertyDescriptor(target, key),
};

const isObject = (value) => (typeof value === "object" && value !== null) || typeof value === "function";

export function boundLoops(native) {
  const look = () => {
    if (native.isOver()) throw new RealError("the function's time is over");
  };
  const check = (name, length) => {
    if (!(length > LONG_LENGTH)) return;
    if (length > MAX_LENGTH) throw new RealRangeError(`Array.prototype.${name}(): ${length} elements are too many`);
    look();
  };
  /// An array that is one has the length that it says; what only looks like one can say another each time.
  const steady = (name, value) => {
    if (native.isArray(value)) {
      check(name, value.length);
      return value;
    }
    return isObject(value) ? new RealProxy(value, traps) : value;
  };

  // The methods stay hidden members, as those that they replace.
  const arrays = Array.prototype;
  const bounded = (name) => {
    const original = arrays[name];
    const methods = {
      [name](...args) {
        if (this === null || this === undefined) return apply(original, this, args);
        const receiver = steady(name, this);
        const result = apply(original, receiver, args);
        return result === receiver ? this : result;
      },
    };
    arrays[name] = methods[name];
  };
  ["copyWithin", "fill", "join", "reverse", "shift", "slice", "sort", "splice", "unshift"].forEach(bounded);
  ["toReversed", "toSorted", "toSpliced", "toLocaleString", "with"].forEach(bounded);

  // The engine's own go into the elements, which can be long too, or the same ones any number of times. Where they are not all
  // plain values and short arrays, a loop of JavaScript does the same.
  const { concat, flat, flatMap, slice } = arrays;
  const { isConcatSpreadable } = Symbol;
  const put = (target, key, value) => {
    if (!defineProperty(target, key, { __proto__: null, value, writable: true, enumerable: true, configurable: true })) {
      throw new RealTypeError("an element cannot be defined");
    }
  };
  const lengthOf = (value) => {
    const length = trunc(+value.length);
    return length > 0 ? (length < MAX_SAFE_INTEGER ? length : MAX_SAFE_INTEGER) : 0;
  };
  const isShort = (value) => {
    if (!isObject(value)) return true;
    if (!native.isArray(value)) return false;
    check("concat", value.length);
    return value.length <= LONG_LENGTH;
  };
  const spreads = (value) => {
    if (!isObject(value)) return false;
    const spreadable = value[isConcatSpreadable];
    return spreadable === undefined ? isArray(value) : !!spreadable;
  };
  /// An array of the kind that this one's methods give.
  const similar = (source) => apply(slice, isArray(source) ? source : [], [0, 0]);
  const append = (target, at, value) => {
    const length = lengthOf(value);
    for (let i = 0; i < length; i++) if (i in value) put(target, at + i, value[i]);
    return at + length;
  };
  const flatten = (target, at, source, depth, map, self) => {
    const length = lengthOf(source);
    for (let i = 0; i < length; i++) {
      if (!(i in source)) continue;
      const value = map === undefined ? source[i] : apply(map, self, [source[i], i, source]);
      if (depth > 0 && isArray(value)) at = flatten(target, at, value, depth - 1);
      else put(target, at++, value);
    }
    return at;
  };
  const methods = {
    concat(...values) {
      if (this === null || this === undefined) return apply(concat, this, values);
      let areShort = isShort(this);
      for (let i = 0; areShort && i < values.length; i++) areShort = isShort(values[i]);
      if (areShort) return apply(concat, this, values);
      const source = RealObject(this);
      const target = similar(source);
      let at = spreads(source) ? append(target, 0, source) : (put(target, 0, source), 1);
      for (let i = 0; i < values.length; i++) {
        if (spreads(values[i])) at = append(target, at, values[i]);
        else put(target, at++, values[i]);
      }
      target.length = at;
      return target;
    },
    flat(depth) {
      if (this === null || this === undefined) return apply(flat, this, [depth]);
      const source = RealObject(this);
      const target = similar(source);
      flatten(target, 0, source, depth === undefined ? 1 : trunc(+depth) || 0);
      return target;
    },
    flatMap(map, self) {
      if (this === null || this === undefined || typeof map !== "function") return apply(flatMap, this, [map, self]);
      const source = RealObject(this);
      const target = similar(source);
      flatten(target, 0, source, 1, map, self);
      return target;
    },
  };
  for (const name of ["concat", "flat", "flatMap"]) arrays[name] = methods[name];

  // A typed array fits into the function's memory. One call over it ends; many must not go unseen.
  const typed = (name, isBounded) => {
    const original = typedArrays[name];
    const methods = {
      [name](...args) {
        const length = apply(typedLength, this, []);
        if (isBounded) check(name, length);
        else if (length > LONG_LENGTH) look();
        return apply(original, this, args);
      },
    };
    typedArrays[name] = methods[name];
  };
  for (const name of ["sort", "toSorted", "join", "toLocaleString"]) typed(name, true);
  for (const name of ["copyWithin", "fill", "includes", "indexOf", "lastIndexOf", "reverse", "set", "slice", "toReversed", "with"]) {
    typed(name, false);
  }

  const strings = String.prototype;
  const searching = (name) => {
    const original = strings[name];
    const methods = {
      [name](...args) {
        const pattern = args[0];
        // What is not a string is asked for one now, and not once more.
        const text = isObject(this) && !isObject(pattern) ? `${this}` : this;
        if (typeof text === "string" && typeof pattern === "string") {
          const comparisons = pattern.length * text.length;
          if (comparisons > MAX_COMPARISONS) {
            throw new RealRangeError(`String.prototype.${name}(): ${pattern.length} characters are too many to look for`);
          }
          if (comparisons > LONG_COMPARISONS) look();
        }
        return apply(original, text, args);
      },
    };
    strings[name] = methods[name];
  };
  for (const name of ["includes", "indexOf", "lastIndexOf", "replace", "replaceAll", "split"]) searching(name);
}
