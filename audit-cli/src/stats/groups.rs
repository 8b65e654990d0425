//! Records counted by their members, in bounded memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::arguments::Per;
use crate::object::Part;
use crate::query::{Members, Pointer, Time, respelled};
use crate::units::{DAY_MS, HOUR_MS};

/// The members by which records are counted. For each member, the first of its pointers with a
/// value counts.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    by: Vec<usize>,
    addresses: usize,
    /// All pointers. `of` has the member of each.
    members: Members,
    of: Vec<usize>,
    time: usize,
    per: Option<Per>,
    hasher: Arc<RandomState>,
}

/// The key of a group: its period, and its values as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct GroupKey {
    pub(super) begin_ms: Option<i64>,
    pub(super) values: Vec<Option<Box<str>>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub(super) records: u64,
    /// The first and the last time.
    pub(super) times_ms: Option<(i64, i64)>,
    /// The hashes of distinct addresses. Among a billion addresses, the chance of a collision is 3
    /// %.
    addresses: HashSet<u64>,
    /// Whether there are more addresses than were counted.
    pub(super) has_more_addresses: bool,
}

impl Group {
    pub(super) fn addresses(&self) -> u64 {
        self.addresses.len() as u64
    }

    fn bytes(&self) -> usize {
        Group::bytes_of(self.addresses.len())
    }

    /// The estimated size in memory of a group with so many addresses.
    fn bytes_of(addresses: usize) -> usize {
        // The table of a set is up to half empty.
        size_of::<Group>() + 2 * addresses * (size_of::<u64>() + 1)
    }

    fn add_times(&mut self, times_ms: Option<(i64, i64)>) {
        self.times_ms = match (self.times_ms, times_ms) {
            (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
            (one, other) => one.or(other),
        };
    }
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<GroupKey, Group>,
    /// The estimated size in memory.
    bytes: usize,
    records: u64,
}

/// The maximum size of a kept value, in bytes. Longer values are distinguished by a hash.
const MAX_VALUE_BYTES: usize = 512;

/// A part is passed on at this size, in bytes.
const PART_BYTES: usize = 1 << 20;

impl Part for Groups {
    fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn is_full(&self) -> bool {
        self.bytes >= PART_BYTES
    }
}

impl Plan {
    pub(super) fn new(
        by: Vec<Vec<Pointer>>,
        address: Vec<Pointer>,
        time: Vec<Pointer>,
        per: Option<Per>,
    ) -> Plan {
        let (addresses, time_at) = (by.len(), by.len() + 1);
        let members: Vec<_> = by.into_iter().chain([address, time]).collect();
        let of = members
            .iter()
            .enumerate()
            .flat_map(|(member, pointers)| pointers.iter().map(move |_| member))
            .collect();
        Plan {
            by: (0..addresses).collect(),
            addresses,
            members: Members::new(members.iter().flatten()),
            of,
            time: time_at,
            per,
            hasher: Arc::default(),
        }
    }

    /// Adds a record from an object under this hour.
    pub(super) fn add(&self, hour_ms: i64, line: &[u8], groups: &mut Groups) {
        let found = self.members.find(line);
        let of = |member: usize| {
            let values = self.of.iter().zip(&found).filter(move |(of, _)| **of == member);
            values.filter_map(|(_, value)| *value)
        };
        let first = |member: usize| of(member).find(|value| value.get() != "null");
        let time_ms = of(self.time).find_map(|value| Time::of(Some(value)).ms());
        let time_ms = time_ms.unwrap_or(hour_ms);
        let begin_ms = self.per.map(|per| {
            let period = match per {
                Per::Hour => HOUR_MS,
                Per::Day => DAY_MS,
            };
            // A record may claim any time.
            time_ms.div_euclid(period).saturating_mul(period)
        });
        let values = self.by.iter().map(|member| Some(self.normal(first(*member)?)));
        let key = GroupKey { begin_ms, values: values.collect() };
        let address = first(self.addresses).map(|value| self.hasher.hash_one(respelled(value)));
        groups.add(key, 1, Some((time_ms, time_ms)), address.into_iter(), usize::MAX);
    }

