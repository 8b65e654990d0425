// Interoperation of CommonJS modules and ES modules, as in esbuild.

import { captured } from "convex:prelude";

const {
  apply, defineProperty, getOwnPropertyDescriptor, hasOwn, isArray, mapGet, mapSet, ownKeys,
  RealError, RealMap,
} = captured;
const RealProxy = Proxy;
export const { parse } = captured;
const { create, getPrototypeOf } = Object;

/// The `module` object of each CommonJS module, by the function that returns its exports.
const modules = new RealMap();

/// Returns the exports of a module, which is evaluated when they are first requested. A module that
/// throws is evaluated again.
export function evaluate(load, body, require, file) {
  let module = apply(mapGet, modules, [load]);
  if (module === undefined) {
    module = { exports: {}, id: file, loaded: false };
    apply(mapSet, modules, [load, module]);
    try {
      const directory = file.slice(0, file.lastIndexOf("/"));
      apply(body, module.exports, [module.exports, requirer(require), module, file, directory]);
      module.loaded = true;
    } catch (thrown) {
      apply(mapSet, modules, [load, undefined]);
      throw thrown;
    }
  }
  return module.exports;
}

/// Returns a `require` function. `find` finds the modules that existed when the program was loaded.
export function requirer(find) {
  return function require(specifier) {
    const load = find(specifier);
    if (load !== undefined) return load();
    throw missing(specifier, "specifiers that are computed at run time cannot be followed");
  };
}

/// The error that `require` throws for a missing module.
export function missing(specifier, why) {
  const error = new RealError(`Cannot find module '${specifier}': ${why}`);
  error.code = "MODULE_NOT_FOUND";
  return error;
}

function copyMembers(target, source) {
  if ((typeof source !== "object" && typeof source !== "function") || source === null)
    return target;
  const keys = ownKeys(source);
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i];
    if (hasOwn(target, key) || typeof key === "symbol") continue;
    const { enumerable } = getOwnPropertyDescriptor(source, key) ?? { enumerable: false };
    defineProperty(target, key, { get: () => source[key], enumerable });
  }
  return target;
}

const seen = { node: new RealMap(), others: new RealMap() };

/// The namespace that an ES module imports from a CommonJS module. With `isNode`, the importer is
/// an ES module in Node's sense, whose default import is `module.exports` regardless of
/// `__esModule`.
export function namespaceOf(exports, isNode) {
  const known = isNode ? seen.node : seen.others;
  let namespace = apply(mapGet, known, [exports]);
  if (namespace === undefined)
    apply(mapSet, known, [exports, (namespace = makeNamespace(exports, isNode))]);
  return namespace;
}

function makeNamespace(exports, isNode) {
  const prototype =
    exports == null
      ? null
      : typeof exports === "object" || typeof exports === "function"
        ? getPrototypeOf(exports)
        : null;
  const target = create(prototype);
  if (isNode || !exports || !exports.__esModule)
    defineProperty(target, "default", { value: exports, enumerable: true });
  return copyMembers(target, exports);
}

/// The namespace that `import()` gives.
export function lateOf(exports, isData) {
  const hasMembers = isData && typeof exports === "object" && !isArray(exports);
  return { __proto__: null, ...(hasMembers ? exports : undefined), default: exports };
}

const namespaces = new RealMap();

/// The member `name` of the first of the namespaces that has it.
export function pick(name, ...namespaces) {
  for (let i = 0; i < namespaces.length; i++)
    if (hasOwn(namespaces[i], name)) return namespaces[i][name];
  return undefined;
}

/// The value that `require` returns for an ES module.
export function exportsOf(namespace) {
  let exports = apply(mapGet, namespaces, [namespace]);
  if (exports === undefined) {
    exports = {};
    defineProperty(exports, "__esModule", { value: true });
    copyMembers(exports, namespace);
    apply(mapSet, namespaces, [namespace, exports]);
  }
  return exports;
}

/// A stand-in for a module of Node.js or any of its members, which throws when it is used.
export function ofNode(name) {
  if (name === "async_hooks" && globalThis.AsyncLocalStorage !== undefined) {
    const { AsyncLocalStorage, AsyncResource } = globalThis;
    return { AsyncLocalStorage, AsyncResource, default: { AsyncLocalStorage, AsyncResource } };
  }
  return stand(name);
}

function stand(path) {
  const fail = () => {
    throw new RealError(
      `${path} is of Node.js, which this host does not have: it cannot be used in its functions`,
    );
  };
  const prototype = {};
  const members = new RealMap();
  return new RealProxy(function () {}, {
    get(_, key) {
      if (key === "prototype") return prototype;
      if (typeof key === "symbol" || key === "then" || key === "__esModule" || key === "toJSON")
        return undefined;
      if (key === "default") return stand(path);
      let member = apply(mapGet, members, [key]);
      if (member === undefined) apply(mapSet, members, [key, (member = stand(`${path}.${key}`))]);
      return member;
    },
    has: () => true,
    apply: fail,
    construct: fail,
  });
}
