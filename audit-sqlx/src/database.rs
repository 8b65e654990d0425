//! The supported databases.

use audit_runtime::LogReceipt;
use sqlx::{Database, Error, Pool};

use crate::guard::Guard;
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

    /// Makes the connection refuse every commit until the guard allows the commit of its current
    /// transaction.
    #[doc(hidden)]
    fn guard(
        connection: &mut Self::Connection,
        guard: Guard,
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

/// Fails if a statement of the transaction failed, and if no transaction is open because the
/// function has ended it. In both cases PostgreSQL would report no error for a `COMMIT`.
#[cfg(any(feature = "postgres", feature = "any"))]
const POSTGRES_CHECK: &str = "SAVEPOINT audit_sqlx_check";

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

        async fn check(_: &mut sqlx::SqliteConnection) -> Result<(), Error> {
            Ok(())
        }

        // After some errors SQLite itself rolls a transaction back (a full disk, an I/O error, `OR
        // ROLLBACK`, `RAISE(ROLLBACK)`), and each statement after that commits by itself.
        async fn guard(connection: &mut sqlx::SqliteConnection, guard: Guard) -> Result<(), Error> {
            let mut handle = connection.lock_handle().await?;
            let (commits, rollbacks) = (guard.clone(), guard.clone());
            handle.set_commit_hook(move || !commits.is_closed());
            handle.set_rollback_hook(move || rollbacks.rolled_back());
            guard.close();
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
            connection.execute(POSTGRES_CHECK).await.map(drop)
        }

        // PostgreSQL needs no guard: after an error, it accepts no statement but a rollback.
        async fn guard(_: &mut sqlx::PgConnection, _: Guard) -> Result<(), Error> {
            Ok(())
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
                _ => connection.execute(POSTGRES_CHECK).await.map(drop),
            }
        }

        // No guard is possible: a connection of `Any` does not give access to the hooks of SQLite.
        async fn guard(_: &mut sqlx::AnyConnection, _: Guard) -> Result<(), Error> {
            Ok(())
        }

        crate::receipt_statements::receipts!(Any);
    }
}
