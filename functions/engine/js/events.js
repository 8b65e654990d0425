// Events and abort signals. Loaded when a function first uses one of them.

import { load } from "convex:prelude";
const { expose } = load("convex:interfaces");

/// The internals of these classes, shared only within this module.
let eventOf;
let signalOf;

export class Event {
  #of;

  constructor(type, init = {}) {
    if (arguments.length === 0) throw new TypeError("Event: a type is required");
    if (init !== null && typeof init !== "object" && typeof init !== "function")
      throw new TypeError("Event: its options are an object");
    const { bubbles = false, cancelable = false, composed = false } = init ?? {};
    this.#of = {
      type: String(type), bubbles: Boolean(bubbles), cancelable: Boolean(cancelable),
      composed: Boolean(composed), target: null, isStopped: false, isEnded: false,
      isPrevented: false, isDispatched: false,
    };
  }
  static {
    eventOf = (event) => event.#of;
    for (const name of ["type", "bubbles", "cancelable", "composed", "target"]) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#of[name];
        },
        configurable: true,
        enumerable: true,
      });
    }
  }
  get currentTarget() {
    return this.#of.isDispatched ? this.#of.target : null;
  }
  get srcElement() {
    return this.#of.target;
  }
  get defaultPrevented() {
    return this.#of.isPrevented;
  }
  get returnValue() {
    return !this.#of.isPrevented;
  }
  get cancelBubble() {
    return this.#of.isStopped;
  }
  get eventPhase() {
    return this.#of.isDispatched ? 2 : 0;
  }
  get isTrusted() {
    return false;
  }
  get timeStamp() {
    return 0;
  }
  composedPath() {
    return this.#of.isDispatched ? [this.#of.target] : [];
  }
  preventDefault() {
    if (this.#of.cancelable) this.#of.isPrevented = true;
  }
  stopPropagation() {
    this.#of.isStopped = true;
  }
  stopImmediatePropagation() {
    this.#of.isStopped = true;
    this.#of.isEnded = true;
  }
  static NONE = 0;
  static CAPTURING_PHASE = 1;
  static AT_TARGET = 2;
  static BUBBLING_PHASE = 3;
}

export class CustomEvent extends Event {
  #detail;

  constructor(type, init = {}) {
    super(type, init);
    this.#detail = init?.detail ?? null;
  }
  get detail() {
    return this.#detail;
  }
}

export class MessageEvent extends Event {
  #data;

  constructor(type, init = {}) {
    super(type, init);
    this.#data = init?.data ?? null;
  }
  get data() {
    return this.#data;
  }
}

export class ErrorEvent extends Event {
  #error;
  #message;

  constructor(type, init = {}) {
    super(type, init);
    this.#error = init?.error;
    this.#message = String(init?.message ?? "");
  }
  get error() {
    return this.#error;
  }
  get message() {
    return this.#message;
  }
}

export class EventTarget {
  #listeners = [];

  addEventListener(type, callback, options = undefined) {
    const listeners = this.#listeners;
    if (callback === null || callback === undefined) return;
    if (typeof callback !== "function" && typeof callback !== "object")
      throw new TypeError("a listener is a function or an object");
    const {
      capture = false,
      once = false,
      signal,
    } = typeof options === "object" && options !== null ? options : { capture: options };
    const isCapture = Boolean(capture);
    if (signal?.aborted) return;
    const name = String(type);
    if (
      listeners.some(
        (other) =>
          other.type === name && other.callback === callback && other.isCapture === isCapture,
      )
    )
      return;
    const listener = { type: name, callback, isCapture, isOnce: Boolean(once), isRemoved: false };
    listeners.push(listener);
    signal?.addEventListener("abort", () => this.#remove(listener), { once: true });
  }
  removeEventListener(type, callback, options = undefined) {
    const isCapture = Boolean(
      typeof options === "object" && options !== null ? options.capture : options,
    );
    const found = this.#listeners.find(
      (other) =>
        other.type === String(type) && other.callback === callback && other.isCapture === isCapture,
    );
    if (found !== undefined) this.#remove(found);
  }
  #remove(listener) {
    listener.isRemoved = true;
    const at = this.#listeners.indexOf(listener);
    if (at >= 0) this.#listeners.splice(at, 1);
  }
  dispatchEvent(event) {
    const listeners = [...this.#listeners];
    const of = eventOf(event);
    if (of.isDispatched)
      throw new DOMException("the event is being dispatched already", "InvalidStateError");
    of.target = this;
    of.isDispatched = true;
    of.isEnded = false;
    const call = (callback) => {
      // An error thrown by a listener is reported, and the next listener is called.
      try {
        if (typeof callback === "function") callback.call(this, event);
        else callback.handleEvent(event);
      } catch (thrown) {
        console.error("Uncaught in an event listener:", thrown);
      }
    };
    const handler = this[`on${of.type}`];
    if (typeof handler === "function") call(handler);
    for (const listener of listeners) {
      if (of.isEnded) break;
      if (listener.type !== of.type || listener.isRemoved) continue;
      if (listener.isOnce) this.#remove(listener);
      call(listener.callback);
    }
    of.isDispatched = false;
    return !of.isPrevented;
  }
}

/// Only this module constructs signals.
const making = {};

export class AbortSignal extends EventTarget {
  #of = { isAborted: false, reason: undefined, dependents: [] };
  onabort = null;

  constructor(key) {
    if (key !== making)
      throw new TypeError(
        "Illegal constructor: a signal comes from AbortController or AbortSignal",
      );
    super();
  }
  static {
    signalOf = (signal) => signal.#of;
  }
  get aborted() {
    return this.#of.isAborted;
  }
  get reason() {
    return this.#of.reason;
  }
  throwIfAborted() {
    if (this.#of.isAborted) throw this.#of.reason;
  }
  static abort(reason = undefined) {
    const signal = new AbortSignal(making);
    abort(signal, reason);
    return signal;
  }
  static timeout(ms) {
    const delay = Number(ms);
    if (!(delay >= 0))
      throw new TypeError(
        `AbortSignal.timeout(): the time must be a number that is not negative, not ${ms}`,
      );
    const signal = new AbortSignal(making);
    setTimeout(
      () => abort(signal, new DOMException("The operation timed out.", "TimeoutError")),
      delay,
    );
    return signal;
  }
  static any(signals) {
    const all = [...signals];
    if (!all.every((signal) => signal instanceof AbortSignal))
      throw new TypeError("AbortSignal.any() takes signals");
    const joined = new AbortSignal(making);
    const aborted = all.find((signal) => signalOf(signal).isAborted);
    if (aborted !== undefined) abort(joined, aborted.reason);
    else for (const signal of new Set(all)) signalOf(signal).dependents.push(joined);
    return joined;
  }
}

function abort(signal, reason = new DOMException("This operation was aborted", "AbortError")) {
  if (signalOf(signal).isAborted) return;
  // All signals that depend on this one are aborted before any listener is called.
  const all = [signal];
  for (const each of all) {
    const of = signalOf(each);
    of.isAborted = true;
    of.reason = reason;
    for (const other of of.dependents.splice(0))
      if (!signalOf(other).isAborted && !all.includes(other)) all.push(other);
  }
  for (const each of all) each.dispatchEvent(new Event("abort"));
}

export class AbortController {
  #signal = new AbortSignal(making);

  get signal() {
    return this.#signal;
  }
  abort(reason = undefined) {
    abort(this.#signal, reason);
  }
}

expose(Event, CustomEvent, MessageEvent, ErrorEvent, EventTarget, AbortSignal, AbortController);
