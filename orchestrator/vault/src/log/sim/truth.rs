//! What is true: the chain as it grew, object by object, whatever is deleted later; and what must hold of it.

use super::*;
use crate::log::walk::{Cursor, Met};
use crate::object::{Decoded, SealKind, Subject, decode_header};

pub(super) struct Truth {
    pub(super) cursor: Cursor,
    pub(super) log: Vec<u8>,
    /// Each place that the chain came to: the digest of what stands before it, and the log up to there.
    places: BTreeMap<Position, (Hash, Vec<u8>)>,
    /// Who made what stands on the chain.
    joined: BTreeMap<Position, Nonce>,
    /// A base backup of the primary that was promoted last, or of the first.
    pub(super) backup: (Cursor, Vec<u8>),
    /// The promotes, by the epoch that they opened.
    promotes: BTreeMap<u64, String>,
    /// The longest WAL that was acknowledged to clients, by content.
    acknowledged: BTreeSet<Vec<u8>>,
    /// Standbys that opened: where their promote stands, and whose it is.
    opened: Vec<(Position, Nonce)>,
    pub(super) cuts: usize,
    pub(super) reclaimed: usize,
}

impl Truth {
    pub(super) fn new(cursor: Cursor, log: Vec<u8>) -> Truth {
        let mut truth = Truth {
            backup: (cursor.clone(), log.clone()),
            cursor,
            log,
            places: BTreeMap::new(),
            joined: BTreeMap::new(),
            promotes: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            opened: Vec::new(),
            cuts: 0,
            reclaimed: 0,
        };
        truth.came();
        truth
    }

    fn came(&mut self) {
        self.places.insert(self.cursor.position(), (self.cursor.prev()[0].hash, self.log.clone()));
    }

    /// Follows what was created since. An object that does not fit is a broken chain. Where old chunks may vanish that
    /// are on no chain, one that is too old to be built on does not join it.
    pub(super) fn advance(&mut self, access: &LogAccess, store: &SimStore, hostile: bool) -> Check {
        while let Some((bytes, at)) = store.oldest(&access.key(self.cursor.position())) {
            let decoded = decode_header(&bytes).map_err(told)?.stored_at(Some(at));
            if hostile && too_old(&decoded, store.time()) {
                return Ok(());
            }
            let (place, pending) = (self.cursor.position(), self.cursor.taker().is_some());
            let met = self.cursor.apply(&decoded).map_err(|e| format!("chain broken at {place}: {e}"))?;
            take(&mut self.log, &met, &bytes[decoded.body_at..]);
            self.joined.insert(place, decoded.header.nonce);
            if let Met::Seal(seal) = &met {
                self.cuts += usize::from(seal.next_start < seal.at.start);
                self.reclaimed += usize::from(pending && seal.kind == SealKind::Claim);
                if seal.kind == SealKind::Promote {
                    self.promotes.insert(seal.at.epoch + 1, seal.lineage.id.clone());
                    self.backup = (self.cursor.clone(), self.log.clone());
                }
            }
            self.came();
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Check {
        for acknowledged in &self.acknowledged {
            if !self.log.starts_with(acknowledged) {
                let (want, have) = (acknowledged, &self.log);
                return Err(format!("acknowledged {want:?}, and the log is {have:?}"));
            }
        }
        for (at, nonce) in &self.opened {
            if self.cursor.position() > *at && self.joined.get(at) != Some(nonce) {
                return Err(format!("a standby opened at {at}, and the log went on without it"));
            }
        }
        Ok(())
    }

    /// What was served up to a place is the log up to there.
    pub(super) fn check_served(&self, cursor: &Cursor, served: &[u8]) -> Check {
        match self.places.get(&cursor.position()) {
            Some((hash, log)) if *hash == cursor.prev()[0].hash && log == served => Ok(()),
            Some((_, log)) => Err(format!("served {served:?} at {}, and the log was {log:?}", cursor.position())),
            None => Err(format!("served up to {}, which the log never came to", cursor.position())),
        }
    }

    /// Whether the epoch holds a chunk.
    pub(super) fn is_written(&self) -> bool {
        self.cursor.opened_by().is_some_and(|seal| seal.next_start < self.cursor.position().start)
    }

    pub(super) fn is_on(&self, at: Position, nonce: Nonce) -> bool {
        self.joined.get(&at) == Some(&nonce)
    }

    /// A primary acknowledges commits up to there to its clients, as the owner of an epoch.
    pub(super) fn acknowledge(&mut self, wal: Vec<u8>, epoch: u64, instance: &str) -> Check {
        if let Some((_, promoted)) = self.promotes.range(..=epoch).next_back()
            && promoted != instance
        {
            return Err(format!("`{instance}` acknowledges after `{promoted}` was promoted"));
        }
        // Only the longest is looked at again.
        self.acknowledged.retain(|shorter| !wal.starts_with(shorter));
        if !self.acknowledged.iter().any(|longer| longer.starts_with(&wal)) {
            self.acknowledged.insert(wal);
        }
        Ok(())
    }

    /// A standby opens and answers clients.
    pub(super) fn open(&mut self, at: Position, nonce: Nonce) {
        self.opened.push((at, nonce));
    }
}

/// Whether a chunk would be built on too late. Said here again: the rule may be left out.
fn too_old(decoded: &Decoded, now: Timestamp) -> bool {
    let Subject::Chunk(_) = decoded.header.subject else { return false };
    decoded.stored.is_some_and(|stored| now.duration_since(stored).as_secs() > LIFE / 2)
}

/// The log after an object.
pub(super) fn take(log: &mut Vec<u8>, met: &Met, body: &[u8]) {
    match met {
        Met::Chunk { .. } => log.extend_from_slice(body),
        Met::Seal(seal) => log.truncate(seal.next_start.0 as usize),
    }
}
