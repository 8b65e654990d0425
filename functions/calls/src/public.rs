//! Calls of public functions, as clients make them.

use std::sync::Arc;

use audit_runtime::FunctionKind;
use functions_store::Snapshot;
use serde_json::Value as Json;

use super::audited::CachedQuery;
use super::cache::QueryKey;
use super::call::{Answered, CallError, Caller, Mutated};
use super::reference;
use super::{Functions, action};

impl Functions {
    /// Calls a public query, or releases the cached result of an earlier call.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. A failure of the function itself is a result, not an error.
    pub async fn query(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let key = self.query_key(path, args, caller)?;
        self.answer(&key, caller).await
    }

    /// As [`query`](Self::query), at an earlier snapshot of the store.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn query_at(
        &self,
        at: &Snapshot,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let key = self.query_key(path, args, caller)?;
        self.sealed_at(at, &key, None).await.release(caller).await
    }

    /// The key of the result of a public query.
    ///
    /// # Errors
    ///
    /// [`CallError::NotFound`] and [`CallError::Invalid`].
    pub fn query_key(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<QueryKey, CallError> {
        let deployed = self.inner.deployed();
        let target = deployed.public(path, FunctionKind::Query)?;
        QueryKey::new(&target, args, caller)
    }

    /// The sealed result of a query on a snapshot. Callers of the same query share one computation.
    ///
    /// `journal` is the [journal](crate::Followed::journal) of the result that this one replaces. A
    /// failed query is sealed too; its release returns the failure.
    pub async fn sealed_at(
        &self,
        at: &Snapshot,
        key: &QueryKey,
        journal: Option<&str>,
    ) -> Arc<CachedQuery> {
        let key = QueryKey { journal: journal.map(Into::into), ..key.clone() };
        self.sealed(&key, Some(at)).await
    }

    /// Calls a public mutation.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the mutation may or may not commit. If it does, its logs are
    /// durable.
    pub async fn mutation(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Mutated, CallError> {
        let (component, name) = self.inner.deployed().public(path, FunctionKind::Mutation)?.owned();
        self.mutate(component, name, args, caller, None).await
    }

    /// Calls a public action.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    ///
    /// # Cancellation
    ///
    /// An action that has begun runs to its end.
    pub async fn action(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Answered, CallError> {
        let (component, name) = self.inner.deployed().public(path, FunctionKind::Action)?.owned();
        action::run(self, component, name, args, caller, None).await
    }

    /// Calls a public function of any kind.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn any(
        &self,
        path: &str,
        args: &Json,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let kind = {
            let deployed = self.inner.deployed();
            reference::public(&deployed.program, path).map_err(CallError::NotFound)?.function.kind
        };
        match kind {
            FunctionKind::Query => self.query(path, args, caller).await,
            FunctionKind::Mutation => {
                Ok(Arc::new(self.mutation(path, args, caller).await?.answered))
            }
            FunctionKind::Action => Ok(Arc::new(self.action(path, args, caller).await?)),
        }
    }

    /// As [`query`](Self::query), for a [key](Self::query_key). The key contains the arguments, so
    /// the caller need not keep them.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn answer(
        &self,
        key: &QueryKey,
        caller: &Caller,
    ) -> Result<Arc<Answered>, CallError> {
        let sealed = self.sealed(key, None).await;
        sealed.release(caller).await
    }
}
