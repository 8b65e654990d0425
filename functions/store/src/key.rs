//! The keys of all stored entries, and of some that are read but never stored. Everything that a
//! transaction can read lies in this one key space, so a read set is a set of key ranges and a
//! commit is a set of keys.

use functions_value::{ComponentPath, encoding};

use super::{error::StoreError, id::ID_LENGTH};

/// A key, or its value. Cheap to clone.
pub(super) type Key = fjall::Slice;

const META: u8 = 0;
/// Tables by component and name.
const TABLES: u8 = 1;
/// The number of documents of a table.
const COUNTS: u8 = 2;
/// Documents by table and id.
const DOCUMENTS: u8 = 3;
/// Entries of indexes, by index and indexed values.
const ENTRIES: u8 = 4;
/// Tables by number. Never stored, but part of a commit that creates a table, so that transactions
/// that looked for the table conflict with it.
const NUMBERS: u8 = 5;
/// Receipts of audit logs, which transactions do not read: see `receipts.rs`.
const RECEIPTS: u8 = 6;

/// The longest stored key, in bytes. The key-value store allows 65,535; the fixed prefixes of keys
/// are far shorter.
pub(super) const MAX_KEY_BYTES: usize = 32 << 10;

/// The size of the encoded id at the end of an index entry, in bytes: tag, characters, terminator.
const ENCODED_ID: usize = ID_LENGTH + 3;

/// The version of the store's format.
pub(super) fn format() -> [u8; 2] {
    [META, 0]
}

pub(super) fn last_commit() -> [u8; 2] {
    [META, 1]
}

pub(super) fn cursor_secret() -> [u8; 2] {
    [META, 2]
}

pub(super) fn tables() -> [u8; 1] {
    [TABLES]
}

pub(super) fn table(component: &ComponentPath, name: &str) -> Key {
    let mut key = vec![TABLES];
    encoding::encode_str(&component.to_string(), &mut key);
    encoding::encode_str(name, &mut key);
    key.into()
}

pub(super) fn counts() -> [u8; 1] {
    [COUNTS]
}

/// The number of documents of a table.
pub(super) fn count(number: u32) -> Key {
    numbered(COUNTS, number).into()
}

/// The number of the table that a key of [`count`] belongs to.
pub(super) fn count_table(key: &[u8]) -> Result<u32, StoreError> {
    match key {
        [COUNTS, number @ ..] => decode_u32(number),
        _ => Err(StoreError::damaged("the store holds a key of an unknown kind")),
    }
}

/// The existence of the table with this number.
pub(super) fn number(number: u32) -> Key {
    numbered(NUMBERS, number).into()
}

pub(super) fn documents(number: u32) -> Vec<u8> {
    numbered(DOCUMENTS, number)
}

pub(super) fn document(number: u32, id: &str) -> Key {
    let mut key = Vec::with_capacity(5 + ENCODED_ID);
    key.extend_from_slice(&documents(number));
    encoding::encode_str(id, &mut key);
    key.into()
}

pub(super) fn all_entries() -> [u8; 1] {
    [ENTRIES]
}

pub(super) fn entries(index: u32) -> Vec<u8> {
    numbered(ENTRIES, index)
}

/// The number of the index that an entry belongs to.
pub(super) fn entry_index(key: &[u8]) -> Result<u32, StoreError> {
    match key {
        [ENTRIES, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(StoreError::damaged("the store holds a key of an unknown kind")),
    }
}

pub(super) fn entry_document(number: u32, entry: &[u8]) -> Key {
    let mut key = documents(number);
    key.extend_from_slice(&entry[entry.len().saturating_sub(ENCODED_ID)..]);
    key.into()
}

pub(super) fn receipt(execution: &[u8; 16]) -> Key {
    [&[RECEIPTS, 0], &execution[..]].concat().into()
}

/// The receipt whose first record this is.
pub(super) fn receipt_of_record(stream: &[u8; 16], sequence: u64) -> Key {
    [&[RECEIPTS, 1], &stream[..], &sequence.to_be_bytes()].concat().into()
}

/// The execution that last changed a document.
pub(super) fn receipt_of_document(encoded_id: &[u8]) -> Key {
    [&[RECEIPTS, 2], encoded_id].concat().into()
}

pub(super) fn document_of_receipt(execution: &[u8; 16], encoded_id: &[u8]) -> Key {
    [&[RECEIPTS, 3], &execution[..], encoded_id].concat().into()
}

pub(super) fn encoded_id(document: &Key) -> &[u8] {
    &document[document.len().min(5)..]
}

/// The subject of a key, for messages.
pub(super) struct About {
    pub(super) number: Option<u32>,
    pub(super) name: Option<String>,
    pub(super) id: Option<String>,
}

pub(super) fn about(key: &[u8]) -> About {
    let (kind, rest) = key.split_first().map_or((META, &[][..]), |(kind, rest)| (*kind, rest));
    let number = rest.first_chunk().map(|number| u32::from_be_bytes(*number));
    let id = || {
        let encoded = &key[key.len().saturating_sub(ENCODED_ID)..];
        encoding::decode(encoded).ok().and_then(|id| id.as_str().map(str::to_owned))
    };
    match kind {
        TABLES => {
            let name = encoding::decode_last(rest).ok();
            About {
                number: None,
                name: name.and_then(|name| name.as_str().map(str::to_owned)),
                id: None,
            }
        }
        DOCUMENTS | ENTRIES => About { number, name: None, id: id() },
        _ => About { number, name: None, id: None },
    }
}

fn numbered(kind: u8, number: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn after(key: &[u8]) -> Key {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all that begin with this prefix.
pub(super) fn after_prefix(prefix: &[u8]) -> Key {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            break;
        }
    }
    next.into()
}

/// Shortens a bound to the maximum length of a key. It still separates the same stored keys.
pub(super) fn clamp(bound: Key) -> Key {
    // The only key with this prefix that can be stored is the truncated bound itself, which sorts
    // before the bound.
    if bound.len() > MAX_KEY_BYTES { after(&bound[..MAX_KEY_BYTES]) } else { bound }
}

fn decode_u32(bytes: &[u8]) -> Result<u32, StoreError> {
    Ok(u32::from_be_bytes(
        bytes.try_into().map_err(|_| StoreError::damaged("the store holds a truncated number"))?,
    ))
}

pub(super) fn decode_u64(bytes: &[u8]) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(
        bytes.try_into().map_err(|_| StoreError::damaged("the store holds a truncated number"))?,
    ))
}
