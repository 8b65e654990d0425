//! Every seal, release and settlement: the way from an execution to its response.
//!
//! A run consists of two functions. The first runs on a worker thread and may return early, panic,
//! or never return. The second seals the execution with the outcome, whatever it is.

mod cached;
mod held;
mod mutation;
mod query;
mod transaction;

use std::sync::Arc;

use functions_store::{Snapshot, StoreError, Tx};
use functions_value::ChanceSeed;

use crate::Inner;
use crate::deployed::Deployed;

#[cfg(test)]
pub(crate) use cached::Facts;
pub use cached::{CachedQuery, Followed};
pub(crate) use held::Log;

impl Inner {
    /// Begins a transaction for a function. Also returns the program to run the function from.
    fn begin(&self, at: &Snapshot, seed: ChanceSeed) -> Result<(Tx, Arc<Deployed>), StoreError> {
        self.faults.meet("begin")?;
        let mut tx = self.store.begin(at, seed);
        let deployed = self.deployed_at(&mut tx)?;
        Ok((tx, deployed))
    }
}
