//! The scrub: looks at every object of a database and says what is wrong with which, and what it costs.
//!
//! [`Verifier`] goes through the log, the segments, the indexes, the backups and the identity in the order of their keys, in
//! steps of a budget, and can go on another day from its [`VerifyState`]; [`SharedVerifier`] goes through what
//! belongs to no database. They check chain, signatures, writers, digests, versions and locks, and,
//! with an identity, decrypts and decompresses. Every header is always read; of the bodies a sample can be enough.
//! [`cost`] turns what it found into lost moments.

mod backups;
mod chain;
pub(crate) mod cost;
mod indexes;
mod inspect;
mod locks;
mod report;
mod segments;
mod shared;

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use holdfast_wal::Lsn;
use jiff::Timestamp;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use self::backups::Backups;
use self::chain::{Chain, LogObject};
use self::cost::{Recovery, Span};
use self::indexes::Indexes;
use self::inspect::{Look, Seen, inspect};
use self::locks::{Locked, Needed};
pub use self::report::{Finding, FindingKind, Moment, Moments, Totals, Verdict};
use self::segments::Segments;
pub use self::shared::{SharedVerdict, SharedVerifier};
use crate::backup;
use crate::catalogue::{KeyKind, KeyWalk, ListedKey};
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::janitor::decide::Needs;
use crate::log::LogAccess;
use crate::log::index::StoredIndex;
use crate::object::{ObjectError, Subject};
use crate::seal::Identities;
use crate::store::Lock;

/// Bytes of objects that are held at the same time, unless one object alone is bigger.
const MAX_HELD_BYTES: u64 = 48 * 1024 * 1024;
/// A hole before an object that is younger is none yet: longer than any PUT is sent again and again.
const SETTLED: Duration = Duration::from_secs(10 * 60);

/// How to scrub.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Of how many objects the whole body is read, in per cent. All headers are read in any case.
    pub sample_percent: f64,
    /// Read the retention of the same objects.
    pub locks: bool,
    /// Objects under way at the same time.
    pub parallel: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions { sample_percent: 100.0, locks: true, parallel: 8 }
    }
}

/// How much one step may take. It ends soon after either is reached.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes read.
    pub bytes: u64,
    /// Requests made.
    pub requests: u64,
}

impl Budget {
    /// No bounds.
    pub fn unlimited() -> Budget {
        Budget { bytes: u64::MAX, requests: u64::MAX }
    }
}

/// What a scrub goes through, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Phase {
    Log,
    Segments,
    Indexes,
    Backups,
    Identity,
    Done,
}

/// Where a scrub stands. As JSON it can be kept, to go on later.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyState {
    /// The database that it is about.
    pub database: String,
    /// The store's time at its beginning.
    #[serde(default)]
    began: Option<Timestamp>,
    phase: Phase,
    /// The last key that is through.
    after: Option<String>,
    chain: Chain,
    segments: Segments,
    #[serde(default)]
    indexes: Indexes,
    backups: Backups,
    #[serde(default)]
    needed: Needed,
    findings: Vec<Finding>,
    totals: Totals,
}

/// Scrubs one database.
pub struct Verifier {
    database: DatabaseVault,
    access: LogAccess,
    identities: Option<Identities>,
    options: VerifyOptions,
    state: VerifyState,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("database", &self.state.database).finish_non_exhaustive()
    }
}

/// What a recovery with the newest base backup needs, for ever.
async fn needed(
    database: &DatabaseVault,
    access: &LogAccess,
    newest: Option<&StoredIndex>,
) -> Result<Needed, VaultError> {
    let backup = database.backups().await?.pop();
    let needs = Needs { kept: backup.iter().map(|backup| (backup.meta.start, backup.meta.timeline)).collect() };
    Ok(Needed {
        covered: newest.and_then(|index| index.index.archived.as_ref()).map(|place| place.at),
        segment: access.first_needed_segment(&needs).await?,
        backup: backup.map(|backup| backup.meta.id),
        index: newest.map(|index| index.index.n),
    })
}

/// Somebody hid or overwrote it.
fn tampered(listed: &ListedKey) -> Option<Finding> {
    let detail = || format!("{} newer versions, {} delete markers", listed.newer_versions, listed.delete_markers);
    listed.tampered().then(|| Finding::new(&listed.key, FindingKind::Tampered, detail()))
}

fn count(totals: &mut Totals, seen: &Seen) {
    totals.objects += 1;
    totals.bodies += u64::from(seen.whole);
    totals.opened += u64::from(seen.opened);
    totals.locks += u64::from(seen.lock.is_some());
    totals.bytes += seen.bytes;
    totals.requests += seen.requests;
}

