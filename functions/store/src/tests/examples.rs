//! The operations of functions and the host, and their errors.

use std::collections::BTreeMap;

use functions_value::{ComponentPath, Value, patch_from_json};
use serde_json::{Value as Json, json};

use super::{open, root, value};
use crate::{
    CommitError, PageRequest, PageStatus, SchemaError, Store, StoreError, Tx, check_schemas,
};

fn begin(store: &Store) -> Tx {
    store.begin(&store.latest(), 7)
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::User(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn scan(table: &str) -> Json {
    json!({ "source": { "type": "FullTableScan", "tableName": table, "order": null }, "operators": [] })
}

pub(super) fn range(index: &str, range: Json) -> Json {
    json!({ "source": { "type": "IndexRange", "indexName": index, "range": range, "order": null }, "operators": [] })
}

pub(super) fn collect(tx: &mut Tx, query: &Json) -> Result<Vec<Value>, StoreError> {
    let stream = tx.query(&root(), query)?;
    std::iter::from_fn(|| tx.query_next(stream).transpose()).collect()
}

pub(super) fn schema(
    table: &str,
    indexes: &Json,
    document_type: &Json,
    is_validated: bool,
) -> BTreeMap<ComponentPath, Option<Json>> {
    let indexes: Vec<_> = indexes
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, fields)| json!({ "indexDescriptor": name, "fields": fields }))
        .collect();
    let table = json!({ "tableName": table, "indexes": indexes, "documentType": document_type });
    BTreeMap::from([(root(), Some(json!({ "tables": [table], "schemaValidation": is_validated })))])
}

fn object(fields: &Json) -> Json {
    let fields: serde_json::Map<_, _> = fields
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, kind)| (name.clone(), json!({ "fieldType": kind, "optional": false })))
        .collect();
    json!({ "type": "object", "value": fields })
}

