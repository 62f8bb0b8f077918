//! Reading the log's objects, verified against the chain, the oldest version winning.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use crate::error::VaultError;
use crate::fetch::{self, Backoff, damaged, retrying};
use crate::keys::{DatabaseKeys, Position};
use crate::log::claim::SealAnswer;
use crate::log::mutant::{Mutant, on};
use crate::log::open::just_before;
use crate::log::types::{Tampering, TamperingKind};
use crate::log::walk::{Cursor, LogFacts, Met};
use crate::object::{Decoded, Lineage, Link, ObjectError, decode_header, decode_stored_header, header_block_len};
use crate::store::{Created, Object, Store, StoreError, StoreErrorKind};

/// Bytes that hold nearly every header, and a small chunk whole.
const FRONT: u64 = 4096;
/// Steps of a walk before a listing is worth its request.
const STREAK: u32 = 4;
/// Steps after which a taker's walk gives way to a seal: one by one, a walk is slower than a busy writer, who has several
/// PUTs under way.
pub(crate) const TAKER_STEPS: u32 = 24;
/// Looks at the versions of a key where a seal was just stored, before the store's listing is given up.
const MAX_LOOKS: u32 = 8;
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
        let Some(object) = self.front(&key).await? else { return Ok(None) };
        decode_stored_header(&object).map(Some).map_err(damaged(&key))
    }

    pub(crate) async fn front(&self, key: &str) -> Result<Option<Object>, VaultError> {
        let Some(object) = retrying(|| self.store.get_front(key, FRONT)).await? else { return Ok(None) };
        let whole = object.bytes.len() as u64 >= object.total_len;
        let enough = header_block_len(&object.bytes).is_ok_and(|len| len <= object.bytes.len());
        if whole || enough {
            return Ok(Some(object));
        }
        Ok(retrying(|| self.store.get(key)).await?)
    }

    /// Looks at the cursor's place and steps over what stands there. `None`: absent. With `sure`, versions are listed
    /// before absence is believed, so that a delete marker hides nothing.
    pub(crate) async fn step(&self, cursor: &mut Cursor, sure: Sure) -> Result<Option<Met>, VaultError> {
        let key = self.key(cursor.position());
        if let Sure::Beyond(listed) = sure
            && cursor.position() > listed
        {
            // Nothing is expected: one request that believes no delete marker, instead of two.
            return self.step_oldest(cursor, &key, None, sure).await;
        }
        match self.front(&key).await? {
            Some(object) => {
                let mut tried = cursor.clone();
                let found = decode_stored_header(&object).and_then(|decoded| Ok((tried.apply(&decoded)?, decoded)));
                match found {
                    Ok((met, decoded)) if self.counts(&key, &met, &decoded).await? => {
                        self.check_age(&key, &decoded, sure)?;
                        *cursor = tried;
                        Ok(Some(met))
                    }
                    Ok(_) => self.step_oldest(cursor, &key, Some(newer()), sure).await,
                    Err(error) => self.step_oldest(cursor, &key, Some(error), sure).await,
                }
            }
            None if matches!(sure, Sure::No) => Ok(None),
            None => self.step_oldest(cursor, &key, None, sure).await,
        }
    }

    fn check_age(&self, key: &str, decoded: &Decoded, sure: Sure) -> Result<(), VaultError> {
        if matches!(sure, Sure::Covered) { Ok(()) } else { self.check_fresh(key, decoded) }
    }

    /// Rule 17: a chunk that no index covers and that is older than half its lifetime may soon be gone.
    pub(crate) fn check_fresh(&self, key: &str, decoded: &Decoded) -> Result<(), VaultError> {
        let Some((stored, limit)) = self.facts.stale(decoded, self.store.now()) else { return Ok(()) };
        Err(VaultError::NotIndexed { key: key.to_owned(), stored, limit })
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
        sure: Sure,
    ) -> Result<Option<Met>, VaultError> {
        let Some((object, _)) = self.oldest(key, found).await? else { return Ok(None) };
        let decoded = decode_stored_header(&object).map_err(damaged(key))?;
        self.check_age(key, &decoded, sure)?;
        cursor.apply(&decoded).map(Some).map_err(damaged(key))
    }

    /// The oldest version of a key whose newest is absent (`found` is `None`) or wrong. An error when there is no
    /// other version than the wrong one.
    pub(crate) async fn oldest(
        &self,
        key: &str,
        found: Option<ObjectError>,
    ) -> Result<Option<(Object, Option<Tampering>)>, VaultError> {
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
        let Some(first) = first.filter(|_| !(hidden && on(Mutant::MarkerIsAbsence))) else { return Ok(None) };
        let tampering = what.map(|what| Tampering { key: key.to_owned(), what });
        if let Some(tampering) = &tampering {
            tracing::warn!(%tampering, "tampering: the oldest version is read");
        }
        let object = retrying(|| self.store.get_version(key, &first.id)).await?;
        Ok(object.map(|object| (object, tampering)))
    }

    /// Walks to the first absent key, however far it is.
    pub(crate) async fn walk(&self, cursor: Cursor, sure: Sure) -> Result<Cursor, VaultError> {
        self.walk_up_to(cursor, sure, u32::MAX).await
    }

    /// Walks on, and after so many steps returns where it is. Less than all the way is a place of the chain as good as its
    /// end for who puts a seal there, which wins only if it is the end; it is no answer to where the log ends.
    pub(crate) async fn walk_up_to(
        &self,
        mut cursor: Cursor,
        sure: Sure,
        max_steps: u32,
    ) -> Result<Cursor, VaultError> {
        for step in 1..=max_steps {
            if self.step(&mut cursor, sure).await?.is_none() {
                break;
            }
            if step % STREAK == 0 {
                while self.leap(&mut cursor).await? > LEAP / 2 {}
            }
        }
        #[cfg(test)]
        if on(Mutant::SealAtListed)
            && let Some(listed) = self.listed_end(&cursor).await?
        {
            return Ok(listed);
        }
        Ok(cursor)
    }

    /// The end of what a listing shows, whatever hole lies before it: what a mutant takes for the tail.
    #[cfg(test)]
    async fn listed_end(&self, cursor: &Cursor) -> Result<Option<Cursor>, VaultError> {
        let Some((at, _)) = self.ahead(cursor.position(), LEAP).await?.pop() else { return Ok(None) };
        let Some(decoded) = self.header_at(at).await? else { return Ok(None) };
        let crate::object::Subject::Chunk(chunk) = &decoded.header.subject else { return Ok(None) };
        Ok(Some(cursor.forged(chunk.end, Link { at, hash: decoded.hash })))
    }

    /// Steps over what a listing shows at and after the cursor, fetched in parallel; returns how many. What does not
    /// fit is left to a step.
    async fn leap(&self, cursor: &mut Cursor) -> Result<usize, VaultError> {
        let found = self.ahead(just_before(cursor.position()), LEAP).await?;
        self.leap_over(cursor, found.into_iter().map(|(at, _)| at).collect()).await
    }

    /// The same of what stands at these places.
    pub(crate) async fn leap_over(&self, cursor: &mut Cursor, places: Vec<Position>) -> Result<usize, VaultError> {
        let fetch = |at| async move { (at, self.front(&self.key(at)).await) };
        let mut fronts = std::pin::pin!(futures::stream::iter(places).map(fetch).buffered(LEAP / 4));
        let mut moved = 0;
        while let Some((at, front)) = fronts.next().await {
            if at != cursor.position() {
                break;
            }
            let mut tried = cursor.clone();
            let decoded = front?.and_then(|object| decode_stored_header(&object).ok());
            let decoded = decoded.filter(|decoded| self.check_fresh("", decoded).is_ok());
            if !matches!(decoded.map(|decoded| tried.apply(&decoded)), Some(Ok(Met::Chunk { .. }))) {
                break;
            }
            (*cursor, moved) = (tried, moved + 1);
        }
        Ok(moved)
    }

    /// Puts a seal and says what stands there. It is `Mine` only when the oldest version of the key is exactly it.
    pub(crate) async fn put_seal(&self, at: Position, object: &Bytes) -> Result<SealAnswer, VaultError> {
        let created = fetch::create_until_known(&*self.store, &self.key(at), object.clone()).await?;
        let mut backoff = Backoff::store();
        for _ in 1..MAX_LOOKS {
            if let Some(answer) = self.seal_answered(at, object, created).await? {
                return Ok(answer);
            }
            tracing::debug!(key = self.key(at), "a seal that was just stored is not listed yet");
            tokio::time::sleep(backoff.step()).await;
        }
        let answer = self.seal_answered(at, object, created).await?;
        answer.ok_or_else(|| not_listed(&self.key(at)).into())
    }

    /// What the answer to the creation of a seal means. After a delete marker a key is free again: create-if-absent
    /// alone does not prove that nothing stood there. None: the listing of versions is behind and shows none, which neither
    /// proves that nothing stood there first, nor tells since when the epoch counts (rule 17).
    pub(crate) async fn seal_answered(
        &self,
        at: Position,
        object: &Bytes,
        created: Created,
    ) -> Result<Option<SealAnswer>, VaultError> {
        let key = &self.key(at);
        if created == Created::Exists {
            let there = retrying(|| self.store.get(key)).await?;
            if !there.is_some_and(|there| is_same(&there.bytes, object)) {
                return Ok(Some(SealAnswer::Foreign));
            }
        }
        let versions = retrying(|| self.store.versions(key)).await?;
        let marked = versions.iter().any(|version| version.is_delete_marker);
        let mut real = versions.iter().filter(|version| !version.is_delete_marker);
        if on(Mutant::MarkerIsAbsence) {
            let stored = real.next_back().and_then(|version| version.last_modified);
            return Ok(Some(SealAnswer::Mine { stored }));
        }
        let Some(first) = real.next() else { return Ok(None) };
        let stored = first.last_modified;
        if real.next().is_none() && !marked {
            return Ok(Some(SealAnswer::Mine { stored }));
        }
        let oldest = retrying(|| self.store.get_version(key, &first.id)).await?;
        let mine = oldest.is_some_and(|oldest| is_same(&oldest.bytes, object));
        Ok(Some(if mine { SealAnswer::Mine { stored } } else { SealAnswer::Foreign }))
    }
}

