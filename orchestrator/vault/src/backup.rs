//! Base backups: plain parts in order, each sealed for itself, and a manifest that makes them count.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::keys::is_valid_name;
use crate::log::incarnation::Incarnation;
use crate::long_body::LongBody;
use crate::object::{Hash, Nonce, ObjectError, PublicKey, Subject, decode, decode_header, decode_stored, encode_plain};
use crate::seal::{Identities, Recipients, ZSTD_LEVEL, open};
use crate::store::{ListRequest, Object, StoreError, StoreErrorKind};

/// The best size of a part: big enough for the store, small enough for memory.
pub const BACKUP_PART_BYTES: usize = 4 * 1024 * 1024;
/// The longest part that is taken.
const MAX_PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts being sealed at the same time: one after the other they would leave a processor idle. Only the headers hang together.
const SEALED_AT_ONCE: usize = 2;
/// Parts being stored at the same time.
const IN_FLIGHT: usize = 2;
/// Parts on their way from the store at the same time.
const FETCH_IN_FLIGHT: usize = 8;
/// Parts fetched, opened or waiting to be given at the same time: more than are on their way, for the link must not rest while
/// others are opened.
const READ_AHEAD: usize = 12;

/// What is known of a base backup when it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupMeta {
    /// Its id in the vault; ids sort as they begin.
    pub id: String,
    /// Where replay begins.
    pub start: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
    /// PostgreSQL's version, as it says it.
    pub server_version: String,
    /// The label given to PostgreSQL.
    pub label: String,
    /// When it began, by the agent's clock.
    pub started: Timestamp,
    /// Settings that a standby must match, and where files go.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Its tablespaces.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
}

/// A tablespace of a base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tablespace {
    /// Its OID.
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
}

/// A complete base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupManifest {
    /// What was known when it began.
    pub meta: BackupMeta,
    /// The system that it is of.
    pub system_id: SystemId,
    /// Replay must reach this before the database is consistent.
    pub end: Lsn,
    /// When it finished, by the agent's clock.
    pub finished: Timestamp,
    /// Its parts.
    pub parts: u32,
    /// Bytes of the parts before they were sealed.
    pub plain_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// The digest of the last part's header block, through which all parts hang together.
    pub last_part: Option<Hash>,
    /// The incarnation that made it.
    pub nonce: Nonce,
    /// The key that signs its parts and this manifest.
    pub key: PublicKey,
}

/// Stores a base backup, part by part. Until [`BackupWriter::finish`] there is no backup.
pub struct BackupWriter {
    database: DatabaseVault,
    system_id: SystemId,
    meta: BackupMeta,
    me: Incarnation,
    recipients: Recipients,
    sealing: VecDeque<JoinHandle<Result<LongBody, ObjectError>>>,
    /// The next part to get a header.
    next: u32,
    prev: Option<Hash>,
    plain_bytes: u64,
    stored_bytes: u64,
    puts: VecDeque<JoinHandle<Result<(), VaultError>>>,
    /// A part failed, or its caller gave up waiting: with it missing there is no backup.
    broken: bool,
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupWriter").field("id", &self.meta.id).field("parts", &self.next).finish_non_exhaustive()
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        self.puts.iter().for_each(JoinHandle::abort);
    }
}

impl BackupWriter {
    pub(crate) fn new(
        database: DatabaseVault,
        system_id: SystemId,
        me: Incarnation,
        meta: BackupMeta,
        recipients: &Recipients,
    ) -> Result<BackupWriter, VaultError> {
        if !is_valid_name(&meta.id) {
            return Err(VaultError::BadName { what: "a backup", name: meta.id });
        }
        Ok(BackupWriter {
            database,
            system_id,
            meta,
            me,
            recipients: recipients.clone(),
            sealing: VecDeque::new(),
            next: 0,
            prev: None,
            plain_bytes: 0,
            stored_bytes: 0,
            puts: VecDeque::new(),
            broken: false,
        })
    }

    /// Stores the next part, of at most 16 MiB, given in pieces: each is dropped as soon as it is sealed. Returns when it is on
    /// its way; an earlier part that could not be stored is reported here or by [`BackupWriter::finish`]. Whoever gives up
    /// waiting gives up the backup.
    pub async fn part(&mut self, pieces: Vec<Bytes>) -> Result<(), VaultError> {
        self.whole()?;
        // Until this one is on its way.
        self.broken = true;
        self.begin(pieces).await?;
        self.broken = false;
        Ok(())
    }

