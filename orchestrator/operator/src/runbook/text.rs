//! The text of the page, section by section.

use std::fmt::Write as _;

use holdfast_api::recovery_plan::PlanService;

use super::{Live, Page, by_hand};
use crate::execution::plan_of;

/// The page in Markdown.
pub(super) fn render(page: &Page) -> String {
    let sections = [
        head(page),
        protected(page),
        page.live.as_ref().map(fresh).unwrap_or_default(),
        before(page),
        fail_over(page),
        failures(),
        stop(page),
        rehearse(page),
        by_hand::section(page),
        foot(page),
    ];
    let text: Vec<&str> = sections.iter().map(|s| s.trim_end()).filter(|s| !s.is_empty()).collect();
    text.join("\n\n") + "\n"
}

fn head(page: &Page) -> String {
    let (plan, namespace, hash) = (&page.plan, &page.namespace, &page.hash);
    let mut text = format!("# Runbook: recover {plan}\n\nPlan `{namespace}/{plan}`, hash `{hash}`");
    if let Some(live) = &page.live {
        let _ = write!(text, ", runbook hash `{}`", live.runbook_hash);
    }
    let _ = write!(
        text,
        "\n\nWork from top to bottom, at the standby site. Every command says what it must show; when it shows\n\
         something else, go to \"When a step fails\". Blocks are pasted into bash as they are. Point kubectl at the standby\n\
         site (`export KUBECONFIG=...`), and set once:\n\n{}",
        sh(&format!("kubectl config set-context --current --namespace {namespace}"))
    );
    text
}

fn protected(page: &Page) -> String {
    let mut text =
        "## What is protected\n\n| database | standby | name in the vault |\n| --- | --- | --- |\n".to_owned();
    for database in &page.spec.databases {
        let source = page.source(&database.standby);
        let _ = writeln!(text, "| {} | StandbyDatabase {} | {source} |", database.name, database.standby);
    }
    text.push_str("\n| service | starts after | workloads | way in |\n| --- | --- | --- | --- |\n");
    for service in &page.spec.services {
        let after: Vec<&str> = service.databases.iter().chain(&service.depends_on).map(String::as_str).collect();
        let workloads: Vec<String> =
            service.workloads.iter().map(|w| format!("Deployment {} x{}", w.name, w.replicas)).collect();
        let traffic = service.traffic.as_ref().map_or("-".to_owned(), |t| format!("Service {}", t.service));
        let _ = writeln!(text, "| {} | {} | {} | {traffic} |", service.name, after.join(", "), workloads.join(", "));
    }
    let waves: Vec<String> = plan_of(&page.spec).waves().iter().map(|w| w.join(" and ")).collect();
    let _ = write!(text, "\nOrder: every database first, side by side; then {}.", waves.join(", then "));
    if let Some(objectives) = &page.spec.objectives {
        let seconds = |s: Option<i64>| s.map_or("not set".to_owned(), |s| format!("{s} s"));
        let _ = write!(
            text,
            " Objectives: RPO {}, RTO {}.",
            seconds(objectives.rpo_seconds),
            seconds(objectives.rto_seconds)
        );
    }
    text
}

