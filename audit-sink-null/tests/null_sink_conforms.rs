//! The null sink keeps the contract as far as it can be kept without a destination.

use std::sync::Arc;

use audit_core::testing::StoredRecord;
use audit_core::testing::conformance::{self, Destination};
use audit_core::{AuditSink, Durability, async_trait};
use audit_sink_null::NullSink;

struct Nowhere;

#[async_trait]
impl Destination for Nowhere {
    async fn open(&self) -> Arc<dyn AuditSink> {
        Arc::new(NullSink::new())
    }

    async fn stored(&self) -> Vec<StoredRecord> {
        Vec::new()
    }

    fn durability(&self) -> Durability {
        Durability::Discarded
    }
}

#[tokio::test]
async fn null_sink_passes_the_suite() {
    conformance::run(&Nowhere).await;
}
