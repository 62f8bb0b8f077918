//! Where to begin: a verified place of the chain near its end, or at or before a position, without reading
//! everything. Listings are hints; what they lead to is verified, and a wrong hint only costs time.

use holdfast_wal::Lsn;

use jiff::Timestamp;

use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::keys::Position;
use crate::log::access::{LogAccess, Sure};
use crate::log::index::StoredIndex;
use crate::log::mutant::{Mutant, on};
use crate::log::types::StoredStretch;
use crate::log::walk::{Cursor, Met};
use crate::object::{Decoded, Link, Subject, decode_stored_header};
use crate::store::{Entry, ListRequest, Listing};

/// Keys of one page.
const PAGE: usize = 1000;
/// How many of the newest keys of an epoch are looked at for a place to begin.
const CANDIDATES: usize = 16;
/// Listings in search of the end of a folder; each halves what is left.
const MAX_PROBES: usize = 80;
/// Objects read side by side between the place that a chunk leads to and the chunk: more than a writer has in flight.
const MAX_BETWEEN: usize = 16;
/// Objects looked at, going back, for the stretches of an overlap check.
const MAX_BACK: usize = 64;

/// Seals, one after another, that a reader follows to see whether a seal is on the chain.
const SEALS_IN_A_ROW: usize = 32;
/// Openers followed back from a hint to the place where the walk began.
const MAX_OPENERS: usize = 8;

/// The newest index, when it was last looked for.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// The index.
    pub(crate) index: Option<StoredIndex>,
    /// The store's time then, or somewhat before; none before its first answer.
    looked: Option<Timestamp>,
}

/// A verified place near the end of the chain.
pub(crate) struct Near {
    /// The place.
    pub(crate) cursor: Cursor,
    /// The newest index, where the search for it began.
    pub(crate) known: Known,
    /// Beyond it a listing showed nothing.
    pub(crate) listed: Position,
}

impl LogAccess {
    /// A place near the end of the chain: the newest index, or what its place leads to by the statements of writers
    /// further on. Where chunks may have been deleted (before that index) nothing is believed: a key came free again
    /// there, and what stands at it now may be the work of somebody who slept.
    pub(crate) async fn near_end(&self) -> Result<Near, VaultError> {
        let looked = self.store.now();
        let index = self.newest_index().await?;
        self.near_end_from(Known { index, looked }).await
    }

    async fn near_end_from(&self, known: Known) -> Result<Near, VaultError> {
        let (base, indexed) = (self.base(known.index.as_ref())?, known.index.is_some());
        let newest = self.newest_places(base.position(), indexed).await?;
        let listed = newest.last().copied().unwrap_or(just_before(base.position()));
        for at in newest.iter().copied().rev().take(CANDIDATES) {
            if at <= base.position() {
                break;
            }
            if let Some((begun, found)) = self.begin_by(at, &base, indexed).await? {
                let cursor = self.up_to(begun, &newest, (at, &found)).await?;
                return Ok(Near { cursor, known, listed });
            }
        }
        Ok(Near { cursor: base, known, listed })
    }

    /// From a place to behind the object that led to it, which is in hand: over what its writer had in flight before it. A
    /// listing shows where that stands, so it is read side by side.
    async fn up_to(
        &self,
        mut cursor: Cursor,
        listed: &[Position],
        (at, found): (Position, &Decoded),
    ) -> Result<Cursor, VaultError> {
        let between = |place: &Position| cursor.position() <= *place && *place < at;
        let between: Vec<Position> = listed.iter().copied().filter(between).take(MAX_BETWEEN).collect();
        if between.first() == Some(&cursor.position()) {
            self.leap_over(&mut cursor, between).await?;
        }
        if cursor.position() == at && self.check_fresh("", found).is_ok() {
            // What does not fit is left to the walk.
            let _ = cursor.apply(found);
        }
        Ok(cursor)
    }

    /// Where every walk may begin: the newest index, or the beginning of the log.
    pub(crate) fn base(&self, index: Option<&StoredIndex>) -> Result<Cursor, VaultError> {
        let Some(index) = index else { return Ok(self.genesis()) };
        let place = Cursor::from_place(self.facts.clone(), &index.index.place);
        place.map_err(damaged(&self.keys.index(index.index.n)))
    }

