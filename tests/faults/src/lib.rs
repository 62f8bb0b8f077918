//! A strict small S3 in memory, with faults and lies that can be switched on while it runs.
//!
//! Without a fault it keeps every promise that a vault needs of a store (versions, Object Lock, create-if-absent,
//! checksums, signatures). A [`Fault`] breaks exactly one of them: what no real server can be made to show on demand.
//! [`FaultServer`] runs it in a test; the binary `holdfast-fault-server` runs it for everything else.

mod access;
mod bucket;
mod clock;
mod fault;
mod listing;
mod lock;
mod objects;
mod operations;
mod server;
mod settings;
mod transport;
mod upload;

pub use clock::Clock;
pub use fault::{Fault, FaultInfo, Faults, Latency};
pub use server::{ADMIN, FaultServer, WRITER};
