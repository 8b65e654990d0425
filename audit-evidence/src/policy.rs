//! Policies: trusted logs and witnesses.

use std::collections::HashMap;

use crate::{InvalidSignature, KeyKind, Note, VerifierKey};

/// Which checkpoints are valid, in the format `tlog-policy` of C2SP: those of the listed logs that
/// a quorum of the listed witnesses has cosigned.
///
/// Names are octets, as in the format: they are not normalized.
#[derive(Debug, Clone)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    groups: Vec<Group>,
    quorum: Option<Member>,
}

/// A member of a group, by its index among the witnesses or among the groups.
#[derive(Debug, Clone, Copy)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Debug, Clone)]
struct Group {
    threshold: usize,
    members: Vec<Member>,
}

impl Policy {
    /// Parses a policy file.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] names the line.
    pub fn parse(file: &[u8]) -> Result<Policy, InvalidPolicy> {
        let mut parser = Parser::default();
        let mut quorum = None;
        for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
            let failed = |what| InvalidPolicy { line: index + 1, what };
            if line.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                return Err(failed("a control character"));
            }
            let mut words = line.split(|&byte| byte == b' ' || byte == b'\t');
            let words: Vec<&[u8]> = words.by_ref().filter(|word| !word.is_empty()).collect();
            let parsed = match words.as_slice() {
                [] => Ok(()),
                [first, ..] if first.starts_with(b"#") => Ok(()),
                [b"log", key] | [b"log", key, _] => parser.log(key),
                [b"witness", name, key] | [b"witness", name, key, _] => parser.witness(name, key),
                [b"group", name, threshold, members @ ..] => parser.group(name, threshold, members),
                [b"quorum", _] if quorum.is_some() => Err("a second quorum"),
                [b"quorum", b"none"] => {
                    quorum = Some(None);
                    Ok(())
                }
                [b"quorum", name] => parser.member(name).map(|member| quorum = Some(Some(member))),
                _ => Err("not a line of log, witness, group or quorum"),
            };
            parsed.map_err(failed)?;
        }
        let lines = file.split(|&byte| byte == b'\n').count();
        let quorum = quorum.ok_or(InvalidPolicy { line: lines, what: "no quorum" })?;
        let Parser { logs, witnesses, groups, .. } = parser;
        Ok(Policy { logs, witnesses, groups, quorum })
    }

    /// The logs, in the order of the file.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// The witnesses, in the order of the file.
    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }

    /// Whether witnesses must have cosigned a checkpoint.
    pub fn has_quorum(&self) -> bool {
        self.quorum.is_some()
    }

    /// Checks that one of the logs signed the note in its own name, and a quorum cosigned it.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] says what is missing or forged.
    pub fn check(&self, note: &Note) -> Result<&VerifierKey, PolicyError> {
        let origin = note.text().split('\n').next().unwrap_or_default();
        let mut signer = None;
        for log in self.logs.iter().filter(|log| log.name() == origin) {
            if note.verify(log)? {
                signer = Some(log);
            }
        }
        let signer = signer.ok_or_else(|| PolicyError::UnknownLog(origin.to_owned()))?;
        self.check_quorum(note)?;
        Ok(signer)
    }

    /// Checks that a quorum of the witnesses cosigned the note, regardless of its signer.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Quorum`] and [`PolicyError::Signature`].
    pub fn check_quorum(&self, note: &Note) -> Result<(), PolicyError> {
        let cosigned: Result<Vec<bool>, _> =
            self.witnesses.iter().map(|witness| note.verify(witness)).collect();
        let cosigned = cosigned?;
        // A group names only earlier groups, so one pass suffices.
        let mut reached: Vec<bool> = Vec::with_capacity(self.groups.len());
        let counts = |member: &Member, reached: &[bool]| match *member {
            Member::Witness(at) => cosigned[at],
            Member::Group(at) => reached[at],
        };
        for Group { threshold, members } in &self.groups {
            let count = members.iter().filter(|member| counts(member, &reached)).count();
            reached.push(count >= *threshold);
        }
        match &self.quorum {
            Some(member) if !counts(member, &reached) => Err(PolicyError::Quorum {
                cosigned: cosigned.iter().filter(|&&cosigned| cosigned).count(),
                witnesses: cosigned.len(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

#[derive(Default)]
struct Parser<'a> {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    groups: Vec<Group>,
    /// The name of each witness and group, and whether it is a member of a group.
    names: HashMap<&'a [u8], (Member, bool)>,
}

impl<'a> Parser<'a> {
    fn log(&mut self, key: &[u8]) -> Result<(), &'static str> {
        let key = parse_key(key)?;
        if key.kind() != KeyKind::Ed25519 {
            return Err("a log's key must be of kind 0x01");
        }
        add(&mut self.logs, key).map(|_| ())
    }

    fn witness(&mut self, name: &'a [u8], key: &[u8]) -> Result<(), &'static str> {
        let key = parse_key(key)?;
        if key.kind() != KeyKind::Cosignature {
            return Err("a witness's key must be of kind 0x04");
        }
        let at = add(&mut self.witnesses, key)?;
        self.define(name, Member::Witness(at))
    }

    fn group(
        &mut self,
        name: &'a [u8],
        threshold: &[u8],
        members: &[&'a [u8]],
    ) -> Result<(), &'static str> {
        let count = members.len();
        let threshold = match threshold {
            b"all" => count,
            b"any" => 1,
            digits => std::str::from_utf8(digits)
                .ok()
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .ok_or("a threshold is a number, \"any\" or \"all\"")?,
        };
        if !(1..=count).contains(&threshold) {
            return Err("a threshold must be from 1 to the number of members");
        }
        let members: Result<Vec<Member>, _> = members
            .iter()
            .map(|member| {
                let (place, is_member) =
                    self.names.get_mut(member).ok_or("a name that no earlier line defines")?;
                if std::mem::replace(is_member, true) {
                    return Err("a name that is already a member of a group");
                }
                Ok(*place)
            })
            .collect();
        self.groups.push(Group { threshold, members: members? });
        self.define(name, Member::Group(self.groups.len() - 1))
    }

    fn member(&self, name: &[u8]) -> Result<Member, &'static str> {
        let (member, _) = self.names.get(name).ok_or("a name that no earlier line defines")?;
        Ok(*member)
    }

    fn define(&mut self, name: &'a [u8], member: Member) -> Result<(), &'static str> {
        if name == b"none" || self.names.insert(name, (member, false)).is_some() {
            return Err("a name that is already defined");
        }
        Ok(())
    }
}

fn parse_key(text: &[u8]) -> Result<VerifierKey, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "an invalid key")?;
    VerifierKey::parse(text).map_err(|_| "an invalid key")
}

fn add(keys: &mut Vec<VerifierKey>, key: VerifierKey) -> Result<usize, &'static str> {
    if keys.iter().any(|known| known.to_bytes() == key.to_bytes()) {
        return Err("a key that is already listed");
    }
    keys.push(key);
    Ok(keys.len() - 1)
}

/// A line of a policy file is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy is invalid at line {line}: {what}")]
pub struct InvalidPolicy {
    line: usize,
    what: &'static str,
}

/// Why a policy does not accept a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No listed log of this origin signed it.
    #[error("the checkpoint of {0:?} is signed by no log of the policy")]
    UnknownLog(String),
    /// Too few witnesses cosigned it.
    #[error("no quorum: witnesses that cosigned the checkpoint: {cosigned} of {witnesses}")]
    Quorum {
        /// How many cosigned it.
        cosigned: usize,
        /// How many witnesses the policy lists.
        witnesses: usize,
    },
    /// A signature in the name of a listed key is not by that key.
    #[error(transparent)]
    Signature(#[from] InvalidSignature),
}
