//! What both ends of the protocol share.

use std::fmt;
use std::time::Duration;

use holdfast_wal::{Lsn, SystemId, TimelineId};

/// Where a PostgreSQL server is and who connects.
#[derive(Clone)]
pub struct ConnectConfig {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A role with REPLICATION.
    pub user: String,
    /// Sent only as the server's method of authentication asks for it.
    pub password: Option<String>,
    /// Of no importance to physical replication; for callers that open SQL connections too.
    pub database: Option<String>,
    /// What `pg_stat_replication` and `synchronous_standby_names` see.
    pub application_name: String,
    /// For the whole of connecting, authentication included, and again for every command that is
    /// answered at once (not for the checkpoint before a base backup, and not for a stream).
    pub connect_timeout: Duration,
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "hidden"))
            .field("database", &self.database)
            .field("application_name", &self.application_name)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifySystem {
    /// The system that the WAL belongs to.
    pub system_id: SystemId,
    /// The timeline that is being written (by a primary) or followed (by a standby).
    pub timeline: TimelineId,
    /// The end of what is flushed there.
    pub flush_lsn: Lsn,
}
