//! The lock probe: makes every attempt with the vault's own credentials and reads back what came of it.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::attempt::{Look, Seen, judge_object, judge_other, judge_rules, judge_setting, judge_unlocked};
use super::{ALL, Attempt, LOCK_TOLERANCE, Outcome, Probe, Tried, VaultCheck};
use crate::error::VaultError;
use crate::fetch::{real_versions, retrying};
use crate::store::{Answer, Forbidden, ListRequest, Lock, StoreError, StoreErrorKind};
use crate::vault::Vault;

/// The kind of evidence that a probe leaves.
pub const EVIDENCE: &str = "lock-probe";

/// What to try besides the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeOptions {
    /// A prefix of the same bucket that belongs to somebody else: its objects must not be readable.
    pub other_prefix: Option<String>,
}

/// What the lock probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockProbe {
    /// The bucket.
    pub bucket: String,
    /// When it ended: the store's time, or the local one where the store tells none.
    pub ended: Timestamp,
    /// The usual check.
    #[serde(flatten)]
    pub check: VaultCheck,
    /// Every attempt, in the order in which they were made.
    pub attempts: Vec<Tried>,
}

impl LockProbe {
    /// The attempts that did harm.
    pub fn harmful(&self) -> impl Iterator<Item = &Tried> {
        self.attempts.iter().filter(|tried| tried.outcome.is_harmful())
    }

    /// Whether what is stored could be lost before its time.
    pub fn lock_is_broken(&self) -> bool {
        self.harmful().any(|tried| tried.attempt.breaks_the_lock())
    }
}

impl Vault {
    /// Tries, with the vault's own credentials, all that whoever stole them would try, and reads back what came of each
    /// attempt. What an attempt changed in the bucket's settings is put back at once. About 60 requests; a few small
    /// objects stay below `probe/` until their locks end.
    ///
    /// # Errors
    /// The vault does not even pass [`Vault::check`], or the store stopped answering. That attempts did harm is no
    /// error: see [`LockProbe::harmful`].
    pub async fn probe_lock(&self, options: &ProbeOptions) -> Result<LockProbe, VaultError> {
        let (facts, clock_skew_seconds) = self.facts().await?;
        let probe = self.put_probe(facts.now).await?;
        self.refuses_a_second(&probe.key).await?;
        let (key, locked_until) = (probe.key.clone(), probe.retention.until);
        let check = VaultCheck { probe: key, locked_until, clock_skew_seconds };
        let attempts = self.attempts(probe, facts.now, options).await.map_err(|e| self.explain(e))?;
        let ended = self.store.now().unwrap_or_else(Timestamp::now);
        Ok(LockProbe { bucket: self.bucket.clone(), ended, check, attempts })
    }

    /// Stores what a probe found as evidence. Gives the object's key.
    pub async fn put_lock_evidence(&self, probe: &LockProbe) -> Result<String, VaultError> {
        let body = serde_json::to_value(probe).map_err(|e| VaultError::BadConfig { reason: e.to_string() })?;
        self.put_evidence(EVIDENCE, &body).await
    }

    async fn attempts(
        &self,
        mut probe: Probe,
        now: Option<Timestamp>,
        options: &ProbeOptions,
    ) -> Result<Vec<Tried>, StoreError> {
        let mut attempts: Vec<Tried> = Vec::with_capacity(ALL.len());
        for attempt in ALL.iter().copied() {
            let outcome = match self.attempt(attempt, &probe, now, options).await {
                Ok(outcome) => outcome,
                // What was found before must be heard of.
                Err(error) if attempts.iter().any(|tried| tried.outcome.is_harmful()) => {
                    Outcome::Skipped { why: error.to_string() }
                }
                Err(error) => return Err(error),
            };
            if outcome.is_harmful() {
                tracing::error!(attempt = attempt.name(), detail = outcome.detail(), "the lock probe found harm");
                // The next attempts want an object that is whole; without one each says what it finds.
                probe = self.put_probe(self.store.now()).await.unwrap_or(probe);
            }
            attempts.push(Tried { attempt, outcome });
        }
        Ok(attempts)
    }