    fn whole(&self) -> Result<(), VaultError> {
        if self.broken { Err(VaultError::Store(ended("an earlier part was not stored"))) } else { Ok(()) }
    }

    async fn begin(&mut self, pieces: Vec<Bytes>) -> Result<(), VaultError> {
        let n = self.next.saturating_add(self.sealing.len() as u32);
        let len: usize = pieces.iter().map(Bytes::len).sum();
        if len > MAX_PART_BYTES {
            let key = self.database.keys.backup_part(&self.meta.id, n);
            let (len, max) = (len as u64, MAX_PART_BYTES as u64);
            return Err(damaged(&key)(ObjectError::BodyTooLong { len, max }));
        }
        while self.sealing.len() >= SEALED_AT_ONCE {
            self.send().await?;
        }
        // Of the part before only its header is needed, which is not there yet.
        let longest = self.me.header(self.subject(n, Some(Hash([0; 32]))));
        let (me, recipients) = (self.me.clone(), self.recipients.clone());
        let seal = move || LongBody::seal(&me, longest, &recipients, pieces, ZSTD_LEVEL);
        self.sealing.push_back(tokio::task::spawn_blocking(seal));
        Ok(())
    }

    /// Sends the oldest part that is being sealed.
    async fn send(&mut self) -> Result<(), VaultError> {
        while self.puts.len() >= IN_FLIGHT {
            self.settle().await?;
        }
        let Some(sealing) = self.sealing.front_mut() else { return Ok(()) };
        let sealed = sealing.await;
        // Nothing waits from here on: whoever gives up waiting leaves no part behind that is taken out and not sent.
        self.sealing.pop_front();
        let key = self.database.keys.backup_part(&self.meta.id, self.next);
        let gone = |_| ObjectError::Open { reason: "the sealing thread ended".into() };
        let body = sealed.map_err(gone).flatten().map_err(damaged(&key))?;
        self.plain_bytes += body.info().plain_len;
        let header = self.me.header(self.subject(self.next, self.prev));
        let (object, hash) = body.with_header(&self.me, header).map_err(damaged(&key))?;
        self.stored_bytes += object.len() as u64;
        (self.prev, self.next) = (Some(hash), self.next + 1);
        let database = self.database.clone();
        self.puts.push_back(tokio::spawn(async move { database.create_own(&key, object).await }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), VaultError> {
        let Some(put) = self.puts.front_mut() else { return Ok(()) };
        let end = put.await;
        self.puts.pop_front();
        end.map_err(|_| VaultError::Store(ended("a task that stores a part ended")))?
    }

    fn subject(&self, n: u32, prev: Option<Hash>) -> Subject {
        part_subject(&self.database.name, self.system_id, &self.meta.id, n, prev)
    }

    /// Waits for all parts and stores the manifest: from then on the backup counts.
    pub async fn finish(mut self, end: Lsn, finished: Timestamp) -> Result<BackupManifest, VaultError> {
        self.whole()?;
        while !self.sealing.is_empty() {
            self.send().await?;
        }
        while !self.puts.is_empty() {
            self.settle().await?;
        }
        let manifest = BackupManifest {
            meta: self.meta.clone(),
            system_id: self.system_id,
            end,
            finished,
            parts: self.next,
            plain_bytes: self.plain_bytes,
            stored_bytes: self.stored_bytes,
            last_part: self.prev,
            nonce: self.me.nonce(),
            key: self.me.public(),
        };
        let key = self.database.keys.backup_manifest(&self.meta.id);
        let body =
            serde_json::to_vec(&manifest).map_err(|e| damaged(&key)(ObjectError::Header { reason: e.to_string() }))?;
        let header = self.me.header(manifest_subject(&self.database.name, self.system_id, &self.meta.id));
        let (object, _) = encode_plain(header, &body, self.me.key()).map_err(damaged(&key))?;
        self.database.create_own(&key, object).await?;
        Ok(manifest)
    }
}

fn part_subject(database: &str, system_id: SystemId, backup: &str, n: u32, prev: Option<Hash>) -> Subject {
    Subject::BackupPart { database: database.into(), system_id, backup: backup.into(), n, prev }
}

fn manifest_subject(database: &str, system_id: SystemId, backup: &str) -> Subject {
    Subject::BackupManifest { database: database.into(), system_id, backup: backup.into() }
}

fn ended(detail: &str) -> StoreError {
    let detail = detail.to_owned();
    StoreError { kind: StoreErrorKind::Other, operation: "PutObject", target: "a backup".into(), detail }
}

impl DatabaseVault {
    /// Creates an object at a key that nobody else writes.
    async fn create_own(&self, key: &str, object: Bytes) -> Result<(), VaultError> {
        let store = &*self.vault.store;
        if fetch::create_until_known(store, key, object.clone()).await?.is_stored() {
            return Ok(());
        }
        match fetch::oldest(store, key).await? {
            Some(stored) if stored.bytes == object => Ok(()),
            _ => {
                let reason = "something else is stored under this key".to_owned();
                Err(damaged(key)(ObjectError::Misplaced { reason }))
            }
        }
    }
}

/// What stands where the base backups of a database are.
#[derive(Debug, Default)]
pub struct BackupList {
    /// The complete ones, the one that the store has last at the end.
    pub complete: Vec<BackupManifest>,
    /// Those whose manifest does not count (damaged, misplaced, of nobody who is believed): the id, and why.
    pub left_out: Vec<(String, VaultError)>,
}

/// All backups of a database. A folder without a manifest is a backup that never finished. One that a thief put there, or
/// that a disk damaged, must not hide the others. Which one is the newest the store's time says: a maker whose clock is wrong
/// would let the janitor give up those that are newer.
pub(crate) async fn list(database: &DatabaseVault) -> Result<BackupList, VaultError> {
    let (prefix, mut after, mut ids) = (database.keys.backups(), String::new(), Vec::new());
    loop {
        let request = ListRequest { prefix: &prefix, after: &after, limit: 1000, folders: true };
        let listing = retrying(|| database.vault.store.list(request.clone())).await?;
        let id = |folder: &String| Some(folder.strip_prefix(&prefix)?.strip_suffix('/')?.to_owned());
        ids.extend(listing.folders.iter().filter_map(id));
        match listing.folders.last() {
            Some(last) if listing.more => after = format!("{}0", last.trim_end_matches('/')),
            _ => break,
        }
    }
    let read = |id: String| async move {
        let found = read_stored(database, &id).await;
        (id, found)
    };
    let mut read = std::pin::pin!(futures::stream::iter(ids).map(read).buffered(4));
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    while let Some((id, manifest)) = read.next().await {
        match manifest {
            Ok(manifest) => found.extend(manifest),
            Err(error @ VaultError::Damaged { .. }) => {
                tracing::warn!(%error, "a base backup is left out");
                left_out.push((id, error));
            }
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|(a, stored_a), (b, stored_b)| {
        let at = |backup: &BackupManifest, stored: &Option<Timestamp>| stored.unwrap_or(backup.finished);
        (at(a, stored_a), &a.meta.id).cmp(&(at(b, stored_b), &b.meta.id))
    });
    let complete = found.into_iter().map(|(manifest, _)| manifest).collect();
    Ok(BackupList { complete, left_out })
}

pub(crate) async fn read_manifest(database: &DatabaseVault, id: &str) -> Result<Option<BackupManifest>, VaultError> {
    Ok(read_stored(database, id).await?.map(|(manifest, _)| manifest))
}

/// The manifest of a backup, and when the store made it: the oldest version of its key, for the same one put once more
/// over itself would look newer than it is. None: it never finished.
async fn read_stored(
    database: &DatabaseVault,
    id: &str,
) -> Result<Option<(BackupManifest, Option<Timestamp>)>, VaultError> {
    let key = database.keys.backup_manifest(id);
    let Some(object) = fetch::oldest(&*database.vault.store, &key).await? else { return Ok(None) };
    Ok(Some((parse_manifest(database, id, &key, &object)?, object.last_modified)))
}

fn parse_manifest(
    database: &DatabaseVault,
    id: &str,
    key: &str,
    object: &Object,
) -> Result<BackupManifest, VaultError> {
    let (decoded, body) = decode_stored(object).map_err(damaged(key))?;
    database.vault.trust.check(&decoded).map_err(damaged(key))?;
    let manifest: BackupManifest =
        serde_json::from_slice(&body).map_err(|e| damaged(key)(ObjectError::Header { reason: e.to_string() }))?;
    let fits = decoded.header.subject == manifest_subject(&database.name, manifest.system_id, id)
        && manifest.meta.id == id
        && manifest.key == decoded.header.key
        && manifest.nonce == decoded.header.nonce;
    if fits {
        return Ok(manifest);
    }
    Err(damaged(key)(ObjectError::Misplaced { reason: "it is not the manifest of this backup".into() }))
}

/// A part: its digest, the digest that it names, its plain bytes.
type Part = (Hash, Option<Hash>, Bytes);

/// Reads a base backup. A few parts are fetched ahead.
pub struct BackupReader {
    database: DatabaseVault,
    manifest: BackupManifest,
    identities: Identities,
    /// The next part to fetch, and the next to give.
    fetch: u32,
    give: u32,
    prev: Option<Hash>,
    ahead: VecDeque<JoinHandle<Result<Part, VaultError>>>,
    link: Arc<Semaphore>,
}

impl std::fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupReader").field("id", &self.manifest.meta.id).finish_non_exhaustive()
    }
}

impl Drop for BackupReader {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}

impl BackupReader {
    pub(crate) fn new(database: DatabaseVault, manifest: BackupManifest, identities: Identities) -> BackupReader {
        let (ahead, link) = (VecDeque::new(), Arc::new(Semaphore::new(FETCH_IN_FLIGHT)));
        BackupReader { database, manifest, identities, fetch: 0, give: 0, prev: None, ahead, link }
    }

