//! The tenants that requests belong to. Each has audit logs of its own, in a bucket of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use audit_host::Lane;
use audit_runtime::http::Origin;
use audit_runtime::{AuditRuntime, RequestContext};
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use crate::answer::answer;

/// The runtimes by tenant. Without tenants, all requests are the host's own.
#[derive(Clone)]
pub(crate) struct Tenants {
    own: Tenant,
    by_name: Arc<BTreeMap<String, Tenant>>,
}

#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) runtime: AuditRuntime,
    /// The prefix of its documents' ids, so that no tenant can name a document of another.
    prefix: Arc<str>,
    /// The lane of all its clients, so that a tenant with many takes no more turns than others.
    lane: Option<Lane>,
}

impl Tenants {
    /// `own` is for a service without tenants.
    pub(crate) fn new(own: AuditRuntime, tenants: BTreeMap<String, AuditRuntime>) -> Tenants {
        let tenant = |(name, runtime): (String, AuditRuntime)| {
            let prefix = format!("{name}/").into();
            (name, Tenant { runtime, prefix, lane: Some(Lane::unique()) })
        };
        let by_name = Arc::new(tenants.into_iter().map(tenant).collect());
        Tenants { own: Tenant { runtime: own, prefix: "".into(), lane: None }, by_name }
    }

    /// The tenant of all requests in a service without tenants.
    pub(crate) fn own(&self) -> &Tenant {
        &self.own
    }

    pub(crate) fn runtimes(&self) -> impl Iterator<Item = &AuditRuntime> {
        std::iter::once(&self.own).chain(self.by_name.values()).map(|tenant| &tenant.runtime)
    }
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
    let tenant = if tenants.by_name.is_empty() {
        &tenants.own
    } else {
        let lines = request.headers().get_all("x-tenant").iter().map(HeaderValue::as_bytes);
        // A request without a tenant must not be logged as somebody else's.
        let Some(name) = origin.asserted(lines) else {
            let message = "no trusted proxy names the tenant of the request in X-Tenant";
            return answer(StatusCode::FORBIDDEN, message);
        };
        let known = std::str::from_utf8(name).ok().and_then(|name| tenants.by_name.get(name));
        let Some(tenant) = known else {
            let message = format!("there is no tenant {:?}", String::from_utf8_lossy(name));
            return answer(StatusCode::FORBIDDEN, &message);
        };
        tenant
    };
    let tenant = tenant.clone();
    request.extensions_mut().insert(tenant);
    next.run(request).await
}
