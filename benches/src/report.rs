//! Runs contests in rounds and reports the results: as a table, as JSON, and as plots.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::contest::{Amount, Contest, Row, Spread};

/// The minimum number of rounds, however long they take: a median of fewer means little.
const MIN_ROUNDS: u32 = 3;

/// Runs all contests round by round, so that changes of the machine affect all of them.
pub fn run(mut contests: Vec<Contest>, time: Duration) -> Vec<Row> {
    let began = Instant::now();
    let mut round = 0;
    while round < MIN_ROUNDS || began.elapsed() < time {
        contests.iter_mut().for_each(|contest| contest.round(round));
        round += 1;
    }
    contests.into_iter().map(Contest::row).collect()
}

/// A formatted line of the table.
struct Shown([String; 6]);

fn shown(row: &Row) -> Shown {
    let Row { stage, ours, baseline, ratio, target, note: _ } = row;
    let amount =
        |column: &crate::contest::Column| Amount(column.spread.median, column.unit).to_string();
    let others =
        baseline.as_ref().map(|baseline| format!("{} {}", amount(baseline), baseline.name));
    let ratio = ratio.map(|Spread { lower, median, upper }| match lower == upper {
        true => ratio_text(median),
        false => format!("{} ({} to {})", ratio_text(median), ratio_text(lower), ratio_text(upper)),
    });
    let holds = row.holds().map(|holds| if holds { "yes" } else { "NO" });
    Shown([
        stage.clone(),
        amount(ours),
        others.unwrap_or_default(),
        ratio.unwrap_or_default(),
        target.map(|target| target.to_string()).unwrap_or_default(),
        holds.unwrap_or_default().to_owned(),
    ])
}

/// The ratio of our time to the baseline's, formatted.
fn ratio_text(ratio: f64) -> String {
    match ratio {
        ratio if ratio < 0.1 => format!("1/{:.0}", 1.0 / ratio),
        ratio => format!("{ratio:.2}"),
    }
}

/// The table. A ratio is that of our time to the baseline's, with the quartiles of the rounds.
pub fn table(rows: &[Row]) -> String {
    let titles = ["stage", "ours", "beside", "ratio", "target", "holds"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(Shown(titles)).chain(rows.iter().map(shown)).collect();
    let width = |column: usize| {
        lines.iter().map(|Shown(cells)| cells[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut table = String::new();
    for (n, Shown(cells)) in lines.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
        if n == 0 {
            let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            table.push_str(&rule.join("  "));
            table.push('\n');
        }
    }
    for row in rows {
        if let Some(note) = &row.note {
            let _ = writeln!(table, "{}: {note}", row.stage);
        }
    }
    table
}

/// The machine, as it describes itself.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor.
    pub processor: String,
    /// The number of usable cores.
    pub cores: usize,
    /// The operating system.
    pub system: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: format!("{} {}", std::env::consts::OS, version.trim()),
        }
    }
}

#[derive(Serialize)]
struct File<'a> {
    machine: &'a Machine,
    rows: Vec<FileRow<'a>>,
}

#[derive(Serialize)]
struct FileRow<'a> {
    #[serde(flatten)]
    row: &'a Row,
    holds: Option<bool>,
}

/// Writes `report.json`, `report.txt`, `times.svg` and `targets.svg`.
///
/// # Errors
///
/// If the directory cannot be written to.
pub fn write(directory: &Path, machine: &Machine, rows: &[Row]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let file = File {
        machine,
        rows: rows.iter().map(|row| FileRow { row, holds: row.holds() }).collect(),
    };
    std::fs::write(directory.join("report.json"), serde_json::to_vec_pretty(&file)?)?;
    std::fs::write(directory.join("report.txt"), table(rows))?;
    std::fs::write(directory.join("times.svg"), times(rows))?;
    std::fs::write(directory.join("targets.svg"), targets(rows))
}

const LINE: f64 = 34.0;
const LABELS: f64 = 380.0;
const PLOT: f64 = 560.0;
const TOP: f64 = 40.0;
const OURS: &str = "#2a6f97";
const OTHERS: &str = "#b9a37a";

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{escaped}</text>"#);
}

fn bar(svg: &mut String, y: f64, width: f64, colour: &str) {
    let width = width.max(1.0);
    let _ = writeln!(
        svg,
        r#"<rect x="{LABELS}" y="{y:.1}" width="{width:.1}" height="11" fill="{colour}"/>"#
    );
}

