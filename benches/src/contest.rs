//! Two implementations of the same thing, measured alternately.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// The target of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Ours takes at most this many times as long as the baseline.
    AtMostTimes(f64),
    /// Ours is at least this many times as fast as the baseline.
    TimesAsFast(f64),
    /// Ours does at least this many per second.
    PerSecond(f64),
    /// Ours takes at most this many seconds.
    Seconds(f64),
    /// The upper limit for ours, in its own unit.
    AtMost(f64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtMostTimes(times) => write!(f, "≤ {times} ×"),
            Target::TimesAsFast(times) => write!(f, "{times} × faster"),
            Target::PerSecond(rate) => write!(f, "≥ {}", Amount(*rate, Unit::PerSecond)),
            Target::Seconds(seconds) => write!(f, "≤ {}", Amount(*seconds, Unit::Seconds)),
            Target::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds per operation.
    Seconds,
    /// Operations per second.
    PerSecond,
    /// Mebibytes.
    Mebibytes,
    /// A plain number.
    Count,
}

/// A number with its unit, formatted for people.
#[derive(Debug, Clone, Copy)]
pub struct Amount(pub f64, pub Unit);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Amount(value, unit) = *self;
        match unit {
            Unit::Seconds if value < 1e-6 => write!(f, "{:.1} ns", value * 1e9),
            Unit::Seconds if value < 1e-3 => write!(f, "{:.1} µs", value * 1e6),
            Unit::Seconds if value < 1.0 => write!(f, "{:.1} ms", value * 1e3),
            Unit::Seconds => write!(f, "{value:.2} s"),
            Unit::PerSecond if value >= 1e6 => write!(f, "{:.2} M/s", value / 1e6),
            Unit::PerSecond => write!(f, "{value:.0}/s"),
            Unit::Mebibytes => write!(f, "{value:.1} MiB"),
            Unit::Count if value.fract() == 0.0 => write!(f, "{value}"),
            Unit::Count => write!(f, "{value:.2}"),
        }
    }
}

/// The median of the measurements, and the quartiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// A quarter is below this.
    pub lower: f64,
    /// Half is below this.
    pub median: f64,
    /// A quarter is above this.
    pub upper: f64,
}

impl Spread {
    /// The spread of these numbers, of which there must be at least one.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Spread { lower: at(1), median: at(2), upper: at(3) }
    }

    /// The spread of a single measurement.
    pub fn single(value: f64) -> Spread {
        Spread { lower: value, median: value, upper: value }
    }
}

/// The minimum duration of a sample; shorter calls are timed together. It is shorter than a
/// scheduler's time slice, so that most samples are undisturbed on a busy machine.
const MIN_SAMPLE: Duration = Duration::from_micros(200);

/// One implementation.
pub struct Side {
    name: String,
    work: Work,
    seconds: Vec<f64>,
}

enum Work {
    Calls { call: Box<dyn FnMut()>, together: u64 },
    Timed(Box<dyn FnMut() -> Duration>),
}

impl Side {
    /// An operation to call once per measurement. Short calls are timed together.
    pub fn call(name: impl Into<String>, call: impl FnMut() + 'static) -> Side {
        Side {
            name: name.into(),
            work: Work::Calls { call: Box::new(call), together: 0 },
            seconds: Vec::new(),
        }
    }

