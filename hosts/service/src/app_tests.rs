//! No view is stale, whoever changed the document and at whatever point the change was cancelled,
//! and no client makes others wait for long.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};

use audit_core::testing::{MemorySink, poll_at_most};
use audit_host::{Connection, FairLimits, Lane};
use audit_runtime::{AuditRuntime, RetryPolicy, Vars};
use axum::body::{Body, to_bytes};
use futures::future::join_all;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

const LONG: Duration = Duration::from_secs(600);

const TURNS: FairLimits = FairLimits {
    permits: 8,
    has_prompt_permit: true,
    max_waiting_of_client: 256,
    max_waiting: 1_024,
};

struct Service {
    sink: Arc<MemorySink>,
    database: Database,
    /// For requests that carry their connection.
    clients: Router,
    /// For requests without a connection, which are all of one client.
    router: Router,
}

/// A service on the database that all services of a test share.
async fn service(url: &str) -> Service {
    service_with(url, TURNS, 64 << 20).await
}

async fn service_with(url: &str, turns: FairLimits, memory_bytes: usize) -> Service {
    let sink = Arc::new(MemorySink::new());
    let mut vars = Vars::new();
    let user = vars.register("user", 256).unwrap();
    let runtime = AuditRuntime::builder(Arc::clone(&sink) as _)
        .with_vars(vars)
        .with_retry_policy(RetryPolicy { max_attempts: 30, base_backoff_ms: 1, max_backoff_ms: 20 })
        .build();
    let database = Database::open(url, turns).await.unwrap();
    let tenants = Tenants::none(runtime);
    let app = App::new(tenants, database.clone(), user, LONG, memory_bytes);
    let peer = Connection::new(([127, 0, 0, 1], 1).into());
    let clients = app.router("10.0.0.1".parse().unwrap(), Probe::new(None));
    let router = clients.clone().layer(Extension(Arc::new(peer)));
    Service { sink, database, clients, router }
}

/// A connection of the client with this number.
fn connection(client: u8) -> Arc<Connection> {
    Arc::new(Connection::new(([192, 0, 2, client], 1).into()))
}

/// The URL of a database, and an id that no other test uses.
fn database(directory: &tempfile::TempDir) -> (String, String) {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| format!("sqlite://{}/db?mode=rwc", directory.path().display()));
    let name = directory.path().file_name().unwrap().to_string_lossy();
    (url, name.replace('.', ""))
}