    /// The end of a walk from the newest index, begun now. `known` is the index that the last walk began at, which came
    /// to `after`: while no newer one stands, no key that it went over can have come free, so it would come there again.
    pub(crate) async fn look(&self, known: &mut Known, after: Cursor) -> Result<Cursor, VaultError> {
        Ok(self.look_anew(known).await?.unwrap_or(after))
    }

    /// A walk to where a seal is to be put, of so many steps at most. Rule 17: when the last look for the newest index is a
    /// day old at its end, whoever walks may have slept on the way and come, over a key that was free again, to what another
    /// one who slept had put there. A seal that follows that would count for nothing, but a promotion may bring the log back
    /// to its key, where it would be in the way for ever. What was met is then believed only when no newer index stands.
    pub(crate) async fn walk_on(
        &self,
        known: &mut Known,
        from: Cursor,
        sure: Sure,
        max_steps: u32,
    ) -> Result<Cursor, VaultError> {
        let walked = self.walk_up_to(from, sure, max_steps).await;
        // A promoter does harm only where walks that slept are believed too.
        let believed = on(Mutant::SleepingWalk) || on(Mutant::SleepingPromoter);
        if !self.is_old(known) || believed {
            return walked;
        }
        self.look_anew(known).await?.map_or(walked, Ok)
    }

    /// Whether the last look for the newest index is a day old, as the store's last answer tells the time.
    fn is_old(&self, known: &Known) -> bool {
        let age = known.looked.zip(self.store.now()).map(|(looked, now)| now.duration_since(looked));
        age.is_none_or(|age| age.unsigned_abs() >= self.facts.look_again_after())
    }

    /// Looks for the newest index. Where a newer one stands than `known`, walks from there to the end of the chain, and once
    /// more when it slept on that walk.
    async fn look_anew(&self, known: &mut Known) -> Result<Option<Cursor>, VaultError> {
        let mut end = None;
        loop {
            let looked = self.store.now();
            let index = self.newest_index_after(known.index.clone()).await?;
            if index == known.index {
                known.looked = looked;
                return Ok(end);
            }
            let near = self.near_end_from(Known { index, looked }).await?;
            end = Some(self.walk(near.cursor, Sure::Beyond(near.listed)).await?);
            // Only now: who knows an index has walked from it.
            *known = near.known;
            if !self.is_old(known) {
                return Ok(end);
            }
        }
    }

    /// The end of the chain, for sure: no delete marker hides the next object.
    pub(crate) async fn end(&self) -> Result<Cursor, VaultError> {
        let near = self.near_end().await?;
        self.walk(near.cursor, Sure::Beyond(near.listed)).await
    }

    /// The same, or the place of the first object whose writer is not believed, with the error that says so. Whoever stole a key
    /// may have put it there, and the log ends before it.
    pub(crate) async fn believed_end(&self) -> Result<(Cursor, Option<VaultError>), VaultError> {
        let near = self.near_end().await?;
        let sure = Sure::Beyond(near.listed);
        match self.walk(near.cursor.clone(), sure).await {
            Err(refused) if refused.is_untrusted() => {
                let mut cursor = near.cursor;
                loop {
                    match self.step(&mut cursor, sure).await {
                        Ok(Some(_)) => {}
                        Ok(None) => return Ok((cursor, None)),
                        Err(error) if error.is_untrusted() => return Ok((cursor, Some(refused))),
                        Err(error) => return Err(error),
                    }
                }
            }
            walked => Ok((walked?, None)),
        }
    }

    /// A place at or before `from`, as near as an epoch's chunks allow, and the newest index.
    pub(crate) async fn at_or_before(&self, from: Lsn) -> Result<(Cursor, Option<StoredIndex>), VaultError> {
        let index = self.newest_index().await?;
        // From here on no chunk was ever deleted.
        let kept = match index.as_ref().and_then(|index| index.index.archived.as_ref()) {
            Some(place) => Cursor::from_place(self.facts.clone(), place).map_err(damaged(&self.keys.indexes()))?,
            None => self.genesis(),
        };
        for epoch in self.epochs_after(None).await?.into_iter().rev() {
            let Some(first) = self.page(epoch, None, 1).await?.first().copied() else { continue };
            if first.start > from {
                continue;
            }
            // A chunk begins at every segment boundary inside an epoch.
            let boundary = Position { epoch, start: from.segment_start(self.facts.segment_size) };
            for at in [boundary.max(first), first] {
                let cursor = self.begin_reading(at, &kept, index.is_some()).await?;
                if let Some(cursor) = cursor.filter(|cursor| cursor.position().start <= from) {
                    return Ok((cursor, index));
                }
            }
            if kept.position().epoch == epoch && kept.position().start <= from {
                return Ok((kept, index));
            }
        }
        let cursor = if kept.position().start <= from { kept } else { self.genesis() };
        Ok((cursor, index))
    }

