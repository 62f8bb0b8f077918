//! What those see who watch a failover, and those who look at it later: metrics, a trace, and the hash of the page that was
//! followed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use holdfast_api::{Failover, RecoveryPlan, RecoveryPlanStatus};
use holdfast_lab::wait;
use holdfast_stories::{Collector, NAMESPACE, OPERATOR, PLAN, Site, Story, part};
use kube::api::Api;

/// What was shown before the failover, and who listens to its trace.
pub(crate) struct Watch {
    collector: Collector,
    plan: RecoveryPlanStatus,
    page: String,
}

impl Watch {
    /// Of a hospital that is open, and whose standby site sends its traces from now on.
    pub(crate) async fn begin(story: &Story) -> anyhow::Result<Self> {
        let collector = Collector::start().await?;
        story.send_traces(Site::Standby).await?;
        let plans = Api::<RecoveryPlan>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
        let plan = plans.get(PLAN).await?.status.context("a plan without status")?;
        let page = story.runbook(PLAN).await?;
        every_role_measures(story).await?;
        Ok(Self { collector, plan, page })
    }

    /// The failover followed the page that was printed, each of its steps was measured, and all of them are one trace.
    pub(crate) async fn saw(&self, story: &Story, failover: Failover) -> anyhow::Result<()> {
        steps_are_measured(story).await?;
        let status = failover.status.context("a failover without status")?;
        for (what, planned, followed) in
            [("plan", &self.plan.hash, &status.plan_hash), ("runbook", &self.plan.runbook_hash, &status.runbook_hash)]
        {
            let planned = planned.as_ref().with_context(|| format!("the plan has no hash of its {what}"))?;
            ensure!(followed.as_ref() == Some(planned), "{what}: {followed:?} is not {planned}");
            ensure!(self.page.contains(planned), "the printed page lacks the {what}'s hash {planned}:\n{}", self.page);
        }
        self.is_one_trace(status.steps.into_iter().map(|step| step.name).collect()).await
    }

    async fn is_one_trace(&self, steps: BTreeSet<String>) -> anyhow::Result<()> {
        ensure!(steps.len() >= 20, "{steps:?}");
        let traced = wait::until("one trace with a span a step", Duration::from_secs(30), || async {
            let spans = self.collector.spans();
            let roots: Vec<_> = spans.iter().filter(|span| span.name == "failover").collect();
            let [root] = roots[..] else {
                return Err(format!("{} spans, {} roots", spans.len(), roots.len()));
            };
            let traced = spans.iter().filter(|span| span.trace == root.trace && span.parent == root.id);
            let traced: BTreeSet<_> = traced.map(|span| span.name.clone()).collect();
            let missing: Vec<_> = steps.difference(&traced).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("without a span in the trace: {missing:?}")) }
        });
        Ok(traced.await?)
    }
}

/// Lag, durable LSN and requests of every role, with values: `name`, or `name{label="value"}`.
async fn every_role_measures(story: &Story) -> anyhow::Result<()> {
    let (agent, relay) = (part("registration-db", "agent"), part("registration-db", "relay"));
    let of = |name: &str| format!("{name}{{namespace=\"{NAMESPACE}\",database=\"registration-db\"}}");
    let system = "holdfast-system";
    let agents = ["durable_lsn", "store_requests", "chunks"].map(|name| format!("holdfast_agent_{name}"));
    let agents_lag = ["lag_bytes", "lag_seconds"].map(|name| format!("holdfast_agent_{name}"));
    let relays =
        ["tip_lsn", "served_lsn", "chunks_read_total", "store_gets_total"].map(|name| format!("holdfast_relay_{name}"));
    let started = r#"holdfast_relay_requests_total{request="START_REPLICATION"}"#.to_owned();
    let relays_lag = ["lag_bytes", "lag_seconds"].map(|name| format!("holdfast_relay_{name}"));
    let asked = |role: &str| format!(r#"holdfast_operator_requests_total{{role="{role}",outcome="ok"}}"#);
    let protected_lag = ["lag_bytes", "lag_seconds"].map(|name| of(&format!("holdfast_protected_{name}")));
    let standby_lag = ["lag_bytes", "lag_seconds"].map(|name| of(&format!("holdfast_standby_{name}")));
    let following = [of("holdfast_standby_replayed_lsn"), asked("relay")];
    // Where, and what must be above 0; of a lag it is enough that it is told.
    for (site, namespace, labels, above_zero, told) in [
        (Site::Primary, NAMESPACE, agent.as_str(), agents.to_vec(), agents_lag),
        (Site::Standby, NAMESPACE, relay.as_str(), [&relays[..], &[started]].concat(), relays_lag),
        (Site::Primary, system, OPERATOR, vec![of("holdfast_protected_durable_lsn"), asked("agent")], protected_lag),
        (Site::Standby, system, OPERATOR, following.to_vec(), standby_lag),
    ] {
        wait::until(&format!("the metrics of {labels} at {site}"), Duration::from_secs(20), || async {
            let text = story.served(site, namespace, labels, "metrics").await.map_err(|error| format!("{error:#}"))?;
            let missing = |(name, least): (&String, f64)| match value(&text, name) {
                Some(value) if value >= least => None,
                found => Some(format!("{name}: {found:?}")),
            };
            let above_zero = above_zero.iter().map(|name| (name, f64::MIN_POSITIVE));
            let missing: Vec<_> = above_zero.chain(told.iter().map(|name| (name, 0.0))).filter_map(missing).collect();
            if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
        })
        .await?;
    }
    Ok(())
}

/// Each kind of step of the failover, three times: of three databases, or of three services.
async fn steps_are_measured(story: &Story) -> anyhow::Result<()> {
    let text = story.served(Site::Standby, "holdfast-system", OPERATOR, "metrics").await?;
    for step in ["takeover", "replay", "promote-seal", "promote", "protect", "start", "probe", "traffic"] {
        let name = format!(r#"holdfast_operator_step_duration_seconds_count{{kind="failover",step="{step}"}}"#);
        ensure!(value(&text, &name) == Some(3.0), "{name}: {:?}", value(&text, &name));
    }
    let name = r#"holdfast_operator_runs_total{kind="failover",outcome="succeeded"}"#;
    ensure!(value(&text, name) == Some(1.0), "{name}: {:?}", value(&text, name));
    Ok(())
}

/// The value of a metric in Prometheus' text format.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()?.parse().ok())
}
