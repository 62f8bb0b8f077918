//! The receiving end: commands, base backup and WAL from a PostgreSQL server.

mod backup;
mod connect;
mod error;
mod query;
mod stream;

use bytes::BytesMut;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};
use tokio::io::AsyncWriteExt;

pub use backup::{BaseBackupEvent, BaseBackupOptions, BaseBackupStream};
pub(crate) use connect::notice_dead_peers;
pub use error::{ClientError, ServerError};
pub use stream::{ReplicationEvent, ReplicationReader, ReplicationWriter};

use crate::config::{ConnectConfig, IdentifySystem};
use crate::frame::put_frame;
use connect::Connection;
use query::{quoted_name, text};

/// A slot of that name exists.
const DUPLICATE_OBJECT: &str = "42710";
/// No slot of that name exists.
const UNDEFINED_OBJECT: &str = "42704";

/// A physical replication connection, ready for commands.
///
/// The server's role must have REPLICATION and an entry for `replication` in `pg_hba.conf`. The
/// connection is not encrypted: it is for a network that is trusted or encrypted below.
#[derive(Debug)]
pub struct ReplicationClient {
    connection: Connection,
}

impl ReplicationClient {
    /// Connects and logs in, within [`ConnectConfig::connect_timeout`].
    pub async fn connect(config: &ConnectConfig) -> Result<ReplicationClient, ClientError> {
        Ok(ReplicationClient { connection: Connection::open(config).await? })
    }

    /// The server's version as it reports it, `15.14 (Debian 15.14-0+deb12u1)`.
    pub fn server_version(&self) -> &str {
        self.connection.incoming.parameters.get("server_version").map_or("", String::as_str)
    }

    /// Which system this is, its timeline and how far it has flushed.
    pub async fn identify_system(&mut self) -> Result<IdentifySystem, ClientError> {
        let rows = self.connection.query("IDENTIFY_SYSTEM").await?;
        let row = rows.first().ok_or_else(|| ClientError::protocol("IDENTIFY_SYSTEM gave no row"))?;
        query::identify_system(row)
    }

    /// The history of a timeline that the server knows. Timeline 1 has no file and no ancestors.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<TimelineHistory, ClientError> {
        if timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::initial(timeline));
        }
        let rows = self.connection.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let row = rows.first().ok_or_else(|| ClientError::protocol("TIMELINE_HISTORY gave no row"))?;
        let file = text(row, 1, "the history file")?;
        TimelineHistory::parse(timeline, file).map_err(|error| ClientError::protocol(error.to_string()))
    }

    /// The value of a setting, as SHOW prints it.
    pub async fn show(&mut self, setting: &str) -> Result<String, ClientError> {
        let rows = self.connection.query(&format!("SHOW {}", quoted_name(setting))).await?;
        let row = rows.first().ok_or_else(|| ClientError::protocol("SHOW gave no row"))?;
        Ok(text(row, 0, "the setting")?.to_owned())
    }

    /// The size of the server's WAL segments in bytes.
    pub async fn wal_segment_size(&mut self) -> Result<u64, ClientError> {
        let shown = self.show("wal_segment_size").await?;
        parse_memory_size(&shown)
            .filter(|bytes| holdfast_wal::is_valid_segment_size(*bytes))
            .ok_or_else(|| ClientError::protocol(format!("wal_segment_size is `{shown}`")))
    }

    /// Makes sure that a physical slot exists. One that exists is fine, whoever made it.
    ///
    /// With `reserve_wal` a new slot keeps WAL from now on, and not only from its first use.
    pub async fn create_physical_slot(&mut self, name: &str, reserve_wal: bool) -> Result<(), ClientError> {
        let reserve = if reserve_wal { " RESERVE_WAL" } else { "" };
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL{reserve}", quoted_name(name));
        tolerate(self.connection.query(&command).await, DUPLICATE_OBJECT)
    }

    /// Removes a slot. One that does not exist is fine; one in use is an error that passes.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), ClientError> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted_name(name));
        tolerate(self.connection.query(&command).await, UNDEFINED_OBJECT)
    }

    /// Takes a base backup on this connection.
    pub async fn base_backup(self, options: &BaseBackupOptions) -> Result<BaseBackupStream, ClientError> {
        BaseBackupStream::start(self.connection, options).await
    }

    /// Streams WAL from `start` on `timeline`.
    ///
    /// The halves may be used by two tasks at once. The server starts at exactly this byte, which
    /// need not be a record's; `start` may lie before the switch to `timeline` only as far as the
    /// segment that holds the switch goes back.
    pub async fn start_replication(
        self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<(ReplicationReader, ReplicationWriter), ClientError> {
        let slot = slot.map(|name| format!("SLOT {} ", quoted_name(name))).unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        stream::start(self.connection, &command, start).await
    }

    /// Says goodbye. Dropping the client closes the connection too, with a line in the server's log.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'X', |_| ());
        self.connection.send(&out).await?;
        Ok(self.connection.writer.shutdown().await?)
    }
}

fn tolerate(answer: Result<Vec<query::Row>, ClientError>, sqlstate: &str) -> Result<(), ClientError> {
    match answer {
        Err(error) if error.sqlstate() == Some(sqlstate) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Reads `16MB` as PostgreSQL prints sizes.
fn parse_memory_size(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &shown[digits.len()..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads a body as everything that a server may send, for `fuzz/`.
pub(crate) fn fuzz_read(body: &bytes::Bytes) {
    let _ = backup::read_copy_data(body.clone());
    let _ = ServerError::read(body.clone()).to_string();
    if let Ok(row) = query::read_row(body.clone()) {
        let _ = (query::identify_system(&row), query::position(&row, "a position"));
        let _ = text(&row, 0, "a size").ok().and_then(parse_memory_size);
        let _ = text(&row, 1, "a history").map(|text| TimelineHistory::parse(TimelineId(2), text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_postgresql_shows_them() {
        for (shown, bytes) in [("16MB", Some(16 << 20)), ("1GB", Some(1 << 30)), ("16777216", Some(1 << 24))] {
            assert_eq!(parse_memory_size(shown), bytes);
        }
        for shown in ["", "MB", "16 MB", "16TB", "-1MB", "99999999999999999999"] {
            assert_eq!(parse_memory_size(shown), None, "{shown:?}");
        }
    }
}