#[test]
fn forbidden_operations_are_refused_with_the_reason() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    let id = tx.insert(&root(), "messages", value(json!({ "body": "hi" }))).unwrap();
    let other = tx.insert(&root(), "users", value(json!({}))).unwrap();
    let job = tx
        .as_system(|tx| tx.insert(&root(), "_cron_jobs", value(json!({ "name": "daily" }))))
        .unwrap();
    let gone = tx.insert(&root(), "messages", value(json!({}))).unwrap();
    tx.remove(&root(), None, &gone).unwrap();
    let mut typo = id.clone();
    typo.replace_range(10..11, if &id[10..11] == "0" { "1" } else { "0" });
    assert_eq!(tx.as_system(|tx| tx.get(&root(), None, &id)).unwrap(), None);
    let read_only = "System tables (prefixed with `_`) are read-only.";
    let patch = |json| patch_from_json(json).unwrap();
    let all = |table: &str| json!({ "source": { "type": "FullTableScan", "tableName": table }, "operators": [] });
    let cases = [
        (refused(tx.get(&root(), None, "x")), "Invalid argument `id` for `db.get`: Unable to decode ID: Invalid ID length 1".to_owned()),
        (refused(tx.get(&root(), None, &typo)), "Invalid argument `id` for `db.get`: Unable to decode ID: Invalid checksum".to_owned()),
        (refused(tx.remove(&root(), None, &"U".repeat(32))), "Invalid argument `id` for `db.delete`: Unable to decode ID: Invalid character".to_owned()),
        (
            refused(tx.patch(&root(), Some("users"), &id, patch(json!({})))),
            format!("Invalid argument `id` for `db.patch`: Expected an Id<\"users\">, got an Id<\"messages\">: {id}"),
        ),
        (refused(tx.patch(&root(), None, &gone, patch(json!({})))), format!("Update on nonexistent document ID {gone}")),
        (refused(tx.replace(&root(), None, &gone, value(json!({})))), format!("Replace on nonexistent document ID {gone}")),
        (refused(tx.remove(&root(), None, &gone)), format!("Delete on nonexistent document ID {gone}")),
        (refused(tx.insert(&root(), "_cron_jobs", value(json!({})))), read_only.to_owned()),
        (refused(tx.patch(&root(), None, &job, patch(json!({})))), read_only.to_owned()),
        (refused(tx.remove(&root(), None, &job)), read_only.to_owned()),
        (
            refused(tx.get(&root(), None, &job)),
            "Invalid argument `id` for `db.get`: Documents of table `_cron_jobs` are read with `db.system.get`".to_owned(),
        ),
        (refused(tx.insert(&root(), "", value(json!({})))), "Table name cannot be empty.".to_owned()),
        (
            refused(tx.insert(&root(), "my table", value(json!({})))),
            "Table name must start with a letter or underscore and consist only of letters, digits, and underscores. Got \
             \"my table\"."
                .to_owned(),
        ),
        (
            refused(tx.query(&root(), &all("bad-table"))),
            "Table name must start with a letter or underscore and consist only of letters, digits, and underscores. Got \
             \"bad-table\"."
                .to_owned(),
        ),
        (refused(tx.query(&root(), &all(""))), "Table name cannot be empty.".to_owned()),
        (refused(tx.count(&root(), "")), "Table name cannot be empty.".to_owned()),
        (refused(tx.insert(&root(), "t", value(json!([1])))), "Documents must be objects, but got [1.0]".to_owned()),
        (
            refused(tx.insert(&root(), "t", value(json!({ "_x": 1 })))),
            "Field name _x starts with '_', which is only allowed for system fields like '_id' and '_creationTime'".to_owned(),
        ),
        (
            refused(tx.patch(&root(), None, &id, patch(json!({ "_id": other })))),
            format!("Provided document `_id` field \"{other}\" does not match the document's own \"{id}\""),
        ),
        (
            refused(tx.insert(&root(), "t", value(json!({ "a": "x".repeat(1 << 20) })))),
            "Value is too large (1048643 bytes > maximum size 1048576 bytes)".to_owned(),
        ),
        (refused(tx.query(&root(), &range("messages.by_body", json!([])))), "Index messages.by_body not found.".to_owned()),
        (refused(tx.query(&root(), &range("nothing.by_body", json!([])))), "Index nothing.by_body not found.".to_owned()),
        (
            refused(tx.query(&root(), &json!({ "source": { "type": "Search", "indexName": "messages.body", "filters": [] }, "operators": [] }))),
            "Search indexes are not supported by this host (`withSearchIndex` on messages.body)".to_owned(),
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
    // None of these operations changed anything. A replacement may repeat the system fields.
    let document = tx.get(&root(), None, &id).unwrap().unwrap();
    tx.replace(&root(), None, &id, document.clone()).unwrap();
    assert_eq!(tx.get(&root(), None, &id).unwrap(), Some(document));
    assert!(
        tx.query(&root(), &scan("t")).is_ok_and(|stream| tx.query_next(stream).unwrap().is_none())
    );
    tx.commit().unwrap();
}

#[test]
fn an_index_is_used_in_the_order_of_its_fields() {
    let (_directory, store) = open();
    store
        .set_schema(&schema(
            "t",
            &json!({ "by_a_b": ["a", "b.c"] }),
            &json!({ "type": "any" }),
            true,
        ))
        .unwrap();
    let mut tx = begin(&store);
    let part = |kind: &str, field: &str| json!({ "type": kind, "fieldPath": field, "value": 1 });
    let cases = [
        (json!([part("Eq", "b.c")]), "`b.c` is not the next field of the index"),
        (json!([part("Gt", "a"), part("Eq", "b.c")]), "`eq` on `b.c` comes after an inequality"),
        (json!([part("Gt", "a"), part("Lt", "b.c")]), "it has inequalities on both `a` and `b.c`"),
        (json!([part("Gt", "a"), part("Gte", "a")]), "`a` has two bounds on the same side"),
        (json!([part("Eq", "a"), part("Eq", "a")]), "`a` is not the next field of the index"),
        (json!([part("Lt", "b.c")]), "`b.c` is not the next field of the index"),
    ];
    for (expressions, what) in cases {
        let message = refused(tx.query(&root(), &range("t.by_a_b", expressions)));
        assert_eq!(
            message,
            format!(
                "Tried to query index t.by_a_b but {what}. The index's fields are [a, b.c, _creationTime, _id]; a range \
                 compares the first of them with `eq`, in this order, and then at most one with `gt` or `gte` and `lt` or \
                 `lte`."
            )
        );
    }
    let id = tx.insert(&root(), "t", value(json!({ "a": 1, "b": { "c": 1 } }))).unwrap();
    let document = tx.get(&root(), None, &id).unwrap().unwrap();
    let time = document.at(&["_creationTime"]).unwrap().to_json();
    let whole = json!([part("Eq", "a"), part("Eq", "b.c"), { "type": "Eq", "fieldPath": "_creationTime", "value": time },
        { "type": "Gte", "fieldPath": "_id", "value": id }]);
    assert_eq!(collect(&mut tx, &range("t.by_a_b", whole)).unwrap(), [document]);
}

#[test]
fn overlong_index_values_are_refused_but_can_be_queried() {
    let (_directory, store) = open();
    store
        .set_schema(&schema("t", &json!({ "by_a": ["a"] }), &json!({ "type": "any" }), true))
        .unwrap();
    let long = |length| "x".repeat(length);
    let mut tx = begin(&store);
    let message = refused(tx.insert(&root(), "t", value(json!({ "a": long(40_000) }))));
    assert_eq!(
        message,
        "The values that index \"by_a\" orders a document by have 40052 bytes, which exceeds limit of 32768 bytes"
    );
    for length in [10, 32_000] {
        tx.insert(&root(), "t", value(json!({ "a": long(length) }))).unwrap();
    }
    tx.insert(&root(), "t", value(json!({ "a": "y" }))).unwrap();
    tx.commit().unwrap();
    let mut tx = begin(&store);
    for (kind, expected) in [("Lt", 2), ("Lte", 2), ("Gt", 1), ("Gte", 1), ("Eq", 0)] {
        for length in [40_000, 100_000] {
            let expression = json!([{ "type": kind, "fieldPath": "a", "value": long(length) }]);
            assert_eq!(
                collect(&mut tx, &range("t.by_a", expression)).unwrap().len(),
                expected,
                "{kind}"
            );
        }
    }
    tx.insert(&root(), "u", value(json!({ "a": long(40_000) }))).unwrap();
    tx.commit().unwrap();
    let error = store
        .set_schema(&schema("u", &json!({ "by_a": ["a"] }), &json!({ "type": "any" }), true))
        .unwrap_err();
    assert!(
        matches!(error, SchemaError::Refused(message) if message.contains("exceeds limit of 32768 bytes"))
    );
}

#[test]
fn queries_see_writes_ahead_of_them() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    let ids: Vec<_> =
        (0..4).map(|n| tx.insert(&root(), "t", value(json!({ "n": n }))).unwrap()).collect();
    tx.commit().unwrap();
    let mut tx = begin(&store);
    let stream = tx.query(&root(), &scan("t")).unwrap();
    let next = |tx: &mut Tx| {
        tx.query_next(stream).unwrap().map(|document| document.at(&["n"]).unwrap().clone())
    };
    assert_eq!(next(&mut tx), Some(Value::from(0.0)));
    tx.remove(&root(), None, &ids[1]).unwrap();
    tx.patch(&root(), None, &ids[2], patch_from_json(json!({ "n": 20 })).unwrap()).unwrap();
    tx.insert(&root(), "t", value(json!({ "n": 4 }))).unwrap();
    assert_eq!(next(&mut tx), Some(Value::from(20.0)));
    tx.begin_nested();
    tx.remove(&root(), None, &ids[3]).unwrap();
    tx.rollback_nested();
    assert_eq!(next(&mut tx), Some(Value::from(3.0)));
    assert_eq!(next(&mut tx), Some(Value::from(4.0)));
    assert_eq!(next(&mut tx), None);
    assert_eq!(next(&mut tx), None);
    tx.query_close(stream);
    assert_eq!(refused(tx.query_next(stream)), format!("No query {stream} is open"));
}

