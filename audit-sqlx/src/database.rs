//! The supported databases.

use audit_runtime::LogReceipt;
use sqlx::{Database, Error, Pool};

use crate::receipt_statements::{Row, Wanted};

/// A database of sqlx that [`Tx`](crate::Tx) supports: `Sqlite`, `Postgres`, and `Any` for either,
/// each with its feature. It cannot be implemented elsewhere.
pub trait AuditedDatabase: Database + sealed::Sealed {
    /// The statement that begins a serializable transaction on a connection of this pool.
    #[doc(hidden)]
    fn serializable(pool: &Pool<Self>) -> &'static str;

    /// Fails if the transaction on this connection can no longer commit.
    #[doc(hidden)]
    fn check(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Error>> + Send + '_;

    #[doc(hidden)]
    fn insert_receipt(
        connection: &mut Self::Connection,
        receipt: &LogReceipt,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    #[doc(hidden)]
    fn find_receipt(
        pool: &Pool<Self>,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send;
}

mod sealed {
    pub trait Sealed {}
}

/// SQLite transactions are always serializable.
#[cfg(any(feature = "sqlite", feature = "any"))]
const SQLITE_BEGIN: &str = "BEGIN";

#[cfg(any(feature = "postgres", feature = "any"))]
const POSTGRES_BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::Sqlite;

    use super::*;

    impl sealed::Sealed for Sqlite {}

    impl AuditedDatabase for Sqlite {
        fn serializable(_: &Pool<Sqlite>) -> &'static str {
            SQLITE_BEGIN
        }

        // If SQLite has rolled the transaction back, the commit itself fails.
        async fn check(_: &mut sqlx::SqliteConnection) -> Result<(), Error> {
            Ok(())
        }

        crate::receipt_statements::receipts!(Sqlite);
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::{Executor, Postgres};

    use super::*;

    impl sealed::Sealed for Postgres {}

    impl AuditedDatabase for Postgres {
        fn serializable(_: &Pool<Postgres>) -> &'static str {
            POSTGRES_BEGIN
        }

        async fn check(connection: &mut sqlx::PgConnection) -> Result<(), Error> {
            connection.execute("SELECT 1").await.map(drop)
        }

        crate::receipt_statements::receipts!(Postgres);
    }
}

#[cfg(feature = "any")]
mod any {
    use sqlx::{Any, Executor};

    use super::*;

    impl sealed::Sealed for Any {}

    impl AuditedDatabase for Any {
        fn serializable(pool: &Pool<Any>) -> &'static str {
            match pool.connect_options().database_url.scheme() {
                "sqlite" => SQLITE_BEGIN,
                _ => POSTGRES_BEGIN,
            }
        }

        async fn check(connection: &mut sqlx::AnyConnection) -> Result<(), Error> {
            match connection.backend_name() {
                "SQLite" => Ok(()),
                _ => connection.execute("SELECT 1").await.map(drop),
            }
        }

        crate::receipt_statements::receipts!(Any);
    }
}
