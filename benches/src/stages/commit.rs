//! Durable commits, by one caller and by many.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Batch};
use audit_sink_s3::S3Sink;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::release::{open_undelivered, tokio_runtime};
use crate::contest::{Contest, Side, Target};
use crate::rivals::{PostgresLog, RawLog, SqliteLog};

/// The number of concurrent callers.
pub const CALLERS: usize = 64;

/// The number of commits of each caller per round.
const EACH: usize = 16;

/// A batch of one record of 1,200 bytes.
pub fn batch() -> Batch {
    Batch::from_lines(1_764_000_000_000, super::record().into()).expect("a line")
}

/// All callers commit `each` times, waiting for each commit before the next.
pub async fn all_commit(sink: &Arc<S3Sink>, batch: &Batch, each: usize) {
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (sink, batch) = (Arc::clone(sink), batch.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    sink.persist(batch.clone()).await.expect("a journal");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
}

/// The contests, with files below this directory, which should be on the disk to measure.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let runtime = Rc::new(tokio_runtime(2));
    let sink = runtime.block_on(open_undelivered(&directory.join("journal")));
    let mut contests = vec![
        one_caller(Rc::clone(&runtime), Arc::clone(&sink), directory),
        many(&runtime, &sink, sqlite(directory)),
    ];
    if let Some(postgres) = postgres(&runtime) {
        contests.push(many(&runtime, &sink, postgres));
    }
    contests
}

fn one_caller(runtime: Rc<Runtime>, sink: Arc<S3Sink>, directory: &Path) -> Contest {
    let batch = batch();
    let line = batch.lines().clone();
    let ours = Side::timed("journal", move || {
        let began = Instant::now();
        runtime.block_on(sink.persist(batch.clone())).expect("a journal");
        began.elapsed()
    });
    let mut raw = RawLog::create(&directory.join("raw"), 64 << 20);
    let raw = Side::timed("write and fdatasync", move || {
        let began = Instant::now();
        raw.append(&line);
        began.elapsed()
    });
    Contest::new("durable commit, one caller", ours)
        .against(raw)
        // In addition to the sync, which takes 130 to 170 µs, a commit wakes two threads, 20 µs
        // each.
        .target(Target::AtMostTimes(1.4))
        .repeat(20)
}

fn many(
    runtime: &Rc<Runtime>,
    sink: &Arc<S3Sink>,
    (rival, target): (Side, Option<Target>),
) -> Contest {
    let (runtime, sink, batch) = (Rc::clone(runtime), Arc::clone(sink), batch());
    let ours = Side::timed("journal", move || {
        let began = Instant::now();
        runtime.block_on(all_commit(&sink, &batch, EACH));
        began.elapsed() / (CALLERS * EACH) as u32
    });
    let contest =
        Contest::new(format!("durable commits, {CALLERS} callers"), ours).against(rival).as_rate();
    match target {
        Some(target) => contest.target(target),
        None => contest,
    }
}

fn sqlite(directory: &Path) -> (Side, Option<Target>) {
    const COUNT: u32 = 16;
    let log = SqliteLog::create(&directory.join("sqlite")).expect("SQLite");
    let record = super::record();
    let side = Side::timed("SQLite, an insert each", move || {
        let began = Instant::now();
        (0..COUNT).for_each(|_| log.append(&record));
        began.elapsed() / COUNT
    });
    (side, Some(Target::TimesAsFast(20.0)))
}

/// `None` without `DATABASE_URL`.
fn postgres(runtime: &Rc<Runtime>) -> Option<(Side, Option<Target>)> {
    let url = std::env::var("DATABASE_URL").ok().filter(|url| url.starts_with("postgres"))?;
    let log = match runtime.block_on(PostgresLog::connect(&url, CALLERS)) {
        Ok(log) => log,
        Err(error) => {
            println!("PostgreSQL at DATABASE_URL is left out: {error}");
            return None;
        }
    };
    let (runtime, record) = (Rc::clone(runtime), super::record());
    let side = Side::timed("PostgreSQL, an insert each", move || {
        let began = Instant::now();
        runtime.block_on(log.append(&record, 4)).expect("PostgreSQL");
        Duration::div_f64(began.elapsed(), (CALLERS * 4) as f64)
    });
    Some((side, None))
}