impl Verifier {
    /// A scrub from the beginning. With `identities` bodies are opened too.
    ///
    /// # Errors
    /// The database's identity cannot be read: then nothing of it can.
    pub async fn begin(
        database: &DatabaseVault,
        identities: Option<Identities>,
        options: VerifyOptions,
    ) -> Result<Verifier, VaultError> {
        let access = database.access().await?;
        let newest = access.newest_index().await?;
        let archived = newest.as_ref().and_then(StoredIndex::segments_end);
        let needed = needed(database, &access, newest.as_ref()).await?;
        let state = VerifyState {
            database: database.name().to_owned(),
            began: access.store.now(),
            phase: Phase::Log,
            after: None,
            chain: Chain::begin(&access.genesis(), database.keys.log(), archived),
            segments: Segments::default(),
            indexes: Indexes::default(),
            backups: Backups::default(),
            needed,
            findings: Vec::new(),
            totals: Totals::default(),
        };
        let database = database.clone();
        Ok(Verifier { database, access, identities, options, state })
    }

    /// Goes on where a scrub of the same database stood.
    ///
    /// # Errors
    /// As [`Verifier::begin`]; [`VaultError::BadConfig`] when the state is of another database.
    pub async fn resume(
        database: &DatabaseVault,
        identities: Option<Identities>,
        options: VerifyOptions,
        state: VerifyState,
    ) -> Result<Verifier, VaultError> {
        if state.database != database.name() {
            let reason = format!("this is where a scrub of `{}` stood, not of `{}`", state.database, database.name());
            return Err(VaultError::BadConfig { reason });
        }
        let access = database.access().await?;
        let database = database.clone();
        Ok(Verifier { database, access, identities, options, state })
    }

    /// Where it stands.
    pub fn state(&self) -> &VerifyState {
        &self.state
    }

    /// How much was looked at so far.
    pub fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// What is wrong so far; the costs come with the verdict.
    pub fn findings(&self) -> &[Finding] {
        &self.state.findings
    }

    /// Goes on for one budget. `true`: all of the database has been looked at.
    ///
    /// # Errors
    /// A store that does not answer; asked again, it goes on from the last object that was through.
    pub async fn step(&mut self, budget: Budget) -> Result<bool, VaultError> {
        let started = Instant::now();
        let through = self.phases(budget).await;
        self.state.totals.seconds += started.elapsed().as_secs_f64();
        through
    }

    async fn phases(&mut self, budget: Budget) -> Result<bool, VaultError> {
        let totals = self.state.totals;
        let limit = Budget {
            bytes: totals.bytes.saturating_add(budget.bytes),
            requests: totals.requests.saturating_add(budget.requests),
        };
        while self.state.phase != Phase::Done {
            if !self.scan(limit).await? {
                return Ok(false);
            }
            self.turn();
        }
        Ok(true)
    }

    /// Looks at the keys of the present phase. `true`: at all of them.
    async fn scan(&mut self, limit: Budget) -> Result<bool, VaultError> {
        let (store, keys) = (self.access.store.clone(), self.database.keys.clone());
        let prefix = match self.state.phase {
            Phase::Log => keys.log(),
            Phase::Segments => keys.segments(),
            Phase::Indexes => keys.indexes(),
            Phase::Backups => keys.backups(),
            Phase::Identity => keys.identity(),
            Phase::Done => return Ok(true),
        };
        let locks = self.options.locks && retrying(|| store.bucket()).await?.object_lock;
        let mut walk = KeyWalk::new(store, prefix, self.state.after.as_deref());
        let (mut under_way, mut held, mut ended) = (FuturesOrdered::new(), 0, false);
        let (mut bytes, mut requests) = (self.state.totals.bytes, self.state.totals.requests);
        loop {
            while !ended
                && under_way.len() < self.options.parallel.max(1)
                && (held < MAX_HELD_BYTES || under_way.is_empty())
            {
                if bytes >= limit.bytes || requests >= limit.requests {
                    break;
                }
                let Some(listed) = walk.next().await? else {
                    ended = true;
                    break;
                };
                if self.is_later(&listed) {
                    continue;
                }
                let look = self.look(locks);
                (bytes, requests) = (bytes + if look.whole { listed.size } else { 0 }, requests + 1);
                held += listed.size;
                under_way.push_back(inspect(look, listed));
            }
            let Some(seen) = under_way.next().await else { break };
            let seen = seen?;
            held -= seen.listed.size;
            self.absorb(seen).await?;
        }
        self.state.totals.requests += walk.requests;
        Ok(ended)
    }

