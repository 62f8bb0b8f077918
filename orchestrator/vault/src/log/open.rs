//! Where to begin: a verified place of the chain near its end, or at or before a position, without reading
//! everything. Listings are hints; what they lead to is verified, and a wrong hint only costs time.

use holdfast_wal::Lsn;

use crate::error::VaultError;
use crate::fetch::retrying;
use crate::keys::Position;
use crate::log::access::LogAccess;
use crate::log::types::StoredStretch;
use crate::log::walk::Cursor;
use crate::object::{Decoded, Subject};
use crate::store::{ListRequest, Listing};

/// Keys of one page.
const PAGE: usize = 1000;
/// How many of the newest keys of an epoch are looked at for a place to begin.
const CANDIDATES: usize = 16;
/// Objects looked at, going back, for the stretches of an overlap check.
const MAX_BACK: usize = 64;

impl LogAccess {
    /// A place near the end of the chain.
    pub(crate) async fn near_end(&self) -> Result<Cursor, VaultError> {
        for epoch in self.epochs().await?.into_iter().rev() {
            let newest = self.newest_keys(epoch).await?;
            for at in newest.into_iter().rev().take(CANDIDATES) {
                if let Some(cursor) = self.begin_by(at).await? {
                    return Ok(cursor);
                }
            }
        }
        Ok(self.genesis())
    }

    /// A place at or before `from`, as near as an epoch's chunks allow.
    pub(crate) async fn at_or_before(&self, from: Lsn) -> Result<Cursor, VaultError> {
        for epoch in self.epochs().await?.into_iter().rev() {
            let Some(first) = self.page(epoch, None, 1).await?.first().copied() else { continue };
            if first.start > from {
                continue;
            }
            // A chunk begins at every segment boundary inside an epoch.
            let boundary = Position { epoch, start: from.segment_start(self.facts.segment_size) };
            for at in [boundary.max(first), first] {
                let cursor = self.begin_by(at).await?;
                if let Some(cursor) = cursor.filter(|cursor| cursor.position().start <= from) {
                    return Ok(cursor);
                }
            }
        }
        Ok(self.genesis())
    }

    /// A place to begin that the object at `at` leads to; none when it leads to none.
    async fn begin_by(&self, at: Position) -> Result<Option<Cursor>, VaultError> {
        // What is damaged or foreign here is no place to begin; a walk that meets it on the chain names it.
        let Ok(Some(found)) = ignore_damage(self.header_at(at).await)? else { return Ok(None) };
        if !stands_at(&found, at) {
            return Ok(None);
        }
        let cursor = match &found.header.subject {
            Subject::Seal(_) if !self.is_oldest(&self.key(at), &found).await? => return Ok(None),
            Subject::Seal(_) => Cursor::after_seal(self.facts.clone(), &found),
            Subject::Chunk(chunk) => {
                let opened_by = chunk.opened_by;
                let Ok(Some(seal)) = ignore_damage(self.header_at(opened_by).await)? else { return Ok(None) };
                if !stands_at(&seal, opened_by) || !self.is_oldest(&self.key(opened_by), &seal).await? {
                    return Ok(None);
                }
                Cursor::before_chunk(self.facts.clone(), &found, &seal)
            }
            _ => return Ok(None),
        };
        Ok(cursor.ok())
    }

    /// The epochs that hold an object, ascending.
    async fn epochs(&self) -> Result<Vec<u64>, VaultError> {
        let prefix = self.keys.log();
        let (mut epochs, mut after) = (Vec::new(), String::new());
        loop {
            let request = ListRequest { prefix: &prefix, after: &after, limit: PAGE, folders: true };
            let listing = retrying(|| self.store.list(request.clone())).await?;
            epochs.extend(listing.folders.iter().filter_map(|folder| self.keys.parse_epoch(folder)));
            match listing.folders.last() {
                // After everything in the folder: `0` is the byte after `/`.
                Some(last) if listing.more => after = format!("{}0", last.trim_end_matches('/')),
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

    /// The newest places of an epoch, found by listing in leaps: S3 lists upwards only.
    async fn newest_keys(&self, epoch: u64) -> Result<Vec<Position>, VaultError> {
        let mut page = self.page(epoch, None, PAGE).await?;
        let mut leap = 64 * self.facts.segment_size;
        // Nothing stands after `high`.
        let mut high: Option<Lsn> = None;
        while page.len() >= PAGE {
            let Some(low) = page.last().map(|at| at.start) else { break };
            let probe = match high {
                Some(high) => Lsn(low.0 + (high.0.saturating_sub(low.0)) / 2),
                None => Lsn(low.0.saturating_add(leap)),
            };
            let near = high.is_some_and(|high| high.0.saturating_sub(low.0) < self.facts.segment_size);
            let next = self.page(epoch, Some(if near { low } else { probe }), PAGE).await?;
            match (next.is_empty(), near) {
                (true, true) => break,
                (true, false) => high = Some(probe),
                (false, _) => page = next,
            }
            leap = leap.saturating_mul(4);
        }
        Ok(page)
    }

    /// The newest stored stretches that end at or below `start`, oldest first: at least `bytes`, if the log has so
    /// many. Goes back along the chain from the cursor, so that each is on it.
    pub(crate) async fn stretches(&self, end: &Cursor, bytes: u64) -> Result<Vec<StoredStretch>, VaultError> {
        let start = end.position().start;
        let (mut prev, mut found, mut have) = (end.prev().to_vec(), Vec::new(), 0);
        for _ in 0..MAX_BACK {
            let Some(link) = prev.first().copied() else { break };
            let Ok(Some(decoded)) = ignore_damage(self.header_at(link.at).await)? else { break };
            if decoded.hash != link.hash {
                break;
            }
            prev = match &decoded.header.subject {
                Subject::Chunk(chunk) => {
                    let plain_sha256 = decoded.header.body.as_ref().map(|body| body.plain_sha256);
                    if let (true, Some(plain_sha256)) = (chunk.end <= start, plain_sha256) {
                        let (start, end, timeline) = (chunk.start, chunk.end, chunk.timeline);
                        found.push(StoredStretch { start, end, timeline, plain_sha256 });
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
