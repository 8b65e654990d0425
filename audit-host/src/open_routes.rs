//! The open routes of a host, which may change while it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use audit_core::{AuditSink, Observed, SinkError, with_sources};
use audit_journal::JournalRoute;
use audit_sink_s3::{Bucket, OpenError, S3Sink, Settings};
use futures::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::required::RequiredStreams;
use crate::routes::PROBES;
use crate::shown::Shown;
use crate::{Output, RouteSettings};

/// How long a sink has to close when it cannot be used, and a route when it changes or leaves.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks routes as a start does, and that they are apart from the host's other destinations.
pub(crate) type CheckRoutes = Arc<dyn Fn(&[RouteSettings]) -> Result<(), String> + Send + Sync>;

/// The open routes of a host. Cheap to clone.
///
/// They may be replaced by those of other settings while the host runs: [`prepare`](Self::prepare)
/// checks the new settings, and [`PreparedRoutes::make`] makes the change.
#[derive(Clone, Default)]
pub struct OpenRoutes(Option<Arc<Shared>>);

/// What routes are opened with.
pub(crate) struct Parts {
    pub(crate) sink: Arc<S3Sink>,
    pub(crate) required: RequiredStreams,
    pub(crate) settings: Settings,
    pub(crate) check: CheckRoutes,
    /// Where records are printed once they are durable, if they are.
    pub(crate) output: Option<Output>,
}

struct Shared {
    parts: Parts,
    /// Locked while routes are opened or closed.
    changing: Arc<AsyncMutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<String, OpenRoute>,
    /// Routes that left the settings and whose destinations lack records.
    leaving: BTreeMap<String, Arc<dyn AuditSink>>,
}

struct OpenRoute {
    settings: RouteSettings,
    sink: Arc<dyn AuditSink>,
}

/// A checked change of a host's routes. As long as it exists, no other change begins.
pub struct PreparedRoutes {
    shared: Arc<Shared>,
    added: Vec<RouteSettings>,
    changed: Vec<RouteSettings>,
    removed: Vec<String>,
    _changing: OwnedMutexGuard<()>,
}

/// A change of a host's routes, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutesChange {
    /// The routes that are new.
    pub added: Vec<String>,
    /// The routes that were closed and opened again with other settings.
    pub changed: Vec<String>,
    /// The routes that left.
    pub removed: Vec<String>,
    /// Those of `removed` whose destinations lack records. They are retired once these have
    /// everything, now or after a start.
    pub delivering: Vec<String>,
    /// Those of `added` and `changed` that are not open, and why. The next change opens them.
    pub failed: BTreeMap<String, String>,
}

impl OpenRoutes {
    /// Opens routes, and retires those that are not on the journal any more, now or once their
    /// buckets have everything. If one cannot be opened, the sink is closed.
    pub(crate) async fn open(
        parts: Parts,
        routes: Vec<RouteSettings>,
    ) -> Result<OpenRoutes, String> {
        let (changing, state) = (Arc::default(), Mutex::default());
        let shared = Arc::new(Shared { parts, changing, state });
        let failed = shared.open_all(routes).await;
        if let Some(error) = failed.into_values().next() {
            // The next process delivers the records that this one leaves in the journal.
            drop(timeout(CLOSE_TIMEOUT, shared.parts.sink.close()).await);
            return Err(error);
        }
        shared.retire_unopened().await;
        Ok(OpenRoutes(Some(shared)))
    }

    /// The sinks of the routes, by name.
    pub fn sinks(&self) -> BTreeMap<String, Arc<dyn AuditSink>> {
        let Some(shared) = &self.0 else { return BTreeMap::new() };
        let state = shared.state();
        let sinks = state.open.iter().map(|(name, route)| (name.clone(), Arc::clone(&route.sink)));
        sinks.collect()
    }

    /// The sinks of routes that left the settings and whose destinations lack records, by name.
    pub fn leaving(&self) -> BTreeMap<String, Arc<dyn AuditSink>> {
        self.0.as_ref().map(|shared| shared.state().leaving.clone()).unwrap_or_default()
    }

