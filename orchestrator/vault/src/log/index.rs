//! Index objects: now and then, a reader that walked the log writes down where the chain stands, so that whoever opens
//! the log begins there instead of at its beginning.
//!
//! Indexes are counted: index `n + 1` names index `n` by its digest. The newest is found by asking for the next until
//! there is none, never by a listing alone, so that an old one that is shown again (a stale listing, a rolled-back
//! copy) is noticed. An index that does not hold (damaged, of another log, by a writer that is not trusted, out of its
//! order) is passed over and reported: whoever could put it must not be able to end the log with it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_wal::{Lsn, SystemId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::keys::Position;
use crate::log::access::LogAccess;
use crate::log::incarnation::Incarnation;
use crate::log::mutant::{Mutant, on};
use crate::log::types::SealSummary;
use crate::log::walk::{Cursor, LogFacts, Owner};
use crate::object::{
    Decoded, Hash, Lineage, Link, MAX_HEADER_BLOCK_LEN, Nonce, ObjectError, PublicKey, SealKind, Subject,
    decode_stored_header, encode_header,
};
use crate::segment::SegmentLink;
use crate::store::{Object, VersionsMarker, VersionsRequest};
use crate::trust::WriterPublic;

/// Indexes read at the same time, once one did not hold: whoever could put one could put many.
const MAX_AT_ONCE: u64 = 16;

/// A place of the chain, written down: all that a [`Cursor`] knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The key to look at next: the open epoch and the end of the chain so far.
    pub at: Position,
    /// What the object there must name as standing before it: one link, or two after a seal that was put ahead.
    pub prev: Vec<Link>,
    /// The lineage of the log there.
    pub lineage: Lineage,
    /// The seal that opened the epoch; none in epoch 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opener: Option<EpochOpener>,
}

/// The seal that opened an epoch, as an index keeps it. Its lineage is the place's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpener {
    /// What for.
    pub seal: SealKind,
    /// Where it stands.
    pub at: Position,
    /// Where the epoch that it opened starts.
    pub next_start: Lsn,
    /// Whose.
    pub nonce: Nonce,
    /// The key of the next epoch's owner.
    pub key: PublicKey,
    /// It was put ahead of the tail.
    #[serde(default)]
    pub ahead: bool,
    /// Who, for people.
    pub by: String,
    /// When, by its maker's clock; for people.
    pub created: Timestamp,
    /// The writer key that vouched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterPublic>,
    /// When the store made it, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Timestamp>,
}

/// What an index object says. It has no body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The database's name in the vault.
    pub database: String,
    /// The database's system identifier.
    pub system_id: SystemId,
    /// Counted from 0: its key.
    pub n: u64,
    /// The index before it; none in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<IndexLink>,
    /// How far its maker had walked.
    pub place: Place,
    /// All WAL on the chain before this place is in segment objects. It is never after `place`; none: no WAL is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Place>,
    /// The last of those segments, through which all hang together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentLink>,
}

/// What is in segments, to be written down in an index.
#[derive(Clone, Copy, Debug)]
pub struct Archived<'a> {
    /// All WAL on the chain before this place is in segment objects.
    pub place: &'a Cursor,
    /// The last of those.
    pub segment: SegmentLink,
}

/// What names an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexLink {
    /// Which one.
    pub n: u64,
    /// The SHA-256 of its header block.
    pub hash: Hash,
}

/// An index that stands in the vault and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIndex {
    /// What it says.
    pub index: Index,
    /// The SHA-256 of its header block.
    pub hash: Hash,
    /// When the store made it, by the store's clock.
    pub stored: Option<Timestamp>,
}

/// What became of an index that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexWritten {
    /// It stands, and is the newest.
    Stored(StoredIndex),
    /// Somebody else's stands at its number: walk on from that one.
    Lost(StoredIndex),
}

impl StoredIndex {
    /// What names it.
    pub fn link(&self) -> IndexLink {
        IndexLink { n: self.index.n, hash: self.hash }
    }

    /// All WAL of the log below this position is in segment objects; none when no WAL is.
    pub fn segments_end(&self) -> Option<Lsn> {
        self.index.archived.as_ref().map(|place| place.at.start)
    }
}

