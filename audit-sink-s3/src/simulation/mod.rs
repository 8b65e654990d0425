//! The journal's simulation with a bucket as its destination: the properties that `audit-journal`
//! checks with a simulated destination also hold for this crate's requests and its handling of
//! responses.

mod auditor;
mod reading;
mod store;
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use audit_journal::Destination;
use audit_journal::simulation::bucket::{Refuses, Shown, SimulatedBucket, Stored};
use audit_journal::simulation::checkers::delivery::Reading;
use audit_journal::simulation::delivery;
use audit_journal::simulation::destination::{Endpoint, Known, Sending};

use self::store::SimulatedStore;
use crate::bucket::put::Put;
use crate::destination::BucketDestination;
use crate::evidence::Evidence;
use crate::store_double::Double;
use crate::{Bucket, Compression, Settings};

struct InBucket;

impl Endpoint for InBucket {
    fn destination(bucket: &SimulatedBucket, sending: Sending) -> Arc<dyn Destination> {
        let Sending {
            packs,
            vouches,
            is_hasty,
            is_rash,
            put_timeout_ms,
            retry_base_ms,
            retry_cap_ms,
            blocked_retry_cap_ms,
            random,
            health,
        } = sending;
        let settings = Settings {
            compression: if packs { Compression::Zstd } else { Compression::None },
            put_timeout_ms,
            retry_base_ms,
            retry_cap_ms,
            blocked_retry_cap_ms,
            ..Settings::default()
        };
        let seen = bucket.clone();
        let bucket =
            Bucket::from_store(Arc::new(Double(Arc::new(SimulatedStore(bucket.clone())))), "");
        let evidence = vouches.then(|| {
            let (host, settings) = (auditor::host_key(), auditor::settings());
            let evidence = Evidence::with_key(host, settings, "simulated");
            Arc::new(evidence.with_witnesses(witness::start(seen)))
        });
        let put = Put::new(bucket, health, Arc::clone(&random), settings);
        let destination = BucketDestination::new(put, evidence, random);
        Arc::new(destination.with_haste(is_hasty).with_rashness(is_rash))
    }

    fn read(
        known: &mut Known,
        objects: &BTreeMap<String, Stored>,
        metadata: bool,
    ) -> Result<Reading, String> {
        reading::read(known, objects, metadata)
    }

    fn verify(
        objects: &BTreeMap<String, Stored>,
        shown: &Shown,
        is_whole: bool,
    ) -> Result<(), String> {
        auditor::verify(objects, shown, is_whole)
    }

    fn lines_of(bytes: &[u8], encoding: &str) -> Result<Vec<Vec<u8>>, String> {
        reading::lines_of(bytes, encoding == "zstd")
    }

    fn advice(how: Refuses) -> &'static str {
        match how {
            Refuses::ExpiredCredentials => "renew or correct the credentials",
            Refuses::Permission => "allow the credentials to put",
            Refuses::NoBucket => "create the bucket",
            Refuses::OutOfReach => "connection refused",
        }
    }
}

#[test]
fn acknowledged_records_arrive_once() {
    let test = "-p audit-sink-s3 --lib simulation::acknowledged";
    delivery::acknowledged_records_arrive_once::<InBucket>(test);
}

#[test]
fn seeds_repeat() {
    delivery::seeds_repeat::<InBucket>();
}

#[test]
fn bad_deliveries_are_caught() {
    delivery::bad_deliveries_are_caught::<InBucket>();
}

#[tokio::test(start_paused = true)]
async fn a_day_without_the_bucket_costs_disk_alone() {
    delivery::a_day_without_the_destination::<InBucket>().await;
}

#[tokio::test(start_paused = true)]
async fn refusals_that_end_need_no_restart() {
    delivery::refusals_that_end::<InBucket>().await;
}
