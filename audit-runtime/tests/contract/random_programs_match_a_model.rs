//! C1 to C9, C13 and C14 together: random programs behave like a model without templates, tasks or
//! time, with callers that go away at random moments.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, resume_unwind};

use audit_core::testing::{MemoryFault, poll_at_most};
use audit_runtime::{
    Execution, FunctionKind, Limits, Mutation, MutationError, Outcome, ReleaseError, RetryPolicy,
};
use futures::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::database::{Commits, DbError, Step as DbStep};
use crate::host::*;
use crate::program::*;

#[derive(Debug, Clone)]
struct Settings {
    limits: Limits,
    provenance: bool,
    max_attempts: u32,
    faults: Vec<MemoryFault>,
}

impl Settings {
    fn host(&self) -> Host {
        let retry_policy =
            RetryPolicy { max_attempts: self.max_attempts, ..RetryPolicy::default() };
        let host = Host::with(|settings| {
            let settings = settings.with_limits(self.limits).with_provenance(self.provenance);
            settings.with_retry_policy(retry_policy)
        });
        host.sink.script(self.faults.iter().copied());
        host
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let faults = [vec![MemoryFault::None; 16], FAULTS.to_vec()].concat();
    let faults = prop::collection::vec(prop::sample::select(faults), 0..6);
    (any_limits(), any::<bool>(), 1u32..5, faults).prop_map(
        |(limits, provenance, max_attempts, faults)| Settings {
            limits,
            provenance,
            max_attempts,
            faults,
        },
    )
}

/// The simplest model of the sink, its logs and its clock.
#[derive(Debug)]
struct Model {
    faults: VecDeque<MemoryFault>,
    now_ms: i64,
    lines: Vec<Line>,
    /// The size of each log known to be durable, in bytes.
    durable: Vec<usize>,
    hung: u32,
}

#[derive(Debug, Clone)]
struct Line {
    /// `None` for the record of a refusal.
    body: Option<String>,
    /// The member `$audit`, without the identity of the execution.
    origin: Value,
}

impl Model {
    fn of(settings: &Settings) -> Model {
        let faults = settings.faults.iter().copied().collect();
        Model { faults, now_ms: RAN_AT, lines: Vec::new(), durable: Vec::new(), hung: 0 }
    }

    /// Persists the lines. Returns the sink's response.
    fn persist(&mut self, lines: Vec<Line>) -> Result<(), Outcome> {
        use MemoryFault::*;
        if lines.is_empty() {
            return Ok(());
        }
        let fault = self.faults.pop_front().unwrap_or(None);
        if let HangBefore | HangAfter = fault {
            self.hung += 1;
        }
        let bytes: Vec<usize> =
            lines.iter().filter_map(|line| Some(line.body.as_ref()?.len())).collect();
        if let None | FailAfter | HangAfter = fault {
            self.lines.extend(lines);
        }
        match fault {
            None => {
                self.durable.extend(bytes);
                Ok(())
            }
            FailBefore => Err(Outcome::NotPersisted),
            FailAfter | HangBefore | HangAfter => Err(Outcome::Indeterminate),
        }
    }

    fn assert_is(&self, host: &Host, settings: &Settings, began: Instant) {
        self.assert_begins_with(&host.sink.lines(), settings.provenance);
        assert_eq!(host.sink.lines().len(), self.lines.len());
        let usage = host.runtime.usage();
        let metered: usize = self.durable.iter().map(|bytes| bytes.div_ceil(5_000) * 5_000).sum();
        assert_eq!(usage.logs(), self.durable.len() as u64);
        assert_eq!(usage.bytes(), self.durable.iter().sum::<usize>() as u64);
        assert_eq!(usage.metered_bytes(), metered as u64);
        // 30 seconds for each hang of the sink; backoff takes some milliseconds.
        assert_eq!(began.elapsed().as_secs(), u64::from(self.hung) * 30);
    }