    async fn begin_reading(&self, at: Position, kept: &Cursor, indexed: bool) -> Result<Option<Cursor>, VaultError> {
        if at >= kept.position() {
            return Ok(self.begin_by(at, kept, indexed).await?.map(|(cursor, _)| cursor));
        }
        // Where chunks may have been deleted, a seal may be the work of somebody who slept; an owner's chunk is not.
        let genesis = self.genesis();
        let begun = self.begin_by(at, &genesis, false).await?.map(|(cursor, _)| cursor);
        Ok(begun.filter(|cursor| cursor.opened_by().is_none_or(|seal| seal.at != at)))
    }

    /// A place to begin that the object at `at` leads to, and that object; none when it leads to none. Of the seals that
    /// stand behind an index only those count which hang together with the place in it; without an index no key ever came
    /// free. An owner's chunk says as much of the seal that opened its epoch: it is written only after a walk from the newest
    /// index has met that seal (rule 17).
    async fn begin_by(
        &self,
        at: Position,
        base: &Cursor,
        indexed: bool,
    ) -> Result<Option<(Cursor, Decoded)>, VaultError> {
        // What is damaged or foreign here is no place to begin; a walk that meets it on the chain names it.
        let Ok(Some(found)) = ignore_damage(self.header_at(at).await)? else { return Ok(None) };
        if !stands_at(&found, at) {
            return Ok(None);
        }
        let begun = match &found.header.subject {
            Subject::Seal(seal) if seal.ahead && !on(Mutant::BeginAtAhead) => None,
            Subject::Seal(_) if !self.is_oldest(&self.key(at), &found).await? => None,
            Subject::Seal(_) => self.after(&found, base, indexed).await?,
            Subject::Chunk(chunk) if Some(chunk.opened_by) == base.opened_by().map(|seal| seal.at) => {
                base.clone().leap(&found).ok()
            }
            Subject::Chunk(chunk) if indexed && chunk.opened_by < base.position() => None,
            Subject::Chunk(chunk) => {
                let seal = self.opener(chunk.opened_by, &found).await?;
                seal.and_then(|seal| Cursor::before_chunk(self.facts.clone(), &found, &seal).ok())
            }
            _ => None,
        };
        Ok(begun.map(|begun| (begun, found)))
    }

    /// The place after a seal, if it is on the chain from `base` on.
    async fn after(&self, seal: &Decoded, base: &Cursor, indexed: bool) -> Result<Option<Cursor>, VaultError> {
        if indexed && !self.hangs_together(seal, base).await? {
            return Ok(None);
        }
        Ok(Cursor::after_seal(self.facts.clone(), seal).ok())
    }

    /// Whether a seal beyond `base` follows from it: its links lead back, over seals, to the place or to a chunk beyond it
    /// (which says as much of the seal before it).
    async fn hangs_together(&self, seal: &Decoded, base: &Cursor) -> Result<bool, VaultError> {
        let mut seal = seal.clone();
        for _ in 0..MAX_OPENERS {
            let Subject::Seal(stated) = &seal.header.subject else { return Ok(false) };
            // After a seal put ahead, the last link is the object before that.
            let Some(link) = stated.prev.last().copied() else { return Ok(false) };
            if base.prev().first() == Some(&link) {
                return Ok(true);
            }
            if link.at < base.position() {
                return Ok(false);
            }
            let Some(before) = self.linked(link).await? else { return Ok(false) };
            seal = match &before.header.subject {
                Subject::Seal(_) => before,
                Subject::Chunk(_) if link.at.epoch == base.position().epoch => {
                    return Ok(base.clone().leap(&before).is_ok());
                }
                // The seal's maker walked over it, so it is by the owner of its epoch, and that is on the chain.
                Subject::Chunk(chunk) => return Ok(stands_at(&before, link.at) && chunk.opened_by >= base.position()),
                _ => return Ok(false),
            };
        }
        Ok(false)
    }

