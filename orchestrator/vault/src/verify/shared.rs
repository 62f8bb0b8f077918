//! The scrub of what belongs to no database: journals, plans and evidence.

use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde::Serialize;

use super::inspect::{Look, Seen, inspect};
use super::locks::{Locked, Needed};
use super::report::{Finding, FindingKind, Totals};
use super::{Budget, MAX_HELD_BYTES, VerifyOptions, count, tampered};
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::object::{Decoded, Hash, ObjectError, Subject};
use crate::store::Lock;
use crate::vault::Vault;

/// The folders that are looked at.
const FOLDERS: [&str; 3] = ["run/", "plan/", "evidence/"];

/// What is known of journals, plans and evidence after a scrub.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedVerdict {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub totals: Totals,
}

impl SharedVerdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A scrub of journals, plans and evidence, by steps.
#[derive(Debug)]
pub struct SharedVerifier {
    vault: Vault,
    options: VerifyOptions,
    /// The folder that is looked at, as a place in [`FOLDERS`].
    folder: usize,
    /// The last key of it that was judged.
    after: Option<String>,
    journal: Journal,
    verdict: SharedVerdict,
}

/// Where the present journal stands.
#[derive(Debug, Default)]
struct Journal {
    run: String,
    next: u64,
    /// The digest of the record before; none before the first, and behind one that does not hold.
    prev: Option<Hash>,
}

impl Vault {
    /// Scrubs journals (each a chain of records), plans and evidence at once: see [`SharedVerifier`].
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn verify_shared(&self, options: &VerifyOptions) -> Result<SharedVerdict, VaultError> {
        let mut verifier = self.shared_verifier(options.clone());
        while !verifier.step(Budget::unlimited()).await? {}
        Ok(verifier.verdict())
    }

    /// A scrub of journals, plans and evidence, which belong to no database: signature, digests, place, writer, versions and
    /// lock. All of them are read whole: they are small. Sends no request yet.
    pub fn shared_verifier(&self, options: VerifyOptions) -> SharedVerifier {
        let (journal, verdict) = (Journal::default(), SharedVerdict::default());
        SharedVerifier { vault: self.clone(), options, folder: 0, after: None, journal, verdict }
    }
}

impl SharedVerifier {
    /// How much was looked at so far.
    pub fn totals(&self) -> &Totals {
        &self.verdict.totals
    }

    /// What is known; of all of it once a step has said that it is through.
    pub fn verdict(self) -> SharedVerdict {
        self.verdict
    }

    /// Goes on for one budget. `true`: all was looked at.
    ///
    /// # Errors
    /// A store that does not answer; asked again, it goes on from the last object that was through.
    pub async fn step(&mut self, budget: Budget) -> Result<bool, VaultError> {
        let (started, totals) = (Instant::now(), self.verdict.totals);
        let limit = Budget {
            bytes: totals.bytes.saturating_add(budget.bytes),
            requests: totals.requests.saturating_add(budget.requests),
        };
        let through = self.folders(limit).await;
        self.verdict.totals.seconds += started.elapsed().as_secs_f64();
        through
    }

    async fn folders(&mut self, limit: Budget) -> Result<bool, VaultError> {
        let lock = self.options.locks && retrying(|| self.vault.store.bucket()).await?.object_lock;
        while let Some(folder) = FOLDERS.get(self.folder) {
            if !self.scan(folder, lock, limit).await? {
                return Ok(false);
            }
            (self.folder, self.after) = (self.folder + 1, None);
        }
        Ok(true)
    }

