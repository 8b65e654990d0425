//! The statements for receipts, the same for each database.

use audit_runtime::{LogReceipt, Place};
use sqlx::Error;

/// The key of a receipt.
#[doc(hidden)]
#[derive(Debug)]
pub enum Wanted {
    Execution(String),
    /// The last receipt of the stream that begins at or before this record.
    Record(String, i64),
}

/// Execution, attempt, stream, sequence and count.
pub(crate) type Row = (String, i64, String, i64, i64);

pub(crate) const INSERT: &str = "INSERT INTO audit_receipts \
     (execution, attempt, stream, sequence, count) VALUES ($1, $2, $3, $4, $5)";

pub(crate) const BY_EXECUTION: &str = "SELECT execution, attempt, stream, sequence, count \
     FROM audit_receipts WHERE execution = $1 ORDER BY attempt DESC LIMIT 1";

pub(crate) const BY_RECORD: &str = "SELECT execution, attempt, stream, sequence, count \
     FROM audit_receipts WHERE stream = $1 AND sequence <= $2 ORDER BY sequence DESC LIMIT 1";

pub(crate) fn row(receipt: &LogReceipt) -> Result<Row, Error> {
    let LogReceipt { execution, attempt, place, .. } = receipt;
    let Place { stream, first_sequence, count } = place;
    let sequence = i64::try_from(*first_sequence).map_err(|error| Error::Encode(error.into()))?;
    Ok((execution.to_string(), (*attempt).into(), stream.to_string(), sequence, (*count).into()))
}

/// The methods of `AuditedDatabase` for receipts.
macro_rules! receipts {
    ($database:ty) => {
        async fn insert_receipt(
            connection: &mut <$database as sqlx::Database>::Connection,
            receipt: &audit_runtime::LogReceipt,
        ) -> Result<(), Error> {
            let (execution, attempt, stream, sequence, count) =
                crate::receipt_statements::row(receipt)?;
            let insert = sqlx::query::<$database>(crate::receipt_statements::INSERT);
            let insert = insert.bind(execution).bind(attempt).bind(stream);
            insert.bind(sequence).bind(count).execute(connection).await.map(drop)
        }

        async fn find_receipt(
            pool: &Pool<$database>,
            wanted: crate::receipt_statements::Wanted,
        ) -> Result<Option<crate::receipt_statements::Row>, Error> {
            use crate::receipt_statements::{BY_EXECUTION, BY_RECORD, Wanted};
            match wanted {
                Wanted::Execution(execution) => {
                    let find = sqlx::query_as::<$database, _>(BY_EXECUTION).bind(execution);
                    find.fetch_optional(pool).await
                }
                Wanted::Record(stream, number) => {
                    let find = sqlx::query_as::<$database, _>(BY_RECORD).bind(stream).bind(number);
                    find.fetch_optional(pool).await
                }
            }
        }
    };
}

pub(crate) use receipts;
