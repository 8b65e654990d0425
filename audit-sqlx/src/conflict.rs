//! Which errors of a database are conflicts, and which say that nothing was committed.

/// `SQLITE_BUSY` and `SQLITE_LOCKED`, of which extended result codes have the low byte.
/// <https://www.sqlite.org/rescode.html>
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;

/// `SQLITE_CONSTRAINT`: a deferred one is checked by the commit.
const SQLITE_CONSTRAINT: u32 = 19;

/// Whether another transaction caused this error, so that another attempt at the mutation may
/// succeed.
///
/// - PostgreSQL: `serialization_failure` (40001) and `deadlock_detected` (40P01).
/// - SQLite: `SQLITE_BUSY` in all its kinds, most often `SQLITE_BUSY_SNAPSHOT`; and
///   `SQLITE_LOCKED`, between connections that share a cache.
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

/// Whether a commit that failed with this error has certainly committed nothing: conflicts, broken
/// constraints, and in PostgreSQL a transaction in which a statement failed. Not so after a
/// connection was lost, or the server was told to end: it may have committed before.
pub(crate) fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| is_rolled_back_code(&code))
}

fn is_rolled_back_code(code: &str) -> bool {
    match code {
        // in_failed_sql_transaction, transaction_integrity_constraint_violation; of class 40 not
        // 40003, which says that it is unknown.
        "25P02" | "40002" => true,
        // integrity_constraint_violation.
        code if code.len() == 5 && code.starts_with("23") => true,
        code => is_conflict_code(code) || is_of_sqlite(code, &[SQLITE_CONSTRAINT]),
    }
}

/// Whether this is one of these primary result codes of SQLite, or an extended one of them.
fn is_of_sqlite(code: &str, primary: &[u32]) -> bool {
    // Codes of PostgreSQL have five characters, and none of them is a number of SQLite.
    code.len() != 5 && code.parse::<u32>().is_ok_and(|code| primary.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_told_by_their_codes() {
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
    fn commits_that_certainly_failed_are_told_by_their_codes() {
        // SQLITE_CONSTRAINT, _FOREIGNKEY, _PRIMARYKEY, _UNIQUE.
        let constraints =
            ["23505", "23503", "23P01", "25P02", "40002", "19", "787", "1555", "2067"];
        for code in constraints.into_iter().chain(["40001", "40P01", "5", "6", "517"]) {
            assert!(is_rolled_back_code(code), "{code}");
        }
        // Unknown by its name; the end of the server; a lost connection; input and output; full.
        for code in ["40003", "57P01", "08006", "XX000", "53100", "10", "778", "13", "", "x"] {
            assert!(!is_rolled_back_code(code), "{code}");
        }
        assert!(!is_rolled_back(&sqlx::Error::WorkerCrashed));
    }
}
