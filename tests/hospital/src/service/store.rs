//! The table behind a service.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::database::{Connection, DatabaseConfig, DatabaseError, Pool, describe};
use crate::record::{Listed, Service, Stored};

const READ_CONNECTIONS: usize = 4;

/// Two replicas that start together must not both create the table.
const SCHEMA_LOCK: i64 = 0x686f_7370;

/// Why a write was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("not written: {0}")]
    NotDone(#[from] DatabaseError),
    #[error("the outcome of the commit is unknown: {detail}")]
    Unknown { detail: String },
    #[error("this client_id was used for another patient")]
    OtherContent,
}

/// Access to a service's database. Writes and reads have pools of their own, so that commits which
/// hang do not take the connections by which the service answers everything else.
pub(crate) struct Store {
    role: Service,
    writing: Pool,
    reading: Pool,
    commit_timeout: Duration,
}

impl Store {
    pub(crate) fn new(role: Service, config: &DatabaseConfig, commit_timeout: Duration) -> Self {
        Self {
            role,
            writing: Pool::new(config, config.connections),
            reading: Pool::new(config, READ_CONNECTIONS),
            commit_timeout,
        }
    }

    /// Whether the database accepts writes: it is neither a standby nor set to read-only.
    pub(crate) async fn is_writable(&self) -> Result<bool, DatabaseError> {
        let sql = "SELECT current_setting('transaction_read_only') = 'off'";
        let rows = self.read(sql, &[]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Whether the service's table is there.
    pub(crate) async fn has_schema(&self) -> Result<bool, DatabaseError> {
        let table = self.role.collection();
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let rows = self.read(sql, &[(&table, Type::TEXT)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Creates the service's table if it is missing. A standby is left alone.
    pub(crate) async fn create_schema(&self) -> Result<(), DatabaseError> {
        let connection = self.writing.connection().await?;
        let work = async move {
            let create = schema(self.role);
            let script = format!("BEGIN; SELECT pg_advisory_xact_lock({SCHEMA_LOCK}); {create}; COMMIT");
            connection.client().batch_execute(&script).await?;
            connection.release();
            Ok(())
        };
        // A first commit may wait for a synchronous standby that is not there yet.
        match timeout(Duration::from_secs(5), work).await {
            Ok(result) => result,
            Err(_) => {
                Err(DatabaseError::Statement { detail: "creating the table was not committed in 5 s".to_owned() })
            }
        }
    }

    /// Whether the patient `mrn` is registered.
    pub(crate) async fn knows(&self, mrn: i64) -> Result<bool, DatabaseError> {
        let sql = "SELECT 1 FROM patients WHERE id = $1";
        Ok(!self.read(sql, &[(&mrn, Type::INT8)]).await?.is_empty())
    }

    /// Up to `limit` records with an id above `after`, in the order of their ids.
    pub(crate) async fn list(&self, after: i64, limit: i64) -> Result<Vec<Listed>, DatabaseError> {
        let sql = match self.role {
            Service::Registration => "SELECT id, client_id::text, id FROM patients WHERE id > $1 ORDER BY id LIMIT $2",
            Service::Billing => "SELECT id, client_id::text, mrn FROM invoices WHERE id > $1 ORDER BY id LIMIT $2",
            Service::Lab => "SELECT id, client_id::text, mrn FROM results WHERE id > $1 ORDER BY id LIMIT $2",
        };
        let rows = self.read(sql, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
        rows.iter().map(listed).collect()
    }

    /// Writes a record, or finds the one that an earlier attempt wrote, and returns after COMMIT.
    ///
    /// Once begun, the transaction goes on when the caller has left or the time is up, and keeps
    /// its connection's slot until the database has answered: commits that hang are bounded by the
    /// pool, and are never cancelled (PostgreSQL would report a cancelled wait as success).
    pub(crate) async fn write(&self, client_id: Uuid, mrn: i64) -> Result<Stored, WriteError> {
        let connection = self.writing.connection().await?;
        let work = tokio::spawn(commit(connection, self.role, client_id, mrn));
        match timeout(self.commit_timeout, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(WriteError::Unknown { detail: error.to_string() }),
            Err(_) => {
                Err(WriteError::Unknown { detail: format!("no answer in {} ms", self.commit_timeout.as_millis()) })
            }
        }
    }

    async fn read(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.reading.connection().await?;
        let query = connection.client().query_typed(sql, parameters);
        match timeout(Duration::from_secs(2), query).await {
            Ok(Ok(rows)) => {
                connection.release();
                Ok(rows)
            }
            Ok(Err(error)) => {
                let error = DatabaseError::from(error);
                connection.release();
                Err(error)
            }
            Err(_) => Err(DatabaseError::Statement { detail: "no answer in 2 s".to_owned() }),
        }
    }
}

fn schema(role: Service) -> String {
    let table = role.collection();
    let patient = match role {
        Service::Registration => "",
        Service::Billing | Service::Lab => "mrn bigint NOT NULL,",
    };
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            client_id uuid NOT NULL UNIQUE,
            {patient}
            retries integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT now())"
    )
}

/// Inserts or meets the record of `client_id`.
///
/// A retry updates the row instead of only reading it: a row can be visible and yet not be stored
/// by the synchronous standby (its first commit was cut off by a restart), and only a commit that
/// writes waits until everything before it is stored.
fn insert(role: Service) -> &'static str {
    match role {
        Service::Registration => {
            "INSERT INTO patients (client_id) VALUES ($1::text::uuid)
             ON CONFLICT (client_id) DO UPDATE SET retries = patients.retries + 1
             RETURNING id, id"
        }
        Service::Billing => {
            "INSERT INTO invoices (client_id, mrn) VALUES ($1::text::uuid, $2)
             ON CONFLICT (client_id) DO UPDATE SET retries = invoices.retries + 1
             RETURNING id, mrn"
        }
        Service::Lab => {
            "INSERT INTO results (client_id, mrn) VALUES ($1::text::uuid, $2)
             ON CONFLICT (client_id) DO UPDATE SET retries = results.retries + 1
             RETURNING id, mrn"
        }
    }
}

async fn commit(connection: Connection, role: Service, client_id: Uuid, mrn: i64) -> Result<Stored, WriteError> {
    let (id, stored_mrn) = begin_and_insert(connection.client(), role, client_id, mrn).await?;
    if role != Service::Registration && stored_mrn != mrn {
        // Dropping the connection rolls back.
        return Err(WriteError::OtherContent);
    }
    let warnings = connection.warnings();
    let started = Instant::now();
    connection
        .client()
        .batch_execute("COMMIT")
        .await
        .map_err(|error| WriteError::Unknown { detail: describe(&error) })?;
    let commit_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    if connection.warnings() != warnings {
        return Err(WriteError::Unknown {
            detail: "PostgreSQL warned that the commit may not be replicated".to_owned(),
        });
    }
    connection.release();
    Ok(Stored { id, client_id, mrn: stored_mrn, commit_us })
}

/// Sends BEGIN and the insert together; PostgreSQL works on them in order.
async fn begin_and_insert(
    client: &Client,
    role: Service,
    client_id: Uuid,
    mrn: i64,
) -> Result<(i64, i64), DatabaseError> {
    let id = client_id.to_string();
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&id, Type::TEXT)];
    if role != Service::Registration {
        parameters.push((&mrn, Type::INT8));
    }
    let (begun, rows) = futures::join!(client.batch_execute("BEGIN"), client.query_typed(insert(role), &parameters));
    begun?;
    let rows = rows?;
    let row =
        rows.first().ok_or_else(|| DatabaseError::Statement { detail: "the insert returned no row".to_owned() })?;
    Ok((row.get(0), row.get(1)))
}

fn listed(row: &Row) -> Result<Listed, DatabaseError> {
    let client_id: String = row.get(1);
    let client_id = Uuid::parse_str(&client_id)
        .map_err(|_| DatabaseError::Statement { detail: "client_id is not a UUID".to_owned() })?;
    Ok(Listed { id: row.get(0), client_id, mrn: row.get(2) })
}
