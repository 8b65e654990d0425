//! The tenants that requests belong to. Each has audit logs of its own, in a bucket of its own.
//! Tenants may change while the service runs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_host::Lane;
use audit_runtime::http::Origin;
use audit_runtime::{AuditRuntime, RequestContext};
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};

use crate::answer::answer;

/// The tenants. Without any, all requests are the host's own.
#[derive(Clone)]
pub(crate) struct Tenants {
    own: Tenant,
    /// `None` in a service without tenants. One with tenants never becomes one without.
    by_name: Option<watch::Sender<BTreeMap<String, Entry>>>,
}

enum Entry {
    /// Requests are served with clones of the tenant, and the channel closes with the last one.
    Open(Tenant, mpsc::Receiver<Infallible>),
    /// Requests wait: the tenant's route is being closed and opened again.
    Changing,
    /// The tenant's route could not be opened.
    Failed,
}

/// A tenant, as requests see it.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) runtime: AuditRuntime,
    /// The prefix of its documents' ids, so that no tenant can name a document of another.
    prefix: Arc<str>,
    /// The lane of all its clients, so that a tenant with many takes no more turns than others.
    lane: Option<Lane>,
    /// Another one for each runtime, so that no result is released by a runtime that is gone.
    pub(crate) opening: u64,
    _in_use: mpsc::Sender<Infallible>,
}

impl Tenants {
    /// For a service without tenants.
    pub(crate) fn none(own: AuditRuntime) -> Tenants {
        Tenants { own: tenant("", own, None).0, by_name: None }
    }

    /// For a service whose requests all belong to tenants.
    pub(crate) fn new(own: AuditRuntime, tenants: BTreeMap<String, AuditRuntime>) -> Tenants {
        let tenants = tenants.into_iter().map(|(name, runtime)| {
            let entry = Entry::open(&name, runtime);
            (name, entry)
        });
        let by_name = Some(watch::Sender::new(tenants.collect()));
        Tenants { by_name, ..Tenants::none(own) }
    }

    /// The tenant of all requests in a service without tenants.
    pub(crate) fn own(&self) -> &Tenant {
        &self.own
    }

    /// The runtimes that requests are served with now.
    pub(crate) fn runtimes(&self) -> Vec<AuditRuntime> {
        let mut runtimes = vec![self.own.runtime.clone()];
        if let Some(by_name) = &self.by_name {
            runtimes.extend(by_name.borrow().values().filter_map(|entry| match entry {
                Entry::Open(tenant, _) => Some(tenant.runtime.clone()),
                Entry::Changing | Entry::Failed => None,
            }));
        }
        runtimes
    }

    /// Serves no more requests of these tenants: those of `changed` wait, those of `removed` are
    /// refused. The future completes once the requests in progress have ended and their outcomes
    /// are durable or lost. It may be dropped.
    pub(crate) fn suspend(
        &self,
        changed: &[String],
        removed: &[String],
    ) -> impl Future<Output = ()> + use<> {
        let mut before = Vec::new();
        if let Some(by_name) = &self.by_name {
            by_name.send_modify(|by_name| {
                before.extend(removed.iter().filter_map(|name| by_name.remove(name)));
                let changing = changed.iter().cloned().map(|name| (name, Entry::Changing));
                before.extend(changing.filter_map(|(name, entry)| by_name.insert(name, entry)));
            });
        }
        let ended = before.into_iter().filter_map(|entry| match entry {
            Entry::Open(Tenant { runtime, .. }, mut requests) => Some(async move {
                // Once all requests have dropped the tenant.
                let None = requests.recv().await;
                runtime.drain_outcomes().await;
            }),
            Entry::Changing | Entry::Failed => None,
        });
        let ended = join_all(ended);
        async move { drop(ended.await) }
    }

    /// Serves requests of these tenants, with these runtimes. One without a runtime has failed.
    pub(crate) fn resume(&self, tenants: BTreeMap<String, Option<AuditRuntime>>) {
        let Some(by_name) = &self.by_name else { return };
        by_name.send_modify(|by_name| {
            by_name.extend(tenants.into_iter().map(|(name, runtime)| {
                let open = |runtime| Entry::open(&name, runtime);
                let entry = runtime.map_or(Entry::Failed, open);
                (name, entry)
            }));
        });
    }

