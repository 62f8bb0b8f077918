//! Every parser of bytes from outside, as functions that must never panic, whatever they are given.
//!
//! Coverage-guided by `fuzz/run`; the corpus that it has found is replayed by an ordinary test (`tests/corpus.rs`).
//! A target states what holds beyond "no panic" by asserting it.

mod dataplane;
mod protocol;
mod vault;
mod wal;

/// A target: takes any bytes, and panics only where a property does not hold.
pub type Target = fn(&[u8]);

/// All targets with their names, which are those of the folders in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("object", vault::object),
    ("header", vault::header),
    ("log", vault::log),
    ("body", vault::body),
    ("zstd", vault::zstd),
    ("documents", vault::documents),
    ("keys", vault::keys),
    ("wal-records", wal::records),
    ("wal-history", wal::history),
    ("protocol-client", protocol::client),
    ("protocol-server", protocol::server),
    ("config", dataplane::config),
    ("tar", dataplane::tar),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
