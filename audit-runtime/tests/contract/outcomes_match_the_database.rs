//! C17: with outcomes on, each attempt that logged something has at most one outcome. It matches
//! the database and follows the attempt's logs; a committed attempt lacks it only if the database
//! did not report the commit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use audit_core::testing::{MemoryFault, poll_at_most};
use audit_runtime::{AuditedTransaction, Execution, Mutation, RetryPolicy, body};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::database::{Commits, DbError, Receipts, Tx};
use crate::host::*;

/// What the first attempt does. A second one commits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Succeeds,
    LogsNothing,
    /// Another transaction commits first.
    IsOvertaken,
    Fails,
    Conflicts,
    FailsUnsealed,
    ConflictsUnsealed,
    FailsAfterItsSeal,
    Panics,
    PanicsAfterItsSeal,
    IsRefusedALog,
    IsRefusedALogAndConflicts,
    SealsAnother,
    ReleasesItself,
    SettlesItself,
    /// Settles in a task of its own, before (`first`) or after the attempt fails.
    SettlesBeside {
        first: bool,
    },
    /// Settles once the attempt has failed.
    SettlesLater,
}

use Way::*;

const WAYS: [Way; 18] = [
    Succeeds,
    LogsNothing,
    IsOvertaken,
    Fails,
    Conflicts,
    FailsUnsealed,
    ConflictsUnsealed,
    FailsAfterItsSeal,
    Panics,
    PanicsAfterItsSeal,
    IsRefusedALog,
    IsRefusedALogAndConflicts,
    SealsAnother,
    ReleasesItself,
    SettlesItself,
    SettlesBeside { first: true },
    SettlesBeside { first: false },
    SettlesLater,
];

/// How the transaction of the first attempt ends, if it gets that far.
const ENDS: [(Receipts, Commits); 9] = [
    (Receipts::Kept, Commits::Succeed),
    (Receipts::Kept, Commits::Fail),
    (Receipts::Kept, Commits::FailAfterwards),
    (Receipts::Kept, Commits::Break),
    (Receipts::Kept, Commits::Panic),
    (Receipts::Kept, Commits::PanicAfterwards),
    (Receipts::Fail, Commits::Succeed),
    (Receipts::Conflict, Commits::Succeed),
    (Receipts::Panic, Commits::Succeed),
];

