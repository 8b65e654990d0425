//! [`SubscribedArguments`].

use std::collections::HashMap;
use std::sync::Arc;

use audit_host::{Held, Holder, Pool};

use crate::budget::parsed_bytes;

/// The maximum size of the arguments of one client's subscriptions, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// The sizes of the arguments of one client's subscriptions, and their share of the pool.
#[derive(Debug)]
pub(super) struct SubscribedArguments {
    by_query: HashMap<u32, Bytes>,
    held: Held,
}

#[derive(Debug, Clone, Copy)]
struct Bytes {
    text: usize,
    parsed: usize,
}

impl SubscribedArguments {
    pub(super) fn new(pool: &Arc<Pool>, holder: &Holder) -> SubscribedArguments {
        SubscribedArguments { by_query: HashMap::new(), held: pool.hold(0, holder) }
    }

    /// Counts the arguments of a new subscription.
    pub(super) fn add(&mut self, query_id: u32, args: &str) -> Result<(), String> {
        self.by_query.insert(query_id, Bytes { text: args.len(), parsed: parsed_bytes(args) });
        if self.by_query.values().map(|args| args.text).sum::<usize>() > MAX_BYTES {
            return Err(format!(
                "the arguments of the subscribed queries exceed limit of {MAX_BYTES} bytes"
            ));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, query_id: u32) {
        self.by_query.remove(&query_id);
    }

    /// Updates the share to the current arguments.
    pub(super) fn hold(&self) {
        self.held.resize(self.by_query.values().map(|args| args.parsed).sum());
    }
}
