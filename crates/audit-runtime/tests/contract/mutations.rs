use crate::database::*;
use audit_core::testing::MemorySink;
use audit_runtime::*;
use std::sync::Arc;

#[tokio::test]
async fn spawnable() {
    let sink = Arc::new(MemorySink::new());
    let rt = AuditRuntime::new(sink.clone());
    let db = Database::default();
    let name = String::from("x");
    let out = tokio::spawn(async move {
        let request = rt.new_request();
        let db = &db;
        let name = &name;
        rt.run_mutation("f", &request, async |execution| {
            let mut tx = db.begin();
            let v = tx.read();
            tokio::task::yield_now().await;
            execution.log().audit(&body!({"ip": Var::IP, "name": name}))?;
            execution.log().nested_query("q").audit(&body!({"q": v}))?;
            tx.write(v + 1);
            Ok(execution.seal_transaction(tx, Ok(v)))
        })
        .await
    })
    .await
    .unwrap()
    .unwrap();
    assert_eq!(out, 0);
    assert_eq!(sink.lines(), ["{\"ip\":null,\"name\":\"x\"}", "{\"q\":0}"]);
}

async fn update(log: &AuditLog<'_, Mutation>, tx: &mut Tx, by: i64) -> Result<i64, DbError> {
    log.audit(&body!({"ip": Var::IP, "by": by}))?;
    tokio::task::yield_now().await;
    tx.write(tx.read() + by);
    Ok(tx.read())
}

#[derive(Clone)]
struct App {
    rt: AuditRuntime,
    db: Database,
}

async fn handler(axum::extract::State(app): axum::extract::State<App>, body: String) -> String {
    let request = app.rt.new_request();
    let by = body.len() as i64;
    app.rt
        .run_mutation("update", &request, async |execution| {
            let mut tx = app.db.begin();
            let result = update(&execution.log(), &mut tx, by).await;
            Ok(execution.seal_transaction(tx, result))
        })
        .await
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn axum_handler() {
    let sink = Arc::new(MemorySink::new());
    let app = App { rt: AuditRuntime::new(sink.clone()), db: Database::default() };
    let _router: axum::Router = axum::Router::new().route("/", axum::routing::post(handler)).with_state(app);
}
