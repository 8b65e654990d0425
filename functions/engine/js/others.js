// Small globals that few functions use: weak references, descriptions of the environment, and
// globals that this host does not support, which throw when they are used.

import { addClass } from "convex:prelude";

/// The target is kept alive, since the time of its collection would differ between runs.
export class WeakRef {
  #target;

  constructor(target) {
    if (
      (typeof target !== "object" || target === null) &&
      typeof target !== "function" &&
      typeof target !== "symbol"
    ) {
      throw new TypeError("WeakRef: the target must be an object");
    }
    this.#target = target;
  }
  deref() {
    return this.#target;
  }
}

export class FinalizationRegistry {
  constructor(cleanup) {
    if (typeof cleanup !== "function")
      throw new TypeError("FinalizationRegistry: the callback must be a function");
  }
  register(target) {
    if ((typeof target !== "object" || target === null) && typeof target !== "function") {
      throw new TypeError("FinalizationRegistry: the target must be an object");
    }
  }
  unregister() {
    return false;
  }
}

export const navigator = Object.freeze({
  userAgent: "audit-functions", language: "en-US", languages: Object.freeze(["en-US"]),
  hardwareConcurrency: 1, onLine: true,
});

const missing = (name) => ({
  [name]: function () {
    throw new Error(`${name} is not supported by this host`);
  },
}[name]);

/// Packages that check for WebAssembly find that it is not available.
export const WebAssembly = { validate: () => false };
for (const name of ["compile", "compileStreaming", "instantiate", "instantiateStreaming"]) {
  WebAssembly[name] = async () => missing(`WebAssembly.${name}`)();
}
for (const name of ["Module", "Instance", "Memory", "Table", "Global", "Tag"])
  WebAssembly[name] = missing(`WebAssembly.${name}`);
for (const name of ["CompileError", "LinkError", "RuntimeError"]) {
  WebAssembly[name] = { [name]: class extends Error {} }[name];
}
Object.defineProperty(WebAssembly, Symbol.toStringTag, {
  value: "WebAssembly",
  configurable: true,
});

// ---- messages -----------------------------------------------------------------------------------

/// Two ports, each of which receives the messages posted to the other, a microtask later.
class MessagePort {
  onmessage = null;
  #other;

  static join(a, b) {
    a.#other = b;
    b.#other = a;
  }
  postMessage(data) {
    const other = this.#other;
    queueMicrotask(() => other?.onmessage?.({ type: "message", data }));
  }
  start() {}
  close() {
    this.#other = undefined;
  }
}

export class MessageChannel {
  #port1 = new MessagePort();
  #port2 = new MessagePort();

  constructor() {
    MessagePort.join(this.#port1, this.#port2);
  }
  get port1() {
    return this.#port1;
  }
  get port2() {
    return this.#port2;
  }
}

for (const type of [WeakRef, FinalizationRegistry, MessagePort, MessageChannel]) addClass(type);