impl Cursor {
    /// This place, to be written down in an index.
    pub fn place(&self) -> Place {
        let opener = self.opened_by().zip(self.owner().or(self.taker())).map(|(seal, owner)| EpochOpener {
            seal: seal.kind,
            at: seal.at,
            next_start: seal.next_start,
            nonce: owner.nonce,
            key: owner.key,
            ahead: seal.ahead,
            by: seal.by.clone(),
            created: seal.created,
            writer: seal.writer,
            stored: self.opener_stored(),
        });
        Place { at: self.position(), prev: self.prev().to_vec(), lineage: self.lineage().clone(), opener }
    }

    /// The place that an index names: a verified place of its maker. What cannot be a place of any chain is refused.
    pub fn from_place(facts: Arc<LogFacts>, place: &Place) -> Result<Cursor, ObjectError> {
        let holds = place.at.start >= facts.origin
            && matches!(place.prev.len(), 1 | 2)
            && place.prev.iter().all(|link| link.at <= place.at)
            && place.lineage.history.entries.is_sorted_by(|a, b| a.timeline < b.timeline && a.switch <= b.switch)
            && place.lineage.history.entries.last().is_none_or(|last| last.timeline < place.lineage.history.timeline)
            && place.opener.as_ref().map_or(place.at.epoch == 0 && place.at.start == facts.origin, |o| opens(o, place));
        if !holds {
            return Err(ObjectError::Misplaced {
                reason: format!("{} as it says cannot be a place of a log", place.at),
            });
        }
        let opener = place.opener.as_ref().map(|opener| {
            let owner = Owner { nonce: opener.nonce, key: opener.key };
            (summary(opener, &place.lineage), owner, opener.stored)
        });
        Ok(Cursor::restored(facts, place.at, place.prev.clone(), place.lineage.clone(), opener))
    }
}

fn opens(opener: &EpochOpener, place: &Place) -> bool {
    let pending = opener.seal == SealKind::Takeover;
    opener.at.epoch.checked_add(1) == Some(place.at.epoch)
        && opener.next_start <= opener.at.start
        && (opener.next_start == opener.at.start || opener.seal == SealKind::Promote)
        && place.at.start >= opener.next_start
        && (place.at.start == opener.next_start || !pending)
        && (pending || !opener.ahead)
}

fn summary(opener: &EpochOpener, lineage: &Lineage) -> SealSummary {
    SealSummary {
        kind: opener.seal,
        at: opener.at,
        next_start: opener.next_start,
        lineage: lineage.clone(),
        nonce: opener.nonce,
        by: opener.by.clone(),
        ahead: opener.ahead,
        created: opener.created,
        writer: opener.writer,
    }
}

/// Whether an object that was found where index `n` belongs is one of this log that follows `before`.
pub fn check_index(
    facts: &Arc<LogFacts>,
    n: u64,
    before: Option<&StoredIndex>,
    decoded: &Decoded,
) -> Result<StoredIndex, ObjectError> {
    let misplaced = |reason: String| Err(ObjectError::Misplaced { reason });
    let Subject::Index(index) = &decoded.header.subject else {
        return misplaced("not an index".into());
    };
    if index.database != facts.database || index.system_id != facts.system_id {
        return misplaced(format!("the index of `{}` with system identifier {}", index.database, index.system_id));
    }
    if index.n != n {
        return misplaced(format!("index {}, where index {n} belongs", index.n));
    }
    facts.trust.check(decoded)?;
    if index.prev.is_some_and(|prev| prev.n >= n) {
        return misplaced("it names an index before it that comes after it".into());
    }
    Cursor::from_place(facts.clone(), &index.place)?;
    if let Some(archived) = &index.archived {
        Cursor::from_place(facts.clone(), archived)?;
        if archived.at > index.place.at {
            return misplaced("its segments end after its place".into());
        }
    }
    if let Some(before) = before {
        follows(index, before)?;
    }
    Ok(StoredIndex { index: (**index).clone(), hash: decoded.hash, stored: decoded.stored })
}

fn follows(index: &Index, before: &StoredIndex) -> Result<(), ObjectError> {
    let misplaced = |reason: String| Err(ObjectError::Misplaced { reason });
    if index.prev != Some(before.link()) {
        return misplaced(format!("it does not follow index {}", before.index.n));
    }
    let archived = |index: &Index| index.archived.as_ref().map(|place| place.at);
    if index.place.at < before.index.place.at || archived(index) < archived(&before.index) {
        return misplaced(format!("it goes back behind index {}", before.index.n));
    }
    Ok(())
}

