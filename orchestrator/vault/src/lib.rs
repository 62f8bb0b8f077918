//! The vault: sealed, append-only objects on S3 under Object Lock. Holds the logs of databases, their
//! base backups, plans, and the journals of recoveries.
//!
//! - [`Vault`] is a bucket and a prefix; [`Vault::check`] proves that its lock holds.
//! - [`DatabaseVault`] is one database in it: claim its log and write ([`LogWriter`]), read it ([`LogReader`]), take
//!   it over and promote, store and read base backups.
//! - [`RunJournal`] is the journal of one recovery.
//!
//! The bytes are written down in `docs/vault-format.md`. The rules of the log (one writer, decided by the store) are
//! in [`log`]. Nothing here knows Kubernetes.

mod backup;
mod catalogue;
mod census;
mod check;
mod config;
pub mod conformance;
mod copy;
pub mod cost;
mod database;
mod describe;
mod error;
mod evidence;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
pub mod hold;
pub mod janitor;
mod journal;
mod keys;
pub mod log;
mod long_body;
pub mod object;
mod seal;
mod segment;
pub mod store;
mod trust;
mod vault;
mod verify;

pub use backup::{BACKUP_PART_BYTES, BackupList, BackupManifest, BackupMeta, BackupReader, BackupWriter, Tablespace};
pub use catalogue::{KeyKind, KeyWalk, ListedKey};
pub use census::{CensusOptions, KeyCensus, RecipientUse, SignerUse};
pub use check::{
    Attempt, EVIDENCE as LOCK_EVIDENCE, LockProbe, MAX_CLOCK_SKEW, Outcome, ProbeOptions, Reached, Tried, VaultCheck,
    in_sync,
};
pub use config::{CredentialsSource, DEFAULT_CHUNK_RETENTION_DAYS, Proxy, VaultConfig};
pub use copy::{CopyOptions, CopyProblem, CopyProblemKind, CopyReport};
pub use database::DatabaseVault;
pub use describe::{Description, LockLine, VersionLine};
pub use error::VaultError;
pub use evidence::Evidence;
pub use journal::{JournalError, JournalRecord, RunJournal};
pub use keys::{Position, SegmentKey, SegmentLine, is_valid_name};
pub use log::errors::{AppendError, ClaimError, ReadError, TakeoverError};
pub use log::index::{Archived, EpochOpener, Index, IndexLink, IndexWritten, Place, StoredIndex};
pub use log::reader::LogReader;
pub use log::takeover::TakeoverOptions;
pub use log::types::*;
pub use log::walk::Cursor;
pub use log::writing::{LogWriter, RunningWriter};
pub use object::{Hash, Lineage, Nonce, ObjectError, SealKind};
pub use seal::{Identities, Recipients, generate_identity};
pub use segment::{ArchiveError, ArchiveOptions, ArchiveStep, Archiver, Segment, SegmentLink, Through, WrittenBy};
pub use store::{StoreError, StoreErrorKind, Traffic};
pub use trust::{Distrust, Trust, TrustedWriter, Voucher, WriterKey, WriterPublic};
pub use vault::Vault;
pub use verify::cost::{BackupSpan, Recovery, Span, Spans};
pub use verify::{
    Budget, Finding, FindingKind, Moment, Moments, SharedVerdict, SharedVerifier, Totals, Verdict, Verifier,
    VerifyOptions, VerifyState,
};
