//! Reading the log's objects, verified against the chain, the oldest version winning.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use holdfast_wal::Lsn;

use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::keys::{DatabaseKeys, Position};
use crate::log::claim::SealAnswer;
use crate::log::types::{Tampering, TamperingKind};
use crate::log::walk::{Cursor, LogFacts, Met};
use crate::object::{Decoded, Lineage, Link, ObjectError, decode_header, header_block_len};
use crate::store::{Created, Store};

/// Bytes that hold nearly every header, and a small chunk whole.
const FRONT: u64 = 4096;
/// Steps of a walk before a listing is worth its request.
const STREAK: u32 = 4;
/// Steps after which a walk gives way to a seal put ahead.
const MAX_STEPS: u32 = 24;
/// Keys of such a listing.
const LEAP: usize = 64;

/// The log of one database in a store.
#[derive(Clone)]
pub(crate) struct LogAccess {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: DatabaseKeys,
    pub(crate) facts: Arc<LogFacts>,
    /// The lineage that was registered, and the identity object: where the chain begins.
    pub(crate) genesis: (Lineage, Link),
}

impl LogAccess {
    pub(crate) fn genesis(&self) -> Cursor {
        Cursor::genesis(self.facts.clone(), self.genesis.0.clone(), self.genesis.1)
    }

    pub(crate) fn key(&self, at: Position) -> String {
        self.keys.at(at)
    }

    /// The newest version's header at a place, as it is; `None` when absent (or hidden).
    pub(crate) async fn header_at(&self, at: Position) -> Result<Option<Decoded>, VaultError> {
        let key = self.key(at);
        let Some(bytes) = self.front(&key).await? else { return Ok(None) };
        decode_header(&bytes).map(Some).map_err(damaged(&key))
    }

    async fn front(&self, key: &str) -> Result<Option<Bytes>, VaultError> {
        let Some(object) = retrying(|| self.store.get_front(key, FRONT)).await? else { return Ok(None) };
        let whole = object.bytes.len() as u64 >= object.total_len;
        let enough = header_block_len(&object.bytes).is_ok_and(|len| len <= object.bytes.len());
        if whole || enough {
            return Ok(Some(object.bytes));
        }
        Ok(retrying(|| self.store.get(key)).await?.map(|object| object.bytes))
    }

    /// Looks at the cursor's place and steps over what stands there. `None`: absent. With `sure`, versions are listed
    /// before absence is believed, so that a delete marker hides nothing.
    pub(crate) async fn step(&self, cursor: &mut Cursor, sure: bool) -> Result<Option<Met>, VaultError> {
        let key = self.key(cursor.position());
        match self.front(&key).await? {
            Some(bytes) => {
                let mut tried = cursor.clone();
                let found = decode_header(&bytes).and_then(|decoded| Ok((tried.apply(&decoded)?, decoded)));
                match found {
                    Ok((met, decoded)) if self.counts(&key, &met, &decoded).await? => {
                        *cursor = tried;
                        Ok(Some(met))
                    }
                    Ok(_) => self.step_oldest(cursor, &key, Some(newer())).await,
                    Err(error) => self.step_oldest(cursor, &key, Some(error)).await,
                }
            }
            None if sure => self.step_oldest(cursor, &key, None).await,
            None => Ok(None),
        }
    }

    /// Whether what was read counts. A seal decides who owns the log, so it must be the oldest version of its key: a
    /// sound one may land behind a delete marker that hides what stood there first. A chunk has one maker, who never
    /// makes two for one key.
    pub(crate) async fn counts(&self, key: &str, met: &Met, decoded: &Decoded) -> Result<bool, VaultError> {
        match met {
            Met::Chunk { .. } => Ok(true),
            Met::Seal(_) => self.is_oldest(key, decoded).await,
        }
    }

    pub(crate) async fn is_oldest(&self, key: &str, decoded: &Decoded) -> Result<bool, VaultError> {
        let versions = fetch::real_versions(&*self.store, key).await?;
        let Some((first, [_, ..])) = versions.split_first() else { return Ok(true) };
        let oldest = retrying(|| self.store.get_version(key, &first.id)).await?;
        let hash = oldest.and_then(|oldest| decode_header(&oldest.bytes).ok()).map(|oldest| oldest.hash);
        Ok(hash == Some(decoded.hash))
    }

    /// Steps over the oldest version. `found` is what was wrong with the newest, if there was one.
    async fn step_oldest(
        &self,
        cursor: &mut Cursor,
        key: &str,
        found: Option<ObjectError>,
    ) -> Result<Option<Met>, VaultError> {
        let Some((bytes, _)) = self.oldest(key, found).await? else { return Ok(None) };
        let decoded = decode_header(&bytes).map_err(damaged(key))?;
        cursor.apply(&decoded).map(Some).map_err(damaged(key))
    }

