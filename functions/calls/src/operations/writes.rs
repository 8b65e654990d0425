//! Writing documents and scheduling functions in mutations.

use audit_runtime::FunctionKind;
use functions_engine::SyscallError;
use functions_value::patch_from_json;
use serde_json::{Value as Json, json};

use super::arguments::{failed, table, text, unknown, value};
use super::{InTransaction, request_metadata};
use crate::jobs::{self, Job};
use crate::reference::for_later;

impl InTransaction<'_> {
    pub(super) fn do_in_mutation(
        &mut self,
        op: &str,
        args: &mut Json,
    ) -> Result<Json, SyscallError> {
        let component = &self.target.component;
        match op {
            "1.0/insert" => {
                let value = value(args, "value")?;
                let inserted = self.tx.insert(component, text(args, "table")?, value);
                Ok(json!({ "_id": self.stored(inserted)? }))
            }
            "1.0/shallowMerge" => {
                let patch = args.get_mut("value").map_or(Json::Null, Json::take);
                let patch = patch_from_json(patch).map_err(|error| failed(error.to_string()))?;
                let done = self.tx.patch(component, table(args), text(args, "id")?, patch);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/replace" => {
                let value = value(args, "value")?;
                let done = self.tx.replace(component, table(args), text(args, "id")?, value);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/remove" => {
                let done = self.tx.remove(component, table(args), text(args, "id")?);
                self.stored(done).map(|_removed| Json::Null)
            }
            "1.0/schedule" => self.schedule(args),
            "1.0/cancel_job" => {
                let done = jobs::cancel(self.tx, component, text(args, "id")?, self.facts.now_ms);
                self.stored(done).map(|()| Json::Null)
            }
            "1.0/getRequestMetadata" => {
                Ok(request_metadata(self.facts.request, self.facts.scheduled, self.identity()))
            }
            _ => Err(unknown(op, FunctionKind::Mutation)),
        }
    }

    fn schedule(&mut self, args: &Json) -> Result<Json, SyscallError> {
        let target = for_later(self.facts.program, &self.target.component, args).map_err(failed)?;
        let job = Job::from_json(target, args, self.facts.now_ms).map_err(failed)?;
        self.gathered.scheduled.add(job.args_bytes())?;
        let id = jobs::schedule(self.tx, &self.target.component, &job);
        Ok(json!(self.stored(id)?))
    }
}