    /// The next part, verified and opened; `None` after the last. An error ends the reading: begin again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, VaultError> {
        while self.fetch < self.manifest.parts && self.ahead.len() < READ_AHEAD {
            let (database, manifest, n) = (self.database.clone(), self.manifest.clone(), self.fetch);
            let (identities, link) = (self.identities.clone(), self.link.clone());
            self.ahead.push_back(tokio::spawn(async move {
                let object = {
                    // Never closed.
                    let _permit = link.acquire().await;
                    fetch_part(&database, &manifest, n).await?
                };
                open_part(database, manifest, n, object, identities).await
            }));
            self.fetch += 1;
        }
        let Some(next) = self.ahead.pop_front() else { return Ok(None) };
        let (hash, prev, plain) = next.await.map_err(|_| VaultError::Store(ended("a task that reads ended")))??;
        let last = self.give + 1 == self.manifest.parts;
        if prev != self.prev || (last && self.manifest.last_part != Some(hash)) {
            let key = self.database.keys.backup_part(&self.manifest.meta.id, self.give);
            let reason = "it does not follow the part before it".to_owned();
            return Err(damaged(&key)(ObjectError::Misplaced { reason }));
        }
        (self.prev, self.give) = (Some(hash), self.give + 1);
        Ok(Some(plain))
    }
}