#[test]
fn ids_come_from_the_seed_and_are_never_reused() {
    let (_directory, store) = open();
    let snapshot = store.latest();
    let insert = |tx: &mut Tx| tx.insert(&root(), "t", value(json!({}))).unwrap();
    let mut one = store.begin(&snapshot, 5);
    let mut two = store.begin(&snapshot, 5);
    let id = insert(&mut one);
    assert_eq!(insert(&mut two), id);
    assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    one.commit().unwrap();
    assert!(matches!(two.commit(), Err(CommitError::Conflict { table, .. }) if table == "t"));
    let mut three = store.begin(&store.latest(), 5);
    assert_ne!(insert(&mut three), id);
    three.commit().unwrap();
}

#[test]
fn components_have_their_own_tables() {
    let (_directory, store) = open();
    let child = root().child("files");
    let mut tx = begin(&store);
    let id = tx.insert(&root(), "t", value(json!({}))).unwrap();
    assert_eq!(tx.get(&child, None, &id).unwrap(), None);
    assert_eq!(
        refused(tx.remove(&child, None, &id)),
        format!("Delete on nonexistent document ID {id}")
    );
    tx.insert(&child, "t", value(json!({}))).unwrap();
    tx.insert(&child, "t", value(json!({}))).unwrap();
    assert_eq!((tx.count(&root(), "t").unwrap(), tx.count(&child, "t").unwrap()), (1, 2));
    assert!(tx.is_id(&root(), "t", &id) && !tx.is_id(&child, "t", &id));
    assert!(!tx.is_id(&root(), "t", "x"));
    tx.commit().unwrap();
}

