// The streams of the Streams standard. Loaded when a function first uses one of them.
//
// A stream consists of two objects: the one that functions hold, and a private state machine that
// does the work.

import { load } from "convex:prelude";
const { expose } = load("convex:interfaces");

function later() {
  let settle;
  const promise = new Promise((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle };
}

/// Marks a promise as handled, so that its rejection does not fail the function.
function quiet(promise) {
  promise.then(undefined, () => {});
  return promise;
}

const rejected = (error) => quiet(Promise.reject(error));

/// Checks the object whose methods define a stream.
function optionsOf(given) {
  if (given === undefined) return {};
  if ((typeof given !== "object" && typeof given !== "function") || given === null)
    throw new TypeError("a stream is made of an object with its methods");
  return given;
}

/// Calls a user-defined method. An error that it throws becomes a rejection.
function calling(object, name, ...args) {
  const method = object?.[name];
  if (method === undefined) return () => Promise.resolve(undefined);
  if (typeof method !== "function") throw new TypeError(`a stream's ${name} must be a function`);
  return async (...more) => await method.call(object, ...more, ...args);
}

function strategyOf(strategy, defaultHighWaterMark) {
  const { highWaterMark = defaultHighWaterMark, size } = strategy ?? {};
  const mark = Number(highWaterMark);
  if (!(mark >= 0))
    throw new RangeError(
      `highWaterMark must be a number that is not negative, not ${highWaterMark}`,
    );
  if (size !== undefined && typeof size !== "function")
    throw new TypeError("size must be a function");
  const sizeOf = (chunk) => {
    const given = size === undefined ? 1 : Number(size(chunk));
    if (!(given >= 0) || given === Infinity)
      throw new RangeError(`the size of a chunk must be finite and not negative, not ${given}`);
    return given;
  };
  return { mark, sizeOf };
}

// ---- reading ------------------------------------------------------------------------------------

class Readable {
  state = "readable";
  error = undefined;
  queue = [];
  total = 0;
  reads = [];
  reader = undefined;
  isDisturbed = false;
  #isClosing = false;
  #isStarted = false;
  #isPulling = false;
  #pullsAgain = false;
  #strategy;
  #pull = async () => {};
  #cancel = async () => {};

  constructor(strategy) {
    this.#strategy = strategy;
  }
  start(start, pull, cancel) {
    this.#pull = pull;
    this.#cancel = cancel;
    Promise.resolve(start()).then(
      () => {
        this.#isStarted = true;
        this.pull();
      },
      (error) => this.fail(error),
    );
  }
  get desired() {
    if (this.state !== "readable") return this.state === "closed" ? 0 : null;
    return this.#strategy.mark - this.total;
  }
  get isOpen() {
    return this.state === "readable" && !this.#isClosing;
  }
  enqueue(chunk = undefined) {
    if (!this.isOpen) throw new TypeError("the stream is closed: nothing can be enqueued");
    if (this.reads.length > 0) {
      this.reads.shift().resolve({ value: chunk, done: false });
    } else {
      let size;
      try {
        size = this.#strategy.sizeOf(chunk);
      } catch (error) {
        this.fail(error);
        throw error;
      }
      this.queue.push({ chunk, size });
      this.total += size;
    }
    this.pull();
  }
  close() {
    if (!this.isOpen) throw new TypeError("the stream is closed already");
    this.#isClosing = true;
    if (this.queue.length === 0) this.#finish();
  }
  #finish() {
    this.state = "closed";
    for (const read of this.reads.splice(0)) read.resolve({ value: undefined, done: true });
    this.reader?.closed.resolve();
  }
  fail(error) {
    if (this.state !== "readable") return;
    this.state = "errored";
    this.error = error;
    this.queue = [];
    this.total = 0;
    for (const read of this.reads.splice(0)) read.reject(error);
    this.reader?.closed.reject(error);
  }
  pull() {
    if (!this.isOpen || !this.#isStarted || !(this.reads.length > 0 || this.desired > 0)) return;
    if (this.#isPulling) {
      this.#pullsAgain = true;
      return;
    }
    this.#isPulling = true;
    this.#pull().then(
      () => {
        this.#isPulling = false;
        if (!this.#pullsAgain) return;
        this.#pullsAgain = false;
        this.pull();
      },
      (error) => this.fail(error),
    );
  }
  read(bytes = undefined) {
    this.isDisturbed = true;
    if (this.state === "errored") return rejected(this.error);
    if (this.queue.length > 0) {
      const { chunk, size } = this.queue.shift();
      this.total = this.queue.length === 0 ? 0 : this.total - size;
      if (this.#isClosing && this.queue.length === 0) this.#finish();
      else this.pull();
      return Promise.resolve({ value: chunk, done: false });
    }
    if (this.state === "closed") return Promise.resolve({ value: undefined, done: true });
    const read = { ...later(), bytes };
    this.reads.push(read);
    this.pull();
    return read.promise;
  }
  /// Puts back the bytes that a BYOB reader did not take.
  unread(chunk) {
    this.queue.unshift({ chunk, size: 0 });
  }
  /// The size of the buffer that the oldest read waits to have filled, in bytes. Undefined if it
  /// takes a chunk of any size.
  get wanted() {
    return this.state === "readable"
      ? (this.reads[0]?.bytes ?? (this.reads.length > 0 ? this.allocated : undefined))
      : undefined;
  }
  /// The size of the buffers for readers without one of their own.
  allocated = undefined;
  async cancel(reason) {
    this.isDisturbed = true;
    if (this.state === "closed") return;
    if (this.state === "errored") throw this.error;
    this.queue = [];
    this.total = 0;
    this.#finish();
    await this.#cancel(reason);
  }
}

let readableOf;
/// Only this module constructs controllers.
const making = {};
const illegal = (key) => {
  if (key !== making) throw new TypeError("Illegal constructor");
};

export class ReadableStreamDefaultController {
  #readable;

  constructor(key, readable) {
    illegal(key);
    this.#readable = readable;
  }
  get desiredSize() {
    return this.#readable.desired;
  }
  enqueue(chunk = undefined) {
    this.#readable.enqueue(chunk);
  }
  close() {
    this.#readable.close();
  }
  error(error = undefined) {
    this.#readable.fail(error);
  }
}

/// The buffer of a read that waits. Its reader receives a copy of what was written into it.
export class ReadableStreamBYOBRequest {
  #view;
  #respond;

  constructor(key, bytes, respond) {
    illegal(key);
    this.#view = new Uint8Array(bytes);
    this.#respond = respond;
  }
  get view() {
    return this.#view;
  }
  respond(bytesWritten) {
    const bytes = Number(bytesWritten);
    if (this.#view === null) throw new TypeError("the request was answered already");
    if (!Number.isInteger(bytes) || bytes < 0 || bytes > this.#view.length) {
      throw new RangeError(
        `${bytesWritten} bytes were not written: the buffer has ${this.#view.length}`,
      );
    }
    this.#answer(this.#view.subarray(0, bytes));
  }
  respondWithNewView(view) {
    if (!ArrayBuffer.isView(view)) throw new TypeError("respondWithNewView() takes a view");
    if (this.#view === null) throw new TypeError("the request was answered already");
    this.#answer(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  }
  #answer(bytes) {
    this.#respond(bytes);
    this.#view = null;
  }
}

export class ReadableByteStreamController {
  #readable;
  #request = null;

  constructor(key, readable) {
    illegal(key);
    this.#readable = readable;
  }
  get desiredSize() {
    return this.#readable.desired;
  }
  get byobRequest() {
    const { wanted } = this.#readable;
    if (this.#request === null && wanted !== undefined) {
      this.#request = new ReadableStreamBYOBRequest(making, wanted, (bytes) => {
        const isOpen = this.#readable.isOpen;
        if (isOpen && bytes.length === 0)
          throw new TypeError("a stream of bytes takes no empty chunks");
        if (!isOpen && bytes.length > 0)
          throw new TypeError("the stream is closed: nothing can be written");
        this.#request = null;
        if (isOpen) this.#readable.enqueue(bytes.slice());
      });
    }
    return this.#request;
  }
  enqueue(chunk = undefined) {
    if (!ArrayBuffer.isView(chunk))
      throw new TypeError("a stream of bytes takes typed arrays and views");
    if (chunk.byteLength === 0) throw new TypeError("a stream of bytes takes no empty chunks");
    if (!this.#readable.isOpen)
      throw new TypeError("the stream is closed: nothing can be enqueued");
    const { byteOffset, byteLength } = chunk;
    this.#request = null;
    this.#readable.enqueue(new Uint8Array(chunk.buffer.transfer(), byteOffset, byteLength));
  }
  close() {
    this.#readable.close();
  }
  error(error = undefined) {
    this.#readable.fail(error);
  }
}

function lock(readable, reader) {
  if (readable.reader !== undefined)
    throw new TypeError("the stream is locked: it has a reader already");
  reader.closed = later();
  quiet(reader.closed.promise);
  readable.reader = reader;
  if (readable.state === "closed") reader.closed.resolve();
  if (readable.state === "errored") reader.closed.reject(readable.error);
  return reader;
}

class Reader {
  readable;
  closed;

  constructor(readable) {
    this.readable = readable;
    lock(readable, this);
  }
  release() {
    const { readable } = this;
    if (readable === undefined) return;
    const error = new TypeError("the reader was released");
    for (const read of readable.reads.splice(0)) read.reject(error);
    if (readable.state !== "readable") this.closed = later();
    this.closed.reject(error);
    quiet(this.closed.promise);
    readable.reader = undefined;
    this.readable = undefined;
  }
  get held() {
    if (this.readable === undefined) throw new TypeError("the reader was released");
    return this.readable;
  }
}

export class ReadableStreamDefaultReader {
  #reader;

  constructor(stream) {
    this.#reader = new Reader(readableOf(stream));
  }
  get closed() {
    return this.#reader.closed.promise;
  }
  async read() {
    return await this.#reader.held.read();
  }
  async cancel(reason = undefined) {
    return await this.#reader.held.cancel(reason);
  }
  releaseLock() {
    this.#reader.release();
  }
}

export class ReadableStreamBYOBReader {
  #reader;

  constructor(stream) {
    if (!isBytes(stream))
      throw new TypeError('a reader with a buffer of its own needs a stream of type "bytes"');
    this.#reader = new Reader(readableOf(stream));
  }
  get closed() {
    return this.#reader.closed.promise;
  }
  async read(view) {
    if (!ArrayBuffer.isView(view)) throw new TypeError("read() takes a view");
    if (view.byteLength === 0) throw new TypeError("read() takes a view that is not empty");
    const readable = this.#reader.held;
    const { byteOffset, byteLength, constructor, BYTES_PER_ELEMENT = 1 } = view;
    const buffer = view.buffer.transfer();
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    let length = 0;
    let isDone = false;
    // Elements of several bytes may arrive in parts.
    do {
      const { value, done } = await readable.read(byteLength - length);
      isDone = done;
      if (done) break;
      const part = value.subarray(0, byteLength - length);
      if (part.length < value.length) readable.unread(value.subarray(part.length));
      bytes.set(part, length);
      length += part.length;
    } while (length % BYTES_PER_ELEMENT !== 0);
    if (length % BYTES_PER_ELEMENT !== 0)
      throw new TypeError("the stream ended within an element of the view");
    return {
      value: new constructor(buffer, byteOffset, length / BYTES_PER_ELEMENT),
      done: isDone && length === 0,
    };
  }
  async cancel(reason = undefined) {
    return await this.#reader.held.cancel(reason);
  }
  releaseLock() {
    this.#reader.release();
  }
}

let isBytes;

export class ReadableStream {
  #readable;
  #isBytes;

  constructor(source, strategy) {
    const given = optionsOf(source);
    const type = given.type;
    if (type !== undefined && `${type}` !== "bytes")
      throw new TypeError(`a stream's type is "bytes" or undefined, not ${type}`);
    this.#isBytes = type !== undefined;
    if (this.#isBytes && strategy?.size !== undefined)
      throw new RangeError("a stream of bytes counts them itself: its strategy has no size");
    this.#readable = new Readable(strategyOf(strategy, this.#isBytes ? 0 : 1));
    const Controller = this.#isBytes
      ? ReadableByteStreamController
      : ReadableStreamDefaultController;
    const controller = new Controller(making, this.#readable);
    if (this.#isBytes && given.autoAllocateChunkSize !== undefined) {
      const size = Number(given.autoAllocateChunkSize);
      if (!Number.isInteger(size) || size < 1)
        throw new TypeError(
          `autoAllocateChunkSize is a number of bytes, not ${given.autoAllocateChunkSize}`,
        );
      this.#readable.allocated = size;
    }
    const [pull, cancel] = [calling(given, "pull", controller), calling(given, "cancel")];
    const { start } = given;
    // The constructor throws the error that `start` throws.
    const started = start === undefined ? undefined : start.call(given, controller);
    this.#readable.start(() => started, pull, cancel);
  }
  static {
    readableOf = (stream) => stream.#readable;
    isBytes = (stream) => stream.#isBytes;
  }
  static from(items) {
    const make = items?.[Symbol.asyncIterator] ?? items?.[Symbol.iterator];
    if (typeof make !== "function")
      throw new TypeError("ReadableStream.from() takes what can be iterated");
    const iterator = make.call(items);
    return new ReadableStream(
      {
        async pull(controller) {
          const { value, done } = await iterator.next();
          if (done) controller.close();
          else controller.enqueue(await value);
        },
        async cancel(reason) {
          await iterator.return?.(reason);
        },
      },
      { highWaterMark: 0 },
    );
  }
  get locked() {
    return this.#readable.reader !== undefined;
  }
  async cancel(reason = undefined) {
    if (this.locked) throw new TypeError("the stream is locked: its reader can cancel it");
    return await this.#readable.cancel(reason);
  }
  getReader(options = undefined) {
    const mode = options?.mode;
    if (mode === undefined) return new ReadableStreamDefaultReader(this);
    if (String(mode) !== "byob")
      throw new TypeError(`the mode of a reader is "byob" or undefined, not ${mode}`);
    return new ReadableStreamBYOBReader(this);
  }
  pipeThrough(transform, options = undefined) {
    const { readable, writable } = transform;
    if (!(readable instanceof ReadableStream))
      throw new TypeError("pipeThrough() takes an object with a readable and a writable stream");
    writableOf(writable);
    quiet(this.pipeTo(writable, options));
    return readable;
  }
  pipeTo(destination, options = undefined) {
    try {
      return pipe(new Reader(this.#readable), new Writer(writableOf(destination)), options ?? {});
    } catch (error) {
      return Promise.reject(error);
    }
  }
  tee() {
    const reader = new Reader(this.#readable);
    const cancelled = later();
    const reasons = [];
    const branches = [];
    let reading;
    const readOn = async () => {
      const { value, done } = await reader.held.read();
      reading = undefined;
      for (const branch of branches) {
        if (!branch.isOpen) continue;
        if (done) branch.close();
        else branch.enqueue(value);
      }
      if (done) cancelled.resolve();
    };
    const make = (i) => new ReadableStream({
      start() {},
      pull: () => (reading ??= readOn()),
      cancel: async (reason) => {
        reasons[i] = reason;
        if (i in reasons && 1 - i in reasons) cancelled.resolve(reader.held.cancel([...reasons]));
        await cancelled.promise;
      },
    }, { highWaterMark: 0 });
    const streams = [make(0), make(1)];
    branches.push(...streams.map(readableOf));
    quiet(reader.closed.promise.then(undefined, (error) => {
      for (const branch of branches) branch.fail(error);
      cancelled.resolve();
    }));
    return streams;
  }
  values(options = undefined) {
    const reader = new Reader(this.#readable);
    const keeps = Boolean(options?.preventCancel);
    let isDone = false;
    const end = () => {
      isDone = true;
      reader.release();
    };
    return {
      __proto__: asyncIterators,
      async next() {
        if (isDone) return { value: undefined, done: true };
        try {
          const result = await reader.held.read();
          if (result.done) end();
          return result;
        } catch (error) {
          end();
          throw error;
        }
      },
      async return(value) {
        if (!isDone) {
          const readable = reader.held;
          if (!keeps) await readable.cancel(value);
          end();
        }
        return { value, done: true };
      },
    };
  }
  [Symbol.asyncIterator](options = undefined) {
    return this.values(options);
  }
}

const asyncIterators = Object.getPrototypeOf(Object.getPrototypeOf((async function* () {}).prototype));

/// Distinguishes unused streams, used or locked streams, and other values.
export function stateOf(value) {
  if (!(value instanceof ReadableStream)) return undefined;
  const readable = readableOf(value);
  return readable.isDisturbed ? "read" : readable.reader === undefined ? "fresh" : "locked";
}

export const isDisturbed = (stream) => readableOf(stream).isDisturbed;

// ---- writing ------------------------------------------------------------------------------------

class Writable {
  state = "writable";
  error = undefined;
  writer = undefined;
  controller;
  aborting = new AbortController();
  #queue = [];
  #total = 0;
  #isStarted = false;
  #isBusy = false;
  #closing = undefined;
  #aborted = undefined;
  #strategy;
  #write;
  #close;
  #abort;

  constructor(strategy) {
    this.#strategy = strategy;
  }
  start(start, write, close, abort) {
    Object.assign(this, {});
    [this.#write, this.#close, this.#abort] = [write, close, abort];
    Promise.resolve(start()).then(
      () => {
        this.#isStarted = true;
        this.#advance();
      },
      (error) => {
        this.#isStarted = true;
        this.fail(error);
      },
    );
  }
  get desired() {
    if (this.state !== "writable") return this.state === "closed" ? 0 : null;
    return this.#strategy.mark - this.#total;
  }
  get isClosing() {
    return this.#closing !== undefined;
  }
  write(chunk) {
    let size;
    try {
      size = this.#strategy.sizeOf(chunk);
    } catch (error) {
      this.fail(error);
      return rejected(error);
    }
    if (this.state === "errored" || this.state === "erroring") return rejected(this.error);
    if (this.isClosing || this.state === "closed")
      return rejected(new TypeError("the stream is closed: nothing can be written"));
    const written = later();
    this.#queue.push({ chunk, size, written });
    this.#total += size;
    this.#tellReady();
    this.#advance();
    return written.promise;
  }
  close() {
    if (this.state === "errored" || this.state === "erroring") return rejected(this.error);
    if (this.isClosing || this.state === "closed")
      return rejected(new TypeError("the stream is closed already"));
    this.#closing = later();
    this.writer?.ready.resolve();
    this.#advance();
    return this.#closing.promise;
  }
  async abort(reason) {
    if (this.state === "closed" || this.state === "errored") return;
    if (this.#aborted !== undefined) return await this.#aborted.done.promise;
    this.#aborted = { done: later(), reason, isCalled: this.state === "writable" };
    quiet(this.#aborted.done.promise);
    this.aborting.abort(reason);
    this.fail(reason);
    return await this.#aborted.done.promise;
  }
  fail(error) {
    if (this.state !== "writable") return;
    this.state = "erroring";
    this.error = error;
    if (this.writer !== undefined) {
      this.writer.ready.reject(error);
      this.writer.isReady = false;
    }
    if (this.#isStarted && !this.#isBusy) this.#end();
  }
  /// Completes the failure of a stream, once no write is in progress.
  #end() {
    this.state = "errored";
    for (const { written } of this.#queue.splice(0)) {
      quiet(written.promise);
      written.reject(this.error);
    }
    this.#total = 0;
    if (this.#closing !== undefined) {
      quiet(this.#closing.promise);
      this.#closing.reject(this.error);
    }
    this.writer?.closed.reject(this.error);
    const aborted = this.#aborted;
    if (aborted === undefined) return;
    if (aborted.isCalled)
      this.#abort(aborted.reason).then(aborted.done.resolve, aborted.done.reject);
    else aborted.done.reject(this.error);
  }
  #tellReady() {
    if (this.writer === undefined || this.state !== "writable" || this.isClosing) return;
    const isReady = this.desired > 0;
    if (isReady === this.writer.isReady) return;
    this.writer.isReady = isReady;
    if (isReady) this.writer.ready.resolve();
    else this.writer.ready = later();
    quiet(this.writer.ready.promise);
  }
  #advance() {
    if (!this.#isStarted || this.#isBusy) return;
    if (this.state === "erroring") return this.#end();
    if (this.state !== "writable") return;
    if (this.#queue.length > 0) {
      const { chunk, size, written } = this.#queue.shift();
      this.#isBusy = true;
      this.#write(chunk).then(
        () => {
          this.#isBusy = false;
          this.#total = this.#queue.length === 0 ? 0 : this.#total - size;
          written.resolve();
          this.#tellReady();
          this.#advance();
        },
        (error) => {
          this.#isBusy = false;
          written.reject(error);
          this.fail(error);
          this.#advance();
        },
      );
    } else if (this.isClosing) {
      this.#isBusy = true;
      this.#close().then(
        () => {
          this.#isBusy = false;
          this.state = "closed";
          this.#closing.resolve();
          this.writer?.closed.resolve();
          this.#aborted?.done.resolve();
        },
        (error) => {
          this.#isBusy = false;
          this.fail(error);
          this.#advance();
        },
      );
    }
  }
}

let writableOf;

export class WritableStreamDefaultController {
  #writable;

  constructor(key, writable) {
    illegal(key);
    this.#writable = writable;
  }
  get signal() {
    return this.#writable.aborting.signal;
  }
  error(error = undefined) {
    this.#writable.fail(error);
  }
}

class Writer {
  writable;
  closed = later();
  ready = later();
  isReady = true;

  constructor(writable) {
    if (writable.writer !== undefined)
      throw new TypeError("the stream is locked: it has a writer already");
    this.writable = writable;
    writable.writer = this;
    quiet(this.closed.promise);
    quiet(this.ready.promise);
    const { state, error } = writable;
    this.isReady = state === "closed" || writable.isClosing || writable.desired > 0;
    if (this.isReady) this.ready.resolve();
    if (state === "closed") this.closed.resolve();
    if (state === "erroring" || state === "errored") this.ready.reject(error);
    if (state === "errored") this.closed.reject(error);
  }
  get held() {
    if (this.writable === undefined) throw new TypeError("the writer was released");
    return this.writable;
  }
  release() {
    if (this.writable === undefined) return;
    this.writable.writer = undefined;
    this.writable = undefined;
    const error = new TypeError("the writer was released");
    for (const name of ["closed", "ready"]) {
      this[name].reject(error);
      this[name] = later();
      quiet(this[name].promise);
      this[name].reject(error);
    }
  }
}

export class WritableStreamDefaultWriter {
  #writer;

  constructor(stream) {
    this.#writer = new Writer(writableOf(stream));
  }
  get closed() {
    return this.#writer.closed.promise;
  }
  get ready() {
    return this.#writer.ready.promise;
  }
  get desiredSize() {
    return this.#writer.held.desired;
  }
  async write(chunk = undefined) {
    return await this.#writer.held.write(chunk);
  }
  async close() {
    return await this.#writer.held.close();
  }
  async abort(reason = undefined) {
    return await this.#writer.held.abort(reason);
  }
  releaseLock() {
    this.#writer.release();
  }
}

export class WritableStream {
  #writable;

  constructor(sink, strategy) {
    const given = optionsOf(sink);
    if (given.type !== undefined) throw new RangeError("a writable stream has no type");
    this.#writable = new Writable(strategyOf(strategy, 1));
    const controller = new WritableStreamDefaultController(making, this.#writable);
    const [write, close, abort] = [
      calling(given, "write", controller), calling(given, "close"), calling(given, "abort"),
    ];
    const { start } = given;
    const started = start === undefined ? undefined : start.call(given, controller);
    this.#writable.start(() => started, write, close, abort);
  }
  static {
    writableOf = (stream) => stream.#writable;
  }
  get locked() {
    return this.#writable.writer !== undefined;
  }
  async abort(reason = undefined) {
    if (this.locked) throw new TypeError("the stream is locked: its writer can abort it");
    return await this.#writable.abort(reason);
  }
  async close() {
    if (this.locked) throw new TypeError("the stream is locked: its writer can close it");
    return await this.#writable.close();
  }
  getWriter() {
    return new WritableStreamDefaultWriter(this);
  }
}

async function pipe(reader, writer, { preventClose, preventAbort, preventCancel, signal }) {
  const [source, sink] = [reader.held, writer.held];
  const stopped = later();
  quiet(stopped.promise);
  const stop = () => stopped.reject({ by: "signal", error: signal.reason });
  if (signal?.aborted) stop();
  else signal?.addEventListener("abort", stop, { once: true });
  writer.closed.promise.then(
    () =>
      stopped.reject({
        by: "sink",
        error: new TypeError("the stream that is written to is closed"),
      }),
    (error) => stopped.reject({ by: "sink", error }),
  );
  let last = Promise.resolve();
  try {
    for (;;) {
      await Promise.race([
        stopped.promise,
        writer.ready.promise.catch((error) => Promise.reject({ by: "sink", error })),
      ]);
      const read = source.read().catch((error) => Promise.reject({ by: "source", error }));
      const { value, done } = await Promise.race([stopped.promise, quiet(read)]);
      if (done) break;
      last = quiet(sink.write(value));
    }
    if (preventClose) await last;
    else if (!sink.isClosing && sink.state !== "closed") await sink.close();
  } catch (thrown) {
    const { by, error } =
      typeof thrown === "object" && thrown !== null && "by" in thrown
        ? thrown
        : { by: "sink", error: thrown };
    const ends = [];
    if (by !== "sink" && !preventAbort && sink.state !== "closed") ends.push(sink.abort(error));
    if (by !== "source" && !preventCancel && source.state === "readable")
      ends.push(source.cancel(error));
    for (const end of ends) await end.catch(() => {});
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
    reader.release();
    writer.release();
  }
}

// ---- transforming -------------------------------------------------------------------------------

export class TransformStreamDefaultController {
  #of;

  constructor(key, of) {
    illegal(key);
    this.#of = of;
  }
  get desiredSize() {
    return this.#of.readable.desired;
  }
  enqueue(chunk = undefined) {
    this.#of.enqueue(chunk);
  }
  error(error = undefined) {
    this.#of.fail(error);
  }
  terminate() {
    const { readable, writable } = this.#of;
    if (readable.isOpen) readable.close();
    writable.fail(new TypeError("the stream was terminated"));
    this.#of.wants(true);
  }
}

export class TransformStream {
  #readable;
  #writable;

  constructor(transformer, writableStrategy, readableStrategy) {
    const given = optionsOf(transformer);
    // Whether the readable side wants a chunk, and the promise that waits for that to change.
    let isWanted = false;
    let change = later();
    const of = {
      wants(wanted) {
        if (wanted === isWanted) return;
        isWanted = wanted;
        change.resolve();
        change = later();
      },
      enqueue(chunk) {
        of.readable.enqueue(chunk);
        if (!(of.readable.desired > 0) && of.readable.reads.length === 0) of.wants(false);
      },
      fail(error) {
        of.readable.fail(error);
        of.writable.fail(error);
        of.wants(true);
      },
    };
    const controller = new TransformStreamDefaultController(making, of);
    const transform = given.transform === undefined
      ? async (chunk) => of.enqueue(chunk)
      : calling(given, "transform", controller);
    const [flush, cancel] = [calling(given, "flush", controller), calling(given, "cancel")];
    const starting = later();
    quiet(starting.promise);
    this.#readable = new ReadableStream(
      {
        start: () => starting.promise,
        pull() {
          of.wants(true);
          return change.promise;
        },
        async cancel(reason) {
          try {
            await cancel(reason);
          } finally {
            of.writable.fail(reason);
            of.wants(true);
          }
        },
      },
      { highWaterMark: 0, ...readableStrategy },
    );
    this.#writable = new WritableStream(
      {
        start: () => starting.promise,
        async write(chunk) {
          while (!isWanted && of.writable.state === "writable") await change.promise;
          if (of.writable.state !== "writable") throw of.writable.error;
          try {
            await transform(chunk);
          } catch (error) {
            of.fail(error);
            throw error;
          }
        },
        async close() {
          try {
            await flush();
          } catch (error) {
            of.fail(error);
            throw error;
          }
          if (of.readable.state === "errored") throw of.readable.error;
          if (of.readable.isOpen) of.readable.close();
        },
        async abort(reason) {
          try {
            await cancel(reason);
          } finally {
            of.readable.fail(reason);
          }
        },
      },
      writableStrategy,
    );
    of.readable = readableOf(this.#readable);
    of.writable = writableOf(this.#writable);
    const { start } = given;
    starting.resolve(start === undefined ? undefined : start.call(given, controller));
  }
  get readable() {
    return this.#readable;
  }
  get writable() {
    return this.#writable;
  }
}

export class TextEncoderStream {
  #stream;

  constructor() {
    const encoder = new TextEncoder();
    // Half of a surrogate pair is kept until the other half arrives.
    let half = "";
    this.#stream = new TransformStream({
      transform(chunk, controller) {
        let text = half + String(chunk);
        half = /[\ud800-\udbff]$/.test(text) ? text.slice(-1) : "";
        if (half !== "") text = text.slice(0, -1);
        if (text !== "") controller.enqueue(encoder.encode(text));
      },
      flush(controller) {
        if (half !== "") controller.enqueue(encoder.encode(half));
      },
    });
  }
  get encoding() {
    return "utf-8";
  }
  get readable() {
    return this.#stream.readable;
  }
  get writable() {
    return this.#stream.writable;
  }
}

export class TextDecoderStream {
  #decoder;
  #stream;

  constructor(label, options) {
    const decoder = new TextDecoder(label, options);
    this.#decoder = decoder;
    const enqueue = (text, controller) => {
      if (text !== "") controller.enqueue(text);
    };
    this.#stream = new TransformStream({
      transform: (chunk, controller) =>
        enqueue(decoder.decode(chunk, { stream: true }), controller),
      flush: (controller) => enqueue(decoder.decode(), controller),
    });
  }
  get encoding() {
    return this.#decoder.encoding;
  }
  get fatal() {
    return this.#decoder.fatal;
  }
  get ignoreBOM() {
    return this.#decoder.ignoreBOM;
  }
  get readable() {
    return this.#stream.readable;
  }
  get writable() {
    return this.#stream.writable;
  }
}

// ---- strategies ---------------------------------------------------------------------------------

class Strategy {
  #highWaterMark;

  constructor({ highWaterMark }) {
    if (highWaterMark === undefined) throw new TypeError("a strategy needs a highWaterMark");
    this.#highWaterMark = Number(highWaterMark);
  }
  get highWaterMark() {
    return this.#highWaterMark;
  }
}

export class CountQueuingStrategy extends Strategy {
  get size() {
    return () => 1;
  }
}

export class ByteLengthQueuingStrategy extends Strategy {
  get size() {
    return (chunk) => chunk.byteLength;
  }
}

const classes = [
  ReadableStream, ReadableStreamDefaultController, ReadableByteStreamController,
  ReadableStreamBYOBRequest, ReadableStreamDefaultReader,
  ReadableStreamBYOBReader,
  WritableStream, WritableStreamDefaultController, WritableStreamDefaultWriter, TransformStream,
  TransformStreamDefaultController, TextEncoderStream, TextDecoderStream, Strategy,
  CountQueuingStrategy, ByteLengthQueuingStrategy,
];
expose(...classes);
