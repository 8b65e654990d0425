//! Runs the steps of a program in the store.

use functions_value::{ComponentPath, Value};

use super::program::{Ids, Outcome, Query, Step, TABLES};
use crate::{PageRequest, StoreError, Tx};

/// Runs a step in the store, and adds new ids to `ids`.
pub(in crate::tests) fn run(tx: &mut Tx, step: &Step, ids: &mut Ids, depth: &mut usize) -> Outcome {
    let root = ids.component.clone();
    let outcome = match step {
        Step::Get(id) => match ids.pick(*id) {
            Some(id) => tx.get(&root, None, &id.1).map(Outcome::Document),
            None => return Outcome::Done,
        },
        Step::Insert(table, fields) => {
            tx.insert(&root, TABLES[*table], Value::Object(fields.clone())).map(|id| {
                ids.made.push((TABLES[*table], id.clone()));
                let inserted = tx.get(&root, Some(TABLES[*table]), &id).unwrap().unwrap();
                Outcome::Inserted(inserted.into_object().unwrap())
            })
        }
        Step::Patch(id, patch) => match ids.pick(*id) {
            Some(id) => tx.patch(&root, Some(id.0), &id.1, patch.clone()).map(|()| Outcome::Done),
            None => return Outcome::Done,
        },
        Step::Replace(id, fields) => match ids.pick(*id) {
            Some(id) => tx
                .replace(&root, None, &id.1, Value::Object(fields.clone()))
                .map(|()| Outcome::Done),
            None => return Outcome::Done,
        },
        Step::Remove(id) => match ids.pick(*id) {
            Some(id) => {
                tx.remove(&root, None, &id.1).map(|document| Outcome::Document(Some(document)))
            }
            None => return Outcome::Done,
        },
        Step::Count(table) => tx.count(&root, TABLES[*table]).map(Outcome::Count),
        Step::Query(query, most) => (|| {
            let stream = tx.query(&root, &query.json())?;
            let mut documents = Vec::new();
            while documents.len() < *most {
                match tx.query_next(stream)? {
                    Some(document) => documents.push(document),
                    None => return Ok(Outcome::Documents(documents, true)),
                }
            }
            tx.query_close(stream);
            Ok(Outcome::Documents(documents, false))
        })(),
        Step::Pages(query, size) => pages(tx, &root, query, *size),
        Step::BeginNested => {
            *depth += 1;
            tx.begin_nested();
            Ok(Outcome::Done)
        }
        Step::CommitNested | Step::RollbackNested if *depth == 0 => Ok(Outcome::Done),
        Step::CommitNested => {
            *depth -= 1;
            tx.commit_nested();
            Ok(Outcome::Done)
        }
        Step::RollbackNested => {
            *depth -= 1;
            tx.rollback_nested();
            Ok(Outcome::Done)
        }
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(StoreError::User(_)) => Outcome::Refused,
        Err(StoreError::Failed(failure)) => panic!("{failure:?}"),
    }
}

/// Reads all pages. Rereads each by its cursors, and split in two.
fn pages(
    tx: &mut Tx,
    root: &ComponentPath,
    query: &Query,
    page_size: u64,
) -> Result<Outcome, StoreError> {
    let json = query.json();
    let request = PageRequest {
        function: "test",
        journal: None,
        query: &json,
        cursor: None,
        end_cursor: None,
        page_size,
        maximum_rows_read: None,
        maximum_bytes_read: None,
    };
    let mut documents = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = tx.page(root, &PageRequest { cursor: cursor.as_deref(), ..request.clone() })?;
        assert!(page.page.len() as u64 == page_size || page.is_done);
        let end = Some(&*page.continue_cursor);
        let again = PageRequest {
            cursor: cursor.as_deref(),
            end_cursor: end,
            page_size: 0,
            ..request.clone()
        };
        let again = tx.page(root, &again)?;
        assert_eq!(
            (&again.page, again.is_done, &again.continue_cursor),
            (&page.page, page.is_done, &page.continue_cursor)
        );
        if let Some(split) = &page.split_cursor {
            let first = PageRequest {
                cursor: cursor.as_deref(),
                end_cursor: Some(split),
                ..request.clone()
            };
            let mut halves = tx.page(root, &first)?.page;
            let second = PageRequest { cursor: Some(split), end_cursor: end, ..request.clone() };
            halves.extend(tx.page(root, &second)?.page);
            assert_eq!(halves, page.page);
        }
        documents.extend(page.page);
        if page.is_done {
            return Ok(Outcome::Documents(documents, true));
        }
        cursor = Some(page.continue_cursor);
    }
}
