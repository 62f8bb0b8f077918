//! The janitor: deletes what has expired. The only one that deletes anything in a vault.
//!
//! What it may delete follows from rule 17 of the log: a chunk whose lock has ended, when segments and an index have
//! covered it for a day by the store's clock; then base backups and segments whose locks have ended and that no kept
//! backup needs. Seals, identities, indexes, journals, plans and evidence stay for ever. It deletes versions by their
//! ids, never through a delete marker, and leaves a key that somebody touched for a person to look at.
//!
//! [`decide`] is without I/O. [`DatabaseVault::sweep`] asks the store, and deletes with credentials of their own.

pub mod decide;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use holdfast_wal::Lsn;
use jiff::Timestamp;
use serde::Serialize;

use self::decide::{Backup, Kept, LogKind, Needs, Verdict};
use crate::backup::BackupList;
use crate::catalogue::{KeyWalk, ListedKey};
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::keys::{Position, SegmentKey};
use crate::log::LogAccess;
use crate::log::index::StoredIndex;
use crate::object::{Subject, decode_stored_header};
use crate::segment::check_segment;
use crate::segment::read::From;
use crate::store::{Store, StoreError, StoreErrorKind};

/// For how long segments and an index must have covered a chunk.
const COVERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Requests at the same time.
const IN_FLIGHT: usize = 16;
/// Keys that are named one by one in a report.
const MAX_NAMED: usize = 100;

/// What a sweep found and did.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sweep {
    /// The database's name in the vault.
    pub database: String,
    /// Nothing was deleted: it was only said what would be.
    pub dry_run: bool,
    /// The store's time when it began.
    pub now: Option<Timestamp>,
    /// Chunks before this place are covered for long enough; none: no chunk is.
    pub covered: Option<Position>,
    /// How many objects of what kind met which fate.
    pub rows: Vec<Row>,
    /// Keys that somebody hid or overwrote, the first hundred: look at them.
    pub tampered: Vec<String>,
    /// Objects that could not be read, the first hundred, each with why.
    pub unreadable: Vec<String>,
    /// Requests sent.
    pub requests: u64,
}

/// Objects of one kind with one fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What they are.
    pub kind: &'static str,
    /// What became of them.
    pub verdict: Verdict,
    /// How many.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Sweep {
    /// Whether nothing needs a person's look: nothing was refused, touched by somebody, or unreadable.
    pub fn is_clean(&self) -> bool {
        let look = [Kept::Refused, Kept::Tampered, Kept::Unreadable].map(Verdict::Keep);
        !self.rows.iter().any(|row| look.contains(&row.verdict))
    }

    /// What was deleted, or would be: objects and bytes.
    pub fn deleted(&self) -> (u64, u64) {
        let rows = self.rows.iter().filter(|row| matches!(row.verdict, Verdict::Delete(_)));
        rows.fold((0, 0), |(objects, bytes), row| (objects + row.objects, bytes + row.bytes))
    }
}

/// A sweep under way.
struct Sweeping<'a> {
    access: LogAccess,
    deleter: &'a dyn Store,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    dry_run: bool,
    now: Timestamp,
    counts: BTreeMap<(&'static str, Verdict), (u64, u64)>,
    looked: u64,
    deleted: u64,
    report: Sweep,
}

