// Parses dates in other formats than ECMAScript's, as V8 does. Times without a zone are in UTC.

const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const HOURS_FROM_UTC = {
  ut: 0, utc: 0, z: 0, gmt: 0, est: -5, edt: -4, cst: -6, cdt: -5, mst: -7, mdt: -6, pst: -8,
  pdt: -7,
};
const isSpace = (char) => /[\s\ufeff]/.test(char);
const isWord = (char) => char >= "A" && !isSpace(char);
const isDigit = (char) => char >= "0" && char <= "9";

/// Splits a text into tokens: numbers, words, symbols, spaces and others.
function tokensOf(text) {
  const tokens = [];
  let at = 0;
  const take = (is) => {
    const from = at;
    while (at < text.length && is(text[at])) at++;
    return text.slice(from, at);
  };
  while (at < text.length) {
    const char = text[at];
    if (isDigit(char)) {
      const digits = take(isDigit);
      tokens.push({
        kind: "number",
        value: Number(digits.replace(/^0+(?=\d)/, "").slice(0, 9)),
        length: digits.length,
      });
    } else if (":-+.)".includes(char)) {
      at++;
      tokens.push({ kind: char });
    } else if (isWord(char)) {
      const word = take(isWord).toLowerCase();
      const month = MONTHS.indexOf(word.slice(0, 3));
      if (month >= 0) tokens.push({ kind: "month", value: month + 1 });
      else if (word === "am" || word === "pm")
        tokens.push({ kind: "half", value: word === "am" ? 0 : 12 });
      else if (Object.hasOwn(HOURS_FROM_UTC, word))
        tokens.push({ kind: "zone", value: HOURS_FROM_UTC[word], isZ: word === "z" });
      else tokens.push({ kind: word === "t" ? "t" : "word" });
    } else if (isSpace(char)) {
      take(isSpace);
      tokens.push({ kind: "space" });
    } else if (char === "(") {
      let depth = 0;
      do {
        if (text[at] === ")") depth--;
        else if (text[at] === "(") depth++;
        at++;
      } while (depth > 0 && at < text.length);
      tokens.push({ kind: "other" });
    } else {
      at++;
      tokens.push({ kind: "other" });
    }
  }
  return tokens;
}

const within = (value, from, to) => value >= from && value <= to;

function milliseconds({ value, length }) {
  const digits = Math.min(length, 9);
  return digits <= 3 ? value * 10 ** (3 - digits) : Math.trunc(value / 10 ** (digits - 3));
}

