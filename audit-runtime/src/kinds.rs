//! The kinds of functions.

use crate::provenance::FunctionKind;
use crate::request::RequestContext;

/// A query: it reads, and its result may be cached. It cannot see its request, since the result may
/// serve many.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Query;

/// A mutation: it writes, for one request, which it can read.
#[derive(Debug, Clone)]
pub struct Mutation {
    pub(crate) request: RequestContext,
}

/// An action: it calls queries and mutations, each audited on its own, and external services. It
/// has no audit log: an action that fails halfway cannot undo what it did.
#[derive(Debug, Clone)]
pub struct Action {
    request: RequestContext,
}

/// A kind of function that has an audit log.
pub trait Audits: sealed::Sealed + Send + Sync + 'static {
    /// The kind, for provenance.
    const KIND: FunctionKind;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Query {}
    impl Sealed for super::Mutation {}
}

impl Audits for Query {
    const KIND: FunctionKind = FunctionKind::Query;
}

impl Audits for Mutation {
    const KIND: FunctionKind = FunctionKind::Mutation;
}

impl Query {
    pub(crate) fn new() -> Query {
        Query
    }
}

impl Mutation {
    pub(crate) fn new(request: RequestContext) -> Mutation {
        Mutation { request }
    }
}

impl Action {
    pub(crate) fn new(request: RequestContext) -> Action {
        Action { request }
    }

    /// The request that called it, which it may pass to the queries and mutations that it calls.
    pub fn request(&self) -> &RequestContext {
        &self.request
    }
}