    /// Looks at the keys of a folder. `true`: at all of them.
    async fn scan(&mut self, folder: &str, lock: bool, limit: Budget) -> Result<bool, VaultError> {
        let mut walk = self.vault.walk_keys(folder, self.after.as_deref());
        let (mut under_way, mut held, mut ended) = (FuturesOrdered::new(), 0, false);
        let (mut listings, totals) = (0, self.verdict.totals);
        let (mut bytes, mut requests) = (totals.bytes, totals.requests);
        loop {
            while !ended
                && under_way.len() < self.options.parallel.max(1)
                && (held < MAX_HELD_BYTES || under_way.is_empty())
                && bytes < limit.bytes
                && requests < limit.requests
            {
                let listed = walk.next().await?;
                requests += walk.requests - listings;
                self.verdict.totals.requests += walk.requests - listings;
                listings = walk.requests;
                let Some(listed) = listed else {
                    ended = true;
                    break;
                };
                // What is under way counts.
                (held, bytes, requests) = (held + listed.size, bytes + listed.size, requests + 1);
                let look = Look { store: self.vault.store.clone(), identities: None, whole: true, lock };
                under_way.push_back(inspect(look, listed));
            }
            let Some(seen) = under_way.next().await else { return Ok(ended) };
            let seen = seen?;
            held -= seen.listed.size;
            count(&mut self.verdict.totals, &seen);
            self.vault.judge(&seen, &mut self.journal, &mut self.verdict.findings);
            self.after = Some(seen.listed.key);
        }
    }
}

impl Vault {
    fn judge(&self, seen: &Seen, journal: &mut Journal, findings: &mut Vec<Finding>) {
        let key = &seen.listed.key;
        findings.extend(tampered(&seen.listed));
        if seen.listed.version.is_none() {
            return;
        }
        if let Some(lock) = &seen.lock {
            let promised = (seen.listed.stored, self.store.lock_length(Lock::Long));
            let problem = Needed::default().problem(Locked::Other, lock.as_ref(), promised, self.store.now());
            findings.extend(problem.map(|problem| Finding::new(key, FindingKind::Unlocked, problem)));
        }
        let root = self.root();
        let place: Vec<&str> = key.strip_prefix(&root).unwrap_or(key).split('/').collect();
        let decoded = seen.decoded.as_ref().map_err(Clone::clone);
        let checked = match place.as_slice() {
            ["run", run, n] => journal.meet(self, key, (run, n), decoded, findings),
            _ => decoded.and_then(|decoded| self.belongs(key, &place, decoded)),
        };
        if let Err(error) = checked {
            findings.push(Finding::new(key, FindingKind::of(&error), error.to_string()));
        }
    }

    fn belongs(&self, key: &str, place: &[&str], decoded: &Decoded) -> Result<(), ObjectError> {
        let header = &decoded.header;
        let fits = match (place, &header.subject) {
            (["plan", name, hash], Subject::Plan { name: stated, hash: h }) => name == stated && hash == h,
            (["evidence", kind, _], Subject::Evidence { about }) => {
                kind == about && self.keys.evidence(about, header.created, header.nonce) == key
            }
            _ => false,
        };
        if fits { self.trust.check(decoded) } else { misplaced("it does not belong at this key") }
    }
}

impl Journal {
    /// Takes the next record, in the order of the keys.
    fn meet(
        &mut self,
        vault: &Vault,
        key: &str,
        (run, n): (&str, &str),
        decoded: Result<&Decoded, ObjectError>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), ObjectError> {
        if self.run != run {
            *self = Journal { run: run.to_owned(), ..Journal::default() };
        }
        let Some(n) = n.parse().ok().filter(|n| vault.keys.run(run, *n) == *key) else {
            return misplaced("its key is none of a journal's record");
        };
        let follows = n == self.next && (n == 0 || self.prev.is_some());
        if n > self.next {
            let detail = format!("record {n} of this journal is there, and this one is not");
            findings.push(Finding::new(&vault.keys.run(run, self.next), FindingKind::Missing, detail));
        }
        self.next = n.saturating_add(1);
        let before = self.prev.take();
        let decoded = decoded?;
        let Subject::Journal { run: stated, n: number, prev } = &decoded.header.subject else {
            return misplaced("it is no record of a journal");
        };
        if stated != run || *number != n {
            return misplaced("it is another record than the one that belongs here");
        }
        vault.trust.check(decoded)?;
        if follows && *prev != before {
            return misplaced("it does not follow the record before it");
        }
        self.prev = Some(decoded.hash);
        Ok(())
    }
}

fn misplaced<T>(reason: &str) -> Result<T, ObjectError> {
    Err(ObjectError::Misplaced { reason: reason.to_owned() })
}
