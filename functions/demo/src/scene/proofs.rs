//! Checks of the scene's logs, promise by promise.

use std::collections::BTreeSet;

use audit_core::Usage;
use serde_json::json;

use super::super::bucket::Logs;
use super::super::stage::{Proof, count, expect, first_line};
use super::{CONTENDERS, Metered, Scene};

impl Scene {
    pub(in super::super) fn bodies(&self, logs: &Logs) -> Proof {
        let found = logs.find("bodies.everything", &[]);
        count(&found, 1, "logs of one body")?;
        let log = found[0];
        let now = &log.json["nested"]["deep"][1][0];
        // 512 bytes are 256 é.
        let user_agent = "é".repeat(256);
        let expected = format!(
            r#"{{"action":"bodies.everything","tag":"body","text":"quotes \" and \\ and {separator} and é and 😀","numbers":[0,-1,1.5,1e+21,null],"date":"1970-01-01T00:00:00.000Z","left":{{"kept":null}},"nested":{{"deep":[{{"ip":"{ip}"}},[{now},{now}]]}},"userAgent":"{user_agent}","requestId":"{id}","convexActor":null}}"#,
            // Some readers treat it as a line break, so it is escaped.
            separator = r"\u2028",
            ip = self.body_client.ip(),
            id = self.body.request_id,
        );
        expect(log.text == expected, || {
            format!("expected {expected}\n     found    {}", log.text)
        })?;
        Ok(vec![log.text.clone()])
    }

    pub(in super::super) fn variables(&self, logs: &Logs) -> Proof {
        let found = logs.find("bodies.everything", &[]);
        count(&found, 1, "logs of one body")?;
        let log = &found[0].json;
        let user_agent = log["userAgent"].as_str().unwrap_or_default();
        expect(user_agent.len() == 512, || format!("a User-Agent of {} bytes", user_agent.len()))?;
        let times = &log["nested"]["deep"][1];
        expect(times[0].is_i64() && times[0] == times[1], || format!("now is {times}"))?;
        let by_client = logs.find("document.viewed", &[("/source/ip", json!(self.views[0].0))]);
        count(&by_client, 1, "views from one address")?;
        Ok(vec![
            format!(
                "a User-Agent of 800 bytes was cut at {} bytes, between characters",
                user_agent.len()
            ),
            format!(
                "now is {} both times, ip is {} at depth 3",
                times[0], log["nested"]["deep"][0]["ip"]
            ),
        ])
    }

    pub(in super::super) fn forgeries(&self, logs: &Logs) -> Proof {
        let said = self.forged.error();
        expect(said.contains("$var") && !self.forged.is_success(), || {
            format!("a forged variable: {}", self.forged.body)
        })?;
        expect(said.contains("comment"), || format!("it does not say where: {said}"))?;
        let unknown = self.unknown.error();
        expect(unknown.contains("Unknown audit var symbol"), || {
            format!("an unknown one: {}", self.unknown.body)
        })?;
        count(&logs.find("bodies.forged", &[]), 0, "logs with a forged variable")?;
        count(&logs.find("bodies.unknown", &[]), 0, "logs with an unknown variable")?;
        Ok(vec![first_line(said), first_line(unknown)])
    }

    pub(in super::super) fn hand_outs(&self, logs: &Logs) -> Proof {
        let mut times = BTreeSet::new();
        for (ip, answer) in &self.views {
            let found = logs.find("document.viewed", &[("/source/ip", json!(ip))]);
            count(&found, 1, &format!("views by {ip}"))?;
            let log = &found[0].json;
            expect(log["source"]["requestId"] == json!(answer.request_id), || {
                format!("another request: {log}")
            })?;
            times.insert(log["at"].as_i64());
        }
        expect(self.cache_hits >= 4.0, || format!("{} cache hits for 5 views", self.cache_hits))?;
        let mut updates = 0;
        for ip in &self.followers {
            let of_revision = |revision: u32| {
                logs.find(
                    "document.viewed",
                    &[("/source/ip", json!(ip)), ("/revision", json!(revision))],
                )
                .len()
            };
            let (first, second) = (of_revision(1), of_revision(2));
            expect((first, second) == (1, 1), || {
                format!("{ip} was logged {first} and {second} times, not once each")
            })?;
            updates += second;
        }
        let sample = logs.find("document.viewed", &[("/source/ip", json!(self.followers[0]))]);
        Ok(vec![
            format!(
                "5 views, {} of them from the cache: 5 logs, each with its own ip, requestId and time",
                self.cache_hits
            ),
            format!(
                "{} followers, one change: {updates} updates and {updates} new logs",
                self.followers.len()
            ),
            sample.last().map(|log| log.text.clone()).unwrap_or_default(),
        ])
    }

    pub(in super::super) fn attempts(&self, logs: &Logs) -> Proof {
        let succeeded = self.adds.iter().filter(|answer| answer.is_success()).count();
        expect(self.total == succeeded as f64, || {
            format!("{succeeded} additions came to {}", self.total)
        })?;
        let mut attempts = 0;
        for answer in &self.adds {
            let found = logs.find("counter.added", &[("/requestId", json!(answer.request_id))]);
            expect(!found.is_empty(), || format!("no log of request {}", answer.request_id))?;
            attempts += found.len();
        }
        expect(attempts >= succeeded, || {
            format!("{attempts} attempts logged, {succeeded} committed")
        })?;
        expect(!self.refused.is_success(), || "a mutation that throws succeeded".to_owned())?;
        count(&logs.find("document.refused", &[]), 1, "logs of a failing mutation")?;
        expect(self.refused_titles == json!([]), || {
            format!("a failing mutation wrote {}", self.refused_titles)
        })?;
        Ok(vec![
            format!(
                "{CONTENDERS} clients changed one document at once: {succeeded} commits, {attempts} attempts, {attempts} logs"
            ),
            format!(
                "a mutation that throws: \"{}\", one log, nothing written",
                first_line(self.refused.error())
            ),
        ])
    }

