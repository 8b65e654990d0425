//! Where the logs of committed mutations stand, in a table beside what they changed.

use audit_runtime::{LogReceipt, Place, UniqueId};
use sqlx::{Error, Executor, Pool};

use crate::AuditedDatabase;
use crate::receipt_statements::{Row, Wanted};

/// The table of receipts and its indexes, for those who make their schema themselves. Each
/// statement does nothing if what it makes exists.
///
/// One row for each mutation that committed and had logs: its call's id and the attempt, as
/// provenance shows them, and the stream, first number and count of its records. A row has about
/// 120 bytes, and its keys as much again.
pub const RECEIPTS_SCHEMA: [&str; 1] = ["CREATE TABLE IF NOT EXISTS audit_receipts (\
     execution TEXT NOT NULL, attempt BIGINT NOT NULL, \
     stream TEXT NOT NULL, sequence BIGINT NOT NULL, count BIGINT NOT NULL, \
     PRIMARY KEY (execution, attempt), UNIQUE (stream, sequence))"];

/// Makes the table of receipts, if it does not exist.
///
/// # Errors
///
/// Those of sqlx.
pub async fn create_receipts<DB: AuditedDatabase>(pool: &Pool<DB>) -> Result<(), Error>
where
    for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
{
    for statement in RECEIPTS_SCHEMA {
        // Of several hosts that start together on a new PostgreSQL database, one makes the table.
        // To the others it may look as if a type of this name existed, until that one is done.
        if let Err(first) = pool.execute(statement).await {
            pool.execute(statement).await.map_err(|_second| first)?;
        }
    }
    Ok(())
}

/// Where the records of a call of a mutation stand, if it committed: from a row that keeps
/// [`AuditLog::execution_id`](audit_runtime::AuditLog::execution_id), or from a record that shows
/// its provenance. One lookup by the primary key.
///
/// # Errors
///
/// Those of sqlx.
pub async fn receipt_of_execution<DB: AuditedDatabase>(
    pool: &Pool<DB>,
    execution: UniqueId,
) -> Result<Option<LogReceipt>, Error> {
    let row = DB::find_receipt(pool, Wanted::Execution(execution.to_string())).await?;
    row.map(receipt).transpose()
}

/// The receipt that covers a record, if the record's attempt committed. One lookup by a unique key.
///
/// There is none for the record of an attempt that did not commit, nor for one of a query. So after
/// a crash this decides what no outcome tells, once no transaction of before the crash can be open
/// any more.
///
/// # Errors
///
/// Those of sqlx.
pub async fn receipt_of_record<DB: AuditedDatabase>(
    pool: &Pool<DB>,
    stream: UniqueId,
    sequence: u64,
) -> Result<Option<LogReceipt>, Error> {
    // No stream has more records than this.
    let Ok(number) = i64::try_from(sequence) else { return Ok(None) };
    let row = DB::find_receipt(pool, Wanted::Record(stream.to_string(), number)).await?;
    let receipt = row.map(receipt).transpose()?;
    Ok(receipt.filter(|LogReceipt { place, .. }| {
        sequence - place.first_sequence < u64::from(place.count)
    }))
}

fn receipt((execution, attempt, stream, sequence, count): Row) -> Result<LogReceipt, Error> {
    let place = Place {
        stream: stream.parse().map_err(Error::decode)?,
        first_sequence: u64::try_from(sequence).map_err(Error::decode)?,
        count: u32::try_from(count).map_err(Error::decode)?,
    };
    let attempt = u32::try_from(attempt).map_err(Error::decode)?;
    Ok(LogReceipt::new(execution.parse().map_err(Error::decode)?, attempt, place))
}
