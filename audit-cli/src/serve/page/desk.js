// The page: sends the question in the address, and shows the results as they arrive.

import { $, counted, el, json, lines, number } from "./dom.js";
import * as record from "./record.js";
import { change, iso, offset, parsed, read, shifts, shown, state } from "./state.js";
import * as table from "./table.js";
import { draw } from "./timeline.js";

const MINUTE = 6e4, HOUR = 36e5, DAY = 864e5;
const BINS = [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY];
const MOST_BINS = 200;

// The usual pointers of these members.
const TIME = ["/at", "/time", "/timestamp", "/now", "/ts"];
const WHO = ["/actor/userId", "/actor/id", "/user/id", "/userId", "/user", "/actor"];
const ACTION = ["/action", "/event", "/type"];
const ADDRESS = ["/client/ip", "/source/ip", "/actor/ip", "/ip"];
const OUTCOME = ["/outcome", "/$audit/outcome"];

let overview = null;
let integrity = { state: "running" };
let scanning = null;
/// The last counts, and the cursors of pages.
let counts = null;
let cursors = [];
/// Whether records could not be read at the last scan.
let incomplete = false;

const first = (usual) => usual.find((member) => overview.members.includes(member)) ?? null;

/// The question, with defaults for everything that was not chosen.
function chosen() {
  const time = state.time || first(TIME);
  const facets = state.facet ?? [first(WHO), first(ACTION), first(ADDRESS)].filter(Boolean);
  let columns = state.column;
  if (!columns) {
    const usual = [first(ACTION), first(WHO), first(ADDRESS), ...OUTCOME.filter((member) => overview.members.includes(member))].filter(Boolean);
    const others = overview.members.filter((member) => member !== time && !usual.includes(member)
      && !member.startsWith("/$audit/") && !/agent|request/i.test(member));
    columns = [...usual, ...others].slice(0, 6);
  }
  const stack = state.stack || first(ACTION) || first(OUTCOME);
  const [from, until] = range();
  return { time, facets, columns, stack, from, until, bin: width(from, until) };
}

function range() {
  const from = parsed(state.from) ?? overview.first ?? Date.now() - DAY;
  const until = parsed(state.until) ?? overview.last ?? Date.now();
  return from < until ? [from, until] : [from, from + HOUR];
}

function width(from, until) {
  const fits = BINS.find((bin) => (until - from) / bin <= MOST_BINS) ?? BINS.at(-1);
  const wanted = Number(state.bin);
  return wanted && (until - from) / wanted <= 2_000 ? wanted : fits;
}

function query(more = {}) {
  const { time, facets, columns, stack, from, until, bin } = chosen();
  const query = new URLSearchParams({
    begin: from, end: until, bin, offset: offset(from), order: state.order || "newest", rows: table.ROWS,
  });
  // What was not chosen bounds only the picture: a record may claim any time.
  if (parsed(state.from) !== null) query.set("from", from);
  if (parsed(state.until) !== null) query.set("until", until);
  if (time) query.set("time", time);
  if (stack) query.set("stack", stack);
  if (state.text) query.set(isCondition(state.text) ? "where" : "text", state.text);
  for (const where of state.where ?? []) query.append("where", where);
  for (const facet of facets) query.append("facet", facet);
  for (const column of columns) query.append("column", column);
  for (const shift of shifts(from, until)) query.append("shift", shift.join(":"));
  for (const [name, value] of Object.entries(more)) query.set(name, value);
  return query;
}

/// Whether the text of a search is a condition on a member, as for `audit search`.
const isCondition = (text) => /^!?"?\/.*(=|<|>|~| in )/.test(text) || /^!"?\//.test(text);

// Sending the question.

