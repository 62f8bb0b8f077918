//! The three HTTP services.
//!
//! What a client may rely on: 201 comes only after COMMIT was answered without a warning, and a
//! retry of the same `client_id` gives the same record. Every other answer says whether the write
//! may have been done all the same.

mod database;
mod http;
mod registration;
mod store;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use database::{DatabaseConfig, DatabaseError};

use crate::record::Service;

/// How long running requests may take after a shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a service needs to run.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub role: Service,
    pub database: DatabaseConfig,
    /// Where registration answers; needed by billing and lab, ignored by registration.
    pub registration: Option<Url>,
    /// How long a client waits for COMMIT before it is told that the outcome is unknown.
    pub commit_timeout: Duration,
}

/// Why a service could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("{role} needs the address of registration: set REGISTRATION_URL")]
    RegistrationMissing { role: Service },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot prepare the HTTP client for registration: {detail}")]
    HttpClient { detail: String },
    #[error("the HTTP server stopped: {0}")]
    Server(#[from] std::io::Error),
}

/// Serves one role on `address` until `shutdown`.
pub async fn run(config: ServiceConfig, address: SocketAddr, shutdown: CancellationToken) -> Result<(), ServiceError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { address, source })?;
    serve(config, listener, shutdown).await
}

/// Serves one role on `listener` until `shutdown`. A database that is missing, or read-only, or
/// without its schema is waited for: until then the service answers 503.
pub async fn serve(
    config: ServiceConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServiceError> {
    let app = http::App::new(&config)?;
    let prepare = tokio::spawn(app.clone().prepare(shutdown.clone()));
    tracing::info!(role = %config.role, address = ?listener.local_addr().ok(), "serving");
    let stopped = shutdown.clone().cancelled_owned();
    let server = axum::serve(listener, http::router(app)).with_graceful_shutdown(stopped);
    let result = tokio::select! {
        result = server.into_future() => result,
        () = overdue(&shutdown) => Ok(()),
    };
    shutdown.cancel();
    if let Err(error) = prepare.await {
        tracing::warn!(%error, "preparing the schema was interrupted");
    }
    Ok(result?)
}

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}