    /// An operation that measures itself, and returns the time of one.
    pub fn timed(name: impl Into<String>, timed: impl FnMut() -> Duration + 'static) -> Side {
        Side { name: name.into(), work: Work::Timed(Box::new(timed)), seconds: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn sample(&mut self) -> f64 {
        let seconds = match &mut self.work {
            Work::Timed(timed) => timed().as_secs_f64(),
            Work::Calls { call, together } => {
                if *together == 0 {
                    *together = calls_together(call);
                }
                let began = Instant::now();
                (0..*together).for_each(|_| call());
                began.elapsed().as_secs_f64() / *together as f64
            }
        };
        self.seconds.push(seconds);
        seconds
    }
}

/// The number of calls that take long enough to be timed. Also warms up.
fn calls_together(call: &mut dyn FnMut()) -> u64 {
    let mut together = 1;
    loop {
        let began = Instant::now();
        (0..together).for_each(|_| call());
        let took = began.elapsed();
        if took >= MIN_SAMPLE {
            return together;
        }
        let times = MIN_SAMPLE.as_secs_f64() / took.as_secs_f64().max(1e-9) * 1.1;
        together = (together as f64 * times.clamp(1.5, 1_000.0)).ceil() as u64;
    }
}

/// A stage: our implementation with or without a baseline.
pub struct Contest {
    stage: String,
    ours: Side,
    baseline: Option<Side>,
    target: Option<Target>,
    unit: Unit,
    repeat: u32,
    every: u32,
    ratios: Vec<f64>,
}

impl Contest {
    /// Our implementation without a baseline.
    pub fn new(stage: impl Into<String>, ours: Side) -> Contest {
        Contest {
            stage: stage.into(),
            ours,
            baseline: None,
            target: None,
            unit: Unit::Seconds,
            repeat: 1,
            every: 1,
            ratios: Vec::new(),
        }
    }

    /// Adds the baseline.
    #[must_use]
    pub fn against(self, baseline: Side) -> Contest {
        Contest { baseline: Some(baseline), ..self }
    }

    /// Sets the target.
    #[must_use]
    pub fn target(self, target: Target) -> Contest {
        Contest { target: Some(target), ..self }
    }

    /// Shows results as operations per second.
    #[must_use]
    pub fn as_rate(self) -> Contest {
        Contest { unit: Unit::PerSecond, ..self }
    }

    /// Measures this many times per round, for short operations with a high variance.
    #[must_use]
    pub fn repeat(self, repeat: u32) -> Contest {
        Contest { repeat, ..self }
    }

    /// Measures only in every nth round, for long operations.
    #[must_use]
    pub fn every(self, every: u32) -> Contest {
        Contest { every, ..self }
    }

    /// The name of the stage.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Runs this round. The order alternates, so that neither side always finds the caches as the
    /// other left them.
    pub fn round(&mut self, round: u32) {
        if !round.is_multiple_of(self.every) {
            return;
        }
        for n in 0..self.repeat {
            let Some(baseline) = &mut self.baseline else {
                self.ours.sample();
                continue;
            };
            let (ours, theirs) = if (round / self.every + n).is_multiple_of(2) {
                let ours = self.ours.sample();
                (ours, baseline.sample())
            } else {
                let theirs = baseline.sample();
                (self.ours.sample(), theirs)
            };
            self.ratios.push(ours / theirs);
        }
    }

    /// Ends the contest and returns its results.
    pub fn row(self) -> Row {
        let Contest { stage, ours, baseline, target, unit, repeat: _, every: _, ratios } = self;
        let column = |side: Side| {
            let measured = side.seconds.into_iter();
            let measured = match unit {
                Unit::PerSecond => measured.map(|seconds| 1.0 / seconds).collect(),
                Unit::Seconds | Unit::Mebibytes | Unit::Count => measured.collect(),
            };
            Column { name: side.name, spread: Spread::of(measured), unit }
        };
        let ours = column(ours);
        let baseline = baseline.map(column);
        let ratio = baseline.as_ref().map(|baseline| {
            // The ratio of the medians, with the spread of the rounds.
            let median = match unit {
                Unit::PerSecond => baseline.spread.median / ours.spread.median,
                Unit::Seconds | Unit::Mebibytes | Unit::Count => {
                    ours.spread.median / baseline.spread.median
                }
            };
            Spread { median, ..Spread::of(ratios) }
        });
        Row { stage, ours, baseline, ratio, target, note: None }
    }
}

impl fmt::Debug for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contest").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The measured stage.
    pub stage: String,
    /// Our result.
    pub ours: Column,
    /// The baseline's result.
    pub baseline: Option<Column>,
    /// The ratio of our time to the baseline's.
    pub ratio: Option<Spread>,
    /// The target.
    pub target: Option<Target>,
    /// A remark that explains the result.
    pub note: Option<String>,
}

/// The results of one side.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The time of one operation, or the number per second.
    pub spread: Spread,
    /// The unit of the numbers.
    pub unit: Unit,
}

impl Row {
    /// A number that was counted once.
    pub fn counted(stage: impl Into<String>, value: f64, unit: Unit) -> Row {
        let ours = Column { name: "ours".to_owned(), spread: Spread::single(value), unit };
        Row { stage: stage.into(), ours, baseline: None, ratio: None, target: None, note: None }
    }

    /// Adds the baseline's number.
    #[must_use]
    pub fn beside(mut self, name: &str, value: f64) -> Row {
        let unit = self.ours.unit;
        let ratio = match unit {
            Unit::PerSecond => value / self.ours.spread.median,
            Unit::Seconds | Unit::Mebibytes | Unit::Count => self.ours.spread.median / value,
        };
        self.ratio = Some(Spread::single(ratio));
        self.baseline = Some(Column { name: name.to_owned(), spread: Spread::single(value), unit });
        self
    }

    /// Sets the target.
    #[must_use]
    pub fn with_target(self, target: Target) -> Row {
        Row { target: Some(target), ..self }
    }

    /// A remark that explains the result.
    #[must_use]
    pub fn with_note(self, note: impl Into<String>) -> Row {
        Row { note: Some(note.into()), ..self }
    }

    /// Whether the target holds, if there is one.
    pub fn holds(&self) -> Option<bool> {
        let median = self.ours.spread.median;
        let ratio = self.ratio.map_or(f64::NAN, |ratio| ratio.median);
        Some(match self.target? {
            Target::AtMostTimes(times) => ratio <= times,
            Target::TimesAsFast(times) => 1.0 / ratio >= times,
            Target::PerSecond(rate) => median >= rate,
            Target::Seconds(seconds) => median <= seconds,
            Target::AtMost(most) => median <= most,
        })
    }
}
