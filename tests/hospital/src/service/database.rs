//! A bounded pool of PostgreSQL connections that notices the warnings PostgreSQL gives.
//!
//! PostgreSQL answers COMMIT with success and a WARNING when the wait for its synchronous standby
//! was cancelled: the transaction is on one disk only. Such a commit must not be acknowledged, so
//! every connection counts its warnings.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const WAIT_FOR_CONNECTION: Duration = Duration::from_millis(500);

/// Statements are short, so one that takes long is blocked. This does not cover the wait of COMMIT
/// for a synchronous standby (PostgreSQL disarms the timer before it), and must not: cancelling
/// that wait makes PostgreSQL report success.
const SESSION_OPTIONS: &str = "-c statement_timeout=1000 -c idle_in_transaction_session_timeout=5000";

/// Where a service's database is and how to log in.
#[derive(Clone)]
pub struct DatabaseConfig {
    pub host: String,
    pub port: u16,
    pub name: String,
    pub user: String,
    pub password: String,
    /// The most connections used for writing; reading has a few of its own.
    pub connections: usize,
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("name", &self.name)
            .field("user", &self.user)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Why the database did not do what was asked; in every case nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("all {limit} database connections are busy")]
    Busy { limit: usize },
    #[error("the database at {address} did not answer in time")]
    ConnectTimeout { address: String },
    #[error("cannot connect to the database at {address}: {detail}")]
    Connect { address: String, detail: String },
    #[error("the database refused the statement: {detail}")]
    Statement { detail: String },
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseError::Statement { detail: describe(&error) }
    }
}

/// The server's message and SQLSTATE, without its DETAIL, which quotes values of rows.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// At most `limit` connections, opened when needed and kept while they work.
pub(crate) struct Pool {
    config: Config,
    address: String,
    limit: usize,
    slots: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Session>>>,
}

struct Session {
    client: Client,
    warnings: Arc<AtomicU64>,
}

/// A connection in use. Its slot is free again when it is dropped; the connection itself is kept
/// for the next user only by [`Connection::release`].
pub(crate) struct Connection {
    session: Session,
    idle: Arc<Mutex<Vec<Session>>>,
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(database: &DatabaseConfig, limit: usize) -> Self {
        let mut config = Config::new();
        config
            .host(&database.host)
            .port(database.port)
            .dbname(&database.name)
            .user(&database.user)
            .password(&database.password)
            .application_name("hospital")
            .options(SESSION_OPTIONS)
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10));
        Self {
            config,
            address: format!("{}:{}", database.host, database.port),
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            idle: Arc::default(),
        }
    }

    /// A working connection, or an error after at most a second and a half.
    pub(crate) async fn connection(&self) -> Result<Connection, DatabaseError> {
        let slot = match timeout(WAIT_FOR_CONNECTION, self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            _ => return Err(DatabaseError::Busy { limit: self.limit }),
        };
        let session = match self.take_idle() {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Connection { session, idle: self.idle.clone(), _slot: slot })
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(session) = idle.pop() {
            if !session.client.is_closed() {
                return Some(session);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Session, DatabaseError> {
        // The driver's own time-out covers TCP only, not a server that accepts and stays silent.
        let (client, mut connection) = timeout(CONNECT_TIMEOUT, self.config.connect(NoTls))
            .await
            .map_err(|_| DatabaseError::ConnectTimeout { address: self.address.clone() })?
            .map_err(|error| DatabaseError::Connect { address: self.address.clone(), detail: describe(&error) })?;
        let warnings = Arc::new(AtomicU64::new(0));
        let counter = warnings.clone();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.code().code().starts_with("01")
                {
                    // Counted before the answer that follows it is handed on.
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(Session { client, warnings })
    }
}

impl Connection {
    pub(crate) fn client(&self) -> &Client {
        &self.session.client
    }

    /// How many warnings (SQLSTATE class 01) the server has sent on this connection.
    pub(crate) fn warnings(&self) -> u64 {
        self.session.warnings.load(Ordering::SeqCst)
    }

    /// Gives the connection back for reuse. To be called outside a transaction.
    pub(crate) fn release(self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.session);
    }
}