#[test]
fn scheduled_functions_are_indexed_by_state_and_time() {
    let (_directory, store) = open();
    let index = "_scheduled_functions.by_state_and_time";
    let due = range(
        index,
        json!([
            { "type": "Eq", "fieldPath": "state.kind", "value": "pending" },
            { "type": "Lte", "fieldPath": "scheduledTime", "value": 20 },
        ]),
    );
    let mut tx = begin(&store);
    assert_eq!(collect(&mut tx, &due).unwrap(), []);
    let function = |kind: &str, time: u32| {
        value(json!({ "name": "f", "args": [], "scheduledTime": time, "state": { "kind": kind } }))
    };
    let ids: Vec<_> = [("pending", 30), ("pending", 20), ("success", 5), ("pending", 10)]
        .map(|(kind, time)| {
            tx.as_system(|tx| tx.insert(&root(), "_scheduled_functions", function(kind, time)))
                .unwrap()
        })
        .into();
    tx.commit().unwrap();
    let mut tx = begin(&store);
    let found = |tx: &mut Tx| -> Vec<_> {
        collect(tx, &due)
            .unwrap()
            .iter()
            .map(|document| document.at(&["_id"]).unwrap().as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(found(&mut tx), [ids[3].clone(), ids[1].clone()]);
    let in_progress = patch_from_json(json!({ "state": { "kind": "inProgress" } })).unwrap();
    tx.as_system(|tx| tx.patch(&root(), None, &ids[3], in_progress)).unwrap();
    assert_eq!(found(&mut tx), [ids[1].clone()]);
    let read = tx.as_system(|tx| tx.get(&root(), Some("_scheduled_functions"), &ids[3]));
    assert!(read.unwrap().is_some());
    tx.as_system(|tx| tx.replace(&root(), None, &ids[3], function("pending", 15))).unwrap();
    tx.as_system(|tx| tx.remove(&root(), None, &ids[1])).unwrap();
    assert_eq!(found(&mut tx), [ids[3].clone()]);
    assert_eq!(collect(&mut tx, &range("_cron_jobs.by_name", json!([]))).unwrap(), []);
}

#[test]
fn excess_reads_and_writes_fail() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    let large = "x".repeat(900_000);
    let written =
        (0..).map_while(|_| tx.insert(&root(), "t", value(json!({ "a": large }))).ok()).count();
    assert_eq!(written, 18);
    assert_eq!(
        refused(tx.insert(&root(), "t", value(json!({ "a": large })))),
        "Too many bytes written in a single function execution (limit: 16777216 bytes)"
    );
    assert_eq!(tx.metrics().documents_written, 18);
    // A small one still fits.
    let id = tx.insert(&root(), "u", value(json!({}))).unwrap();
    tx.commit().unwrap();
    let mut tx = begin(&store);
    collect(&mut tx, &scan("t")).unwrap();
    assert_eq!((tx.metrics().documents_read, tx.metrics().database_queries), (18, 1));
    assert!(refused(collect(&mut tx, &scan("t"))).starts_with(
        "Too many bytes read in a single function execution (limit: 16777216 bytes)."
    ));
    let mut tx = begin(&store);
    for _ in 0..4_096 {
        tx.get(&root(), None, &id).unwrap();
    }
    assert_eq!(
        refused(tx.get(&root(), None, &id)),
        "Too many reads in a single function execution (limit: 4096)."
    );
}

/// A function's clock stands still while the host filters, so the steps of filters are limited.
#[test]
fn excess_filtering_fails() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    tx.insert(&root(), "t", value(json!({ "a": "x".repeat(900_000) }))).unwrap();
    // Each comparison takes 14,062 steps.
    let filtered = |times: usize| {
        let differs = json!({ "$neq": [{ "$field": "a" }, { "$field": "a" }] });
        let mut query = scan("t");
        query["operators"] = json!([{ "filter": { "$or": vec![differs; times] } }]);
        query
    };
    assert_eq!(collect(&mut tx, &filtered(4_000)).unwrap(), []);
    assert_eq!(collect(&mut tx, &filtered(500)).unwrap(), []);
    assert!(
        refused(collect(&mut tx, &filtered(500))).starts_with(
            "Too much filtering in a single function execution (limit: 64000000 steps)."
        )
    );
}

