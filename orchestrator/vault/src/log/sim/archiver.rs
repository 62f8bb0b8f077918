//! The archiver, which walks, copies WAL into segments and writes indexes; the janitor; and time that passes.

use super::*;
use crate::keys::{SegmentKey, SegmentLine};
use crate::log::access::Sure;
use crate::log::index::Archived;
use crate::log::walk::Cursor;
use crate::object::{Subject, decode_header};
use crate::segment::SegmentLink;

impl World {
    /// Walks from where the segments end to the end of the chain, and sends an index, which may arrive much later.
    pub(super) fn archive(&mut self) -> Check {
        let access = self.access.clone();
        let newest = done(access.newest_index()).map_err(told)?;
        let (mut cursor, mut log) = self.archived(newest.as_ref())?;
        // Where old chunks of no chain may vanish, they are not built on by an index either.
        let sure = if self.hostile { Sure::Yes } else { Sure::Covered };
        loop {
            let bytes = self.store.oldest(&access.key(cursor.position())).map(|(bytes, _)| bytes);
            let met = match done(access.step(&mut cursor, sure)) {
                Ok(Some(met)) => met,
                Ok(None) | Err(VaultError::NotIndexed { .. }) => break,
                Err(error) => return Err(format!("archiver: {error}")),
            };
            let bytes = bytes.ok_or("met what is not there")?;
            let decoded = decode_header(&bytes).map_err(told)?;
            super::truth::take(&mut log, &met, &bytes[decoded.body_at..]);
        }
        let n = newest.as_ref().map_or(0, |newest| newest.index.n + 1);
        let me = self.incarnation();
        let encoded = access.encode_index(&me, n, newest.as_ref(), (&cursor, Some(in_segments(&cursor))));
        let bytes = encoded.map_err(told)?;
        self.archives.insert(Hash::of(&bytes), log);
        let (from, at, key) = (Actor::Archiver, cursor.position(), access.keys.index(n));
        self.net.push(Put { from, at, key, bytes });
        Ok(())
    }

    fn archived(&self, newest: Option<&StoredIndex>) -> Result<(Cursor, Vec<u8>), String> {
        let beginning = (self.access.genesis(), vec![0; START as usize]);
        let Some(newest) = newest else { return Ok(beginning) };
        let Some(place) = &newest.index.archived else { return Ok(beginning) };
        let log = self.archives.get(&newest.hash).ok_or("an index without its segments")?;
        Ok((Cursor::from_place(self.access.facts.clone(), place).map_err(told)?, log.clone()))
    }

    /// An index was created: what it says must be true.
    pub(super) fn indexed(&mut self, put: &Put) -> Check {
        self.stats.indexed += 1;
        self.truth.advance(&self.access, &self.store, self.hostile)?;
        let decoded = decode_header(&put.bytes).map_err(told)?;
        let Subject::Index(index) = &decoded.header.subject else { return Err("no index".into()) };
        let cursor = Cursor::from_place(self.access.facts.clone(), &index.place).map_err(told)?;
        let log = self.archives.get(&decoded.hash).ok_or("an index without its segments")?;
        self.truth.check_served(&cursor, log).map_err(|e| format!("an index: {e}"))
    }

    /// Time leaps, or the janitor comes.
    pub(super) fn expire(&mut self) -> Check {
        if self.lean.kind == Kind::Sleeping && self.chance(50) {
            return self.long_night();
        }
        match self.rng.random_range(0..16) {
            0..4 => self.store.advance(self.rng.random_range(DAY..LIFE / 2)),
            4..6 => self.store.advance(self.rng.random_range(LIFE / 2..LIFE * 3 / 2)),
            6..9 => self.archive()?,
            _ => self.delete()?,
        }
        Ok(())
    }

    /// All that a sleeper misses: an index stands for a day, locks end, the janitor comes.
    fn long_night(&mut self) -> Check {
        self.archive()?;
        let index = self.net.pop().ok_or("the archiver sent nothing")?;
        self.tell(|| format!("a long night: {}", said(&index.bytes)));
        if self.store.put(&index.key, &index.bytes).is_some_and(|created| created.is_stored()) {
            self.indexed(&index)?;
        }
        self.store.advance(self.rng.random_range(LIFE..LIFE * 3 / 2));
        self.delete()
    }

    /// The janitor: chunks whose lock has ended, and that segments and an index have covered for a day. Never a seal.
    fn delete(&mut self) -> Check {
        let now = self.store.time();
        let covered = self.covered(now)?;
        let share = self.rng.random_range(20..=100);
        for key in self.store.keys() {
            let Some(at) = self.access.keys.parse(&key) else { continue };
            let Some((bytes, stored)) = self.store.oldest(&key) else { continue };
            let decoded = decode_header(&bytes).map_err(told)?;
            let is_chunk = matches!(decoded.header.subject, Subject::Chunk(_));
            let expired = now.duration_since(stored).as_secs() > LIFE;
            let nowhere = self.hostile && !self.truth.is_on(at, decoded.header.nonce);
            let may = at < covered || nowhere || on(Mutant::LateIndex);
            if is_chunk && expired && may && self.chance(share) {
                self.store.delete(&key);
                self.tell(|| format!("deleted: {key}"));
                self.stats.deleted += 1;
            }
        }
        Ok(())
    }

    /// Before which place an index has covered the chain for a day.
    fn covered(&self, now: Timestamp) -> Result<Position, String> {
        let mut covered = Position { epoch: 0, start: Lsn(0) };
        for key in self.store.keys() {
            if self.access.keys.parse_index(&key).is_none() {
                continue;
            }
            let Some((bytes, stored)) = self.store.oldest(&key) else { continue };
            let decoded = decode_header(&bytes).map_err(told)?;
            if let Subject::Index(index) = &decoded.header.subject
                && let Some(archived) = &index.archived
                && now.duration_since(stored).as_secs() >= DAY
            {
                covered = covered.max(archived.at);
            }
        }
        Ok(covered)
    }
}

/// All WAL before a place is in segments; which is the last of them nobody asks here.
fn in_segments(place: &Cursor) -> Archived<'_> {
    let at = SegmentKey { line: SegmentLine { branch: 0, timeline: TimelineId(1) }, start: Lsn(START), copy: 0 };
    Archived { place, segment: SegmentLink { at, hash: Hash::of(b"the last segment") } }
}