impl LogAccess {
    /// The newest index; none when the log has none.
    pub(crate) async fn newest_index(&self) -> Result<Option<StoredIndex>, VaultError> {
        let listed = self.last_indexes().await?;
        if let Some(last) = listed.last()
            && let Some(found) = self.last_of_all(*last).await?
        {
            return Ok(Some(found));
        }
        self.newest_index_after(self.listed_index(listed).await?).await
    }

    /// Index `n`, if one look at its versions and at those of the number after it shows that it is the newest: one request
    /// less than asking for both, and believed as much. None: it is not, it does not hold, or somebody touched it.
    async fn last_of_all(&self, n: u64) -> Result<Option<StoredIndex>, VaultError> {
        let (key, next) = (self.keys.index(n), self.keys.index(n.saturating_add(1)));
        let same = key.bytes().zip(next.bytes()).take_while(|(a, b)| a == b).count();
        let after = n.checked_sub(1).map(|n| VersionsMarker { key: self.keys.index(n), id: None });
        let request = VersionsRequest { prefix: &key[..same], after: after.as_ref(), limit: 3 };
        let page = retrying(|| self.store.list_versions(request.clone())).await?;
        let [only] = page.versions.as_slice() else { return Ok(None) };
        if page.next.is_some() || only.key != key || only.is_delete_marker || on(Mutant::OldIndex) {
            return Ok(None);
        }
        let Some(object) = retrying(|| self.store.get_front(&key, MAX_HEADER_BLOCK_LEN)).await? else {
            return Ok(None);
        };
        let is_only = object.version_id.as_ref().is_none_or(|read| *read == only.id);
        Ok(self.check_object(n, None, &object).ok().filter(|_| is_only))
    }

    /// The newest index, from one that is known on: the next is asked for until there is none, however many of them do
    /// not hold. Usually there is none at once.
    pub(crate) async fn newest_index_after(
        &self,
        mut newest: Option<StoredIndex>,
    ) -> Result<Option<StoredIndex>, VaultError> {
        if on(Mutant::OldIndex) {
            let newer = |listed: &StoredIndex| newest.as_ref().is_none_or(|newest| newest.index.n < listed.index.n);
            let listed = self.last_indexes().await?;
            return Ok(self.listed_index(listed).await?.filter(newer).or(newest));
        }
        let (mut next, mut at_once) = (newest.as_ref().map_or(0, |newest| newest.index.n.saturating_add(1)), 1);
        loop {
            let upto = next.saturating_add(at_once);
            let objects = self.index_objects(next..upto).await?;
            for (n, object) in (next..upto).zip(objects) {
                let Some(object) = object else { return Ok(newest) };
                match self.check_object(n, newest.as_ref(), &object) {
                    Ok(found) => (newest, at_once) = (Some(found), 1),
                    Err(error) => {
                        tracing::warn!(%error, "an index that does not hold is passed over");
                        at_once = (at_once * 2).min(MAX_AT_ONCE);
                    }
                }
            }
            if upto == next {
                return Ok(newest);
            }
            next = upto;
        }
    }

    /// The newest of the indexes that listings show and that hold: a hint of where to ask for the next.
    async fn listed_index(&self, listed: Vec<u64>) -> Result<Option<StoredIndex>, VaultError> {
        let Some(last) = listed.last().copied() else { return Ok(None) };
        if let Some(found) = self.last_that_holds(listed).await? {
            return Ok(Some(found));
        }
        // Numbers that somebody made up may stand far behind all others, and fill the last page.
        let run = self.first_indexes(last).await?;
        self.last_that_holds((0..run).collect()).await
    }

    async fn last_that_holds(&self, mut numbers: Vec<u64>) -> Result<Option<StoredIndex>, VaultError> {
        let mut at_once = 1;
        while !numbers.is_empty() {
            let tried = numbers.split_off(numbers.len().saturating_sub(at_once as usize));
            let objects = self.index_objects(tried.iter().copied()).await?;
            for (n, object) in tried.into_iter().zip(objects).rev() {
                if let Some(Ok(found)) = object.map(|object| self.check_object(n, None, &object)) {
                    return Ok(Some(found));
                }
            }
            at_once = (at_once * 2).min(MAX_AT_ONCE);
        }
        Ok(None)
    }