async fn fetch_part(database: &DatabaseVault, manifest: &BackupManifest, n: u32) -> Result<Object, VaultError> {
    let key = database.keys.backup_part(&manifest.meta.id, n);
    let store = &*database.vault.store;
    match retrying(|| store.get(&key)).await? {
        Some(newest) if is_part(&newest.bytes, &database.name, manifest, n) => Ok(newest),
        _ => {
            let missing = || damaged(&key)(ObjectError::Truncated { have: 0, need: 1 });
            fetch::oldest(store, &key).await?.ok_or_else(missing)
        }
    }
}

async fn open_part(
    database: DatabaseVault,
    manifest: BackupManifest,
    n: u32,
    object: Object,
    identities: Identities,
) -> Result<Part, VaultError> {
    let key = database.keys.backup_part(&manifest.meta.id, n);
    let job = move || {
        let (decoded, body) = decode(&object.bytes)?;
        let prev = match &decoded.header.subject {
            Subject::BackupPart { prev, .. } if is_part(&object.bytes, &database.name, &manifest, n) => *prev,
            _ => {
                let reason = format!("it is not part {n} of backup {}", manifest.meta.id);
                return Err(ObjectError::Misplaced { reason });
            }
        };
        let none = || ObjectError::Misplaced { reason: "a part without a body".into() };
        let info = decoded.header.body.as_ref().ok_or_else(none)?;
        Ok((decoded.hash, prev, open(info, &body, &identities)?.into()))
    };
    let ended = |_| VaultError::Store(ended("the opening thread ended"));
    let opened: Result<Part, ObjectError> = tokio::task::spawn_blocking(job).await.map_err(ended)?;
    opened.map_err(damaged(&key))
}

/// Whether the header says that this is part `n` of the backup, signed by the backup's key.
fn is_part(bytes: &[u8], database: &str, manifest: &BackupManifest, n: u32) -> bool {
    let Ok(decoded) = decode_header(bytes) else { return false };
    let signer = (decoded.header.nonce, decoded.header.key) == (manifest.nonce, manifest.key);
    let Subject::BackupPart { prev, .. } = decoded.header.subject else { return false };
    signer && decoded.header.subject == part_subject(database, manifest.system_id, &manifest.meta.id, n, prev)
}
