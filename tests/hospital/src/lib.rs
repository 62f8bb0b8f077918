//! A small hospital that must not lose a record.
//!
//! Three services, each with a PostgreSQL instance of its own: registration issues medical record
//! numbers, billing and lab accept a record only for a patient whom registration knows. A load
//! generator writes through their HTTP interface and keeps a ledger of what was acknowledged; a
//! verifier compares that ledger with what the surviving site holds.
//!
//! All data is made up, and even so no record's content is ever logged.

pub mod ledger;
pub mod load;
pub mod record;
pub mod service;
pub mod verify;

pub use record::{Service, Site};
