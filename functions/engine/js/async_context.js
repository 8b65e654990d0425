// AsyncLocalStorage and AsyncResource, like those of Node.js as far as the engine allows. Loaded
// when a function first uses one of them.
//
// While code runs synchronously inside `run`, its store is known. After an `await`, the engine does
// not tell which `run` the code belongs to. If only one is active, it is that one. If several are,
// with different stores, reading the store is an error.

import { addClass, captured } from "convex:prelude";

const { apply } = captured;
const storages = new Set();

let enter;
let runOf;

export class AsyncLocalStorage {
  #defaultValue;
  #name;
  /// The active runs: `{ store }`.
  #runs = new Set();
  /// Set while code runs synchronously: `{ run }`, where `run` is undefined outside any run.
  #now;

  constructor(options) {
    this.#defaultValue = options?.defaultValue;
    this.#name = String(options?.name ?? "");
    storages.add(this);
  }
  static {
    enter = (storage, now) => {
      const before = storage.#now;
      storage.#now = now;
      return before;
    };
    runOf = (storage) => storage.#run();
  }
  get name() {
    return this.#name;
  }
  #run() {
    if (this.#now !== undefined) return this.#now.run;
    const [first, ...others] = this.#runs;
    if (others.some(({ store }) => !Object.is(store, first.store))) {
      throw new Error(
        "AsyncLocalStorage: several run() with different stores are under way at once, and this host cannot tell after an `await` " +
        "to which of them a function belongs",
      );
    }
    return first;
  }
  getStore() {
    const run = this.#run();
    return run === undefined || run.store === undefined ? this.#defaultValue : run.store;
  }
  run(store, callback, ...args) {
    const run = { store };
    this.#runs.add(run);
    const before = enter(this, { run });
    let result;
    try {
      result = apply(callback, undefined, args);
    } catch (thrown) {
      this.#runs.delete(run);
      throw thrown;
    } finally {
      enter(this, before);
    }
    if (result instanceof Promise)
      result.then(
        () => this.#runs.delete(run),
        () => this.#runs.delete(run),
      );
    else this.#runs.delete(run);
    return result;
  }
  exit(callback, ...args) {
    return this.run(undefined, callback, ...args);
  }
  enterWith(store) {
    const run = { store };
    this.#runs = new Set([run]);
    if (this.#now !== undefined) this.#now = { run };
  }
  disable() {
    this.#runs.clear();
    if (this.#now !== undefined) this.#now = { run: undefined };
  }
  static bind(callback) {
    return AsyncResource.bind(callback);
  }
  static snapshot() {
    const resource = new AsyncResource("snapshot");
    return (callback, ...args) => resource.runInAsyncScope(callback, undefined, ...args);
  }
}

export class AsyncResource {
  #type;
  #runs = [...storages].map((storage) => [storage, runOf(storage)]);

  constructor(type) {
    this.#type = String(type);
  }
  get type() {
    return this.#type;
  }
  runInAsyncScope(callback, self, ...args) {
    const before = this.#runs.map(([storage, run]) => [storage, enter(storage, { run })]);
    try {
      return apply(callback, self, args);
    } finally {
      for (const [storage, now] of before) enter(storage, now);
    }
  }
  bind(callback) {
    const resource = this;
    return function (...args) {
      return resource.runInAsyncScope(callback, this, ...args);
    };
  }
  static bind(callback, type) {
    return new AsyncResource(type ?? callback.name).bind(callback);
  }
  emitDestroy() {
    return this;
  }
  asyncId() {
    return 0;
  }
  triggerAsyncId() {
    return 0;
  }
}

for (const type of [AsyncLocalStorage, AsyncResource]) addClass(type);