async function ask() {
  scanning?.abort();
  scanning = new AbortController();
  const { signal } = scanning;
  counts = null;
  cursors = [];
  incomplete = false;
  controls();
  const { columns } = chosen();
  table.head(columns);
  table.clear();
  problem("");
  $("nothing").hidden = true;
  $("status").textContent = "";
  progress("searching", true);
  const damage = [];
  let rows = 0;
  try {
    const response = await fetch(`/api/scan?${query()}`, { signal });
    if (!response.ok) await json(response);
    let ended = null;
    for await (const message of lines(response)) {
      if (message.kind === "rows") {
        rows += message.rows.length;
        table.add(message.rows, openRow);
        pager();
      } else if (message.kind === "counts") {
        counts = message;
        progress(`searched ${number.format(counts.searched)}, ${number.format(counts.matched)} match`, true);
        picture();
        facets();
      } else if (message.kind === "damage") {
        damage.push(message);
      } else if (message.kind === "error") {
        throw new Error(message.because ? `${message.error}: ${message.because}` : message.error);
      } else {
        ended = message;
      }
    }
    if (!ended) throw new Error("the answer was cut off");
    const text = `searched ${counted(counts.searched, "record")} in ${counted(counts.objects, "object")}, ${number.format(counts.matched)} match`;
    progress(text, false);
    $("status").textContent = text;
    columnsMenu();
    if (!rows) nothing(ended);
    const notes = [...ended.notes, ...damage.map(({ object, what }) => `${object}: ${what}`)];
    if (ended.damaged > damage.length) notes.push(`${ended.damaged - damage.length} more objects`);
    incomplete = ended.incomplete;
    problem(incomplete ? notes.join("\n") : "");
    exports();
    if (!rows && ended.notes.length) $("nothing").textContent += ` ${ended.notes.join(" ")}`;
  } catch (error) {
    if (signal.aborted) return;
    progress("", false);
    problem(`The bucket could not be searched: ${error.message}`);
  }
  pager();
}

function progress(text, isBusy) {
  $("progress").textContent = text;
  $("progress").classList.toggle("busy", isBusy);
}

