//! The checkpoints of a stream that witnesses have cosigned.

use std::collections::HashMap;

use audit_evidence::{CheckedObject, Checkpoint, Fault, Finding, Hash, Note, Policy};

/// Compares cosigned checkpoints, which are in a stream's system records, with its objects.
///
/// Memory: 40 bytes for each object of the stream.
#[derive(Debug)]
pub(super) struct Witnessing<'a> {
    policy: &'a Policy,
    roots: HashMap<u64, Hash>,
    /// The number of records that a quorum has cosigned.
    pub(super) size: u64,
    other_history: Option<(String, u64)>,
}

impl<'a> Witnessing<'a> {
    pub(super) fn new(policy: &'a Policy) -> Witnessing<'a> {
        Witnessing { policy, roots: HashMap::new(), size: 0, other_history: None }
    }

    /// Adds the stream's next object.
    pub(super) fn add(&mut self, object: &CheckedObject) {
        let Some(head) = object.evidence() else { return };
        self.roots.insert(head.end(), head.root);
        for record in object.system_records() {
            for note in record.cosigned().iter().filter_map(|note| Note::parse(note).ok()) {
                let Ok(checkpoint) = Checkpoint::parse(note.text()) else { continue };
                let key = head.certificate.stream_key();
                let is_ours = checkpoint.origin() == key.name() && note.verify(key) == Ok(true);
                if !is_ours || self.policy.check_quorum(&note).is_err() {
                    continue;
                }
                match self.roots.get(&checkpoint.size()) {
                    Some(root) if root != checkpoint.root() => {
                        self.other_history = Some((object.key().to_owned(), checkpoint.size()));
                    }
                    Some(_) => self.size = self.size.max(checkpoint.size()),
                    None => {}
                }
            }
        }
    }

    /// The findings about the stream, which has evidence.
    pub(super) fn finish(&self, stream: &str) -> Option<Finding> {
        let stream = stream.to_owned();
        if let Some((object, size)) = self.other_history.clone() {
            let fault = Fault::Rewritten(size);
            return Some(Finding { stream, object: Some(object), records: Some(0..size), fault });
        }
        let finding = Finding { stream, object: None, records: None, fault: Fault::Unwitnessed };
        (self.size == 0).then_some(finding)
    }
}
