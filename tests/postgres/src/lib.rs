//! Real servers for tests: a PostgreSQL ([`TestPostgres`]) and a bucket ([`SeaweedFS`]).
//!
//! They live in a temporary directory with a short path, listen on 127.0.0.1 at free ports, and
//! are gone when the value is dropped, also when the test panics. Everything here panics with a
//! message that says what is missing: a test without its server has failed.

mod postgres;
mod process;
mod seaweedfs;

pub use postgres::{Stop, TestPostgres};
pub use process::free_port;
pub use seaweedfs::SeaweedFS;