#[derive(Debug, Clone, Copy)]
struct Case {
    way: Way,
    end: (Receipts, Commits),
    /// The fault of the sink's first call.
    fault: MemoryFault,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        let faults = [&[MemoryFault::None], &FAULTS[..]].concat();
        let settles = |way: Way| {
            let settling = [Succeeds, SettlesItself, SettlesLater];
            settling.contains(&way) || matches!(way, SettlesBeside { .. })
        };
        WAYS.into_iter().flat_map(move |way| {
            let ends = if settles(way) { &ENDS[..] } else { &ENDS[..1] };
            let faults = faults.clone();
            let with = move |end| faults.clone().into_iter().map(move |fault| (end, fault));
            let cases = ends.iter().flat_map(move |end| with(*end));
            cases.map(move |(end, fault)| Case { way, end, fault })
        })
    }

    /// Polls the mutation at most this many times, then runs the tasks it left behind to their end.
    async fn run(self, polls: usize) -> (Host, bool) {
        let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
        let host = Host::with(|settings| settings.with_outcomes(true).with_retry_policy(policy));
        host.sink.script([self.fault]);
        let kept = RefCell::default();
        let (request, attempt) = (alice(), |execution| self.attempt(&host, &kept, execution));
        let run = host.runtime.run_mutation("f", &request, attempt);
        let answered = poll_at_most(polls, AssertUnwindSafe(run).catch_unwind()).await.is_some();
        if let Some(execution) = kept.take() {
            let sealed = execution.seal_transaction(host.database.begin(), Ok::<_, DbError>(()));
            drop(AssertUnwindSafe(sealed.settle()).catch_unwind().await);
        }
        // Waits for tasks that the attempt left behind.
        for _ in 0..100 {
            yield_now().await;
        }
        let drain = timeout(Duration::from_secs(3_600), host.runtime.drain_outcomes());
        let drained = drain.await.is_ok();
        assert!(drained || self.fault != MemoryFault::None, "{self:?}");
        (host, answered)
    }

    async fn attempt(
        self,
        host: &Host,
        kept: &RefCell<Option<Execution<Mutation>>>,
        execution: Execution<Mutation>,
    ) -> Result<AuditedTransaction<Tx, ()>, DbError> {
        let mut tx = host.database.begin();
        let is_first = host.database.attempts() == 1;
        let (receipts, commits) = if is_first { self.end } else { ENDS[0] };
        host.database.let_receipts(receipts);
        host.database.let_commits(commits);
        let way = if is_first { self.way } else { Succeeds };
        if way != LogsNothing {
            execution.log().audit(&everyone())?;
        }
        yield_now().await;
        tx.add(1);
        let done = Ok::<_, DbError>(());
        match way {
            Succeeds | LogsNothing => {}
            IsOvertaken => host.database.interfere(),
            Fails => return Ok(execution.seal_transaction(tx, Err(DbError::Function))),
            Conflicts => return Ok(execution.seal_transaction(tx, Err(DbError::Conflict))),
            FailsUnsealed => return Err(DbError::Function),
            ConflictsUnsealed => return Err(DbError::Conflict),
            FailsAfterItsSeal => {
                drop(execution.seal_transaction(tx, done));
                return Err(DbError::Function);
            }
            Panics => resume_unwind(Box::new("planned")),
            PanicsAfterItsSeal => {
                let _sealed = execution.seal_transaction(tx, done);
                resume_unwind(Box::new("planned"))
            }
            IsRefusedALog => drop(execution.log().audit(&[1])),
            IsRefusedALogAndConflicts => {
                drop(execution.log().audit(&[1]));
                return Ok(execution.seal_transaction(tx, Err(DbError::Conflict)));
            }
            SealsAnother => {
                let other = host.runtime.mutation("g", bob());
                other.log().audit(&everyone())?;
                return Ok(other.seal_transaction(tx, done));
            }
            ReleasesItself => {
                drop(execution.seal(()).release(&alice()).await);
                return Err(DbError::Function);
            }
            SettlesItself => {
                drop(execution.seal_transaction(tx, done).settle().await);
                return Err(DbError::Function);
            }
            SettlesBeside { first } => {
                tokio::spawn(execution.seal_transaction(tx, done).settle());
                if first {
                    yield_now().await;
                }
                return Err(DbError::Function);
            }
            SettlesLater => {
                kept.replace(Some(execution));
                return Err(DbError::Function);
            }
        }
        Ok(execution.seal_transaction(tx, done))
    }

    /// Whether the database committed the first attempt without reporting it.
    fn hides_a_commit(self) -> bool {
        [Commits::FailAfterwards, Commits::PanicAfterwards].contains(&self.end.1)
    }

    /// The expected outcomes of both attempts, if the sink has no fault and the caller stays.
    fn expected(self) -> Vec<&'static str> {
        let settled: &[&str] = match self.end {
            (Receipts::Fail | Receipts::Panic, _) | (_, Commits::Break) => &["rolled back"],
            (Receipts::Conflict, _) => &["conflict"],
            (Receipts::Kept, Commits::Succeed) => &["committed"],
            (Receipts::Kept, _) => &[],
        };
        match self.way {
            Succeeds if self.end.0 == Receipts::Conflict => vec!["conflict", "committed"],
            Succeeds | SettlesItself | SettlesBeside { first: true } => settled.to_vec(),
            LogsNothing => vec![],
            IsOvertaken | Conflicts | ConflictsUnsealed => vec!["conflict", "committed"],
            SealsAnother => vec!["rolled back", "rolled back"],
            Fails
            | FailsUnsealed
            | FailsAfterItsSeal
            | Panics
            | PanicsAfterItsSeal
            | IsRefusedALog
            | IsRefusedALogAndConflicts
            | ReleasesItself
            | SettlesBeside { first: false }
            | SettlesLater => vec!["failed"],
        }
    }
}

/// The identity of an attempt in records.
type Named = (String, u64);

fn named(audit: &Value) -> Named {
    (audit["execution"].as_str().unwrap().to_owned(), audit["attempt"].as_u64().unwrap())
}

/// Checks the outcomes in these records. `committed` are the attempts that the database committed,
/// and whether it reported so.
fn check(records: &[Value], committed: &BTreeMap<Named, bool>) -> Result<(), String> {
    let mut logged: BTreeMap<Named, usize> = BTreeMap::new();
    let mut outcomes: BTreeMap<Named, (&str, usize)> = BTreeMap::new();
    for (n, record) in records.iter().enumerate() {
        let (audit, attempt) = (&record["$audit"], named(&record["$audit"]));
        let Some(outcome) = audit["outcome"].as_str() else {
            logged.entry(attempt).or_insert(n);
            continue;
        };
        if record.as_object().unwrap().len() != 1 || audit.as_object().unwrap().len() != 3 {
            return Err(format!("{record} has more members"));
        }
        if outcomes.insert(attempt, (outcome, n)).is_some() {
            return Err(format!("{record} is a second outcome"));
        }
    }
    for (attempt, (outcome, n)) in &outcomes {
        let is_committed = committed.contains_key(attempt);
        if (*outcome == "committed") != is_committed {
            return Err(format!("{attempt:?} is {outcome:?}; in the database: {is_committed}"));
        }
        if logged.get(attempt).is_some_and(|logged| logged > n) {
            return Err(format!("the outcome of {attempt:?} comes before its logs"));
        }
    }
    for (attempt, said) in committed {
        if !logged.contains_key(attempt) {
            return Err(format!("{attempt:?} is committed and has no logs"));
        }
        if *said != outcomes.contains_key(attempt) {
            return Err(format!("{attempt:?} is committed, which the database said: {said}"));
        }
    }
    Ok(())
}

