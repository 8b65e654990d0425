//! Limits on clients and functions.

use std::time::Duration;

use audit_host::ServeLimits;
use functions_server::NetworkLimits;

use super::Options;

/// Limits on one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FunctionLimits {
    /// How long the JavaScript of a query or mutation may run.
    pub(crate) time: Duration,
    /// How long the JavaScript of an action may run.
    pub(crate) action_time: Duration,
    /// How much memory a function may use, in bytes.
    pub(crate) memory_bytes: usize,
}

impl Default for FunctionLimits {
    fn default() -> FunctionLimits {
        FunctionLimits {
            time: Duration::from_secs(1),
            action_time: Duration::from_secs(600),
            memory_bytes: 64 << 20,
        }
    }
}

impl FunctionLimits {
    pub(super) fn new(options: &Options) -> Result<FunctionLimits, String> {
        let defaults = FunctionLimits::default();
        Ok(FunctionLimits {
            time: positive_ms("function_timeout_ms", options.function_timeout_ms)?
                .unwrap_or(defaults.time),
            action_time: positive_ms("action_timeout_ms", options.action_timeout_ms)?
                .unwrap_or(defaults.action_time),
            memory_bytes: match options.function_memory_mib {
                None => defaults.memory_bytes,
                Some(mib @ 1..=MAX_FUNCTION_MEMORY_MIB) => mib << 20,
                Some(mib) => {
                    let most = MAX_FUNCTION_MEMORY_MIB;
                    return Err(format!(
                        "function_memory_mib is {mib}, and must be at least 1 and at most {most}"
                    ));
                }
            },
        })
    }
}

pub(super) fn network(options: &Options) -> Result<NetworkLimits, String> {
    let defaults = NetworkLimits::default();
    let count = |name: &str, set: Option<usize>, least: usize, most: usize| match set {
        Some(set) if !(least..=most).contains(&set) => {
            Err(format!("{name} is {set}, and must be at least {least} and at most {most}"))
        }
        set => Ok(set),
    };
    let most = u32::MAX as usize;
    let mib = count("request_memory_mib", options.request_memory_mib, 64, 1 << 20)?;
    let values = count("max_request_values", options.max_request_values, 1_000, most)?;
    let connections = count("max_connections", options.max_connections, 1, most)?;
    let per_address =
        count("max_connections_per_address", options.max_connections_per_address, 1, most)?;
    let time = |name, set, default| Ok::<_, String>(positive_ms(name, set)?.unwrap_or(default));
    if options.min_send_rate == Some(0) {
        return Err("min_send_rate is 0, and must be at least 1".to_owned());
    }
    let serve = ServeLimits {
        header_timeout: time(
            "header_timeout_ms",
            options.header_timeout_ms,
            defaults.serve.header_timeout,
        )?,
        idle_timeout: time(
            "idle_timeout_ms",
            options.idle_timeout_ms,
            defaults.serve.idle_timeout,
        )?,
        send_timeout: time(
            "send_timeout_ms",
            options.send_timeout_ms,
            defaults.serve.send_timeout,
        )?,
        min_send_rate: options.min_send_rate.unwrap_or(defaults.serve.min_send_rate),
        max_connections: connections,
        max_connections_per_address: per_address
            .unwrap_or(defaults.serve.max_connections_per_address),
        drain_timeout: time(
            "drain_timeout_ms",
            options.drain_timeout_ms,
            defaults.serve.drain_timeout,
        )?,
    };
    Ok(NetworkLimits {
        serve,
        request_memory_bytes: mib.map_or(defaults.request_memory_bytes, |mib| mib << 20),
        max_request_values: values.unwrap_or(defaults.max_request_values),
        body_timeout: time("body_timeout_ms", options.body_timeout_ms, defaults.body_timeout)?,
        first_message_timeout: time(
            "first_message_timeout_ms",
            options.first_message_timeout_ms,
            defaults.first_message_timeout,
        )?,
    })
}

/// 4 GiB, since the engine has 32-bit offsets.
const MAX_FUNCTION_MEMORY_MIB: usize = 4_096;

/// One day.
const MAX_TIME_MS: u64 = 24 * 60 * 60 * 1_000;

pub(super) fn positive_ms(name: &str, ms: Option<u64>) -> Result<Option<Duration>, String> {
    match ms {
        None => Ok(None),
        Some(ms @ 1..=MAX_TIME_MS) => Ok(Some(Duration::from_millis(ms))),
        Some(ms) => {
            Err(format!("{name} is {ms}, and must be at least 1 and at most {MAX_TIME_MS}"))
        }
    }
}
