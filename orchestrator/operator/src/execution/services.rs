//! Steps of services: scale up, probe, switch the traffic.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_api::recovery_plan::{HttpProbe, PlanService, Traffic, Workload};
use holdfast_recovery::StepError;
use holdfast_recovery::executor::Progress;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::apply::FIELD_MANAGER;
use crate::pod::why_not_running;
use crate::{Context, Error};

use super::remedy::step_error;

/// How often pods and endpoints are looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a workload may take to be ready when the plan has no probe.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long endpoints may take to follow the selector before the attempt counts as failed.
const ENDPOINTS_TIMEOUT: Duration = Duration::from_secs(30);

/// Scales the workloads of a service up.
///
/// # Errors
/// A workload that does not exist needs a person; everything else is tried again.
pub async fn start(ctx: &Context, namespace: &str, service: &PlanService) -> Result<Value, StepError> {
    for workload in &service.workloads {
        scale(ctx, namespace, workload).await?;
    }
    let names: Vec<String> = service.workloads.iter().map(|w| format!("{} x{}", w.name, w.replicas)).collect();
    Ok(json!({ "summary": format!("scaled {}", names.join(", ")) }))
}

async fn scale(ctx: &Context, namespace: &str, workload: &Workload) -> Result<(), StepError> {
    let name = &workload.name;
    let patch = Patch::Merge(json!({ "spec": { "replicas": workload.replicas } }));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match ctx.api::<Deployment>(namespace).patch_scale(name, &params, &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(StepError::person(
            format!("there is no Deployment {namespace}/{name}"),
            format!("apply it; the step goes on when it exists: kubectl -n {namespace} get deployment {name}"),
        )),
        Err(error) => Err(step_error(Error::kube(format!("scale Deployment {namespace}/{name}"))(error))),
    }
}

/// Waits until every replica of the service answers its probe (or is ready, when the plan has none).
///
/// # Errors
/// When the time of the probe is over; it is tried again.
pub async fn probe(
    ctx: &Context,
    namespace: &str,
    service: &PlanService,
    progress: &Progress,
) -> Result<Value, StepError> {
    let timeout = service
        .probe
        .as_ref()
        .map_or(READY_TIMEOUT, |p| Duration::from_secs(u64::try_from(p.timeout_seconds).unwrap_or(60)));
    let deadline = Instant::now() + timeout;
    loop {
        let waiting = match unready(ctx, namespace, service).await {
            Ok(None) => return Ok(json!({ "summary": "every replica answers" })),
            Ok(Some(waiting)) => waiting,
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            let hint = format!(
                "kubectl -n {namespace} get pods; kubectl -n {namespace} logs deployment/{}",
                service.workloads.first().map_or("?", |w| w.name.as_str())
            );
            let seconds = timeout.as_secs();
            return Err(StepError::retry(format!("not well after {seconds} s: {waiting}")).with_hint(hint));
        }
        progress.say(waiting);
        sleep(POLL).await;
    }
}

/// What the service still waits for, or nothing.
async fn unready(ctx: &Context, namespace: &str, service: &PlanService) -> Result<Option<String>, Error> {
    for workload in &service.workloads {
        let pods = pods_of(ctx, namespace, &workload.name).await?;
        let living: Vec<&Pod> = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
        let wanted = usize::try_from(workload.replicas).unwrap_or(0);
        if living.len() < wanted {
            let have = living.len();
            return Ok(Some(format!("{}: {have} of {wanted} pods exist", workload.name)));
        }
        for pod in living {
            if let Some(waiting) = unready_pod(ctx, pod, service).await {
                return Ok(Some(waiting));
            }
        }
    }
    Ok(None)
}

async fn unready_pod(ctx: &Context, pod: &Pod, service: &PlanService) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()?.parse::<IpAddr>().ok());
    let Some(ip) = ip else {
        return Some(why_not_running(pod).message);
    };
    match &service.probe {
        Some(probe) => answer(ctx, ip, &probe.http).await.err().map(|e| format!("pod {name}: {e}")),
        None => (!is_ready(pod)).then(|| format!("pod {name} is not ready")),
    }
}

async fn answer(ctx: &Context, ip: IpAddr, probe: &HttpProbe) -> Result<(), String> {
    let url = format!("http://{}{}", std::net::SocketAddr::new(ip, probe.port), probe.path);
    let response = ctx.http.get(&url).send().await.map_err(|_| format!("{url} does not answer"))?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("{url} answers {status}")) }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn pods_of(ctx: &Context, namespace: &str, deployment: &str) -> Result<Vec<Pod>, Error> {
    let found = ctx.api::<Deployment>(namespace).get(deployment).await;
    let deployment = found.map_err(Error::kube(format!("read Deployment {namespace}/{deployment}")))?;
    let labels = deployment.spec.and_then(|s| s.selector.match_labels).unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let params = ListParams::default().labels(&selector.join(","));
    let pods = ctx.api::<Pod>(namespace).list(&params).await;
    Ok(pods.map_err(Error::kube(format!("list pods in {namespace}")))?.items)
}

/// Switches a Service to its selector and waits until it leads to a pod that is ready.
///
/// # Errors
/// A Service that does not exist needs a person; everything else is tried again.
pub async fn switch_traffic(
    ctx: &Context,
    namespace: &str,
    traffic: &Traffic,
    progress: &Progress,
) -> Result<Value, StepError> {
    let name = &traffic.service;
    select(ctx, namespace, traffic).await?;
    let deadline = Instant::now() + ENDPOINTS_TIMEOUT;
    loop {
        let ready = ready_endpoints(ctx, namespace, name).await.map_err(step_error)?;
        if ready > 0 {
            return Ok(json!({ "summary": format!("Service {name} leads to {ready} pods") }));
        }
        if Instant::now() >= deadline {
            let hint = format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}");
            let message = format!("Service {namespace}/{name} is switched and leads to no ready pod");
            return Err(StepError::retry(message).with_hint(hint));
        }
        progress.say(format!("Service {name} has no ready endpoint yet"));
        sleep(POLL).await;
    }
}

async fn select(ctx: &Context, namespace: &str, traffic: &Traffic) -> Result<(), StepError> {
    let name = &traffic.service;
    let services = ctx.api::<Service>(namespace);
    let found = services.get_opt(name).await.map_err(Error::kube(format!("read Service {namespace}/{name}")));
    if found.map_err(step_error)?.is_none() {
        return Err(StepError::person(
            format!("there is no Service {namespace}/{name}"),
            format!("apply it; the step goes on when it exists: kubectl -n {namespace} get service {name}"),
        ));
    }
    // The selector is one value to server-side apply: what is not in the plan's selector goes.
    let patch = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": traffic.selector },
    }));
    let params = PatchParams::apply(TRAFFIC_MANAGER).force();
    let patched = services.patch(name, &params, &patch).await;
    patched.map_err(Error::kube(format!("switch Service {namespace}/{name}"))).map_err(step_error)?;
    Ok(())
}

/// The owner of a switched selector.
const TRAFFIC_MANAGER: &str = "holdfast-traffic";

async fn ready_endpoints(ctx: &Context, namespace: &str, service: &str) -> Result<usize, Error> {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = ctx.api::<EndpointSlice>(namespace).list(&params).await;
    let slices = slices.map_err(Error::kube(format!("list the endpoints of Service {namespace}/{service}")))?;
    let endpoints = slices.items.into_iter().flat_map(|s| s.endpoints.into_iter());
    Ok(endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)).count())
}
