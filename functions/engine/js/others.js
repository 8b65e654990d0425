// Small globals that few functions use: references that are weak elsewhere, what describes where a function runs, and what this
// host does not have and says so when it is used.

import { addClass } from "convex:prelude";

/// When something is collected would differ from run to run, so here it is kept.
export class WeakRef {
  #target;

  constructor(target) {
    if ((typeof target !== "object" || target === null) && typeof target !== "function" && typeof target !== "symbol") {
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
    if (typeof cleanup !== "function") throw new TypeError("FinalizationRegistry: the callback must be a function");
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
  userAgent: "audit-functions", language: "en-US", languages: Object.freeze(["en-US"]), hardwareConcurrency: 1, onLine: true,
});

const missing = (name) => ({
  [name]: function () {
    throw new Error(`${name} is not supported by this host`);
  },
}[name]);

/// A package that asks whether it can use WebAssembly is told that it cannot.
export const WebAssembly = { validate: () => false };
for (const name of ["compile", "compileStreaming", "instantiate", "instantiateStreaming"]) {
  WebAssembly[name] = async () => missing(`WebAssembly.${name}`)();
}
for (const name of ["Module", "Instance", "Memory", "Table", "Global", "Tag"]) WebAssembly[name] = missing(`WebAssembly.${name}`);
for (const name of ["CompileError", "LinkError", "RuntimeError"]) {
  WebAssembly[name] = { [name]: class extends Error {} }[name];
}
Object.defineProperty(WebAssembly, Symbol.toStringTag, { value: "WebAssembly", configurable: true });

// ---- messages ------------------------------------------------------------------------------------------------------

/// Two ports, each of which hears what the other is given, a microtask later.
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
