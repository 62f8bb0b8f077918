//! The operator's own HTTP: `/healthz` for the kubelet, `/metrics` for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// Serves until `shutdown`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(listen: SocketAddr, ctx: Arc<Context>, shutdown: CancellationToken) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let router =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/metrics", get(metrics)).with_state(ctx);
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

async fn metrics(State(ctx): State<Arc<Context>>) -> Response {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ctx.databases.take(&ctx.stores);
    ctx.verification.take(&ctx.stores);
    match ctx.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, format)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