impl Service {
    async fn view(&self, id: &str) -> Value {
        let request = Request::get(format!("/documents/{id}")).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn update(&self, id: &str, text: &str) -> impl Future<Output = StatusCode> + use<> {
        let change = json!({ "title": "A title", "text": text }).to_string();
        let request = Request::put(format!("/documents/{id}"))
            .header("content-type", "application/json")
            .body(Body::from(change))
            .unwrap();
        let response = self.router.clone().oneshot(request);
        async move { response.await.unwrap().status() }
    }

    /// A change by the client of this connection.
    fn change_by(
        &self,
        connection: &Arc<Connection>,
        id: &str,
        text: &str,
    ) -> impl Future<Output = Response> + use<> {
        let change = json!({ "title": "A title", "text": text }).to_string();
        let mut request = Request::put(format!("/documents/{id}"))
            .header("content-type", "application/json")
            .body(Body::from(change))
            .unwrap();
        request.extensions_mut().insert(ConnectInfo(connection.peer()));
        request.extensions_mut().insert(Arc::clone(connection));
        let response = self.clients.clone().oneshot(request);
        async move { response.await.unwrap() }
    }

    async fn revision(&self, id: &str) -> i64 {
        documents::revision(self.database.pool(), id).await.unwrap().unwrap()
    }
}

/// A cache may store a response with one of these statuses unless it forbids that.
#[tokio::test]
async fn no_cache_in_between_can_hand_out_a_response() {
    let directory = tempfile::tempdir().unwrap();
    let (url, id) = database(&directory);
    let service = service(&url).await;
    assert_eq!(service.update(&id, "one").await, StatusCode::OK);
    for (method, path, status) in [
        ("GET", format!("/documents/{id}"), 200),
        ("HEAD", format!("/documents/{id}"), 200),
        ("GET", format!("/documents/{id}-other"), 404),
        ("GET", "/documents/%FF".to_owned(), 400),
        ("DELETE", format!("/documents/{id}"), 405),
    ] {
        let request = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
        let response = service.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{method} {path}");
    }
}

#[tokio::test]
async fn cancelled_changes_leave_no_stale_view() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    let service = service(&url).await;
    assert_eq!(service.update(&id, "first").await, StatusCode::OK);
    let (mut done, mut cancelled) = (0, 0);
    // The progress of a number of polls varies, so each is tried several times. A thousand polls
    // suffice.
    for polls in (1..=8).chain([1_000]).cycle().take(54) {
        service.view(&id).await;
        match poll_at_most(polls, service.update(&id, &format!("{polls}"))).await {
            Some(status) => {
                assert_eq!(status, StatusCode::OK);
                done += 1;
            }
            None => cancelled += 1,
        }
        // A commit in flight may complete between two of these reads.
        for _ in 0..3 {
            let before = service.revision(&id).await;
            let seen = service.view(&id).await["revision"].as_i64().unwrap();
            let after = service.revision(&id).await;
            assert!((before..=after).contains(&seen), "{before} {seen} {after}, {polls} polls");
        }
    }
    assert!(cancelled > 0 && done > 0, "{cancelled} changes were cancelled, {done} done");
    // Each committed revision has its log.
    let logs = service.sink.lines();
    for revision in 1..=service.revision(&id).await {
        let to = format!("\"to\":{revision},");
        assert!(logs.iter().any(|log| log.contains(&to)), "revision {revision} has a log");
    }
}

#[tokio::test]
async fn logs_of_oversized_requests_are_small() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    let service = service(&url).await;
    let long = id.repeat(60_000 / id.len());
    let view = Request::get(format!("/documents/{long}")).body(Body::empty()).unwrap();
    assert_eq!(service.router.clone().oneshot(view).await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(service.update(&long, "x").await, StatusCode::BAD_REQUEST);
    let titled = Request::put(format!("/documents/{id}"))
        .header("content-type", "application/json")
        .body(Body::from(json!({ "title": "é".repeat(60_000), "text": "" }).to_string()))
        .unwrap();
    assert_eq!(
        service.router.clone().oneshot(titled).await.unwrap().status(),
        StatusCode::BAD_REQUEST
    );
    let logs = service.sink.lines();
    assert_eq!(logs.len(), 3);
    assert!(logs.iter().all(|log| log.len() < 1_000), "{logs:?}");
    assert!(
        !logs[0].contains(&format!("\"{}\"", &long[..64])),
        "a truncated id matches no other id"
    );
}

#[tokio::test]
async fn text_that_no_database_stores_is_the_callers_fault() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    let service = service(&url).await;
    let nul = json!({ "title": "t", "text": "a\0b" });
    let titled = json!({ "title": "\0", "text": "a" });
    let plain = json!({ "title": "t", "text": "a" });
    let put = |id: &str, change: &Value| {
        Request::put(format!("/documents/{id}"))
            .header("content-type", "application/json")
            .body(Body::from(change.to_string()))
            .unwrap()
    };
    let strange = format!("{id}%00");
    let view = Request::get(format!("/documents/{strange}")).body(Body::empty()).unwrap();
    let requests = [
        (view, StatusCode::NOT_FOUND),
        (put(&strange, &plain), StatusCode::BAD_REQUEST),
        (put(&id, &nul), StatusCode::BAD_REQUEST),
        (put(&id, &titled), StatusCode::BAD_REQUEST),
        (put(&id, &plain), StatusCode::OK),
    ];
    let count = requests.len();
    for (request, expected) in requests {
        assert_eq!(service.router.clone().oneshot(request).await.unwrap().status(), expected);
    }
    assert_eq!(service.sink.lines().len(), count, "each has its log");
}

