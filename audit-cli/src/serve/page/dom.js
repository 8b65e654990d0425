// Elements. Text of records enters the page only as text nodes. Control characters, changes of
// direction and invisible characters are shown by their numbers.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

// The characters of `escape.rs`, except line ends.
const HAZARDS = /[\0-\x09\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;

export const visible = (text) =>
  text.replace(HAZARDS, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

const shownAs = (child) => typeof child === "string" ? visible(child) : child;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "title" || name === "aria-label") node.setAttribute(name, visible(String(value)));
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map(shownAs));
  return node;
}

export const el = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

export const number = new Intl.NumberFormat("en-US");

export const counted = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/// A response as JSON, or an error with the server's message.
export async function json(response) {
  const text = await response.text();
  let value;
  try { value = JSON.parse(text); } catch { value = { error: text.trim() || response.statusText }; }
  if (response.ok) return value;
  throw new Error(value.because ? `${value.error}: ${value.because}` : value.error);
}

/// The lines of a response, each as JSON, as they arrive.
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}
