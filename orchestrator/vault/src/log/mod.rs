//! The log of one database: one writer, decided by the store.
//!
//! What decides is without I/O: [`walk`] follows the chain, [`writer`] counts what is durable, [`claim`] and
//! `taker` win epochs. The drivers (`access`, `open`, [`writing`], [`takeover`], [`reader`]) carry their wishes to
//! the store.

mod access;
pub mod claim;
pub mod errors;
pub(crate) mod incarnation;
pub mod index;
pub(crate) mod mutant;
mod open;
mod pace;
pub mod reader;
pub(crate) mod storing;
pub mod takeover;
mod taker;
pub mod types;
pub mod walk;
pub mod writer;
pub mod writing;

pub(crate) use access::LogAccess;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod sim;
