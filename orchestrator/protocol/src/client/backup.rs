//! A base backup as PostgreSQL 15 streams it: tar archives and a manifest in one copy stream.

use bytes::{Bytes, BytesMut};
use holdfast_wal::{Lsn, TimelineId};
use tokio::io::AsyncWriteExt;

use super::connect::{Connection, unexpected};
use super::error::ClientError;
use super::query::{position, quoted_text, read_row};
use crate::frame::{Cursor, Frame, put_frame};

/// What to ask of the server.
#[derive(Clone, Debug, Default)]
pub struct BaseBackupOptions {
    /// Written to `backup_label`.
    pub label: String,
    /// Checkpoint at full speed, and not spread over minutes.
    pub fast_checkpoint: bool,
    /// At most so many KiB a second (32 to 1048576).
    pub max_rate_kb: Option<u32>,
}

impl BaseBackupOptions {
    fn command(&self) -> String {
        let checkpoint = if self.fast_checkpoint { "fast" } else { "spread" };
        let rate = self.max_rate_kb.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
        // The WAL of the backup is received apart, so neither is it included nor its archiving awaited.
        format!(
            "BASE_BACKUP (LABEL {}, PROGRESS true, CHECKPOINT '{checkpoint}', WAL false, WAIT false, \
             MANIFEST 'yes', TABLESPACE_MAP true{rate})",
            quoted_text(&self.label)
        )
    }
}

/// What comes, in this order: `Start`, then for each archive `Archive` and its `Data`, then
/// `Manifest` and its `Data`, then `End`; `Progress` anywhere between `Start` and `End`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseBackupEvent {
    /// Recovery from this backup must start here.
    Start {
        /// The checkpoint's redo position.
        lsn: Lsn,
        /// The timeline that it is on.
        timeline: TimelineId,
    },
    /// A tar archive begins; its bytes come as `Data`.
    Archive {
        /// `base.tar`, or `16385.tar` for the tablespace with that OID.
        name: String,
        /// Where that tablespace lies on the server; `None` for the main data directory.
        location: Option<String>,
    },
    /// The next bytes of the archive or of the manifest.
    Data(Bytes),
    /// The backup manifest (JSON) begins; its bytes come as `Data`.
    Manifest,
    /// So many bytes of archives were sent so far.
    Progress(u64),
    /// The backup is complete; it is consistent once WAL is replayed up to here.
    End {
        /// The end of the WAL that the backup needs.
        lsn: Lsn,
        /// The timeline that it is on.
        timeline: TimelineId,
    },
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the row with the start position.
    Start,
    /// Before the copy stream: the rows of tablespaces.
    Tablespaces,
    Copy,
    /// Before the row with the end position.
    End,
    /// Before the server is ready again.
    Closing,
    Done,
}

/// A base backup under way. Dropping it ends the backup on the server.
#[derive(Debug)]
pub struct BaseBackupStream {
    connection: Connection,
    phase: Phase,
}

impl BaseBackupStream {
    pub(super) async fn start(mut connection: Connection, options: &BaseBackupOptions) -> Result<Self, ClientError> {
        connection.send_query(&options.command()).await?;
        Ok(BaseBackupStream { connection, phase: Phase::Start })
    }

    /// What comes next; `None` behind [`BaseBackupEvent::End`]. May be dropped and called again.
    ///
    /// A checkpoint comes first, so that the first event may take minutes unless it was asked to be fast.
    /// Only an `End` proves that the backup is complete.
    pub async fn next(&mut self) -> Result<Option<BaseBackupEvent>, ClientError> {
        while self.phase != Phase::Done {
            let frame = self.connection.incoming.receive().await?;
            if let Some(event) = self.take(frame)? {
                return Ok(Some(event));
            }
        }
        self.say_goodbye().await;
        Ok(None)
    }

    fn take(&mut self, frame: Frame) -> Result<Option<BaseBackupEvent>, ClientError> {
        match (self.phase, frame.tag) {
            (Phase::Start, b'D') => {
                self.phase = Phase::Tablespaces;
                let (lsn, timeline) = position(&read_row(frame.body)?, "the start of the backup")?;
                Ok(Some(BaseBackupEvent::Start { lsn, timeline }))
            }
            (Phase::Tablespaces, b'H') => {
                self.phase = Phase::Copy;
                Ok(None)
            }
            (Phase::Copy, b'd') => read_copy_data(frame.body).map(Some),
            (Phase::Copy, b'c') => {
                self.phase = Phase::End;
                Ok(None)
            }
            (Phase::End, b'D') => {
                self.phase = Phase::Closing;
                let (lsn, timeline) = position(&read_row(frame.body)?, "the end of the backup")?;
                Ok(Some(BaseBackupEvent::End { lsn, timeline }))
            }
            (Phase::Closing, b'Z') => {
                self.phase = Phase::Done;
                Ok(None)
            }
            (Phase::Tablespaces, b'D') | (_, b'T' | b'C') => Ok(None),
            (_, tag) => Err(unexpected(tag, "taking a base backup")),
        }
    }

    async fn say_goodbye(&mut self) {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'X', |_| ());
        // The backup is complete; whether the server hears the farewell changes nothing.
        let _ = self.connection.send(&out).await;
        let _ = self.connection.writer.shutdown().await;
    }
}

pub(super) fn read_copy_data(body: Bytes) -> Result<BaseBackupEvent, ClientError> {
    let short = || ClientError::protocol("a message of the backup that is too short");
    let mut cursor = Cursor(body);
    match cursor.u8().ok_or_else(short)? {
        b'n' => {
            let name = cursor.cstr().ok_or_else(short)?;
            let location = cursor.cstr().ok_or_else(short)?;
            Ok(BaseBackupEvent::Archive { name, location: Some(location).filter(|path| !path.is_empty()) })
        }
        b'm' => Ok(BaseBackupEvent::Manifest),
        b'd' => Ok(BaseBackupEvent::Data(cursor.rest())),
        b'p' => Ok(BaseBackupEvent::Progress(cursor.u64().ok_or_else(short)?)),
        other => Err(ClientError::protocol(format!("a backup message `{}`", other.escape_ascii()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_that_of_postgresql_15() {
        let options = BaseBackupOptions { label: "it's".into(), fast_checkpoint: true, max_rate_kb: Some(1024) };
        assert_eq!(
            options.command(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, \
             MANIFEST 'yes', TABLESPACE_MAP true, MAX_RATE 1024)"
        );
    }

    #[test]
    fn copy_messages() {
        let read = |body: &'static [u8]| read_copy_data(Bytes::from_static(body));
        let archive = BaseBackupEvent::Archive { name: "base.tar".into(), location: None };
        assert_eq!(read(b"nbase.tar\0\0").unwrap(), archive);
        assert_eq!(read(b"m").unwrap(), BaseBackupEvent::Manifest);
        assert_eq!(read(b"dxyz").unwrap(), BaseBackupEvent::Data(Bytes::from_static(b"xyz")));
        assert_eq!(read(b"p\0\0\0\0\0\0\0\x09").unwrap(), BaseBackupEvent::Progress(9));
        for body in [&b""[..], b"n", b"nbase.tar\0", b"p\0", b"x"] {
            assert!(read(body).is_err(), "{body:?}");
        }
    }
}
