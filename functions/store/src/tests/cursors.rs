//! Cursors and journals reveal nothing, and work only in the store and for the page that they were
//! made for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value as Json;

use super::*;

/// An indexed value that functions do not return.
const HIDDEN: &str = "a-secret-that-is-indexed";

fn schema(fields: &[&str]) -> BTreeMap<ComponentPath, Option<Json>> {
    let index = json!({ "indexDescriptor": "by_hidden", "fields": fields });
    let table = json!({ "tableName": "t", "indexes": [index], "documentType": { "type": "any" } });
    let schema = json!({ "tables": [table], "schemaValidation": false });
    [(root(), Some(schema))].into()
}

fn query(order: &str) -> Json {
    json!({
        "source": { "type": "IndexRange", "indexName": "t.by_hidden", "range": [], "order": order },
        "operators": [],
    })
}

fn filled() -> (tempfile::TempDir, Store) {
    let (directory, store) = open();
    store.set_schema(&schema(&["hidden"])).unwrap();
    let mut tx = store.begin(&store.latest(), 1);
    for number in 0..10 {
        let hidden = format!("{HIDDEN}{number}");
        tx.insert(&root(), "t", value(json!({ "hidden": hidden, "other": number }))).unwrap();
    }
    tx.commit().unwrap();
    (directory, store)
}

fn page(store: &Store, request: &PageRequest<'_>) -> Result<Page, StoreError> {
    store.begin(&store.latest(), 2).page(&root(), request)
}

fn request(query: &Json) -> PageRequest<'_> {
    PageRequest {
        function: "m:list",
        query,
        cursor: None,
        end_cursor: None,
        journal: None,
        page_size: 3,
        maximum_rows_read: None,
        maximum_bytes_read: None,
    }
}

/// Variants of a genuine cursor or journal that a hostile client may try.
fn forgeries(genuine: &str) -> Vec<String> {
    let bytes = URL_SAFE_NO_PAD.decode(genuine).unwrap();
    let mut forged = vec![String::new(), "?".to_owned(), genuine.to_uppercase()];
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            forged.push(URL_SAFE_NO_PAD.encode(flipped));
        }
        forged.push(URL_SAFE_NO_PAD.encode(&bytes[..at]));
    }
    forged.push(URL_SAFE_NO_PAD.encode([&bytes[..], &[0]].concat()));
    // The unsealed format of an early version: a tag, a checksum that anyone can compute, a key.
    forged.extend((0..3).map(|tag| URL_SAFE_NO_PAD.encode([&[tag][..], &[0; 8], b"key"].concat())));
    forged
}

#[test]
fn cursors_of_other_queries_are_refused() {
    let (_directory, store) = filled();
    let (_other_directory, other) = filled();
    for order in ["asc", "desc"] {
        let query = query(order);
        let first = page(&store, &request(&query)).unwrap();
        let next =
            |cursor: &str| page(&store, &PageRequest { cursor: Some(cursor), ..request(&query) });
        assert_eq!(next(&first.continue_cursor).unwrap().page.len(), 3);

        let narrow = json!({
            "source": {
                "type": "IndexRange",
                "indexName": "t.by_hidden",
                "range": [{ "type": "Gt", "fieldPath": "hidden", "value": "b" }],
                "order": order,
            },
            "operators": [],
        });
        let mut forged = forgeries(&first.continue_cursor);
        forged.push(page(&store, &request(&narrow)).unwrap().continue_cursor);
        forged.push(page(&other, &request(&query)).unwrap().continue_cursor);
        forged.push(first.journal);
        for cursor in &forged {
            let beginning = next(cursor).unwrap_err().to_string();
            assert!(beginning.starts_with("InvalidCursor: "), "{cursor}: {beginning}");
            let end = PageRequest { end_cursor: Some(cursor), ..request(&query) };
            let end = page(&store, &end).unwrap_err().to_string();
            assert!(end.starts_with("InvalidCursor: "), "{cursor}: {end}");
        }
    }
}

#[test]
fn a_cursor_is_refused_once_its_index_is_replaced() {
    let (_directory, store) = filled();
    let query = query("asc");
    let first = page(&store, &request(&query)).unwrap();
    store.set_schema(&schema(&["other"])).unwrap();
    let next = PageRequest { cursor: Some(&first.continue_cursor), ..request(&query) };
    let refused = page(&store, &next).unwrap_err().to_string();
    assert!(refused.starts_with("InvalidCursor: "), "{refused}");
    // A journal of the old index is ignored.
    let journal = PageRequest { journal: Some(&first.journal), ..request(&query) };
    assert_eq!(page(&store, &journal).unwrap().page.len(), 3);
}

#[test]
fn a_journal_ends_its_own_page_and_widens_no_other() {
    let (_directory, store) = filled();
    let (_other_directory, other) = filled();
    let query = query("asc");
    let request = request(&query);
    let first = page(&store, &request).unwrap();
    let sealed = |journal: &str| {
        page(&store, &PageRequest { journal: Some(journal), ..request.clone() }).unwrap()
    };

    // All genuine texts a client can obtain that point past its own page.
    let whole = PageRequest { page_size: 100, ..request.clone() };
    let whole = page(&store, &whole).unwrap();
    let second = PageRequest { cursor: Some(&first.continue_cursor), ..request.clone() };
    let second = page(&store, &second).unwrap();
    let elsewhere = PageRequest { function: "m:all", page_size: 3, ..request.clone() };
    let mut forged = forgeries(&first.journal);
    forged.extend([whole.journal, whole.continue_cursor, second.journal, second.continue_cursor]);
    forged.push(page(&store, &elsewhere).unwrap().journal);
    forged.push(page(&other, &request).unwrap().journal);
    for limits in [(Some(9), None), (None, Some(1 << 20))] {
        let limited = PageRequest {
            maximum_rows_read: limits.0,
            maximum_bytes_read: limits.1,
            ..request.clone()
        };
        forged.push(page(&store, &limited).unwrap().journal);
    }
    for journal in forged {
        assert_eq!(sealed(&journal), first, "{journal}");
    }

    // The page's own journal ends it where it ended before, even with a new row in between.
    let mut tx = store.begin(&store.latest(), 3);
    tx.insert(&root(), "t", value(json!({ "hidden": format!("{HIDDEN}0-and-more") }))).unwrap();
    tx.commit().unwrap();
    let grown = sealed(&first.journal);
    assert_eq!((grown.page.len(), &grown.continue_cursor), (4, &first.continue_cursor));
}

#[test]
fn cursors_reveal_nothing_about_their_row() {
    let (directory, store) = filled();
    let query = query("asc");
    let first = page(&store, &request(&query)).unwrap();
    for text in [&first.continue_cursor, first.split_cursor.as_ref().unwrap(), &first.journal] {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        assert!(
            !bytes.windows(6).any(|window| HIDDEN.as_bytes().windows(6).any(|of| of == window))
        );
    }
    // Cursors reveal the length of a row's key only in steps.
    let all = PageRequest { page_size: 10, ..request(&query) };
    let end = page(&store, &all).unwrap();
    assert_eq!(end.continue_cursor.len(), first.continue_cursor.len());
    // The same position has the same cursor even after a restart, so equal results stay equal.
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(page(&store, &request(&query)).unwrap(), first);
}

#[cfg(unix)]
#[test]
fn a_store_is_accessible_only_to_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, _store) = open();
    let mode = std::fs::metadata(directory.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
