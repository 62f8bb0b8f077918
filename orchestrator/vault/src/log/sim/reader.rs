//! Readers: what feeds a standby.

use super::*;
use crate::log::access::Sure;
use crate::log::walk::{Cursor, Met};
use crate::object::decode_header;

/// Objects read in one step.
const BATCH: usize = 8;

pub(super) struct Reader {
    pub(super) cursor: Cursor,
    /// What was served.
    pub(super) log: Vec<u8>,
    /// The newest index when it last looked, and the store's time then.
    index: Option<StoredIndex>,
    looked: Timestamp,
    /// What it received was cut later: it is rebuilt before it is promoted.
    pub(super) cut: bool,
    /// How often it was rebuilt.
    pub(super) life: u32,
}

impl Reader {
    pub(super) fn new(cursor: Cursor, log: Vec<u8>) -> Reader {
        Reader { cursor, log, index: None, looked: Timestamp::UNIX_EPOCH, cut: false, life: 0 }
    }

    fn kept(&self, access: &LogAccess) -> Result<Option<Cursor>, String> {
        let place = self.index.as_ref().and_then(|index| index.index.archived.as_ref());
        place.map(|place| Cursor::from_place(access.facts.clone(), place)).transpose().map_err(told)
    }

    fn look(&mut self, access: &LogAccess, now: Timestamp) -> Result<bool, String> {
        let newest = done(access.newest_index_after(self.index.clone())).map_err(told)?;
        let moved = newest != self.index;
        (self.index, self.looked) = (newest, now);
        Ok(moved)
    }

    fn take(&mut self, met: &Met, body: &[u8]) {
        let had = self.log.len();
        match met {
            Met::Seal(seal) if (seal.next_start.0 as usize) < had => {
                self.cut = true;
                if !on(Mutant::ReplayedCut) {
                    self.log.truncate(seal.next_start.0 as usize);
                }
            }
            Met::Chunk { start, .. } if on(Mutant::ReplayedCut) => {
                // It has those bytes already, it believes.
                let known = had.saturating_sub(start.0 as usize).min(body.len());
                self.log.extend_from_slice(&body[known..]);
            }
            met => super::truth::take(&mut self.log, met, body),
        }
    }
}

impl World {
    pub(super) fn read(&mut self) -> Check {
        let Some(index) = self.pick(self.standbys.len()) else { return Ok(()) };
        self.read_on(index)
    }

    /// A standby reads some objects, as the reader that ships does.
    pub(super) fn read_on(&mut self, index: usize) -> Check {
        for _ in 0..BATCH {
            if self.standbys[index].cut && !on(Mutant::ReplayedCut) {
                self.rebuild(index);
            }
            if !self.read_one(index)? {
                break;
            }
        }
        Ok(())
    }

    /// Anew, from the beginning of the log, or from a backup beyond what was cut.
    pub(super) fn rebuild(&mut self, index: usize) {
        let life = self.standbys[index].life + 1;
        let beginning = (self.access.genesis(), vec![0; START as usize]);
        let (cursor, log) = if self.chance(50) { beginning } else { self.truth.backup.clone() };
        self.standbys[index] = Reader { life, ..Reader::new(cursor, log) };
    }

    fn read_one(&mut self, index: usize) -> Result<bool, String> {
        let (access, now) = (self.access.clone(), self.store.time());
        let reader = &mut self.standbys[index];
        let age = now.duration_since(reader.looked).unsigned_abs();
        let first = reader.looked == Timestamp::UNIX_EPOCH;
        if first || (age >= access.facts.look_again_after() && !on(Mutant::SleepingReader)) {
            reader.look(&access, now)?;
        }
        let at = reader.cursor.position();
        let kept = reader.kept(&access)?;
        let archived = kept.as_ref().is_some_and(|kept| at < kept.position());
        let covered = reader.index.as_ref().is_some_and(|index| at < index.index.place.at);
        let mut tried = reader.cursor.clone();
        let step = if covered { Sure::Covered } else { Sure::Yes };
        let bytes = self.store.oldest(&access.key(at)).map(|(bytes, _)| bytes);
        let met = match done(access.step(&mut tried, step)) {
            Ok(Some(met)) => met,
            Ok(None) if archived => return self.restore(index).map(|()| true),
            Ok(None) => return Ok(false),
            Err(VaultError::NotIndexed { .. }) => {
                self.stats.waited += 1;
                return reader.look(&access, now);
            }
            Err(error) => return Err(format!("reader: {error}")),
        };
        if let (Met::Seal(_), true, Some(kept)) = (&met, archived, &kept)
            && !done(access.goes_on(&tried, kept)).map_err(told)?
        {
            return self.restore(index).map(|()| true);
        }
        let bytes = bytes.ok_or("met what is not there")?;
        let decoded = decode_header(&bytes).map_err(told)?;
        reader.take(&met, &bytes[decoded.body_at..]);
        reader.cursor = tried;
        if let (Met::Seal(_), true) = (&met, on(Mutant::ReadPastSeal)) {
            self.read_past(index, at)?;
        }
        Ok(true)
    }

    /// Serves what a writer put behind the seal that ended its epoch.
    fn read_past(&mut self, index: usize, seal: Position) -> Check {
        let late = done(self.access.ahead(seal, 1)).map_err(told)?.first().copied();
        if let Some((at, _)) = late
            && let Some((bytes, _)) = self.store.oldest(&self.access.key(at))
        {
            let decoded = decode_header(&bytes).map_err(told)?;
            let reader = &mut self.standbys[index];
            reader.log.resize(at.start.0 as usize, 0);
            reader.log.extend_from_slice(&bytes[decoded.body_at..]);
        }
        Ok(())
    }

    /// The chunks are gone: the WAL comes from segments, up to where the newest index says that they end.
    fn restore(&mut self, index: usize) -> Check {
        let reader = &mut self.standbys[index];
        let kept = reader.kept(&self.access)?.ok_or("restored without an index")?;
        let hash = reader.index.as_ref().map(|index| index.hash).ok_or("restored without an index")?;
        let archive = self.archives.get(&hash).ok_or("an index without its segments")?;
        reader.cut |= !archive.starts_with(&reader.log);
        reader.cursor = kept;
        if on(Mutant::ReplayedCut) {
            reader.log.extend_from_slice(archive.get(reader.log.len()..).unwrap_or_default());
        } else {
            reader.log = archive.clone();
        }
        self.stats.restored += 1;
        Ok(())
    }
}
