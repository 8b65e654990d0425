//! Receipts: the place of the logs of committed mutations, in a table beside their changes.

use audit_runtime::{LogReceipt, Place, UniqueId};
use sqlx::{Error, Executor, Pool};

use crate::AuditedDatabase;
use crate::receipt_statements::{Row, Wanted};

/// The table of receipts and its indexes, for hosts that manage their schema themselves. Each
/// statement does nothing if its table exists.
///
/// One row for each committed mutation with logs: the call's id and the attempt, as in provenance,
/// and the stream, first sequence number and count of its records. A row takes about 120 bytes, and
/// its keys about as much again.
pub const RECEIPTS_SCHEMA: [&str; 1] = ["CREATE TABLE IF NOT EXISTS audit_receipts (\
     execution TEXT NOT NULL, attempt BIGINT NOT NULL, \
     stream TEXT NOT NULL, sequence BIGINT NOT NULL, count BIGINT NOT NULL, \
     PRIMARY KEY (execution, attempt), UNIQUE (stream, sequence))"];

/// Creates the table of receipts, if it does not exist.
///
/// # Errors
///
/// Those of sqlx.
pub async fn create_receipts<DB: AuditedDatabase>(pool: &Pool<DB>) -> Result<(), Error>
where
    for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
{
    for statement in RECEIPTS_SCHEMA {
        // If several hosts start together on a new PostgreSQL database, all but one may fail
        // because the table's type already exists. By the second attempt the table exists.
        if let Err(first) = pool.execute(statement).await {
            pool.execute(statement).await.map_err(|_second| first)?;
        }
    }
    Ok(())
}

/// The place of a mutation's records, if it committed. The id comes from a row that stores
/// [`AuditLog::execution_id`](audit_runtime::AuditLog::execution_id), or from a record's
/// provenance. One lookup by primary key.
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
/// Records of uncommitted attempts and of queries have none. So after a crash, a receipt tells
/// whether an attempt whose outcome was lost has committed, once no transaction from before the
/// crash can still be open.
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
