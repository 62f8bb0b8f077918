//! What can go wrong on a replication connection.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{Cursor, FrameError};

/// Why a replication connection could not be made or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers there.
    #[error("cannot reach PostgreSQL at {host}:{port}: {source}")]
    Unreachable {
        /// As configured.
        host: String,
        /// As configured.
        port: u16,
        /// What the network said.
        source: io::Error,
    },
    /// The server took too long.
    #[error("PostgreSQL did not answer within {after:?} while {doing}")]
    TimedOut {
        /// What was going on.
        doing: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server refuses this user: wrong password, no such role, or no entry in `pg_hba.conf`.
    #[error("PostgreSQL refuses user `{user}`: {message}")]
    AuthenticationFailed {
        /// As configured.
        user: String,
        /// What the server said, or what is missing here.
        message: String,
    },
    /// The role may log in, but not replicate.
    #[error("role `{user}` may not replicate: {message}; run ALTER ROLE \"{user}\" REPLICATION")]
    NoReplicationRole {
        /// As configured.
        user: String,
        /// What the server said.
        message: String,
    },
    /// The server asks for a method of authentication that is not spoken here.
    #[error("PostgreSQL asks for {method} authentication: use scram-sha-256 for this role in pg_hba.conf")]
    UnsupportedAuthentication {
        /// What the server asks for.
        method: String,
    },
    /// The server answered with an error.
    #[error("PostgreSQL says: {0}")]
    Server(ServerError),
    /// The peer does not speak the protocol.
    #[error("not PostgreSQL's replication protocol: {what}")]
    Protocol {
        /// What came, or what did not.
        what: String,
    },
    /// The connection broke.
    #[error("the connection to PostgreSQL broke: {0}")]
    Io(#[from] io::Error),
}

/// An error report of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct ServerError {
    /// ERROR, FATAL or PANIC.
    pub severity: String,
    /// Five characters; see the appendix "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`.
    pub(crate) fn read(body: Bytes) -> ServerError {
        let mut error = ServerError::default();
        let mut cursor = Cursor(body);
        while let Some((field, text)) = next_field(&mut cursor) {
            match field {
                // V is the severity that is never translated.
                b'V' => error.severity = text,
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }

    /// Whether the same request will fail again until a person changes something.
    fn is_permanent(&self) -> bool {
        // Insufficient resources, object not in the state (a slot in use), operator intervention
        // (start-up, shutdown) and system errors pass; but a file that is gone stays gone.
        let passing = ["08", "40", "53", "55", "57", "58", "XX"];
        let class = self.sqlstate.get(..2).unwrap_or_default();
        self.sqlstate == "58P01" || !passing.contains(&class)
    }
}

fn next_field(cursor: &mut Cursor) -> Option<(u8, String)> {
    let field = cursor.u8().filter(|field| *field != 0)?;
    Some((field, cursor.cstr()?))
}

impl ClientError {
    pub(crate) fn protocol(what: impl Into<String>) -> ClientError {
        ClientError::Protocol { what: what.into() }
    }

    pub(crate) fn closed() -> ClientError {
        ClientError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"))
    }

    /// Whether trying again is of no use until a person changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Io(_) => false,
            ClientError::Server(error) => error.is_permanent(),
            ClientError::AuthenticationFailed { .. }
            | ClientError::NoReplicationRole { .. }
            | ClientError::UnsupportedAuthentication { .. }
            | ClientError::Protocol { .. } => true,
        }
    }

    /// The server's SQLSTATE, when it was the server that refused a request.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ClientError::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => ClientError::Io(error),
            FrameError::Length { .. } => ClientError::protocol(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_an_error() {
        let body = b"SERREUR\0VERROR\0C55006\0Mslot is active\0Dby 7\0Hwait\0Fslot.c\0\0";
        let error = ServerError::read(Bytes::from_static(body));
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.sqlstate, "55006");
        assert_eq!(error.to_string(), "slot is active (SQLSTATE 55006)");
        assert_eq!((error.detail.as_deref(), error.hint.as_deref()), (Some("by 7"), Some("wait")));
    }

    #[test]
    fn a_cut_error_is_read_as_far_as_it_goes() {
        let error = ServerError::read(Bytes::from_static(b"C55006\0Mslot is"));
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("55006", ""));
    }

    #[test]
    fn what_passes_and_what_stays() {
        for (sqlstate, permanent) in
            [("55006", false), ("57P03", false), ("53300", false), ("58P01", true), ("42601", true), ("", true)]
        {
            let error = ServerError { sqlstate: sqlstate.into(), ..ServerError::default() };
            assert_eq!(ClientError::Server(error).is_permanent(), permanent, "{sqlstate}");
        }
    }
}
