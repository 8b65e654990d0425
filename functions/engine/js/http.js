// HTTP actions: requests that the host received, and the responses to them. Loaded when one is
// called.

import { asyncSyscall, captured, load, native } from "convex:prelude";

const { Response, chunkOf, contentOf, pairsOf, receivedRequest } = load("convex:bodies");
const { raw } = load("convex:text");
const { RealUint8Array, apply, parse, setBytes, stringify, subarray } = captured;
const { slice, startsWith } = String.prototype;

/// The size of the pieces in which bodies are received and sent, which is small compared to an
/// engine's memory.
const PIECE_BYTES = 1 << 20;

const respond = (op, args) => asyncSyscall(op, stringify({ __proto__: null, ...args }));
const text = (bytes) => native.base64(raw(bytes));

/// The body of the request. An engine has memory for two or three of the largest bodies, so the
/// pieces are not kept.
async function received(length) {
  const body = new RealUint8Array(length);
  for (let at = 0; at < length; at += PIECE_BYTES) {
    const piece = native.fromBase64(await respond("host/requestPiece", { at }));
    apply(setBytes, body, [piece, at]);
  }
  return body;
}

/// Routes a request as `httpRouter` does, and sends the response. The routes are below `prefix`,
/// which ends with a slash. Returns false if no route matches and another router may have one.
export async function answer(router, described, prefix, isLast) {
  const { url, method, headers, length } = parse(described);
  const path = parse(native.url(url)).pathname;
  const routed = apply(startsWith, path, [prefix])
    ? router.lookup(apply(slice, path, [prefix.length - 1]), method)
    : null;
  if (!routed && !isLast) return false;
  const hasBody = routed && length > 0 && method !== "GET" && method !== "HEAD";
  const request = receivedRequest(
    url, method, headers, hasBody ? await received(length) : null,
  );
  const response = routed
    ? await routed[0].invokeHttpAction(request)
    : new Response(`No HttpAction routed for ${path}`, { status: 404 });
  if (!(response instanceof Response) || response.status === 0)
    throw new TypeError("an HTTP action must return a Response");
  const head = { status: response.status, headers: pairsOf(response.headers) };
  const sent = contentOf(response);
  if (sent === null || sent instanceof RealUint8Array) {
    const bytes = sent ?? new RealUint8Array(0);
    if (bytes.length <= PIECE_BYTES) {
      await respond("host/respond", { ...head, body: text(bytes), isWhole: true });
      return true;
    }
    await respond("host/respond", { ...head, length: bytes.length, body: "", isWhole: false });
    await send(bytes);
  } else {
    // Fails before the response begins if the function itself has a reader of the body.
    const reader = sent.getReader();
    await respond("host/respond", { ...head, body: "", isWhole: false });
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      try {
        await send(chunkOf(value));
      } catch (error) {
        // The client disconnected or stopped reading.
        await reader.cancel(error).catch(() => {});
        throw error;
      }
    }
  }
  await respond("host/respondEnd", {});
  return true;
}

async function send(bytes) {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    const piece = apply(subarray, bytes, [at, at + PIECE_BYTES]);
    await respond("host/respondPiece", { bytes: text(piece) });
  }
}
