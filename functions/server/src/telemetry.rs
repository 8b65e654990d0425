//! The descriptions of the server's metrics, and the upkeep of their recorder.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

/// How often histograms are drained, in case nothing scrapes the metrics.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("audit_usage_logs_total", "Audit logs made durable");
    describe_counter!("audit_usage_bytes_total", Unit::Bytes, "Bytes of audit logs made durable");
    describe_counter!(
        "audit_usage_metered_bytes_total",
        Unit::Bytes,
        "Metered bytes of audit logs made durable, each log rounded up to the next 5,000"
    );
    describe_counter!("functions_query_cache_hits_total", "Query results found in the cache");
    describe_counter!("functions_query_cache_misses_total", "Query results that were computed");
    describe_gauge!(
        "functions_query_cache_bytes",
        Unit::Bytes,
        "Memory of the result cache, including arguments and sealed logs"
    );
    describe_gauge!(
        "functions_kept_engines_bytes",
        Unit::Bytes,
        "Memory of the engines that threads keep for later calls"
    );
    describe_gauge!("functions_query_cache_entries", "Results in the cache");
    describe_counter!("functions_query_cache_evictions_total", "Results evicted from the cache");
    describe_counter!(
        "functions_scheduler_panics_total",
        "Panics of the scheduler, each followed by a restart"
    );
    describe_counter!("functions_http_requests_total", "Requests, by route and status");
    describe_histogram!(
        "functions_http_seconds",
        Unit::Seconds,
        "Time from a request to its response, by route"
    );
    describe_gauge!("functions_actions", "Running actions of clients");
    describe_gauge!("functions_workers_waiting", "Queries and mutations that wait for a thread");
    describe_histogram!(
        "functions_workers_wait_seconds",
        Unit::Seconds,
        "Time that queries and mutations waited for a thread"
    );
    describe_counter!(
        "functions_workers_skipped_total",
        "Queries and mutations that did not begin because their callers went away"
    );
    describe_counter!(
        "functions_workers_given_up_total",
        "Functions that kept their thread for too long and were abandoned"
    );
    describe_gauge!("functions_workers_stuck", "Abandoned threads that have not returned");
    describe_gauge!(
        "functions_store_accepts",
        "Whether the store accepts changes: 0 if its disk is short of space, or until a restart"
    );
    describe_gauge!(
        "functions_requests_bytes",
        Unit::Bytes,
        "Estimated memory of the requests and messages in progress"
    );
    describe_counter!(
        "functions_requests_refused_total",
        "Requests and messages refused because of a limit, by reason"
    );
    describe_gauge!("functions_fetches", "Running fetches of actions");
    describe_counter!(
        "functions_fetches_total",
        "Fetches by result: responded, failed, or cancelled"
    );
    describe_gauge!("functions_sync_sessions", "Connected clients");
    describe_counter!("functions_sync_transitions_total", "Steps sent to clients");
    describe_counter!("functions_sync_results_total", "Results released to clients in steps");
    describe_gauge!(
        "functions_outcomes_bytes",
        Unit::Bytes,
        "Outcomes of mutations that are kept for retries of clients"
    );
}

/// Drains histograms forever.
pub(super) async fn upkeep(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}