/// The time that a text denotes, in milliseconds since the Unix epoch, or NaN.
export function parseDate(text) {
  const tokens = tokensOf(text);
  let next = 0;
  const END = { kind: "end" };
  /// A token that makes the date invalid, as a word after a number does.
  const BROKEN = { kind: "word" };
  const peek = () => tokens[next] ?? END;
  const read = () => tokens[next++] ?? END;
  const skip = (kind) => peek().kind === kind && (next++, true);
  const isFixed = (length, from = -Infinity, to = Infinity) =>
    peek().kind === "number" && peek().length === length && within(peek().value, from, to);

  const day = [];
  const time = [];
  let month;
  let half;
  let isIso = false;
  const zone = { sign: undefined, hour: undefined, minute: undefined };
  const setZone = (hours) =>
    Object.assign(zone, { sign: hours < 0 ? -1 : 1, hour: Math.abs(hours), minute: 0 });

  /// Parses a leading date in ECMAScript's format. Returns the first token after it.
  const readIso = () => {
    if (peek().kind === "+" || peek().kind === "-") {
      const sign = read();
      if (!isFixed(6) || (sign.kind === "-" && peek().value === 0)) return sign;
      day.push(sign.kind === "-" ? -read().value : read().value);
    } else if (isFixed(4)) {
      day.push(read().value);
    } else {
      return read();
    }
    if (skip("-")) {
      if (!isFixed(2, 1, 12)) return read();
      day.push(read().value);
      if (skip("-")) {
        if (!isFixed(2, 1, 31)) return read();
        day.push(read().value);
      }
    }
    if (peek().kind !== "t") {
      if (peek().kind !== "end") return read();
    } else {
      read();
      if (!isFixed(2, 0, 24)) return BROKEN;
      const isMidnight = peek().value === 24;
      time.push(read().value);
      if (!skip(":") || !isFixed(2, 0, isMidnight ? 0 : 59)) return BROKEN;
      time.push(read().value);
      if (skip(":")) {
        if (!isFixed(2, 0, isMidnight ? 0 : 59)) return BROKEN;
        time.push(read().value);
        if (skip(".")) {
          if (peek().kind !== "number" || (isMidnight && peek().value > 0)) return BROKEN;
          time.push(milliseconds(read()));
        }
      }
      if (peek().isZ) {
        read();
        setZone(0);
      } else if (peek().kind === "+" || peek().kind === "-") {
        zone.sign = read().kind === "+" ? 1 : -1;
        if (isFixed(4)) {
          const { value } = read();
          if (!within(Math.trunc(value / 100), 0, 23) || !within(value % 100, 0, 59)) return BROKEN;
          Object.assign(zone, { hour: Math.trunc(value / 100), minute: value % 100 });
        } else {
          if (!isFixed(2, 0, 23)) return BROKEN;
          zone.hour = read().value;
          if (!skip(":") || !isFixed(2, 0, 59)) return BROKEN;
          zone.minute = read().value;
        }
      }
      if (peek().kind !== "end") return BROKEN;
    }
    isIso = true;
    return END;
  };

  const expectsTime = (n) =>
    (time.length === 1 && within(n, 0, 59)) ||
    (time.length === 2 && within(n, 0, 59)) ||
    (time.length === 3 && within(n, 0, 999));
  const endTime = (n) => {
    for (; time.length < 4; n = 0) time.push(n);
  };
  let token = readIso();
  let hasNumber = day.length > 0;
  for (; token.kind !== "end"; token = read()) {
    if (token.kind === "number") {
      hasNumber = true;
      const n = token.value;
      if (skip(":")) {
        if (skip(":")) {
          if (time.length > 0) return NaN;
          time.push(n, 0);
        } else {
          if (time.length === 4) return NaN;
          time.push(n);
          skip(".");
        }
      } else if (skip(".") && expectsTime(n)) {
        time.push(n);
        if (peek().kind !== "number") return NaN;
        endTime(milliseconds(read()));
      } else if (zone.hour !== undefined && zone.minute === undefined && within(n, 0, 59)) {
        zone.minute = n;
      } else if (expectsTime(n)) {
        endTime(n);
        const { kind, isZ } = peek();
        if (!["end", "space", "+", "-"].includes(kind) && !isZ) return NaN;
      } else {
        if (day.length === 3) return NaN;
        day.push(n);
        skip("-");
      }
    } else if (["month", "half", "zone", "word", "t"].includes(token.kind)) {
      if (token.kind === "half" && time.length > 0) {
        half = token.value;
      } else if (token.kind === "month") {
        month = token.value;
        skip("-");
      } else if (token.kind === "zone" && hasNumber) {
        setZone(token.value);
      } else if (hasNumber || peek().kind === "number") {
        return NaN;
      }
    } else if (
      (token.kind === "+" || token.kind === "-") &&
      ((zone.hour === 0 && zone.minute === 0) || time.length > 0)
    ) {
      zone.sign = token.kind === "+" ? 1 : -1;
      const { value, length } = peek().kind === "number" ? read() : { value: 0, length: 0 };
      hasNumber = true;
      if (peek().kind === ":") Object.assign(zone, { hour: value, minute: undefined });
      else if (length === 1 || length === 2) Object.assign(zone, { hour: value, minute: 0 });
      else if (length === 3 || length === 4)
        Object.assign(zone, { hour: Math.trunc(value / 100), minute: value % 100 });
      else return NaN;
    } else if (["+", "-", ")"].includes(token.kind) && hasNumber) {
      return NaN;
    }
  }

  if (day.length === 0) return NaN;
  while (day.length < 3) day.push(1);
  const isDay = (n) => within(n, 1, 31);
  let [year, ofMonth, ofDay] = day;
  if (month !== undefined) {
    ofMonth = month;
    [year, ofDay] = isDay(day[0]) ? [day[1], day[0]] : [day[0], day[1]];
  } else if (!isIso && isDay(day[0])) {
    [ofMonth, ofDay, year] = day;
  }
  if (!isIso && within(year, 0, 49)) year += 2000;
  else if (!isIso && within(year, 50, 99)) year += 1900;
  if (!within(ofMonth, 1, 12) || !isDay(ofDay)) return NaN;
  while (time.length < 4) time.push(0);
  let [hour, minute, second, ms] = time;
  if (half !== undefined) {
    if (!within(hour, 0, 12)) return NaN;
    hour = (hour % 12) + half;
  }
  const isTime =
    within(hour, 0, 23) && within(minute, 0, 59) && within(second, 0, 59) && within(ms, 0, 999);
  if (!isTime && !(hour === 24 && minute === 0 && second === 0 && ms === 0)) return NaN;
  const date = new Date(0);
  date.setUTCFullYear(year, ofMonth - 1, ofDay);
  date.setUTCHours(hour, minute, second, ms);
  const offset =
    zone.sign === undefined ? 0 : zone.sign * ((zone.hour ?? 0) * 60 + (zone.minute ?? 0)) * 60_000;
  const found = date.getTime() - offset;
  return Math.abs(found) <= 8.64e15 && Math.abs(offset) <= 2 ** 31 * 1000 ? found : NaN;
}