    pub(in super::super) fn actions(&self, logs: &Logs) -> Proof {
        let report = self.report.value().map_err(|error| error.to_string())?;
        let ip = ("/source/ip", json!("192.0.2.30"));
        let views = logs.find("document.viewed", &[ip]);
        count(&views, 1, "views by the action")?;
        let id = ("/requestId", json!(self.report.request_id));
        let adds = logs.find("counter.added", &[id]);
        expect(!adds.is_empty(), || {
            "the mutation that the action called is not logged".to_owned()
        })?;
        let said = self.confession.error();
        expect(said.contains("audit logging is not supported in actions"), || {
            format!("{}", self.confession.body)
        })?;
        count(&logs.find("report.confessed", &[]), 0, "logs of an action")?;
        Ok(vec![
            format!("{report}: its query and its mutation are logged as its caller's"),
            first_line(said),
        ])
    }

    pub(in super::super) fn limits(&self, logs: &Logs) -> Proof {
        expect(!self.silenced.is_success(), || "the log was silenced".to_owned())?;
        count(&logs.find("limits.deed", &[]), 1, "logs of the deed")?;
        count(&logs.find("limits.noise", &[]), 499, "logs of noise")?;
        expect(self.silenced_rows == 0.0, || format!("it committed: {}", self.silenced_rows))?;
        let large = self.too_large.error();
        expect(large.contains("exceeds limit of 1000000 bytes"), || {
            format!("{}", self.too_large.body)
        })?;
        count(&logs.find("limits.large", &[]), 0, "logs that are too large")?;
        let together = self.together.error();
        expect(together.contains("exceed limit of 500"), || format!("{}", self.together.body))?;
        count(&logs.find("limits.mine", &[]), 250, "logs of the caller")?;
        count(&logs.find("limits.another", &[]), 250, "logs of the one that it calls")?;
        Ok(vec![
            format!(
                "600 noisy logs behind one deed, errors caught: \"{}\"; the deed and 499 are kept, nothing is written",
                first_line(self.silenced.error())
            ),
            first_line(large),
            format!(
                "250 logs of a mutation and 251 of a mutation that it calls: {}",
                first_line(together)
            ),
        ])
    }

    pub(in super::super) fn nested(&self, logs: &Logs) -> Proof {
        let written = self.nested.value().map_err(|error| error.to_string())?;
        expect(*written == 0.0, || format!("{written} documents were not undone"))?;
        for action in ["nested.outer", "nested.inner", "nested.caught"] {
            count(&logs.find(action, &[]), 1, &format!("logs of {action}"))?;
        }
        let shared = self.shared.value().map_err(|error| error.to_string())?;
        expect(*shared == json!(["eve"]), || format!("the component gave {shared}"))?;
        let found =
            logs.find("share.created", &[("/source/requestId", json!(self.shared.request_id))]);
        count(&found, 1, "logs of the component")?;
        Ok(vec![
            "the inner mutation wrote, logged and threw: its document is gone, its log is there"
                .to_owned(),
            format!("a component: {}", found[0].text),
        ])
    }

    pub(in super::super) fn scheduled(&self, logs: &Logs) -> Proof {
        let update = self.update.value().map_err(|error| error.to_string())?;
        let notices = logs.find("notice.sent", &[("/about", json!(self.document))]);
        count(&notices, 1, "notices")?;
        let notice = &notices[0].json;
        let nobody = json!({ "ip": null, "userAgent": null });
        expect(notice["own"] == nobody, || format!("a scheduled function has a client: {notice}"))?;
        expect(notice["onBehalfOf"]["ip"] == json!(self.update_client.ip()), || {
            format!("it was not passed its client: {notice}")
        })?;
        let sweeps = logs.find("maintenance.swept", &[]);
        expect(!sweeps.is_empty(), || "the cron did not run".to_owned())?;
        let sweep = &sweeps[0].json;
        let has_client =
            !sweep["source"]["ip"].is_null() || !sweep["source"]["userAgent"].is_null();
        expect(!has_client && sweep["read"] == nobody, || format!("a cron has a client: {sweep}"))?;
        Ok(vec![format!("revision {update}: {}", notices[0].text), sweeps[0].text.clone()])
    }

    pub(in super::super) fn usage(&self, logs: &Logs) -> Proof {
        let by_functions = logs.all.iter().filter(|log| !log.is_of_host());
        let counted: Usage = by_functions.map(|log| Usage::of_log(log.text.len())).sum();
        let Metered { logs: said, bytes, metered_bytes } = self.metered;
        // The bucket also contains the logs since the last check. Checks themselves log nothing.
        expect(said == counted.logs() as f64, || {
            format!("{said} logs metered, {} in the bucket", counted.logs())
        })?;
        expect(bytes == counted.bytes() as f64, || {
            format!("{bytes} bytes metered, {} in the bucket", counted.bytes())
        })?;
        expect(metered_bytes == counted.metered_bytes() as f64, || {
            format!(
                "metered at {metered_bytes}, but the bucket's logs at {}",
                counted.metered_bytes()
            )
        })?;
        Ok(vec![format!("{said} logs of {bytes} bytes, metered at {metered_bytes} bytes")])
    }
}
