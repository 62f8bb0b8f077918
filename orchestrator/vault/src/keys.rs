//! The names of objects. Fixed-width hexadecimal, so that names sort as positions do.

use std::fmt;

use holdfast_wal::Lsn;
use serde::{Deserialize, Serialize};

/// A place in the log's key space: where an object of the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// The first byte of what stands there.
    pub start: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} at {}", self.epoch, self.start)
    }
}

/// Whether a name may stand in a key: lower-case letters, digits, `-`, `_` and `.`, at most 128, starting with a
/// letter or a digit.
pub fn is_valid_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let first = name.bytes().next();
    name.len() <= 128 && first.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) && name.bytes().all(inner)
}

/// The keys of one vault.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let root = if prefix.is_empty() { "v1".to_owned() } else { format!("{prefix}/v1") };
        Keys { root }
    }

    pub(crate) fn database(&self, name: &str) -> DatabaseKeys {
        DatabaseKeys { root: format!("{}/db/{name}", self.root) }
    }

    pub(crate) fn run(&self, uid: &str, n: u64) -> String {
        format!("{}/run/{uid}/{n:08}", self.root)
    }

    pub(crate) fn plan(&self, name: &str, hash: &str) -> String {
        format!("{}/plan/{name}/{hash}", self.root)
    }

    pub(crate) fn probe(&self, id: &str) -> String {
        format!("{}/probe/{id}", self.root)
    }
}

/// The keys of one database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseKeys {
    root: String,
}

impl DatabaseKeys {
    pub(crate) fn identity(&self) -> String {
        format!("{}/identity", self.root)
    }

    /// The folder of the log, with its slash.
    pub(crate) fn log(&self) -> String {
        format!("{}/log/", self.root)
    }

    /// The folder of one epoch, with its slash.
    pub(crate) fn epoch(&self, epoch: u64) -> String {
        format!("{}/log/{epoch:016X}/", self.root)
    }

    pub(crate) fn at(&self, position: Position) -> String {
        format!("{}/log/{:016X}/{}", self.root, position.epoch, position.start.hex16())
    }

    /// Reads a key of the log back; `None` for anything else.
    pub(crate) fn parse(&self, key: &str) -> Option<Position> {
        let rest = key.strip_prefix(&self.log())?;
        let (epoch, start) = rest.split_once('/')?;
        // An epoch is written as a position is: 16 upper-case digits.
        let epoch = Lsn::from_hex16(epoch).ok()?.0;
        Some(Position { epoch, start: Lsn::from_hex16(start).ok()? })
    }

    /// Reads the epoch of a folder of the log back.
    pub(crate) fn parse_epoch(&self, folder: &str) -> Option<u64> {
        let epoch = folder.strip_prefix(&self.log())?.strip_suffix('/')?;
        Some(Lsn::from_hex16(epoch).ok()?.0)
    }

    /// The folder of all backups, with its slash.
    pub(crate) fn backups(&self) -> String {
        format!("{}/backup/", self.root)
    }

    pub(crate) fn backup_part(&self, id: &str, n: u32) -> String {
        format!("{}/backup/{id}/{n:08}", self.root)
    }

    pub(crate) fn backup_manifest(&self, id: &str) -> String {
        format!("{}/backup/{id}/manifest", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort() {
        let keys = Keys::new("/hospital/").database("billing");
        let a = Position { epoch: 9, start: Lsn(0xFFFF_FFFF) };
        let b = Position { epoch: 10, start: Lsn(0x1_0000_0000) };
        assert_eq!(keys.at(a), "hospital/v1/db/billing/log/0000000000000009/00000000FFFFFFFF");
        assert!(keys.at(a) < keys.at(b));
        assert_eq!(keys.parse(&keys.at(b)), Some(b));
        assert_eq!(keys.parse_epoch(&keys.epoch(10)), Some(10));
        for foreign in ["hospital/v1/db/billing/log/1/2", "hospital/v1/db/billing/identity", ""] {
            assert_eq!(keys.parse(foreign), None, "{foreign}");
        }
        assert_eq!(Keys::new("").run("u", 7), "v1/run/u/00000007");
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for name in ["a", "billing-2", "0a_b.c"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "..", ".a", "a/b", "Ä", "A", "a b", &"x".repeat(129)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
