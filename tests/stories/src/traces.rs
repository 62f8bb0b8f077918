//! A collector of OTLP traces that keeps what it is sent.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Where the sites reach a collector on this machine.
pub const COLLECTOR: &str = "10.77.0.1:4318";

/// One span as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedSpan {
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty at the root of a trace.
    pub parent: Vec<u8>,
}

type Kept = Arc<Mutex<Vec<TracedSpan>>>;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Collector {
    spans: Kept,
    server: JoinHandle<()>,
}

impl Collector {
    /// Listens at [`COLLECTOR`]. The lab must be up: the address is on its network.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(COLLECTOR).await.with_context(|| format!("listening on {COLLECTOR}"))?;
        let spans = Kept::default();
        let app = Router::new().route("/v1/traces", post(keep)).with_state(spans.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the collector of traces ended: {error}");
            }
        });
        Ok(Self { spans, server })
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<TracedSpan> {
        self.spans.lock().map(|spans| spans.clone()).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn keep(State(kept): State<Kept>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let spans = scopes.flat_map(|scope| scope.spans).map(|span| TracedSpan {
        name: span.name,
        trace: span.trace_id,
        id: span.span_id,
        parent: span.parent_span_id,
    });
    match kept.lock() {
        Ok(mut kept) => {
            kept.extend(spans);
            StatusCode::OK
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
