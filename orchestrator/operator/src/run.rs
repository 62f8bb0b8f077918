//! Starts the controllers and runs them until told to stop.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::controller::{Action, Config, applier, trigger_self};
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, error_span, info, warn};

use crate::apply::{Applicable, describe};
use crate::context::{Context, Stores};
use crate::error::ReconcileError;
use crate::http;

/// The image of the roles when the operator's own pod does not tell.
const DEFAULT_IMAGE: &str = "holdfast:0.1.0";
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// How many objects of a kind are reconciled at the same time.
const CONCURRENCY: u16 = 16;

/// What the operator is told at its start.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Where `/healthz` and `/metrics` are served.
    pub listen: SocketAddr,
    /// The namespace that the operator runs in (`POD_NAMESPACE`).
    pub namespace: String,
    /// Image of agents, relays and restores. Left out: the image of the operator's own pod (`POD_NAME`).
    pub image: Option<String>,
}

/// Why the operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No API server.
    #[error("no Kubernetes API server: {0}. Run inside a pod with a service account, or set KUBECONFIG")]
    Client(#[source] Box<kube::Error>),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Http(#[from] reqwest::Error),
    /// The address for `/healthz` cannot be bound.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// A controller ended by itself.
    #[error("the {0} ended by itself, which is a bug")]
    Ended(&'static str),
}

/// Runs every controller until `shutdown` is cancelled; reconciles under way are then dropped, which is safe
/// at any point: each of them can be repeated.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: OperatorConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(|e| RunError::Client(Box::new(e)))?;
    let image = match config.image {
        Some(image) => image,
        None => own_image(&client, &config.namespace).await,
    };
    info!(namespace = config.namespace, image, "operator starts");
    let (stores, writers) = Stores::new();
    let ctx = Context::new(client, config.namespace, image, stores)?;

    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let listen = config.listen;
    let (http_ctx, http_shutdown) = (ctx.clone(), shutdown.clone());
    tasks.spawn(async move {
        http::serve(listen, http_ctx, http_shutdown).await.map_err(|source| RunError::Listen { listen, source })
    });
    let mut start = Starter { ctx: &ctx, shutdown: &shutdown, tasks: &mut tasks };
    start.controller(&ctx.stores.vaults, writers.vaults, crate::vault::reconcile);
    start.controller(
        &ctx.stores.protected_databases,
        writers.protected_databases,
        crate::protected_database::reconcile,
    );
    start.controller(&ctx.stores.standby_databases, writers.standby_databases, crate::standby_database::reconcile);
    start.controller(&ctx.stores.recovery_plans, writers.recovery_plans, crate::recovery_plan::reconcile);
    start.controller(&ctx.stores.failovers, writers.failovers, crate::failover::reconcile);
    start.controller(&ctx.stores.drills, writers.drills, crate::drill::reconcile);
    let (verifying_ctx, verifying_shutdown) = (ctx.clone(), shutdown.clone());
    tasks.spawn(async move {
        crate::verification::run(verifying_ctx, verifying_shutdown).await;
        Ok(())
    });

    let first = tasks.join_next().await;
    let stopped = shutdown.is_cancelled();
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    match first {
        Some(Ok(Err(error))) => Err(error),
        _ if stopped => Ok(()),
        _ => Err(RunError::Ended("controller, verification or HTTP server")),
    }
}

/// The image that this pod runs, so that whoever overrides it in a kustomization does so once.
async fn own_image(client: &Client, namespace: &str) -> String {
    let Ok(name) = std::env::var("POD_NAME") else {
        return DEFAULT_IMAGE.to_owned();
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match pods.get(&name).await {
        Ok(pod) => pod
            .spec
            .and_then(|spec| spec.containers.into_iter().next())
            .and_then(|container| container.image)
            .unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
        Err(error) => {
            warn!(%error, pod = name, "own pod cannot be read; using {DEFAULT_IMAGE} for the roles");
            DEFAULT_IMAGE.to_owned()
        }
    }
}

struct Starter<'a> {
    ctx: &'a Arc<Context>,
    shutdown: &'a CancellationToken,
    tasks: &'a mut JoinSet<Result<(), RunError>>,
}

impl Starter<'_> {
    fn controller<K, E, F, Fut>(&mut self, reader: &Store<K>, writer: Writer<K>, reconcile: F)
    where
        K: Applicable + Send + Sync + 'static,
        E: ReconcileError,
        F: Fn(Arc<K>, Arc<Context>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Action, E>> + Send + 'static,
    {
        let (ctx, reader) = (self.ctx.clone(), reader.clone());
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            control(ctx, reader, writer, shutdown, reconcile).await;
            Ok(())
        });
    }
}

