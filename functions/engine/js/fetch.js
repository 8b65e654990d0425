// `fetch`, for actions. Loaded when a function first uses it.

import { asyncSyscall, captured, kindOf, load, native } from "convex:prelude";

const { parse, stringify } = captured;

/// The size of the pieces in which a stream is sent, which is small compared to an engine's memory.
const PIECE_BYTES = 1 << 20;

let last = 0;

const failed = (cause) => new TypeError("fetch failed", { cause });

export async function fetch(input, init = undefined) {
  const kind = kindOf();
  if (kind === undefined) throw new Error("fetch() cannot be used while modules are loaded");
  if (kind !== "action") {
    throw new Error(
      "fetch() is for actions only: a query or mutation cannot reach outside; call it in an action",
    );
  }
  const { Request, chunkOf, madeResponse, sendingOf } = load("convex:bodies");
  const { raw } = load("convex:text");
  const text = (bytes) => native.base64(raw(bytes));
  const { url, method, redirect, signal, headers, content } = sendingOf(new Request(input, init));
  if (signal?.aborted) throw signal.reason;

  const id = ++last;
  const ask = (op, args) => asyncSyscall(op, stringify({ __proto__: null, id, ...args }));
  const stream = content !== null && !(content instanceof Uint8Array) ? content : null;
  const body = content instanceof Uint8Array ? text(content) : null;
  /// The error that ended the fetch before its response was complete.
  let ended = null;
  /// The controller of the response's body.
  let receiving = null;
  let refuse;
  const stopped = new Promise((_, reject) => { refuse = reject; });
  stopped.catch(() => {});
  const stop = (error) => {
    if (ended !== null) return;
    ended = { error };
    ask("host/fetchCancel").catch(() => {});
    refuse(error);
    receiving?.error(error);
  };
  const abort = () => stop(signal.reason);
  signal?.addEventListener("abort", abort, { once: true });
  const done = () => signal?.removeEventListener("abort", abort);

  const asked = ask("host/fetch", {
    url, method, redirect, headers, body,
    isStream: stream !== null,
  });
  if (stream !== null) {
    send(stream).catch((error) => stop(failed(error)));
  }
  let head;
  try {
    head = parse(await Promise.race([asked, stopped]));
  } catch (error) {
    done();
    throw ended === null ? failed(error) : ended.error;
  }
  const { hasBody, headers: pairs, ...of } = head;
  if (!hasBody) {
    done();
    return madeResponse(of, pairs, null);
  }
  const { ReadableStream } = load("convex:streams");
  return madeResponse(of, pairs, new ReadableStream({
    type: "bytes",
    start(controller) {
      receiving = controller;
    },
    async pull(controller) {
      let piece;
      try {
        piece = await ask("host/fetchRead");
      } catch (error) {
        done();
        throw ended === null ? failed(error) : ended.error;
      }
      if (ended !== null) return;
      if (piece !== "") return void controller.enqueue(native.fromBase64(piece));
      done();
      controller.close();
    },
    async cancel() {
      done();
      ended = { error: undefined };
      await ask("host/fetchCancel");
    },
  }));

  async function send(stream) {
    const reader = stream.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      const bytes = done ? null : chunkOf(value);
      try {
        if (done) return void (await ask("host/fetchSendEnd"));
        for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
          await ask("host/fetchSend", { bytes: text(bytes.subarray(at, at + PIECE_BYTES)) });
        }
      } catch (error) {
        // The response arrived first, or the fetch failed and reports why. Only an exceeded limit
        // is thrown here.
        await reader.cancel(error).catch(() => {});
        if (error.message.startsWith("the body of the request has")) throw error;
        return;
      }
    }
  }
}
