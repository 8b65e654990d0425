//! Splunk's indexer acknowledgment: a request is delivered once the indexers have it, rather than
//! when the collector accepts it.
//!
//! The collector answers each request with a number, which is then queried until the response is
//! `true`. It returns `true` only once: if that response is lost, or the collector restarts, the
//! outcome of the request cannot be determined, and it is sent again.

use std::time::Duration;

use audit_core::Random;
use serde_json::Value;
use url::Url;

/// The pause before the first query. It doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The path below which the collector accepts queries (`/ack`).
const COLLECTOR: &str = "/services/collector";

/// The ends of paths at which the collector accepts events in the format of requests.
const EVENTS: [&str; 3] = ["", "/event", "/event/1.0"];

/// How a receiver is queried for acknowledgments.
#[derive(Debug)]
pub(crate) struct Acknowledgment {
    /// The channel that the numbers belong to. Each opening has its own.
    pub(crate) channel: String,
    pub(crate) url: Url,
    /// How long to wait for the response `true`.
    pub(crate) within: Duration,
}

impl Acknowledgment {
    /// Derives the URL of queries from that of the collector.
    ///
    /// # Errors
    ///
    /// If the URL is not that of a collector.
    pub(crate) fn new(
        url: &Url,
        within: Duration,
        random: &dyn Random,
    ) -> Result<Acknowledgment, String> {
        let path = url.path();
        let bare = path.strip_suffix('/').unwrap_or(path);
        let before = |end| bare.strip_suffix(end)?.strip_suffix(COLLECTOR);
        let before = EVENTS.into_iter().find_map(before).ok_or_else(|| {
            format!(
                "indexer_ack_ms needs a url whose path ends with {COLLECTOR}/event, {COLLECTOR} or \
                 {COLLECTOR}/event/1.0, not {path}"
            )
        })?;
        let mut asked = url.clone();
        asked.set_path(&format!("{before}{COLLECTOR}/ack"));
        // The query may hold the token or a gateway's key, which queries need too.
        let is_channel = |name: &str| name == "channel";
        let kept = url.query_pairs().filter(|(name, _)| !is_channel(name));
        asked.query_pairs_mut().clear().extend_pairs(kept);
        let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        let hex = format!("{bits:032x}");
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        let channel = parts.join("-");
        asked.query_pairs_mut().append_pair("channel", &channel);
        Ok(Acknowledgment { channel, url: asked, within })
    }

    /// The pause before the next query, given the number of queries so far.
    pub(crate) fn pause(questions: u32) -> Duration {
        FIRST_PAUSE
            .saturating_mul(1u32.checked_shl(questions).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE)
    }
}

/// The number that a collector gave to a request.
pub(crate) fn number(answer: &Value) -> Option<u64> {
    answer["ackId"].as_u64()
}

/// Whether the response says that the request with this number is indexed.
pub(crate) fn is_indexed(answer: &Value, number: u64) -> bool {
    answer["acks"][number.to_string()] == true
}

#[cfg(test)]
mod tests {
    use audit_core::testing::SeededRandom;

    use super::*;

    #[test]
    fn each_opening_has_a_channel_of_its_own() {
        let new = |url: &str, seed| {
            let random = SeededRandom::new(seed);
            Acknowledgment::new(&url.parse().unwrap(), Duration::from_secs(1), &random)
        };
        let one =
            new("https://splunk.example:8088/services/collector/event?x=1&channel=y", 1).unwrap();
        let parts: Vec<usize> = one.channel.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        let asked = format!(
            "https://splunk.example:8088/services/collector/ack?x=1&channel={}",
            one.channel
        );
        assert_eq!(one.url.as_str(), asked);
        let other = new("https://proxy.example/a/services/collector", 2).unwrap();
        assert_eq!(other.url.path(), "/a/services/collector/ack");
        assert_ne!(one.channel, other.channel);
    }

    #[test]
    fn only_the_paths_for_events_lead_to_acknowledgments() {
        let new = |path: &str| {
            let url = format!("https://splunk.example{path}?x=1").parse().unwrap();
            let new = Acknowledgment::new(&url, Duration::from_secs(1), &SeededRandom::new(1));
            new.map(|new| new.url.path().to_owned())
        };
        let ends = ["", "/", "/event", "/event/", "/event/1.0"];
        for before in ["", "/a", "/services/collector/raw", "/services/collector"] {
            for end in ends {
                let asked = new(&format!("{before}/services/collector{end}"));
                assert_eq!(asked.unwrap(), format!("{before}/services/collector/ack"));
            }
            for end in ["X", "//", "/raw", "/raw/1.0", "/ack", "/health", "/events", "/event/2"] {
                let path = format!("{before}/services/collector{end}");
                let error = new(&path).unwrap_err();
                assert!(error.starts_with("indexer_ack_ms") && error.ends_with(&path), "{error}");
            }
        }
        for path in ["/event", "/services", "/services/collectors/event", "/xservices/collector"] {
            assert!(new(path).is_err(), "{path}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_answers_are_read() {
        let pauses = [0, 1, 3, 6, 31, u32::MAX].map(|n| Acknowledgment::pause(n).as_millis());
        assert_eq!(pauses, [100, 200, 800, 5_000, 5_000, 5_000]);
        let answer = serde_json::json!({"acks": {"3": true, "4": false}});
        assert_eq!([3, 4, 5].map(|number| is_indexed(&answer, number)), [true, false, false]);
        assert_eq!(number(&serde_json::json!({"code": 0, "ackId": 0})), Some(0));
    }
}