fn fresh(live: &Live) -> String {
    let at = live.at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let mut text = format!("## How fresh it is ({at})\n\nThe plan: {}\n\n", live.ready);
    text.push_str("| database | state | replayed up to | seconds behind the vault |\n| --- | --- | --- | --- |\n");
    for database in &live.databases {
        let lsn = database.replayed_lsn.as_deref().unwrap_or("unknown");
        let lag = database.lag_seconds.map_or("unknown".to_owned(), |s| format!("{s:.1}"));
        let _ = writeln!(text, "| {} | {} | {lsn} | {lag} |", database.name, database.state);
    }
    match &live.last_drill {
        Some(drill) => {
            let when = drill.finished_at.map_or("?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string());
            let took = drill.serving_after_seconds.map_or("?".to_owned(), |s| format!("{s:.1} s"));
            let outcome = drill.outcome.name();
            let _ = write!(text, "\nLast drill: {} on {when}, {outcome}, services after {took}.", drill.name);
        }
        None => text.push_str("\nThis plan has never been rehearsed."),
    }
    text
}

fn before(page: &Page) -> String {
    let plan = &page.plan;
    format!(
        "## 1. Before\n\n\
         1. Decide that the primary site is given up. From the takeover on, no write is acknowledged there, even if it\n\
         \x20  is alive. Write down who decided, and when.\n\
         2. Look at the plan. Must show `READY True`. `DatabaseNotReady` does not stop a failover: it waits for that\n\
         \x20  database, and nothing is promoted before every database has replayed everything. Any other reason must be\n\
         \x20  mended first.\n\n{}\
         3. Look at the databases. Must show each of them in phase `Following`, with a lag of a few seconds.\n\n{}",
        sh(&format!("kubectl get recoveryplan {plan}")),
        sh("kubectl get standbydatabases"),
    )
}

/// The beginning of the name of an execution: short enough for a time behind it (a Drill's name has at most 40 characters).
fn stem(plan: &str) -> &str {
    let end = plan.char_indices().nth(24).map_or(plan.len(), |(end, _)| end);
    plan[..end].trim_end_matches(['-', '.'])
}

/// Creates an execution under a name with the time in it, which the shell's `variable` keeps: each is an object of its own.
fn create(page: &Page, kind: &str, variable: &str, spec: &str) -> String {
    let (plan, namespace, stem) = (&page.plan, &page.namespace, stem(&page.plan));
    sh(&format!(
        "{variable}={stem}-$(date -u +%Y%m%d-%H%M%S)\n\
         kubectl create -f - <<END\n\
         apiVersion: holdfast.dev/v1alpha1\n\
         kind: {kind}\n\
         metadata: {{name: ${variable}, namespace: {namespace}}}\n\
         spec: {{plan: {{name: {plan}}}, {spec}}}\n\
         END"
    ))
}

fn fail_over(page: &Page) -> String {
    let mut text = format!(
        "## 2. Fail over\n\n\
         1. Ask for it, with a reason of your own for WHY (no patient data). Must show `failover.holdfast.dev/... created`.\n\n{}\
         \x20  In another terminal: `FAILOVER=$(kubectl get failovers --sort-by .metadata.creationTimestamp -o name | tail -n 1 | cut -d/ -f2)`.\n\n\
         2. Watch it, and end the watch with Ctrl-C. Must show `Running`, then `Succeeded`. `Refused`: the message says why,\n\
         \x20  nothing was done.\n\n{}\
         3. The steps, and what each is doing:\n\n{}\
         \x20  Each database: takeover (the old site is fenced), replay, promote-seal (the point of no return), promote,\n\
         \x20  protect (commits are acknowledged from the vault). Each service: start, probe, traffic.\n\n\
         4. See that it works. Must show each Deployment READY with all replicas, and an endpoint for each Service:\n\n",
        create(page, "Failover", "FAILOVER", "type: Failover, reason: \"WHY\""),
        sh("kubectl get failover $FAILOVER -o wide --watch"),
        sh(
            "kubectl get failover $FAILOVER -o jsonpath='{range .status.steps[*]}{.name} {.state} {.durationMs} ms {.message}{\"\\n\"}{end}'"
        ),
    );
    let looks: Vec<String> = page.spec.services.iter().flat_map(look).collect();
    text.push_str(&sh(&looks.join("\n")));
    text.push_str(
        "5. Afterwards: keep the replicas of the started workloads and the selectors of the Services in whatever applies them\n\
         \x20  (GitOps), or the next sync sends them back to 0 and to nowhere. The old primary site must come back as a standby,\n\
         \x20  never as it was.",
    );
    text
}

fn look(service: &PlanService) -> Vec<String> {
    let workloads = service.workloads.iter();
    let mut lines: Vec<String> =
        workloads.map(|w| format!("kubectl get deployment {}   # {}/{}", w.name, w.replicas, w.replicas)).collect();
    if let Some(traffic) = &service.traffic {
        lines.push(format!("kubectl get endpointslices -l kubernetes.io/service-name={}", traffic.service));
    }
    lines
}

fn failures() -> String {
    "## 3. When a step fails\n\n\
     A step that fails is repeated by itself; its message says what is wrong and what to do. Up to `promote-seal` a\n\
     failure that needs a person ends the failover as `Failed`, with nothing promoted: mend it and create another\n\
     Failover as in 2. From `promote-seal` on there is only forward: mend the cause, and it goes on.\n\n\
     | step | look at | usual cause |\n| --- | --- | --- |\n\
     | takeover | `kubectl describe vault` | the bucket cannot be reached, wrong credentials; the standby's PostgreSQL does not answer |\n\
     | replay | `kubectl describe standbydatabase NAME`, logs of pod NAME-0 and of NAME-relay | a damaged object (named in the message): take the database out of the plan, recover it by itself; a volume that is full |\n\
     | promote-seal | the message | lost to the old primary, which took its log back: the takeover is repeated by itself |\n\
     | promote | logs of pod NAME-0 | a slow disk: it goes on by itself |\n\
     | protect | `kubectl logs deployment/NAME-agent` | the bucket cannot be reached: commits wait, nothing is lost |\n\
     | start | `kubectl get deployment` | the workload does not exist: apply it |\n\
     | probe | `kubectl get pods`, `kubectl logs deployment/NAME` | an image that cannot be pulled, a Secret that is missing |\n\
     | traffic | `kubectl get service` | the Service does not exist: apply it |\n\n\
     When the operator itself does not run: `kubectl -n holdfast-system rollout restart deployment` starts it, and the\n\
     failover goes on where it was. When there is no operator at all: section 6.\n\n\
     The journal of every step is in the vault, at the place that `kubectl get failover $FAILOVER -o wide` shows as EVIDENCE."
        .to_owned()
}

fn stop(page: &Page) -> String {
    format!(
        "## 4. Stop before the point of no return\n\n\
         Must show `false`:\n\n{}\
         Only then:\n\n{}\
         Nothing was promoted. The primary site's agents wait as `TakeoverPending`; each takes its log back with this, at the\n\
         primary site, and must show `PROTECTED True` again. Never do this after a promotion.\n\n{}",
        sh("kubectl get failover $FAILOVER -o jsonpath='{.status.pastNoReturn}{\"\\n\"}'"),
        sh("kubectl delete failover $FAILOVER"),
        sh(&format!(
            "kubectl --context PRIMARY -n {} annotate protecteddatabase NAME holdfast.dev/reclaim=true",
            page.namespace
        )),
    )
}

fn rehearse(page: &Page) -> String {
    format!(
        "## 5. Rehearse (any day)\n\n{}\
         Watch it, and end the watch with Ctrl-C. Must show `Succeeded`, `ISOLATED true`, `CLEANED true`. Production does not\n\
         notice. Each rehearsal is an object of its own: `kubectl get drills` lists them.\n\n{}",
        create(page, "Drill", "DRILL", "reason: \"rehearsal\""),
        sh("kubectl get drill $DRILL --watch"),
    )
}

fn foot(page: &Page) -> String {
    format!("---\nPlan `{}/{}`, hash `{}`. End of the runbook.", page.namespace, page.plan, page.hash)
}

/// A block that is pasted as it is: without indentation, or a heredoc in it would never end.
pub(super) fn sh(lines: &str) -> String {
    format!("```sh\n{}\n```\n\n", lines.trim_end())
}
