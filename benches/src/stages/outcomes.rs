//! The cost of outcomes: the same mutations with and without them, alternately.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use audit_core::AuditSink;
use audit_runtime::{AuditRuntime, Execution, Mutation, Transaction};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use tokio::time::Instant;

use super::commit::CALLERS;
use super::release::{open_undelivered, processor_time, tokio_runtime};
use crate::bodies::View;
use crate::contest::{Contest, Side, Target};

/// The number of mutations of each caller per round: enough for outcomes to fill batches, as on a
/// busy host.
const EACH: usize = 256;

/// The number of mutations of each caller per round on SQLite, which has one writer and syncs for
/// each mutation.
const EACH_ON_SQLITE: usize = 8;

/// A database in memory: documents of a KB by number.
#[derive(Clone, Default)]
struct Documents(Arc<Mutex<HashMap<u64, Vec<u8>>>>);

struct Write {
    documents: Documents,
    id: u64,
    document: Vec<u8>,
}

impl Transaction for Write {
    type Error = Infallible;

    async fn commit(self) -> Result<(), Infallible> {
        let mut documents = self.documents.0.lock().unwrap_or_else(PoisonError::into_inner);
        documents.insert(self.id, self.document);
        Ok(())
    }

    async fn rollback(self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_conflict(error: &Infallible) -> bool {
        match *error {}
    }
}

#[derive(Clone)]
enum Database {
    Memory(Documents),
    Sqlite(SqlitePool),
}

impl Database {
    async fn mutate(&self, runtime: &AuditRuntime, id: u64) {
        let request = runtime.new_request();
        let document = vec![b'x'; 1_024];
        match self {
            Database::Memory(documents) => {
                let attempt = async |execution: Execution<Mutation>| {
                    execution.log().audit(&View::of_one_kilobyte()).expect("a body compiles");
                    let (documents, document) = (documents.clone(), document.clone());
                    let write = Write { documents, id, document };
                    Ok::<_, Infallible>(execution.seal_transaction(write, Ok::<_, Infallible>(())))
                };
                let ran = runtime.run_mutation("documents:update", &request, attempt).await;
                ran.expect("it commits");
            }
            Database::Sqlite(pool) => {
                let attempt = async |execution: Execution<Mutation>| {
                    execution.log().audit(&View::of_one_kilobyte()).expect("a body compiles");
                    let mut tx = audit_sqlx::begin_with(pool, "BEGIN IMMEDIATE").await?;
                    let put = "INSERT INTO documents VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = $2";
                    let put = sqlx::query(put).bind(id as i64).bind(&document[..]);
                    let result = put.execute(&mut *tx).await.map(drop);
                    Ok::<_, sqlx::Error>(execution.seal_transaction(tx, result))
                };
                let ran = runtime.run_mutation("documents:update", &request, attempt).await;
                ran.expect("it commits");
            }
        }
    }
}

async fn sqlite(path: &Path) -> Result<Database, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    // One writer at a time: more connections only wait for each other.
    let pool = sqlx::pool::PoolOptions::new().max_connections(1).connect_with(options).await?;
    sqlx::query("CREATE TABLE documents (id INTEGER PRIMARY KEY, text BLOB NOT NULL)")
        .execute(&pool)
        .await?;
    Ok(Database::Sqlite(pool))
}

/// All callers run their mutations sequentially, and the outcomes become durable.
async fn all_mutate(
    runtime: &AuditRuntime,
    database: &Database,
    next: &Arc<AtomicU64>,
    each: usize,
) {
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (runtime, database, next) = (runtime.clone(), database.clone(), Arc::clone(next));
            tokio::spawn(async move {
                for _ in 0..each {
                    let id = next.fetch_add(1, Ordering::Relaxed) % 10_000;
                    database.mutate(&runtime, id).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
    runtime.drain_outcomes().await;
}

/// The time since some moment.
type Clock = fn() -> Duration;

fn elapsed() -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed()
}

/// Mutations by many callers into one journal.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let tokio = Rc::new(tokio_runtime(2));
    let sink = tokio.block_on(open_undelivered(&directory.join("outcomes")));
    let sqlite = tokio.block_on(sqlite(&directory.join("documents.sqlite"))).expect("SQLite");
    let next = Arc::new(AtomicU64::new(0));
    let side = |name: &str, database: &Database, each: usize, outcomes: bool, clock: Clock| {
        let builder = AuditRuntime::builder(Arc::clone(&sink) as Arc<dyn AuditSink>);
        let runtime = builder.with_provenance(true).with_outcomes(outcomes).build();
        let (tokio, database, next) = (Rc::clone(&tokio), database.clone(), Arc::clone(&next));
        Side::timed(name, move || {
            let began = clock();
            tokio.block_on(all_mutate(&runtime, &database, &next, each));
            (clock() - began) / (CALLERS * each) as u32
        })
    };
    let contest = |what: String, database: &Database, each: usize, clock: Clock| {
        let ours = side("ours", database, each, true, clock);
        let without = side("without outcomes", database, each, false, clock);
        Contest::new(what, ours).against(without)
    };
    let named = |what: &str| format!("mutations {what} with outcomes, {CALLERS} callers");
    let memory = Database::Memory(Documents::default());
    let one = "processor time of a mutation with outcomes".to_owned();
    let mut contests = vec![
        contest(named("in memory"), &memory, EACH, elapsed).as_rate(),
        contest(named("on SQLite"), &sqlite, EACH_ON_SQLITE, elapsed).as_rate(),
    ];
    if processor_time() > Duration::ZERO {
        // Processor time limits the rate on a busy machine. The rates themselves depend on the
        // disk, and vary by far more than this.
        let contest = contest(one, &memory, EACH, processor_time);
        contests.push(contest.target(Target::AtMostTimes(1.03)));
    }
    contests
}