/// Replacing bytes that are not UTF-8 could give two users the same name.
#[tokio::test]
async fn a_user_that_is_not_utf8_is_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, _) = database(&directory);
    let service = service(&url).await;
    for (user, expected) in [
        (&b"ada"[..], StatusCode::NOT_FOUND),
        ("ada\u{fffd}".as_bytes(), StatusCode::NOT_FOUND),
        (b"ada\xff", StatusCode::BAD_REQUEST),
    ] {
        let mut request = Request::get("/documents/none").header("x-user", user);
        let peer = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        request.extensions_mut().unwrap().insert(ConnectInfo(peer));
        let request = request.body(Body::empty()).unwrap();
        let response = service.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected, "{user:?}");
    }
    assert_eq!(service.sink.lines().len(), 2);
}

/// The turns of changes: one at a time.
const ONE: FairLimits = FairLimits { permits: 1, has_prompt_permit: false, ..TURNS };

#[tokio::test]
async fn a_client_waits_for_one_request_of_each_other() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    let service = service_with(&url, ONE, 64 << 20).await;
    let turns = service.database.changes().clone();
    let held = turns.acquire(Lane::unique()).await.unwrap();
    let floods = (0..60_u8).map(|n| (1 + n % 3, format!("{id}-flood{n}")));
    let requests = floods.chain([(9, format!("{id}-quiet"))]);
    let requests = requests.map(|(client, id)| service.change_by(&connection(client), &id, "x"));
    let (responses, ()) = futures::join!(join_all(requests), async {
        while turns.waiting() < 61 {
            tokio::task::yield_now().await;
        }
        drop(held);
    });
    assert!(responses.iter().all(|response| response.status() == StatusCode::OK));
    let logs = service.sink.lines();
    let before = logs.iter().position(|log| log.contains("-quiet")).unwrap();
    assert!(before <= 3, "{before} came before");
    assert_eq!(logs.len(), 61);
}

