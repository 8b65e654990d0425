//! The mutations and actions of a session.

use std::hash::{DefaultHasher, Hash, Hasher};

use functions_calls::{Answered, CallError, Mutated};
use futures::FutureExt;
use tokio::sync::OwnedSemaphorePermit;

use super::end::End;
use super::{Session, answer_of, error_answer, read_args};
use crate::budget::Share;
use crate::calls::of_app;
use crate::sync::mutations::{Lost, Outcome};
use crate::sync::protocol;

/// The error for a retry of a mutation whose outcome was dropped.
const FORGOTTEN: &str =
    "this mutation has already run and does not run a second time: its outcome is no longer kept";

const PANICKED: &str = "the task of a mutation or action panicked";

pub(crate) type MutationOutcome = Result<Mutated, CallError>;

impl Outcome for MutationOutcome {
    fn bytes(&self) -> usize {
        let Mutated { answered: Answered { result, log_lines }, committed: _ } = match self {
            Ok(mutated) => mutated,
            Err(error) => return error.to_string().len(),
        };
        let result = match result {
            Ok(value) => value.len(),
            Err(failed) => failed.message.len() + failed.data.as_ref().map_or(0, String::len),
        };
        result + log_lines.iter().map(String::len).sum::<usize>()
    }
}

/// A mutation or action that ended, and the permit of its request.
pub(super) struct Ended {
    request_id: u32,
    permit: OwnedSemaphorePermit,
    call: EndedCall,
}

enum EndedCall {
    Mutation(Result<MutationOutcome, Lost>),
    Action(Result<Answered, CallError>),
}

/// A mutation or action that a client requests.
pub(super) struct Requested<'a> {
    pub(super) request_id: u32,
    pub(super) path: String,
    pub(super) component: Option<String>,
    /// The arguments, as JSON text.
    pub(super) args: &'a str,
    /// The share of the budget for the call, held until the call has ended.
    pub(super) share: Share,
}

impl Session {
    pub(super) fn mutate(&mut self, requested: Requested<'_>) -> Result<(), End> {
        let (Some(client), Some(permit)) = (&self.client, self.next_request.take()) else {
            return Ok(());
        };
        let Requested { request_id, path, component, args, share } = requested;
        let json = read_args(args).map_err(End::Fatal)?;
        let mut hasher = DefaultHasher::new();
        // Only the user, since other claims may be of the token (`nonce`, `at_hash`, `auth_time`),
        // and a client that connects again may have a new token.
        let claims = self.identity.as_ref().map(|identity| identity.claims());
        let user = claims.and_then(|claims| claims["tokenIdentifier"].as_str());
        (&path, &component, args, user).hash(&mut hasher);
        let call = || {
            let (functions, caller) = (self.server.functions().clone(), self.caller());
            let expected = functions.expect(self.lane);
            async move {
                let _share = share;
                drop(expected);
                functions.mutation(&of_app(path, component)?, &json, &caller).await
            }
            .boxed()
        };
        let outcome = client.run(request_id, hasher.finish(), call).map_err(End::Fatal)?;
        let ended =
            async move { Ended { request_id, permit, call: EndedCall::Mutation(outcome.await) } };
        self.in_flight.push(ended.boxed());
        Ok(())
    }

    pub(super) fn act(&mut self, requested: Requested<'_>) -> Result<(), End> {
        let Some(permit) = self.next_request.take() else { return Ok(()) };
        let Requested { request_id, path, component, args, share } = requested;
        let args = read_args(args).map_err(End::Fatal)?;
        let (functions, caller) = (self.server.functions().clone(), self.caller());
        // An action that has begun continues without its client.
        let action = tokio::spawn(async move {
            let _share = share;
            functions.action(&of_app(path, component)?, &args, &caller).await
        });
        let ended = async move {
            let result = action.await.unwrap_or_else(|_| Err(CallError::internal(PANICKED)));
            Ended { request_id, permit, call: EndedCall::Action(result) }
        };
        self.in_flight.push(ended.boxed());
        Ok(())
    }

    pub(super) fn respond(&mut self, Ended { request_id, permit, call }: Ended) {
        let text = match call {
            EndedCall::Mutation(outcome) => {
                let outcome = outcome.unwrap_or_else(|lost| match lost {
                    Lost::Panicked => Err(CallError::internal(PANICKED)),
                    Lost::Forgotten => Err(CallError::Conflict(FORGOTTEN.to_owned())),
                });
                // A client considers a mutation done once it has seen its effects. Some clients
                // also wait for a step, to any time, after a failure with data of a `ConvexError`.
                let committed = outcome.as_ref().ok().and_then(|mutated| mutated.committed);
                self.steps.owe(committed.unwrap_or(0));
                match &outcome {
                    Ok(Mutated { answered, committed }) => {
                        protocol::mutation_response(request_id, answer_of(answered), *committed)
                    }
                    Err(error) => {
                        let message = error.to_string();
                        protocol::mutation_response(request_id, error_answer(&message), None)
                    }
                }
            }
            EndedCall::Action(Ok(answered)) => {
                protocol::action_response(request_id, answer_of(&answered))
            }
            EndedCall::Action(Err(error)) => {
                let message = error.to_string();
                protocol::action_response(request_id, error_answer(&message))
            }
        };
        self.outbox.send(text, Some(permit));
    }
}