    /// Normalizes the spelling of a value, and truncates it.
    fn normal(&self, value: &RawValue) -> Box<str> {
        let text = respelled(value);
        if text.len() > MAX_VALUE_BYTES {
            let hash = self.hasher.hash_one(&text);
            let head: String = text.chars().take(MAX_VALUE_BYTES / 8).collect();
            let cut = format!("{head}… ({} bytes, {hash:016x})", text.len());
            return serde_json::Value::from(cut).to_string().into();
        }
        text.into()
    }
}

impl Groups {
    /// Adds records to a group. Returns `false` if it is a new group that does not fit.
    fn add(
        &mut self,
        key: GroupKey,
        records: u64,
        times_ms: Option<(i64, i64)>,
        addresses: impl ExactSizeIterator<Item = u64>,
        max_bytes: usize,
    ) -> bool {
        self.records += records;
        let key_bytes = 2 * size_of::<GroupKey>()
            + key.values.iter().flatten().map(|value| value.len() + 32).sum::<usize>();
        let new_bytes = Group::bytes_of(addresses.len());
        let has_room = |more: usize| self.bytes + more <= max_bytes;
        let (has_room_for_group, has_room) = (has_room(key_bytes + new_bytes), has_room(new_bytes));
        let (group, is_known) = match self.groups.entry(key) {
            Entry::Occupied(known) => (known.into_mut(), true),
            Entry::Vacant(_) if !has_room_for_group => return false,
            Entry::Vacant(new) => (new.insert(Group::default()), false),
        };
        let before = if is_known { group.bytes() } else { 0 };
        group.records += records;
        group.add_times(times_ms);
        for address in addresses {
            match has_room {
                true => _ = group.addresses.insert(address),
                false => group.has_more_addresses |= !group.addresses.contains(&address),
            }
        }
        self.bytes += group.bytes() - before + if is_known { 0 } else { key_bytes };
        true
    }
}

/// The groups of a whole scan, in bounded memory.
#[derive(Debug)]
pub(super) struct Total {
    groups: Groups,
    max_bytes: usize,
    /// The records of groups that did not fit.
    pub(super) rest: Group,
}

impl Total {
    pub(super) fn new(max_bytes: usize) -> Total {
        Total { groups: Groups::default(), max_bytes, rest: Group::default() }
    }

    pub(super) fn add(&mut self, part: Groups) {
        for (key, group) in part.groups {
            let Group { records, times_ms, addresses, has_more_addresses: _ } = group;
            let addresses = addresses.into_iter();
            if !self.groups.add(key, records, times_ms, addresses, self.max_bytes) {
                self.rest.records += records;
                self.rest.add_times(times_ms);
            }
        }
    }

    /// Whether some group has more distinct addresses than fit.
    pub(super) fn has_more_addresses(&self) -> bool {
        self.groups.groups.values().any(|group| group.has_more_addresses)
    }