#[test]
fn a_schema_is_applied_whole_or_not_at_all() {
    let (directory, store) = open();
    let mut tx = begin(&store);
    let id = tx.insert(&root(), "t", value(json!({ "a": 1 }))).unwrap();
    tx.insert(&root(), "t", value(json!({ "a": "x" }))).unwrap();
    tx.insert(&root(), "other", value(json!({}))).unwrap();
    tx.commit().unwrap();
    let number = object(&json!({ "a": { "type": "number" } }));
    let before = store.latest().ts();
    let strict = schema("t", &json!({ "by_a": ["a"] }), &number, true);
    let error = store.set_schema(&strict).unwrap_err().to_string();
    let checked = check_schemas(&strict, Some(&store)).unwrap_err().to_string();
    assert_eq!(checked, error);
    check_schemas(&strict, None).unwrap();
    assert!(error.starts_with("Schema validation failed.\nDocument with ID \""), "{error}");
    assert!(
        error.ends_with(
            "in table \"t\" does not match the schema: Value does not match validator.\nPath: .a\nValue: \"x\"\nValidator: \
             v.float64()"
        ),
        "{error}"
    );
    assert_eq!(store.latest().ts(), before);
    assert_eq!(
        refused(collect(&mut begin(&store), &range("t.by_a", json!([])))),
        "Index t.by_a not found."
    );

    // Without validation the same schema is applied, and its index is filled from the documents.
    let mut early = begin(&store);
    early.insert(&root(), "t", value(json!({ "a": 0 }))).unwrap();
    let mut reader = begin(&store);
    reader.get(&root(), None, &id).unwrap();
    let watch = store.watch(reader.take_reads().into(), store.latest().ts());
    let mut other_reader = begin(&store);
    collect(&mut other_reader, &scan("other")).unwrap();
    let other_watch = store.watch(other_reader.take_reads().into(), store.latest().ts());
    let lax = schema("t", &json!({ "by_a": ["a"] }), &number, false);
    check_schemas(&lax, Some(&store)).unwrap();
    assert_eq!(store.latest().ts(), before, "a check changes nothing");
    store.set_schema(&lax).unwrap();
    assert!(
        matches!(early.commit(), Err(CommitError::Conflict { table, document: None }) if table == "t")
    );
    assert_eq!(watch.invalid_since(), Some(store.latest().ts()));
    assert_eq!(other_watch.invalid_since(), None);
    let by_a = range("t.by_a", json!([]));
    assert_eq!(collect(&mut begin(&store), &by_a).unwrap().len(), 2);

    // Applying the same schema a second time changes nothing.
    let ts = store.latest().ts();
    store.set_schema(&schema("t", &json!({ "by_a": ["a"] }), &number, false)).unwrap();
    assert_eq!(store.latest().ts(), ts);

    // The index is there after a restart, and is removed with its schema.
    drop((watch, other_watch, reader, other_reader, store));
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(collect(&mut begin(&store), &by_a).unwrap().len(), 2);
    store.set_schema(&BTreeMap::from([(root(), None)])).unwrap();
    assert_eq!(refused(collect(&mut begin(&store), &by_a)), "Index t.by_a not found.");
    assert_eq!(collect(&mut begin(&store), &scan("t")).unwrap().len(), 2);

    // An index of the same name but with other fields is rebuilt.
    let mut tx = begin(&store);
    tx.insert(&root(), "t", value(json!({ "a": 0, "b": 0 }))).unwrap();
    tx.commit().unwrap();
    store.set_schema(&schema("t", &json!({ "by_a": ["b", "a"] }), &number, false)).unwrap();
    let b = range("t.by_a", json!([{ "type": "Gte", "fieldPath": "b", "value": null }]));
    assert_eq!(collect(&mut begin(&store), &b).unwrap().len(), 1);
    assert_eq!(collect(&mut begin(&store), &by_a).unwrap().len(), 3);
}

