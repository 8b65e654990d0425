// Records over time, as bars that are divided by the values of a member.

import { el, number, svg } from "./dom.js";
import { offset, shown } from "./state.js";

const LEFT = 46, RIGHT = 8, TOP = 8, AXIS = 34, STRIP = 8;
const COLOURS = 6;

/// The values that get a colour, most frequent first.
export function ranks(bins) {
  const counts = new Map();
  for (const bin of bins) {
    for (const { json, shown, count } of bin.values) {
      const known = counts.get(json) ?? { json, shown, count: 0 };
      known.count += count;
      counts.set(json, known);
    }
  }
  return [...counts.values()].sort((a, b) => b.count - a.count).slice(0, COLOURS);
}

function nice(top) {
  const power = 10 ** Math.floor(Math.log10(Math.max(top, 1)));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= top);
}

const short = (n) => n >= 1e6 ? `${+(n / 1e6).toFixed(1)}M` : n >= 1e3 ? `${+(n / 1e3).toFixed(1)}k` : `${n}`;

/// Draws the bars of `view`: bins, their width, the range, the integrity of hours. Calls `zoom`
/// with a selected range.
export function draw(root, legend, view, zoom) {
  const { bins, bin, from, until, hours } = view;
  const width = Math.max(root.clientWidth, 280), height = root.clientHeight || 230;
  const bottom = height - AXIS - STRIP;
  const x = (ms) => LEFT + (width - LEFT - RIGHT) * (ms - from) / (until - from);
  const at = (pixel) => from + (until - from) * (pixel - LEFT) / (width - LEFT - RIGHT);
  const ranked = ranks(bins);
  const rank = new Map(ranked.map(({ json }, n) => [json, n]));
  const total = (one) => one.values.reduce((sum, { count }) => sum + count, one.rest);
  const top = nice(Math.max(1, ...bins.map(total)));
  const y = (n) => bottom - (bottom - TOP) * n / top;
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [];
  for (const part of [0, .5, 1]) {
    const n = top * part;
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(n), y2: y(n) }));
    if (Number.isInteger(n)) {
      parts.push(svg("text", { x: LEFT - 6, y: y(n) + 4, "text-anchor": "end" }, short(n)));
    }
  }
  const ticks = Math.max(2, Math.min(8, Math.floor((width - LEFT) / 130)));
  for (let n = 0; n < ticks; n += 1) {
    const ms = from + (until - from) * n / ticks;
    const text = shown(ms);
    const label = (until - from) / ticks >= 864e5 ? text.slice(0, 10) : text.slice(5, 16);
    parts.push(svg("text", { x: x(ms), y: height - STRIP - 14 }, label));
    parts.push(svg("line", { class: "grid", x1: x(ms), x2: x(ms), y1: bottom, y2: bottom + 5 }));
  }
  const inside = bins.filter(({ begin, end }) => end > from && begin < until);
  const bars = inside.map((one, index) => {
    const begin = Math.max(x(one.begin), LEFT), end = Math.min(x(one.end), width - RIGHT);
    const gap = end - begin > 4 ? 1 : 0;
    const count = total(one);
    const told = ranked.filter(({ json }) => one.values.some((value) => value.json === json))
      .map(({ json, shown: text }) =>
        `${text ?? "none"} ${number.format(one.values.find((value) => value.json === json).count)}`);
    const label = `${shown(one.begin).slice(0, 16)}: ${number.format(count)} records; ${told.join(", ")}`;
    const group = svg("g", {
      class: "bin", role: "button", tabindex: index ? -1 : 0, "aria-label": label,
      "data-begin": one.begin, "data-end": one.end,
    }, svg("title", {}, label), svg("rect", {
      class: "catch", x: begin, width: Math.max(end - begin, 1), y: TOP, height: bottom - TOP,
    }));
    const stacks = new Array(COLOURS + 1).fill(0);
    for (const value of one.values) stacks[rank.get(value.json) ?? COLOURS] += value.count;
    stacks[COLOURS] += one.rest;
    let below = 0;
    stacks.forEach((n, colour) => {
      if (!n) return;
      const high = Math.max(y(below) - y(below + n), .5);
      group.append(svg("rect", {
        class: `s${colour}`, x: begin + gap / 2, width: Math.max(end - begin - gap, 1),
        y: y(below) - high, height: high,
      }));
      below += n;
    });
    return group;
  });
  const zoomTo = (group) => {
    zoom(Number(group.dataset.begin), Number(group.dataset.end));
  };
  bars.forEach((bar, index) => bar.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: bars.length - 1 - index }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      zoomTo(bar);
    } else if (step !== undefined && bars[index + step]) {
      event.preventDefault();
      bars.forEach((other) => other.setAttribute("tabindex", "-1"));
      bars[index + step].setAttribute("tabindex", "0");
      bars[index + step].focus();
    }
  }));
  parts.push(...bars);
  // The integrity of each hour, below the bars.
  const strip = hours.filter(([hour]) => hour + 36e5 > from && hour < until);
  const runs = [];
  for (const [hour, what] of strip) {
    const last = runs.at(-1);
    if (last && last.what === what && last.end === hour) last.end = hour + 36e5;
    else runs.push({ what, begin: hour, end: hour + 36e5 });
  }
  for (const { what, begin, end } of runs) {
    const left = Math.max(x(begin), LEFT), right = Math.min(x(end), width - RIGHT);
    parts.push(svg("rect", {
      class: what, x: left, width: Math.max(right - left, 2), y: height - STRIP, height: STRIP - 1,
    }, svg("title", {}, `${what}: ${shown(begin).slice(0, 16)} to ${shown(end).slice(0, 16)}`)));
  }
  if (runs.length) {
    parts.push(svg("text", { x: LEFT - 6, y: height - 1, "text-anchor": "end" }, "proof"));
  }
  const drag = svg("rect", { class: "drag", y: TOP, height: bottom - TOP, width: 0, x: 0 });
  parts.push(drag);
  root.replaceChildren(...parts);

  let begin = null;
  const pixel = (event) => (event.clientX - root.getBoundingClientRect().left) * width / root.clientWidth;
  root.onpointerdown = (event) => {
    if (event.button === 0 && event.pointerType !== "touch") begin = pixel(event);
  };
  root.onpointermove = (event) => {
    if (begin === null) return;
    const end = pixel(event);
    drag.setAttribute("x", Math.min(begin, end));
    drag.setAttribute("width", Math.abs(end - begin));
  };
  root.onpointerup = root.onpointerleave = (event) => {
    if (begin === null) return;
    const end = pixel(event), started = begin;
    begin = null;
    drag.setAttribute("width", 0);
    if (event.type === "pointerleave") return;
    if (Math.abs(end - started) > 4) {
      const clamp = (ms) => Math.min(Math.max(ms, from), until);
      const [one, other] = [clamp(at(Math.min(started, end))), clamp(at(Math.max(started, end)))];
      const whole = (ms, round) => {
        const clock = round((ms + offset(ms)) / bin) * bin;
        return clock - offset(clock - offset(ms));
      };
      zoom(whole(one, Math.floor), whole(other, Math.ceil));
    }
  };
  root.onclick = (event) => {
    const group = event.target.closest?.(".bin");
    if (group) zoomTo(group);
  };
  const colour = (n) => svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" },
    svg("rect", { class: n, width: 8, height: 8, rx: 2 }));
  const items = ranked.map(({ shown: text }, n) => el("span", {}, colour(`s${n}`), text ?? "none"));
  const others = inside.some((one) => one.rest || one.values.some(({ json }) => !rank.has(json)));
  if (others) items.push(el("span", {}, colour("s6"), "others"));
  for (const what of new Set(runs.map((run) => run.what))) {
    items.push(el("span", {}, colour(what), what));
  }
  legend.replaceChildren(...items);
}