impl DatabaseVault {
    /// Deletes what has expired of this database, with the rights of `deleter`, which needs to be allowed to delete
    /// versions and nothing else. `progress` hears of objects looked at and objects deleted. Done again it goes on.
    ///
    /// # Errors
    /// Whatever the store says, and [`VaultError::Damaged`] when a segment that chunks were covered by is not there:
    /// then nothing is deleted.
    pub async fn sweep(
        &self,
        deleter: &dyn Store,
        dry_run: bool,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Sweep, VaultError> {
        let access = self.access().await?;
        let facts = retrying(|| access.store.bucket()).await?;
        let Some(now) = facts.now else { return Err(no_time().into()) };
        let report = Sweep { database: self.name.clone(), dry_run, now: Some(now), ..Sweep::default() };
        let mut sweeping = Sweeping {
            access,
            deleter,
            progress,
            dry_run,
            now,
            counts: BTreeMap::new(),
            looked: 0,
            deleted: 0,
            report,
        };
        sweeping.log().await?;
        let kept = sweeping.backups(self).await?;
        sweeping.segments(&kept).await?;
        Ok(sweeping.finish())
    }
}

fn no_time() -> StoreError {
    let detail = "the store's answers carry no Date, and no other clock may decide what has expired".to_owned();
    StoreError { kind: StoreErrorKind::Other, operation: "HeadBucket", target: String::new(), detail }
}

impl Sweeping<'_> {
    /// Chunks.
    async fn log(&mut self) -> Result<(), VaultError> {
        let covering = self.covering().await?;
        let covered = covering.as_ref().and_then(|index| index.index.archived.as_ref()).map(|place| place.at);
        self.report.covered = covered;
        let mut walk = KeyWalk::new(self.access.store.clone(), self.access.keys.log(), None);
        let (mut batch, mut proven) = (Vec::new(), false);
        loop {
            let next = walk.next().await?;
            let done = next.is_none();
            batch.extend(next.and_then(|listed| Some((self.access.keys.parse(&listed.key)?, listed))));
            if batch.len() < 1000 && !done {
                continue;
            }
            let judged = self.judge_log(std::mem::take(&mut batch), covered).await?;
            let first = judged.iter().find(|(_, _, verdict)| matches!(verdict, Verdict::Delete(_)));
            if let (Some((at, ..)), Some(index), false) = (first, &covering, proven) {
                self.prove(index, *at).await?;
                proven = true;
            }
            let objects = judged.into_iter().map(|(_, listed, verdict)| (listed, verdict)).collect();
            self.carry_out("chunk", objects).await?;
            if done {
                self.report.requests += walk.requests;
                return Ok(());
            }
        }
    }

    /// An index that has stood for a day: the newest, or one that it hangs together with, link by link.
    async fn covering(&mut self) -> Result<Option<StoredIndex>, VaultError> {
        let Some(mut index) = self.access.newest_index().await? else { return Ok(None) };
        let old_enough = |index: &StoredIndex| {
            let age = index.stored.and_then(|stored| Duration::try_from(self.now.duration_since(stored)).ok());
            age.is_some_and(|age| age >= COVERED_FOR)
        };
        loop {
            self.report.requests += 2;
            let before = self.access.index_before(&index).await?;
            if old_enough(&index) {
                return Ok(Some(index));
            }
            let Some(before) = before else { return Ok(None) };
            index = before;
        }
    }

    /// Whether all segments that took the place of chunks from `first` on are there.
    async fn prove(&mut self, index: &StoredIndex, first: Position) -> Result<(), VaultError> {
        let Some(last) = index.index.segment else {
            let key = self.access.keys.index(index.index.n);
            let reason = "it says that segments cover the log, and names none".to_owned();
            return Err(VaultError::Damaged { key, error: crate::object::ObjectError::Misplaced { reason } });
        };
        let before = Position { start: Lsn(first.start.0.saturating_sub(1)), ..first };
        let segments = self.access.segments(last, From::Place(before)).await?;
        self.report.requests += segments.len() as u64;
        Ok(())
    }

    async fn judge_log(
        &mut self,
        batch: Vec<(Position, ListedKey)>,
        covered: Option<Position>,
    ) -> Result<Vec<(Position, ListedKey, Verdict)>, VaultError> {
        let (access, now, life) = (&self.access, self.now, self.access.facts.chunk_life);
        let judge = |(at, listed): (Position, ListedKey)| async move {
            let early = decide::log_by_listing(at, &listed, covered, now, life);
            let verdict = match early {
                Some(verdict) => verdict,
                None => {
                    let kind = log_kind(access, at, &listed).await?;
                    let until = lock_of(&*access.store, &listed).await?;
                    decide::log(kind, until, now)
                }
            };
            Ok::<_, VaultError>((at, listed, verdict, u64::from(early.is_none()) * 2))
        };
        let mut judged = Vec::with_capacity(batch.len());
        let mut stream = std::pin::pin!(futures::stream::iter(batch).map(judge).buffered(IN_FLIGHT));
        while let Some(next) = stream.next().await {
            let (at, listed, verdict, requests) = next?;
            self.report.requests += requests;
            judged.push((at, listed, verdict));
        }
        Ok(judged)
    }

