//! The classification of database errors: conflicts, failures that certainly committed nothing, and
//! temporary failures.

use crate::guard::is_gone;

/// `SQLITE_BUSY` and `SQLITE_LOCKED`. Extended result codes have these as their low byte.
/// <https://www.sqlite.org/rescode.html>
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;

/// `SQLITE_CONSTRAINT`: the commit checks deferred constraints.
const SQLITE_CONSTRAINT: u32 = 19;

/// Whether a concurrent transaction caused this error, so that a retry of the mutation may succeed.
///
/// - PostgreSQL: `serialization_failure` (40001) and `deadlock_detected` (40P01).
/// - SQLite: `SQLITE_BUSY` in all its kinds, most often `SQLITE_BUSY_SNAPSHOT`; and
///   `SQLITE_LOCKED`, between connections with a shared cache.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| is_conflict_code(&code))
}

fn is_conflict_code(code: &str) -> bool {
    match code {
        "40001" | "40P01" => true,
        code => is_of_sqlite(code, &[SQLITE_BUSY, SQLITE_LOCKED]),
    }
}

/// Whether a commit that failed with this error has certainly committed nothing: conflicts,
/// violated constraints, and in PostgreSQL a transaction in which a statement failed. False after a
/// lost connection or a server shutdown, which may follow the commit.
pub(crate) fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    is_gone(error) || code.is_some_and(|code| is_rolled_back_code(&code))
}

fn is_rolled_back_code(code: &str) -> bool {
    match code {
        // in_failed_sql_transaction, transaction_integrity_constraint_violation. Not 40003,
        // statement_completion_unknown.
        "25P02" | "40002" => true,
        // integrity_constraint_violation.
        code if code.len() == 5 && code.starts_with("23") => true,
        code => is_conflict_code(code) || is_of_sqlite(code, &[SQLITE_CONSTRAINT]),
    }
}

/// Whether the database can do no work now, so that the same call may succeed later: it cannot be
/// reached, it is full, locked, read-only or shutting down, or all connections are in use. False
/// for a faulty statement and for a damaged database.
///
/// A host responds with the HTTP status 503 to these errors, and with 500 to others.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    let is_away = matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    );
    is_away || code.is_some_and(|code| is_unavailable_code(&code))
}

/// `SQLITE_NOMEM`, `READONLY`, `IOERR`, `FULL` and `CANTOPEN`.
const SQLITE_UNAVAILABLE: [u32; 5] = [7, 8, 10, 13, 14];

fn is_unavailable_code(code: &str) -> bool {
    match code {
        // read_only_sql_transaction, as on a standby; lock_not_available.
        "25006" | "55P03" => true,
        // connection_exception, insufficient_resources, operator_intervention, system_error.
        code if code.len() == 5 => {
            is_conflict_code(code)
                || ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        }
        code => is_conflict_code(code) || is_of_sqlite(code, &SQLITE_UNAVAILABLE),
    }
}

/// Whether this is one of these primary result codes of SQLite, or an extended code of one.
fn is_of_sqlite(code: &str, primary: &[u32]) -> bool {
    // PostgreSQL's codes have five characters, SQLite's never do.
    code.len() != 5 && code.parse::<u32>().is_ok_and(|code| primary.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_recognized_by_code() {
        // BUSY, LOCKED, BUSY_RECOVERY, LOCKED_SHAREDCACHE, BUSY_SNAPSHOT, BUSY_TIMEOUT.
        for code in ["40001", "40P01", "5", "6", "261", "262", "517", "773"] {
            assert!(is_conflict_code(code), "{code}");
        }
        // Unique and other constraints; a failed transaction; 42501 has 5 for its low byte.
        for code in ["23505", "23P01", "25P02", "42501", "1555", "2067", "1", "10", "19", "", "x"] {
            assert!(!is_conflict_code(code), "{code}");
        }
        assert!(!is_conflict(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn certain_rollbacks_are_recognized_by_code() {
        // SQLITE_CONSTRAINT, _FOREIGNKEY, _PRIMARYKEY, _UNIQUE.
        let constraints =
            ["23505", "23503", "23P01", "25P02", "40002", "19", "787", "1555", "2067"];
        for code in constraints.into_iter().chain(["40001", "40P01", "5", "6", "517"]) {
            assert!(is_rolled_back_code(code), "{code}");
        }
        // Completion unknown; server shutdown; lost connection; I/O error; disk full.
        for code in ["40003", "57P01", "08006", "XX000", "53100", "10", "778", "13", "", "x"] {
            assert!(!is_rolled_back_code(code), "{code}");
        }
        assert!(!is_rolled_back(&sqlx::Error::WorkerCrashed));
    }

    #[test]
    fn what_may_pass_is_told_from_faults() {
        // BUSY, LOCKED, NOMEM, READONLY, IOERR_WRITE, FULL, CANTOPEN, READONLY_DBMOVED.
        let sqlite = ["5", "6", "7", "8", "778", "13", "14", "1032"];
        // Disk full, too many connections, shutdown, starting up, lost connection, I/O error.
        let postgres = ["53100", "53300", "57P01", "57P03", "08006", "58030", "25006", "55P03"];
        for code in sqlite.into_iter().chain(postgres).chain(["40001", "40P01"]) {
            assert!(is_unavailable_code(code), "{code}");
        }
        // ERROR, CORRUPT, CONSTRAINT, NOTADB; a syntax error, a missing table, a violated key.
        for code in ["1", "11", "19", "26", "42601", "42P01", "23505", "XX001", "é1234", "", "x"] {
            assert!(!is_unavailable_code(code), "{code}");
        }
        assert!(is_unavailable(&sqlx::Error::PoolTimedOut));
        assert!(!is_unavailable(&sqlx::Error::RowNotFound));
    }
}
