//! All settings in effect, for `--print-config`.

use std::time::Duration;

use audit_host::{Output, without_secrets};
use audit_sink_s3::{Compression, EvidenceSettings};
use functions_server::NetworkLimits;
use functions_server::auth::AuthSettings;
use serde_json::{Value as Json, json};

use super::Settings;

impl Settings {
    /// Prints all settings as a settings file. Values of variables for functions are secret, so
    /// only their names are printed, as comments. Tables are comments too.
    pub(crate) fn print(&self, output: &Output) {
        self.sources.print(self.shown(), output);
        let comment = |name: &str, text: String| {
            let source = self.sources.of_setting(name);
            output.line(&format!("{:<60} # {source}", format!("# {text}")));
        };
        for name in self.env.0.keys() {
            comment("env", format!("env.{name} is set"));
        }
        for AuthSettings { issuer, audience, .. } in &self.auth {
            comment("auth", format!("[[auth]] issuer {issuer:?}, audience {audience:?}"));
        }
        for stream in &self.destinations.log_streams {
            let (name, url) = (&stream.name, without_secrets(&stream.url));
            comment("log_stream", format!("[[log_stream]] name {name:?}, url {url:?}"));
        }
    }

    /// Each setting with its value, by its name in the file; null if it is not set.
    pub(super) fn shown(&self) -> Vec<(&'static str, Json)> {
        let bucket = self.destinations.bucket.as_ref();
        let sink = bucket.map(|(_, sink)| sink);
        let evidence = sink.and_then(|sink| sink.evidence.as_ref());
        let journal = sink.and_then(|sink| sink.journal.as_ref());
        let ms = |time: Duration| json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let address = |address: Option<_>| json!(address.map_or("none".to_owned(), text));
        let NetworkLimits {
            serve,
            request_memory_bytes,
            max_request_values,
            body_timeout,
            first_message_timeout,
        } = &self.network;
        let compression = sink.map(|sink| match sink.compression {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::None => "none",
        });
        let networks: Vec<_> = self.fetch.networks.iter().map(ToString::to_string).collect();
        let proxy = self.fetch.proxy.as_ref();
        vec![
            ("listen", json!(self.listen.to_string())),
            ("operators_listen", address(self.operators_listen)),
            ("site_listen", address(self.site_listen)),
            ("log_format", json!(self.log_format.to_string())),
            ("traces", json!(self.traces.as_deref().map(without_secrets))),
            ("show_logs", json!(self.show_logs)),
            ("request_memory_mib", json!(request_memory_bytes >> 20)),
            ("max_request_values", json!(max_request_values)),
            ("max_connections", json!(serve.max_connections)),
            ("max_connections_per_address", json!(serve.max_connections_per_address)),
            ("header_timeout_ms", ms(serve.header_timeout)),
            ("body_timeout_ms", ms(*body_timeout)),
            ("first_message_timeout_ms", ms(*first_message_timeout)),
            ("idle_timeout_ms", ms(serve.idle_timeout)),
            ("send_timeout_ms", ms(serve.send_timeout)),
            ("min_send_rate", json!(serve.min_send_rate)),
            ("drain_timeout_ms", ms(serve.drain_timeout)),
            ("close_timeout_ms", ms(self.close_timeout)),
            ("data_dir", json!(self.data_dir)),
            ("bucket", json!(bucket.map_or("none".to_owned(), |(url, _)| without_secrets(url)))),
            (
                "journal",
                self.destinations.journal().map_or(json!("none"), |directory| json!(directory)),
            ),
            ("log_streams", json!(self.log_streams)),
            ("dev_log_stream", json!(self.dev_log_stream.as_deref().map(without_secrets))),
            ("evidence", json!(evidence.map_or("off", |evidence| &*evidence.name))),
            ("evidence_key", json!(evidence.and_then(|evidence| evidence.key_file.as_ref()))),
            ("witnesses", json!(evidence.and_then(EvidenceSettings::witnesses_text))),
            ("trusted_proxies", json!(self.trusted_proxies.to_string())),
            ("client_address_header", json!(self.trusted_proxies.header().to_string())),
            ("cut_after_ms", json!(journal.map(|journal| journal.cut_after_ms))),
            ("linger_ms", json!(sink.map(|sink| sink.linger_ms))),
            ("persist_timeout_ms", ms(self.persist_timeout)),
            ("compression", json!(compression)),
            ("provenance", json!(self.provenance)),
            ("outcomes", json!(self.outcomes)),
            ("function_timeout_ms", ms(self.limits.time)),
            ("action_timeout_ms", ms(self.limits.action_time)),
            ("function_memory_mib", json!(self.limits.memory_bytes >> 20)),
            ("query_cache_mib", json!(self.query_cache_bytes >> 20)),
            ("store_reserve_mib", json!(self.store_reserve_bytes >> 20)),
            ("kept_engines_mib", json!(self.kept_engine_bytes >> 20)),
            ("fetch_timeout_ms", ms(self.fetch.timeout)),
            ("fetch_request_mib", json!(self.fetch.max_request_bytes >> 20)),
            ("fetch_response_mib", json!(self.fetch.max_response_bytes >> 20)),
            ("fetch_memory_mib", json!(self.fetch.memory_bytes >> 20)),
            ("fetch_networks", json!((!networks.is_empty()).then(|| networks.join(", ")))),
            ("fetch_proxy", json!(proxy.map(|proxy| without_secrets(proxy.as_str())))),
            ("exit_when_stopped", json!(self.exit_when_stopped)),
            ("deployment_name", json!(self.deployment.name)),
            ("deployment_region", json!(self.deployment.region)),
            ("deployment_class", json!(self.deployment.class.as_str())),
        ]
    }
}

fn text(address: std::net::SocketAddr) -> String {
    address.to_string()
}
