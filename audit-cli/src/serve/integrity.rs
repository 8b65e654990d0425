//! Verification of the bucket while the page is open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit_evidence::{Alarm, Finding, Policy, TrustedKey};
use audit_sink_s3::layout::ObjectKey;
use parking_lot::Mutex;

use crate::arguments::Common;
use crate::bucket::Reader;
use crate::escape;
use crate::failure::Failure;
use crate::keys;
use crate::units::now_ms;
use crate::verify::{self, Whole};

/// The maximum number of listed findings. All are counted.
const MAX_FINDINGS: usize = 1_000;

/// The verifications of a bucket, one after another.
pub(super) struct Integrity {
    reader: Reader,
    keys: Vec<TrustedKey>,
    policy: Option<Policy>,
    written_to: Vec<String>,
    common: Common,
    done: AtomicU64,
    all: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_running: bool,
    /// The result of the last completed verification.
    end: Option<serde_json::Value>,
}

impl Integrity {
    pub(super) fn new(
        reader: Reader,
        keys: Vec<TrustedKey>,
        policy: Option<Policy>,
        written_to: Vec<String>,
        common: Common,
    ) -> Integrity {
        let (done, all, state) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        Integrity { reader, keys, policy, written_to, common, done, all, state }
    }

    /// The keys of the hosts that are trusted.
    pub(super) fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// Starts a verification, unless one is running or there is nothing to verify with. A running
    /// verification ends with the process.
    pub(super) fn verify(self: &Arc<Integrity>) {
        let mut state = self.state.lock();
        if state.is_running || self.keys.is_empty() {
            return;
        }
        state.is_running = true;
        let integrity = Arc::clone(self);
        tokio::spawn(async move {
            // If the verification panics, another one can be started.
            let end = tokio::spawn(Arc::clone(&integrity).run()).await;
            let failed = |error| failed(&Failure::new("the verification ended").because(error));
            let end = end.unwrap_or_else(failed);
            *integrity.state.lock() = State { is_running: false, end: Some(end) };
        });
    }

    async fn run(self: Arc<Integrity>) -> serde_json::Value {
        let progress = Arc::clone(&self);
        let told = move |done, all| {
            progress.done.store(done, Ordering::Relaxed);
            progress.all.store(all, Ordering::Relaxed);
        };
        told(0, 0);
        let Integrity { reader, keys, written_to, common, .. } = &*self;
        let names: Vec<String> = keys.iter().map(keys::text).collect();
        let policy = self.policy.as_ref();
        // Objects are listed first: later ones are not examined.
        let begin_ms = now_ms();
        match verify::whole(reader, keys, policy, written_to, common, told).await {
            Ok(whole) => described(&whole, &names, begin_ms),
            Err(failure) => failed(&failure),
        }
    }

    /// The last result, or that there is none yet; and how far a running verification is.
    pub(super) fn shown(&self) -> serde_json::Value {
        if self.keys.is_empty() {
            return serde_json::json!({ "state": "without keys" });
        }
        let state = self.state.lock();
        let none = || serde_json::json!({ "state": "running" });
        let mut shown = state.end.clone().unwrap_or_else(none);
        if state.is_running {
            let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
            shown["running"] =
                serde_json::json!({ "done": count(&self.done), "all": count(&self.all) });
        }
        shown
    }
}

fn failed(failure: &Failure) -> serde_json::Value {
    let mut end = failure.shown();
    end["state"] = "failed".into();
    end
}

fn name(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::Tampered => "tampered",
        Alarm::Unproven => "unproven",
        Alarm::Late => "late",
        Alarm::Expired => "expired",
    }
}

fn described(whole: &Whole, keys: &[String], begin_ms: i64) -> serde_json::Value {
    let Whole { report, unread, unread_hours, unlisted, hours } = whole;
    let hours_of = |stream: &str| hours.get(stream).into_iter().flatten().copied();
    // The worst alarm of each hour. Alarms are ordered by severity.
    let mut worst: BTreeMap<i64, Option<Alarm>> = BTreeMap::new();
    let mut add = |hour: i64, alarm: Option<Alarm>| {
        let known = worst.entry(hour).or_insert(alarm);
        *known = match (*known, alarm) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    };
    let mut hosts: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for stream in &report.streams {
        let alarm = stream.host.is_none().then_some(Alarm::Unproven);
        hours_of(&stream.stream).for_each(|hour| add(hour, alarm));
        let host = hosts.entry(stream.host.as_deref().unwrap_or("")).or_default();
        *host = (host.0 + 1, host.1 + stream.objects, host.2 + stream.records);
    }
    for finding in &report.findings {
        let key = finding.object.as_deref().and_then(|key| key.parse::<ObjectKey>().ok());
        let alarm = Some(finding.alarm());
        match key {
            Some(key) => add(key.hour_ms(), alarm),
            None => hours_of(&finding.stream).for_each(|hour| add(hour, alarm)),
        }
    }
    unread_hours.iter().for_each(|hour| add(*hour, Some(Alarm::Unproven)));
    let count = |alarm| report.findings.iter().filter(|finding| finding.alarm() == alarm).count();
    let findings: Vec<_> = report.findings.iter().take(MAX_FINDINGS).map(found).collect();
    let hours: Vec<_> =
        worst.iter().map(|(hour, alarm)| (hour, alarm.map_or("proven", name))).collect();
    let hosts: Vec<_> = hosts
        .into_iter()
        .map(|(host, (streams, objects, records))| {
            serde_json::json!({
                "host": escape::text(host), "streams": streams,
                "objects": objects, "records": records,
            })
        })
        .collect();
    serde_json::json!({
        "state": "done",
        "begin": begin_ms,
        "tampered": count(Alarm::Tampered),
        "unproven": count(Alarm::Unproven),
        "late": count(Alarm::Late),
        "expired": count(Alarm::Expired),
        "unread": unread,
        "unlisted": unlisted,
        "streams": report.streams.len(),
        "hosts": hosts,
        "keys": keys,
        "findings": findings,
        "hours": hours,
    })
}

fn found(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "alarm": name(finding.alarm()),
        "stream": escape::text(&finding.stream),
        "object": finding.object.as_deref().map(escape::text),
        "first": finding.records.as_ref().map(|records| records.start),
        "count": finding.records.as_ref().map(|records| records.end - records.start),
        "what": escape::text(&verify::what(finding)),
    })
}
