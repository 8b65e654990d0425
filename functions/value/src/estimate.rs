//! Estimates the memory of parsed JSON from its text.

/// The contents of a JSON text, counted without parsing. For invalid JSON the counts mean nothing
/// and do no harm.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The number of values, at all levels.
    pub values: usize,
    objects: usize,
    members: usize,
    /// The deepest nesting, in levels.
    pub depth: usize,
}

impl Scanned {
    /// Counts the contents of a text.
    pub fn of(text: &[u8]) -> Scanned {
        let mut scanned = Scanned { values: 1, ..Scanned::default() };
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        for byte in text {
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    scanned.depth = scanned.depth.max(depth);
                    scanned.values += 1;
                    scanned.objects += usize::from(*byte == b'{');
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => scanned.values += 1,
                b':' => scanned.members += 1,
                _ => {}
            }
        }
        scanned
    }

    /// The maximum memory of a tree with these contents, in bytes, without its strings.
    ///
    /// A value takes 32 bytes, in a vector that may have twice that capacity and is copied as it
    /// grows. The first node of an object's B-tree takes 640, with room for 11 members. In
    /// half-full nodes a member takes 110. Each string is a block of the allocator.
    pub fn tree_bytes(&self) -> usize {
        let Scanned { values, objects, members, depth: _ } = *self;
        128 * values + 640 * objects + 142 * members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> Scanned {
        Scanned::of(text.as_bytes())
    }

    #[test]
    fn brackets_in_strings_are_not_counted() {
        let plain = scanned(r#"{"a":[1,{"b":""}]}"#);
        let tricky = scanned(r#"{"a":[1,{"b":"[{,:\"]}{\\"}]}"#);
        assert_eq!(plain, tricky);
        assert_eq!(plain, Scanned { values: 5, objects: 2, members: 2, depth: 3 });
    }
}