    async fn attempt(
        &self,
        attempt: Attempt,
        probe: &Probe,
        now: Option<Timestamp>,
        options: &ProbeOptions,
    ) -> Result<Outcome, StoreError> {
        let (key, id, until) = (&*probe.key, &*probe.id, probe.retention.until);
        let request = match attempt {
            Attempt::ShortenRetention => Forbidden::Retain { key, id, until: halfway(now, until), compliance: true },
            Attempt::DowngradeRetention => Forbidden::Retain { key, id, until, compliance: false },
            Attempt::DeleteVersion => Forbidden::DeleteVersion { key, id },
            Attempt::DeleteBatch => Forbidden::DeleteBatch { key, id },
            Attempt::BypassGovernance => Forbidden::BypassGovernance { key, id },
            Attempt::Overwrite => Forbidden::PutUnlocked { key, body: Bytes::from_static(b"overwritten by the probe") },
            Attempt::Hide => Forbidden::Hide { key },
            Attempt::PutUnlocked => return self.attempt_unlocked(key, now).await,
            Attempt::SuspendVersioning => return self.attempt_setting(attempt, Forbidden::SuspendVersioning).await,
            Attempt::PutLifecycle => {
                let prefix = self.keys.probe("none/");
                return self.attempt_setting(attempt, Forbidden::PutLifecycle { prefix: &prefix }).await;
            }
            Attempt::PutPolicy => {
                let key = self.keys.probe("none");
                return self.attempt_setting(attempt, Forbidden::PutPolicy { key: &key }).await;
            }
            Attempt::PutLockConfiguration => {
                return self.attempt_setting(attempt, Forbidden::PutLockConfiguration).await;
            }
            Attempt::ExpiringRules => {
                let facts = retrying(|| self.store.lifecycle()).await?;
                return Ok(judge_rules(facts.as_ref()));
            }
            Attempt::ReadOther => return self.attempt_other(options.other_prefix.as_deref()).await,
        };
        let before = self.seen(probe).await?;
        let answer = retrying(|| self.store.forbidden(request.clone())).await?;
        let after = self.seen(probe).await?;
        Ok(judge_object(attempt, &answer, &before, &after))
    }

    /// Reads a probe object back: its versions, its bytes, its lock.
    async fn seen(&self, probe: &Probe) -> Result<Seen, StoreError> {
        let versions = retrying(|| self.store.versions(&probe.key)).await?;
        let marker = versions.iter().any(|version| version.is_delete_marker);
        let real: Vec<_> = versions.iter().filter(|version| !version.is_delete_marker).collect();
        let newer = real.len().saturating_sub(1);
        let oldest = real.first().is_some_and(|version| version.id == probe.id);
        let object = retrying(|| self.store.get_version(&probe.key, &probe.id)).await?;
        let intact = oldest && object.is_some_and(|object| object.bytes == probe.object);
        let retention = if intact { retrying(|| self.store.retention(&probe.key, &probe.id)).await? } else { None };
        Ok(Seen { intact, retention, marker, newer })
    }

    async fn attempt_setting(&self, attempt: Attempt, request: Forbidden<'_>) -> Result<Outcome, StoreError> {
        let answer = retrying(|| self.store.forbidden(request.clone())).await?;
        Ok(judge_setting(attempt, &answer))
    }

    async fn attempt_unlocked(&self, probe: &str, now: Option<Timestamp>) -> Result<Outcome, StoreError> {
        let key = format!("{probe}-unlocked");
        let body = Bytes::from_static(b"put by the probe without a retention");
        let answer =
            retrying(|| self.store.forbidden(Forbidden::PutUnlocked { key: &key, body: body.clone() })).await?;
        let mut retention = None;
        if matches!(answer, Answer::Accepted { .. })
            && let Some(version) = real_versions(&*self.store, &key).await?.first()
        {
            retention = retrying(|| self.store.retention(&key, &version.id)).await?;
        }
        let long = self.store.lock_length(Lock::Short).unwrap_or_default();
        let enough = now.unwrap_or(Timestamp::UNIX_EPOCH) + long.saturating_sub(LOCK_TOLERANCE);
        Ok(judge_unlocked(&answer, retention.as_ref(), enough))
    }

    async fn attempt_other(&self, prefix: Option<&str>) -> Result<Outcome, StoreError> {
        let Some(prefix) = prefix else {
            let why = "no other prefix was named to try it on".to_owned();
            return Ok(Outcome::Skipped { why });
        };
        let request = || ListRequest { prefix, after: "", limit: 1, folders: false };
        let listing = match retrying(|| self.store.list(request())).await {
            Ok(listing) => match listing.entries.into_iter().next() {
                Some(entry) => Look::Found(entry.key),
                None => Look::Nothing,
            },
            Err(error) => refused(error)?,
        };
        // Without a listing any key will do: a store that would read it says that it is absent.
        let key = match &listing {
            Look::Found(key) => key.clone(),
            _ => format!("{}/v1/probe/none", prefix.trim_end_matches('/')),
        };
        let reading = match retrying(|| self.store.get_front(&key, 1)).await {
            Ok(Some(_)) => Look::Found(key),
            Ok(None) => Look::Nothing,
            Err(error) => refused(error)?,
        };
        Ok(judge_other(&listing, &reading))
    }
}

/// A refusal is a finding; all else is an error.
fn refused(error: StoreError) -> Result<Look, StoreError> {
    match error.kind {
        StoreErrorKind::Denied => Ok(Look::Refused(error.detail)),
        _ => Err(error),
    }
}

/// A moment between now and the end of a lock: still in the future, and earlier than the lock ends.
fn halfway(now: Option<Timestamp>, until: Timestamp) -> Timestamp {
    let now = now.unwrap_or(Timestamp::UNIX_EPOCH);
    let middle = now.as_second() + (until.as_second() - now.as_second()) / 2;
    Timestamp::from_second(middle).unwrap_or(until)
}
