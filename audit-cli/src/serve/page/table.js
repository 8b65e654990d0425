// The table of records, one page at a time: the browser must not hold ten million.

import { $, el } from "./dom.js";
import { shown, state } from "./state.js";

export const ROWS = 100;

/// A function that returns the integrity of a row's record.
let marksOf = () => [];

export function mark(findings) {
  const byObject = new Map(), byStream = new Map();
  const add = (map, key, finding) => map.set(key, [...(map.get(key) ?? []), finding]);
  for (const finding of findings) {
    if (finding.object) add(byObject, finding.object, finding);
    else if (finding.first !== null) add(byStream, finding.stream, finding);
  }
  const has = (finding, sequence) => finding.first === null
    || (sequence >= finding.first && sequence < finding.first + finding.count);
  marksOf = ({ object, stream, sequence }) =>
    [...(byObject.get(object) ?? []), ...(byStream.get(stream) ?? [])]
      .filter((finding) => has(finding, sequence));
}

export const marks = (row) => marksOf(row);

export const name = (row) => `${row.object}~${row.sequence}`;

export function badges(row) {
  const alarms = new Set(marksOf(row).map(({ alarm }) => alarm));
  return [...alarms].map((alarm) => el("span", { class: `badge ${alarm}` }, alarm));
}

export function head(columns) {
  $("table").tHead.replaceChildren(el("tr", {},
    el("th", { scope: "col" }, "time"),
    columns.map((column) => el("th", { scope: "col" }, column))));
}

export function clear() {
  $("table").tBodies[0].replaceChildren();
}

export function add(rows, open) {
  const body = $("table").tBodies[0];
  for (const row of rows) {
    const time = shown(row.time).slice(0, row.about ? 13 : 23);
    const button = el("button", { type: "button" }, row.about ? `${time} h` : time);
    const line = el("tr", { "data-name": name(row) },
      el("td", {}, button, badges(row)),
      row.cells.map((cell) => cell === null
        ? el("td", {}, el("span", { class: "none" }, "–"))
        : el("td", { title: cell.length > 30 ? cell : null }, cell)));
    line.addEventListener("click", () => open(row));
    line.row = row;
    body.append(line);
  }
  select();
}

/// Updates the badges when more is known.
export function remark() {
  for (const line of $("table").tBodies[0].rows) {
    for (const badge of line.cells[0].querySelectorAll(".badge")) badge.remove();
    line.cells[0].append(...badges(line.row));
  }
}

/// Marks the open record.
export function select() {
  for (const line of $("table").tBodies[0].rows) {
    const isOpen = line.dataset.name === state.record;
    line.classList.toggle("open", isOpen);
    if (isOpen) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

/// Moves the focus by rows.
export function step(by) {
  const lines = [...$("table").tBodies[0].rows];
  const at = lines.findIndex((line) => line.contains(document.activeElement));
  const next = lines[Math.min(Math.max(at < 0 ? 0 : at + by, 0), lines.length - 1)];
  next?.querySelector("button").focus();
}
