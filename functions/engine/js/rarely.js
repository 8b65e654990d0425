// The part of the prelude that few calls need. Loaded when first needed. It relies only on the
// built-ins that the prelude saved.

import { captured, hidden, isDeterministic, load, native, timed } from "convex:prelude";

const {
  RealDate, RealError, RealString, apply, construct, defineProperty, mapDelete, mapGet,
  mapSet, ownKeys, parse, push,
} = captured;
const { max, setPrototypeOf, stringify, RealNumber, RealTypeError } = captured;

/// Describes the exports of a module, as JSON text.
export function describe(namespace) {
  const functions = [];
  for (const name of ownKeys(namespace)) {
    if (typeof name !== "string") continue;
    const value = namespace[name];
    if (value === null || (typeof value !== "function" && typeof value !== "object")) continue;
    const kind = kindOf(value);
    if (kind === null) continue;
    const isHttp = kind === "http";
    apply(push, functions, [{
      __proto__: null,
      name,
      kind,
      isPublic: value.isPublic === true,
      args: isHttp ? null : parse(value.exportArgs()),
      returns: isHttp ? null : parse(value.exportReturns()),
    }]);
  }
  const main = namespace.default;
  const isMain = typeof main === "object" && main !== null;
  const isRouter = isMain && main.isRouter === true;
  const isExporter = isMain && typeof main.export === "function";
  const exported = isExporter ? main.export() : null;
  return stringify({
    __proto__: null,
    functions,
    exported: typeof exported === "string" ? parse(exported) : exported,
    isRouter,
    plain: isMain && !isExporter && !isRouter ? main : null,
  });
}

function kindOf({ isQuery, isMutation, isAction, isHttp, isPublic, isInternal }) {
  if (isHttp === true) return "http";
  if (isPublic !== true && isInternal !== true) return null;
  return isQuery === true
    ? "query"
    : isMutation === true
      ? "mutation"
      : isAction === true
        ? "action"
        : null;
}

/// A `Date` whose current time is that of the call, and whose only time zone is UTC, since
/// machines' time zones differ.
export function makeDate() {
  const now = () =>
    isDeterministic() ? native.startMs() : Math.floor(native.startMs() + native.elapsedMs());
  const prototype = RealDate.prototype;
  const { setTime } = prototype;
  // The engine parses the common formats as V8 does, but not others.
  const usual = /^\d{4}-(?:0[1-9]|1[0-2])-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{3})?)?Z)?$/;
  const { test } = RegExp.prototype;
  const ofText = (value) => {
    const time = apply(test, usual, [value]) ? RealDate.parse(value) : NaN;
    return time === time ? time : load("convex:dates").parseDate(value);
  };
  const ofArgs = (args) => {
    if (args.length === 0) return now();
    if (args.length > 1) return RealDate.UTC(...args);
    const [value] = args;
    return typeof value === "string" ? ofText(value) : value;
  };
  function Date(...args) {
    if (new.target === undefined) return apply(prototype.toString, new RealDate(now()), []);
    return construct(RealDate, [ofArgs(args)], new.target === Date ? RealDate : new.target);
  }
  defineProperty(Date, "prototype", { value: prototype, writable: false });
  defineProperty(Date, "length", { value: 7 });
  hidden(Date, "now", now);
  hidden(Date, "parse", (value) => ofText(RealString(value)));
  hidden(Date, "UTC", RealDate.UTC);
  hidden(prototype, "constructor", Date);
  for (const part of [
    "FullYear", "Month", "Date", "Day", "Hours", "Minutes", "Seconds", "Milliseconds",
  ]) {
    hidden(prototype, `get${part}`, prototype[`getUTC${part}`]);
    if (part === "Day") continue;
    const set = prototype[`setUTC${part}`];
    for (const name of [`set${part}`, `setUTC${part}`]) hidden(prototype, name, {
      [name](...args) {
        const time = apply(set, this, args);
        // If a part is NaN, the engine returns NaN but leaves the date as it was.
        return time === time ? time : apply(setTime, this, [time]);
      },
    }[name]);
  }
  hidden(prototype, "getTimezoneOffset", function getTimezoneOffset() {
    const time = apply(prototype.getTime, this, []);
    return time - time;
  });
  // `Thu, 01 Jan 1970 00:00:00 GMT` contains all the parts.
  const parts = (date) => prototype.toUTCString.call(date).split(/,? /);
  const invalid = (date) => Number.isNaN(prototype.getTime.call(date));
  const day = ([weekday, date, month, year]) => `${weekday} ${month} ${date} ${year}`;
  const time = (all) => `${all[4]} GMT+0000 (Coordinated Universal Time)`;
  const texts = {
    toString: (all) => `${day(all)} ${time(all)}`,
    toDateString: day,
    toTimeString: time,
  };
  for (const name of ownKeys(texts)) {
    hidden(prototype, name, function () {
      return invalid(this) ? "Invalid Date" : texts[name](parts(this));
    });
  }
  for (const [name, part] of [
    ["toLocaleString", "all"], ["toLocaleDateString", "date"], ["toLocaleTimeString", "time"],
  ]) {
    hidden(
      prototype,
      name,
      {
        [name](locales, options) {
          return load("convex:locale").dateToLocaleString(
            `Date.prototype.${name}`,
            this, part, locales, options,
          );
        },
      }[name],
    );
  }
  return Date;
}