/// The seal may be there or not: whoever put it asks again.
fn not_listed(key: &str) -> StoreError {
    let (kind, operation) = (StoreErrorKind::Unreachable, "ListObjectVersions");
    let detail = "a seal was stored here, and no version of it is listed".to_owned();
    StoreError { kind, operation, target: key.to_owned(), detail }
}

/// Whether two objects are one and the same: the whole content, nonce included.
pub(crate) fn is_same(there: &Bytes, ours: &Bytes) -> bool {
    if on(Mutant::IdentityWithoutNonce) || on(Mutant::RecutOnRetry) {
        let (Ok(there), Ok(ours)) = (decode_header(there), decode_header(ours)) else { return false };
        return if on(Mutant::RecutOnRetry) {
            there.header.nonce == ours.header.nonce
        } else {
            there.header.subject == ours.header.subject
        };
    }
    there == ours
}

/// How a walk believes that a key is absent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sure {
    /// As a GET says: who puts a seal there is told more (rule 3).
    No,
    /// When the key has no versions at all, so that no delete marker hides anything.
    Yes,
    /// The same; a listing showed nothing beyond this place.
    Beyond(Position),
    /// As with `Yes`; an index covers what is met, or will: its age says nothing.
    #[cfg_attr(not(test), allow(dead_code, reason = "the reader that ships opens bodies on the way"))]
    Covered,
}

/// What is wrong with a sound object that is not the first at its key.
pub(crate) fn newer() -> ObjectError {
    ObjectError::Misplaced { reason: "another object stood here first".into() }
}
