//! PostgreSQL's streaming replication protocol, both ends of it.
//!
//! - [`client`] receives: what a standby's walreceiver and `pg_basebackup` do.
//! - [`server`] serves: what a primary's walsender does, for anything that implements
//!   [`server::WalSource`].
//!
//! The messages are those of protocol 3.0 and of the chapter "Streaming Replication Protocol" of
//! PostgreSQL 15. Nothing that comes from the network is trusted: a message has a limit, and memory
//! grows with the bytes that came and not with the length that was announced.

pub mod client;
mod config;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod message;
pub mod server;

pub use config::{ConnectConfig, IdentifySystem};