/// The timers as a binary heap: the one that is due first is in front. An action may have
/// thousands, and looks for the next one each time that it waits. Without a prototype, the heap
/// inherits no setters of elements.
const heap = [];
setPrototypeOf(heap, null);
let nextTimerId = 1;
let lastTurn = 0;

/// Timers that are due at the same time come in the order in which they were set.
const isBefore = (a, b) => a.at < b.at || (a.at === b.at && a.turn < b.turn);

function put(timer, place) {
  heap[place] = timer;
  timer.place = place;
}

/// Puts a timer where it belongs, beginning at a free place.
function sift(timer, free) {
  let place = free;
  while (place > 0) {
    const parent = (place - 1) >> 1;
    if (!isBefore(timer, heap[parent])) break;
    put(heap[parent], place);
    place = parent;
  }
  for (let child = 2 * place + 1; child < heap.length; child = 2 * place + 1) {
    if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child++;
    if (!isBefore(heap[child], timer)) break;
    put(heap[child], place);
    place = child;
  }
  put(timer, place);
}

function arm(timer, at) {
  timer.at = at;
  timer.turn = ++lastTurn;
  sift(timer, heap.length);
}

function disarm(timer) {
  const last = heap[heap.length - 1];
  heap.length--;
  if (last !== timer) sift(last, timer.place);
}

export function timers() {
  const set =
    (name, isRepeated) =>
    (callback, delay, ...args) => {
      if (isDeterministic())
        throw new RealError(`${name}() is for actions only: a query or mutation cannot wait`);
      if (typeof callback !== "function") throw new RealTypeError(`${name}() takes a function`);
      const every = max(1, RealNumber(delay) || 0);
      const id = nextTimerId++;
      const timer = { id, every: isRepeated ? every : 0, callback, args, at: 0, turn: 0, place: 0 };
      apply(mapSet, timed, [id, timer]);
      arm(timer, native.elapsedMs() + every);
      return id;
    };
  const clear = (id) => {
    const timer = apply(mapGet, timed, [id]);
    if (timer === undefined) return;
    apply(mapDelete, timed, [id]);
    disarm(timer);
  };
  return {
    setTimeout: set("setTimeout", false),
    setInterval: set("setInterval", true),
    clearTimeout: clear,
    clearInterval: clear,
  };
}

/// The time of the next timer, in milliseconds from the start of the call, or -1 if there is none.
export function nextTimer() {
  return heap.length === 0 ? -1 : heap[0].at;
}

/// Calls the callback that is due first, if there is one. The jobs that it queues run before the
/// next callback.
export function fireTimers() {
  const now = native.elapsedMs();
  const timer = heap[0];
  if (timer === undefined || timer.at > now) return;
  disarm(timer);
  if (timer.every > 0) arm(timer, now + timer.every);
  else apply(mapDelete, timed, [timer.id]);
  try {
    apply(timer.callback, undefined, timer.args);
  } catch (thrown) {
    console.error("Uncaught in a timer:", thrown);
  }
}
