//! The formats of requests, and what the receivers of each expect.

use serde::{Deserialize, Serialize};

/// The format of requests, as the receiver expects it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON array of events as Convex's log streams send them, signed.
    #[default]
    Webhook,
    /// The same events, one per line, signed.
    WebhookLines,
    /// One line of JSON per record, with its id, time and body, signed.
    Ndjson,
    /// Splunk's HTTP Event Collector.
    Splunk,
    /// OpenTelemetry logs over HTTP, as JSON.
    Otlp,
    /// Datadog's log intake.
    Datadog,
    /// Axiom's ingest of a dataset.
    Axiom,
    /// CloudEvents 1.0 in batches, signed.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// OCSF API Activity events, one per line, signed.
    /// [`Settings::mapping`](crate::Settings::mapping) assigns members of a body to fields.
    Ocsf,
}

/// The limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The maximum number of records in one request.
    pub records: usize,
    /// The maximum size of a request's body, in bytes.
    pub bytes: usize,
    /// The maximum size of one record as it is sent, in bytes.
    pub record_bytes: usize,
}

impl Format {
    #[cfg(test)]
    pub(crate) const ALL: [Format; 9] = [
        Format::Webhook,
        Format::WebhookLines,
        Format::Ndjson,
        Format::Splunk,
        Format::Otlp,
        Format::Datadog,
        Format::Axiom,
        Format::CloudEvents,
        Format::Ocsf,
    ];

    /// Whether requests are signed. The intakes of products check a token instead.
    pub(crate) fn is_signed(self) -> bool {
        match self {
            Format::Webhook
            | Format::WebhookLines
            | Format::Ndjson
            | Format::CloudEvents
            | Format::Ocsf => true,
            Format::Splunk | Format::Otlp | Format::Datadog | Format::Axiom => false,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Webhook | Format::Splunk | Format::Otlp | Format::Datadog | Format::Axiom => {
                "application/json"
            }
            Format::WebhookLines | Format::Ndjson | Format::Ocsf => "application/x-ndjson",
            Format::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    /// The limits of receivers of this kind, according to their documentation.
    pub(crate) fn limits(self) -> RequestLimits {
        match self {
            // Convex sends batches of at most 128.
            Format::Webhook | Format::WebhookLines => {
                RequestLimits { records: 128, bytes: 5_000_000, record_bytes: 2_000_000 }
            }
            Format::Ndjson | Format::CloudEvents | Format::Otlp | Format::Ocsf => {
                RequestLimits { records: 1_000, bytes: 4_000_000, record_bytes: 4_000_000 }
            }
            // Splunk Cloud takes up to 1 MB in one request.
            Format::Splunk => {
                RequestLimits { records: 1_000, bytes: 1_000_000, record_bytes: 1_000_000 }
            }
            // 5 MB and 1,000 logs in a request, 1 MB for a log.
            Format::Datadog => {
                RequestLimits { records: 1_000, bytes: 5_000_000, record_bytes: 1_000_000 }
            }
            // 1 MB for an event, 10,000 of them in a request.
            Format::Axiom => {
                RequestLimits { records: 10_000, bytes: 5_000_000, record_bytes: 1_000_000 }
            }
        }
    }
}
