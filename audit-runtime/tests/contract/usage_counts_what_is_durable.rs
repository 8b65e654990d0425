//! C13: each log counts its bytes rounded up to the next 5,000. C12: with no bucket configured
//! nothing is emitted or metered.

use std::sync::Arc;

use audit_core::testing::MemoryFault;
use audit_runtime::{AuditRuntime, Usage, Var, body};
use audit_sink_null::NullSink;

use crate::host::*;

fn counts(usage: Usage) -> (u64, u64, u64) {
    (usage.logs(), usage.bytes(), usage.metered_bytes())
}

#[tokio::test]
async fn each_released_log_is_rounded_up() {
    // Provenance is added by the host, so it is not metered.
    for provenance in [false, true] {
        let host = Host::with(|settings| settings.with_provenance(provenance));
        let query = host.runtime.query("q");
        for bytes in [5_000, 5_001] {
            query
                .log()
                .audit(&body!({ "pad": "x".repeat(bytes - r#"{"pad":""}"#.len()) }))
                .unwrap();
        }
        let result = query.seal(());
        assert_eq!(counts(host.runtime.usage()), (0, 0, 0));
        result.release(&alice()).await.unwrap();
        assert_eq!(counts(host.runtime.usage()), (2, 10_001, 15_000));
        result.release_all(&[alice(), bob()]).await.unwrap();
        assert_eq!(counts(host.runtime.usage()), (6, 30_003, 45_000));
    }
}

#[tokio::test]
async fn usage_counts_actual_bytes() {
    let host = Host::new();
    let query = host.runtime.query("q");
    query.log().audit(&body!({ "ip": Var::IP })).unwrap();
    query.seal(()).release_all(&[alice(), request("c")]).await.unwrap();
    let bytes = (r#"{"ip":"192.0.2.7"}"#.len() + r#"{"ip":null}"#.len()) as u64;
    assert_eq!(counts(host.runtime.usage()), (2, bytes, 10_000));
}

#[tokio::test(start_paused = true)]
async fn logs_of_unknown_durability_are_not_metered() {
    let host = Host::new();
    host.sink.script(FAULTS.into_iter().chain([MemoryFault::None]));
    for _ in FAULTS {
        host.increment().await.unwrap_err();
    }
    assert_eq!(counts(host.runtime.usage()), (0, 0, 0));
    host.increment().await.unwrap();
    assert_eq!(host.runtime.usage().logs(), 1);
}

#[tokio::test]
async fn discarded_logs_are_not_metered() {
    let runtime = AuditRuntime::new(Arc::new(NullSink::new()));
    let query = runtime.query("q");
    query.log().audit(&body!({})).unwrap();
    assert_eq!(query.seal("page").release(&alice()).await.unwrap(), &"page");
    assert_eq!(runtime.usage(), Usage::default());
}
