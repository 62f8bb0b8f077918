//! Index objects: now and then, a reader that walked the log writes down where the chain stands, so that whoever opens
//! the log begins there instead of at its beginning.
//!
//! Indexes are counted: index `n + 1` names index `n` by its digest. The newest is found by asking for the next until
//! there is none, never by a listing alone, so that an old one that is shown again (a stale listing, a rolled-back
//! copy) is noticed. An index that does not hold (damaged, of another log, by a writer that is not trusted, out of its
//! order) is passed over and reported: whoever could put it must not be able to end the log with it.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_wal::{Lsn, SystemId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::fetch::{self, damaged};
use crate::keys::Position;
use crate::log::access::LogAccess;
use crate::log::incarnation::Incarnation;
use crate::log::mutant::{Mutant, on};
use crate::log::types::SealSummary;
use crate::log::walk::{Cursor, LogFacts, Owner};
use crate::object::{
    Decoded, Hash, Lineage, Link, Nonce, ObjectError, PublicKey, SealKind, Subject, decode_stored, encode_header,
};
use crate::segment::SegmentLink;
use crate::trust::WriterPublic;

/// Indexes that do not hold, one after another, before it is said that something is wrong with the vault.
const MAX_PASSED_OVER: u32 = 16;
/// The newest listed indexes that are tried as the one to begin at.
const CANDIDATES: usize = 4;

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
        let newest = self.listed_index().await?;
        if on(Mutant::OldIndex) {
            return Ok(newest);
        }
        self.newest_index_after(newest).await
    }

    /// The newest index, from one that is known on.
    pub(crate) async fn newest_index_after(
        &self,
        mut newest: Option<StoredIndex>,
    ) -> Result<Option<StoredIndex>, VaultError> {
        let (mut next, mut passed_over) = (newest.as_ref().map_or(0, |newest| newest.index.n + 1), 0);
        while let Some(found) = self.index_at(next, newest.as_ref()).await? {
            match found {
                Ok(found) => (newest, passed_over) = (Some(found), 0),
                Err(error) => {
                    tracing::warn!(%error, "an index that does not hold is passed over");
                    passed_over += 1;
                    if passed_over > MAX_PASSED_OVER {
                        return Err(error);
                    }
                }
            }
            next += 1;
        }
        Ok(newest)
    }

    /// One of the newest indexes that a listing shows: a hint of where to ask for the next.
    async fn listed_index(&self) -> Result<Option<StoredIndex>, VaultError> {
        let listed = self.last_indexes().await?;
        for n in listed.into_iter().rev().take(CANDIDATES) {
            if let Some(Ok(found)) = self.index_at(n, None).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The oldest version at the key of index `n`: absent, not an index of this log, or one.
    pub(crate) async fn index_at(
        &self,
        n: u64,
        before: Option<&StoredIndex>,
    ) -> Result<Option<Result<StoredIndex, VaultError>>, VaultError> {
        let key = self.keys.index(n);
        let Some(object) = fetch::oldest(&*self.store, &key).await? else { return Ok(None) };
        let checked = decode_stored(&object).and_then(|(decoded, _)| check_index(&self.facts, n, before, &decoded));
        Ok(Some(checked.map_err(damaged(&key))))
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
        for _ in 0..=MAX_PASSED_OVER {
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
            n += 1;
        }
        let reason = format!("{} objects in a row that are no index of this log", MAX_PASSED_OVER + 1);
        Err(VaultError::Damaged { key: self.keys.index(n), error: ObjectError::Misplaced { reason } })
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
