//! Which errors of a database are conflicts.

/// `SQLITE_BUSY` and `SQLITE_LOCKED`, of which extended result codes have the low byte.
/// <https://www.sqlite.org/rescode.html>
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;

/// Whether another transaction was the reason for this error, so that running the mutation again
/// from its start may succeed.
///
/// - PostgreSQL: `serialization_failure` (40001) and `deadlock_detected` (40P01).
/// - SQLite: `SQLITE_BUSY` with all its kinds, of which `SQLITE_BUSY_SNAPSHOT` is the usual one;
///   and `SQLITE_LOCKED`, which connections get that share a cache.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| is_conflict_code(&code))
}

fn is_conflict_code(code: &str) -> bool {
    match code {
        "40001" | "40P01" => true,
        // Of PostgreSQL, whose codes have five characters, and none of them is a number of SQLite.
        code if code.len() == 5 => false,
        code => code
            .parse::<u32>()
            .is_ok_and(|code| [SQLITE_BUSY, SQLITE_LOCKED].contains(&(code & 0xff))),
    }
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
}
