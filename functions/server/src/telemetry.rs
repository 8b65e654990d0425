//! What the metrics of the server mean, and the upkeep of their recorder.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

/// How often histograms are drained, in case nobody reads the metrics.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("audit_usage_logs_total", "Audit logs made durable");
    describe_counter!("audit_usage_bytes_total", Unit::Bytes, "Their bytes");
    describe_counter!(
        "audit_usage_metered_bytes_total",
        Unit::Bytes,
        "What they count as, each rounded up to the next 5,000"
    );
    describe_counter!(
        "functions_query_cache_hits_total",
        "Results of queries that were computed before"
    );
    describe_counter!(
        "functions_query_cache_misses_total",
        "Results of queries that were computed"
    );
    describe_gauge!(
        "functions_query_cache_bytes",
        Unit::Bytes,
        "What the cache of results holds, arguments and sealed logs included"
    );
    describe_gauge!(
        "functions_kept_engines_bytes",
        Unit::Bytes,
        "What the engines take that threads keep for later calls"
    );
    describe_gauge!("functions_query_cache_entries", "Results in the cache");
    describe_counter!(
        "functions_query_cache_evictions_total",
        "Results that the cache evicted for want of room"
    );
    describe_counter!(
        "functions_scheduler_panics_total",
        "Panics of the scheduler, after each of which it began again"
    );
    describe_counter!("functions_http_requests_total", "Requests, by route and status");
    describe_histogram!(
        "functions_http_seconds",
        Unit::Seconds,
        "From a request to its response, by route"
    );
    describe_gauge!(
        "functions_workers_waiting",
        "Runs of queries and mutations that wait for a thread"
    );
    describe_histogram!(
        "functions_workers_wait_seconds",
        Unit::Seconds,
        "How long a run waited for its thread"
    );
    describe_counter!(
        "functions_workers_skipped_total",
        "Runs that were not begun, since their callers went away"
    );
    describe_counter!(
        "functions_workers_given_up_total",
        "Runs that kept their thread for too long and were given up"
    );
    describe_gauge!("functions_workers_stuck", "Threads that were given up and have not come back");
    describe_gauge!(
        "functions_store_accepts",
        "Whether the store takes changes: 0 without room on its disk, or until a restart"
    );
    describe_gauge!(
        "functions_requests_bytes",
        Unit::Bytes,
        "Memory that requests and messages are reckoned to take now"
    );
    describe_counter!(
        "functions_requests_refused_total",
        "Requests and messages that were refused for a limit, by reason"
    );
    describe_gauge!("functions_fetches", "Fetches of actions that are under way");
    describe_counter!(
        "functions_fetches_total",
        "Fetches that ended: responded, failed, or cancelled"
    );
    describe_gauge!("functions_sync_sessions", "Clients that are connected");
    describe_counter!("functions_sync_transitions_total", "Steps that clients were sent");
    describe_counter!("functions_sync_results_total", "Results that clients were handed in them");
    describe_gauge!(
        "functions_held_bytes",
        Unit::Bytes,
        "Memory that clients hold: answers until they are taken, arguments of followed queries"
    );
    describe_counter!(
        "functions_clients_cut_off_total",
        "Connections that were cut off since they held the most of what there is"
    );
    describe_gauge!(
        "functions_outcomes_bytes",
        Unit::Bytes,
        "Outcomes of mutations that are kept for clients that send them again"
    );
}

/// Drains histograms, without end.
pub(super) async fn upkeep(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}
