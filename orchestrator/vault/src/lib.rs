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
mod check;
mod config;
mod database;
mod error;
mod fetch;
mod journal;
mod keys;
pub mod log;
pub mod object;
mod seal;
pub mod store;
mod vault;

pub use backup::{BACKUP_PART_BYTES, BackupManifest, BackupMeta, BackupReader, BackupWriter, Tablespace};
pub use check::VaultCheck;
pub use config::{CredentialsSource, VaultConfig};
pub use database::DatabaseVault;
pub use error::VaultError;
pub use journal::{JournalError, JournalRecord, RunJournal};
pub use keys::{Position, is_valid_name};
pub use log::errors::{AppendError, ClaimError, ReadError, TakeoverError};
pub use log::reader::LogReader;
pub use log::takeover::TakeoverOptions;
pub use log::types::*;
pub use log::writing::{LogWriter, RunningWriter};
pub use object::{Hash, Lineage, Nonce, ObjectError, SealKind};
pub use seal::{Identities, Recipients, generate_identity};
pub use store::{StoreError, StoreErrorKind};
pub use vault::Vault;
