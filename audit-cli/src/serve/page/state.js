// The state of the page. All of it is in the address, so a link shows the same to everyone.

const LISTS = ["where", "facet", "column"];
const TEXTS = ["text", "from", "until", "stack", "bin", "order", "zone", "time", "record"];

export const state = {};

export function read() {
  const query = new URLSearchParams(location.search);
  for (const name of TEXTS) state[name] = query.get(name) ?? "";
  for (const name of LISTS) state[name] = query.has(name) ? query.getAll(name).filter(Boolean) : null;
}

function query() {
  const query = new URLSearchParams();
  for (const name of TEXTS) if (state[name]) query.set(name, state[name]);
  // An empty list differs from a missing one.
  for (const name of LISTS) {
    for (const value of state[name] ?? []) query.append(name, value);
    if (state[name] && !state[name].length && name !== "where") query.append(name, "");
  }
  return query;
}

/// Puts a change into the address.
export function change(changes, replaces = false) {
  Object.assign(state, changes);
  const text = query().toString();
  const place = text ? `?${text}` : location.pathname;
  if (replaces) history.replaceState(null, "", place);
  else history.pushState(null, "", place);
}

export function link(changes = {}) {
  const before = { ...state };
  Object.assign(state, changes);
  const text = query().toString();
  Object.assign(state, before);
  return `${location.origin}/${text ? `?${text}` : ""}`;
}

// Time zones.

const formats = new Map();

function format(zone) {
  if (!formats.has(zone)) {
    const timeZone = zone === "local" ? undefined : zone || "UTC";
    formats.set(zone, new Intl.DateTimeFormat("sv-SE", {
      timeZone, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit",
      minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
    }));
  }
  return formats.get(zone);
}

/// The date and the time of day in the chosen zone: 2026-11-20 09:00:00.000.
export function shown(ms) {
  if (!(Math.abs(ms) < 8.64e15)) return `${ms} ms`;
  return format(state.zone).format(ms).replace(",", ".").replace(/^\d+/, (year) => year.padStart(4, "0"));
}

/// The offset of the zone from UTC at a time, in milliseconds. In years that are not written with
/// four digits everywhere, it is that of the nearest such year.
export function offset(ms) {
  const at = Math.min(Math.max(ms, Date.UTC(1000)), Date.UTC(9999));
  const wall = Date.parse(`${shown(at).slice(0, 19).replace(" ", "T")}Z`);
  return wall - Math.floor(at / 1000) * 1000;
}

/// The changes of the offset between two times: of each the time, and the offset from then on.
export function shifts(from, until) {
  const found = [], step = Math.max(Math.round((until - from) / 2000), 864e5);
  for (let at = from; at < until && found.length < 200; at += step) {
    let [low, high] = [at, Math.min(at + step, until)];
    const [before, after] = [offset(low), offset(high)];
    if (before === after) continue;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if (offset(middle) === before) low = middle; else high = middle;
    }
    found.push([high, after]);
  }
  return found;
}

/// The time of a date and a time of day in the chosen zone.
export function parsed(text) {
  if (!text) return null;
  const hasZone = /(Z|T.*[+-]\d\d:?\d\d)$/.test(text);
  const whole = /^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : text.replace(" ", "T");
  const wall = Date.parse(hasZone ? whole : `${whole}Z`);
  if (Number.isNaN(wall)) return null;
  return hasZone ? wall : wall - offset(wall - offset(wall));
}

/// A time as text. Dates end at 8.64e15.
export const iso = (ms) =>
  new Date(Math.min(Math.max(ms, -8.64e15), 8.64e15)).toISOString().replace(".000Z", "Z");