    /// The oldest versions at the keys of some indexes, in their order.
    async fn index_objects(&self, numbers: impl IntoIterator<Item = u64>) -> Result<Vec<Option<Object>>, VaultError> {
        let keys: Vec<String> = numbers.into_iter().map(|n| self.keys.index(n)).collect();
        // An index has no body: of what is longer the front is enough to see that.
        let read = |key: String| async move { fetch::oldest_front(&*self.store, &key, MAX_HEADER_BLOCK_LEN).await };
        Ok(futures::stream::iter(keys).map(read).buffered(MAX_AT_ONCE as usize).try_collect().await?)
    }

    /// The oldest version at the key of index `n`: absent, not an index of this log, or one.
    pub(crate) async fn index_at(
        &self,
        n: u64,
        before: Option<&StoredIndex>,
    ) -> Result<Option<Result<StoredIndex, VaultError>>, VaultError> {
        let object = self.index_objects([n]).await?.pop().flatten();
        Ok(object.map(|object| self.check_object(n, before, &object)))
    }

    fn check_object(&self, n: u64, before: Option<&StoredIndex>, object: &Object) -> Result<StoredIndex, VaultError> {
        let checked = decode_stored_header(object).and_then(|decoded| {
            let whole = decoded.body_at as u64 == object.total_len && decoded.header.body.is_none();
            if whole { check_index(&self.facts, n, before, &decoded) } else { Err(ObjectError::Body) }
        });
        checked.map_err(damaged(&self.keys.index(n)))
    }

    /// The index that another one names as the one before it; none before the first.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] when it is not there, is another one, or goes further than the one that names it.
    pub(crate) async fn index_before(&self, index: &StoredIndex) -> Result<Option<StoredIndex>, VaultError> {
        let Some(link) = index.index.prev else { return Ok(None) };
        match self.index_at(link.n, None).await? {
            Some(Ok(found)) if found.hash == link.hash => {
                follows(&index.index, &found).map_err(damaged(&self.keys.index(index.index.n)))?;
                Ok(Some(found))
            }
            Some(Err(error)) => Err(error),
            _ => {
                let reason = format!("index {} names an index here that is not there", index.index.n);
                Err(damaged(&self.keys.index(link.n))(ObjectError::Misplaced { reason }))
            }
        }
    }

    /// Writes the next index: the chain stands at `place`, and all WAL before `archived` is in segments. `before` is
    /// the newest index that its maker knows. Both places must be verified ones, not before those of `before`.
    pub(crate) async fn write_index(
        &self,
        me: &Incarnation,
        before: Option<&StoredIndex>,
        place: &Cursor,
        archived: Option<Archived<'_>>,
    ) -> Result<IndexWritten, VaultError> {
        let mut n = before.map_or(0, |before| before.index.n + 1);
        loop {
            let key = self.keys.index(n);
            let object = self.encode_index(me, n, before, (place, archived)).map_err(damaged(&key))?;
            fetch::create_until_known(&*self.store, &key, object.clone()).await?;
            // Whoever wins and whoever loses: the oldest version is what stands there.
            match self.index_at(n, before).await? {
                Some(Ok(found)) if found.hash == Hash::of(&object) => return Ok(IndexWritten::Stored(found)),
                Some(Ok(found)) => return Ok(IndexWritten::Lost(found)),
                // One that does not hold is passed over, by everybody.
                Some(Err(error)) => tracing::warn!(%error, "an index that does not hold is passed over"),
                None => tracing::warn!(key, "an index was created and is not there"),
            }
            // Who puts what does not hold puts one object for each step; the first key that he has not taken is ours.
            let Some(next) = n.checked_add(1) else {
                let reason = "it is the last number, and it is taken by what is no index of this log".to_owned();
                return Err(damaged(&key)(ObjectError::Misplaced { reason }));
            };
            n = next;
        }
    }

    pub(crate) fn encode_index(
        &self,
        me: &Incarnation,
        n: u64,
        before: Option<&StoredIndex>,
        (place, archived): (&Cursor, Option<Archived<'_>>),
    ) -> Result<Bytes, ObjectError> {
        let index = Index {
            database: self.facts.database.clone(),
            system_id: self.facts.system_id,
            n,
            prev: before.map(StoredIndex::link),
            place: place.place(),
            archived: archived.map(|archived| archived.place.place()),
            segment: archived.map(|archived| archived.segment),
        };
        let (block, _) = encode_header(&me.header(Subject::Index(Box::new(index))), me.key())?;
        Ok(block.into())
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
