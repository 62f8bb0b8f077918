//! What came of the checks. Without I/O.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Area, Check, Consequence};

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum CheckResult {
    /// The store does it.
    Passed,
    /// The store does not.
    Failed {
        /// What was seen.
        what: String,
    },
    /// Nothing was seen that proves either.
    Untried {
        /// Why not; beside the check's own `why` in the same object.
        reason: String,
    },
}

/// A check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check's name.
    pub name: String,
    /// What it is about.
    pub area: Area,
    /// What follows when it fails.
    pub consequence: Consequence,
    /// Why Holdfast cares.
    pub why: String,
    /// What came of it.
    #[serde(flatten)]
    pub result: CheckResult,
}

impl Finding {
    pub(super) fn of(check: &Check, result: CheckResult) -> Finding {
        Finding {
            name: check.name.to_owned(),
            area: check.area,
            consequence: check.consequence,
            why: check.why.to_owned(),
            result,
        }
    }

    /// One word, as people and programs read it.
    pub fn word(&self) -> &'static str {
        match (&self.result, self.consequence) {
            (CheckResult::Passed, _) => "pass",
            (CheckResult::Failed { .. }, Consequence::Refused) => "refused",
            (CheckResult::Failed { .. }, Consequence::Limit) => "limit",
            (CheckResult::Untried { .. }, _) => "not tried",
        }
    }

    /// What there is to say beyond the word.
    pub fn detail(&self) -> &str {
        match &self.result {
            CheckResult::Passed => "",
            CheckResult::Failed { what } => what,
            CheckResult::Untried { reason } => reason,
        }
    }

    fn failed(&self) -> bool {
        matches!(self.result, CheckResult::Failed { .. })
    }
}

/// What all of it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The store can hold a vault.
    Suitable,
    /// The store can hold a vault, with limits.
    Limited,
    /// Nothing that was tried speaks against it, and something that decides could not be tried.
    Unproven,
    /// The store cannot hold a vault.
    Refused,
}

impl Verdict {
    /// The verdict that follows from the findings.
    pub fn of(findings: &[Finding]) -> Verdict {
        let any = |consequence, failed| {
            let open = |f: &Finding| if failed { f.failed() } else { matches!(f.result, CheckResult::Untried { .. }) };
            findings.iter().any(|finding| finding.consequence == consequence && open(finding))
        };
        if any(Consequence::Refused, true) {
            Verdict::Refused
        } else if any(Consequence::Refused, false) || findings.is_empty() {
            Verdict::Unproven
        } else if any(Consequence::Limit, true) || any(Consequence::Limit, false) {
            Verdict::Limited
        } else {
            Verdict::Suitable
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Suitable => "suitable",
            Self::Limited => "suitable with these limits",
            Self::Unproven => "not proven: what decides could not all be tried",
            Self::Refused => "refused because",
        }
    }
}

/// What stays in the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Versions and delete markers that were deleted.
    pub deleted: usize,
    /// Versions and delete markers that stay.
    pub versions: usize,
    /// When the last of their locks ends, as far as was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// Why they stay, or why it is not known what stays.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// A store's conformance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The bucket.
    pub bucket: String,
    /// Where it was tried.
    pub prefix: String,
    /// When it was through, by the store's clock; by the local one when the store tells no time.
    pub ended: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// What all of it comes to.
    pub verdict: Verdict,
    /// Every check, area by area.
    pub findings: Vec<Finding>,
    /// What stays in the bucket.
    pub left: Left,
}

impl Report {
    /// What came of the check of that name.
    pub fn finding(&self, name: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.name == name)
    }

    /// Whether nearly nothing could be tried: the store was away, rather than this or that right missing.
    pub fn is_void(&self) -> bool {
        let untried = self.findings.iter().filter(|f| matches!(f.result, CheckResult::Untried { .. })).count();
        untried * 2 > self.findings.len()
    }

    /// The findings that make the verdict: failures that refuse, or limits, or what could not be tried.
    pub fn grounds(&self) -> impl Iterator<Item = &Finding> {
        let verdict = self.verdict;
        self.findings.iter().filter(move |finding| match verdict {
            Verdict::Suitable => false,
            Verdict::Refused => finding.failed() && finding.consequence == Consequence::Refused,
            Verdict::Unproven | Verdict::Limited => finding.result != CheckResult::Passed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(consequence: Consequence, result: CheckResult) -> Finding {
        Finding { name: "x".into(), area: Area::Lock, consequence, why: "w".into(), result }
    }

    #[test]
    fn the_verdict_passes_nothing_that_was_not_seen() {
        let (passed, failed) = (|| CheckResult::Passed, || CheckResult::Failed { what: "x".into() });
        let untried = || CheckResult::Untried { reason: "x".into() };
        use Consequence::{Limit, Refused};
        for (results, verdict) in [
            (vec![], Verdict::Unproven),
            (vec![(Refused, passed()), (Limit, passed())], Verdict::Suitable),
            (vec![(Refused, passed()), (Limit, failed())], Verdict::Limited),
            (vec![(Refused, passed()), (Limit, untried())], Verdict::Limited),
            (vec![(Refused, untried()), (Limit, failed())], Verdict::Unproven),
            (vec![(Refused, untried()), (Refused, failed())], Verdict::Refused),
        ] {
            let findings: Vec<_> = results.into_iter().map(|(c, r)| finding(c, r)).collect();
            assert_eq!(Verdict::of(&findings), verdict, "{findings:?}");
        }
    }
}