#[tokio::test]
async fn too_many_waiting_requests_are_refused_and_cancelled_ones_never_begin() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    let limits = FairLimits { max_waiting_of_client: 2, max_waiting: 3, ..ONE };
    let service = service_with(&url, limits, 64 << 20).await;
    let turns = service.database.changes().clone();
    let held = turns.acquire(Lane::unique()).await.unwrap();
    let (flood, quiet) = (connection(1), connection(2));
    let mut waiting: Vec<_> =
        (0..2).map(|n| Box::pin(service.change_by(&flood, &format!("{id}-{n}"), "x"))).collect();
    for (n, request) in waiting.iter_mut().enumerate() {
        while turns.waiting() <= n {
            assert!(futures::poll!(request.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    let refused = service.change_by(&flood, &id, "x").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body = to_bytes(refused.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(
        body["message"].as_str().unwrap().ends_with("the limit of 2: send fewer at once"),
        "{body}"
    );
    // A connection that ends drops its request.
    drop(waiting.pop());
    assert_eq!(turns.waiting(), 1);
    let request = service.change_by(&quiet, &id, "x");
    let (response, ()) = futures::join!(request, async {
        while turns.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert_eq!(waiting.pop().unwrap().await.status(), StatusCode::OK);
    });
    assert_eq!(response.status(), StatusCode::OK);
    let logs = service.sink.lines();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(!logs.iter().any(|log| log.contains(&format!("{id}-1"))), "{logs:?}");
}

/// Waiting requests hold their bodies.
#[tokio::test]
async fn the_bodies_of_a_waiting_flood_cut_off_nobody_else() {
    let directory = tempfile::TempDir::new().unwrap();
    let (url, id) = database(&directory);
    // Room for about five of these bodies, with their copies.
    let service = service_with(&url, ONE, 2 << 20).await;
    let turns = service.database.changes().clone();
    let held = turns.acquire(Lane::unique()).await.unwrap();
    let long = "x".repeat(90_000);
    let (floods, quiet): (Vec<_>, _) = ((1..4).map(connection).collect(), connection(9));
    let flood = (0..60).map(|n| service.change_by(&floods[n % 3], &format!("{id}-{n}"), &long));
    let request = service.change_by(&quiet, &id, &long);
    let (_, response, ()) = futures::join!(join_all(flood), request, async {
        while turns.waiting() < 61 {
            tokio::task::yield_now().await;
        }
        drop(held);
    });
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!quiet.is_cut() && floods.iter().any(|flood| flood.is_cut()));
}

/// An error of a database with this code.
#[derive(Debug)]
struct Coded(&'static str);

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/var/lib/secret: code {}", self.0)
    }
}

impl Error for Coded {}

impl sqlx::error::DatabaseError for Coded {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}

#[test]
fn each_failure_has_its_status() {
    use audit_core::{LimitExceeded, Limits, SinkError, SinkErrorKind};
    use audit_runtime::AuditError;

    let database = |code| Failure::Database(sqlx::Error::Database(Box::new(Coded(code))));
    let limit = || LimitExceeded::log_bytes(2_000_000, &Limits::default());
    let not_durable = SinkError::not_persisted(SinkErrorKind::Unavailable, "x");
    let conflict = MutationError::Conflict { attempts: 30, source: database("5") };
    let lost = Failure::Database(sqlx::Error::PoolTimedOut);
    let table: [(Unanswered, u16, Option<u32>); 16] = [
        (Failure::NotFound.into(), 404, None),
        (Failure::Stale { expected: 1, actual: 2 }.into(), 409, None),
        (Failure::Invalid("x".to_owned()).into(), 400, None),
        (Failure::Audit(AuditError::Limit(limit())).into(), 500, None),
        (database("13").into(), 503, Some(1)),
        (database("5").into(), 503, Some(1)),
        (database("53100").into(), 503, Some(1)),
        (database("57P01").into(), 503, Some(1)),
        (database("11").into(), 500, None),
        (database("42P01").into(), 500, None),
        (lost.into(), 503, Some(1)),
        (MutationError::Function(database("13")).into(), 503, Some(1)),
        (conflict.into(), 503, Some(1)),
        // Whether it took effect is unknown.
        (MutationError::Commit(database("13")).into(), 503, None),
        (MutationError::Commit(database("XX000")).into(), 500, None),
        (ReleaseError::NotDurable(not_durable).into(), 503, Some(1)),
    ];
    for (unanswered, status, retry_after) in table {
        let Unanswered { message, .. } = &unanswered;
        assert_eq!(unanswered.status.as_u16(), status, "{message}");
        assert_eq!(unanswered.retry_after, retry_after, "{status} {message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

/// SQLite says so when a disk is full.
#[tokio::test]
async fn a_full_database_is_unavailable_and_goes_on_once_there_is_room() {
    let directory = tempfile::TempDir::new().unwrap();
    let url = format!("sqlite://{}/db?mode=rwc", directory.path().display());
    let service = service_with(&url, ONE, 64 << 20).await;
    let limit = async |pages: u32| {
        let mut all = Vec::new();
        for _ in 0..ONE.permits + 3 {
            all.push(service.database.pool().acquire().await.unwrap());
        }
        for connection in &mut all {
            let statement = format!("PRAGMA max_page_count = {pages}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **connection).await.unwrap();
        }
    };
    let text = "x".repeat(90_000);
    limit(1).await;
    for id in ["a", "b"] {
        let response = service.change_by(&connection(1), id, &text).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("disk"), "{body:?}");
    }
    limit(1 << 20).await;
    assert_eq!(service.change_by(&connection(1), "a", &text).await.status(), StatusCode::OK);
}

/// Counts log lines.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("audit_service")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_at_once_are_one_line() {
    let lines = Lines::default();
    let _log = tracing::subscriber::set_default(lines.clone());
    for _ in 0..100 {
        for status in [500, 503] {
            Unanswered::new(status, &std::fmt::Error);
        }
    }
    // None of a kind that another test has just logged.
    assert!(lines.0.load(Ordering::Relaxed) <= 2, "{lines:?}");
}
