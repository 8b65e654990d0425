//! Ends streams that the destination vouches for. System records declare the missing records and
//! the end of the stream; then the stream's secret is destroyed.
//!
//! The delivery writes these records on behalf of a host that may be gone. Nothing more is
//! committed to such a stream, so they take the numbers after its last record.

use audit_core::UniqueId;

use super::JournalDelivery;
use super::refusals::Failed;
use crate::destination::{Plan, RecordTime};
use crate::object_file::Role;
use crate::secret::destroy_secret;
use crate::vouching::LastRecord;

impl JournalDelivery {
    /// Takes the next step for each fully delivered stream that gets no more records.
    ///
    /// A stream has one of these system records under way at a time, so that its last record covers
    /// all before it. After a crash between any two steps, the next process continues from the
    /// durable state: a record with a durable plan is sent, and its file states its role.
    pub(super) async fn end_streams(&mut self) -> Result<(), Failed> {
        for stream in self.streams.ending() {
            if !self.is_delivered(stream) {
                continue;
            }
            let progress = self.progress(stream);
            let aside = match &progress.chain {
                Some(chain) if !chain.is_closed && progress.next > 0 => chain.asides.front(),
                // The last record is delivered, or the stream never had one.
                Some(_) | None => {
                    let destroyed = self.on_disk(move |disk| destroy_secret(disk, stream)).await;
                    destroyed
                        .map_err(|error| ("the secret of a stream cannot be removed", error))?;
                    self.streams.ended(stream, &progress);
                    if let Some(route) = &self.route {
                        route.share.notify();
                    }
                    continue;
                }
            };
            if !self.has_slot() {
                continue;
            }
            let (role, record) = match aside {
                Some(records) => (Role::Void, LastRecord::Void(records.clone())),
                None => (Role::Closed, LastRecord::Closed),
            };
            let time_ms = self.clock.now_ms();
            let line = self.destination.last_record(stream, time_ms, &record) + "\n";
            let encoding = self.destination.system_encoding();
            let first_sequence = progress.next;
            let plan = Plan { stream, first_sequence, count: 1, time_ms, encoding };
            let times = vec![RecordTime { first_sequence, time_ms }];
            self.encode_lines(plan, role, line.into_bytes(), times, self.delivered_to).await;
            self.cutter().planned(&plan);
        }
        Ok(())
    }

    /// Whether every record of the stream is at the destination or set aside, and the stream's
    /// progress says so.
    fn is_delivered(&self, stream: UniqueId) -> bool {
        let next = self.progress(stream).next;
        let is_noted = self.cutter().planned_to(stream) <= next;
        let is_planned = match self.number() {
            0 => self.live.end_of(stream).is_none_or(|end| end <= next),
            route => !self.live.routes().is_waiting(route, stream),
        };
        is_noted && is_planned
    }
}
