// What stands between CommonJS modules and ES modules, as esbuild has it.

import { captured } from "convex:prelude";

const { apply, defineProperty, getOwnPropertyDescriptor, hasOwn, mapGet, mapSet, ownKeys, RealError, RealMap } = captured;
const RealProxy = Proxy;
const { create, getPrototypeOf } = Object;

/// What each CommonJS module is, by the function that gives its exports.
const modules = new RealMap();

/// The exports of a module, which is evaluated when they are first asked for. A module that throws is evaluated anew.
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

/// `require`: `find` knows what was there when the program was loaded.
export function requirer(find) {
  return function require(specifier) {
    const load = find(specifier);
    if (load !== undefined) return load();
    throw missing(specifier, "a specifier that is put together while the function runs cannot be followed");
  };
}

/// What `require` throws for a module that there is none of.
export function missing(specifier, why) {
  const error = new RealError(`Cannot find module '${specifier}': ${why}`);
  error.code = "MODULE_NOT_FOUND";
  return error;
}

function copyMembers(target, source) {
  if ((typeof source !== "object" && typeof source !== "function") || source === null) return target;
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

/// What an ES module sees of a CommonJS module. `isNode`: the importer is what Node.js takes for an ES module, which gets
/// `module.exports` as default, whatever `__esModule` says.
export function namespaceOf(exports, isNode) {
  const known = isNode ? seen.node : seen.others;
  let namespace = apply(mapGet, known, [exports]);
  if (namespace === undefined) apply(mapSet, known, [exports, (namespace = makeNamespace(exports, isNode))]);
  return namespace;
}

function makeNamespace(exports, isNode) {
  const prototype = exports == null ? null : typeof exports === "object" || typeof exports === "function" ? getPrototypeOf(exports) : null;
  const target = create(prototype);
  if (isNode || !exports || !exports.__esModule) defineProperty(target, "default", { value: exports, enumerable: true });
  return copyMembers(target, exports);
}

const namespaces = new RealMap();

/// What `require` gives of an ES module.
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

/// What stands for a module of Node.js, and for whatever is asked of it: an error when it is used.
export function ofNode(name) {
  if (name === "async_hooks" && globalThis.AsyncLocalStorage !== undefined) {
    const { AsyncLocalStorage, AsyncResource } = globalThis;
    return { AsyncLocalStorage, AsyncResource, default: { AsyncLocalStorage, AsyncResource } };
  }
  return stand(name);
}

function stand(path) {
  const fail = () => {
    throw new RealError(`${path} is of Node.js, which this host does not have: it cannot be used in its functions`);
  };
  const prototype = {};
  const members = new RealMap();
  return new RealProxy(function () {}, {
    get(_, key) {
      if (key === "prototype") return prototype;
      if (typeof key === "symbol" || key === "then" || key === "__esModule" || key === "toJSON") return undefined;
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
