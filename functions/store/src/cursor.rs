//! Cursors and journals: positions between the rows of a query, held by clients.
//!
//! A position is the key of a row. The key may contain values that the function hides, and a forged
//! one could read any row. Both are therefore encrypted and authenticated with a key of the store,
//! and bound to their purpose: a **cursor** to its component and query, including the index range;
//! a **journal** (the end of a client's page) to the function and all parameters of the page, so
//! that it can only end the same page at the same position. They are not bound to an identity: the
//! function decides what each caller may query.
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452) with a nonce derived from the purpose. The same
//! position thus always has the same cursor: results must not depend on when they are computed.
//! Two cursors reveal only whether they are equal, and the lengths of their keys in steps of
//! [`PADDING`] bytes.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use functions_value::ComponentPath;
use sha2::{Digest, Sha256};

use super::{
    error::StoreError,
    key::{self, Key},
    tx::PageRequest,
};

/// The size of the store's key for cursors, in bytes.
pub(super) const SECRET_BYTES: usize = 32;

/// The version of the format, which precedes the encrypted part.
const FORMAT: u8 = 1;

const PADDING: usize = 64;

/// A position between the rows of a query's range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    Start,
    /// Right after the row with this key, in the query's order.
    After(Key),
    End,
}

/// The store's key for cursors and journals.
pub(super) struct CursorKey(LessSafeKey);

/// The purpose of a cursor or journal. It cannot be opened for another purpose.
pub(super) struct Purpose([u8; 32]);

impl Purpose {
    pub(super) fn cursor(component: &ComponentPath, request: &PageRequest<'_>) -> Purpose {
        Purpose::of(["cursor", &component.to_string(), &request.query.to_string()])
    }

    pub(super) fn journal(component: &ComponentPath, request: &PageRequest<'_>) -> Purpose {
        let PageRequest {
            function,
            query,
            cursor,
            end_cursor: _,
            journal: _,
            page_size,
            maximum_rows_read,
            maximum_bytes_read,
        } = request;
        let limits = format!("{page_size} {maximum_rows_read:?} {maximum_bytes_read:?}");
        Purpose::of([
            "journal",
            &component.to_string(),
            function,
            &query.to_string(),
            cursor.unwrap_or_default(),
            &limits,
        ])
    }

    fn of<const N: usize>(parts: [&str; N]) -> Purpose {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Purpose(hash.finalize().into())
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.0[..NONCE_LEN]);
        Nonce::assume_unique_for_key(nonce)
    }
}

pub(super) fn new_secret() -> Result<[u8; SECRET_BYTES], StoreError> {
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret)
        .map_err(|_| StoreError::failed("the operating system provided no random bytes"))?;
    Ok(secret)
}

impl CursorKey {
    pub(super) fn new(secret: &[u8]) -> Result<CursorKey, StoreError> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, secret)
            .map_err(|_| StoreError::damaged("the store's key for cursors is damaged"))?;
        Ok(CursorKey(LessSafeKey::new(key)))
    }

    pub(super) fn seal(&self, purpose: &Purpose, position: &Position) -> String {
        let (tag, key) = match position {
            Position::Start => (0, &[][..]),
            Position::After(key) => (1, &key[..]),
            Position::End => (2, &[][..]),
        };
        let mut bytes = Vec::with_capacity(key.len() + 2 * PADDING);
        bytes.push(tag);
        bytes.extend_from_slice(key);
        // ISO/IEC 7816-4 padding: a one bit, then zeros.
        bytes.push(0x80);
        bytes.resize(bytes.len().next_multiple_of(PADDING), 0);
        self.0
            .seal_in_place_append_tag(purpose.nonce(), Aad::from(&purpose.0), &mut bytes)
            .expect("a key is far shorter than what the cipher takes");
        bytes.insert(0, FORMAT);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position, if the text was sealed by this store for this purpose.
    pub(super) fn open(&self, purpose: &Purpose, text: &str) -> Option<Position> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (format, sealed) = bytes.split_first_mut()?;
        if *format != FORMAT {
            return None;
        }
        let plain = self.0.open_in_place(purpose.nonce(), Aad::from(&purpose.0), sealed).ok()?;
        let end = plain.iter().rposition(|byte| *byte != 0)?;
        let ([tag, key @ ..], 0x80) = (&plain[..end], plain[end]) else { return None };
        match (tag, key) {
            (0, []) => Some(Position::Start),
            (1, key) if key.len() <= key::MAX_KEY_BYTES => Some(Position::After(Key::from(key))),
            (2, []) => Some(Position::End),
            (_, _) => None,
        }
    }
}
