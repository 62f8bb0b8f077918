//! What Holdfast depends on in an S3 store, tried one by one: [`Vault::conformance`].
//!
//! Each [`Check`] has a name that stays, a reason, and a consequence if it fails. It works below a fresh random prefix in the
//! vault's `probe/`, on objects of its own, locked for about two minutes, through the same client as everything else. It passes only
//! on what was observed: a refusal counts as the store's only when the same credentials could do the same where nothing forbids
//! it; what could not be tried is told apart. A check that fails while answers got lost is made again with fresh keys, so
//! that a bad network is not taken for a bad store.

mod attempt;
mod concurrency;
mod create;
mod errors;
mod hold;
mod integrity;
mod limits;
mod listing;
mod lock;
mod reading;
mod report;
mod retention;
mod time;
mod versions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use self::attempt::{Cx, Miss, Shared, Tried};
use self::concurrency::Races;
pub use self::report::{CheckResult, Finding, Left, Report, Verdict};
use crate::error::VaultError;
use crate::store::Raw;
use crate::vault::Vault;

/// How many checks are under way at a time.
const PARALLEL: usize = 8;
/// How often a check is made when answers get lost.
const TRIES: u32 = 5;
/// How long what a check stores is locked.
const LOCK: Duration = Duration::from_secs(120);

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// `If-None-Match: *`.
    Create,
    /// Bytes and their checksums.
    Integrity,
    /// Versions and delete markers.
    Versions,
    /// Object Lock: what is locked cannot be deleted.
    Lock,
    /// Object Lock: how a retention may change.
    Retention,
    /// Legal holds.
    Hold,
    /// Listings.
    Listing,
    /// GET, ranges, HEAD.
    Reading,
    /// The store's clock and the times that it tells.
    Time,
    /// Errors, and who may ask.
    Errors,
    /// Keys, metadata, sizes.
    Limits,
    /// Requests at the same time.
    Concurrency,
}

impl Area {
    /// Its title, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Create => "create-if-absent",
            Self::Integrity => "integrity and checksums",
            Self::Versions => "versions and delete markers",
            Self::Lock => "Object Lock",
            Self::Retention => "changes of a retention",
            Self::Hold => "legal hold",
            Self::Listing => "listing",
            Self::Reading => "reading and ranges",
            Self::Time => "time",
            Self::Errors => "errors and access",
            Self::Limits => "limits",
            Self::Concurrency => "concurrency",
        }
    }
}

/// What follows when a check fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consequence {
    /// The store cannot hold a vault.
    Refused,
    /// The store can hold a vault, with this limit.
    Limit,
}

/// One thing that a store must do, or should.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name, which stays.
    pub name: &'static str,
    /// What it is about.
    pub area: Area,
    /// What follows when it fails.
    pub consequence: Consequence,
    /// Why Holdfast cares.
    pub why: &'static str,
    /// Quick, deletes nothing, and its failure is `Refused`: part of the set-up of a Vault.
    pub essential: bool,
    run: for<'a> fn(&'a Cx) -> BoxFuture<'a, Tried>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Declares the checks of an area: name, consequence, whether it is essential, its function, why.
macro_rules! declare {
    ($area:ident: $($name:literal $consequence:ident $set:ident $run:ident $why:literal)*) => {
        pub(super) const CHECKS: &[super::Check] = &[$(super::Check {
            name: $name,
            area: super::Area::$area,
            consequence: super::Consequence::$consequence,
            why: $why,
            essential: super::declare!(@$set),
            run: |cx| Box::pin($run(cx)),
        }),*];
    };
    (@essential) => { true };
    (@full) => { false };
}
use declare;

/// Every check, area by area.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let areas: [&'static [Check]; 12] = [
        create::CHECKS,
        integrity::CHECKS,
        versions::CHECKS,
        lock::CHECKS,
        retention::CHECKS,
        hold::CHECKS,
        listing::CHECKS,
        reading::CHECKS,
        time::CHECKS,
        errors::CHECKS,
        limits::CHECKS,
        concurrency::CHECKS,
    ];
    areas.into_iter().flatten()
}

/// Which checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Those that a Vault's set-up makes: quick, and a store that fails one is refused.
    Essential,
    /// These, by name.
    Named(Vec<String>),
}

/// How to run the suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConformanceOptions {
    /// Which checks.
    pub selection: Selection,
    /// Wait until the locks have ended, and delete everything.
    pub wait_for_locks: bool,
}

impl Selection {
    fn checks(&self) -> Result<Vec<&'static Check>, VaultError> {
        let names = match self {
            Self::All => return Ok(checks().collect()),
            Self::Essential => return Ok(checks().filter(|check| check.essential).collect()),
            Self::Named(names) => names,
        };
        if let Some(unknown) = names.iter().find(|name| checks().all(|check| check.name != **name)) {
            return Err(VaultError::BadConfig { reason: format!("there is no check `{unknown}`") });
        }
        Ok(checks().filter(|check| names.iter().any(|name| name == check.name)).collect())
    }
}