#[test]
fn documents_that_violate_the_schema_are_refused() {
    let (_directory, store) = open();
    let id_of_user = json!({ "type": "id", "tableName": "users" });
    let kind = object(&json!({ "a": { "type": "number" }, "user": id_of_user }));
    store.set_schema(&schema("t", &json!({}), &kind, true)).unwrap();
    let mut tx = begin(&store);
    let user = tx.insert(&root(), "users", value(json!({}))).unwrap();
    let id = tx.insert(&root(), "t", value(json!({ "a": 1, "user": user }))).unwrap();
    let start = "Failed to insert or update a document in table \"t\" because it does not match the schema: ";
    let of = "Validator: v.object({a: v.float64(), user: v.id(\"users\")})";
    let missing = format!(
        "{start}Object is missing the required field `user`. Consider wrapping the field validator in `v.optional(...)` if \
         this is expected.\nObject: {{a: 1.0}}\n{of}"
    );
    assert_eq!(refused(tx.insert(&root(), "t", value(json!({ "a": 1 })))), missing);
    assert_eq!(refused(tx.replace(&root(), None, &id, value(json!({ "a": 1 })))), missing);
    let remove = patch_from_json(json!({ "user": { "$undefined": null } })).unwrap();
    assert_eq!(refused(tx.patch(&root(), None, &id, remove)), missing);
    let wrong = patch_from_json(json!({ "user": id })).unwrap();
    assert_eq!(
        refused(tx.patch(&root(), None, &id, wrong)),
        format!(
            "{start}Value is not the ID of a document in table `users`.\nPath: .user\nValue: \"{id}\"\nValidator: \
             v.id(\"users\")"
        )
    );
    tx.patch(&root(), None, &id, patch_from_json(json!({ "a": 2 })).unwrap()).unwrap();
    tx.commit().unwrap();
    // A validator that accepts all documents is applied.
    let optional = json!({ "type": "union", "value": [kind, object(&json!({}))] });
    store.set_schema(&schema("t", &json!({}), &optional, true)).unwrap();
    begin(&store).insert(&root(), "t", value(json!({}))).unwrap();
}

#[test]
fn schemas_may_declare_system_fields() {
    let document = object(&json!({
        "_id": { "type": "id", "tableName": "t" },
        "_creationTime": { "type": "number" },
        "a": { "type": "number" }
    }));
    for documents in [document.clone(), json!({ "type": "union", "value": [document] })] {
        let (_directory, store) = open();
        store.set_schema(&schema("t", &json!({}), &documents, true)).unwrap();
        let mut tx = begin(&store);
        let id = tx.insert(&root(), "t", value(json!({ "a": 1.0 }))).unwrap();
        tx.replace(&root(), None, &id, value(json!({ "a": 2.0 }))).unwrap();
        tx.insert(&root(), "t", value(json!({}))).unwrap_err();
        tx.commit().unwrap();
    }
}

#[test]
fn invalid_schemas_are_refused() {
    let (_directory, store) = open();
    let any = json!({ "type": "any" });
    let cases = [
        (
            schema("_t", &json!({}), &any, true),
            "Table name \"_t\" is not allowed: names that begin with `_` are those of system tables",
        ),
        (
            schema("t", &json!({ "by_id": ["a"] }), &any, true),
            "Table \"t\": index name \"by_id\" is reserved",
        ),
        (
            schema("t", &json!({ "by_a": [] }), &any, true),
            "Table \"t\": index \"by_a\" has 0 fields; it must have 1 to 16",
        ),
        (
            schema("t", &json!({ "by_a": ["a", "a"] }), &any, true),
            "Table \"t\": index \"by_a\" has the field \"a\" twice",
        ),
        (
            schema("t", &json!({ "by_a": ["a..b"] }), &any, true),
            "Table \"t\": index \"by_a\" has the invalid field \"a..b\"",
        ),
        (
            schema("t", &json!({ "by_a": ["_creationTime"] }), &any, true),
            "Table \"t\": index \"by_a\" cannot have the field \"_creationTime\": every index ends with _creationTime and _id",
        ),
        (
            schema("t", &json!({}), &json!({ "type": "string" }), true),
            "Table \"t\" must have documents that are objects, or a union of objects, not v.string()",
        ),
        (
            schema("t", &json!({}), &object(&json!({ "_x": any })), true),
            "Table \"t\" cannot have a field \"_x\": names that begin with `_` are those of system fields",
        ),
    ];
    for (schema, message) in cases {
        assert_eq!(store.set_schema(&schema).unwrap_err().to_string(), message);
        assert_eq!(check_schemas(&schema, None).unwrap_err().to_string(), message);
    }
}

