// Dates with the names of months and days, in languages other than English (US). Loaded when a
// function first shows such a date.

const ENGLISH = {
  months: {
    long: "January February March April May June July August September October November December",
    short: "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec",
  },
  days: {
    long: "Sunday Monday Tuesday Wednesday Thursday Friday Saturday",
    short: "Sun Mon Tue Wed Thu Fri Sat",
  },
  at: "at",
};
const SPANISH = {
  months: {
    long: "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre " +
      "diciembre",
    short: "ene feb mar abr may jun jul ago sept oct nov dic",
  },
  days: {
    long: "domingo lunes martes miércoles jueves viernes sábado",
    short: "dom lun mar mié jue vie sáb",
  },
};

/// For each language, by tag in lower case: the pattern of a date with a long name of the month,
/// and with a short one. After `|` is the pattern without a year, if it is not the same. `w` is the
/// day of the week, and `~` the text `between` day, month and year. `at` comes before the time
/// after a long name. With `isNotAlone`, short names are different without a day, and those are not
/// here.
const ROWS = [
  ["en-gb", { ...ENGLISH, long: "w, d M y|w d M", short: "w, d M y|w d M" }],
  ["en-in", { ...ENGLISH, long: "w, d M y", short: "d M y" }],
  ["en-ie", { ...ENGLISH, long: "w d M y|w, d M", short: "w d M y|w, d M" }],
  [
    "en-au",
    {
      ...ENGLISH, long: "w d M y", short: "w, d M y", isNotAlone: true,
      months: { ...ENGLISH.months, short: "Jan Feb Mar Apr May June July Aug Sept Oct Nov Dec" },
    },
  ],
  ["es es-es", { ...SPANISH, long: "w, d~M~y", short: "w, d M y", between: " de " }],
  ["es-cl", { ...SPANISH, long: "w, d~M~y|M", short: "M y", between: " de ", isNotAlone: true }],
  [
    "fr fr-fr",
    {
      long: "w d M y", short: "w d M y", at: "à",
      months: {
        long: "janvier février mars avril mai juin juillet août septembre octobre novembre " +
          "décembre",
        short: "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
      },
      days: {
        long: "dimanche lundi mardi mercredi jeudi vendredi samedi",
        short: "dim. lun. mar. mer. jeu. ven. sam.",
      },
    },
  ],
  [
    "de de-de",
    {
      long: "w, d. M y", short: "w, d. M y", at: "um", isNotAlone: true,
      months: {
        long: "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        short: "Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez.",
      },
      days: {
        long: "Sonntag Montag Dienstag Mittwoch Donnerstag Freitag Samstag",
        short: "So. Mo. Di. Mi. Do. Fr. Sa.",
      },
    },
  ],
  [
    "it it-it",
    {
      long: "w d M y", short: "w d M y", at: "alle ore",
      months: {
        long: "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre " +
          "novembre dicembre",
        short: "gen feb mar apr mag giu lug ago set ott nov dic",
      },
      days: {
        long: "domenica lunedì martedì mercoledì giovedì venerdì sabato",
        short: "dom lun mar mer gio ven sab",
      },
    },
  ],
  [
    "pt pt-br",
    {
      long: "w, d~M~y", short: "w, d~M~y", between: " de ", at: "às",
      months: {
        long: "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro " +
          "dezembro",
        short: "jan. fev. mar. abr. mai. jun. jul. ago. set. out. nov. dez.",
      },
      days: {
        long: "domingo segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado",
        short: "dom. seg. ter. qua. qui. sex. sáb.",
      },
    },
  ],
  [
    "nl nl-nl",
    {
      long: "w d M y", short: "w d M y", at: "om",
      months: {
        long: "januari februari maart april mei juni juli augustus september oktober november " +
          "december",
        short: "jan feb mrt apr mei jun jul aug sep okt nov dec",
      },
      days: {
        long: "zondag maandag dinsdag woensdag donderdag vrijdag zaterdag",
        short: "zo ma di wo do vr za",
      },
    },
  ],
];
const TEXTS = new Map(ROWS.flatMap(([tags, row]) => tags.split(" ").map((tag) => [tag, row])));

/// How a date with these fields is shown: a pattern, and the names and blanks for it. Returns
/// undefined for a language or a choice of fields that has no row here.
export function namedPattern(locale, { weekday, year, month, day }) {
  const row = TEXTS.get(locale);
  const width = month ?? weekday;
  if (row === undefined || !["long", "short"].includes(width)) return undefined;
  const isAlone = day === undefined && (month === undefined || year === undefined);
  if (isAlone && width === "short" && row.isNotAlone) return undefined;
  const [whole, yearless = whole] = row[width].split("|");
  let pattern = year === undefined ? yearless.replace(/[, ~]*y$/, "") : whole;
  if (weekday === undefined) pattern = pattern.replace(/^w,? /, "");
  if (day === undefined) pattern = pattern.slice(pattern.indexOf("M"));
  if (month === undefined) pattern = "w";
  const shown = { w: weekday, d: day, M: month, y: year };
  const isWhole = Object.keys(shown)
    .every((each) => pattern.includes(each) === (shown[each] !== undefined));
  if (!isWhole || (weekday ?? width) !== width) return undefined;
  const at = width === "short" ? ", " : row.at === undefined ? undefined : ` ${row.at} `;
  const names = { months: row.months[width].split(" "), days: row.days[width].split(" ") };
  return { ...names, pattern, between: row.between ?? " ", at };
}
