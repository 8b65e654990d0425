// One complete record, with its neighbours.

import { $, el, json, lines } from "./dom.js";
import { change, iso, link, shown, state } from "./state.js";
import { marks, select } from "./table.js";

let running = null;

export function close() {
  running?.abort();
  $("record").hidden = true;
  $("record").replaceChildren();
  const line = [...$("table").tBodies[0].rows].find(({ dataset }) => dataset.name === state.record);
  line?.querySelector("button").focus();
  change({ record: "" });
  select();
}

export function open(object, sequence) {
  change({ record: `${object}~${sequence}` });
  select();
  return show();
}

const said = { committed: "committed", conflict: "conflict", "rolled back": "rolled back", failed: "failed" };

/// Shows the record in the address.
export async function show() {
  const panel = $("record");
  running?.abort();
  if (!state.record) {
    panel.hidden = true;
    return;
  }
  running = new AbortController();
  const { signal } = running;
  const at = state.record.lastIndexOf("~");
  const [object, sequence] = [state.record.slice(0, at), state.record.slice(at + 1)];
  const place = new URLSearchParams({ object, sequence });
  panel.hidden = false;
  const closer = el("button", { type: "button", onclick: close }, "Close");
  const title = el("h3", { id: "record-title", tabindex: "-1" }, `Record ${sequence}`);
  panel.replaceChildren(title, closer, el("p", { class: "progress busy" }, "reading"));
  title.focus();
  let record;
  try {
    record = await json(await fetch(`/api/record?${place}`, { signal }));
  } catch (error) {
    if (signal.aborted) return;
    panel.replaceChildren(title, closer, el("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  const found = marks({ object: record.object, stream: record.stream, sequence: record.sequence });
  const told = el("span", { class: "hint", role: "status" });
  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
      told.textContent = `${what} copied`;
    } catch {
      told.textContent = "the browser does not allow to copy";
    }
  };
  const one = ({ object, sequence, line }) => el("li", {},
    el("button", { type: "button", title: line, onclick: () => open(object, sequence) }, `#${sequence} ${line}`));
  const execution = el("div");
  panel.replaceChildren(
    title,
    el("div", { class: "tools" },
      closer,
      el("button", { type: "button", onclick: () => copy(record.line, "record") }, "Copy"),
      el("button", { type: "button", onclick: () => copy(link(), "link") }, "Copy link"),
      record.proof
        ? el("a", { href: `/api/proof?${place}`, download: "", class: "proof" }, "Proof")
        : null,
      told),
    ...found.map(({ alarm, what }) => el("p", { class: "error" },
      el("strong", {}, alarm), `: ${what}`)),
    el("dl", {},
      el("dt", {}, "stream"), el("dd", {}, record.stream),
      el("dt", {}, "number"), el("dd", {}, String(record.sequence)),
      el("dt", {}, "object"), el("dd", {}, record.object),
      el("dt", {}, "stored"), el("dd", {}, shown(record.stored))),
    el("pre", { tabindex: "0", "aria-label": "The record" }, record.pretty),
    record.cut ? el("p", { class: "hint" }, "It is longer than shown; Copy takes all of it.") : "",
    execution,
    el("h4", {}, "Before and after in its stream"),
    el("ol", {}, record.before.map(one),
      el("li", { class: "here" }, `#${record.sequence} this record`), record.after.map(one)));
  if (record.execution) await follow(record, execution, signal);
}

/// The other records of an execution, which are filed within hours of each other.
async function follow(record, place, signal) {
  const where = `/$audit/execution=${JSON.stringify(record.execution)}`;
  const hour = 36e5;
  const query = new URLSearchParams({
    from: record.hour - hour, until: record.hour + 3 * hour, order: "oldest", rows: 100, where,
  });
  for (const column of ["/$audit/outcome", "/$audit/function", "/$audit/attempt", "/action"]) {
    query.append("column", column);
  }
  const list = el("ol"), outcome = el("p", { class: "hint" }, "reading");
  place.replaceChildren(el("h4", {}, "Its execution"), outcome, list);
  const outcomes = [];
  let others = 0;
  try {
    const response = await fetch(`/api/scan?${query}`, { signal });
    if (!response.ok) await json(response);
    for await (const message of lines(response)) {
      if (message.kind === "error") throw new Error(message.error);
      if (message.kind !== "rows") continue;
      for (const row of message.rows) {
        const [result, name, attempt, action] = row.cells;
        const isThis = row.object === record.object && row.sequence === record.sequence;
        if (result) outcomes.push(`attempt ${attempt}: ${said[result] ?? result}`);
        others += isThis ? 0 : 1;
        const text = result ? `outcome: ${result}` : [action, name].filter(Boolean).join(" in ");
        list.append(el("li", isThis ? { class: "here" } : {}, isThis
          ? `#${row.sequence} this record`
          : el("button", { type: "button", onclick: () => open(row.object, row.sequence) },
            `#${row.sequence} ${text}`)));
      }
    }
    const result = outcomes.length ? outcomes.join("; ") : "no outcome is recorded";
    outcome.replaceChildren(`${others} other records; ${result}. `,
      el("a", { href: link({ where: [where], text: "", record: "", from: iso(record.hour - hour), until: iso(record.hour + 3 * hour) }) }, "Show them all"));
  } catch (error) {
    if (!signal.aborted) outcome.textContent = error.message;
  }
}