fn document(height: f64, title: &str, body: &str) -> String {
    let width = LABELS + PLOT + 160.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 10.0, 22.0, "start", title);
    svg.push_str(body);
    svg.push_str("</svg>\n");
    svg
}

/// Plots the times of both sides on a logarithmic scale.
fn times(rows: &[Row]) -> String {
    use crate::contest::Unit;
    let seconds = |column: &crate::contest::Column| match column.unit {
        Unit::Seconds => Some(column.spread.median),
        Unit::PerSecond => Some(1.0 / column.spread.median),
        Unit::Mebibytes | Unit::Count => None,
    };
    let shown: Vec<_> = rows.iter().filter_map(|row| Some((row, seconds(&row.ours)?))).collect();
    let all = shown.iter().flat_map(|(row, ours)| {
        [Some(*ours), row.baseline.as_ref().and_then(seconds)].into_iter().flatten()
    });
    let (least, most) =
        all.fold((f64::MAX, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
    let (low, high) = ((least / 2.0).log10(), most.log10());
    let width = |seconds: f64| (seconds.log10() - low) / (high - low).max(1e-9) * PLOT;
    let mut body = String::new();
    for (n, (row, ours)) in shown.iter().enumerate() {
        let y = TOP + n as f64 * LINE;
        text(&mut body, LABELS - 8.0, y + 15.0, "end", &row.stage);
        bar(&mut body, y, width(*ours), OURS);
        text(
            &mut body,
            LABELS + width(*ours) + 5.0,
            y + 10.0,
            "start",
            &Amount(*ours, Unit::Seconds).to_string(),
        );
        if let Some(baseline) = &row.baseline
            && let Some(theirs) = seconds(baseline)
        {
            bar(&mut body, y + 13.0, width(theirs), OTHERS);
            let label = format!("{} {}", Amount(theirs, Unit::Seconds), baseline.name);
            text(&mut body, LABELS + width(theirs) + 5.0, y + 23.0, "start", &label);
        }
    }
    document(
        TOP + shown.len() as f64 * LINE + 10.0,
        "time for one, logarithmic: ours above what it is measured beside",
        &body,
    )
}

/// Plots the distance of each stage from its target. Left of the line is better.
fn targets(rows: &[Row]) -> String {
    use crate::contest::Target;
    let share = |row: &Row, ratio: f64| {
        let median = row.ours.spread.median;
        Some(match row.target? {
            Target::AtMostTimes(times) => ratio / times,
            Target::TimesAsFast(times) => ratio * times,
            Target::PerSecond(rate) => rate / median,
            Target::Seconds(seconds) => median / seconds,
            Target::AtMost(most) => (median + 0.01) / (most + 0.01),
        })
    };
    let ratio = |row: &Row| row.ratio.map_or(f64::NAN, |ratio| ratio.median);
    let shown: Vec<_> =
        rows.iter().filter_map(|row| Some((row, share(row, ratio(row))?))).collect();
    let scale = PLOT / 1.5;
    let height = TOP + shown.len() as f64 * LINE + 10.0;
    let mut body = String::new();
    for (n, (row, middle)) in shown.iter().enumerate() {
        let y = TOP + n as f64 * LINE;
        let colour = if *middle <= 1.0 { OURS } else { "#b23a48" };
        text(&mut body, LABELS - 8.0, y + 10.0, "end", &row.stage);
        bar(&mut body, y, (middle * scale).min(PLOT), colour);
        if let Some(Spread { lower, median: _, upper }) = row.ratio
            && let (Some(from), Some(to)) = (share(row, lower), share(row, upper))
        {
            let (from, to) = (LABELS + (from * scale).min(PLOT), LABELS + (to * scale).min(PLOT));
            let _ = writeln!(
                body,
                r#"<line x1="{from:.1}" x2="{to:.1}" y1="{0:.1}" y2="{0:.1}" stroke="black" stroke-width="2"/>"#,
                y + 5.5
            );
        }
        let target = row.target.map(|target| target.to_string()).unwrap_or_default();
        text(&mut body, LABELS + (middle * scale).min(PLOT) + 8.0, y + 10.0, "start", &target);
    }
    let x = LABELS + scale;
    let _ = writeln!(
        body,
        r#"<line x1="{x}" x2="{x}" y1="{TOP}" y2="{height}" stroke="black" stroke-dasharray="4 3"/>"#
    );
    document(height, "share of what the target allows: up to the line holds", &body)
}