    /// The object that a link names: the oldest version of its key, when the newest is another one or a delete marker.
    async fn linked(&self, link: Link) -> Result<Option<Decoded>, VaultError> {
        let named = |decoded: &Decoded| decoded.hash == link.hash;
        if let Some(newest) = ignore_damage(self.header_at(link.at).await)?.ok().flatten().filter(named) {
            return Ok(Some(newest));
        }
        let oldest = fetch::oldest(&*self.store, &self.key(link.at)).await?;
        Ok(oldest.and_then(|object| decode_stored_header(&object).ok()).filter(named))
    }

    /// The seal at `at` that opened the epoch of a chunk. One by the chunk's maker is the first version of its key: nobody
    /// writes chunks before that is known. Else the oldest version.
    async fn opener(&self, at: Position, chunk: &Decoded) -> Result<Option<Decoded>, VaultError> {
        let owner = |of: &Decoded| (of.header.nonce, of.header.key);
        let opens = |seal: &Decoded| stands_at(seal, at) && owner(seal) == owner(chunk);
        if let Some(newest) = ignore_damage(self.header_at(at).await)?.ok().flatten().filter(opens) {
            return Ok(Some(newest));
        }
        let object = fetch::oldest(&*self.store, &self.key(at)).await?;
        Ok(object.and_then(|object| decode_stored_header(&object).ok()).filter(opens))
    }

    /// Whether the chain goes on after a seal that stands where chunks may have been deleted, before the place `kept`. A
    /// seal that somebody put there who slept is followed by no chunk, and does not lead to the epoch of that place.
    pub(crate) async fn goes_on(&self, after: &Cursor, kept: &Cursor) -> Result<bool, VaultError> {
        let opener = |cursor: &Cursor| cursor.opened_by().map(|seal| (seal.at, seal.nonce));
        let mut cursor = after.clone();
        for _ in 0..SEALS_IN_A_ROW {
            if opener(kept) == opener(&cursor) {
                return Ok(true);
            }
            let Some(object) = fetch::oldest(&*self.store, &self.key(cursor.position())).await? else {
                return Ok(false);
            };
            match decode_stored_header(&object).and_then(|decoded| cursor.apply(&decoded)) {
                Ok(Met::Chunk { .. }) => return Ok(true),
                Ok(Met::Seal(_)) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// The epochs after one that hold an object, ascending.
    async fn epochs_after(&self, epoch: Option<u64>) -> Result<Vec<u64>, VaultError> {
        let prefix = self.keys.log();
        // After everything in a folder: `0` is the byte after `/`.
        let beyond = |folder: &str| format!("{}0", folder.trim_end_matches('/'));
        let mut after = epoch.map(|epoch| beyond(&self.keys.epoch(epoch))).unwrap_or_default();
        let mut epochs = Vec::new();
        loop {
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: true };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            epochs.extend(listing.folders.iter().filter_map(|folder| self.keys.parse_epoch(folder)));
            match listing.folders.last() {
                Some(last) if listing.more => after = beyond(last),
                _ => return Ok(epochs),
            }
        }
    }

    async fn list_epoch(&self, epoch: u64, after: Option<Lsn>, limit: usize) -> Result<Listing, VaultError> {
        let prefix = self.keys.epoch(epoch);
        let after = after.map(|start| self.key(Position { epoch, start })).unwrap_or_default();
        let request = ListRequest { prefix: &prefix, after: &after, limit, folders: false };
        Ok(retrying(|| self.store.list(request.clone())).await?)
    }

    /// The first places of an epoch after `after`.
    async fn page(&self, epoch: u64, after: Option<Lsn>, limit: usize) -> Result<Vec<Position>, VaultError> {
        let listing = self.list_epoch(epoch, after, limit).await?;
        Ok(listing.entries.iter().filter_map(|entry| self.keys.parse(&entry.key)).collect())
    }

    /// Places after `after` with the sizes of their objects: what to fetch ahead.
    pub(crate) async fn ahead(&self, after: Position, limit: usize) -> Result<Vec<(Position, u64)>, VaultError> {
        let listing = self.list_epoch(after.epoch, Some(after.start), limit).await?;
        let place = |entry: &crate::store::Entry| Some((self.keys.parse(&entry.key)?, entry.size));
        Ok(listing.entries.iter().filter_map(place).collect())
    }

    /// The newest places at and after a place, ascending; not all of them when there are many.
    async fn newest_places(&self, base: Position, indexed: bool) -> Result<Vec<Position>, VaultError> {
        if indexed {
            // Few objects stand behind an index: mostly one listing shows them all, over all epochs.
            let (prefix, after) = (self.keys.log(), self.key(just_before(base)));
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: false };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            if !listing.more {
                return Ok(self.places(&listing.entries));
            }
            if let Some(newest) = self.newest_guessed(&listing.entries).await? {
                return Ok(newest);
            }
        }
        for epoch in self.epochs_after(indexed.then_some(base.epoch)).await?.into_iter().rev() {
            let newest = self.newest_keys(epoch).await?;
            if !newest.is_empty() {
                return Ok(newest);
            }
        }
        if indexed { self.newest_keys(base.epoch).await } else { Ok(Vec::new()) }
    }

    fn places(&self, entries: &[Entry]) -> Vec<Position> {
        entries.iter().filter_map(|entry| self.keys.parse(&entry.key)).collect()
    }

    /// The newest places, if they are about where they must be when the log has grown as fast since as on this page.
    async fn newest_guessed(&self, page: &[Entry]) -> Result<Option<Vec<Position>>, VaultError> {
        let Some(last) = self.places(page).last().copied() else { return Ok(None) };
        let of_epoch = |entry: &&Entry| self.keys.parse(&entry.key).is_some_and(|at| at.epoch == last.epoch);
        let entries: Vec<Entry> = page.iter().filter(of_epoch).cloned().collect();
        let page = Page::of(&entries, true, &|key| self.keys.parse(key).map(|at| at.start.0));
        let Some(guess) = page.guess(self.store.now()) else { return Ok(None) };
        let (prefix, after) = (self.keys.log(), self.key(Position { start: Lsn(guess), ..last }));
        let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: false };
        let listing = retrying(|| self.store.list(request.clone())).await?;
        let newest = self.places(&listing.entries);
        // A few far behind all others are seals put ahead of the tail.
        Ok((!listing.more && newest.len() >= CANDIDATES).then_some(newest))
    }