#[test]
fn indexes_have_fields_that_documents_can_have() {
    let any = json!({ "type": "any" });
    let number = json!({ "type": "number" });
    let inner = object(&json!({ "b": number, "free": any }));
    let union = |members: Json| json!({ "type": "union", "value": members });
    let record = json!({ "type": "record", "keys": { "type": "string" }, "values": { "fieldType": number, "optional": false } });
    let one = object(&json!({
        "a": number, "in": inner, "any": any, "list": { "type": "array", "value": inner },
        "record": record, "either": union(json!([{ "type": "null" }, inner])),
    }));
    let documents = union(json!([one, object(&json!({ "other": number }))]));
    let exist =
        ["a", "other", "in", "in.b", "in.free.x.y", "any", "any.x", "list", "record", "either.b"];
    let missing = ["b", "x", "a.b", "in.a", "list.b", "record.b", "either.a", "In.b"];
    let (_directory, store) = open();
    for (fields, is_valid) in [(&exist[..], true), (&missing[..], false)] {
        for field in fields {
            for documents in [&documents, &any] {
                for is_validated in [true, false] {
                    let schema = schema("t", &json!({ "by_it": [field] }), documents, is_validated);
                    let found = check_schemas(&schema, None).map_err(|error| error.to_string());
                    let expected = if is_valid || !is_validated || *documents == any {
                        Ok(())
                    } else {
                        Err(format!(
                            "In table \"t\" the index \"by_it\" is invalid because it references the field \"{field}\" that does not exist."
                        ))
                    };
                    assert_eq!(found, expected);
                    assert_eq!(
                        store.set_schema(&schema).map_err(|error| error.to_string()),
                        expected
                    );
                }
            }
        }
    }
}

#[test]
fn pages_end_early_and_report_it() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    for n in 0..10 {
        tx.insert(&root(), "t", value(json!({ "n": n }))).unwrap();
    }
    tx.commit().unwrap();
    let mut tx = begin(&store);
    let query = scan("t");
    let request = PageRequest {
        function: "test",
        journal: None,
        query: &query,
        cursor: None,
        end_cursor: None,
        page_size: 8,
        maximum_rows_read: Some(3),
        maximum_bytes_read: None,
    };
    let first = tx.page(&root(), &request).unwrap();
    let early = (first.page.len(), first.is_done, first.page_status);
    assert_eq!(early, (3, false, Some(PageStatus::SplitRequired)));
    let next = tx
        .page(&root(), &PageRequest { cursor: Some(&first.continue_cursor), ..request.clone() })
        .unwrap();
    assert_eq!(next.page[0].at(&["n"]), Some(&Value::from(3.0)));
    let tight =
        PageRequest { maximum_rows_read: None, maximum_bytes_read: Some(1), ..request.clone() };
    assert_eq!(tx.page(&root(), &tight).unwrap().page.len(), 1);

    // A page that does not reach its end cursor must be split.
    let long = PageRequest { maximum_rows_read: None, ..request.clone() };
    let long = tx.page(&root(), &long).unwrap();
    assert_eq!(long.page.len(), 8);
    let cut = tx
        .page(&root(), &PageRequest { end_cursor: Some(&long.continue_cursor), ..request.clone() })
        .unwrap();
    assert_eq!((cut.page.len(), cut.page_status), (3, Some(PageStatus::SplitRequired)));
    assert_eq!((&cut.continue_cursor, cut.split_cursor.is_some()), (&long.continue_cursor, true));

    // The page after the last one is empty and done.
    let rest = PageRequest {
        cursor: Some(&long.continue_cursor),
        page_size: 2,
        maximum_rows_read: None,
        ..request.clone()
    };
    let rest = tx.page(&root(), &rest).unwrap();
    assert_eq!((rest.page.len(), rest.is_done), (2, false));
    let end = PageRequest { cursor: Some(&rest.continue_cursor), ..request.clone() };
    let end = tx.page(&root(), &end).unwrap();
    assert_eq!((end.page.len(), end.is_done), (0, true));
    let none = PageRequest { page_size: 0, ..request.clone() };
    let none = tx.page(&root(), &none).unwrap();
    assert_eq!((none.page.len(), none.is_done), (0, false));
    let all = PageRequest {
        cursor: Some(&none.continue_cursor),
        maximum_rows_read: None,
        page_size: 99,
        ..request.clone()
    };
    assert_eq!(tx.page(&root(), &all).unwrap().page.len(), 10);

    let mut limited = query.clone();
    limited["operators"] = json!([{ "limit": 1 }]);
    assert!(
        refused(tx.page(&root(), &PageRequest { query: &limited, ..request }))
            .contains("cannot be paginated")
    );
}

/// The documents that a client shows for a page. While the page must be split, the client requests
/// its halves instead.
fn split(tx: &mut Tx, request: &PageRequest<'_>, splits: &mut u32) -> Vec<Value> {
    let page = tx.page(&root(), request).unwrap();
    if page.page_status != Some(PageStatus::SplitRequired) {
        return page.page;
    }
    *splits += 1;
    assert!(*splits < 1_000, "splitting a page does not end");
    let (middle, end) = (page.split_cursor.unwrap(), page.continue_cursor);
    let first = PageRequest { end_cursor: Some(&middle), ..request.clone() };
    let second = PageRequest { cursor: Some(&middle), end_cursor: Some(&end), ..request.clone() };
    [split(tx, &first, splits), split(tx, &second, splits)].concat()
}

