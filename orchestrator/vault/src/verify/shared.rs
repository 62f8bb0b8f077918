//! The scrub of what belongs to no database: journals, plans and evidence.

use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde::Serialize;

use super::inspect::{Look, Seen, inspect};
use super::locks::{Locked, Needed};
use super::report::{Finding, FindingKind, Totals};
use super::{MAX_HELD_BYTES, VerifyOptions, count, tampered};
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

/// Where the present journal stands.
#[derive(Debug, Default)]
struct Journal {
    run: String,
    next: u64,
    /// The digest of the record before; none before the first, and behind one that does not hold.
    prev: Option<Hash>,
}

impl Vault {
    /// Scrubs journals (each a chain of records), plans and evidence: signature, digests, place, writer, versions and lock.
    /// All of them are read whole: they are few and small. `progress` hears of what was looked at.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn verify_shared(
        &self,
        options: &VerifyOptions,
        progress: &(dyn Fn(&Totals) + Sync),
    ) -> Result<SharedVerdict, VaultError> {
        let (started, mut verdict, mut journal) = (Instant::now(), SharedVerdict::default(), Journal::default());
        let lock = options.locks && retrying(|| self.store.bucket()).await?.object_lock;
        for folder in FOLDERS {
            let mut walk = self.walk_keys(folder, None);
            let (mut under_way, mut held, mut ended) = (FuturesOrdered::new(), 0, false);
            loop {
                while !ended
                    && under_way.len() < options.parallel.max(1)
                    && (held < MAX_HELD_BYTES || under_way.is_empty())
                {
                    let Some(listed) = walk.next().await? else {
                        ended = true;
                        break;
                    };
                    held += listed.size;
                    let look = Look { store: self.store.clone(), identities: None, whole: true, lock };
                    under_way.push_back(inspect(look, listed));
                }
                let Some(seen) = under_way.next().await else { break };
                let seen = seen?;
                held -= seen.listed.size;
                count(&mut verdict.totals, &seen);
                self.judge(&seen, &mut journal, &mut verdict.findings);
                progress(&verdict.totals);
            }
            verdict.totals.requests += walk.requests;
        }
        verdict.totals.seconds = started.elapsed().as_secs_f64();
        Ok(verdict)
    }

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