    /// The newest places of an epoch.
    async fn newest_keys(&self, epoch: u64) -> Result<Vec<Position>, VaultError> {
        let key = |start| self.key(Position { epoch, start: Lsn(start) });
        let parse = |key: &str| self.keys.parse(key).filter(|at| at.epoch == epoch).map(|at| at.start.0);
        let found = self.last_page(&self.keys.epoch(epoch), &key, &parse).await?;
        Ok(found.into_iter().map(|start| Position { epoch, start: Lsn(start) }).collect())
    }

    /// The numbers of the newest indexes, as a listing shows them.
    pub(crate) async fn last_indexes(&self) -> Result<Vec<u64>, VaultError> {
        let (key, parse) = (|n| self.keys.index(n), |key: &str| self.keys.parse_index(key));
        self.last_page(&self.keys.indexes(), &key, &parse).await
    }

    /// How many indexes a listing shows before the first number that is free, upwards, page by page. `last` is the highest
    /// number that is known to be taken. Asked for only when the last page shows none that holds.
    pub(crate) async fn first_indexes(&self, last: u64) -> Result<u64, VaultError> {
        let (prefix, mut count) = (self.keys.indexes(), 0);
        loop {
            let after = if count == 0 { String::new() } else { self.keys.index(count - 1) };
            let page = self.numbers(&prefix, &after, &|key: &str| self.keys.parse_index(key)).await?;
            let more = page.more && count < last;
            let run = page.numbers.iter().zip(count..).take_while(|(n, expected)| **n == *expected).count();
            count += run as u64;
            if !more || run < page.numbers.len() || run == 0 {
                return Ok(count);
            }
        }
    }

    /// The last page of a folder whose keys are numbers that grow with time. S3 lists upwards only: after a full page
    /// it is guessed from when its objects were made, and how far apart their numbers are, where the end must be.
    async fn last_page(
        &self,
        prefix: &str,
        key: &(dyn Fn(u64) -> String + Sync),
        parse: &(dyn Fn(&str) -> Option<u64> + Sync),
    ) -> Result<Vec<u64>, VaultError> {
        let mut page = self.numbers(prefix, "", parse).await?;
        // Nothing stands after it.
        let mut high: Option<u64> = None;
        for _ in 0..MAX_PROBES {
            let Some(last) = page.numbers.last().copied().filter(|_| page.more) else { break };
            let probe = match high {
                Some(high) if high.saturating_sub(last) <= page.span() => last,
                Some(high) => last + (high - last) / 2,
                None => page.guess(self.store.now()).unwrap_or(last.saturating_mul(2)).max(last),
            };
            let next = self.numbers(prefix, &key(probe), parse).await?;
            match next.numbers.first() {
                None if probe == last => break,
                None => high = Some(probe),
                // Seals put ahead of the tail stand far behind it: what is wanted stands between.
                Some(first) if probe != last && !next.more && next.numbers.len() < CANDIDATES => high = Some(*first),
                Some(_) => page = next,
            }
        }
        Ok(page.numbers)
    }

