//! A worker that takes jobs from a queue: each is a mutation without a client, and leaves the queue
//! once it has committed.
//!
//! ```toml
//! [dependencies]
//! audit-runtime = "0.1"
//! audit-sink-s3 = "0.1" # here: audit-core with the feature test-util, for MemorySink
//! tokio = { version = "1", features = ["macros", "rt", "sync", "time"] }
//! ```
//!
//! `cargo run -p audit-runtime --example worker`
//!
//! It also shows how to implement [`Transaction`] for a database, here for accounts in memory with
//! optimistic transactions.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit_core::testing::MemorySink;
use audit_runtime::{
    AuditError, AuditLog, AuditRuntime, FunctionError, Mutation, MutationError, ReleaseError,
    Transaction, Var, body,
};

/// Accounts, each with its version and balance.
#[derive(Debug, Clone, Default)]
struct Database(Arc<Mutex<BTreeMap<String, (u64, i64)>>>);

/// A transaction: the versions that it read and its pending writes.
struct Tx {
    database: Database,
    read: BTreeMap<String, u64>,
    written: BTreeMap<String, i64>,
}

/// An account changed after the transaction read it.
#[derive(Debug)]
struct Conflict(String);

impl Database {
    fn begin(&self) -> Tx {
        Tx { database: self.clone(), read: BTreeMap::new(), written: BTreeMap::new() }
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<String, (u64, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tx {
    fn balance(&mut self, account: &str) -> i64 {
        let (version, balance) = self.database.accounts().get(account).copied().unwrap_or_default();
        self.read.entry(account.to_owned()).or_insert(version);
        *self.written.get(account).unwrap_or(&balance)
    }
}

impl Transaction for Tx {
    type Error = Conflict;

    async fn commit(self) -> Result<(), Conflict> {
        let mut accounts = self.database.accounts();
        for (account, version) in self.read {
            if accounts.get(&account).copied().unwrap_or_default().0 != version {
                return Err(Conflict(account));
            }
        }
        for (account, balance) in self.written {
            let (version, current) = accounts.entry(account).or_default();
            *version += 1;
            *current = balance;
        }
        Ok(())
    }

    async fn rollback(self) -> Result<(), Conflict> {
        Ok(())
    }

    fn is_conflict(_: &Conflict) -> bool {
        true
    }
}

/// Why a transfer failed.
#[derive(Debug)]
enum Failure {
    TooLittle { balance: i64 },
    Conflict(Conflict),
    Audit(AuditError),
}

impl FunctionError<Conflict> for Failure {
    fn database_error(&self) -> Option<&Conflict> {
        match self {
            Failure::Conflict(conflict) => Some(conflict),
            Failure::TooLittle { .. } | Failure::Audit(_) => None,
        }
    }
}

/// A job, which stays in the queue until it succeeds or fails permanently.
#[derive(Debug, Clone)]
struct Transfer {
    from: &'static str,
    to: &'static str,
    amount: i64,
}

/// The job's function and its log. The job names its submitter, since a worker has no client.
async fn transfer(
    log: &AuditLog<'_, Mutation>,
    tx: &mut Tx,
    job: &Transfer,
) -> Result<(), Failure> {
    let Transfer { from, to, amount } = *job;
    let balance = tx.balance(from);
    log.audit(&body!({
        "action": "transfer", "from": from, "to": to, "amount": amount,
        "outcome": if balance < amount { "too little" } else { "to be committed" },
        "requestId": Var::REQUEST_ID, "ip": Var::IP, "at": Var::NOW,
    }))
    .map_err(Failure::Audit)?;
    if balance < amount {
        return Err(Failure::TooLittle { balance });
    }
    // Lets another worker run, which may change what was read.
    tokio::task::yield_now().await;
    tx.written.insert(from.to_owned(), balance - amount);
    let received = tx.balance(to) + amount;
    tx.written.insert(to.to_owned(), received);
    Ok(())
}

type Queue = Arc<Mutex<VecDeque<Transfer>>>;

async fn work(worker: usize, runtime: AuditRuntime, database: Database, queue: Queue) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(job) = next() {
        let request = runtime.new_request();
        let run = runtime.run_mutation("transfer", &request, async |execution| {
            let mut tx = database.begin();
            let result = transfer(&execution.log(), &mut tx, &job).await;
            Ok(execution.seal_transaction(tx, result))
        });
        match run.await {
            Ok(()) => println!("worker {worker}: {job:?} is done"),
            // The log is not durable, or there were too many conflicts: retry later.
            Err(
                error @ (MutationError::Release(ReleaseError::NotDurable(_))
                | MutationError::Conflict { .. }),
            ) => {
                println!("worker {worker}: {job:?} goes back into the queue: {error}");
                queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
            }
            Err(error) => {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                println!("worker {worker}: {job:?} failed for good: {error}: {source}");
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let sink = Arc::new(MemorySink::new());
    let runtime = AuditRuntime::new(Arc::clone(&sink) as _);
    let database = Database::default();
    database.accounts().insert("ada".to_owned(), (0, 100));
    let jobs = [("ada", "bob", 30), ("ada", "eve", 50), ("bob", "eve", 500), ("ada", "bob", 20)];
    let jobs = jobs.map(|(from, to, amount)| Transfer { from, to, amount });
    let queue: Queue = Arc::new(Mutex::new(jobs.into()));
    let workers: Vec<_> = (1..=2)
        .map(|n| tokio::spawn(work(n, runtime.clone(), database.clone(), Arc::clone(&queue))))
        .collect();
    for worker in workers {
        worker.await?;
    }
    println!("audit logs, one for each attempt:");
    for line in sink.lines() {
        println!("  {line}");
    }
    let balances: Vec<_> =
        database.accounts().iter().map(|(name, (_, balance))| (name.clone(), *balance)).collect();
    println!("balances: {balances:?}");
    let attempts = sink.lines().len();
    assert!(attempts > 4, "two workers conflicted: {attempts} attempts");
    assert_eq!(balances.iter().map(|(_, balance)| balance).sum::<i64>(), 100);
    Ok(())
}

impl From<Conflict> for Failure {
    fn from(conflict: Conflict) -> Failure {
        Failure::Conflict(conflict)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {} was changed meanwhile", self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::TooLittle { balance } => write!(f, "the account holds {balance}"),
            Failure::Conflict(conflict) => conflict.fmt(f),
            Failure::Audit(error) => error.fmt(f),
        }
    }
}

impl Error for Conflict {}
impl Error for Failure {}
