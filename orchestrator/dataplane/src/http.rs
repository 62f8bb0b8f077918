//! `/healthz`, `/status` and `/metrics` of a role.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::board::Board;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders metrics from the status of the moment.
pub(crate) trait Metrics<S>: Send + Sync + 'static {
    fn render(&self, status: &S) -> String;
}

/// Why a role cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {reason}; another process may have the port")]
    Bind { address: SocketAddr, reason: String },
    #[error("the listener on {address} failed: {reason}")]
    Serve { address: SocketAddr, reason: String },
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|error| ListenError::Bind { address, reason: error.to_string() })
}

struct Room<S> {
    board: Board<S>,
    metrics: Arc<dyn Metrics<S>>,
}

impl<S> Clone for Room<S> {
    fn clone(&self) -> Self {
        Self { board: self.board.clone(), metrics: Arc::clone(&self.metrics) }
    }
}

/// Serves until `shutdown`.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    board: Board<S>,
    metrics: Arc<dyn Metrics<S>>,
    shutdown: CancellationToken,
) -> Result<(), ListenError>
where
    S: Clone + Serialize + Send + 'static,
{
    let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/status", get(status::<S>))
        .route("/metrics", get(render::<S>))
        .with_state(Room { board, metrics });
    let server = axum::serve(listener, app).into_future();
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        served = server => served.map_err(|error| ListenError::Serve { address, reason: error.to_string() }),
    }
}

async fn status<S: Clone + Serialize + 'static>(State(room): State<Room<S>>) -> impl IntoResponse {
    Json(room.board.read())
}

async fn render<S: Clone + 'static>(State(room): State<Room<S>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], room.metrics.render(&room.board.read()))
}