    /// The oldest version of a key whose newest is absent (`found` is `None`) or wrong. An error when there is no
    /// other version than the wrong one.
    pub(crate) async fn oldest(
        &self,
        key: &str,
        found: Option<ObjectError>,
    ) -> Result<Option<(Bytes, Option<Tampering>)>, VaultError> {
        let versions = retrying(|| self.store.versions(key)).await?;
        let hidden = versions.iter().any(|version| version.is_delete_marker);
        let mut real = versions.iter().filter(|version| !version.is_delete_marker);
        let (first, newer) = (real.next(), real.next().is_some());
        let what = match (&found, hidden, newer) {
            (None, true, _) => Some(TamperingKind::DeleteMarker),
            (None, false, _) => None, // It landed between the two looks.
            (Some(_), _, true) => Some(TamperingKind::NewerVersion),
            (Some(error), _, false) => return Err(damaged(key)(error.clone())),
        };
        let Some(first) = first else { return Ok(None) };
        let tampering = what.map(|what| Tampering { key: key.to_owned(), what });
        if let Some(tampering) = &tampering {
            tracing::warn!(%tampering, "tampering: the oldest version is read");
        }
        let object = retrying(|| self.store.get_version(key, &first.id)).await?;
        Ok(object.map(|object| (object.bytes, tampering)))
    }

    /// Walks to the first absent key. Whether a delete marker hides it is asked by who wins a seal there (rule 3) or,
    /// with `sure`, here.
    ///
    /// One by one, a walk is slower than a busy writer, who has several PUTs under way: after some steps it returns
    /// where it is. That is a place of the chain as good as its end: a seal put there wins only if it is the end.
    pub(crate) async fn walk(&self, mut cursor: Cursor, sure: bool) -> Result<Cursor, VaultError> {
        for step in 1..=MAX_STEPS {
            if self.step(&mut cursor, sure).await?.is_none() {
                break;
            }
            if step % STREAK == 0 {
                while self.leap(&mut cursor).await? > LEAP / 2 {}
            }
        }
        Ok(cursor)
    }

    /// Steps over what a listing shows at and after the cursor, fetched in parallel; returns how many. What does not
    /// fit is left to a step.
    async fn leap(&self, cursor: &mut Cursor) -> Result<usize, VaultError> {
        let at = cursor.position();
        // A listing begins after a key, and the one at the cursor is wanted too.
        let before = Position { start: Lsn(at.start.0.saturating_sub(1)), ..at };
        let found = self.ahead(before, LEAP).await?;
        let fetch = |(at, _)| async move { (at, self.front(&self.key(at)).await) };
        let mut fronts = std::pin::pin!(futures::stream::iter(found).map(fetch).buffered(LEAP / 4));
        let mut moved = 0;
        while let Some((at, front)) = fronts.next().await {
            if at != cursor.position() {
                break;
            }
            let mut tried = cursor.clone();
            let applied = front?.and_then(|bytes| decode_header(&bytes).ok()).map(|decoded| tried.apply(&decoded));
            if !matches!(applied, Some(Ok(Met::Chunk { .. }))) {
                break;
            }
            (*cursor, moved) = (tried, moved + 1);
        }
        Ok(moved)
    }

    /// Puts a seal and says what stands there. It is `Mine` only when the oldest version of the key is exactly it.
    pub(crate) async fn put_seal(&self, at: Position, object: &Bytes) -> Result<SealAnswer, VaultError> {
        let key = self.key(at);
        if fetch::create_until_known(&*self.store, &key, object.clone()).await? == Created::Exists {
            let there = retrying(|| self.store.get(&key)).await?;
            if there.is_none_or(|there| there.bytes != *object) {
                return Ok(SealAnswer::Foreign);
            }
        }
        self.confirm(&key, object).await
    }

    /// After a delete marker a key is free again: create-if-absent alone does not prove that nothing stood there.
    async fn confirm(&self, key: &str, object: &Bytes) -> Result<SealAnswer, VaultError> {
        let versions = fetch::real_versions(&*self.store, key).await?;
        let Some((first, [_, ..])) = versions.split_first() else { return Ok(SealAnswer::Mine) };
        let oldest = retrying(|| self.store.get_version(key, &first.id)).await?;
        let mine = oldest.is_some_and(|oldest| oldest.bytes == *object);
        Ok(if mine { SealAnswer::Mine } else { SealAnswer::Foreign })
    }
}

/// What is wrong with a sound object that is not the first at its key.
pub(crate) fn newer() -> ObjectError {
    ObjectError::Misplaced { reason: "another object stood here first".into() }
}