    async fn numbers(
        &self,
        prefix: &str,
        after: &str,
        parse: &(dyn Fn(&str) -> Option<u64> + Sync),
    ) -> Result<Page, VaultError> {
        let request = ListRequest { prefix, after, limit: PAGE, folders: false };
        let listing = retrying(|| self.store.list(request.clone())).await?;
        Ok(Page::of(&listing.entries, listing.more, parse))
    }

    /// The newest stored stretches that end at or below `start`, oldest first: at least `bytes`, if the log has so
    /// many. Goes back along the chain from the cursor, so that each is on it.
    pub(crate) async fn stretches(&self, end: &Cursor, bytes: u64) -> Result<Vec<StoredStretch>, VaultError> {
        let start = end.position().start;
        let (mut prev, mut found, mut have) = (end.prev().to_vec(), Vec::new(), 0);
        for _ in 0..MAX_BACK {
            let Some(link) = prev.first().copied() else { break };
            let Some(decoded) = self.linked(link).await? else { break };
            prev = match &decoded.header.subject {
                Subject::Chunk(chunk) => {
                    let plain_sha256 = decoded.header.body.as_ref().map(|body| body.plain_sha256);
                    if let (true, Some(plain_sha256)) = (chunk.end <= start, plain_sha256) {
                        let (start, end, timeline) = (chunk.start, chunk.end, chunk.timeline);
                        let last_record = chunk.last_record;
                        found.push(StoredStretch { start, end, timeline, plain_sha256, last_record });
                        have += end.0 - start.0;
                    }
                    chunk.prev.clone()
                }
                // What stands before a seal put ahead is named by the object after it.
                Subject::Seal(seal) if seal.ahead => prev.split_off(1),
                Subject::Seal(seal) => seal.prev.clone(),
                _ => break,
            };
            if have >= bytes {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }
}

/// A hint may lead to rubbish, which is then no hint; an error of the store stays one.
fn ignore_damage<T>(found: Result<T, VaultError>) -> Result<Result<T, ()>, VaultError> {
    match found {
        Ok(value) => Ok(Ok(value)),
        Err(VaultError::Damaged { .. }) => Ok(Err(())),
        Err(error) => Err(error),
    }
}

fn stands_at(decoded: &Decoded, at: Position) -> bool {
    let place = match &decoded.header.subject {
        Subject::Seal(seal) => Position { epoch: seal.epoch, start: seal.start },
        Subject::Chunk(chunk) => Position { epoch: chunk.epoch, start: chunk.start },
        _ => return false,
    };
    place == at
}

/// A listing begins after a key, and the one at the place is wanted too.
pub(crate) fn just_before(at: Position) -> Position {
    Position { start: Lsn(at.start.0.saturating_sub(1)), ..at }
}

/// A page of a folder whose keys are numbers.
struct Page {
    numbers: Vec<u64>,
    /// When its first and its last object were made.
    times: Option<(Timestamp, Timestamp)>,
    more: bool,
}

impl Page {
    fn of(entries: &[Entry], more: bool, parse: &dyn Fn(&str) -> Option<u64>) -> Page {
        let numbers = entries.iter().filter_map(|entry| parse(&entry.key)).collect();
        let time = |entry: Option<&Entry>| entry.and_then(|entry| entry.last_modified);
        let times = time(entries.first()).zip(time(entries.last()));
        Page { numbers, times, more }
    }

    /// How far its numbers reach.
    fn span(&self) -> u64 {
        self.numbers.last().zip(self.numbers.first()).map_or(0, |(last, first)| last.saturating_sub(*first))
    }

    /// Somewhat before the newest number, if numbers went on growing as fast as in this page.
    fn guess(&self, now: Option<Timestamp>) -> Option<u64> {
        let (last, (began, ended)) = (self.numbers.last().copied()?, self.times?);
        let took = ended.duration_since(began).as_secs().max(1) as f64;
        let since = now?.duration_since(ended).as_secs().max(0) as f64;
        let ahead = self.span() as f64 * (since / took - 0.5);
        (ahead < 1e18).then(|| last.saturating_add(ahead.max(0.0) as u64))
    }
}
