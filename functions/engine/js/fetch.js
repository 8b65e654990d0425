// `fetch`: a request to elsewhere, which the host makes. Read when a function first uses it.

import { asyncSyscall, captured, kindOf, load, native, syscall } from "convex:prelude";
const { Request, Response, chunkOf, contentOf, pairsOf, received, signalOf } = load("convex:bodies");
const { raw } = load("convex:text");

const { parse, stringify } = captured;

/// A request's body in pieces, so that none is much of an engine's memory.
const PIECE_BYTES = 1 << 20;

export async function fetch(input, init) {
  const kind = kindOf();
  if (kind !== "action") {
    throw new Error(
      kind === undefined
        ? "fetch() cannot be used while modules are loaded, only in an action's handler"
        : `fetch() is for actions only: a ${kind} cannot reach outside. Schedule an action, or call one`,
    );
  }
  const request = new Request(input, init);
  const signal = signalOf(request);
  signal?.throwIfAborted();
  const { id } = parse(await asyncSyscall("host/fetchOpen", stringify({
    __proto__: null, url: request.url, method: request.method, headers: pairsOf(request.headers), redirect: request.redirect,
  })));
  const cancel = () => {
    syscall("host/fetchCancel", stringify({ __proto__: null, id }));
  };
  const ask = abortable(signal, cancel);
  try {
    const content = contentOf(request);
    if (content instanceof Uint8Array) {
      for (let at = 0; at < content.length; at += PIECE_BYTES) await send(ask, id, content.subarray(at, at + PIECE_BYTES));
    } else if (content !== null) {
      const reader = content.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        await send(ask, id, chunkOf(value));
      }
    }
    const answer = parse(await ask("host/fetchSend", { __proto__: null, id, hasBody: content !== null }));
    if (answer.status === 0) return Response.error();
    return received(answer, answer.hasBody ? bodyOf(ask, cancel, id) : null);
  } catch (error) {
    cancel();
    throw error;
  }
}

const send = (ask, id, bytes) => ask("host/fetchPiece", { __proto__: null, id, bytes: native.base64(raw(bytes)) });

function bodyOf(ask, cancel, id) {
  const { ReadableStream } = load("convex:streams");
  return new ReadableStream(
    {
      type: "bytes",
      async pull(controller) {
        const { bytes } = parse(await ask("host/fetchRead", { __proto__: null, id }));
        if (bytes === null) controller.close();
        else controller.enqueue(native.fromBase64(bytes));
      },
      cancel,
    },
    { highWaterMark: 0 },
  );
}

/// Asks the host, and stops waiting for it when the signal is aborted.
function abortable(signal, cancel) {
  const ask = (op, args) => asyncSyscall(op, stringify(args));
  if (signal === undefined || signal === null) return ask;
  let abort;
  const aborted = new Promise((_, reject) => {
    abort = () => {
      cancel();
      reject(signal.reason);
    };
  });
  aborted.then(undefined, () => {});
  if (signal.aborted) abort();
  else signal.addEventListener("abort", abort, { once: true });
  return (op, args) => {
    const answer = ask(op, args);
    answer.then(undefined, () => {});
    return Promise.race([aborted, answer]);
  };
}