/// Runs one controller until `shutdown`.
///
/// An object is reconciled when its spec, its annotations or its finalizers change, and whenever its last
/// reconcile asked for it. A change of its status does not count, so a live status causes no storm.
async fn control<K, E, F, Fut>(
    ctx: Arc<Context>,
    reader: Store<K>,
    writer: Writer<K>,
    shutdown: CancellationToken,
    reconcile: F,
) where
    K: Applicable + Send + Sync + 'static,
    E: ReconcileError,
    F: Fn(Arc<K>, Arc<Context>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, E>> + Send + 'static,
{
    let api: Api<K> = Api::all(ctx.client.clone());
    let changed = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
    let objects = watch(api, writer, ctx.clone())
        .predicate_filter(changed, Default::default())
        .take_until(shutdown.clone().cancelled_owned());
    let reconcile = Arc::new(reconcile);
    let backoff = Arc::new(Backoff::default());
    let policy_backoff = backoff.clone();
    applier(
        move |object: Arc<K>, ctx: Arc<Context>| Box::pin(observed(object, ctx, reconcile.clone(), backoff.clone())),
        move |object: Arc<K>, _: &Failure, _| Action::requeue(policy_backoff.next(&describe(object.as_ref()))),
        ctx,
        reader,
        trigger_self(objects.boxed(), ()),
        Config::default().concurrency(CONCURRENCY),
    )
    .take_until(shutdown.cancelled_owned())
    .for_each(|result| async move {
        if let Err(error) = result {
            debug!(%error, kind = %K::kind(&()), "reconcile did not succeed");
        }
    })
    .await;
}

/// Everything that changes, reflected into the store.
fn watch<K>(
    api: Api<K>,
    writer: Writer<K>,
    ctx: Arc<Context>,
) -> impl futures::Stream<Item = Result<K, watcher::Error>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut listed = false;
    watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| {
            match event {
                Ok(watcher::Event::InitDone) if !std::mem::replace(&mut listed, true) => ctx.stores.first_list_is_in(),
                Ok(_) => {}
                // The API server forgot where the watch stood: it only begins anew.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    debug!(kind = %K::kind(&()), "watch expired");
                }
                Err(error) => {
                    let hint = "are the CustomResourceDefinitions and the RBAC of this version installed?";
                    warn!(%error, kind = %K::kind(&()), hint, "watch failed; it is tried again");
                }
            }
        })
        .touched_objects()
}

/// Why a reconcile failed, in the one form that the loop deals with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    reason: String,
    message: String,
}

/// One reconcile, in a task of its own (a panic in it is a failure like others), timed, counted and reported.
async fn observed<K, E, F, Fut>(
    object: Arc<K>,
    ctx: Arc<Context>,
    reconcile: Arc<F>,
    backoff: Arc<Backoff>,
) -> Result<Action, Failure>
where
    K: Applicable + Send + Sync + 'static,
    E: ReconcileError,
    F: Fn(Arc<K>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, E>> + Send + 'static,
{
    let name = describe(object.as_ref());
    let span = error_span!("reconcile", object = name);
    let started = Instant::now();
    // What a reconcile looks up in the stores is not missing only because it was not listed yet.
    ctx.stores.are_ready().await;
    let task = tokio::spawn(reconcile(object.clone(), ctx.clone()).instrument(span));
    let result = match AbortOnDropHandle::new(task).await {
        Ok(Ok(action)) => Ok(action),
        Ok(Err(error)) => Err(Failure { reason: error.reason().to_owned(), message: error.to_string() }),
        Err(error) => Err(Failure {
            reason: "Panicked".to_owned(),
            message: format!("the reconcile of {name} panicked, which is a bug: {error}"),
        }),
    };
    let outcome = result.as_ref().err().map_or("ok", |f| f.reason.as_str());
    ctx.metrics.reconciled(&K::kind(&()), outcome, started.elapsed());
    match &result {
        Ok(_) => backoff.reset(&name),
        Err(failure) => {
            warn!(object = name, reason = failure.reason, error = failure.message, "reconcile failed");
            ctx.warning(object.as_ref(), &failure.reason, "Reconcile", &failure.message).await;
        }
    }
    result
}

/// Exponential backoff for each object, with no memory of those that succeed.
#[derive(Default)]
struct Backoff(Mutex<HashMap<String, u32>>);

impl Backoff {
    fn next(&self, object: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let count = failures.entry(object.to_owned()).or_default();
        let delay = BACKOFF_FIRST.saturating_mul(1 << (*count).min(16));
        *count = count.saturating_add(1);
        delay.min(BACKOFF_LAST)
    }

    fn reset(&self, object: &str) {
        let mut failures = self.0.lock().unwrap_or_else(|e| e.into_inner());
        failures.remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_half_a_minute_and_forgets_after_a_success() {
        let backoff = Backoff::default();
        let delays: Vec<u64> = (0..9).map(|_| backoff.next("a").as_millis() as u64).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.next("b"), BACKOFF_FIRST);
        backoff.reset("a");
        assert_eq!(backoff.next("a"), BACKOFF_FIRST);
    }
}