    /// A busy database writes its log faster than a scrub with a budget reads it: what was stored since it began is for the
    /// next one.
    fn is_later(&self, listed: &ListedKey) -> bool {
        let stored = listed.stored.filter(|_| self.state.phase == Phase::Log);
        stored.zip(self.state.began).is_some_and(|(stored, began)| stored > began)
    }

    fn look(&self, locks: bool) -> Look {
        let share = (self.options.sample_percent / 100.0).clamp(0.0, 1.0);
        let whole = rand::rng().random_bool(share);
        Look { store: self.access.store.clone(), identities: self.identities.clone(), whole, lock: locks && whole }
    }

    async fn absorb(&mut self, seen: Seen) -> Result<(), VaultError> {
        count(&mut self.state.totals, &seen);
        let key = seen.listed.key.clone();
        self.touched(&seen);
        let decoded = seen.decoded.as_ref().map_err(Clone::clone);
        let age = self.access.store.now().zip(seen.listed.stored).map(|(now, stored)| now.duration_since(stored));
        let is_young = age.is_some_and(|age| age.unsigned_abs() < SETTLED);
        let (state, keys) = (&mut self.state, &self.database.keys);
        match self.database.vault.kind(&key) {
            // Delete markers alone: nothing stands there, and never did.
            _ if seen.listed.version.is_none() || seen.gone => {}
            KeyKind::Log { at, .. } => {
                let object = LogObject { key: &key, at, stored: seen.listed.stored, is_young, decoded };
                state.chain.meet(&self.access.facts, &object, &mut state.findings);
            }
            KeyKind::Segment { .. } => {
                let at = keys.parse_segment(&key);
                state.segments.meet(&self.access.facts, &key, at, decoded, &mut state.findings);
            }
            KeyKind::BackupPart { backup, n, .. } => {
                self.begin_backup(&backup).await?;
                let (state, keys) = (&mut self.state, &self.database.keys);
                state.backups.part(keys, n, seen.decoded.as_ref().map_err(Clone::clone), &mut state.findings);
            }
            KeyKind::BackupManifest { backup, .. } => {
                self.begin_backup(&backup).await?;
                let (state, keys) = (&mut self.state, &self.database.keys);
                state.backups.end(keys, &mut state.findings);
            }
            KeyKind::Index { .. } => {
                state.indexes.meet(&self.access.facts, keys, &key, decoded, &mut state.findings);
            }
            KeyKind::Identity { database } => {
                let trust = &self.database.vault.trust;
                let checked =
                    decoded.and_then(|decoded| match decoded.header.subject == (Subject::Identity { database }) {
                        true => trust.check(decoded),
                        false => {
                            Err(ObjectError::Misplaced { reason: "it is not the identity of this database".into() })
                        }
                    });
                if let Err(error) = checked {
                    state.findings.push(Finding::new(&key, FindingKind::of(&error), error.to_string()));
                }
            }
            _ => {
                if let Err(error) = decoded {
                    state.findings.push(Finding::new(&key, FindingKind::of(&error), error.to_string()));
                }
            }
        }
        self.state.after = Some(key);
        Ok(())
    }

    /// Versions and lock.
    fn touched(&mut self, seen: &Seen) {
        let listed = &seen.listed;
        self.state.findings.extend(tampered(listed));
        let Some(lock) = &seen.lock else { return };
        let kind = self.database.vault.kind(&listed.key);
        let chunk = |decoded: &crate::object::Decoded| matches!(decoded.header.subject, Subject::Chunk(_));
        let short = matches!(kind, KeyKind::Log { .. }) && seen.decoded.as_ref().map_or(true, chunk);
        let what = match &kind {
            KeyKind::Identity { .. } => Locked::Identity,
            KeyKind::Log { at, .. } => Locked::Log(*at),
            KeyKind::Segment { .. } => {
                self.database.keys.parse_segment(&listed.key).map_or(Locked::Other, Locked::Segment)
            }
            KeyKind::Index { n, .. } => Locked::Index(*n),
            KeyKind::BackupPart { backup, .. } | KeyKind::BackupManifest { backup, .. } => Locked::Backup(backup),
            _ => Locked::Other,
        };
        let store = &self.access.store;
        let promised = (listed.stored, store.lock_length(if short { Lock::Short } else { Lock::Long }));
        if let Some(problem) = self.state.needed.problem(what, lock.as_ref(), promised, store.now()) {
            self.state.findings.push(Finding::new(&listed.key, FindingKind::Unlocked, problem));
        }
    }

