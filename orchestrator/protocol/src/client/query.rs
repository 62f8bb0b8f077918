//! Commands that answer with rows.

use bytes::{Bytes, BytesMut};
use holdfast_wal::{Lsn, SystemId, TimelineId};

use super::connect::{Connection, unexpected, within};
use super::error::ClientError;
use crate::config::IdentifySystem;
use crate::frame::{Cursor, put_cstr, put_frame};

/// No command of replication answers with more.
const MOST_ROWS: usize = 10_000;

/// One row: a value a column, `None` for NULL.
pub(super) type Row = Vec<Option<Bytes>>;

impl Connection {
    pub(super) async fn send_query(&mut self, command: &str) -> Result<(), ClientError> {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'Q', |out| put_cstr(out, command));
        self.send(&out).await
    }

    /// Sends a command and collects all rows of its answer, whatever result set they are in.
    ///
    /// After an error the connection is ready for the next command.
    pub(super) async fn query(&mut self, command: &str) -> Result<Vec<Row>, ClientError> {
        within(self.limit(), "waiting for an answer", self.query_rows(command)).await
    }

    async fn query_rows(&mut self, command: &str) -> Result<Vec<Row>, ClientError> {
        self.send_query(command).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.incoming.receive().await {
                Ok(frame) => match frame.tag {
                    b'Z' => return failed.map_or(Ok(rows), Err),
                    b'D' if rows.len() < MOST_ROWS => rows.push(read_row(frame.body)?),
                    b'T' | b'C' | b'I' => {}
                    tag => return Err(unexpected(tag, "waiting for rows")),
                },
                Err(ClientError::Server(error)) if error.severity == "ERROR" => {
                    failed = Some(ClientError::Server(error));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

pub(super) fn read_row(body: Bytes) -> Result<Row, ClientError> {
    let short = || ClientError::protocol("a data row that is too short");
    let mut cursor = Cursor(body);
    let columns = cursor.u16().ok_or_else(short)?;
    let mut row = Vec::new();
    for _ in 0..columns {
        let length = cursor.i32().ok_or_else(short)?;
        // A negative length is NULL.
        row.push(match usize::try_from(length) {
            Ok(length) => Some(cursor.bytes(length).ok_or_else(short)?),
            Err(_) => None,
        });
    }
    Ok(row)
}

/// The text in a column.
pub(super) fn text<'a>(row: &'a Row, column: usize, what: &str) -> Result<&'a str, ClientError> {
    let value = row.get(column).and_then(Option::as_deref);
    value
        .and_then(|value| std::str::from_utf8(value).ok())
        .ok_or_else(|| ClientError::protocol(format!("{what} is missing in the answer")))
}

/// The text in a column, parsed.
pub(super) fn parsed<T: std::str::FromStr>(row: &Row, column: usize, what: &str) -> Result<T, ClientError> {
    let text = text(row, column, what)?;
    text.parse().map_err(|_| ClientError::protocol(format!("{what} in the answer is `{text}`")))
}

/// A position and a timeline in the first two columns.
pub(super) fn position(row: &Row, what: &str) -> Result<(Lsn, TimelineId), ClientError> {
    Ok((parsed(row, 0, what)?, TimelineId(parsed(row, 1, what)?)))
}

pub(super) fn identify_system(row: &Row) -> Result<IdentifySystem, ClientError> {
    Ok(IdentifySystem {
        system_id: parsed::<SystemId>(row, 0, "the system identifier")?,
        timeline: TimelineId(parsed(row, 1, "the timeline")?),
        flush_lsn: parsed(row, 2, "the flush position")?,
    })
}

/// Quotes a name for the grammar of replication commands.
pub(super) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for the grammar of replication commands.
pub(super) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_lying_lengths_are_refused() {
        for body in [&b"\0"[..], b"\0\x01", b"\0\x01\0\0\0\x02a", b"\0\x01\x7f\xff\xff\xff", b"\xff\xff"] {
            assert!(read_row(Bytes::from_static(body)).is_err(), "{body:?}");
        }
        let row = read_row(Bytes::from_static(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff")).unwrap();
        assert_eq!(row, [Some(Bytes::from_static(b"a")), None]);
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted_name("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted_text("a'b"), "'a''b'");
    }
}