impl Vault {
    /// Tries whether the vault's store keeps what Holdfast builds on. `done` hears of each check that is through, and how many
    /// there are.
    ///
    /// What it stores is deleted at the end where locks and credentials allow; [`Report::left`] says what stays.
    ///
    /// # Errors
    /// The store is no S3 bucket, a check of that name does not exist, or the bucket cannot be reached at all. A store that
    /// fails is no error: see [`Report::verdict`].
    pub async fn conformance(
        &self,
        options: &ConformanceOptions,
        done: impl Fn(&Finding, usize),
    ) -> Result<Report, VaultError> {
        let selected = options.selection.checks()?;
        let Some(s3) = self.store.as_s3() else {
            let reason = "only an S3 bucket can be tried for conformance".to_owned();
            return Err(VaultError::BadConfig { reason });
        };
        let began = Instant::now();
        let facts = crate::fetch::retrying(|| self.store.bucket()).await.map_err(|e| self.explain(e))?;
        let root = self.keys.probe(&format!("conformance-{:016x}/", rand::rng().random::<u64>()));
        let races = if options.selection == Selection::Essential { Races::BRIEF } else { Races::THOROUGH };
        let shared = Arc::new(Shared::new(Raw::new(s3), self.store.clone(), root, facts, (LOCK, races)));
        let (alone, together): (Vec<_>, Vec<_>) =
            selected.iter().copied().partition(|check| check.name == versions::SUSPENSION);
        let total = selected.len();
        let mut findings = Vec::with_capacity(total);
        let making: Vec<_> = together.into_iter().map(|check| judged(check, shared.clone()).boxed()).collect();
        let mut running = stream::iter(making).buffer_unordered(PARALLEL);
        while let Some(finding) = running.next().await {
            done(&finding, total);
            findings.push(finding);
        }
        drop(running);
        // It changes the whole bucket for a moment if it fails.
        for check in alone {
            let finding = judged(check, shared.clone()).await;
            done(&finding, total);
            findings.push(finding);
        }
        let place = |name: &str| selected.iter().position(|check| check.name == name);
        findings.sort_by_key(|finding| place(&finding.name));
        let left = match options.selection {
            // A vault's own credentials may not delete, and every try of theirs is an alarm in an audit.
            Selection::Essential => Left { why: "nothing was deleted".to_owned(), ..Left::default() },
            _ => shared.clean_up(options.wait_for_locks).await,
        };
        Ok(Report {
            bucket: self.bucket.clone(),
            prefix: shared.root().to_owned(),
            ended: self.store.now().unwrap_or_else(Timestamp::now),
            seconds: began.elapsed().as_secs_f64(),
            verdict: Verdict::of(&findings),
            findings,
            left,
        })
    }
}

impl Vault {
    /// Makes the essential checks, with races of a few only: some seconds, and some fifty small objects that stay below `probe/`.
    ///
    /// # Errors
    /// [`VaultError::UnsuitableStore`] when the store fails one; else as of [`Vault::conformance`]. What could not be tried
    /// is no error: see the report.
    pub async fn check_store(&self) -> Result<Report, VaultError> {
        let options = ConformanceOptions { selection: Selection::Essential, wait_for_locks: false };
        let report = self.conformance(&options, |_, _| {}).await?;
        if report.verdict != Verdict::Refused {
            return Ok(report);
        }
        let tell = |finding: &Finding| format!("{}: {} ({})", finding.name, finding.detail(), finding.why);
        let detail = report.grounds().map(tell).collect::<Vec<_>>().join("; ");
        Err(VaultError::UnsuitableStore { bucket: self.bucket.clone(), detail })
    }
}

/// Makes a check, again with fresh keys while it fails and answers got lost on the way.
async fn judged(check: &'static Check, shared: Arc<Shared>) -> Finding {
    let mut result = CheckResult::Untried { reason: String::new() };
    for attempt in 0..TRIES {
        let cx = Cx::new(shared.clone(), check.name, attempt);
        let tried = match shared.obstacle(check) {
            Some(why) => Err(Miss::Untried(why)),
            None => (check.run)(&cx).await,
        };
        result = match tried {
            Ok(()) => CheckResult::Passed,
            Err(Miss::Wrong(what)) => CheckResult::Failed { what },
            Err(Miss::Untried(reason)) => CheckResult::Untried { reason },
        };
        let settled = match &result {
            CheckResult::Passed => true,
            CheckResult::Failed { .. } => cx.was_clear(),
            CheckResult::Untried { .. } => cx.was_clear() || attempt > 0,
        };
        if settled {
            break;
        }
    }
    Finding::of(check, result)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_enough_checks_each_with_a_name_of_its_own_and_a_reason() {
        let names: BTreeSet<_> = checks().map(|check| check.name).collect();
        assert_eq!(names.len(), checks().count(), "a name stands twice");
        assert!(names.len() >= 60, "{}", names.len());
        for check in checks() {
            assert!(check.why.len() > 20 && !check.why.ends_with('.'), "{}: {}", check.name, check.why);
            assert!(!check.essential || check.consequence == Consequence::Refused, "{}", check.name);
        }
        let mut areas: Vec<_> = checks().map(|check| check.area).collect();
        areas.dedup();
        assert_eq!(areas.len(), 12, "each area stands together");
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let named = |name: &str| Selection::Named(vec![name.to_owned()]);
        assert_eq!(named("lock-that-ended-lets-delete").checks().unwrap().len(), 1);
        assert!(named("lock-end").checks().is_err());
        let essential = Selection::Essential.checks().unwrap().len();
        assert!((20..checks().count()).contains(&essential), "{essential}");
    }
}
