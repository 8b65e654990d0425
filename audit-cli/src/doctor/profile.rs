//! Compares a bucket's configuration with the requirements of a rule.
//!
//! A profile covers what is visible in a bucket: retention and its mode, versions, expiry, and how
//! soon objects are archived. `docs/COMPLIANCE.md` covers the other requirements of each rule.

use super::check::Verdict;
use super::examination::Examination;
use super::wire::Wire;
use crate::arguments::Profile;
use crate::units::counted;

struct Rule {
    /// The rule, and in brackets a description.
    name: &'static str,
    /// How long records must be kept, in days. `None` if the rule names no time.
    keep_days: Option<u32>,
    /// How long records must be readable at once, in days.
    at_hand_days: u32,
    /// Whether nobody may be able to shorten the retention.
    must_be_locked: bool,
}

/// The days in this many years of 365.25 days, rounded up.
const fn years(years: u32) -> u32 {
    years.saturating_mul(1_461).div_ceil(4)
}

impl Profile {
    fn rule(self) -> Rule {
        match self {
            Profile::Pci => Rule {
                name: "PCI DSS 10.5.1 (12 months, the last three at hand)",
                keep_days: Some(years(1)),
                at_hand_days: 92,
                must_be_locked: false,
            },
            Profile::Hipaa => Rule {
                name: "HIPAA 164.316(b)(2)(i) (six years, where logs are documentation)",
                keep_days: Some(years(6)),
                at_hand_days: 0,
                must_be_locked: false,
            },
            Profile::Sec17a4 => Rule {
                name: "SEC 17a-4 (six years, the first two at hand, not erasable)",
                keep_days: Some(years(6)),
                at_hand_days: years(2),
                must_be_locked: true,
            },
            Profile::Dora => Rule {
                name: "DORA, 2024/1774 art. 12 (a time that the entity sets)",
                keep_days: None,
                at_hand_days: 0,
                must_be_locked: false,
            },
        }
    }
}

/// A bucket's answer about its configuration.
enum Configuration {
    /// The configuration, as an XML document.
    Is(String),
    /// It is not configured.
    None,
    /// It is unknown, for this reason.
    Unknown(String),
}

impl Examination {
    pub(super) async fn profile(&mut self, profile: Profile) {
        let rule = profile.rule();
        let Some(wire) = self.wire.take() else {
            for check in ["bucket-versions", "retention", "expiry"] {
                self.unknown(check, "shown by s3:// only");
            }
            return;
        };
        let versions = configuration(&wire, "versioning").await;
        let lock = configuration(&wire, "object-lock").await;
        let lifecycle = configuration(&wire, "lifecycle").await;
        self.wire = Some(wire);
        self.bucket_versions(&rule, versions);
        let is_locked = self.retention(&rule, lock);
        self.expiry(&rule, lifecycle, is_locked);
    }

    fn bucket_versions(&mut self, rule: &Rule, found: Configuration) {
        const CHECK: &str = "bucket-versions";
        match found {
            Configuration::Is(text) if element(&text, "Status") == Some("Enabled") => {
                self.ok(CHECK, "the bucket keeps versions");
            }
            Configuration::Is(_) | Configuration::None => {
                let verdict = if rule.must_be_locked { Verdict::Problem } else { Verdict::Warning };
                let advice = "enable versioning: without it, overwritten and deleted objects are lost, and there is no Object Lock";
                self.say(CHECK, verdict, "the bucket keeps no versions", Some(advice));
            }
            Configuration::Unknown(said) => {
                let advice = "allow these credentials s3:GetBucketVersioning";
                self.say(CHECK, Verdict::Unknown, said, Some(advice));
            }
        }
    }

    /// Checks the default retention. Returns whether it is in mode COMPLIANCE and as long as the
    /// rule requires.
    fn retention(&mut self, rule: &Rule, found: Configuration) -> bool {
        const CHECK: &str = "retention";
        let name = rule.name;
        let text = match found {
            Configuration::Is(text) => text,
            Configuration::None => String::new(),
            Configuration::Unknown(said) => {
                let advice = "allow these credentials s3:GetBucketObjectLockConfiguration";
                self.say(CHECK, Verdict::Unknown, said, Some(advice));
                return false;
            }
        };
        let number = |name| element(&text, name).and_then(|number| number.parse::<u32>().ok());
        let days = number("Days").or_else(|| number("Years").map(years));
        let (Some(mode), Some(days)) = (element(&text, "Mode"), days) else {
            let verdict = if rule.must_be_locked { Verdict::Problem } else { Verdict::Warning };
            let said = format!("no retention is set: the bucket does not show {name}");
            let advice = "enable Object Lock with a default retention in mode COMPLIANCE, or prove in another way that records are kept";
            self.say(CHECK, verdict, said, Some(advice));
            return false;
        };
        let is_enforced = mode == "COMPLIANCE";
        let said =
            format!("objects are kept for {} in mode {mode}; {name}", counted(days.into(), "day"));
        if rule.keep_days.is_some_and(|keep| days < keep) {
            let keep = counted(rule.keep_days.unwrap_or_default().into(), "day");
            let advice = format!("keep objects for {keep}");
            self.problem(CHECK, said, &advice);
            return false;
        }
        if is_enforced {
            self.ok(CHECK, said);
        } else {
            let verdict = if rule.must_be_locked { Verdict::Problem } else { Verdict::Warning };
            let advice = "use mode COMPLIANCE: in GOVERNANCE, anybody with s3:BypassGovernanceRetention can remove objects";
            self.say(CHECK, verdict, said, Some(advice));
        }
        is_enforced
    }

