//! Limits on clients and functions.

use std::time::Duration;

use audit_host::ServeLimits;
use functions_server::NetworkLimits;

use super::Options;

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

/// Reads an option in milliseconds, which has the name of the setting.
macro_rules! time {
    ($options:ident.$name:ident, $default:expr) => {
        positive_ms(stringify!($name), $options.$name)?.unwrap_or($default)
    };
}

/// Reads an option that must be within a range.
macro_rules! within {
    ($options:ident.$name:ident, $range:expr) => {
        match $options.$name {
            Some(value) if !$range.contains(&value) => Err(out_of_range(
                stringify!($name),
                value as u64,
                *$range.start() as u64,
                *$range.end() as u64,
            )),
            value => Ok(value),
        }
    };
}

pub(super) use {time, within};

impl FunctionLimits {
    pub(super) fn new(options: &Options) -> Result<FunctionLimits, String> {
        let defaults = FunctionLimits::default();
        let mib = within!(options.function_memory_mib, 1..=MAX_FUNCTION_MEMORY_MIB)?;
        Ok(FunctionLimits {
            time: time!(options.function_timeout_ms, defaults.time),
            action_time: time!(options.action_timeout_ms, defaults.action_time),
            memory_bytes: mib.map_or(defaults.memory_bytes, |mib| mib << 20),
        })
    }
}

pub(super) fn network(options: &Options) -> Result<NetworkLimits, String> {
    let NetworkLimits {
        serve,
        request_memory_bytes,
        max_request_values,
        body_timeout,
        first_message_timeout,
    } = NetworkLimits::default();
    let most = u32::MAX as usize;
    let mib = within!(options.request_memory_mib, 64..=MAX_MIB)?;
    let per_address = within!(options.max_connections_per_address, 1..=most)?;
    let serve = ServeLimits {
        header_timeout: time!(options.header_timeout_ms, serve.header_timeout),
        idle_timeout: time!(options.idle_timeout_ms, serve.idle_timeout),
        send_timeout: time!(options.send_timeout_ms, serve.send_timeout),
        min_send_rate: match options.min_send_rate {
            Some(0) => return Err("min_send_rate is 0, and must be at least 1".to_owned()),
            rate => rate.unwrap_or(serve.min_send_rate),
        },
        max_connections: within!(options.max_connections, 1..=most)?,
        max_connections_per_address: per_address.unwrap_or(serve.max_connections_per_address),
        drain_timeout: time!(options.drain_timeout_ms, serve.drain_timeout),
    };
    Ok(NetworkLimits {
        serve,
        request_memory_bytes: mib.map_or(request_memory_bytes, |mib| mib << 20),
        max_request_values: within!(options.max_request_values, 1_000..=most)?
            .unwrap_or(max_request_values),
        body_timeout: time!(options.body_timeout_ms, body_timeout),
        first_message_timeout: time!(options.first_message_timeout_ms, first_message_timeout),
    })
}

/// The largest memory limit that can be set, in MiB: 1 TiB. More is a mistake, such as bytes.
pub(super) const MAX_MIB: usize = 1 << 20;

/// 4 GiB, since the engine has 32-bit offsets.
const MAX_FUNCTION_MEMORY_MIB: usize = 4_096;

/// One day.
const MAX_TIME_MS: u64 = 24 * 60 * 60 * 1_000;

pub(super) fn positive_ms(name: &str, ms: Option<u64>) -> Result<Option<Duration>, String> {
    match ms {
        Some(ms) if !(1..=MAX_TIME_MS).contains(&ms) => Err(out_of_range(name, ms, 1, MAX_TIME_MS)),
        ms => Ok(ms.map(Duration::from_millis)),
    }
}

pub(super) fn out_of_range(name: &str, value: u64, least: u64, most: u64) -> String {
    format!("{name} is {value}, and must be at least {least} and at most {most}")
}
