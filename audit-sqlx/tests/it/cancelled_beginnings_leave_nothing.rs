//! Wherever `begin` is cancelled, no connection keeps a transaction.

use audit_core::testing::poll_at_most;
use futures::FutureExt;

use crate::database::Database;

#[tokio::test]
async fn a_cancelled_begin_leaves_no_transaction() {
    let database = Database::new(1).await;
    let (mut cancelled, mut begun) = (0, 0);
    // How far a number of polls leads varies, so each number is tried several times.
    for (round, polls) in [1, 2, 3, 4, 5, 1_000].into_iter().cycle().take(60).enumerate() {
        match poll_at_most(polls, audit_sqlx::begin(&database.pool)).await {
            Some(tx) => {
                drop(tx.unwrap());
                begun += 1;
            }
            None => cancelled += 1,
        }
        // The pool has one connection. If a transaction were open there, this statement would run
        // in it, and another connection would not see the row.
        let name = format!("row {round}");
        let inserted = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ($1, 1)"))
            .bind(&name)
            .execute(&database.pool);
        inserted.await.unwrap();
        assert_eq!(database.value(&name).await, Some(1), "round {round}");
    }
    assert!(cancelled > 0 && begun > 0, "{cancelled} were cancelled, {begun} not");
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back() {
    let database = Database::new(1).await;
    let mut tx = audit_sqlx::begin(&database.pool).await.unwrap();
    let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('dropped', 1)"));
    insert.execute(&mut *tx).await.unwrap();
    drop(tx);
    let insert = sqlx::query(database.sql("INSERT INTO $TABLE VALUES ('later', 1)"));
    insert.execute(&database.pool).await.unwrap();
    assert_eq!(database.value("dropped").await, None);
    assert_eq!(database.value("later").await, Some(1));
}

#[tokio::test]
async fn a_cancelled_wait_for_a_connection_leaves_no_task() {
    let database = Database::new(1).await;
    let only = database.pool.acquire().await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..20 {
        assert!(audit_sqlx::begin(&database.pool).now_or_never().is_none());
    }
    assert_eq!(tasks(), before);
    drop(only);
    audit_sqlx::begin(&database.pool).await.unwrap();
}