    /// The tenant of a request, which the proxy in front names.
    async fn of(&self, origin: &Origin, headers: &HeaderMap) -> Result<Tenant, Response> {
        let Some(by_name) = &self.by_name else { return Ok(self.own.clone()) };
        let lines = headers.get_all("x-tenant").iter().map(HeaderValue::as_bytes);
        // A request without a tenant must not be logged as somebody else's.
        let Some(name) = origin.asserted(lines) else {
            let message = "no trusted proxy names the tenant of the request in X-Tenant";
            return Err(answer(StatusCode::FORBIDDEN, message));
        };
        let mut by_name = by_name.subscribe();
        // Fails only if the sender is gone, which `self` has.
        let known = by_name.wait_for(|by_name| {
            let entry = std::str::from_utf8(name).ok().and_then(|name| by_name.get(name));
            !matches!(entry, Some(Entry::Changing))
        });
        let known = known.await;
        let known = known.as_ref().ok().zip(std::str::from_utf8(name).ok());
        match known.and_then(|(by_name, name)| by_name.get(name)) {
            Some(Entry::Open(tenant, _)) => Ok(tenant.clone()),
            Some(Entry::Changing | Entry::Failed) => {
                let message = "the logs of this tenant cannot be made durable: its destination \
                               could not be opened";
                Err(answer(StatusCode::SERVICE_UNAVAILABLE, message))
            }
            None => {
                let message = format!("there is no tenant {:?}", String::from_utf8_lossy(name));
                Err(answer(StatusCode::FORBIDDEN, &message))
            }
        }
    }
}

impl Entry {
    fn open(name: &str, runtime: AuditRuntime) -> Entry {
        let (tenant, requests) = tenant(&format!("{name}/"), runtime, Some(Lane::unique()));
        Entry::Open(tenant, requests)
    }
}

fn tenant(
    prefix: &str,
    runtime: AuditRuntime,
    lane: Option<Lane>,
) -> (Tenant, mpsc::Receiver<Infallible>) {
    static OPENINGS: AtomicU64 = AtomicU64::new(0);
    let opening = OPENINGS.fetch_add(1, Ordering::Relaxed);
    let (in_use, requests) = mpsc::channel(1);
    (Tenant { runtime, prefix: prefix.into(), lane, opening, _in_use: in_use }, requests)
}

impl Tenant {
    /// The lane in which a request waits for its turn: its tenant's, or its address's.
    pub(crate) fn lane(&self, request: &RequestContext) -> Lane {
        self.lane.unwrap_or_else(|| Lane::of(request))
    }

    /// The id under which the database has this document.
    pub(crate) fn document(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }
}

/// Assigns a request to its tenant. With tenants, the proxy in front names one in each request.
/// Only trusted proxies can: any other client could name anybody, and read and log in their name.
pub(crate) async fn assign(
    State(tenants): State<Tenants>,
    Extension(origin): Extension<Origin>,
    mut request: Request,
    next: Next,
) -> Response {
    match tenants.of(&origin, request.headers()).await {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(refusal) => refusal,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use audit_core::testing::MemorySink;
    use futures::FutureExt;

    use super::*;

    fn runtime() -> AuditRuntime {
        AuditRuntime::builder(Arc::new(MemorySink::new()) as _).build()
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn requests_in_progress_end_and_others_wait_while_a_tenant_changes() {
        let open = || named(&["acme", "globex"]).into_iter().map(|name| (name, runtime()));
        let tenants = Tenants::new(runtime(), open().collect());
        let proxies = "10.0.0.0/8".parse().unwrap();
        let origin = Origin::of("10.1.2.3".parse().ok(), &proxies, "x-request-id", |_| []);
        let of = async |name: &str| {
            let headers = HeaderMap::from_iter([(
                "x-tenant".parse().unwrap(),
                HeaderValue::from_str(name).unwrap(),
            )]);
            let found = tenants.of(&origin, &headers).await;
            found.map_err(|refusal| refusal.status().as_u16())
        };
        let before = of("acme").await.ok().unwrap();
        let ended = tenants.suspend(&named(&["acme"]), &named(&["globex"]));
        let mut ended = Box::pin(ended);
        assert!((&mut ended).now_or_never().is_none(), "a request is in progress");
        assert_eq!(of("globex").await.err(), Some(403));
        let mut next = Box::pin(of("acme"));
        assert!((&mut next).now_or_never().is_none(), "it waits");
        let opening = before.opening;
        drop(before);
        ended.await;
        assert!((&mut next).now_or_never().is_none(), "it waits until the route is open");
        tenants.resume([("acme".to_owned(), Some(runtime()))].into());
        assert_ne!(next.await.ok().unwrap().opening, opening);
        tenants.suspend(&named(&["acme"]), &[]).await;
        tenants.resume([("acme".to_owned(), None)].into());
        assert_eq!(of("acme").await.err(), Some(503));
        // A service whose last tenant leaves has no requests of its own.
        tenants.suspend(&[], &named(&["acme"])).await;
        assert_eq!(of("acme").await.err(), Some(403));
    }
}