    async fn begin_backup(&mut self, id: &str) -> Result<(), VaultError> {
        if self.state.backups.is_current(id) {
            return Ok(());
        }
        self.state.totals.requests += 1;
        let manifest = match backup::read_manifest(&self.database, id).await {
            Ok(manifest) => Ok(manifest),
            Err(VaultError::Damaged { error, .. }) => Err(error),
            Err(error) => return Err(error),
        };
        self.state.backups.begin(&self.database.keys, id, manifest, &mut self.state.findings);
        Ok(())
    }

    /// The present phase is through.
    fn turn(&mut self) {
        let state = &mut self.state;
        state.after = None;
        state.phase = match state.phase {
            Phase::Log => {
                state.chain.end(&mut state.findings);
                state.totals.beside = state.chain.beside;
                Phase::Segments
            }
            Phase::Segments => Phase::Indexes,
            Phase::Indexes => Phase::Backups,
            Phase::Backups => {
                state.backups.end(&self.database.keys, &mut state.findings);
                Phase::Identity
            }
            Phase::Identity | Phase::Done => Phase::Done,
        };
    }

    /// What is known so far; after the last step, of all of the database.
    pub fn verdict(&self) -> Verdict {
        let state = &self.state;
        let wal = state.chain.wal.union(&state.segments.wal);
        let recovery = Recovery { backups: state.backups.done.clone(), wal, tip: state.chain.tip() };
        let mut findings = state.findings.clone();
        findings.extend(self.silent_holes(&recovery));
        for finding in findings.iter_mut().filter(|finding| finding.what.is_loss()) {
            let of_wal = finding.span.map(|span| recovery.wal.missing(span)).unwrap_or_default();
            let mut costs: Vec<Span> = of_wal.into_iter().flat_map(|gone| recovery.cost_of_wal(gone)).collect();
            costs.extend(finding.backup.iter().flat_map(|id| recovery.cost_of_backup(id)));
            finding.costs = costs.into_iter().map(|span| self.moments(&recovery, span)).collect();
        }
        Verdict {
            database: state.database.clone(),
            tip: self.moment(recovery.tip, false),
            restorable: recovery.windows().into_iter().map(|span| self.window(&recovery, span)).collect(),
            lost: recovery.lost().into_iter().map(|span| self.moments(&recovery, span)).collect(),
            backups: recovery.backups,
            findings,
            totals: state.totals,
        }
    }

    /// WAL that a backup needs, that is in no object, and that no finding names.
    fn silent_holes(&self, recovery: &Recovery) -> Vec<Finding> {
        let Some(first) = recovery.backups.iter().map(|backup| backup.start).min() else { return Vec::new() };
        let mut known = recovery.wal.clone();
        self.state.findings.iter().filter_map(|finding| finding.span).for_each(|span| known.add(span));
        let finding = |gone: Span| {
            let key = format!("{} or {}", self.database.keys.log(), self.database.keys.segments());
            let detail = format!("neither chunks nor segments hold the WAL from {} to {}", gone.from, gone.to);
            Finding { span: Some(gone), ..Finding::new(&key, FindingKind::Missing, detail) }
        };
        known.missing(Span { from: first, to: recovery.tip }).into_iter().map(finding).collect()
    }

    fn moments(&self, recovery: &Recovery, span: Span) -> Moments {
        let before = recovery.backups.iter().filter(|backup| backup.end <= span.from);
        let backup = before.max_by_key(|backup| backup.end).map(|backup| backup.id.clone());
        Moments { from: self.moment(span.from, false), to: self.moment(span.to, true), backup }
    }

    /// Moments that are there: of both ends it is known when the store had them.
    fn window(&self, recovery: &Recovery, span: Span) -> Moments {
        Moments { to: self.moment(span.to, false), ..self.moments(recovery, span) }
    }

    /// When the store had the log up to a position: the time known at or before it, or (`after`) at or after it.
    fn moment(&self, lsn: Lsn, after: bool) -> Moment {
        let moments = &self.state.chain.moments;
        let mut finished = self.state.backups.done.iter().filter(|backup| backup.end == lsn).map(|b| b.finished);
        let at: Option<Timestamp> = match after {
            false => moments.range(..=lsn).next_back().map(|(_, at)| *at),
            true => moments.range(lsn..).next().map(|(_, at)| *at),
        };
        Moment { lsn, at: finished.next().or(at) }
    }
}
