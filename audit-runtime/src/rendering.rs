//! How sealed logs become records for a sink.

use audit_core::{Batch, BatchBuilder, Buffer, BufferPool, Usage};
use audit_vars::{Now, Template};

use crate::emitted::Emission;
use crate::request::RequestContext;
use crate::sealed_logs::SealedLogs;

/// Records ready for the sink, and their usage.
pub(crate) struct Rendered {
    pub(crate) batch: Batch,
    pub(crate) usage: Usage,
}

/// How many batches of one release are persisted at once, at most. It bounds the memory of a
/// release to many requests.
pub(crate) const BATCHES_AT_ONCE: usize = 8;

/// The approximate size of a batch in a release to many requests, in bytes: memory stays bounded
/// for any number of requests, and is reused while it is still in the processor's cache.
const BATCH_BYTES: usize = 1 << 20;

/// A pool of buffers for batches of [`BATCH_BYTES`].
pub(crate) fn batch_buffers() -> BufferPool {
    BufferPool::new(BATCH_BYTES + Template::SPARE_BYTES, BATCHES_AT_ONCE)
}

/// The records of a release to these requests, rendered lazily.
pub(crate) fn batches<'a>(
    logs: &'a SealedLogs,
    requests: &'a [RequestContext],
) -> impl Iterator<Item = Rendered> + 'a {
    let mut requests = requests.iter().peekable();
    // Without requests nothing is released, so this does not count as the first release.
    let mut replay = requests.peek().is_none() || !logs.begin_release();
    let mut now = Now::at_ms(if replay { logs.context().clock().now_ms() } else { logs.now_ms });
    std::iter::from_fn(move || {
        requests.peek()?;
        let bound_bytes = logs.bound_bytes;
        let room = bound_bytes.saturating_mul(requests.len()).min(BATCH_BYTES.max(bound_bytes));
        let mut builder = BatchBuilder::in_buffer(if room == BATCH_BYTES {
            logs.context().batch_buffers().take()
        } else {
            Buffer::with_capacity(room + Template::SPARE_BYTES)
        });
        let mut usage = Usage::default();
        let first_now = now;
        while builder.is_empty() || builder.len() + bound_bytes <= BATCH_BYTES {
            let Some(request) = requests.next() else { break };
            usage += render(logs, request, &now, replay, &mut builder);
            if !replay {
                // The first release has the time of the execution, later ones that of the replay.
                replay = true;
                now = Now::at_ms(logs.context().clock().now_ms());
            }
        }
        let batch = builder.build(first_now.ms())?;
        Some(Rendered { batch, usage })
    })
}

fn render(
    logs: &SealedLogs,
    request: &RequestContext,
    now: &Now,
    replay: bool,
    builder: &mut BatchBuilder,
) -> Usage {
    let values = request.values(logs.context().vars(), now);
    let mut usage = Usage::default();
    if let Some(refusal) = &logs.refusal {
        builder.record(|record| refusal.append(record, now, replay));
    }
    for Emission { template, origin } in &logs.emissions {
        builder.record(|record| {
            let start = record.len();
            template.render(&values, record);
            usage += Usage::of_log(record.len() - start);
            if let Some(provenance) = &logs.provenance {
                provenance.append(record, start, *origin, replay);
            }
        });
    }
    usage
}
