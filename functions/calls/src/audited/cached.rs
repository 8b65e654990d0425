//! [`CachedQuery`]: the sealed result of a query, whose every release makes its logs durable.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use audit_runtime::{Audited, RequestContext};
use functions_store::{Timestamp, Watch};
use futures::FutureExt;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::call::{Answered, CallError, Caller, unreleased};
use crate::lock;
use crate::workers::panic_message;

/// The sealed result of a query at one time. Only [`release`](CachedQuery::release) hands it out.
pub struct CachedQuery {
    sealed: Audited<Result<Arc<Answered>, CallError>>,
    followed: Followed,
    /// An upper estimate of the memory, in bytes, for the cache's limit.
    bytes: usize,
    at: Timestamp,
    is_personal: bool,
    may_be_kept: bool,
    releases: Mutex<Releases>,
}

/// What a follower of a query keeps of its result: enough to notice a change, but not the value,
/// which only the cache keeps. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The hash of the result, if there is one. It only serves to compare results.
    digest: Option<[u8; 32]>,
    watch: Arc<Watch>,
    journal: Option<Arc<str>>,
}

impl Followed {
    /// Whether both have the same result.
    pub fn same_result(&self, other: &Followed) -> bool {
        self.digest.is_some() && self.digest == other.digest
    }

    /// The watch on what the query read.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Where the query's pages ended. Passed to the next run, it makes them end there again.
    pub fn journal(&self) -> Option<&Arc<str>> {
        self.journal.as_ref()
    }

    /// The memory that all followers of this result share, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Watch>()
            + self.watch.reads().bytes()
            + self.journal.as_ref().map_or(0, |journal| journal.len())
    }
}

pub(crate) struct Facts {
    pub(crate) digest: Option<[u8; 32]>,
    /// The size of the result, in bytes.
    pub(crate) bytes: usize,
    pub(crate) at: Timestamp,
    pub(crate) watch: Watch,
    pub(crate) journal: Option<String>,
    /// Whether the result is for one identity only.
    pub(crate) is_personal: bool,
    pub(crate) may_be_kept: bool,
}

/// Callers that arrive during a release and share the next write.
#[derive(Default)]
struct Releases {
    under_way: bool,
    waiting: Vec<(RequestContext, oneshot::Sender<HandedOut>)>,
}

type HandedOut = Result<Arc<Answered>, CallError>;

/// The maximum number of releases that share a write, which bounds how long they wait for each
/// other.
const MAX_RELEASED_TOGETHER: usize = 4_096;

impl CachedQuery {
    pub(crate) fn new(
        sealed: Audited<Result<Arc<Answered>, CallError>>,
        facts: Facts,
    ) -> CachedQuery {
        let Facts { digest, bytes, at, watch, journal, is_personal, may_be_kept } = facts;
        let bytes = bytes
            + sealed.held_bytes()
            + watch.reads().bytes()
            + journal.as_ref().map_or(0, String::len)
            + size_of::<CachedQuery>()
            + size_of::<Answered>();
        let followed = Followed { digest, watch: Arc::new(watch), journal: journal.map(Arc::from) };
        let releases = Mutex::default();
        CachedQuery { sealed, followed, bytes, at, is_personal, may_be_kept, releases }
    }

    /// What a follower of the query keeps of this result.
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    /// The watch on what the query read.
    pub fn watch(&self) -> &Watch {
        &self.followed.watch
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_personal(&self) -> bool {
        self.is_personal
    }

    pub(crate) fn may_be_kept(&self) -> bool {
        self.may_be_kept
    }

    /// The time of the snapshot that the query read.
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether nothing that the query read has changed since.
    pub(crate) fn is_fresh(&self) -> bool {
        self.watch().invalid_since().is_none()
    }

    /// Whether this is the query's result at that time.
    pub(crate) fn holds_at(&self, time: Timestamp) -> bool {
        self.at <= time && self.watch().invalid_since().is_none_or(|since| time < since)
    }

    /// Makes the logs of one release durable, then returns the value. Callers that arrive during a
    /// write share the next one.
    ///
    /// # Errors
    ///
    /// [`CallError::NotDurable`] if nothing was handed out. With any other error the query has no
    /// result, and its logs are durable.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, this caller receives nothing. Its logs may still become durable.
    pub async fn release(self: &Arc<Self>, caller: &Caller) -> Result<Arc<Answered>, CallError> {
        let (answer, answered) = oneshot::channel();
        let begin = {
            let mut releases = lock(&self.releases);
            releases.waiting.push((caller.request.clone(), answer));
            !std::mem::replace(&mut releases.under_way, true)
        };
        if begin {
            // A separate task, so that the others are served even if the first caller is dropped.
            tokio::spawn(Arc::clone(self).release_waiting().in_current_span());
        }
        answered.await.unwrap_or_else(|_| Err(CallError::internal("the host is stopping")))
    }

    async fn release_waiting(self: Arc<Self>) {
        loop {
            let (requests, answers): (Vec<_>, Vec<_>) = {
                let mut releases = lock(&self.releases);
                if releases.waiting.is_empty() {
                    releases.under_way = false;
                    return;
                }
                let together = releases.waiting.len().min(MAX_RELEASED_TOGETHER);
                releases.waiting.drain(..together).unzip()
            };
            // A panic of the sink fails these callers. If it ended this task, later callers would
            // wait forever.
            let releasing = AssertUnwindSafe(self.sealed.release_all(&requests)).catch_unwind();
            let released = match releasing.await {
                Ok(Ok(outcome)) => outcome.expect("a caller waits").clone(),
                Ok(Err(error)) => unreleased(&error).map(Arc::new),
                Err(panic) => {
                    let panic = panic_message(&*panic);
                    Err(CallError::internal(format!("the sink of audit logs panicked: {panic}")))
                }
            };
            for answer in answers {
                // Fails if the caller went away.
                drop(answer.send(released.clone()));
            }
        }
    }
}

impl fmt::Debug for CachedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedQuery")
            .field("sealed", &self.sealed)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