    /// Says where the records of each route go.
    pub(crate) fn announce(&self, output: &Output) {
        if let Some(shared) = &self.0 {
            let state = shared.state();
            state.open.iter().for_each(|(name, route)| route.announce(name, output));
        }
    }

    /// Checks new settings of the routes as a start does, and compares them with the open routes.
    /// Nothing is changed. Buckets are probed, each within five seconds; one that refuses or is
    /// away is its route's trouble alone. Another change ends before `read` is called.
    ///
    /// # Errors
    ///
    /// If `read` fails, the settings are invalid or not apart from each other or from the host's
    /// own, a secret cannot be read, or the host has no journal that routes could share. The error
    /// contains no secrets.
    ///
    /// # Cancellation
    ///
    /// Nothing is changed.
    pub async fn prepare(
        &self,
        read: impl FnOnce() -> Result<Vec<RouteSettings>, String> + Send + 'static,
    ) -> Result<PreparedRoutes, String> {
        let shared = self.0.clone().ok_or("routes share a journal, and the host has none")?;
        let changing = Arc::clone(&shared.changing).lock_owned().await;
        let check = Arc::clone(&shared.parts.check);
        let read = tokio::task::spawn_blocking(move || {
            let routes = read()?;
            check(&routes).map(|()| routes)
        });
        let routes = read.await.map_err(|error| error.to_string()).flatten()?;
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        let removed = {
            let state = shared.state();
            for route in &routes {
                match state.open.get(&route.name) {
                    None => added.push(route.clone()),
                    Some(open) if open.settings != *route => {
                        let journal = route.own_journal();
                        if journal.is_some() && open.settings.own_journal() == journal {
                            return Err(format!(
                                "the route {:?} has a journal of its own, which this process has \
                                 open: restart the host to change the route's settings",
                                route.name
                            ));
                        }
                        changed.push(route.clone());
                    }
                    Some(_unchanged) => {}
                }
            }
            let is_there = |name: &String| routes.iter().any(|route| route.name == *name);
            state.open.keys().filter(|name| !is_there(name)).cloned().collect()
        };
        let probes = added.iter().chain(&changed).map(|route| {
            let bucket = route.check_destinations()?;
            Ok::<_, String>(bucket.map(|bucket| route.probe(bucket, &shared.parts.settings)))
        });
        // No request is sent for settings that are invalid.
        let probes = probes.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        let probed: Vec<_> = stream::iter(probes).buffered(PROBES).collect().await;
        probed.into_iter().collect::<Result<(), _>>()?;
        Ok(PreparedRoutes { shared, added, changed, removed, _changing: changing })
    }
}

impl PreparedRoutes {
    /// The names of the routes that will be closed and opened again, with other settings.
    pub fn changed(&self) -> Vec<String> {
        names(&self.changed)
    }

    /// The names of the routes that will be closed and retired.
    pub fn removed(&self) -> &[String] {
        &self.removed
    }

    /// Makes the change: opens the new routes, closes and opens again those with other settings,
    /// and closes and retires those that left. All others are untouched. A host first stops to log
    /// in the names of routes that are closed: what it logs then fails as *not persisted*.
    ///
    /// A route that is closed has five seconds to deliver its records. Those that it still has go
    /// to the new bucket of a route with other settings. Of one that left they are delivered in the
    /// background, and the route is then retired.
    ///
    /// After a crash in here, the next start opens the routes of its settings, and retires the
    /// others: what the journal has of a route goes to the bucket that it last opened.
    ///
    /// # Cancellation
    ///
    /// Some of the routes may be closed. The next change completes this one.
    pub async fn make(self) -> RoutesChange {
        let PreparedRoutes { shared, added, changed, removed, _changing } = self;
        let (new, other) = (names(&added), names(&changed));
        let close = async {
            let closes: Vec<_> = changed.iter().map(|route| shared.close(route)).collect();
            stream::iter(closes).buffered(PROBES).collect::<()>().await;
            shared.open_all(changed).await
        };
        let leave = removed.iter().filter_map(|name| {
            let sink = shared.let_go(name)?;
            let shared = Arc::clone(&shared);
            Some(async move {
                let is_done = shared.leave(name, sink, CLOSE_TIMEOUT).await;
                (!is_done).then(|| name.clone())
            })
        });
        let leave: Vec<_> = leave.collect();
        let leave = stream::iter(leave).buffered(PROBES).filter_map(std::future::ready);
        let (mut failed, reopened, delivering) =
            futures::join!(shared.open_all(added), close, leave.collect());
        failed.extend(reopened);
        shared.retire_unopened().await;
        RoutesChange { added: new, changed: other, removed, delivering, failed }
    }
}