#[test]
fn pages_that_end_early_can_be_split() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    for n in 0..13 {
        tx.insert(&root(), "t", value(json!({ "n": n, "is": n % 3 == 0 }))).unwrap();
    }
    tx.commit().unwrap();
    let mut tx = begin(&store);
    for (order, filter) in [("asc", json!([])), ("desc", json!([{ "filter": { "$field": "is" } }]))]
    {
        let mut query = scan("t");
        query["source"]["order"] = json!(order);
        query["operators"] = filter;
        let all = PageRequest {
            function: "test",
            journal: None,
            query: &query,
            cursor: None,
            end_cursor: None,
            page_size: 99,
            maximum_rows_read: None,
            maximum_bytes_read: None,
        };
        let expected = tx.page(&root(), &all).unwrap().page;
        for (rows, bytes) in (1..=14).map(|rows| (Some(rows), None)).chain([(None, Some(1))]) {
            let limited =
                PageRequest { maximum_rows_read: rows, maximum_bytes_read: bytes, ..all.clone() };
            let (mut found, mut cursor, mut is_done) = (Vec::new(), None, false);
            while !is_done {
                let request = PageRequest { cursor: cursor.as_deref(), ..limited.clone() };
                let page = tx.page(&root(), &request).unwrap();
                found.extend(split(&mut tx, &request, &mut 0));
                (cursor, is_done) = (Some(page.continue_cursor), page.is_done);
            }
            assert_eq!(found, expected, "{order}, {rows:?} rows, {bytes:?} bytes");
        }
    }
}

#[test]
fn reads_aside_see_no_own_writes_and_conflict_with_nothing() {
    let (_directory, store) = open();
    let mut tx = begin(&store);
    tx.insert(&root(), "t", value(json!({}))).unwrap();
    tx.commit().unwrap();
    let read = |tx: &mut Tx| {
        let query = tx.query(&root(), &scan("t")).unwrap();
        std::iter::from_fn(|| tx.query_next(query).unwrap()).count()
    };
    for (is_aside, expected) in [(false, 2), (true, 2)] {
        let mut tx = begin(&store);
        tx.insert(&root(), "t", value(json!({}))).unwrap();
        let found = if is_aside { tx.aside(7.into(), read) } else { read(&mut tx) };
        assert_eq!(found, expected, "aside: {is_aside}");
        assert_eq!(tx.metrics().database_queries, 1);
        // With another seed, so that the ids differ.
        let mut other = store.begin(&store.latest(), 8);
        other.insert(&root(), "t", value(json!({}))).unwrap();
        other.commit().unwrap();
        assert_eq!(tx.commit().is_ok(), is_aside);
    }
}

/// Apps compare the metrics with the result of Convex's `getDocumentSize`.
#[test]
fn a_document_counts_the_same_however_it_is_read() {
    let (_directory, store) = open();
    store
        .set_schema(&schema("t", &json!({ "by_n": ["n"] }), &json!({ "type": "any" }), true))
        .unwrap();
    let mut tx = begin(&store);
    let fields = json!({ "n": 1, "text": "é", "list": [null, true, { "a": "b" }], "bytes": { "$bytes": "AAE=" } });
    let id = tx.insert(&root(), "t", value(fields)).unwrap();
    let written = tx.metrics().bytes_written;
    let read = |tx: &mut Tx, how: &str| {
        let before = tx.metrics().bytes_read;
        match how {
            "get" => assert!(tx.get(&root(), None, &id).unwrap().is_some()),
            index => {
                let found = match index {
                    "by_creation_time" => collect(tx, &scan("t")),
                    index => collect(tx, &range(&format!("t.{index}"), json!([]))),
                };
                assert_eq!(found.unwrap().len(), 1, "{index}");
            }
        }
        tx.metrics().bytes_read - before
    };
    let ways = ["get", "by_id", "by_creation_time", "by_n"];
    assert_eq!(ways.map(|how| read(&mut tx, how)), [written; 4], "in its own transaction");
    tx.commit().unwrap();
    let mut tx = begin(&store);
    assert_eq!(ways.map(|how| read(&mut tx, how)), [written; 4], "in a later one");
}