    /// Base backups; returns where the oldest kept one begins.
    async fn backups(&mut self, database: &DatabaseVault) -> Result<Needs, VaultError> {
        let BackupList { complete: manifests, left_out } = database.backup_list().await?;
        let left_out: HashSet<String> = left_out.into_iter().map(|(id, _)| id).collect();
        let mut backups: BTreeMap<String, (Backup, Vec<ListedKey>)> = BTreeMap::new();
        for manifest in &manifests {
            let known = Backup::complete(manifest);
            backups.insert(manifest.meta.id.clone(), (known, Vec::new()));
        }
        let prefix = self.access.keys.backups();
        let mut walk = KeyWalk::new(self.access.store.clone(), prefix.clone(), None);
        while let Some(listed) = walk.next().await? {
            let Some((id, _)) = listed.key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) else {
                continue;
            };
            let entry = backups.entry(id.to_owned()).or_insert_with(|| (Backup::incomplete(), Vec::new()));
            entry.1.push(listed);
        }
        self.report.requests += walk.requests + manifests.len() as u64;
        for (backup, objects) in backups.values_mut() {
            for listed in objects.iter() {
                let until = lock_of(&*self.access.store, listed).await?;
                self.report.requests += 1;
                backup.locked_until = backup.locked_until.max(until);
            }
        }
        let newest = manifests.last().map(|manifest| manifest.meta.id.clone());
        let mut kept = Vec::new();
        for (id, (backup, mut objects)) in backups {
            let verdict = match left_out.contains(&id) {
                // Somebody's rubbish, or a backup that is worth a person's look.
                true => Verdict::Keep(Kept::Unreadable),
                false => decide::backup(&backup, Some(&id) == newest.as_ref(), self.now),
            };
            // A manifest that stays because somebody touched it must not stand without its parts.
            let manifest = objects.iter().find(|listed| listed.key.ends_with("/manifest"));
            let verdict = manifest.map_or(verdict, |manifest| decide::unless_tampered(verdict, manifest));
            if let (Verdict::Keep(_), Some(start)) = (verdict, backup.start) {
                kept.push(start);
            }
            // The manifest first: from then on nobody counts on the parts.
            objects.sort_by_key(|listed| !listed.key.ends_with("/manifest"));
            let objects = objects.into_iter().map(|listed| (decide::unless_tampered(verdict, &listed), listed));
            let objects: Vec<_> = objects.map(|(verdict, listed)| (listed, verdict)).collect();
            for object in objects {
                self.carry_out("backup", vec![object]).await?;
            }
        }
        Ok(Needs { kept })
    }

    /// Segments that no kept backup needs.
    async fn segments(&mut self, needs: &Needs) -> Result<(), VaultError> {
        let mut walk = KeyWalk::new(self.access.store.clone(), self.access.keys.segments(), None);
        let mut all: Vec<(SegmentKey, ListedKey)> = Vec::new();
        while let Some(listed) = walk.next().await? {
            all.extend(self.access.keys.parse_segment(&listed.key).map(|at| (at, listed)));
        }
        self.report.requests += walk.requests;
        let keys: Vec<SegmentKey> = all.iter().map(|(at, _)| *at).collect();
        let first = needs.first_segment(&keys, self.access.facts.segment_size);
        let mut judged = Vec::with_capacity(all.len());
        for (at, listed) in all {
            let verdict = match decide::segment_by_key(at, first) {
                Some(verdict) => verdict,
                None => {
                    self.report.requests += 2;
                    let until = lock_of(&*self.access.store, &listed).await?;
                    let is_segment = self.is_segment(at, &listed).await?;
                    decide::segment(is_segment, until, self.now)
                }
            };
            judged.push((listed, verdict));
        }
        let judged = judged
            .into_iter()
            .map(|(l, v)| {
                let v = decide::unless_tampered(v, &l);
                (l, v)
            })
            .collect();
        self.carry_out("segment", judged).await
    }

    async fn is_segment(&self, at: SegmentKey, listed: &ListedKey) -> Result<bool, VaultError> {
        let object = self.access.front(&listed.key).await?;
        let decoded = object.and_then(|object| decode_stored_header(&object).ok());
        Ok(decoded.is_some_and(|decoded| check_segment(&self.access.facts, at, &decoded).is_ok()))
    }

    /// Deletes what is to be deleted, in order within a few at a time, and counts.
    async fn carry_out(&mut self, kind: &'static str, objects: Vec<(ListedKey, Verdict)>) -> Result<(), VaultError> {
        let (deleter, dry_run) = (self.deleter, self.dry_run);
        let delete = |(listed, verdict): (ListedKey, Verdict)| async move {
            let (Verdict::Delete(_), Some(id), false) = (verdict, &listed.version, dry_run) else {
                return Ok((listed, verdict));
            };
            let deleted = retrying(|| deleter.try_delete_version(&listed.key, id)).await?;
            let verdict = if deleted { verdict } else { Verdict::Keep(Kept::Refused) };
            Ok::<_, StoreError>((listed, verdict))
        };
        let mut stream = std::pin::pin!(futures::stream::iter(objects).map(delete).buffered(IN_FLIGHT));
        while let Some(done) = stream.next().await {
            let (listed, verdict) = done?;
            let kind = if verdict == Verdict::Keep(Kept::Seal) { "seal" } else { kind };
            let count = self.counts.entry((kind, verdict)).or_default();
            (count.0, count.1) = (count.0 + 1, count.1 + listed.size);
            let named = match verdict {
                Verdict::Keep(Kept::Tampered) => Some(&mut self.report.tampered),
                Verdict::Keep(Kept::Unreadable) => Some(&mut self.report.unreadable),
                _ => None,
            };
            if let Some(named) = named.filter(|named| named.len() < MAX_NAMED) {
                named.push(listed.key.clone());
            }
            self.looked += 1;
            if let Verdict::Delete(_) = verdict {
                self.deleted += 1;
                self.report.requests += u64::from(!dry_run);
            }
            (self.progress)(self.looked, self.deleted);
        }
        Ok(())
    }

    fn finish(mut self) -> Sweep {
        let row = |((kind, verdict), (objects, bytes))| Row { kind, verdict, objects, bytes };
        self.report.rows = self.counts.into_iter().map(row).collect();
        self.report
    }
}

/// Chunk, seal, or neither: only the header tells.
async fn log_kind(access: &LogAccess, at: Position, listed: &ListedKey) -> Result<LogKind, VaultError> {
    let Some(object) = access.front(&listed.key).await? else { return Ok(LogKind::Unreadable) };
    let Ok(decoded) = decode_stored_header(&object) else { return Ok(LogKind::Unreadable) };
    let fits =
        |database: &str, epoch: u64, start: Lsn| database == access.facts.database && Position { epoch, start } == at;
    Ok(match &decoded.header.subject {
        Subject::Seal(_) => LogKind::Seal,
        Subject::Chunk(chunk) if fits(&chunk.database, chunk.epoch, chunk.start) => LogKind::Chunk,
        _ => LogKind::Unreadable,
    })
}

/// Until when the oldest version is locked; none when it is not.
async fn lock_of(store: &dyn Store, listed: &ListedKey) -> Result<Option<Timestamp>, VaultError> {
    let Some(id) = &listed.version else { return Ok(None) };
    Ok(retrying(|| store.retention(&listed.key, id)).await?.map(|retention| retention.until))
}