    /// The groups by period, and within each period by size, largest first.
    pub(super) fn sorted(self) -> Vec<(GroupKey, Group)> {
        let mut periods: BTreeMap<Option<i64>, Vec<(GroupKey, Group)>> = BTreeMap::new();
        for (key, group) in self.groups.groups {
            periods.entry(key.begin_ms).or_default().push((key, group));
        }
        for groups in periods.values_mut() {
            groups.sort_by(|(one, a), (other, b)| b.records.cmp(&a.records).then(one.cmp(other)));
        }
        periods.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(per: Option<Per>) -> Plan {
        let pointers = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let by = vec![pointers(&["/user"]), pointers(&["/action", "/event"])];
        Plan::new(by, pointers(&["/ip"]), pointers(&["/at"]), per)
    }

    fn total(plan: &Plan, lines: &[String], max_bytes: usize) -> Total {
        let mut total = Total::new(max_bytes);
        for lines in lines.chunks(7) {
            let mut part = Groups::default();
            lines.iter().for_each(|line| plan.add(5 * HOUR_MS, line.as_bytes(), &mut part));
            total.add(part);
        }
        total
    }

    #[test]
    fn groups_count_records_times_and_addresses() {
        let lines = [
            r#"{"user":"ada","action":"view","ip":"1","at":7}"#,
            r#"{"user":"a\u0064a","action":"view","ip":"2","at":3}"#,
            r#"{"user":"ada","event":"view","ip":"2","at":90000000}"#,
            r#"{"user":null,"action":"view"}"#,
            r#"{"user":"ada","action":"edit","ip":"2","at":3}"#,
        ]
        .map(ToOwned::to_owned);
        let found: Vec<_> = total(&plan(None), &lines, usize::MAX)
            .sorted()
            .into_iter()
            .map(|(key, group)| {
                let values = key.values.iter().map(|value| value.as_deref().unwrap_or("-"));
                (
                    values.collect::<Vec<_>>().join(" "),
                    group.records,
                    group.times_ms,
                    group.addresses(),
                )
            })
            .collect();
        let hour = 5 * HOUR_MS;
        let expected = [
            ("\"ada\" \"view\"", 3, Some((3, 90_000_000)), 2),
            ("- \"view\"", 1, Some((hour, hour)), 0),
            ("\"ada\" \"edit\"", 1, Some((3, 3)), 1),
        ];
        assert_eq!(found, expected.map(|(key, n, times, ips)| (key.to_owned(), n, times, ips)));
        let days = total(&plan(Some(Per::Day)), &lines, usize::MAX).sorted();
        let begins: Vec<_> = days.iter().map(|(key, _)| key.begin_ms.unwrap()).collect();
        assert_eq!(begins, [0, 0, 0, DAY_MS]);
    }

    /// Conditions take these as equal.
    #[test]
    fn spellings_of_one_value_are_one_group() {
        for (spellings, shown) in [
            (&["1", "1.0", "1e0", "10E-1"][..], "1"),
            (&["0", "-0", "0.0"], "0"),
            (&["-7.5", "-75e-1"], "-7.5"),
            (&["100000000000000000000000000", "1e26"], "1e26"),
        ] {
            let lines = |name: &str| {
                let line = |value| format!("{{\"user\":1,\"{name}\":{value}}}");
                spellings.iter().map(line).collect::<Vec<_>>()
            };
            let groups = total(&plan(None), &lines("action"), usize::MAX).sorted();
            let [(key, group)] = &groups[..] else { panic!("{spellings:?}: {groups:?}") };
            assert_eq!(
                (key.values[1].as_deref(), group.records),
                (Some(shown), spellings.len() as u64)
            );
            let groups = total(&plan(None), &lines("ip"), usize::MAX).sorted();
            assert_eq!(groups[0].1.addresses(), 1, "{spellings:?}");
        }
    }

    #[test]
    fn records_of_any_time_are_counted_in_a_period() {
        for (per, period_ms) in [(Per::Hour, HOUR_MS), (Per::Day, DAY_MS)] {
            for at in ["-1e999", "1e999", "-9223372036854775808", "9223372036854775807", "-1"] {
                let line = format!("{{\"user\":1,\"at\":{at}}}");
                let groups = total(&plan(Some(per)), &[line], usize::MAX).sorted();
                let (key, group) = &groups[0];
                let (begin, (first, last)) = (key.begin_ms.unwrap(), group.times_ms.unwrap());
                assert!(begin <= first && first == last, "{at}: {begin}");
                assert!(first.abs_diff(begin) < period_ms as u64, "{at}: {begin}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_every_record_is_counted() {
        let long = "x".repeat(10_000);
        let lines: Vec<String> = (0..5_000)
            .map(|n| format!(r#"{{"user":"{n}{long}","action":"view","ip":"{n}","at":{n}}}"#))
            .collect();
        let total = total(&plan(None), &lines, 100_000);
        assert!(total.groups.bytes <= 100_000, "{}", total.groups.bytes);
        let rest = total.rest.records;
        let kept = total.sorted();
        assert!(rest > 0 && kept.len() > 50, "{}", kept.len());
        assert_eq!(kept.iter().map(|(_, group)| group.records).sum::<u64>() + rest, 5_000);
        // One group with more addresses than fit.
        let lines: Vec<String> = (0..50_000).map(|n| format!(r#"{{"user":1,"ip":{n}}}"#)).collect();
        let total = super::tests::total(&plan(None), &lines, 100_000);
        assert!(total.groups.bytes <= 100_000 && total.has_more_addresses());
        let (_, group) = total.sorted().remove(0);
        assert!(group.records == 50_000 && group.addresses() > 1_000);
    }
}
