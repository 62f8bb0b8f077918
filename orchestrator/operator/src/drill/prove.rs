//! The isolation step: which connections are tried, and what is made of the answers.

use std::time::Duration;

use holdfast_recovery::StepError;
use holdfast_recovery::executor::StepContext;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::executor::DrillExecutor;
use super::isolation::{self, POD_NAME, Report};
use crate::Error;
use crate::execution::remedy::step_error;
use crate::pod::{Component, why_not_running};
use crate::role::POSTGRES_PORT;

const POLL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(120);

/// Something to reach, and what it is.
pub(super) struct Target {
    name: String,
    address: String,
}

/// What is tried from inside the drill.
pub(super) struct Targets {
    forbidden: Vec<Target>,
    controls: Vec<Target>,
}

impl Targets {
    /// Addresses that must not be reached.
    pub(super) fn must_fail(&self) -> Vec<String> {
        self.forbidden.iter().map(|t| t.address.clone()).collect()
    }

    /// Addresses that must be reached.
    pub(super) fn must_pass(&self) -> Vec<String> {
        self.controls.iter().map(|t| t.address.clone()).collect()
    }
}

impl DrillExecutor {
    /// What must not be reached from inside the drill, and what must be. Of production only what the operator itself can
    /// reach now: a target that nobody can reach proves nothing.
    pub(super) async fn targets(&self) -> Result<Targets, StepError> {
        let forbidden = self.reachable(self.forbidden().await?).await;
        if forbidden.is_empty() {
            let message =
                "nothing of production can be reached even from outside the drill, so its isolation cannot be proved";
            return Err(StepError::retry(message).with_hint("look at the StandbyDatabases of the plan"));
        }
        Ok(Targets { forbidden, controls: self.controls().await? })
    }

    /// Proves from a pod inside the drill that production is out of reach.
    pub(super) async fn prove_isolation(&self, context: &StepContext) -> Result<Value, StepError> {
        let targets = self.targets().await?;
        let report = self.probe_pod(context, &targets).await?;
        if report.isolated() {
            let (refused, reached) = (targets.forbidden.len(), targets.controls.len());
            return Ok(json!({
                "summary": format!("{refused} connections refused, {reached} controls reached"),
                "isolated": true, "probes": named(&report, &targets),
            }));
        }
        let wrong = report.attempts.iter().filter(|a| a.reached != a.must_reach).map(|a| {
            let what = if a.reached { "was reached and must not be" } else { "was not reached and must be" };
            format!("{} {what}", a.target)
        });
        let wrong: Vec<String> = wrong.collect();
        let message = format!("the drill is not isolated as it must be: {}", wrong.join(", "));
        let breach = report.attempts.iter().any(|a| a.reached && !a.must_reach);
        if breach {
            let hint = "does this cluster's network enforce NetworkPolicy? Do not drill here until it does";
            return Err(StepError::person(message, hint));
        }
        Err(StepError::retry(message).with_hint("look at the drill's pods and at DNS"))
    }

    /// Production's databases and services, and the Kubernetes API.
    async fn forbidden(&self) -> Result<Vec<Target>, StepError> {
        let mut targets = Vec::new();
        for database in &self.spec.databases {
            let (name, standby) = (&database.name, &database.standby);
            let pod = self.ctx.pod_ip(&self.namespace, standby, Component::Postgres).await.map_err(step_error)?;
            if let Ok(ip) = pod {
                let address = std::net::SocketAddr::new(ip, POSTGRES_PORT).to_string();
                targets.push(Target { name: format!("pod of database {name} in {}", self.namespace), address });
            }
            targets.extend(self.service_target(standby, &format!("Service of database {name}")).await?);
        }
        for service in &self.spec.services {
            if let Some(traffic) = &service.traffic {
                targets.extend(self.service_target(&traffic.service, &format!("service {}", service.name)).await?);
            }
        }
        let env = |name: &str| std::env::var(name).ok();
        if let (Some(host), Some(port)) = (env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")) {
            targets.push(Target { name: "Kubernetes API".to_owned(), address: format!("{host}:{port}") });
        }
        Ok(targets)
    }