fn names(routes: &[RouteSettings]) -> Vec<String> {
    routes.iter().map(|route| route.name.clone()).collect()
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Opens routes. Returns the reasons why some could not be opened.
    async fn open_all(&self, routes: Vec<RouteSettings>) -> BTreeMap<String, String> {
        let opened = routes.into_iter().map(|settings| async {
            let name = settings.name.clone();
            match settings.open(&self.parts.sink, &self.parts.required).await {
                Ok(sink) => {
                    let sink = self.observed(sink);
                    let mut state = self.state();
                    if settings.bucket.is_some() {
                        state.leaving.remove(&name);
                    }
                    state.open.insert(name, OpenRoute { settings, sink });
                    None
                }
                Err(error) => Some((name, error)),
            }
        });
        let opened: Vec<_> = opened.collect();
        stream::iter(opened).buffered(PROBES).filter_map(std::future::ready).collect().await
    }

    fn observed(&self, sink: Arc<dyn AuditSink>) -> Arc<dyn AuditSink> {
        match self.parts.output.clone() {
            Some(output) => observed(sink, output),
            None => sink,
        }
    }

    /// Closes a route that is opened again with other settings. What it has not delivered in time
    /// is delivered by the new opening, or in the background if that is not on the journal.
    async fn close(self: &Arc<Self>, to: &RouteSettings) {
        let name = &to.name;
        let Some(sink) = self.let_go(name) else { return };
        if to.bucket.is_none() {
            self.leave(name, sink, CLOSE_TIMEOUT).await;
        } else if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, sink.close()).await {
            // Opening it again fails too, and says why.
            let error = with_sources(&error);
            tracing::warn!(route = name, error, "a route did not close in order");
        }
    }

    /// Moves a route to those that are leaving.
    fn let_go(&self, name: &str) -> Option<Arc<dyn AuditSink>> {
        let mut state = self.state();
        let OpenRoute { sink, .. } = state.open.remove(name)?;
        state.leaving.insert(name.to_owned(), Arc::clone(&sink));
        Some(sink)
    }

    /// Closes a route that left, and returns whether its destinations have everything within this
    /// time. Otherwise it is closed, and then retired, in the background. The first poll of this
    /// closes it.
    ///
    /// After a crash before it is retired, the next start finds it, and delivers what is left.
    async fn leave(
        self: &Arc<Self>,
        name: &str,
        sink: Arc<dyn AuditSink>,
        limit: Duration,
    ) -> bool {
        let leaving = Arc::clone(&sink);
        let mut closing = Box::pin(async move { leaving.close().await });
        if let Ok(closed) = timeout(limit, &mut closing).await {
            self.left(name, &sink, closed);
            return true;
        }
        let (shared, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            let closed = closing.await;
            let _changing = shared.changing.lock().await;
            shared.left(&name, &sink, closed);
            if let Err(error) = shared.parts.sink.retire_unopened_routes().await {
                cannot_retire(&error);
            }
        });
        false
    }

    fn left(&self, name: &str, sink: &Arc<dyn AuditSink>, closed: Result<(), SinkError>) {
        let mut state = self.state();
        // Unless it was opened again meanwhile.
        if state.leaving.get(name).is_some_and(|leaving| Arc::ptr_eq(leaving, sink)) {
            state.leaving.remove(name);
        }
        drop(state);
        match closed {
            Ok(()) => tracing::info!(
                route = name,
                "a route that left the settings, or its bucket, is closed: its destinations have \
                 everything"
            ),
            Err(error) => tracing::warn!(
                route = name,
                error = with_sources(&error),
                "a route that is not in the settings did not close in order: the next start \
                 delivers what the journal has of it"
            ),
        }
    }

    /// Retires the routes that are not open, now or once their buckets have everything.
    async fn retire_unopened(self: &Arc<Self>) {
        match self.parts.sink.retire_unopened_routes().await {
            Ok(left) => {
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    let left = stream::iter(left);
                    left.for_each_concurrent(PROBES, |route| shared.finish(route)).await;
                });
            }
            Err(error) => cannot_retire(&error),
        }
    }

    /// Delivers what a route that left before this process started, or has had no bucket since,
    /// still has in the journal to the bucket that the journal names, and then retires the route.
    /// Its logs were accepted for that bucket, and its streams end there.
    ///
    /// If the bucket refuses or is away, its records wait for the next change or start: the
    /// delivery of an open route would keep the host from closing its sink.
    async fn finish(self: &Arc<Self>, route: JournalRoute) {
        let JournalRoute { name, destination, .. } = &route;
        if self.has(name) {
            return;
        }
        let why = |error: OpenError| with_sources(&error);
        let finished = async {
            let bucket = Bucket::open(destination).map_err(why)?.for_route(name);
            bucket.probe(&self.parts.settings).await.map_err(why)?;
            let _changing = self.changing.lock().await;
            // It may have been opened, or its delivery begun, since.
            if !self.has(name) {
                let sink: Arc<dyn AuditSink> =
                    Arc::new(self.parts.sink.open_route(name, bucket).await.map_err(why)?);
                self.state().leaving.insert(name.clone(), Arc::clone(&sink));
                if self.leave(name, sink, Duration::ZERO).await
                    && let Err(error) = self.parts.sink.retire_unopened_routes().await
                {
                    cannot_retire(&error);
                }
            }
            Ok::<_, String>(())
        };
        if let Err(error) = finished.await {
            tracing::warn!(
                route = name,
                bucket = destination,
                error,
                "the journal has undelivered records of a route that has no bucket in the \
                 settings, and they cannot be delivered to its bucket: put the bucket back into \
                 the settings, or stop the host and run `audit journal deliver --routes FILE`"
            );
        }
    }

    /// Whether this process delivers the records that the journal has of this route.
    fn has(&self, name: &str) -> bool {
        let state = self.state();
        let is_on_journal = |route: &OpenRoute| route.settings.bucket.is_some();
        state.open.get(name).is_some_and(is_on_journal) || state.leaving.contains_key(name)
    }
}

fn cannot_retire(error: &SinkError) {
    let error = with_sources(error);
    tracing::warn!(error, "routes that left the settings cannot be retired");
}

/// A sink that prints each record on `output` once it is durable.
pub(crate) fn observed(sink: Arc<dyn AuditSink>, output: Output) -> Arc<dyn AuditSink> {
    let shown = Shown::on(output);
    Arc::new(Observed::new(sink, move |batch, place| shown.show(batch, place)))
}

impl OpenRoute {
    fn announce(&self, name: &str, output: &Output) {
        let OpenRoute { settings, sink } = self;
        let followers = settings.followers().map(|stream| format!(" and {}", stream.name));
        let followers = followers.collect::<String>();
        output.line(&format!("those of route {name} go to {sink}{followers}"));
    }
}

impl fmt::Debug for OpenRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sinks().keys()).finish()
    }
}

impl fmt::Debug for PreparedRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PreparedRoutes { added, changed, removed, shared: _, _changing } = self;
        f.debug_struct("PreparedRoutes")
            .field("added", added)
            .field("changed", changed)
            .field("removed", removed)
            .finish_non_exhaustive()
    }
}