fn committed(host: &Host, case: Case) -> BTreeMap<Named, bool> {
    let receipts = host.database.receipts().into_iter();
    let named = |receipt: &audit_runtime::LogReceipt| {
        (receipt.execution.to_string(), u64::from(receipt.attempt))
    };
    receipts
        .map(|receipt| (named(&receipt), receipt.attempt > 1 || !case.hides_a_commit()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_end_of_an_attempt_has_its_own_outcome() {
    for case in Case::all().filter(|case| case.fault == MemoryFault::None) {
        let (host, _) = case.run(usize::MAX).await;
        let records = host.logs();
        check(&records, &committed(&host, case))
            .unwrap_or_else(|wrong| panic!("{case:?}: {wrong}"));
        let outcomes = records.iter().filter_map(|record| record["$audit"]["outcome"].as_str());
        assert_eq!(outcomes.collect::<Vec<_>>(), case.expected(), "{case:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_right_under_faults_and_cancellation() {
    let mut committed_unheard = 0;
    for case in Case::all() {
        for polls in 0.. {
            let (host, answered) = case.run(polls).await;
            let committed = committed(&host, case);
            committed_unheard += usize::from(!answered && !committed.is_empty());
            check(&host.logs(), &committed)
                .unwrap_or_else(|wrong| panic!("{case:?} after {polls} polls: {wrong}"));
            if answered {
                break;
            }
        }
    }
    assert!(committed_unheard > 10, "{committed_unheard} committed after their callers were gone");
}

/// If the sink persisted no logs of an attempt, it gets no outcome for the attempt either.
#[tokio::test(start_paused = true)]
async fn attempts_whose_logs_are_lost_have_no_outcome() {
    for case in Case::all().filter(|case| case.fault == MemoryFault::FailBefore) {
        let (host, _) = case.run(usize::MAX).await;
        let records = host.logs();
        let is_outcome = |record: &&Value| record["$audit"]["outcome"].is_string();
        for outcome in records.iter().filter(is_outcome) {
            let attempt = named(&outcome["$audit"]);
            let logs = records.iter().filter(|record| !is_outcome(record));
            let logged = logs.filter(|log| named(&log["$audit"]) == attempt).count();
            assert!(logged > 0, "{case:?}: {records:?}");
        }
    }
}

/// The check catches each way in which outcomes can be wrong.
#[tokio::test(start_paused = true)]
async fn wrong_outcomes_are_caught() {
    for way in [Succeeds, IsOvertaken, Fails] {
        let case = Case { way, end: ENDS[0], fault: MemoryFault::None };
        let (host, _) = case.run(usize::MAX).await;
        let (records, committed) = (host.logs(), committed(&host, case));
        check(&records, &committed).unwrap();
        for (n, record) in records.iter().enumerate() {
            let mut caught = Vec::new();
            let mut with = |change: &dyn Fn(&mut Vec<Value>)| {
                let mut changed = records.clone();
                change(&mut changed);
                caught.push(check(&changed, &committed).is_err());
            };
            let Some(outcome) = record["$audit"]["outcome"].as_str() else { continue };
            with(&|records| records.push(record.clone()));
            with(&|records| {
                let record = records.remove(n);
                records.insert(0, record);
            });
            let other = if outcome == "committed" { "rolled back" } else { "committed" };
            with(&|records| records[n]["$audit"]["outcome"] = json!(other));
            with(&|records| records[n]["more"] = json!(1));
            if outcome == "committed" {
                with(&|records| drop(records.remove(n)));
            }
            assert!(caught.iter().all(|caught| *caught), "{record}: {caught:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_off_by_default_and_switch_provenance_on() {
    let host = Host::new();
    host.increment().await.unwrap();
    host.runtime.drain_outcomes().await;
    assert_eq!(host.logs().len(), 1);
    assert!(host.logs()[0].get("$audit").is_none());
    let host = Host::with(|settings| settings.with_outcomes(true).with_provenance(false));
    host.increment().await.unwrap();
    assert_eq!(host.logs().len(), 1, "no caller waits for an outcome");
    host.runtime.drain_outcomes().await;
    let [log, outcome] = &host.logs()[..] else { panic!("{:?}", host.logs()) };
    let execution = &log["$audit"]["execution"];
    assert_eq!(
        *outcome,
        json!({ "$audit": { "execution": execution, "attempt": 1, "outcome": "committed" } })
    );
    assert_eq!(host.runtime.usage().logs(), 1, "outcomes are not metered");
}

#[tokio::test(start_paused = true)]
async fn only_transactions_have_outcomes() {
    let host = Host::with(|settings| settings.with_outcomes(true));
    host.view(()).release(&alice()).await.unwrap();
    let mutation = host.runtime.mutation("f", alice());
    mutation.log().audit(&body!({})).unwrap();
    mutation.seal(()).release(&alice()).await.unwrap();
    host.runtime.drain_outcomes().await;
    assert_eq!(host.logs().len(), 2);
}