    async fn service_target(&self, service: &str, name: &str) -> Result<Option<Target>, StepError> {
        let found = self.read::<Service>(service).await?.and_then(|s| s.spec);
        Ok(found.and_then(|spec| {
            let ip = spec.cluster_ip.filter(|ip| ip != "None" && !ip.is_empty())?;
            let port = spec.ports?.first()?.port;
            Some(Target { name: format!("{name} in {}", self.namespace), address: format!("{ip}:{port}") })
        }))
    }

    /// Those that can be reached from outside the drill now.
    async fn reachable(&self, targets: Vec<Target>) -> Vec<Target> {
        let tried = targets
            .into_iter()
            .map(|target| async move { isolation::reach(&target.address).await.is_ok().then_some(target) });
        futures::future::join_all(tried).await.into_iter().flatten().collect()
    }

    /// The vault, and the drill's own databases.
    async fn controls(&self) -> Result<Vec<Target>, StepError> {
        let vault = self.vault_object()?;
        let (addresses, port) = self.vault_addresses(&vault).await?;
        let mut targets: Vec<Target> = addresses
            .first()
            .into_iter()
            .map(|ip| {
                let address = std::net::SocketAddr::new(*ip, port).to_string();
                Target { name: "vault".to_owned(), address }
            })
            .collect();
        for database in &self.spec.databases {
            let address = format!("{}:{POSTGRES_PORT}", database.standby);
            targets.push(Target { name: format!("database {} of the drill", database.name), address });
        }
        Ok(targets)
    }

    async fn probe_pod(&self, context: &StepContext, targets: &Targets) -> Result<Report, StepError> {
        let pods = self.ctx.api::<Pod>(&self.target);
        let what = || format!("run the isolation probe in {}", self.target);
        // One that an earlier attempt left behind knows old addresses.
        if pods.get_opt(POD_NAME).await.map_err(Error::kube(what())).map_err(step_error)?.is_some() {
            let now = DeleteParams::default().grace_period(0);
            pods.delete(POD_NAME, &now).await.map_err(Error::kube(what())).map_err(step_error)?;
            sleep(POLL).await;
        }
        let pod = isolation::pod(&self.target, &self.ctx.image, &targets.must_fail(), &targets.must_pass());
        pods.create(&PostParams::default(), &pod).await.map_err(Error::kube(what())).map_err(step_error)?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let pod = pods.get(POD_NAME).await.map_err(Error::kube(what())).map_err(step_error)?;
            match isolation::report_of(&pod) {
                Some(Ok(report)) => return Ok(report),
                Some(Err(reason)) => return Err(StepError::retry(format!("the isolation probe: {reason}"))),
                None => context.progress.say(why_not_running(&pod).message),
            }
            if Instant::now() >= deadline {
                let why = why_not_running(&pod).message;
                return Err(StepError::retry(format!(
                    "the isolation probe did not end within {} s: {why}",
                    TIMEOUT.as_secs()
                )));
            }
            sleep(POLL).await;
        }
    }
}

/// The attempts with what each target is, as status shows them.
fn named(report: &Report, targets: &Targets) -> Vec<Value> {
    let name = |address: &str, must_reach: bool| {
        let list = if must_reach { &targets.controls } else { &targets.forbidden };
        list.iter().find(|t| t.address == address).map_or("?", |t| t.name.as_str())
    };
    let attempts = report.attempts.iter();
    attempts.map(|a| json!({
        "name": name(&a.target, a.must_reach), "target": a.target,
        "mustReach": a.must_reach, "reached": a.reached, "outcome": a.outcome, "settledAfterMs": a.settled_after_ms,
    })).collect()
}