function problem(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function nothing() {
  $("nothing").hidden = false;
  $("nothing").textContent = overview.nothing
    ? `There are no records: ${overview.nothing}.`
    : "No record matches.";
}

const openRow = (row) => record.open(row.object, row.sequence);

// Pages of the table.

function pager() {
  const lines = $("table").tBodies[0].rows;
  const page = cursors.length + 1;
  $("page").textContent = `page ${number.format(page)}`;
  $("previous").disabled = !cursors.length;
  const before = cursors.length * table.ROWS;
  const isFull = lines.length >= table.ROWS;
  $("next").disabled = !isFull || (counts && !$("progress").classList.contains("busy")
    && before + lines.length >= counts.matched);
}

async function turn(cursor) {
  $("next").disabled = $("previous").disabled = true;
  try {
    const rows = (await json(await fetch(`/api/records?${query(cursor ? { after: cursor } : {})}`))).rows;
    table.clear();
    table.add(rows, openRow);
  } catch (error) {
    problem(error.message);
  }
  pager();
  $("table").closest(".scroll").scrollIntoView({ block: "nearest" });
}

$("next").addEventListener("click", () => {
  const last = $("table").tBodies[0].rows[table.ROWS - 1]?.row;
  if (!last) return;
  cursors.push(table.name(last));
  turn(cursors.at(-1));
});

$("previous").addEventListener("click", () => {
  cursors.pop();
  turn(cursors.at(-1));
});

// The timeline.

function picture() {
  if (!overview) return;
  const { from, until, bin } = chosen();
  const view = { bins: counts?.bins ?? [], bin, from, until, hours: integrity.hours ?? [] };
  draw($("timeline"), $("legend"), view, zoom);
}

function zoom(from, until) {
  change({ from: iso(from), until: iso(until), record: "" });
  refresh();
}

function move(by, scale) {
  const [from, until] = range();
  const size = until - from, middle = (from + until) / 2 + by * size;
  const half = Math.max(size * scale / 2, MINUTE / 2);
  zoom(Math.round(middle - half), Math.round(middle + half));
}

$("earlier").addEventListener("click", () => move(-.5, 1));
$("later").addEventListener("click", () => move(.5, 1));
$("closer").addEventListener("click", () => move(0, .5));
$("wider").addEventListener("click", () => move(0, 2));
$("everything").addEventListener("click", () => {
  change({ from: "", until: "", record: "" });
  refresh();
});
new ResizeObserver(() => picture()).observe($("timeline"));

// Counts of values.

function condition(member, json, operator) {
  const pointer = /[=<>!"]| in |~(?![01])/.test(member) ? JSON.stringify(member) : member;
  if (json === null) return operator === "=" ? `!${pointer}` : pointer;
  return `${pointer}${operator}${json}`;
}

function filter(where) {
  if (state.where?.includes(where)) return;
  change({ where: [...(state.where ?? []), where], record: "" });
  refresh();
}

function facets() {
  const focused = document.activeElement?.dataset?.where;
  $("facets").replaceChildren(...counts.facets.map(({ member, values, distinct, rest }) => {
    const items = values.map(({ shown: text, json, count }) => {
      const [is, not] = ["=", "!="].map((operator) => condition(member, json, operator));
      return el("li", {},
        el("button", { class: "value", type: "button", "data-where": is, title: text ?? "none", onclick: () => filter(is) },
          el("span", { class: text === null ? "none" : null }, text === null ? "none" : text || "(empty)"),
          el("span", {}, number.format(count))),
        el("button", { class: "not", type: "button", "data-where": not, "aria-label": `without ${text ?? "none"}`, title: "leave out", onclick: () => filter(not) }, "≠"));
    });
    const hidden = distinct - values.length;
    return el("div", { class: "facet" },
      el("h3", {}, member, el("button", { type: "button", "aria-label": `no longer count ${member}`, onclick: () => drop(member) }, "×")),
      el("ol", { tabindex: "0", "aria-label": member }, items),
      hidden > 0 ? el("p", { class: "hint" }, `and ${counted(hidden, "more value")}`) : null,
      rest ? el("p", { class: "hint" }, `${counted(rest, "record")} with other values`) : null);
  }));
  if (focused) [...$("facets").querySelectorAll("button")].find(({ dataset }) => dataset.where === focused)?.focus();
}

function drop(member) {
  change({ facet: chosen().facets.filter((other) => other !== member) });
  refresh();
}

// Controls.

const wall = (ms) => shown(ms).slice(0, 19);

function wrong(text) {
  $("ask-error").textContent = text;
  $("ask-error").hidden = !text;
}

function members() {
  return [...new Set([...overview.members, ...(counts?.members ?? []), ...(state.column ?? [])])];
}

function options(select, values, value) {
  select.replaceChildren(...values.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
}

function controls() {
  const { stack, facets: counted, from, until } = chosen();
  $("text").value = state.text;
  $("from").value = wall(from);
  $("until").value = wall(until);
  $("order").value = state.order || "newest";
  $("bin").value = ["", String(MINUTE), String(HOUR), String(DAY)].includes(state.bin) ? state.bin : "";
  options($("stack"), members().map((member) => [member, member]), stack);
  options($("more-facets"), [["", "…"], ...members().filter((member) => !counted.includes(member)).map((member) => [member, member])], "");
  $("conditions").replaceChildren(...(state.where ?? []).map((where) => el("li", {}, where,
    el("button", { type: "button", "aria-label": `remove ${where}`, onclick: () => {
      change({ where: state.where.filter((other) => other !== where), record: "" });
      refresh();
    } }, "×"))));
  exports();
  columnsMenu();
}

/// Without `partial`, a file that lacks what could not be read is cut off.
function exports() {
  for (const format of ["csv", "ndjson", "parquet"]) {
    const more = incomplete ? { format, partial: 1 } : { format };
    $(`export-${format}`).href = `/api/export?${query(more)}`;
  }
}

function columnsMenu() {
  const { columns } = chosen();
  const boxes = members().map((member) => el("label", {},
    el("input", { type: "checkbox", checked: columns.includes(member), onchange: ({ target }) => {
      const rest = chosen().columns.filter((other) => other !== member);
      change({ column: target.checked ? [...rest, member] : rest });
      refresh(true);
    } }), ` ${member}`));
  const focused = document.activeElement?.closest("#columns") ? [...$("columns").querySelectorAll("input")].indexOf(document.activeElement) : -1;
  $("columns").replaceChildren(el("legend", { class: "sr" }, "Columns"), ...boxes);
  if (focused >= 0) $("columns").querySelectorAll("input")[focused]?.focus();
}

$("stack").addEventListener("change", ({ target }) => { change({ stack: target.value }); refresh(); });
$("bin").addEventListener("change", ({ target }) => { change({ bin: target.value }); refresh(); });
$("order").addEventListener("change", ({ target }) => { change({ order: target.value }); refresh(); });
$("more-facets").addEventListener("change", ({ target }) => {
  if (!target.value) return;
  change({ facet: [...chosen().facets, target.value] });
  refresh();
});
$("zone").addEventListener("change", ({ target }) => { change({ zone: target.value }); refresh(); });

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const changes = { record: "" };
  const [from, until] = range();
  for (const [id, ms] of [["from", from], ["until", until]]) {
    const text = $(id).value.trim();
    if (text === wall(ms)) continue;
    const time = parsed(text);
    $(id).setAttribute("aria-invalid", text && time === null);
    if (text && time === null) return wrong(`${text} is no time: write 2026-11-20 09:00`);
    changes[id] = text ? iso(time) : "";
  }
  wrong("");
  const text = $("text").value.trim();
  if (isCondition(text)) {
    Object.assign(changes, { where: [...(state.where ?? []), text], text: "" });
  } else {
    changes.text = text;
  }
  change(changes);
  refresh();
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && state.record) {
    record.close();
  } else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    $("text").focus();
  } else if (event.key === "j" || event.key === "k") {
    table.step(event.key === "j" ? 1 : -1);
  }
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

// Integrity.

/// Shows the verification until none is running.
async function watch() {
  for (;;) {
    try {
      integrity = await json(await fetch("/api/integrity"));
    } catch (error) {
      integrity = { state: "failed", error: error.message };
    }
    verdict();
    if (!integrity.running) break;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  table.mark(integrity.findings ?? []);
  table.remark();
  picture();
}

/// Verifies what stands in the bucket now. The last result is shown meanwhile.
async function verifyAgain() {
  if (integrity.running) return;
  try {
    integrity = await json(await fetch("/api/verify", { method: "POST" }));
  } catch (error) {
    integrity = { ...integrity, failed: error.message };
    return verdict();
  }
  verdict();
  await watch();
}

const WORDS = {
  tampered: "what stands is not what was written, or what was written no longer stands",
  unproven: "can be neither proven nor refuted",
  late: "a host's heartbeat is overdue",
  expired: "the beginning of a stream is gone, as retention removes it",
};

function verdict() {
  const { state: now, running, findings = [] } = integrity;
  const counts = Object.keys(WORDS).filter((word) => integrity[word]).map((word) => [word, integrity[word]]);
  const unread = [
    integrity.unread ? `objects that could not be read: ${number.format(integrity.unread)}` : "",
    integrity.unlisted,
  ].filter(Boolean);
  const worst = counts[0]?.[0] ?? (unread.length ? "unproven" : "proven");
  const badge = (kind, text) => el("a", { href: "#integrity", class: `badge ${kind}` }, text);
  const body = [];
  let head;
  const part = running?.all ? `${number.format(running.done)} of ${counted(running.all, "object")}` : "listing";
  if (running) {
    body.push(el("p", {}, `Verifying: ${part}.`),
      el("progress", { value: running.done, max: Math.max(running.all, 1), "aria-label": "Verification" }));
  }
  if (now === "running") {
    head = badge("unproven", `verifying: ${part}`);
  } else if (now === "without keys") {
    head = badge("unproven", "not verified");
    body.push(el("p", {}, "No host's key was given, so nothing is proven. Start with ", el("code", {}, "audit serve BUCKET --key KEY"), " to have the bucket verified here."));
  } else if (now === "failed") {
    head = badge("unproven", "not verified");
    body.push(el("p", { class: "error" }, [integrity.error, integrity.because].filter(Boolean).join(": ")));
  } else if (!integrity.streams) {
    head = badge("unproven", "nothing to verify");
    body.push(el("p", {}, "There was nothing to verify."));
  } else {
    const text = counts.length ? counts.map(([word, n]) => `${number.format(n)} ${word}`).join(", ")
      : unread.length ? "not all was read" : "proven";
    head = badge(worst, text);
    if (unread.length) body.push(el("p", { class: "error" }, `Not all was read: ${unread.join("; ")}.`));
    body.push(el("p", {}, counts.length || unread.length
      ? "Not everything in this bucket is proven:"
      : "Every record in this bucket is what its host wrote, and none is missing."));
    body.push(el("ul", {}, counts.map(([word, n]) => el("li", {}, el("span", { class: `badge ${word}` }, `${number.format(n)} ${word}`), ` ${WORDS[word]}`))));
    if (findings.length) {
      const list = findings.slice(0, 100).map((finding) => {
        const place = finding.object ?? `stream ${finding.stream}`;
        const records = finding.first === null ? "" : finding.count > 1
          ? `, records ${finding.first} to ${finding.first + finding.count - 1}` : `, record ${finding.first}`;
        const show = finding.object && finding.first !== null && !finding.object.startsWith("_audit")
          ? el("button", { type: "button", onclick: () => record.open(finding.object, finding.first) }, "Show") : null;
        return el("li", {}, el("span", { class: `badge ${finding.alarm}` }, finding.alarm), ` ${place}${records}: ${finding.what} `, show);
      });
      body.push(el("details", { open: findings.length <= 20, class: "findings" },
        el("summary", {}, counted(findings.length, "finding")), el("ul", {}, list)));
    }
    body.push(el("p", {}, integrity.hosts.map(({ host, streams, objects, records }) =>
      `${host || "without evidence that counts"}: ${counted(streams, "stream")}, ${counted(objects, "object")}, ${counted(records, "record")}`).join("; ")));
    body.push(el("p", { class: "keys" }, `by ${integrity.keys.join(", ")}`));
  }
  $("verdict").replaceChildren(head);
  $("integrity-body").replaceChildren(...body);
  // They stay in place, so that the focus stays too.
  $("verify").hidden = now === "without keys" || now === "running";
  $("verify").setAttribute("aria-disabled", String(Boolean(running)));
  const last = integrity.begin ? `What stood in the bucket at ${iso(integrity.begin)} was verified.` : "";
  const failed = integrity.failed ? `It could not be verified again: ${integrity.failed}` : "";
  const said = failed || (running && now !== "running" ? `${last} It is verified again.` : last);
  if ($("verified").textContent !== said) $("verified").textContent = said;
}

// Start.

/// Sends the question again. Open menus stay open.
function refresh() {
  record.show();
  return ask();
}

addEventListener("popstate", () => { read(); refresh(); });
$("verify").addEventListener("click", verifyAgain);

function zones() {
  const zones = [["", "UTC"], ["local", "local time"], ...Intl.supportedValuesOf("timeZone").filter((zone) => zone !== "UTC").map((zone) => [zone, zone])];
  options($("zone"), zones, state.zone);
}

async function begin() {
  read();
  try {
    overview = await json(await fetch("/api/overview"));
  } catch (error) {
    problem(`The bucket could not be read: ${error.message}`);
    return;
  }
  $("bucket").textContent = overview.bucket;
  $("version").textContent = `audit ${overview.version}`;
  zones();
  watch();
  await refresh();
}

begin();
