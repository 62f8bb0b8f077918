//! Structured logs, and OTLP traces when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Standard variable of OpenTelemetry: where traces go; unset or empty means none are made.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The same for traces alone; it wins over the general one.
const TRACES_ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// Keeps the exporter alive; [`Telemetry::shutdown`] sends what is still buffered.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Flushes the spans that are still buffered. A collector that is away costs a warning, never the exit code.
    pub(crate) fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            eprintln!("holdfast: the last traces were not sent: {error}");
        }
    }
}

/// What a person's command logs: its own output says what the lock probe found, so that is not said twice.
const FOR_A_PERSON: &str = "warn,holdfast_vault::check=off";

/// Installs the process-wide subscriber. Roles log JSON at `info`; a person's command shows warnings as text.
/// `RUST_LOG` overrides the level of both.
///
/// # Errors
/// The OTLP endpoint cannot be used, or a subscriber is installed already.
pub(crate) fn install(role: bool) -> anyhow::Result<Telemetry> {
    let default_level = if role { "info" } else { FOR_A_PERSON };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_level));
    let traces = endpoint_is_set().then(exporter).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("holdfast"))
            .with_filter(EnvFilter::new("off,holdfast=info,holdfast_operator=info,holdfast_recovery=info"))
    });
    tracing_subscriber::registry().with(log_layer(role).with_filter(filter)).with(spans).try_init()?;
    Ok(Telemetry { traces })
}

fn log_layer<S>(role: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    if role && !terminal { layer.json().flatten_event(true).boxed() } else { layer.boxed() }
}

fn endpoint_is_set() -> bool {
    [TRACES_ENDPOINT_VARIABLE, ENDPOINT_VARIABLE]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()))
}

fn exporter() -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()
        .with_context(|| format!("{ENDPOINT_VARIABLE} cannot be used; give an URL such as http://collector:4318"))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("holdfast").build())
        .build())
}
