//! Two ways of doing the same thing, measured in turns.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// What a comparison must show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Ours takes at most this many times as long as the baseline.
    AtMostTimes(f64),
    /// Ours is at least this many times as fast as the baseline.
    TimesAsFast(f64),
    /// Ours does at least so many in a second.
    PerSecond(f64),
    /// Ours takes at most so many seconds.
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

/// In what a number is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// For one.
    Seconds,
    /// How many.
    PerSecond,
    /// Mebibytes.
    Mebibytes,
    /// A number of things.
    Count,
}

/// A number and its unit, as people read it.
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

/// The middle of what was measured, and the middle half of it.
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
    /// Of these numbers, of which there is at least one.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Spread { lower: at(1), median: at(2), upper: at(3) }
    }

    /// One number that was measured once.
    pub fn single(value: f64) -> Spread {
        Spread { lower: value, median: value, upper: value }
    }
}

/// How long calls are timed together, at least, where one is too short to be timed alone: shorter
/// than what a system lets run at once, so that most samples are whole on a machine that does other
/// things too.
const MIN_SAMPLE: Duration = Duration::from_micros(200);

/// One way.
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
    /// A call that does it once. Calls that are short are timed together.
    pub fn call(name: impl Into<String>, call: impl FnMut() + 'static) -> Side {
        Side {
            name: name.into(),
            work: Work::Calls { call: Box::new(call), together: 0 },
            seconds: Vec::new(),
        }
    }

    /// A call that does it and says how long it took, for one.
    pub fn timed(name: impl Into<String>, timed: impl FnMut() -> Duration + 'static) -> Side {
        Side { name: name.into(), work: Work::Timed(Box::new(timed)), seconds: Vec::new() }
    }

    /// How it is called.
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

/// How many calls take long enough to be timed. Warms up, too.
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

/// A stage: ours beside a baseline, or alone.
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
    /// Ours alone.
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

    /// Beside this.
    #[must_use]
    pub fn against(self, baseline: Side) -> Contest {
        Contest { baseline: Some(baseline), ..self }
    }

    /// What it must show.
    #[must_use]
    pub fn target(self, target: Target) -> Contest {
        Contest { target: Some(target), ..self }
    }

    /// Shown as how many in a second.
    #[must_use]
    pub fn as_rate(self) -> Contest {
        Contest { unit: Unit::PerSecond, ..self }
    }

    /// Measured so many times in a round: for what varies much and takes little time.
    #[must_use]
    pub fn repeat(self, repeat: u32) -> Contest {
        Contest { repeat, ..self }
    }

    /// Measured only in every nth round: for what takes long.
    #[must_use]
    pub fn every(self, every: u32) -> Contest {
        Contest { every, ..self }
    }

    /// Takes its part in this round. Who goes first changes, so that neither always finds what the
    /// other left.
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

    /// What came out.
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
            // Of the medians; the spread is that of the rounds.
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
    /// What was measured.
    pub stage: String,
    /// How it went with us.
    pub ours: Column,
    /// How it went otherwise.
    pub baseline: Option<Column>,
    /// How many times as long ours takes.
    pub ratio: Option<Spread>,
    /// What was to be shown.
    pub target: Option<Target>,
    /// What has to be known to read it.
    pub note: Option<String>,
}

/// One way in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    /// How it is called.
    pub name: String,
    /// For one, or how many in a second.
    pub spread: Spread,
    /// In what.
    pub unit: Unit,
}

impl Row {
    /// Something that was counted once.
    pub fn counted(stage: impl Into<String>, value: f64, unit: Unit) -> Row {
        let ours = Column { name: "ours".to_owned(), spread: Spread::single(value), unit };
        Row { stage: stage.into(), ours, baseline: None, ratio: None, target: None, note: None }
    }

    /// Beside this number.
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

    /// What it must show.
    #[must_use]
    pub fn with_target(self, target: Target) -> Row {
        Row { target: Some(target), ..self }
    }

    /// What has to be known to read it.
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