    /// Checks whether lifecycle rules remove or archive records too early.
    fn expiry(&mut self, rule: &Rule, found: Configuration, is_locked: bool) {
        const CHECK: &str = "expiry";
        let text = match found {
            Configuration::Is(text) => text,
            Configuration::None => {
                self.ok(CHECK, "no lifecycle rule removes or moves objects");
                return;
            }
            Configuration::Unknown(said) => {
                let advice = "allow these credentials s3:GetLifecycleConfiguration";
                self.say(CHECK, Verdict::Unknown, said, Some(advice));
                return;
            }
        };
        let records = self.bucket.path("dt=").to_string();
        let rules = elements(&text, "Rule").filter(|rule| {
            element(rule, "Status") == Some("Enabled")
                && applies(element(rule, "Prefix").unwrap_or_default(), &records)
        });
        let (mut early, mut slow, mut seen) = (Vec::new(), Vec::new(), 0);
        for found in rules {
            seen += 1;
            early.extend(rule.early_removals(found, is_locked));
            slow.extend(rule.slow_classes(found));
        }
        let wrong: Vec<String> = early.into_iter().chain(slow).collect();
        if wrong.is_empty() {
            let said = format!(
                "no lifecycle rule of {seen} removes objects earlier than {} asks",
                rule.name
            );
            self.ok(CHECK, said);
        } else {
            let said = format!("{}; {}", wrong.join("; "), rule.name);
            let advice = format!(
                "keep objects for {} days, the first {} of them in a class that answers at once, such as GLACIER_IR",
                rule.keep_days.map_or_else(|| "your".to_owned(), |days| days.to_string()),
                rule.at_hand_days
            );
            self.problem(CHECK, said, &advice);
        }
    }
}

impl Rule {
    /// Describes each way in which a lifecycle rule removes records too early.
    fn early_removals(&self, found: &str, is_locked: bool) -> Vec<String> {
        let id = id_of(found);
        let is_early = |days: u32| self.keep_days.is_some_and(|keep| days < keep);
        let mut early = Vec::new();
        for expiration in elements(found, "Expiration") {
            let date = element(expiration, "Date").map(|date| format!("on {date}"));
            let days = days_of(expiration, "Days").filter(|days| is_early(*days));
            let when = date.or_else(|| Some(format!("after {}", counted(days?.into(), "day"))));
            early.extend(when.map(|when| format!("rule {id} removes objects {when}")));
        }
        // Overwritten and deleted objects are separate versions, which only a lock protects.
        for expiration in elements(found, "NoncurrentVersionExpiration") {
            let days = days_of(expiration, "NoncurrentDays");
            if let Some(days) = days.filter(|days| is_early(*days) && !is_locked) {
                let days = counted(days.into(), "day");
                early.push(format!("rule {id} removes deleted objects for good after {days}"));
            }
        }
        early
    }

    /// Describes each way in which a lifecycle rule archives records that must be readable at once.
    fn slow_classes(&self, found: &str) -> Vec<String> {
        let id = id_of(found);
        let mut slow = Vec::new();
        for transition in elements(found, "Transition") {
            let class = element(transition, "StorageClass").unwrap_or_default();
            let days = days_of(transition, "Days").unwrap_or(0);
            if ["GLACIER", "DEEP_ARCHIVE"].contains(&class) && days < self.at_hand_days {
                let days = counted(days.into(), "day");
                slow.push(format!(
                    "rule {id} moves objects to {class} after {days}, where they cannot be read at once"
                ));
            }
        }
        slow
    }
}

fn id_of(rule: &str) -> &str {
    element(rule, "ID").unwrap_or("without a name")
}

fn days_of(text: &str, name: &str) -> Option<u32> {
    element(text, name)?.parse().ok()
}

async fn configuration(wire: &Wire, name: &str) -> Configuration {
    match wire.get_of_bucket(name).await {
        Ok((answer, text)) if answer.status == 200 => Configuration::Is(text),
        Ok((answer, _))
            if answer.status == 404 && answer.code.as_deref() != Some("NoSuchBucket") =>
        {
            Configuration::None
        }
        Ok((answer, _)) => Configuration::Unknown(answer.to_string()),
        Err(said) => Configuration::Unknown(said),
    }
}

/// Whether a rule with this prefix can apply to keys that begin with `keys`.
fn applies(prefix: &str, keys: &str) -> bool {
    prefix.starts_with(keys) || keys.starts_with(prefix)
}

/// The contents of the elements with this name, which must not be nested in one another or have
/// attributes.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, found) = rest.split_once(open.as_str())?;
        let (content, after) = found.split_once(close.as_str())?;
        rest = after;
        Some(content)
    })
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    elements(xml, name).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_elements_are_found() {
        let xml = "<L><Rule><ID>a</ID></Rule><Rule><ID>b</ID></Rule><Rule><ID>";
        assert_eq!(elements(xml, "Rule").collect::<Vec<_>>(), ["<ID>a</ID>", "<ID>b</ID>"]);
        assert_eq!((element(xml, "ID"), element(xml, "Days")), (Some("a"), None));
    }

    #[test]
    fn a_prefix_applies_above_and_below() {
        for prefix in ["", "lo", "logs/", "logs/dt=", "logs/dt=2026"] {
            assert!(applies(prefix, "logs/dt="), "{prefix}");
        }
        for prefix in ["x", "logs/_audit/", "logs2"] {
            assert!(!applies(prefix, "logs/dt="), "{prefix}");
        }
    }

    #[test]
    fn years_include_leap_days() {
        assert_eq!([years(1), years(2), years(6)], [366, 731, 2_192]);
    }
}
