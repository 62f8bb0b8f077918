//! A SQL connection to PostgreSQL: errors that say what to do, and a limit on how long anything may take.

use std::path::Path;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::config::ConnectionConfig;
use crate::problem::code;
use crate::secret;
use crate::status::Problem;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and the role to use on it.
#[derive(Clone)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{}", self.username, self.host, self.port, self.database)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("the database credentials: {reason}")]
    Credentials { reason: String },
    #[error("PostgreSQL at {server} cannot be reached: {reason}")]
    Unreachable { server: String, reason: String },
    #[error("PostgreSQL at {server} is starting up or shutting down: {message}")]
    Starting { server: String, message: String },
    #[error("PostgreSQL at {server} does not accept the password of role {username}")]
    WrongPassword { server: String, username: String },
    #[error("PostgreSQL at {server} refuses role {username}: {message}")]
    AccessRefused { server: String, username: String, message: String },
    #[error("PostgreSQL at {server} has no such database: {message}")]
    NoSuchDatabase { server: String, message: String },
    #[error("role {username} on {server} may not do this: {message}")]
    Denied { server: String, username: String, message: String },
    #[error("PostgreSQL at {server} answered {sqlstate}: {message}")]
    Failed { server: String, sqlstate: String, message: String },
    #[error("PostgreSQL at {server} did not answer within {} s", limit.as_secs())]
    TimedOut { server: String, limit: Duration },
    #[error("PostgreSQL at {server} answered with {what}, which is not understood")]
    Unexpected { server: String, what: String },
}

impl SqlError {
    /// The same, for a person.
    pub fn problem(&self) -> Problem {
        let (code, hint) = match self {
            Self::Credentials { .. } => {
                (code::CREDENTIALS_UNREADABLE, "mount a Secret with the keys username and password")
            }
            Self::Unreachable { .. } | Self::TimedOut { .. } => (
                code::DATABASE_UNREACHABLE,
                "check host and port, that PostgreSQL runs, and that the network lets the agent through",
            ),
            Self::Starting { .. } => (code::DATABASE_STARTING, "wait; it is tried again"),
            Self::WrongPassword { .. } => {
                (code::WRONG_PASSWORD, "correct the password in the Secret, or set it with ALTER ROLE ... PASSWORD")
            }
            Self::AccessRefused { .. } => (
                code::ACCESS_REFUSED,
                "create the role, or add a line to pg_hba.conf that lets it in (database and replication) and reload",
            ),
            Self::NoSuchDatabase { .. } => (code::NO_SUCH_DATABASE, "correct connection.database"),
            Self::Denied { .. } => (code::ACCESS_REFUSED, "grant the role what the message names"),
            Self::Failed { .. } | Self::Unexpected { .. } => {
                (code::DATABASE_UNREACHABLE, "look at PostgreSQL's log; it is tried again")
            }
        };
        Problem::new(code, self.to_string(), hint)
    }
}

/// Reads the mounted Secret.
pub(crate) fn target(config: &ConnectionConfig) -> Result<Target, SqlError> {
    Ok(Target {
        host: config.host.clone(),
        port: config.port,
        database: config.database.clone(),
        username: read_secret(&config.credentials_dir.join("username"))?,
        password: read_secret(&config.credentials_dir.join("password"))?,
    })
}

fn read_secret(path: &Path) -> Result<String, SqlError> {
    secret::read(path).map_err(|reason| SqlError::Credentials { reason })
}

/// An open connection; closed when dropped.
#[derive(Debug)]
pub(crate) struct Sql {
    client: Client,
    server: String,
    username: String,
    connection: AbortHandle,
}

impl Drop for Sql {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Sql {
    pub(crate) async fn connect(target: &Target) -> Result<Self, SqlError> {
        let server = format!("{}:{}", target.host, target.port);
        let mut config = tokio_postgres::Config::new();
        config
            .host(&target.host)
            .port(target.port)
            .user(&target.username)
            .password(&target.password)
            .dbname(&target.database)
            .application_name("holdfast")
            .connect_timeout(CONNECT_TIMEOUT);
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls));
        let (client, connection) = opened
            .await
            .map_err(|_| SqlError::TimedOut { server: server.clone(), limit: CONNECT_TIMEOUT })?
            .map_err(|error| classify(&server, &target.username, &error))?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        });
        Ok(Self { client, server, username: target.username.clone(), connection: connection.abort_handle() })
    }

    /// One row.
    pub(crate) async fn row(&self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row, SqlError> {
        self.limited(STATEMENT_TIMEOUT, self.client.query_one(statement, values)).await
    }

    pub(crate) async fn rows(&self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, SqlError> {
        self.limited(STATEMENT_TIMEOUT, self.client.query(statement, values)).await
    }

    /// One row, of a function that is known to take long.
    pub(crate) async fn slow_row(&self, statement: &str, limit: Duration) -> Result<Row, SqlError> {
        self.limited(limit, self.client.query_one(statement, &[])).await
    }

    /// A statement that cannot be prepared or takes no values (ALTER SYSTEM). The text must not hold foreign input.
    pub(crate) async fn command(&self, statement: &str) -> Result<(), SqlError> {
        self.limited(STATEMENT_TIMEOUT, self.client.batch_execute(statement)).await
    }

    /// What a column holds, or an error that names it.
    pub(crate) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r Row,
        name: &str,
    ) -> Result<T, SqlError> {
        row.try_get(name).map_err(|error| SqlError::Unexpected {
            server: self.server.clone(),
            what: format!("column {name}: {error}"),
        })
    }

    pub(crate) fn unexpected(&self, what: impl Into<String>) -> SqlError {
        SqlError::Unexpected { server: self.server.clone(), what: what.into() }
    }

    async fn limited<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SqlError> {
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| SqlError::TimedOut { server: self.server.clone(), limit })?
            .map_err(|error| classify(&self.server, &self.username, &error))
    }
}

fn classify(server: &str, username: &str, error: &tokio_postgres::Error) -> SqlError {
    let server = server.to_owned();
    let username = username.to_owned();
    let Some(database) = error.as_db_error() else {
        return SqlError::Unreachable { server, reason: with_source(error) };
    };
    let message = database.message().to_owned();
    match database.code() {
        c if *c == SqlState::INVALID_PASSWORD => SqlError::WrongPassword { server, username },
        c if *c == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            SqlError::AccessRefused { server, username, message }
        }
        c if *c == SqlState::INVALID_CATALOG_NAME => SqlError::NoSuchDatabase { server, message },
        c if *c == SqlState::INSUFFICIENT_PRIVILEGE => SqlError::Denied { server, username, message },
        c if *c == SqlState::CANNOT_CONNECT_NOW || *c == SqlState::ADMIN_SHUTDOWN || *c == SqlState::CRASH_SHUTDOWN => {
            SqlError::Starting { server, message }
        }
        c => SqlError::Failed { server, sqlstate: c.code().to_owned(), message },
    }
}

/// tokio-postgres says "error connecting to server" and leaves the reason to the source.
fn with_source(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