    /// Asserts that these lines are a prefix of the model's.
    fn assert_begins_with(&self, lines: &[String], provenance: bool) {
        assert!(lines.len() <= self.lines.len(), "{lines:#?} are more than {:#?}", self.lines);
        for (line, expected) in lines.iter().zip(&self.lines) {
            let start = match (&expected.body, provenance) {
                (Some(body), false) => {
                    assert_eq!(line, body);
                    continue;
                }
                (Some(body), true) => format!(r#"{},"$audit":"#, body.strip_suffix('}').unwrap()),
                (None, _) => r#"{"$audit":"#.to_owned(),
            };
            let origin = line.strip_prefix(&start).and_then(|rest| rest.strip_suffix('}')).unwrap();
            let mut origin: Value = serde_json::from_str(origin).unwrap();
            let mut expected = expected.origin.clone();
            if provenance {
                let id = origin.as_object_mut().unwrap().remove("execution").unwrap();
                assert_eq!(id.as_str().unwrap().len(), 26);
            } else {
                expected
                    .as_object_mut()
                    .unwrap()
                    .retain(|key, _| key != "attempt" && key != "replay");
            }
            assert_eq!(origin, expected);
        }
    }
}

/// The logs of one release.
fn lines(
    account: &Account<'_>,
    limits: &Limits,
    client: &Client,
    now_ms: i64,
    (function, kind): (&str, FunctionKind),
    attempt: usize,
    replay: bool,
) -> Vec<Line> {
    let values = client.values(now_ms);
    let line = |emission: &&Emission| {
        let mut origin = emission.origin(function, kind);
        origin["attempt"] = json!(attempt);
        origin["replay"] = json!(replay);
        Line { body: Some(emission.json(&values)), origin }
    };
    // A function whose first log is refused leaves a record.
    if let (Some((refusal, by)), []) = (&account.refused, &account.accepted[..]) {
        let mut origin = by.origin(function, kind);
        origin["event"] = json!("refused");
        origin["reason"] = json!(refusal.message(limits));
        origin["at"] = json!(now_ms);
        origin["attempt"] = json!(attempt);
        origin["replay"] = json!(replay);
        return vec![Line { body: None, origin }];
    }
    account.accepted.iter().map(line).collect()
}

#[derive(Debug, Clone)]
struct AttemptPlan {
    steps: Vec<Step>,
    result: FunctionResult,
    way: Way,
    commit: CommitPlan,
    rollbacks_fail: bool,
}

/// The function's result if no step fails.
#[derive(Debug, Clone, Copy)]
enum FunctionResult {
    Value,
    Fails,
    Conflicts,
    Panics,
}

/// How an attempt ends whose function failed: with a sealed transaction, or early with the error,
/// before or after it sealed one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Sealed,
    Early,
    EarlyAfterSeal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum CommitPlan {
    Succeeds,
    Conflicts,
    Fails,
}

fn any_attempt() -> impl Strategy<Value = AttemptPlan> {
    use FunctionResult::*;
    let result =
        prop_oneof![12 => Just(Value), 1 => Just(Fails), 2 => Just(Conflicts), 1 => Just(Panics)];
    let way =
        prop_oneof![2 => Just(Way::Sealed), 1 => Just(Way::Early), 1 => Just(Way::EarlyAfterSeal)];
    let commit = prop_oneof![
        2 => Just(CommitPlan::Succeeds),
        4 => Just(CommitPlan::Conflicts),
        1 => Just(CommitPlan::Fails)
    ];
    (mutation_steps(), result, way, commit, any::<bool>()).prop_map(
        |(steps, result, way, commit, rollbacks_fail)| AttemptPlan {
            steps,
            result,
            way,
            commit,
            rollbacks_fail,
        },
    )
}

#[derive(Debug, Clone)]
struct MutationPlan {
    settings: Settings,
    client: Client,
    /// As many attempts as the policy allows.
    attempts: Vec<AttemptPlan>,
}

fn any_mutation() -> impl Strategy<Value = MutationPlan> {
    (any_settings(), any_client(), prop::collection::vec(any_attempt(), 4))
        .prop_map(|(settings, client, attempts)| MutationPlan { settings, client, attempts })
}

/// What the caller of a mutation gets.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Value(i64),
    Failed(Failure),
    Refused(Refusal),
    NotDurable(Outcome),
    Conflict { attempts: u32 },
    CommitFailed,
    Panicked,
}

impl Answer {
    fn unreleased(error: ReleaseError) -> Answer {
        match Refusal::of(&error) {
            Some(refusal) => Answer::Refused(refusal),
            None => Answer::NotDurable(not_durable(error).outcome()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    Function,
    Conflict,
    Audit,
}

impl Failure {
    fn of(error: &DbError) -> Failure {
        match error {
            DbError::Function => Failure::Function,
            DbError::Conflict => Failure::Conflict,
            DbError::Audit(_) => Failure::Audit,
            DbError::Disk | DbError::Broken => panic!("a function does not fail with that"),
        }
    }
}

impl MutationPlan {
    async fn run(&self, host: &Host) -> Answer {
        let attempt = async |execution: Execution<Mutation>| {
            let mut tx = host.database.begin();
            let plan = &self.attempts[host.database.attempts() - 1];
            let ran = run(&plan.steps, &execution.log(), host).await;
            let value = tx.add(1);
            let result = match (ran, plan.result) {
                (Err(error), _) => Err(error.into()),
                (Ok(()), FunctionResult::Value) => Ok(value),
                (Ok(()), FunctionResult::Fails) => Err(DbError::Function),
                (Ok(()), FunctionResult::Conflicts) => Err(DbError::Conflict),
                (Ok(()), FunctionResult::Panics) => {
                    let _sealed = (plan.way == Way::EarlyAfterSeal)
                        .then(|| execution.seal_transaction(tx, Ok::<_, DbError>(())));
                    resume_unwind(Box::new("planned"))
                }
            };
            if plan.commit == CommitPlan::Conflicts {
                host.database.interfere();
            }
            host.database.let_commits(match plan.commit {
                CommitPlan::Fails => Commits::Fail,
                CommitPlan::Succeeds | CommitPlan::Conflicts => Commits::Succeed,
            });
            host.database.let_rollbacks_fail(plan.rollbacks_fail);
            match (plan.way, result) {
                (Way::Early, Err(error)) => Err(error),
                (Way::EarlyAfterSeal, Err(error)) => {
                    let _sealed = execution.seal_transaction(tx, Ok::<_, DbError>(value));
                    Err(error)
                }
                (_, result) => Ok(execution.seal_transaction(tx, result)),
            }
        };
        let request = self.client.request();
        let run = host.runtime.run_mutation("root", &request, attempt);
        match AssertUnwindSafe(run).catch_unwind().await {
            Err(panic) => {
                assert_eq!(panic.downcast_ref(), Some(&"planned"));
                Answer::Panicked
            }
            Ok(Ok(value)) => Answer::Value(value),
            Ok(Err(MutationError::Function(error))) => Answer::Failed(Failure::of(&error)),
            Ok(Err(MutationError::Release(error))) => Answer::unreleased(error),
            Ok(Err(MutationError::Conflict { attempts, source: DbError::Conflict })) => {
                Answer::Conflict { attempts }
            }
            Ok(Err(MutationError::Commit(DbError::Disk))) => Answer::CommitFailed,
            Ok(Err(error)) => panic!("{error:?}"),
        }
    }

    /// Predicts the response and the history of the database.
    fn predict(&self, model: &mut Model) -> (Answer, Vec<(DbStep, usize)>) {
        let mut history = Vec::new();
        for attempt in 1..=self.settings.max_attempts {
            if let Some(answer) = self.predict_attempt(attempt as usize, model, &mut history) {
                return (answer, history);
            }
        }
        (Answer::Conflict { attempts: self.settings.max_attempts }, history)
    }

    /// `None` is a conflict.
    fn predict_attempt(
        &self,
        number: usize,
        model: &mut Model,
        history: &mut Vec<(DbStep, usize)>,
    ) -> Option<Answer> {
        let plan = &self.attempts[number - 1];
        history.push((DbStep::Began, model.lines.len()));
        let account = Account::of(&plan.steps, &self.settings.limits);
        let lines = lines(
            &account,
            &self.settings.limits,
            &self.client,
            model.now_ms,
            ("root", FunctionKind::Mutation),
            number,
            false,
        );
        model.now_ms += account.ticked_ms;

        let failure = match plan.result {
            _ if account.failed => Some(Failure::Audit),
            FunctionResult::Panics => {
                history.push((DbStep::Dropped, model.lines.len()));
                let _whatever_comes_of_it = model.persist(lines);
                return Some(Answer::Panicked);
            }
            FunctionResult::Value => None,
            FunctionResult::Fails => Some(Failure::Function),
            FunctionResult::Conflicts => Some(Failure::Conflict),
        };
        // A success without refusals makes its logs durable first; all others roll back first.
        let succeeds = failure.is_none() && account.refused.is_none();
        if !succeeds {
            let sealed = failure.is_none() || plan.way == Way::Sealed;
            history.push((
                if sealed { DbStep::RolledBack } else { DbStep::Dropped },
                model.lines.len(),
            ));
        }
        if let Err(outcome) = model.persist(lines) {
            if succeeds {
                history.push((DbStep::RolledBack, model.lines.len()));
            }
            return Some(Answer::NotDurable(outcome));
        }
        if let Some((refusal, _)) = account.refused {
            return Some(Answer::Refused(refusal));
        }
        match failure {
            Some(Failure::Conflict) => None,
            Some(failure) => Some(Answer::Failed(failure)),
            None => {
                let (step, answer) = match plan.commit {
                    CommitPlan::Succeeds => (DbStep::Committed, Some(Answer::Value(1))),
                    CommitPlan::Conflicts => (DbStep::Conflicted, None),
                    CommitPlan::Fails => (DbStep::CommitFailed, Some(Answer::CommitFailed)),
                };
                history.push((step, model.lines.len()));
                answer
            }
        }
    }
}

/// A query and the releases of its result.
#[derive(Debug, Clone)]
struct QueryPlan {
    settings: Settings,
    steps: Vec<Step>,
    releases: Vec<(Release, i64)>,
}

#[derive(Debug, Clone)]
enum Release {
    To(Client),
    Into(Client),
    All(Vec<Client>),
}

fn any_query() -> impl Strategy<Value = QueryPlan> {
    let release = prop_oneof![
        any_client().prop_map(Release::To),
        any_client().prop_map(Release::Into),
        prop::collection::vec(any_client(), 1..5).prop_map(Release::All),
    ];
    let releases = prop::collection::vec((release, -50i64..500), 1..6);
    (any_settings(), query_steps(), releases).prop_map(|(settings, steps, releases)| QueryPlan {
        settings,
        steps,
        releases,
    })
}

impl QueryPlan {
    async fn run_and_compare(&self) {
        let (host, mut model, began) =
            (self.settings.host(), Model::of(&self.settings), Instant::now());
        let account = Account::of(&self.steps, &self.settings.limits);
        let query = host.runtime.query("root");
        let value = run(&self.steps, &query.log(), &host).await.map_err(|_| Failure::Audit);
        assert_eq!(value.is_err(), account.failed);
        let sealed = query.seal(value);
        model.now_ms += account.ticked_ms;

        let mut now_ms = RAN_AT;
        let mut replay = false;
        for (release, tick) in &self.releases {
            let answer = match release {
                Release::To(client) => sealed.release(&client.request()).await.copied(),
                Release::Into(client) => sealed.clone().release_into(&client.request()).await,
                Release::All(clients) => {
                    let requests: Vec<_> = clients.iter().map(Client::request).collect();
                    sealed
                        .release_all(&requests)
                        .await
                        .map(|value| *value.expect("there are requests"))
                }
            };
            let answer = answer.map_err(Answer::unreleased);
            let clients = match release {
                Release::To(client) | Release::Into(client) => std::slice::from_ref(client),
                Release::All(clients) => clients,
            };
            let mut released = Vec::new();
            for client in clients {
                let origin = ("root", FunctionKind::Query);
                released.extend(lines(
                    &account,
                    &self.settings.limits,
                    client,
                    now_ms,
                    origin,
                    1,
                    replay,
                ));
                (now_ms, replay) = (model.now_ms, true);
            }
            let expected = match (model.persist(released), account.refused) {
                (Err(outcome), _) => Err(Answer::NotDurable(outcome)),
                (Ok(()), Some((refusal, _))) => Err(Answer::Refused(refusal)),
                (Ok(()), None) => Ok(value),
            };
            assert_eq!(answer, expected);
            host.clock.advance(*tick);
            model.now_ms += tick;
            if replay {
                now_ms = model.now_ms;
            }
        }
        model.assert_is(&host, &self.settings, began);
    }
}

/// Runs the test with paused time, which advances when idle.
fn in_paused_time(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn mutations_match_the_model(plan in any_mutation()) {
        in_paused_time(async {
            let (host, mut model, began) = (plan.settings.host(), Model::of(&plan.settings), Instant::now());
            let (answer, history) = plan.predict(&mut model);
            assert_eq!(plan.run(&host).await, answer);
            assert_eq!(host.database.history(), history);
            assert_eq!(host.database.value(), i64::from(answer == Answer::Value(1)));
            model.assert_is(&host, &plan.settings, began);
        });
    }

    #[test]
    fn dropped_mutations_are_a_prefix_of_the_model(plan in any_mutation(), polls in 0usize..16) {
        in_paused_time(async {
            let (host, mut model) = (plan.settings.host(), Model::of(&plan.settings));
            let (answer, predicted) = plan.predict(&mut model);
            match poll_at_most(polls, plan.run(&host)).await {
                Some(answered) => assert_eq!(answered, answer),
                None => {
                    model.assert_begins_with(&host.sink.lines(), plan.settings.provenance);
                    let mut history = host.database.history();
                    // An open transaction is rolled back.
                    if !predicted.starts_with(&history) {
                        assert!(matches!(history.pop(), Some((DbStep::Dropped, _))));
                    }
                    assert!(predicted.starts_with(&history), "{history:?} in {predicted:?}");
                    let began = history.iter().filter(|(step, _)| *step == DbStep::Began).count();
                    assert_eq!(host.database.history().len(), 2 * began, "each ended");
                }
            }
        });
    }

    #[test]
    fn releases_match_the_model(plan in any_query()) {
        in_paused_time(plan.run_and_compare());
    }
}
