//! What outcomes cost: the same mutations with and without them, in turns.

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use audit_core::AuditSink;
use audit_runtime::{AuditRuntime, Execution, Mutation, Transaction};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::commit::CALLERS;
use super::release::{open_undelivered, tokio_runtime};
use crate::bodies::View;
use crate::contest::{Contest, Side};

/// How many mutations each caller makes in a round.
const EACH: usize = 64;

/// A transaction that costs nothing, so that what is measured is the most that outcomes cost: of a
/// database's commit they are a smaller share.
#[derive(Debug)]
struct Free;

impl Transaction for Free {
    type Error = Infallible;

    async fn commit(self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn rollback(self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_conflict(error: &Infallible) -> bool {
        match *error {}
    }
}

async fn mutate(runtime: &AuditRuntime) {
    let request = runtime.new_request();
    let attempt = async |execution: Execution<Mutation>| {
        execution.log().audit(&View::of_one_kilobyte()).expect("a body compiles");
        Ok::<_, Infallible>(execution.seal_transaction(Free, Ok::<_, Infallible>(())))
    };
    runtime.run_mutation("documents:update", &request, attempt).await.expect("it commits");
}

/// All callers make their mutations, one after another, and the outcomes become durable.
async fn all_mutate(runtime: &AuditRuntime) {
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let runtime = runtime.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    mutate(&runtime).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
    runtime.drain_outcomes().await;
}

/// Mutations by many callers into one journal.
pub fn contests(directory: &Path) -> Vec<Contest> {
    let tokio = Rc::new(tokio_runtime(2));
    let sink = tokio.block_on(open_undelivered(&directory.join("outcomes")));
    let side = |name: &str, outcomes: bool| {
        let builder = AuditRuntime::builder(Arc::clone(&sink) as Arc<dyn AuditSink>);
        let runtime = builder.with_provenance(true).with_outcomes(outcomes).build();
        timed(name, Rc::clone(&tokio), runtime)
    };
    let with = side("with outcomes", true);
    let contest = Contest::new(format!("mutations, {CALLERS} callers"), with)
        .against(side("without", false))
        .as_rate();
    vec![contest]
}

fn timed(name: &str, tokio: Rc<Runtime>, runtime: AuditRuntime) -> Side {
    Side::timed(name.to_owned(), move || {
        let began = Instant::now();
        tokio.block_on(all_mutate(&runtime));
        began.elapsed() / (CALLERS * EACH) as u32
    })
}
